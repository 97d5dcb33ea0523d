"""What the paper says: table 8 (arXiv 1611.05431), and the recipe behind it."""

from __future__ import annotations

from typing import Any

from resnext_det.architecture import Architecture

METRICS = ("AP50", "AP")
"""The columns of table 8: average precision in percent at IoU .50, and over IoU .50 to .95."""

TABLE_8: dict[Architecture, dict[str, float]] = {
    Architecture(50, 1, 64): {"AP50": 47.6, "AP": 26.5},
    Architecture(50, 32, 4): {"AP50": 49.7, "AP": 27.5},
    Architecture(101, 1, 64): {"AP50": 51.1, "AP": 29.8},
    Architecture(101, 32, 4): {"AP50": 51.9, "AP": 30.0},
}
"""The paper's figures: arXiv 1611.05431, table 8."""

MINIVAL = ("coco_2017_val", "coco_2014_minival")
"""The names of the set that table 8 is measured on."""

PAPER_RECIPE: dict[str, Any] = {
    "INPUT.MIN_SIZE_TEST": 600,  # py-faster-rcnn, which the paper builds on; so the next
    "INPUT.MIN_SIZE_TRAIN": [600],
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],  # appendix B, as all that follow
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIPool",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64,
    "SOLVER.BASE_LR": 0.005,
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.MAX_ITER": 180000,
    "SOLVER.STEPS": [120000],
}
"""What bears most on the figures, as the paper has it for Fast R-CNN, its second step."""
