"""``resnext-det``: its commands, and what their --help says without importing torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import resnext_det
from resnext_det import command_line
from resnext_det.benchmark import DETECTORS, MODES
from resnext_det.classification.protocols import BATCH_SIZES, DENSE_SCALES, PROTOCOLS
from resnext_det.config import get_cfg
from resnext_det.data.images.imagenet5k import NUM_CLASSES
from resnext_det.data.images.resizing import INTERPOLATIONS
from resnext_det.detection.jobs import ENGINES
from resnext_det.detection.memory_saving import STAGES
from resnext_det.evaluation.coco_backends import BACKENDS
from resnext_det.weights import KNOWN
from resnext_det.weights.writing import SUFFIXES

TOOLS = Path(__file__).parents[1] / "tools"

HELP_OF_ALL = """
import sys
from resnext_det.command_line import COMMANDS, main
for arguments in ([], *([command] for command in COMMANDS)):
    try:
        main([*arguments, "--help"])
    except SystemExit as end:
        assert end.code == 0, arguments
heavy = {"torch", "torchvision", "numpy", "cv2", "PIL", "fvcore", "yacs", "yaml"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def get_help(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit) as end:
        command_line.main([*command, "--help"])
    assert end.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_imports_no_library() -> None:
    """So it is there at once: torch alone takes more than a second."""
    command = [sys.executable, "-c", HELP_OF_ALL]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TOOLS.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: resnext-det") == 1 + len(command_line.COMMANDS)


def test_every_tool_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """By its word or the name of its file; --help of all says what each does."""
    names = sorted(path.stem for path in TOOLS.glob("*.py"))
    assert sorted(command_line.COMMANDS.values()) == names
    listed = get_help(capsys)
    for word, name in command_line.COMMANDS.items():
        summary = (TOOLS / f"{name}.py").read_text(encoding="utf-8").splitlines()[0].strip('"')
        assert f"{word} {summary}" in listed and len(summary) <= 75
        assert get_help(capsys, word) == get_help(capsys, name)
        assert get_help(capsys, name).startswith(f"usage: resnext-det {word} ")


def test_a_command_runs_as_its_tool_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["analyze", "--width-for", "2"]) == 0
    assert "40" in capsys.readouterr().out
    assert command_line.main(["analyze", "X-50"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    for arguments, said in ((["--version"], resnext_det.__version__), (["trian"], "choose train,")):
        with pytest.raises(SystemExit):
            command_line.main(arguments)
        assert said in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("command", "flag", "values"),
    [
        ("train", "--engine", ENGINES),
        ("miniature", "--engine", ENGINES),
        ("evaluate", "--backend", BACKENDS),
        ("evaluate-classifier", "--protocol", PROTOCOLS),
        ("evaluate-classifier", "--interpolation", INTERPOLATIONS),
        ("convert", "--format", SUFFIXES),
        ("benchmark", "--mode", (*MODES, "loading", "evaluation", "startup", "gpu-table")),
        ("benchmark", "--detectors", tuple(DETECTORS)),
    ],
)  # fmt: skip
def test_choices_are_those_of_the_library(
    command: str, flag: str, values: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """They stand in the commands too, which must not import the library to know them."""
    assert f" {flag} {{{','.join(values)}}} " in get_help(capsys, command)


@pytest.mark.parametrize(
    "command",
    ["train", "two-step", "predict", "pretrain", "evaluate-classifier", "convert", "inspect"],
)
def test_every_command_with_weights_takes_their_preprocessing(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(get_help(capsys, command).split())
    assert "--preprocessing PUBLISHER|NUMBERS" in text
    assert f"if it does not say it: {', '.join(KNOWN)}, or channel order" in text


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--config-file", "quickstart/faster_rcnn_X26_8x4d_FPN_shapes.yaml"),
        (
            *("two-step", "--rpn", "two_step/rpn_X50_32x4d.yaml"),
            *("--fast-rcnn", "two_step/fast_rcnn_X50_32x4d.yaml"),
        ),
        ("predict", "--config-file", "quickstart/faster_rcnn_X26_8x4d_FPN_shapes.yaml", "."),
        ("pretrain", "--config-file", "miniature/cpu/classifier_X26_32x1d.yaml"),
        ("evaluate-classifier", "weights.pth", "photos"),
    ],
    ids=lambda words: words[0],
)
def test_a_preprocessing_that_is_none_is_refused_before_the_work(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main([words[0], "--preprocessing", "RGB:127.5", *words[1:]]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: --preprocessing 'RGB:127.5' is no publisher (torchvision, ")
    assert said.count("\n") == 1


def test_the_nodes_of_a_configuration_are_known() -> None:
    """By them keys are told from files, also where no configuration can be read."""
    assert sorted(get_cfg()) == list(command_line.CONFIG_NODES)
    assert STAGES == command_line.STAGES


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--accumulate 0", "a batch has no 0 parts; write 1 for the batch at once"),
        ("--accumulate two", "a batch has no two parts; write 1 for the batch at once"),
        ("--recompute res4,res7", "there is no stage 'res7'; choose of res2, res3, res4, res5"),
        ("--fit-memory 6", "6 is no size of a memory; write a number and its unit, such as 6GB"),
        ("--fit-memory 0GB", "0GB is no size of a memory"),
        ("--fit-memory 6GB --accumulate 2", "--fit-memory: it chooses --accumulate and"),
        ("--fit-memory 6GB --eval-only", "--fit-memory: of no effect with --eval-only"),
    ],
)
def test_what_saves_memory_is_checked_before_the_work(
    flags: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = "quickstart/faster_rcnn_X26_8x4d_FPN_shapes.yaml"
    with pytest.raises(SystemExit) as stop:
        command_line.main(["train", "--config-file", config, *flags.split()])
    assert stop.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("word", "size"),
    [("6GB", 6 * 10**9), ("5.5 GiB", 5.5 * 2**30), ("800MB", 8 * 10**8), ("512MiB", 2**29)],
)
def test_a_memory_is_read_in_its_units(word: str, size: float) -> None:
    assert command_line._read_bytes(word) == size


@pytest.mark.parametrize(
    ("error", "is_named"),
    [
        (RuntimeError("operator torchvision::nms does not exist"), True),
        (RuntimeError("Couldn't load custom C++ ops. This can happen if\nyou compiled"), True),
        (ImportError("undefined symbol: _ZN3c10", path="torchvision/_C.so"), True),
        (RuntimeError("one of our own mistakes"), False),
    ],
)
def test_a_torchvision_of_another_torch_is_named(
    error: Exception, is_named: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> list[str]:
        raise error

    if not is_named:
        with pytest.raises(RuntimeError, match="one of our own mistakes"):
            command_line.finish(work)
        return
    assert command_line.finish(work) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: the torchvision that is installed does not fit the torch ")
    assert told.count("\n") == 1


def test_numbers_in_help_are_those_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    said = get_help(capsys, "evaluate-classifier")
    assert f"(default: {' '.join(map(str, DENSE_SCALES))})" in said
    sizes = ", ".join(f"{size} {protocol}" for protocol, size in BATCH_SIZES.items())
    assert f"(default: {sizes})" in said
    assert f"(default: {NUM_CLASSES})" in get_help(capsys, "imagenet5k")


def test_an_image_folder_that_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--train-data", "cells.json", "OUTPUT_DIR", "out", "MODEL.DEVICE", "cpu"]
    assert command_line.main(["train", *words]) == 1
    told = capsys.readouterr().err
    assert "--train-data cells.json: the folder of its images is missing; write it before" in told
