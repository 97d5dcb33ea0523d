"""The command: conversion between formats, --inspect, --backbone-only, and its errors."""

from __future__ import annotations

import json
import os
import pickle
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml

from resnext_det.config import load_config
from resnext_det.detection.portable.build import build_detector
from resnext_det.resnext import ResNeXt
from resnext_det.weights import KNOWN, check_preprocessing, load_weights, read_weights
from resnext_det.weights.structure import extract_detector_backbone
from resnext_det.weights.writing import SUFFIXES, write_weights
from tests.tools.helpers import finish, fork_tool, read_error, run_tool
from tests.weights.helpers import (
    HEADS,
    NOTES,
    SMALL,
    THIN,
    TORCHVISION,
    classifier,
    drop_counters,
    fill_randomly,
    make_path,
    same_bits,
    torchvision_network,
)
from tests.weights.hostile import Call
from tests.weights.test_conversion import run_of_ours

run = partial(run_tool, "convert_weights")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A file of torchvision."""
    torch.save(fill_randomly(torchvision_network()).state_dict(), tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


@pytest.mark.parametrize("format", SUFFIXES)
def test_there_and_back(
    format: str, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    between, back = make_path(format, tmp_path / "new"), tmp_path / "back.pth"
    assert run(theirs, between, "--format", format) == 0
    assert capsys.readouterr().out == f"{between}: X-26-2x4d from {theirs}\n"
    assert run(between, back, "--format", "torchvision") == 0
    assert same_bits(torch.load(back, weights_only=True), torch.load(theirs, weights_only=True))


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.pkl", "detectron2"), ("a.safetensors", "native"), ("a.pth", "native"), ("a.pt", "native")],
)
def test_the_suffix_says_the_format(name: str, format: str, theirs: Path, tmp_path: Path) -> None:
    assert run(theirs, tmp_path / name) == 0
    file = read_weights(tmp_path / name)
    assert (file.format, file.preprocessing, file.architecture) == (format, TORCHVISION, THIN)


def test_the_command_inspects(theirs: Path) -> None:
    output, errors = finish(fork_tool("convert_weights", "--inspect", theirs))
    assert errors == ""
    parameters = sum(parameter.numel() for parameter in torchvision_network().parameters())
    without_head = parameters - 7 * 2049
    first, architecture, counts, license, *lines = output.splitlines()
    assert first == f"# {theirs}: torchvision, {theirs.stat().st_size / 1e6:.1f} MB"
    billions = THIN.multiply_adds(num_classes=7) / 1e9
    assert architecture == f"# architecture: X-26-2x4d, {billions:.2f} G multiply-adds at 224x224"
    assert (
        counts
        == f"# parameters: {parameters:,}, {without_head:,} of them the backbone's; 7 classes"
    )
    assert license.startswith("# license: the file does not say")
    assert yaml.safe_load("\n".join(lines)) == {
        "INPUT": {"FORMAT": "RGB"},
        "MODEL": {
            "PIXEL_MEAN": [123.675, 116.28, 103.53],
            "PIXEL_STD": [58.395, 57.12, 57.375],
            "RESNETS": {
                **{"DEPTH": 26, "NUM_GROUPS": 2, "WIDTH_PER_GROUP": 4},
                **{"STEM_OUT_CHANNELS": 64, "RES2_OUT_CHANNELS": 256, "STRIDE_IN_1X1": False},
            },
        },
    }


@pytest.mark.parametrize("kind", KNOWN)
def test_what_inspect_prints_is_a_configuration_that_fits(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = fill_randomly(ResNeXt(SMALL, out_features=("res5",)))
    if KNOWN[kind].batch_norm == "folded":
        for name, tensor in model.state_dict().items():
            if "running" in name:
                tensor.fill_(float("var" in name))
    write_weights(model, tmp_path / "weights.pkl", preprocessing=KNOWN[kind])
    assert run("--inspect", tmp_path / "weights.pkl") == 0
    (tmp_path / "fits.yaml").write_text(capsys.readouterr().out)
    changes = ["MODEL.WEIGHTS", str(tmp_path / "weights.pkl"), "MODEL.ROI_HEADS.NUM_CLASSES", 3]
    cfg = load_config(tmp_path / "fits.yaml", changes)
    check_preprocessing(cfg, read_weights(cfg.MODEL.WEIGHTS))
    assert not load_weights(build_detector(cfg).backbone, cfg.MODEL.WEIGHTS).missing


def test_published_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """torchvision's page of resnext50_32x4d: 25028904 parameters, 4.23 G multiply-adds, 95.8 MB."""
    torch.save(torchvision.models.resnext50_32x4d().state_dict(), tmp_path / "weights.pth")
    assert run("--inspect", tmp_path / "weights.pth", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["architecture"], found["classes"]) == ("X-50-32x4d", 1000)
    assert found["parameters"] == 25_028_904
    assert found["multiply_adds"] / 1e9 == pytest.approx(4.23, abs=0.005)
    assert found["bytes"] / 2**20 == pytest.approx(95.8, abs=0.2)
    assert found["preprocessing"] == TORCHVISION.as_dict()


@pytest.mark.parametrize("fault", ["NaN or infinite numbers", "basic blocks"])
def test_what_cannot_be_used_is_not_written(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    basic = fault == "basic blocks"
    network = torchvision.models.resnet18() if basic else torchvision_network()
    state = network.state_dict()
    if not basic:
        state["layer2.0.conv2.weight"][0, 0] = torch.inf
    torch.save(state, tmp_path / "weights.pth")
    assert run(tmp_path / "weights.pth", tmp_path / "new.pth") == 1
    assert fault in read_error(capsys) and not (tmp_path / "new.pth").exists()


def test_what_is_not_known_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ResNeXt(SMALL, out_features=("res5",)).state_dict()
    del state["res4.1.conv2.weight"]
    torch.save(state, tmp_path / "weights.pth")
    assert run("--inspect", tmp_path / "weights.pth") == 1
    text, error = capsys.readouterr()
    assert error.startswith("error: ") and "no network is recognized" in error
    assert "# architecture: not recognized, the weights lack res4.1.conv2.weight\n" in text
    assert "# license: not known\n" in text
    assert "# preprocessing: not known; ask whoever trained it\n" in text
    assert yaml.safe_load(text) is None


def test_what_a_file_says_of_itself_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = {**NOTES, "comment": "two\nlines: # of it\x1b[2J"}
    write_weights(
        classifier(), tmp_path / "weights.pth", "native", preprocessing=TORCHVISION, metadata=notes
    )
    assert run("--inspect", tmp_path / "weights.pth") == 0
    text = capsys.readouterr().out
    assert "# author: A. Nother\n" in text and "# license: CC BY-SA 3.0\n" in text
    assert "# comment: two lines: # of it [2J\n" in text
    assert yaml.safe_load(text)["INPUT"] == {"FORMAT": "RGB"}


def test_a_statement_against_what_a_file_says_itself_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_weights(classifier(), tmp_path / "weights.pth", "native", preprocessing=TORCHVISION)
    arguments = (tmp_path / "weights.pth", tmp_path / "out.pkl", "--preprocessing")
    assert run(*arguments, "msra") == 1
    assert "as it says itself, and --preprocessing msra contradicts that" in capsys.readouterr().err
    assert not (tmp_path / "out.pkl").exists()
    assert run(*arguments, "torchvision") == 0


def test_channel_order_and_std_are_converted(theirs: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights.pkl"
    assert run(theirs, out, "--channel-order", "BGR", "--pixel-std", "1", "1", "1") == 0
    file, before = read_weights(out), read_weights(theirs)
    assert file.preprocessing == replace(KNOWN["msra"], stride_in_1x1=False)
    pixels = torch.rand(1, 3, 64, 64) * 255
    rgb = torchvision.transforms.functional.normalize(pixels, TORCHVISION.mean, TORCHVISION.std)
    bgr = torchvision.transforms.functional.normalize(
        pixels.flip(1), TORCHVISION.mean[::-1], [1.0, 1.0, 1.0]
    )
    features = []
    for state, images in ((before.state, rgb), (file.state, bgr)):
        model = ResNeXt(THIN, out_features=("res5",)).eval()
        model.load_state_dict({n: t for n, t in drop_counters(state).items() if "linear" not in n})
        with torch.no_grad():
            features.append(model(images)["res5"])
    assert torch.allclose(
        features[1], features[0], rtol=1e-3, atol=1e-4 * float(features[0].abs().max())
    )
    assert (
        run(out, tmp_path / "back.pkl", "--channel-order", "RGB", "--pixel-std", *TORCHVISION.std)
        == 0
    )
    again = read_weights(tmp_path / "back.pkl")
    assert again.preprocessing == TORCHVISION
    assert torch.allclose(
        again.state["stem.conv1.weight"], before.state["stem.conv1.weight"], rtol=1e-6
    )


def test_a_swap_alone_is_exact(theirs: Path, tmp_path: Path) -> None:
    assert run(theirs, tmp_path / "bgr.pkl", "--channel-order", "BGR") == 0
    assert read_weights(tmp_path / "bgr.pkl").preprocessing == KNOWN["fair"]
    assert run(tmp_path / "bgr.pkl", tmp_path / "back.pth", "--format", "torchvision") == 0
    assert same_bits(
        torch.load(tmp_path / "back.pth", weights_only=True), torch.load(theirs, weights_only=True)
    )


def test_heads_that_are_no_part_of_it_are_left_out_aloud(
    theirs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """mmdetection's detectors have the backbone's names before heads of their own."""
    state = {
        f"backbone.{n}": t
        for n, t in torch.load(theirs, weights_only=True).items()
        if "fc" not in n
    }
    heads = {
        "rpn_head.rpn_conv.weight": torch.zeros(2),
        "neck.lateral_convs.0.conv.weight": torch.zeros(2),
    }
    torch.save({"state_dict": {**state, **heads}, "meta": {}}, tmp_path / "detector.pth")
    assert run("--inspect", tmp_path / "detector.pth") == 0
    text = capsys.readouterr().out
    assert f"# no part of a ResNeXt: 2 names ({', '.join(heads)})\n" in text
    assert "# prefix of its names: backbone.\n" in text
    assert (
        run(tmp_path / "detector.pth", tmp_path / "out.pkl", "--preprocessing", "mmpretrain") == 0
    )
    assert "2 of the names in" in caplog.text and "'rpn_head.rpn_conv.weight'" in caplog.text
    caplog.clear()
    arguments = ("--preprocessing", "mmpretrain", "--backbone-only")
    assert run(tmp_path / "detector.pth", tmp_path / "backbone.pkl", *arguments) == 0
    assert caplog.text == ""


def test_an_unlabelled_file_is_labelled(tmp_path: Path) -> None:
    """detectron2's own .pkl says nothing of its preprocessing, and names no known publisher."""
    state = drop_counters(classifier().state_dict())
    arrays = {name: tensor.contiguous().numpy() for name, tensor in state.items()}
    with (tmp_path / "own.pkl").open("wb") as file:
        pickle.dump({"model": arrays, "__author__": "somebody", "matching_heuristics": True}, file)
    assert read_weights(tmp_path / "own.pkl").preprocessing is None
    assert run(tmp_path / "own.pkl", tmp_path / "torchvision.pth", "--format", "torchvision") == 1
    assert run(tmp_path / "own.pkl", tmp_path / "labeled.pkl", "--preprocessing", "fair") == 0
    labeled = read_weights(tmp_path / "labeled.pkl")
    assert labeled.preprocessing == KNOWN["fair"]
    assert labeled.metadata["author"] == "somebody"
    assert same_bits(labeled.state, state)


@pytest.mark.parametrize("head", HEADS)
def test_a_backbone_is_taken_out_of_a_detector(
    head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, preprocessing = run_of_ours(tmp_path, head)
    checkpoint, out = tmp_path / "model_final.pth", tmp_path / "backbone.pkl"
    assert run(checkpoint, out, "--backbone-only") == 0
    assert capsys.readouterr().out == f"{out}: X-26-4x8d from {checkpoint}\n"
    file = read_weights(out)
    assert (file.preprocessing, file.architecture) == (preprocessing, SMALL)
    assert same_bits(file.state, extract_detector_backbone(state))
    assert run("--inspect", checkpoint, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["preprocessing"]) == ("detector", preprocessing.as_dict())
    assert found["backbone_parameters"] == SMALL.num_parameters(None) < found["parameters"]


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        (None, 0, "WARNING: .*preprocessing.* not known"),
        ("INPUT: {FORMAT", 1, "error: .*config.yaml is damaged"),
    ],
)
def test_a_detector_without_its_configuration(
    text: str | None, status: int, reason: str, tmp_path: Path
) -> None:
    run_of_ours(tmp_path, "C4")
    (tmp_path / "config.yaml").unlink()
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    flags = ("model_final.pth", "backbone.pkl", "--backbone-only")
    _, errors = finish(fork_tool("convert_weights", *flags, cwd=tmp_path), status)
    assert re.match(reason, errors) and len(errors.splitlines()) == 1


def test_a_classifier_without_its_head(theirs: Path, tmp_path: Path) -> None:
    assert run(theirs, tmp_path / "backbone.pkl", "--backbone-only") == 0
    found, before = (
        read_weights(tmp_path / "backbone.pkl").state,
        drop_counters(read_weights(theirs).state),
    )
    assert set(before) - set(found) == {"linear.weight", "linear.bias"}
    assert same_bits(found, {name: before[name] for name in found})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none.pth out.pkl", "none.pth is not there"),
        ("theirs.pth theirs.pth", "theirs.pth exists; choose another name"),
        (
            "theirs.pth out.xyz",
            "out.xyz has no suffix of a known format; end it in one of .pkl, .pt",
        ),
        ("theirs.pth out.pth --format detectron2", "out.pth does not end in .pkl"),
        ("damaged.pth out.pkl", "damaged.pth is of no known format"),
        ("run.pkl out.pth", "weights run.pkl: there is a call of posix.system"),
        ("numbers.pkl out.pth", "weights numbers.pkl: .* are of no known format"),
        ("bare.pth out.pkl --channel-order RGB", "the preprocessing of bare.pth is not known"),
        (
            "bare.pth out.pth --format torchvision",
            "the preprocessing of these weights is not known",
        ),
        (
            "bare.pth out.pth --format torchvision --preprocessing msra",
            "these weights have their stride in the 1x1",
        ),
        ("theirs.pth out.pkl --pixel-std 0 1 1", "std is .*and pixels are divided by it"),
        ("theirs.pth folder.pth --force", "folder.pth is a folder"),
        ("theirs.pth bare.pth/out.pkl", ".*a part of it is a file"),
    ],
)
def test_an_error_is_one_line(
    arguments: str,
    message: str,
    theirs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.pth").mkdir()
    Path("damaged.pth").write_bytes(bytes(range(1, 200)))
    Path("run.pkl").write_bytes(pickle.dumps(Call(os.system, "exit 1")))
    Path("numbers.pkl").write_bytes(pickle.dumps({"a": np.zeros(3)}))
    torch.save(ResNeXt(THIN, out_features=("res5",)).state_dict(), "bare.pth")
    before = sorted(tmp_path.iterdir())
    content = theirs.read_bytes()
    assert run(*arguments.split()) == 1
    assert re.match(message, read_error(capsys))
    assert sorted(tmp_path.iterdir()) == before and theirs.read_bytes() == content


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "a.pth",
        "a.pth b.pth --inspect",
        "a.pth b.pth --json",
        "a.pth b.pth --format torchvision --channel-order BGR",
        "a.pth --inspect --force",
        "a.pth --inspect --format native",
    ],
)
def test_the_command_line_is_checked(arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments.split())
    assert caught.value.code == 2


def test_force_replaces(theirs: Path, tmp_path: Path) -> None:
    before = drop_counters(read_weights(theirs).state)
    assert run(theirs, theirs, "--force") == 0
    file = read_weights(theirs)
    assert file.format == "native" and same_bits(file.state, before)
