"""The command: what it takes, what it prints, and its errors without a traceback."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
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
from resnext_det.detection.weights import describe_detector
from resnext_det.weights import KNOWN
from tests.detection.helpers import write_config
from tests.tools.helpers import finish, fork_tool, load_tool, run_tool

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


COMMON = ["--config-file", "tiny.yaml"]
NAMES = ("nut", "bolt", "screw", "washer", "gear", "rod")
WEIGHTS = ["MODEL.WEIGHTS", "weights.pth"]


def test_it_writes_pictures_and_prints_where_they_are(folder: Path) -> None:
    """Tell what cannot be read, in our own words alone, and keep the other pictures."""
    (folder / "empty.png").touch()
    (folder / "text.mp4").write_text("no video")
    images = ("IMG_0001.JPG", "more", "empty.png", "text.mp4")
    given = (*COMMON, "--output", "out", "--score", "0.1", *images, *WEIGHTS)
    output, errors = finish(fork_tool("predict", *given, cwd=folder))
    count = len(json.loads((folder / "out" / "detections.json").read_text()))
    told = "detections of score 0.1 or more on 2 images and frames; they are in out"
    assert output == f"{count} {told}\n"
    assert (folder / "out" / "IMG_0001.jpg").is_file() and (folder / "out" / "b.png").is_file()
    names, empty, text = errors.splitlines()
    assert names == (
        "WARNING: the annotations of tiny_val are not here, so classes have numbers; give --classes"
    )
    assert empty.startswith("WARNING: image empty.png cannot be read: it is empty")
    assert text.startswith("WARNING: the video text.mp4 cannot be read")


def save_trained(folder: Path, names: Sequence[str], **extra: Any) -> None:
    """Write model_final.pth, as a training of the tiny detector does."""
    cfg = load_config(folder / "tiny.yaml")
    model = build_detector(cfg)
    model.load_state_dict(torch.load(folder / "weights.pth", weights_only=True))
    described = describe_detector(cfg, model, names, {})
    torch.save({"model": model.state_dict(), **described, **extra}, folder / "model_final.pth")


def test_the_file_of_a_trained_detector_is_enough(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its configuration and class names are in it; pictures and JSON go to ``predictions``."""
    save_trained(folder, NAMES)
    (folder / "tiny.yaml").rename(folder / "elsewhere.yaml")
    assert run("--weights", "model_final.pth", "--score", "0.1", "more") == 0
    printed = capsys.readouterr()
    assert printed.out.endswith("on 1 images; they are in predictions\n") and printed.err == ""
    rows = json.loads((folder / "predictions" / "detections.json").read_text())
    assert rows and {row["category"] for row in rows} <= set(NAMES)
    table = json.loads((folder / "predictions" / "images.json").read_text())
    assert [category["name"] for category in table["categories"]] == list(NAMES)

    assert run("--weights", "model_final.pth", "--classes", "n,b,s,w,g,r", "more") == 1
    said = "the class names n, b, s, w, g, r are given, but the file model_final.pth is of a"
    assert said in capsys.readouterr().err
    assert run("--weights", "weights.pth", "more") == 1
    assert "give one with --config-file" in capsys.readouterr().err


def test_no_dataset_is_drawn_to_find_names(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detector of bolts and nuts does not find circles and stars."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder / "sets"))
    given = [*COMMON, "more", *WEIGHTS, "DATASETS.TEST", "('shapes_val',)"]
    assert run(*given, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0") == 0
    assert not (folder / "sets").exists()
    assert "the annotations of shapes_val are not here, so classes have numbers" in caplog.text
    table = json.loads((folder / "predictions" / "images.json").read_text())
    assert [entry["name"] for entry in table["categories"]] == [f"class {i}" for i in range(6)]


def test_detections_on_a_dataset_can_be_evaluated(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes go by name, images by path; the classes of another set are refused."""
    save_trained(folder, NAMES)
    content = {
        "images": [{"id": 77, "file_name": "b.png", "height": 30, "width": 40}],
        "annotations": [],
        "categories": [{"id": 10 + i, "name": name} for i, name in enumerate(sorted(NAMES))],
    }
    box = {"bbox": [1, 1, 30, 20], "area": 600, "iscrowd": 0, "image_id": 77, "category_id": 10}
    content["annotations"].append({"id": 1, **box})
    (folder / "boxes.json").write_text(json.dumps(content))
    given = ("--weights", "model_final.pth", "--register-coco", "mine", "boxes.json", "more")
    Image.new("RGB", (9, 9)).save(folder / "more" / "strange.png")  # is not in the set
    assert run(*given, "--score", "0.0", "--show-truth", "--contact-sheet") == 0
    with Image.open(folder / "predictions" / "b.png") as picture:
        assert picture.width == 2 * 8 * 40 + 8 and picture.height > 8 * 30
    assert (folder / "predictions" / "contact_sheet_1.jpg").is_file()
    rows = json.loads((folder / "predictions" / "detections.json").read_text())
    ids = {name: 10 + i for i, name in enumerate(sorted(NAMES))}
    assert rows and all(row["category_id"] == ids[row["category"]] for row in rows)
    assert {row["image_id"] for row in rows} == {77}
    assert run_tool("evaluate_coco", "boxes.json", "predictions/detections.json") == 0
    capsys.readouterr()
    content["categories"][2]["name"] = "other"
    (folder / "other.json").write_text(json.dumps(content))
    assert run(*given[:2], "--register-coco", "o", "other.json", "more", "more") == 1
    assert "has the classes" in capsys.readouterr().err
    assert run(*given, "--register-coco", "o", "other.json", "more", "more") == 1
    assert "names the datasets mine, o, and the detections can have" in capsys.readouterr().err


def test_a_second_run_does_not_take_the_pictures_of_the_first(folder: Path) -> None:
    assert run(*COMMON, ".", *WEIGHTS) == 0
    first = sorted(path.name for path in (folder / "predictions").iterdir())
    assert run(*COMMON, ".", *WEIGHTS) == 0
    assert sorted(path.name for path in (folder / "predictions").iterdir()) == first


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
    plain = [*COMMON, "IMG_0001.JPG", *WEIGHTS]  # which say nothing of themselves
    assert run("--preprocessing", "RGB:127.5:127.5", *plain) == 1
    assert "PIXEL_STD: [127.5, 127.5, 127.5]" in capsys.readouterr().err
    assert run("--preprocessing", "RGB:127.5:127.5", "--fit-config", *plain) == 0


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
    rows = json.loads((folder / "predictions" / "detections.json").read_text())
    assert rows and {row["category"] for row in rows} <= {"a", "big b", *"cdef"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["more"], "MODEL.WEIGHTS is empty"),
        (["more", "MODEL.WEIGHTS", "none.pth"], "none.pth is not there"),
        (["none.png", *WEIGHTS], "none.png does not exist; give images"),
        (WEIGHTS, "there is no image; give images"),
        (["77", *WEIGHTS], "none of the 1 images could be read; see"),
        (["more", *WEIGHTS, "MODEL.ROI_HEADS.NUM_CLASSES", "3"], "it has 6 classes, and the model"),
        (["more", "MODEL.WEIGTHS", "weights.pth"], "did you mean MODEL.WEIGHTS"),
        (["more", "MODEL.WEIGHTS"], "odd number of words"),
        (["--classes", "a,b", "more", *WEIGHTS], "there are 2 class names (a, b)"),
        (["--score", "50", "more", *WEIGHTS], "the score 50 is not from 0 to 1"),
        (["--show-truth", "more", *WEIGHTS], "no ground truth to show: name the set of the images"),
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
