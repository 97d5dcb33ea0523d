"""A detector and datasets so small that a training takes seconds, and helpers of the tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from resnext_det.data.shapes import generate_shapes
from resnext_det.instances import Boxes, Instances
from resnext_det.masks import BitMasks, PolygonMasks, rasterize_polygons

TRAIN_IMAGES, VAL_IMAGES = 12, 5

STAGES = ["res2", "res3", "res4", "res5"]
RESNETS = {"DEPTH": 26, "NUM_GROUPS": 2, "WIDTH_PER_GROUP": 4, "STRIDE_IN_1X1": False, "NORM": "BN"}
SMALL = {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 16}
RPN = {
    "PRE_NMS_TOPK_TRAIN": 60,
    "PRE_NMS_TOPK_TEST": 60,
    "POST_NMS_TOPK_TRAIN": 30,
    "POST_NMS_TOPK_TEST": 20,
}

FPN: dict[str, Any] = {
    "MODEL": {
        "DEVICE": "cpu",
        "PIXEL_STD": [57.375, 57.12, 58.395],
        "BACKBONE": {"NAME": "build_resnext_fpn_backbone", "FREEZE_AT": 0},
        "RESNETS": {**RESNETS, **SMALL, "OUT_FEATURES": STAGES},
        "FPN": {"IN_FEATURES": STAGES, "OUT_CHANNELS": 16},
        "ANCHOR_GENERATOR": {"SIZES": [[12], [24], [48]], "ASPECT_RATIOS": [[1.0]]},
        "RPN": {**RPN, "IN_FEATURES": ["p3", "p4", "p5"], "BATCH_SIZE_PER_IMAGE": 32},
        "ROI_HEADS": {
            "NAME": "StandardROIHeads",
            "IN_FEATURES": ["p2", "p3"],
            "NUM_CLASSES": 6,
            "BATCH_SIZE_PER_IMAGE": 16,
            "SCORE_THRESH_TEST": 0.02,
        },
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead",
            "NUM_FC": 1,
            "FC_DIM": 32,
            "POOLER_RESOLUTION": 3,
        },
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": [48, 64],
        "MAX_SIZE_TRAIN": 96,
        "MIN_SIZE_TEST": 64,
        "MAX_SIZE_TEST": 96,
    },
    "DATASETS": {"TRAIN": ["tiny_train"], "TEST": ["tiny_val"]},
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {
        "IMS_PER_BATCH": 2,
        "BASE_LR": 0.02,
        "STEPS": [8],
        "WARMUP_ITERS": 4,
        "MAX_ITER": 10,
        "CHECKPOINT_PERIOD": 2,
    },
    "SEED": 3,
}


def override(node: str, **values: Any) -> list[Any]:
    """List the values of a configuration's node as KEY VALUE pairs."""
    return [word for key, value in values.items() for word in (f"{node}.{key}", value)]


WIDE: list[Any] = override(
    "MODEL.RESNETS", NORM="GN", NUM_GROUPS=8, STEM_OUT_CHANNELS=32, RES2_OUT_CHANNELS=64
)
"""Changes of ``FPN`` to a network whose group norms have enough channels."""

FROZEN_WIDE: list[Any] = [*WIDE, *override("MODEL.RESNETS", NORM="FrozenBN")]
"""Changes of ``FPN`` to the same network with frozen norms."""

C4_CHANGES: list[Any] = [
    *override("MODEL.BACKBONE", NAME="build_resnext_backbone"),
    *override("MODEL.RESNETS", OUT_FEATURES=["res4"]),
    *override("MODEL.RPN", IN_FEATURES=["res4"]),
    *override("MODEL.ROI_HEADS", IN_FEATURES=["res4"]),
    *override("MODEL.ANCHOR_GENERATOR", SIZES=[[12, 24, 48]]),
    *override("MODEL.ROI_HEADS", NAME="Res5ROIHeads"),
    *override("MODEL.ROI_BOX_HEAD", NAME="", NUM_FC=0, POOLER_RESOLUTION=4),
]
"""Changes of ``FPN`` to the paper's detector."""

DC5_CHANGES: list[Any] = [
    *override("MODEL.BACKBONE", NAME="build_resnext_backbone"),
    *override("MODEL.RESNETS", OUT_FEATURES=["res5"], RES5_DILATION=2),
    *override("MODEL.RPN", IN_FEATURES=["res5"]),
    *override("MODEL.ROI_HEADS", IN_FEATURES=["res5"]),
    *override("MODEL.ANCHOR_GENERATOR", SIZES=[[12, 24, 48]]),
]
"""Changes of ``FPN`` to the detector whose last stage is dilated."""

CASCADE_CHANGES: list[Any] = [
    *override("MODEL.ROI_HEADS", NAME="CascadeROIHeads"),
    *override("MODEL.ROI_BOX_HEAD", CLS_AGNOSTIC_BBOX_REG=True),
]
"""Changes of a detector with ``StandardROIHeads`` to Cascade R-CNN."""

MASKS: list[Any] = [
    *override("MODEL", MASK_ON=True),
    *override("MODEL.ROI_MASK_HEAD", NUM_CONV=1, CONV_DIM=16, POOLER_RESOLUTION=6),
]
"""Changes of ``FPN`` and of DC5 to a detector with masks."""

C4_MASKS: list[Any] = [
    *C4_CHANGES,
    *override("MODEL", MASK_ON=True),
    *override("MODEL.ROI_MASK_HEAD", CONV_DIM=16),
]
"""Changes of ``FPN`` to the paper's detector with masks."""

RETINANET_CHANGES: list[Any] = [
    *override("MODEL", META_ARCHITECTURE="RetinaNet"),
    *override("MODEL.BACKBONE", NAME="build_retinanet_resnext_fpn_backbone"),
    *override("MODEL.FPN", IN_FEATURES=["res3", "res4", "res5"]),
    *override("MODEL.ANCHOR_GENERATOR", SIZES=[[12], [24], [48], [96], [192]]),
    *override("MODEL.RETINANET", NUM_CLASSES=6, NUM_CONVS=1, SCORE_THRESH_TEST=0.0),
]
"""Changes of ``FPN`` to RetinaNet."""

EXHAUSTIVE: list[Any] = [
    *override("MODEL.RPN", BATCH_SIZE_PER_IMAGE=100000, LOSS_WEIGHT=1000.0, NMS_THRESH=1.0),
    *override("MODEL.RPN", PRE_NMS_TOPK_TRAIN=100000, POST_NMS_TOPK_TRAIN=100000),
    *override("MODEL.ROI_HEADS", BATCH_SIZE_PER_IMAGE=100000),
]
"""Changes that train on every anchor and region, so that losses are means over all of them."""


def write_config(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write ``tiny.yaml``: ``FPN``, with the top-level keys of ``changes`` in place of its own."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**FPN, **(changes or {})}))
    return path


def write_sets(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Generate tiny_train and tiny_val: {name: (annotations, images)}."""
    return {
        f"tiny_{split}": generate_shapes(folder, split=split, num_images=number, seed=1)
        for split, number in (("train", TRAIN_IMAGES), ("val", VAL_IMAGES))
    }


def as_flags(sets: dict[str, tuple[Path, Path]]) -> list[str]:
    """Write datasets as the tools' ``--register-coco``."""
    return [
        word for name, paths in sets.items() for word in ("--register-coco", name, *map(str, paths))
    ]


def as_datasets(
    sets: dict[str, tuple[Path, Path]], prefix: str = ""
) -> tuple[tuple[str, str, str], ...]:
    """Write datasets as a job's ``datasets``, with ``prefix`` before their names."""
    return tuple(
        (f"{prefix}{name}", str(file), str(images)) for name, (file, images) in sets.items()
    )


def as_overrides(changes: Iterable[Any]) -> list[str]:
    """Write KEY VALUE pairs as they stand on a command line."""
    return [str(word) for word in changes]


def draw_sample(
    generator: torch.Generator, height: int, width: int, boxes: list[list[float]], channels: int = 3
) -> dict[str, Any]:
    """Draw a mapped sample: noise, with bright boxes of class 0, 1 ..."""
    image = torch.randint(0, 120, (channels, height, width), dtype=torch.uint8, generator=generator)
    for x0, y0, x1, y1 in boxes:
        image[:, int(y0) : int(y1), int(x0) : int(x1)] += 100
    truth = Instances(
        (height, width),
        gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
        gt_classes=torch.arange(len(boxes)) % 8,
    )
    return {"file_name": f"{height}x{width}", "image": image, "instances": truth}


def add_masks(sample: dict[str, Any], *, as_bitmaps: bool = False) -> dict[str, Any]:
    """Add an octagon in the box of each object, of every second one a triangle too.

    As the mapper's, instances without an object get no masks.
    """
    truth = sample["instances"]
    angles = torch.arange(8) * (torch.pi / 4) + 0.1
    circle = torch.stack([torch.cos(angles), torch.sin(angles)], dim=1).double()
    polygons = []
    for index, (x0, y0, x1, y1) in enumerate(truth.gt_boxes.tensor.tolist()):
        center, radius = torch.tensor([x0 + x1, y0 + y1]) / 2, torch.tensor([x1 - x0, y1 - y0]) / 2
        octagon = (center + circle * radius * (0.8 if index % 2 else 1)).flatten().numpy()
        triangle = np.array([x0, y0, x1, y0, x0, y1])
        polygons.append([octagon, triangle] if index % 2 else [octagon])
    if polygons:
        masks = PolygonMasks(polygons)
        truth.gt_masks = masks
        if as_bitmaps:
            drawn = [rasterize_polygons(one, *truth.image_size) for one in polygons]
            truth.set("gt_masks", BitMasks(np.stack(drawn)))
    return sample


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; NaN and Infinity, which are no JSON, are errors."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in {path}")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
