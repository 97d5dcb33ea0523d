"""Mapped samples against detectron2's DatasetMapper: every pixel and every bit of every box."""

from __future__ import annotations

import copy
from typing import Any

import cv2
import numpy as np
import pycocotools.mask
import pytest
import torch
from PIL import Image
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import clip_boxes_to_image

from resnext_det.data.crops import RandomCrop, ScaleJitter
from resnext_det.data.geometry import Flip, Resize, Step
from resnext_det.data.reading import read_image
from resnext_det.data.transforms import (
    DetectionMapper,
    RandomFlip,
    ResizeShortestEdge,
    Stretch,
    transform_boxes,
)

Record = dict[str, Any]


def annotation(box: list[float], category: int = 0, crowd: int = 0) -> dict[str, Any]:
    return {"bbox": box, "bbox_mode": 1, "category_id": category, "iscrowd": crowd}


def random_boxes(seed: int, height: int, width: int) -> list[list[float]]:
    corners = np.random.RandomState(seed).uniform(-0.2, 1.0, (12, 2)) * [width, height]
    sides = np.random.RandomState(seed + 1).uniform(0.01, 0.6, (12, 2)) * [width, height]
    boxes = np.hstack([corners, sides]).round(2).tolist()
    whole = np.hstack([corners, sides]).astype(int).tolist()
    return (
        boxes
        + whole
        + [[1, 2.5, 30, 7], [0.0, 0.0, width, height], [3, 4, 0, 8], [5.5, 5.5, 1e-6, 9.0]]
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Color, tall, gray, EXIF-rotated, palette, crowded, empty and one-pixel-high images."""
    folder = tmp_path_factory.mktemp("images")
    made: list[Record] = []

    def add(
        name: str,
        image: Image.Image,
        annotations: list[dict[str, Any]],
        orientation: int | None = None,
    ) -> None:
        exif = image.getexif()
        if orientation:
            exif[274] = orientation
        image.save(folder / name, exif=exif)
        width, height = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
        made.append(
            {
                "file_name": str(folder / name),
                "height": height,
                "width": width,
                "image_id": len(made),
                "annotations": annotations,
            }
        )

    def noise(height: int, width: int) -> Image.Image:
        return Image.fromarray(
            np.random.RandomState(height).randint(0, 256, (height, width, 3), dtype=np.uint8)
        )

    def annotations(height: int, width: int) -> list[dict[str, Any]]:
        return [
            annotation(box, index % 5, crowd=int(index % 7 == 3))
            for index, box in enumerate(random_boxes(height, height, width))
        ]

    add("wide.jpg", noise(97, 151), annotations(97, 151))
    add("tall.png", noise(160, 83), annotations(160, 83))
    add("square.png", noise(64, 64), annotations(64, 64))
    add("gray.png", noise(75, 120).convert("L"), annotations(75, 120))
    add("palette.png", noise(71, 99).quantize(32), annotations(71, 99))
    for orientation in (2, 3, 4, 5, 6, 7, 8):
        size = (110, 70) if orientation in (5, 6, 7, 8) else (70, 110)
        add(f"exif{orientation}.jpg", noise(70, 110), annotations(*size), orientation)
    add("crowd.png", noise(60, 90), [annotation([5, 5, 20, 20], crowd=1)])
    add("empty.png", noise(61, 90), [])
    add("flat.png", noise(3, 200), [annotation([10.25, 0.5, 100.0, 2.0])])
    return made


def detectron2_mapper(is_train: bool, **options: Any) -> Any:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.data import DatasetMapper
    from detectron2.data import transforms as T

    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = cfg.INPUT.MIN_SIZE_TEST = options["min_sizes"]
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = options["max_size"]
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = options.get("sampling", "choice")
    cfg.INPUT.RANDOM_FLIP = options.get("flip", "horizontal")
    cfg.INPUT.FORMAT = options.get("image_format", "BGR")
    cfg.MODEL.MASK_ON = "mask_format" in options
    cfg.INPUT.MASK_FORMAT = options.get("mask_format", "polygon")
    if crop := options.get("crop"):
        cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = (
            True,
            crop.kind,
            crop.size,
        )
    if (jitter := options.get("scale_jitter")) and is_train:
        side = (jitter.side, jitter.side)
        steps = [  # of configs/new_baselines
            T.ResizeScale(jitter.low, jitter.high, *side),
            T.FixedSizeCrop(side, seg_pad_value=0),  # 255 would make objects of the padding
            T.RandomFlip(horizontal=True),
        ]
        return DatasetMapper(
            is_train,
            augmentations=steps,
            image_format=cfg.INPUT.FORMAT,
            use_instance_mask=cfg.MODEL.MASK_ON,
            instance_mask_format=cfg.INPUT.MASK_FORMAT,
            recompute_boxes=cfg.MODEL.MASK_ON,
        )
    return DatasetMapper(cfg, is_train)


CASES: dict[str, dict[str, Any]] = {
    "choice": {"min_sizes": (48, 64, 80, 101), "max_size": 133},
    "range": {"min_sizes": (40, 120), "max_size": 150, "sampling": "range"},
    "vertical flip": {"min_sizes": (64, 90), "max_size": 133, "flip": "vertical"},
    "no flip, no resize": {"min_sizes": (0,), "max_size": 133, "flip": "none"},
    "flip, no resize": {"min_sizes": 0, "max_size": 133},
    "gray": {"min_sizes": (48, 64, 80), "max_size": 133, "image_format": "L"},
    "RGB, one size": {"min_sizes": 100, "max_size": 1333, "image_format": "RGB"},
}
SIZES: dict[str, Any] = {"min_sizes": (48, 64, 80), "max_size": 133}
CROP_CASES: dict[str, dict[str, Any]] = {
    "relative": SIZES | {"crop": RandomCrop("relative", (0.5, 0.75))},
    "relative range": SIZES | {"crop": RandomCrop("relative_range", (0.9, 0.3))},
    "absolute": SIZES | {"crop": RandomCrop("absolute", (40, 80))},
    "absolute range": SIZES | {"crop": RandomCrop("absolute_range", (33, 90))},
    "scale jitter": SIZES | {"scale_jitter": ScaleJitter(0.2, 2.0, 96)},
    "gray scale jitter": SIZES
    | {"scale_jitter": ScaleJitter(0.2, 2.0, 96), "image_format": "L", "flip": "horizontal"},
}


@pytest.mark.detectron2
@pytest.mark.parametrize(
    "options", [*CASES.values(), *CROP_CASES.values()], ids=[*CASES, *CROP_CASES]
)
def test_training_samples_equal_detectron2(records: list[Record], options: dict[str, Any]) -> None:
    ours, theirs = DetectionMapper(True, **options), detectron2_mapper(True, **options)
    before = copy.deepcopy(records)
    for seed in range(4):
        np.random.seed(seed)
        random_state = np.random.RandomState(seed)
        for record in records:
            expected, found = theirs(record), ours(record, random_state)
            assert found.keys() == expected.keys()
            assert {
                k: found[k] for k in ("file_name", "height", "width", "image_id")
            }.items() <= record.items()
            assert found["image"].dtype == torch.uint8 and found["image"].is_contiguous()
            assert torch.equal(found["image"], expected["image"])
            assert found["instances"].image_size == expected["instances"].image_size
            boxes, expected_boxes = (
                found["instances"].gt_boxes.tensor,
                expected["instances"].gt_boxes.tensor,
            )
            assert boxes.dtype == torch.float32
            assert torch.equal(boxes, expected_boxes)
            assert torch.equal(found["instances"].gt_classes, expected["instances"].gt_classes)
            assert found["instances"].gt_classes.dtype == torch.int64
        assert random_state.uniform() == np.random.uniform()  # as many draws as detectron2 made
    assert records == before


def add_masks(record: Record, encodings: bool) -> Record:
    """Give each object polygons, some of whole numbers, or some an encoding, if they may."""
    random = np.random.RandomState(record["image_id"])
    height, width = record["height"], record["width"]
    annotations = []
    for number, each in enumerate(record["annotations"]):
        if number % 3 == 1 and (encodings or each["iscrowd"]):
            pixels = (random.rand(height, width) < 0.3).astype(np.uint8)
            mask: Any = pycocotools.mask.encode(np.asfortranarray(pixels))
        else:
            points = [random.uniform(-0.2, 1.1, (n, 2)) * [width, height] for n in (3, 9, 40)]
            parts = [each.round(2).reshape(-1) for each in points[: 1 + number % 3]]
            mask = [part.astype(int).tolist() if number % 2 else part.tolist() for part in parts]
        annotations.append({**each, "segmentation": mask})
    return {**record, "annotations": annotations}


@pytest.mark.detectron2
@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize(
    "case",
    ["choice", "vertical flip", "no flip, no resize", "relative range", "scale jitter"],
)
def test_masks_equal_detectron2(records: list[Record], mask_format: str, case: str) -> None:
    options = {**CASES, **CROP_CASES}[case] | {"mask_format": mask_format}
    if case in CROP_CASES:
        pytest.importorskip("shapely", reason="shapely, which cuts polygons, is not installed")
        # detectron2 fails where an image has no object.
        records = [each for each in records if len(each["annotations"]) > 1]
    ours, theirs = DetectionMapper(True, **options), detectron2_mapper(True, **options)
    compared = 0
    for record in (add_masks(each, encodings=mask_format == "bitmask") for each in records):
        np.random.seed(record["image_id"])
        expected = theirs(record)["instances"]
        found = ours(record, np.random.RandomState(record["image_id"]))["instances"]
        assert torch.equal(found.gt_boxes.tensor, expected.gt_boxes.tensor)
        assert torch.equal(found.gt_classes, expected.gt_classes)
        assert found.has("gt_masks") == expected.has("gt_masks")
        if not found.has("gt_masks"):
            continue
        compared += len(found)
        if mask_format == "bitmask":
            assert torch.equal(found.gt_masks.tensor, expected.gt_masks.tensor)
            continue
        for one, other in zip(found.gt_masks.polygons, expected.gt_masks.polygons, strict=True):
            assert [part.tolist() for part in one] == [part.tolist() for part in other]
    assert compared > 100


def test_masks_that_cannot_be_trained_on_are_refused(records: list[Record]) -> None:
    with pytest.raises(ValueError, match="MASK_FORMAT is 'png'; it is one of polygon, bitmask"):
        DetectionMapper(True, min_sizes=64, max_size=133, mask_format="png")
    mapper = DetectionMapper(True, min_sizes=64, max_size=133, mask_format="polygon")
    with pytest.raises(ValueError, match=r"no segmentation, .* or MODEL.MASK_ON False"):
        mapper(records[0], np.random.RandomState(0))
    with pytest.raises(ValueError, match=r"encoding .*; write INPUT.MASK_FORMAT bitmask"):
        mapper(add_masks(records[0], encodings=True), np.random.RandomState(0))


@pytest.mark.detectron2
@pytest.mark.parametrize("image_format", ["BGR", "L"])
@pytest.mark.parametrize("size", [96, 0])
def test_test_samples_equal_detectron2(records: list[Record], size: int, image_format: str) -> None:
    options: dict[str, Any] = {"min_sizes": size, "max_size": 133, "image_format": image_format}
    ours, theirs = DetectionMapper(False, **options), detectron2_mapper(False, **options)
    for record in records:
        expected, found = theirs(record), ours(record)
        assert (
            found.keys() == expected.keys() == {"file_name", "height", "width", "image_id", "image"}
        )
        assert torch.equal(found["image"], expected["image"])


def test_a_stretch_is_mlperfs(records: list[Record]) -> None:
    """Pixels are those of OpenCV's interpolation, as MLPerf's reference, but for the rounding."""
    options = {"min_sizes": 5, "max_size": 5, "flip": "none", "image_format": "RGB"}
    mapper = DetectionMapper(True, **options, stretch=Stretch(60, 100))
    for record in records[:4]:
        found = mapper(record, np.random.RandomState(0))
        image = read_image(record["file_name"], "RGB").astype(np.float32)
        expected = cv2.resize(image, (100, 60), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(found["image"].permute(1, 2, 0), expected, atol=0.51)
        assert found["image"].dtype == torch.uint8
        kept = [entry for entry in record["annotations"] if not entry["iscrowd"]]
        boxes = torch.tensor([entry["bbox"] for entry in kept], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        boxes = resize_boxes(boxes, (record["height"], record["width"]), (60, 100))
        boxes = clip_boxes_to_image(boxes, (60, 100))
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2] > 1e-5).all(dim=1)]
        torch.testing.assert_close(found["instances"].gt_boxes.tensor, boxes, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"INPUT.STRETCH is \(0, 100\); give height and width"):
        Stretch(0, 100)


def test_boxes_follow_their_pixels() -> None:
    """A bright rectangle is found where its box says, after a resize by 2 and either flip."""
    for direction in ("none", "horizontal", "vertical"):
        steps: list[Step] = [Resize(100, 200, 200, 400)]
        steps += [Flip(direction, 200, 400)] * (direction != "none")
        (box,) = transform_boxes([[10.0, 20.0, 30.0, 5.0]], (200, 400), steps)
        image = np.zeros((100, 200), dtype=np.uint8)
        image[20:25, 10:40] = 1
        image = image.repeat(2, 0).repeat(2, 1)
        image = {"none": image, "horizontal": image[:, ::-1], "vertical": image[::-1]}[direction]
        rows, columns = np.nonzero(image)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_an_extreme_image_keeps_one_pixel() -> None:
    assert ResizeShortestEdge((800,), 1333).compute_size(1, 5000, 800) == (1, 1333)


def test_training_needs_a_generator(records: list[Record]) -> None:
    with pytest.raises(ValueError, match="random_state is None, but training draws"):
        DetectionMapper(True, min_sizes=64, max_size=133)(records[0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sampling": "list"}, "MIN_SIZE_TRAIN_SAMPLING is 'list'; it is one of choice, range"),
        ({"min_sizes": ()}, r"min sizes are \(\); give one or more"),
        ({"min_sizes": (640, -1)}, r"min sizes are \(640, -1\)"),
        ({"max_size": 0}, "max size is 0; give the longest side"),
        ({"sampling": "range", "min_sizes": (1, 2, 3)}, r"\(1, 2, 3\); sampling 'range' takes two"),
        (
            {"sampling": "range", "min_sizes": (9, 2)},
            r"\(9, 2\); sampling 'range' takes two: \(lowest, highest\)",
        ),
        (
            {"flip": "diagonal"},
            "RANDOM_FLIP is 'diagonal'; it is one of horizontal, vertical, none",
        ),
        ({"image_format": "HSV"}, "INPUT.FORMAT is 'HSV'; it is one of BGR, RGB, L"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionMapper(True, **dict[str, Any](min_sizes=(64,), max_size=133) | options)


def test_unsupported_box_mode_is_refused(records: list[Record]) -> None:
    record = records[0] | {"annotations": [annotation([1, 2, 3, 4]) | {"bbox_mode": 0}]}
    with pytest.raises(
        ValueError, match=r"bbox_mode 0 is not supported; give boxes as \[x, y, width, height\]"
    ):
        DetectionMapper(True, min_sizes=64, max_size=133)(record, np.random.RandomState(0))


def test_flip_probability() -> None:
    flip = RandomFlip(probability=0.25)
    flips = [len(flip.draw(np.random.RandomState(seed), 6, 8)) for seed in range(2000)]
    assert 0.2 < np.mean(flips) < 0.3
    assert not RandomFlip("none").draw(np.random.RandomState(0), 6, 8)
