"""Detections on images and files: pictures, one JSON file, and files that are no images."""

from __future__ import annotations

import json
import logging
import math
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
from resnext_det.data.coco import load_coco
from resnext_det.data.reading import read_image
from resnext_det.data.transforms import DetectionMapper
from resnext_det.detection.datasets import load_datasets
from resnext_det.detection.datasets import test_mapper as build_test_mapper
from resnext_det.detection.evaluation import evaluate_all
from resnext_det.detection.inference import (
    Predictor,
    choose_class_names,
    predict_files,
)
from resnext_det.detection.inputs import find_images
from resnext_det.detection.portable.build import build_detector
from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.instances import Instances
from tests.detection.helpers import write_config, write_sets
from tests.detection.test_video import film
from tests.detection.test_video import read as read_video

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
    assert {path.name for path in out.iterdir()} == {
        *("a.png", "b.jpg", "c.png"),
        *("detections.json", "images.json"),
    }
    for path, (height, width) in zip(paths, sizes.values()):
        picture = cv2.imread(str(out / path.name.replace(".bmp", ".png")))
        larger = math.ceil(320 / max(height, width))  # so that labels can be read
        assert picture.shape == (larger * height, larger * width, 3)
        mine = [row for row in rows if row["file_name"] == str(path)]
        assert mine
        original = cv2.imread(str(path))
        plain = cv2.resize(original, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        assert (picture != plain).any()  # something is drawn
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


def test_stretched_images_have_their_boxes_in_their_own_pixels(
    cfg: CfgNode, tmp_path: Path
) -> None:
    """The predictor sees what the mapper gives, and scales x and y back by factors of their own."""
    path = draw(tmp_path / "image.png", 40, 120)
    predictor = Predictor(cfg, ["INPUT.STRETCH", "(64, 96)"])
    mapper = build_test_mapper(predictor.cfg)
    sample = mapper({"file_name": str(path), "height": 40, "width": 120, "image_id": 1}, None)
    assert sample["image"].shape == (3, 64, 96)
    with torch.inference_mode():
        expected = predictor.model([sample])[0]["instances"]
        resized = predictor.model([{"image": sample["image"]}])[0]["instances"]
    found = predictor(cv2.imread(str(path)))
    assert len(found) > 0 and are_equal(found, expected)
    factors = torch.tensor([120 / 96, 40 / 64] * 2)
    torch.testing.assert_close(found.pred_boxes.tensor, resized.pred_boxes.tensor * factors)


def are_equal(first: Instances, second: Instances) -> bool:
    return (
        torch.equal(first.pred_boxes.tensor, second.pred_boxes.tensor)
        and torch.equal(first.scores, second.scores)
        and torch.equal(first.pred_classes, second.pred_classes)
        and first.image_size == second.image_size
    )


@pytest.mark.parametrize("format", ["BGR", "RGB"])
def test_a_path_an_image_of_pillow_an_array_and_a_list_give_the_same(
    cfg: CfgNode, tmp_path: Path, format: str
) -> None:
    changed = cfg.clone()
    changed.defrost()
    changed.INPUT.FORMAT = format
    exif = Image.Exif()
    exif[274] = 6
    turned = draw(tmp_path / "turned.png", 40, 60)
    Image.open(turned).save(turned, exif=exif)
    paths = [
        turned,
        draw(tmp_path / "wide.png", 50, 90, seed=1),
        draw(tmp_path / "gray.png", mode="L"),
    ]
    predictor = Predictor(changed)
    expected = [predictor(path) for path in paths]
    assert [len(found) > 0 for found in expected] == [True] * 3
    assert expected[0].image_size == (60, 40)
    arrays = [read_image(path, format) for path in paths]
    for images in (list(map(str, paths)), tuple(map(Image.open, paths)), arrays):
        for image, one in zip(images, expected):
            assert are_equal(predictor(image), one)
        found = predictor(images)
        assert isinstance(found, list) and all(map(are_equal, found, expected))
    assert are_equal(predictor(arrays[2][:, :, 0]), expected[2])
    mixed = predictor([paths[0], arrays[1], Image.open(paths[2])])
    assert all(map(are_equal, mixed, expected))
    assert predictor([]) == []


def test_what_a_predictor_refuses(cfg: CfgNode, tmp_path: Path) -> None:
    predictor, good = Predictor(cfg), np.zeros((9, 9, 3), np.uint8)
    refused: list[tuple[Any, str]] = [
        (None, "the image is None, as cv2.imread gives"),
        (good[:0], "no pixel: it is 0 rows x 9 columns"),
        (good.astype(np.float32), r"float32 of the shape \(9, 9, 3\); give uint8"),
        (good[:, :, :2], r"uint8 of the shape \(9, 9, 2\); give uint8 .* in the order BGR"),
        (tmp_path, "is a folder; give the path of one image"),
        (tmp_path / "none.png", "there is no image .*none"),
        (torch.zeros(3, 9, 9), "of the type Tensor; give the path"),
    ]
    for image, words in refused:
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            predictor(image)
        with pytest.raises(
            (ValueError, FileNotFoundError), match=f"entry 1 of the list: .*{words}"
        ):
            predictor([good, image])
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"entry 1 of the list: .*cannot be read"):
        predictor([good, tmp_path / "broken.png"])
    with pytest.raises(ValueError, match="entry 0 of the list: the image is of the type list"):
        predictor([[good]])


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
    assert {row["file_name"] for row in read_rows(tmp_path / "out")} == set(map(str, good))
    assert (count, read) == (len(read_rows(tmp_path / "out")), len(good))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.jpg",
        "detections.json",
        "images.json",
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
    assert sorted(heights.values()) == [8 * 30, 8 * 31, 8 * 32, 8 * 33]
    assert heights["a.png"] == 8 * 30


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
    assert "MODEL.RETINANET.SCORE_THRESH_TEST) = 0.3; for 0.1 set that too" in caplog.text


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


def test_the_files_are_coco_files(cfg: CfgNode, tmp_path: Path) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco")
    sizes = [(40, 60), (50, 30)]
    paths = [draw(tmp_path / f"{size[0]}.png", *size) for size in sizes]
    count, _ = predict_files(cfg, paths, NAMES, output_dir=tmp_path / "out", score=0.1)
    out = tmp_path / "out"
    table = json.loads((out / "images.json").read_text())
    assert table["images"] == [
        {"id": i, "file_name": str(path), "width": width, "height": height}
        for i, (path, (height, width)) in enumerate(zip(paths, sizes), start=1)
    ]
    assert table["categories"] == [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    found = pycocotools.COCO(str(out / "images.json")).loadRes(str(out / "detections.json"))
    assert len(found.getAnnIds(imgIds=[1])) + len(found.getAnnIds(imgIds=[2])) == count > 0


def test_detections_on_a_dataset_are_those_of_its_evaluation(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Give detections the set's ids, which differ from the order of images and classes."""
    monkeypatch.setattr(coco, "_registered", {})
    annotations, images = write_sets(tmp_path)["tiny_val"]
    data = json.loads(annotations.read_text())
    for image in data["images"]:
        image["id"] = 900 - 7 * image["id"]
    for annotation in data["annotations"]:
        annotation["image_id"] = 900 - 7 * annotation["image_id"]
        annotation["category_id"] *= 11
    for category in data["categories"]:
        category["id"] *= 11
    annotations.write_text(json.dumps(data))
    coco.register_coco("mine", annotations, images)
    known = with_test_set(cfg, "mine")
    known.OUTPUT_DIR = str(tmp_path / "evaluated")
    sets = load_datasets(known, "TEST")
    metrics = evaluate_all(known, Predictor(known).model, sets)["mine"]
    paths = find_images([images])
    count, _ = predict_files(known, paths, output_dir=tmp_path / "out", score=0.0, dataset="mine")
    evaluated = tmp_path / "evaluated" / "inference" / "coco_instances_results.json"
    keys = ("image_id", "category_id", "bbox", "score")
    rows = [{key: row[key] for key in keys} for row in read_rows(tmp_path / "out")]
    assert sorted(rows, key=str) == sorted(json.loads(evaluated.read_text()), key=str)
    assert count == len(rows) > 0
    found = evaluate_coco(annotations, tmp_path / "out" / "detections.json")
    assert found.to_json() == metrics.to_json()
    assert {row["category"] for row in read_rows(tmp_path / "out")} <= set(sets[0].class_names)
    (told,) = caplog.messages
    assert "so those of mine are taken in the order of their ids" in told

    predict_files(known, paths[:2], output_dir=tmp_path / "out", dataset="mine")
    assert f"2 of the {len(paths)} images of mine are given" in caplog.text
    assert "lowers their AP; for that of --eval-only write --score 0" in caplog.text
    # Without inputs the set's images are found, and of a folder those that the set has.
    whole = load_coco("mine")
    strange = draw(images / "strange.png")
    caplog.clear()
    assert find_images([images], dataset=whole) == paths
    assert sorted(find_images([], dataset=whole)) == paths
    assert caplog.messages == [
        "passed over 1 images in folders that the dataset mine does not have"
    ]
    (tmp_path / "others").mkdir()
    draw(tmp_path / "others" / "a.png")
    with pytest.raises(ValueError, match=r"no image of the dataset 'mine' in .*others; give"):
        find_images([tmp_path / "others"], dataset=whole)
    assert find_images([strange], dataset=whole) == [strange]  # is refused when it is detected on
    words = r"1 of 2 images are not in the dataset 'mine', .*strange\.png; give images of"
    with pytest.raises(ValueError, match=words):
        predict_files(known, [paths[0], strange], output_dir=tmp_path / "out", dataset="mine")


def test_a_video_among_images(cfg: CfgNode, tmp_path: Path) -> None:
    clip, photo = film(tmp_path / "clip.avi"), draw(tmp_path / "photo.png")
    out = tmp_path / "out"
    count, read = predict_files(cfg, [clip, photo], NAMES, output_dir=out, score=0.0)
    assert read == 7 and len(read_video(out / "clip.mp4")[1]) == 6
    rows = read_rows(out)
    assert count == len(rows) and {row["frame"] for row in rows if "frame" in row} == set(range(6))
    assert all(("frame" in row) == (row["file_name"] == str(clip)) for row in rows)
    predictor = Predictor(cfg)
    for number, frame in enumerate(read_video(clip)[1]):
        mine = [row["score"] for row in rows if row.get("frame") == number]
        assert mine == predictor(frame).scores.tolist()
    assert json.loads((out / "images.json").read_text())["images"][5] == {
        **{"id": 6, "file_name": str(clip), "frame": 5},
        **{"width": 64, "height": 48},
    }


def test_what_was_done_before_ctrl_c_is_kept(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect, calls = Predictor._detect, iter(range(9))

    def stop_at_the_fourth(predictor: Predictor, image: Any) -> Instances:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return detect(predictor, image)

    monkeypatch.setattr(Predictor, "_detect", stop_at_the_fourth)
    paths, out = [draw(tmp_path / "photo.png"), film(tmp_path / "clip.avi")], tmp_path / "out"
    with pytest.raises(
        KeyboardInterrupt, match=r"stopped after 3 images and frames; their \d+ det"
    ):
        predict_files(cfg, paths, NAMES, output_dir=out, score=0.0)
    assert {row["image_id"] for row in read_rows(out)} == {1, 2, 3}
    assert len(read_video(out / "clip.mp4")[1]) == 2


def test_other_frames_of_an_image_are_told(
    cfg: CfgNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.new("RGB", (30, 20), color) for color in ("red", "green", "blue")]
    paths = [tmp_path / f"{kind}.{kind}" for kind in ("gif", "tiff", "png", "webp")]
    for path in paths:
        frames[0].save(path, save_all=True, append_images=frames[1:])
    single = draw(tmp_path / "single.gif", mode="P")
    predict_files(cfg, [*paths, single], NAMES, output_dir=tmp_path / "out")
    (told,) = caplog.messages
    assert told.startswith("of files that hold several images the first alone was taken: ")
    assert all(f"{path} (3 frames)" in told for path in paths)


@pytest.mark.parametrize("given", [None, 3, {"MODEL": {}}])
def test_what_is_no_detector_is_refused_in_a_sentence(given: Any) -> None:
    with pytest.raises(ValueError, match="is none; give the file of a trained detector"):
        Predictor(given)
