"""The command: what it takes, what it prints, and its errors without a traceback."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnext_det.config import load_config
from resnext_det.data import coco
from resnext_det.detection.portable.build import build_detector
from resnext_det.weights import KNOWN
from tests.detection.helpers import write_config
from tests.tools.helpers import finish, load_tool, run_tool, start_tool

run = partial(run_tool, "predict")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tiny.yaml, weights.pth, IMG_0001.JPG and more/b.png; the tests run in it."""
    monkeypatch.setattr(coco, "_registered", {})
    monkeypatch.setattr(
        logging.getLogger("resnext_det"), "handlers", []
    )  # those of an earlier test's training
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = build_detector(load_config(write_config(tmp_path)))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    (tmp_path / "more").mkdir()
    for name in ("IMG_0001.JPG", "more/b.png"):
        Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(tmp_path / name)
    return tmp_path


COMMON = ["--config-file", "tiny.yaml", "--output", "out"]
WEIGHTS = ["MODEL.WEIGHTS", "weights.pth"]


def test_it_writes_pictures_and_prints_where_they_are(folder: Path) -> None:
    given = (*COMMON, "--score", "0.1", "IMG_0001.JPG", "more", *WEIGHTS)
    output, errors = finish(start_tool("predict", *given, cwd=folder))
    count = len(json.loads((folder / "out" / "detections.json").read_text()))
    assert output == f"{count} detections of score 0.1 or more on 2 images; they are in out\n"
    assert (folder / "out" / "IMG_0001.jpg").is_file() and (folder / "out" / "b.png").is_file()
    assert errors.splitlines() == [
        "WARNING: the annotations of tiny_val are not here, so classes have numbers; give --classes"
    ]


def test_a_second_run_does_not_take_the_pictures_of_the_first(folder: Path) -> None:
    assert run(*COMMON, ".", *WEIGHTS) == 0
    first = sorted(path.name for path in (folder / "out").iterdir())
    assert run(*COMMON, ".", *WEIGHTS) == 0
    assert sorted(path.name for path in (folder / "out").iterdir()) == first


def test_the_preprocessing_is_taken_from_the_weights(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the flag a contradiction is refused, and the flag that the error names is there."""
    state = torch.load(folder / "weights.pth", weights_only=True)
    torch.save(
        {"model": state, "preprocessing": KNOWN["torchvision"].as_dict()}, folder / "rgb.pth"
    )
    given = [*COMMON, "IMG_0001.JPG", "MODEL.WEIGHTS", "rgb.pth"]
    assert run(*given) == 1
    assert "add --fit-config" in capsys.readouterr().err
    assert run("--fit-config", *given) == 0


@pytest.mark.parametrize(
    ("words", "inputs", "overrides"),
    [
        (["IMG_0001.JPG", *WEIGHTS], ["IMG_0001.JPG"], WEIGHTS),
        (["IMG_0001.JPG", "--score", "0.2", *WEIGHTS], ["IMG_0001.JPG"], WEIGHTS),
        ([*WEIGHTS, "SEED", "-1"], [], [*WEIGHTS, "SEED", "-1"]),
        (["TEST.JPG", "MODEL.WEIGTHS", "x"], ["TEST.JPG"], ["MODEL.WEIGTHS", "x"]),
        (["a", "OUTPUT_DIR", "b"], ["a"], ["OUTPUT_DIR", "b"]),
    ],
    ids=str,
)  # fmt: skip
def test_images_and_overrides_are_told_apart(
    folder: Path, words: list[str], inputs: list[str], overrides: list[str]
) -> None:
    (folder / "TEST.JPG").touch()
    options = load_tool("predict")["parse"]([*COMMON, *words])
    assert (options.inputs, options.overrides) == (inputs, overrides)


def test_classes_are_named(folder: Path) -> None:
    assert run(*COMMON, "--score", "0.01", "--classes", "a, big b,c,d,e,f", "more", *WEIGHTS) == 0
    rows = json.loads((folder / "out" / "detections.json").read_text())
    assert rows and {row["category"] for row in rows} <= {"a", "big b", *"cdef"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["more"], "MODEL.WEIGHTS is empty"),
        (["more", "MODEL.WEIGHTS", "none.pth"], "none.pth is not there"),
        (["none.png", *WEIGHTS], "none.png does not exist; give images"),
        (WEIGHTS, "there is no image in nothing"),
        (["more", *WEIGHTS, "MODEL.ROI_HEADS.NUM_CLASSES", "3"], "it has 6 classes, and the model"),
        (["more", "MODEL.WEIGTHS", "weights.pth"], "did you mean MODEL.WEIGHTS"),
        (["more", "MODEL.WEIGHTS"], "odd number of words"),
        (["--classes", "a,b", "more", *WEIGHTS], "there are 2 class names (a, b)"),
        (["--score", "50", "more", *WEIGHTS], "the score 50 is not from 0 to 1"),
        (["--output", "more", "more/b.png", *WEIGHTS], "more/b.png would overwrite an image"),
        (["--register-coco", "coco_2017_val", "a", "b", "more", *WEIGHTS], "_val' already stands"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_errors_are_one_line(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*COMMON, *words) == 1
    printed: Any = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("error: ")
    assert message in printed.err
    assert "Traceback" not in printed.err
