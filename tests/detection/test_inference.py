"""Detections on images and files: pictures, one JSON file, and files that are no images."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from resnext_det.config import load_config
from resnext_det.data import coco
from resnext_det.data.transforms import DetectionMapper
from resnext_det.detection.inference import (
    Predictor,
    choose_class_names,
    find_images,
    predict_files,
)
from resnext_det.detection.portable.build import build_detector
from tests.detection.helpers import write_config

NAMES = [f"name {index}" for index in range(6)]


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> CfgNode:
    """Configure a tiny detector with random weights that finds things everywhere."""
    folder = tmp_path_factory.mktemp("detector")
    cfg = load_config(write_config(folder), ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"])
    torch.manual_seed(0)
    model: Any = build_detector(cfg)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    torch.nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.1)
    torch.save({"model": model.state_dict()}, folder / "weights.pth")
    return load_config(
        folder / "tiny.yaml",
        ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.WEIGHTS", str(folder / "weights.pth")],
    )


def draw(path: Path, height: int = 40, width: int = 60, mode: str = "RGB", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "detections.json").read_text())


def test_pictures_and_detections_of_every_image(cfg: CfgNode, tmp_path: Path) -> None:
    sizes = {"a.png": (40, 60), "b.jpg": (130, 50), "c.bmp": (33, 33)}
    paths = [draw(tmp_path / "in" / name, *size, seed=len(name)) for name, size in sizes.items()]
    out = tmp_path / "new" / "out"
    count, _ = predict_files(cfg, paths, NAMES, output_dir=out, score=0.2)
    rows = read_rows(out)
    assert count == len(rows) > 0
    assert {path.name for path in out.iterdir()} == {"a.png", "b.jpg", "c.png", "detections.json"}
    for path, (height, width) in zip(paths, sizes.values()):
        picture = cv2.imread(str(out / path.name.replace(".bmp", ".png")))
        assert picture.shape == (height, width, 3)
        mine = [row for row in rows if row["image_id"] == str(path)]
        assert mine
        original = cv2.imread(str(path))
        assert (picture != original).any()  # something is drawn
        for row in mine:
            x, y, w, h = row["bbox"]
            assert 0 <= x < x + w <= width + 1e-4 and 0 <= y < y + h <= height + 1e-4
            assert 0.2 <= row["score"] <= 1
            assert row["category"] == NAMES[row["category_id"]]
    # The last image is enlarged to 64 pixels for the detector; boxes are in the file's own pixels.
    assert max(row["bbox"][0] + row["bbox"][2] for row in mine) > 20


def test_the_predictor_is_the_model_behind_the_mapper(cfg: CfgNode, tmp_path: Path) -> None:
    """Channels come in the order of INPUT.FORMAT."""
    path = draw(tmp_path / "image.png", 50, 70)
    predictor = Predictor(cfg)
    mapper = DetectionMapper(
        False,
        min_sizes=(cfg.INPUT.MIN_SIZE_TEST,),
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        image_format=cfg.INPUT.FORMAT,
    )
    sample = mapper({"file_name": str(path), "height": 50, "width": 70, "image_id": 1}, None)
    assert sample["image"].shape != (3, 50, 70)
    with torch.inference_mode():
        expected = predictor.model([sample])[0]["instances"]
    found = predictor(cv2.imread(str(path)))
    assert len(found) > 0
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    predict_files(cfg, [path], NAMES, output_dir=tmp_path / "out", score=0.0)
    assert [row["score"] for row in read_rows(tmp_path / "out")] == found.scores.tolist()


def test_supervision_takes_the_results(cfg: CfgNode) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    predictor = Predictor(cfg)
    image = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    with torch.inference_mode():
        output = predictor.model([{"image": torch.from_numpy(image).permute(2, 0, 1)}])[0]
    for results in (output, {"instances": predictor(image)}):
        found = results["instances"]
        detections = supervision.Detections.from_detectron2(results)
        assert len(detections) == len(found) > 0
        assert np.array_equal(detections.xyxy, found.pred_boxes.tensor.numpy())
        assert np.array_equal(detections.confidence, found.scores.numpy())
        assert np.array_equal(detections.class_id, found.pred_classes.numpy())


def test_an_unreadable_image_does_not_lose_the_others(
    cfg: CfgNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [draw(tmp_path / f"{name}.jpg") for name in ("a", "z")]
    truncated, text, gone = tmp_path / "m.jpg", tmp_path / "n.png", tmp_path / "o.png"
    truncated.write_bytes(good[0].read_bytes()[:300])
    text.write_text("no image")
    paths = [good[0], truncated, text, gone, good[1]]
    with caplog.at_level(logging.WARNING):
        count, read = predict_files(cfg, paths, NAMES, output_dir=tmp_path / "out", score=0.1)
    assert {row["image_id"] for row in read_rows(tmp_path / "out")} == {str(path) for path in good}
    assert (count, read) == (len(read_rows(tmp_path / "out")), len(good))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.jpg",
        "detections.json",
        "z.jpg",
    ]
    for path in (truncated, text, gone):
        assert str(path) in caplog.text
    with pytest.raises(ValueError, match="none of the 2 images could be read"):
        predict_files(cfg, [truncated, text], NAMES, output_dir=tmp_path / "out")


def test_equal_names_from_different_folders_are_all_kept(cfg: CfgNode, tmp_path: Path) -> None:
    names = ["x/a.png", "y/a.png", "z/a.bmp", "z/a_2.png"]
    paths = [draw(tmp_path / "in" / name, 30 + index, 40) for index, name in enumerate(names)]
    predict_files(cfg, paths, NAMES, output_dir=tmp_path / "out")
    heights = {
        path.name: cv2.imread(str(path)).shape[0] for path in (tmp_path / "out").glob("*.png")
    }
    assert sorted(heights.values()) == [30, 31, 32, 33]
    assert heights["a.png"] == 30


def test_an_image_is_never_overwritten(cfg: CfgNode, tmp_path: Path) -> None:
    path = draw(tmp_path / "photo.png")
    before = path.read_bytes()
    words = r"photo.png would overwrite an image; choose another folder"
    with pytest.raises(ValueError, match=words):
        predict_files(cfg, [path], NAMES, output_dir=tmp_path)
    assert path.read_bytes() == before


def test_every_kind_of_image(cfg: CfgNode, tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{mode}.png", mode=mode) for mode in ("L", "RGBA", "P", "1")]
    predict_files(cfg, paths, NAMES, output_dir=tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_scores(cfg: CfgNode, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = draw(tmp_path / "a.png")
    assert predict_files(cfg, [path], NAMES, output_dir=tmp_path / "out", score=1.0) == (0, 1)
    assert read_rows(tmp_path / "out") == []
    words = r"the score 50 is not from 0 to 1; write, for example, 0.5 for 50%"
    with pytest.raises(ValueError, match=words):
        predict_files(cfg, [path], NAMES, output_dir=tmp_path / "out", score=50)
    strict = cfg.clone()
    strict.defrost()
    strict.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.3
    predict_files(strict, [path], NAMES, output_dir=tmp_path / "out", score=0.1)
    assert (
        "no score below MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.3; for 0.1 set that too"
        in caplog.text
    )


def test_folders_are_searched_and_each_image_comes_once(tmp_path: Path) -> None:
    for name in (
        "b.png",
        "a.JPG",
        "deep/er/c.jpeg",
        "deep/d.webp",
        "notes.txt",
        "boxes.json",
        "out/a.png",
    ):
        if name.endswith(("txt", "json")):
            (tmp_path / name).write_text("{}")
        else:
            draw(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    found = find_images([tmp_path, tmp_path / "b.png"], outside=tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "a.JPG",
        "b.png",
        "deep/d.webp",
        "deep/er/c.jpeg",
    ]
    assert tmp_path / "out/a.png" in find_images([tmp_path])
    assert find_images([str(tmp_path / "notes.txt")]) == [
        tmp_path / "notes.txt"
    ]  # asked for by name


def test_inputs_that_hold_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for inputs, words in (
        ([tmp_path / "empty"], "there is no image in .*empty; give images or folders"),
        ([], "there is no image in nothing"),
        ([tmp_path / "none.png"], "none.png does not exist; give images or folders"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            find_images(inputs)


def with_test_set(cfg: CfgNode, name: str) -> CfgNode:
    changed = cfg.clone()
    changed.defrost()
    changed.DATASETS.TEST = (name,)
    return changed


def test_names_of_classes(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(coco, "_registered", {})
    numbers = tuple(f"class {index}" for index in range(6))
    assert choose_class_names(cfg, NAMES) == tuple(NAMES)
    words = r"there are 2 class names \(a, b\) for the model's 6 classes; give 6"
    with pytest.raises(ValueError, match=words):
        choose_class_names(cfg, ["a", "b"])
    # The detector was trained on a set that is not registered here, or whose files are elsewhere.
    for name in ("strange", "coco_2017_val"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        assert choose_class_names(with_test_set(cfg, name)) == numbers
        assert f"the annotations of {name} are not here" in caplog.text
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 5, "width": 5}],
        "annotations": [],
        "categories": [{"id": 9 - i, "name": str(i)} for i in range(6)],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    coco.register_coco("mine", tmp_path / "boxes.json", tmp_path / "images that are elsewhere")
    assert choose_class_names(with_test_set(cfg, "mine")) == tuple("543210")


def test_without_weights_there_is_nothing_to_predict_with(cfg: CfgNode, tmp_path: Path) -> None:
    changed = cfg.clone()
    changed.defrost()
    changed.MODEL.WEIGHTS = ""
    with pytest.raises(ValueError, match=r"MODEL.WEIGHTS is empty"):
        predict_files(changed, [draw(tmp_path / "a.png")], NAMES, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
