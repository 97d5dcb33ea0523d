"""Written weights keep every bit in every format, and are read by the formats' own programs."""

from __future__ import annotations

import os
import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnext_det.architecture import Architecture
from resnext_det.detection.portable.build import build_detector
from resnext_det.weights import load_weights
from resnext_det.weights.file import WeightFile, read_weights
from resnext_det.weights.writing import SUFFIXES, write_weights
from tests.weights.helpers import (
    HEADS,
    NOTES,
    THIN,
    TORCHVISION,
    classifier,
    configuration,
    drop_counters,
    fill_randomly,
    make_path,
    same_bits,
    torchvision_network,
)


@pytest.mark.parametrize("second", SUFFIXES)
@pytest.mark.parametrize("first", SUFFIXES)
def test_a_round_trip_keeps_every_bit(first: str, second: str, tmp_path: Path) -> None:
    model = classifier()
    with torch.no_grad():
        model.state_dict()["res3.1.conv2.weight"][0, 0, 0] = torch.tensor(
            [-0.0, float("nan"), 1e-42]
        )
    one, other = make_path(first, tmp_path, "one"), make_path(second, tmp_path, "other")
    write_weights(model, one, first, preprocessing=TORCHVISION, metadata=NOTES)
    write_weights(read_weights(one), other, second)
    file = read_weights(other)
    assert same_bits(drop_counters(file.state), drop_counters(model.state_dict()))
    assert file.architecture == THIN
    assert file.preprocessing == TORCHVISION
    if "torchvision" not in (first, second):
        assert NOTES.items() <= file.metadata.items()


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_file_from_torchvision_comes_back_to_it(format: str, tmp_path: Path) -> None:
    state = fill_randomly(torchvision_network()).state_dict()
    torch.save(state, tmp_path / "theirs.pth")
    between, back = make_path(format, tmp_path), tmp_path / "back.pth"
    write_weights(read_weights(tmp_path / "theirs.pth"), between, format)
    write_weights(read_weights(between), back, "torchvision")
    written = torch.load(back, weights_only=True)
    assert same_bits(written, state)  # counters too: they are 0
    network = torchvision_network()
    network.load_state_dict(written)  # strict


@pytest.mark.parametrize(
    ("name", "format", "source", "reason"),
    [
        (
            "weights.pth",
            "caffe2",
            {"a": torch.zeros(1)},
            "format 'caffe2' is not known; choose one of detectron2",
        ),
        (
            "weights.pth",
            "detectron2",
            {"a": torch.zeros(1)},
            "does not end in .pkl, by which other programs",
        ),
        ("weights.pkl", "native", {"a": torch.zeros(1)}, "does not end in .pth or .pt"),
        ("weights.bin", "safetensors", {"a": torch.zeros(1)}, "does not end in .safetensors"),
        ("folder.pth", "native", {"a": torch.zeros(1)}, "is a folder"),
        ("weights.pth", "native", {}, "no weights to write"),
        ("weights.pth", "native", {"a": 1}, "'a' is int, not a tensor"),
        (
            "weights.safetensors",
            "safetensors",
            {"a": torch.zeros(1, dtype=torch.complex64)},
            "a is of torch.complex64",
        ),
        ("weights.safetensors", "safetensors", {"__metadata__": torch.zeros(1)}, "keeps for texts"),
    ],
)
def test_user_errors(name: str, format: str, source: Any, reason: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ValueError, match=reason):
        write_weights(source, tmp_path / name, format)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.pth"]


def test_another_architecture_than_was_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"are of X-26-2x4d, not of R-50"):
        write_weights(classifier(), tmp_path / "weights.pkl", architecture=Architecture(50))
    write_weights(classifier(), tmp_path / "weights.pkl", architecture=THIN)


def test_what_is_not_known_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_weights(classifier(), tmp_path / "weights.pkl")
    assert "will not say which preprocessing its weights need" in caplog.text
    assert read_weights(tmp_path / "weights.pkl").metadata["author"].startswith("not known")


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_disk_that_fails_leaves_what_was_there(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_path(format, tmp_path)
    path.write_bytes(b"before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_weights(classifier(), path, format, preprocessing=TORCHVISION)
    assert [(left.name, left.read_bytes()) for left in tmp_path.iterdir()] == [
        (path.name, b"before")
    ]
    monkeypatch.undo()
    write_weights(classifier(), path, format, preprocessing=TORCHVISION)
    assert [left.name for left in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("format", SUFFIXES)
def test_a_full_disk_is_an_os_error(format: str, tmp_path: Path) -> None:
    path = make_path(format, tmp_path)
    (tmp_path / f".{path.name}.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left|could not be written"):
        write_weights(classifier(), path, format, preprocessing=TORCHVISION)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_rewritten_from_itself(tmp_path: Path) -> None:
    model = classifier()
    path = tmp_path / "weights.safetensors"
    write_weights(model, path, "safetensors", preprocessing=TORCHVISION)
    before = path.read_bytes()
    write_weights(read_weights(path), path, "safetensors")
    assert path.read_bytes() == before


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_part_of_a_large_storage_takes_its_own_size(format: str, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in classifier().state_dict().items()}
    size = sum(tensor.nbytes for tensor in state.values())
    state["linear.weight"] = torch.randn(50_000, 2048)[: 2 * len(state["linear.weight"]) : 2]
    path = make_path(format, tmp_path)
    write_weights(state, path, format, preprocessing=TORCHVISION)
    assert path.stat().st_size < size + 100_000
    assert torch.equal(read_weights(path).state["linear.weight"], state["linear.weight"])


def test_detectron2s_file_is_plain_numpy(tmp_path: Path) -> None:
    """Python's own unpickler reads it, under numpy 1 too; every array is as detectron2 wants it."""
    model = classifier()
    path = tmp_path / "weights.pkl"
    write_weights(model, path, preprocessing=TORCHVISION, metadata=NOTES)
    names = {
        argument
        for code, argument, _ in pickletools.genops(path.read_bytes())
        if code.name == "GLOBAL"
    }
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("error")
        contents = pickle.load(file, encoding="latin1")
    assert contents["__author__"] == NOTES["author"]
    assert contents["matching_heuristics"] is True
    assert contents["preprocessing"] == TORCHVISION.as_dict()
    assert all(
        type(array) is np.ndarray and array.flags.c_contiguous
        for array in contents["model"].values()
    )
    arrays = {name: torch.from_numpy(array) for name, array in contents["model"].items()}
    assert same_bits(arrays, drop_counters(model.state_dict()))


@pytest.mark.parametrize("format", ["detectron2", "native", "safetensors"])
@pytest.mark.parametrize("head", HEADS)
def test_a_detector_comes_back(head: str, format: str, tmp_path: Path) -> None:
    model = fill_randomly(build_detector(configuration(*HEADS[head])))
    path = make_path(format, tmp_path)
    write_weights(model, path, format, preprocessing=TORCHVISION)
    file = read_weights(path)
    assert (file.format, file.preprocessing) == ("detector", TORCHVISION)
    assert same_bits(file.state, model.state_dict())
    again = build_detector(configuration(*HEADS[head]))
    report = load_weights(again, path)
    assert not report.missing and not report.unused
    assert same_bits(again.state_dict(), model.state_dict())


def test_an_unrecognized_network_is_written_as_it_is(tmp_path: Path) -> None:
    weights = WeightFile(
        path="",
        format="native",
        state={"a.weight": torch.ones(2)},
        architecture=None,
        preprocessing=None,
        metadata={},
    )
    write_weights(weights, tmp_path / "weights.pth", "native")
    contents = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert list(contents) == ["model"] and torch.equal(contents["model"]["a.weight"], torch.ones(2))


@pytest.mark.parametrize("format", ["native", "safetensors", "detectron2"])
def test_the_classes_of_a_classifier_travel_along(format: str, tmp_path: Path) -> None:
    names = [f"n{i:08d}, \u00e9" for i in range(7)]
    path = make_path(format, tmp_path)
    write_weights(classifier(), path, format, preprocessing=TORCHVISION, class_names=names)
    assert read_weights(path).class_names == tuple(names)
    again = make_path(format, tmp_path, "again")
    write_weights(read_weights(path), again, format)
    assert read_weights(again).class_names == tuple(names)


@pytest.mark.parametrize("names", [["a"] * 6, "aaaaaaa", [1, 2, 3, 4, 5, 6, 7], None])
def test_class_names_that_are_none_of_the_outputs(names: Any, tmp_path: Path) -> None:
    torch.save({"model": classifier().state_dict(), "class_names": names}, tmp_path / "weights.pth")
    assert read_weights(tmp_path / "weights.pth").class_names is None
