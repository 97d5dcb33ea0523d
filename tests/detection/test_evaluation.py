"""Evaluation of a detector: how many of its detections count, and what the numbers are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_utils
from torch import Tensor, nn

from resnext_det.config import get_cfg, load_config
from resnext_det.config.loading import override_config
from resnext_det.data.coco import CocoDataset, load_coco, register_coco
from resnext_det.detection.datasets import test_mapper as build_mapper
from resnext_det.detection.evaluation import evaluate_all, evaluate_on, flatten_metrics
from resnext_det.detection.portable.build import build_detector
from resnext_det.instances import Boxes, Instances
from tests.detection.detectron2_reference import build_detectron2_detector, randomize
from tests.detection.helpers import (
    C4_MASKS,
    CASCADE_CHANGES,
    MASKS,
    RETINANET_CHANGES,
    as_overrides,
    write_config,
)


class Perfect(nn.Module):
    """Give the objects, as a perfect detector that has no limit would."""

    def __init__(self, boxes: Tensor, masks: Tensor | None = None) -> None:
        super().__init__()
        self.boxes, self.masks = boxes, masks

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        number = len(self.boxes)
        found = Instances(
            (400, 1600),
            pred_boxes=Boxes(self.boxes),
            scores=torch.linspace(0.9, 0.5, number),
            pred_classes=torch.zeros(number, dtype=torch.int64),
        )
        if self.masks is not None:
            found.pred_masks = self.masks
        return [{"instances": found} for _ in batch]


@pytest.fixture
def dense(tmp_path: Path, alone: None) -> tuple[CocoDataset, Perfect]:
    """Make an image with 150 objects, and the detector that finds them all."""
    Image.new("RGB", (1600, 400)).save(tmp_path / "1.png")
    boxes = [[40 * (k % 40), 40 * (k // 40), 30, 30] for k in range(150)]
    annotations = [
        {"id": k, "image_id": 1, "category_id": 1, "bbox": box, "area": 900, "iscrowd": 0}
        for k, box in enumerate(boxes, 1)
    ]
    content = {
        "images": [{"id": 1, "width": 1600, "height": 400, "file_name": "1.png"}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": annotations,
    }
    (tmp_path / "dense.json").write_text(json.dumps(content))
    register_coco("dense", tmp_path / "dense.json", tmp_path)
    corners = torch.tensor(boxes, dtype=torch.float32)
    corners[:, 2:] += corners[:, :2]
    return load_coco("dense"), Perfect(corners)


@pytest.mark.parametrize(
    ("given", "AP", "task", "recall"),
    [
        # 67 of the 101 recalls (0, .01 ... .66) are reached with 100 of 150 objects.
        (100, 100 * 67 / 101, "bbox", ("AR100", 100 * 100 / 150)),
        (50, 100 * 67 / 101, "bbox", ("AR100", 100 * 100 / 150)),
        (300, 100, "bbox@300", ("AR300", 100)),
        (-1, 100, "bbox@150", ("AR150", 100)),
    ],
)
def test_as_many_detections_count_as_the_configuration_sets(
    given: int,
    AP: float,
    task: str,
    recall: tuple[str, float],
    dense: tuple[CocoDataset, Perfect],
    tmp_path: Path,
) -> None:
    dataset, model = dense
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.TEST.DETECTIONS_PER_IMAGE = given
    found = evaluate_all(cfg, model, [dataset])
    assert flatten_metrics(found)[f"{task}/AP"] == pytest.approx(AP)
    written = json.loads((tmp_path / "out/inference/metrics.json").read_text())
    assert written[recall[0]] == pytest.approx(recall[1])
    limit = int(recall[0][2:])
    assert written.get("max_detections", 100) == limit
    told = f"at most {limit} detections an image" in found["dense"].summarize()
    assert told == (limit != 100)
    results = json.loads((tmp_path / "out/inference/coco_instances_results.json").read_text())
    assert len(results) == 150


def test_masks_have_numbers_files_and_names(
    dense: tuple[CocoDataset, Perfect], tmp_path: Path
) -> None:
    dataset, model = dense
    content = json.loads(dataset.annotations_file.read_text())
    masks = torch.zeros(150, 400, 1600, dtype=torch.bool)
    for mask, entry in zip(masks, content["annotations"]):
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        mask[y : y + h, x : x + w // 2 + 6] = True  # 0.7 of the object
    dataset.annotations_file.write_text(json.dumps(content))
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.DATALOADER.NUM_WORKERS = 0
    found = evaluate_all(cfg, Perfect(model.boxes, masks), [dataset])
    numbers = flatten_metrics(found)
    assert numbers["segm/AP50"] == numbers["bbox/AP"] == pytest.approx(100 * 67 / 101)
    assert numbers["segm/AP"] == pytest.approx(50 * 67 / 101)  # of IoU .5, .55 ... .7
    assert numbers["segm/AP75"] == 0
    written = json.loads((tmp_path / "out/inference/metrics.json").read_text())
    assert written["segm-AP50"] == numbers["segm/AP50"]
    (row, *_) = json.loads((tmp_path / "out/inference/coco_instances_results.json").read_text())
    assert row["segmentation"]["size"] == [400, 1600]


def test_without_a_limit_all_detections_count(
    dense: tuple[CocoDataset, Perfect], tmp_path: Path
) -> None:
    dataset, model = dense
    mapper = build_mapper(get_cfg())
    metrics = evaluate_on(model, dataset, mapper=mapper, num_workers=0, output_dir=tmp_path / "o")
    assert metrics is not None
    assert metrics.summarize().startswith("AP 100.0, AP50 100.0 (at most 150 detections")


class Watched(nn.Module):
    """Note the sizes of the images in every batch that a detector gets."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector
        self.batches: list[list[tuple[int, ...]]] = []

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        self.batches.append([tuple(sample["image"].shape) for sample in batch])
        return self.detector(batch)


BATCHED: dict[str, list[Any]] = {
    "FPN": [],
    "masks": MASKS,
    "masks, C4": C4_MASKS,
    "cascade": CASCADE_CHANGES,
    "masks, cascade": [*MASKS, *CASCADE_CHANGES],
    "RetinaNet": RETINANET_CHANGES,
}


@pytest.mark.parametrize("family", BATCHED)
def test_batches_of_one_size_change_nothing_but_rounding(
    tmp_path: Path, alone: None, engine: str, family: str
) -> None:
    """Results come in the order of the images, whatever images stand together."""
    sizes = [(96, 64), (64, 96), (96, 64), (96, 64), (64, 96), (64, 80)]
    random = np.random.RandomState(0)
    images = []
    for k, (height, width) in enumerate(sizes, 1):
        pixels = random.randint(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        images.append({"id": k, "width": width, "height": height, "file_name": f"{k}.png"})
    box = {"category_id": 1, "bbox": [8, 8, 30, 30], "area": 900, "iscrowd": 0}
    box["segmentation"] = [[8, 8, 38, 8, 38, 38, 8, 38]]
    content = {
        "images": images,
        "categories": [{"id": k, "name": str(k)} for k in range(1, 7)],
        "annotations": [{"id": k, "image_id": k, **box} for k in range(1, 7)],
    }
    (tmp_path / "sizes.json").write_text(json.dumps(content))
    register_coco("sizes", tmp_path / "sizes.json", tmp_path)
    changes = as_overrides([*BATCHED[family], "TEST.DETECTIONS_PER_IMAGE", 5])
    cfg = load_config(write_config(tmp_path), changes)
    model: nn.Module = build_detector(cfg)
    randomize(model)
    if engine == "detectron2":
        from resnext_det.detection.detectron2.evaluation import _Converting

        theirs = build_detectron2_detector(cfg)
        theirs.load_state_dict(model.state_dict())
        model = _Converting(theirs)
    detector = Watched(model)
    rows = {}
    for images_at_a_time in (1, 2):
        folder = tmp_path / str(images_at_a_time)
        words = ["TEST.IMS_PER_BATCH", images_at_a_time, "OUTPUT_DIR", str(folder)]
        detector.batches.clear()
        evaluate_all(override_config(cfg, words), detector, [load_coco("sizes")])
        text = (folder / "inference/coco_instances_results.json").read_text()
        rows[images_at_a_time] = json.loads(text)
    assert [len(batch) for batch in detector.batches] == [2, 2, 1, 1]
    assert all(len(set(batch)) == 1 for batch in detector.batches)
    alone_rows, together = rows.values()
    names = ("image_id", "category_id")
    assert [[row[name] for name in names] for row in alone_rows] == [
        [row[name] for name in names] for row in together
    ]
    assert len(alone_rows) > 5 and [row["image_id"] for row in together] == sorted(
        row["image_id"] for row in together
    )
    if cfg.MODEL.MASK_ON:
        assert any(mask_utils.area(row["segmentation"]) > 0 for row in alone_rows)
    for one, other in zip(alone_rows, together):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert ("segmentation" in one) == cfg.MODEL.MASK_ON
        if cfg.MODEL.MASK_ON:
            masks = [mask_utils.decode(row["segmentation"]) for row in (one, other)]
            assert (masks[0] != masks[1]).mean() < 0.001
