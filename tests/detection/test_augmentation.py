"""Compare the augmentation of a configuration with detectron2's own mapper of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from resnext_det.config.detection import add_own_keys, get_cfg
from resnext_det.detection.datasets import describe_augmentation, train_mapper

CROP = [
    "INPUT.CROP.ENABLED",
    True,
    "INPUT.CROP.TYPE",
    "absolute_range",
    "INPUT.CROP.SIZE",
    [20, 50],
]
JITTER = ["INPUT.SCALE_JITTER", (0.5, 2.0), "INPUT.SCALE_JITTER_SIZE", 64]
COLORS = ["INPUT.COLOR_JITTER", (0.4, 0.4, 0.4, 0.1)]


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    pixels = np.random.RandomState(0).randint(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    boxes = [[3.5, 4.25, 30.0, 20.0], [50, 30, 20, 25]]
    annotations = [{"bbox": box, "bbox_mode": 1, "category_id": 0, "iscrowd": 0} for box in boxes]
    sides = {"height": 60, "width": 80}
    return {"file_name": str(tmp_path / "image.png"), **sides, "annotations": annotations}


def make_config(*changes: Any) -> CfgNode:
    cfg = get_cfg()
    add_own_keys(cfg)
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (40, 48), "INPUT.MAX_SIZE_TRAIN", 100, *changes])
    return cfg


@pytest.mark.detectron2
def test_a_configured_crop_is_detectron2s(record: dict[str, Any]) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg as get_detectron2_cfg
    from detectron2.data import DatasetMapper

    ours, theirs = make_config(*CROP), get_detectron2_cfg()
    theirs.INPUT.update({key: value for key, value in ours.INPUT.items() if key in theirs.INPUT})
    mapper, reference = train_mapper(ours), DatasetMapper(theirs, True)
    for seed in range(10):
        np.random.seed(seed)
        expected, found = reference(record), mapper(record, np.random.RandomState(seed))
        assert torch.equal(found["image"], expected["image"])
        mine, other = (each["instances"].gt_boxes.tensor for each in (found, expected))
        assert torch.equal(mine, other)


def test_jitter_makes_squares_whose_padding_is_not_colored(record: dict[str, Any]) -> None:
    mapper = train_mapper(make_config(*JITTER, *COLORS, "INPUT.RANDOM_FLIP", "none"))
    gray = set()
    for seed in range(8):
        sample = mapper(record, np.random.RandomState(seed))
        again = mapper(record, np.random.RandomState(seed))
        assert torch.equal(sample["image"], again["image"]) and sample["image"].shape == (3, 64, 64)
        gray |= set(sample["image"][:, -1, -1].tolist())
    assert 128 in gray  # the padding, whatever the colors


def test_augmentation_in_words() -> None:
    stretched = describe_augmentation(make_config("INPUT.STRETCH", (40, 60)))
    assert stretched == "all images stretched to 60 x 40 pixels, flip: horizontal"
    assert describe_augmentation(make_config(*CROP)) == (
        "shorter sides of 40, 48 (choice), crops: absolute_range [20, 50], flip: horizontal"
    )
    assert describe_augmentation(make_config(*JITTER, *COLORS)) == (
        "squares of 64 pixels of images scaled by 0.5 to 2.0, color jitter: (0.4, 0.4, 0.4, 0.1), "
        "flip: horizontal"
    )


@pytest.mark.detectron2
def test_our_own_augmentation_is_refused_where_detectron2_loads() -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from resnext_det.detection.detectron2.datasets import open_data

    for changes, key in ((JITTER, "SCALE_JITTER"), (COLORS, "COLOR_JITTER")):
        refused = pytest.raises(ValueError, match=rf"INPUT\.{key} = .* is not honored where")
        with refused, open_data(make_config(*changes), True, None, training=True):
            pass
