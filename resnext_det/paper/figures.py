"""The figures of the paper (arXiv 1611.05431): its tables 3 to 8, and the recipes behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from resnext_det.architecture import Architecture

AVERAGE_PRECISIONS = ("AP50", "AP")
"""The columns of table 8: average precision in percent at IoU .50, and over IoU .50 to .95."""

ERRORS = ("top1", "top5")
"""The columns of tables 3 to 7: errors in percent."""

TABLE_8: dict[Architecture, dict[str, float]] = {
    Architecture(50, 1, 64): {"AP50": 47.6, "AP": 26.5},
    Architecture(50, 32, 4): {"AP50": 49.7, "AP": 27.5},
    Architecture(101, 1, 64): {"AP50": 51.1, "AP": 29.8},
    Architecture(101, 32, 4): {"AP50": 51.9, "AP": 30.0},
}
"""Table 8: Faster R-CNN on COCO minival."""

MINIVAL = ("coco_2017_val", "coco_2014_minival")
"""The names of the set that table 8 is measured on."""

CROP_32, CROP_224, CROP_320 = "crop 32", "crop 224", "crop 320"
"""Protocols: the central crop of so many pixels, which is the whole image of CIFAR."""

DENSE = "dense 224, 256, 384, 480, 640"
"""The protocol of multi-scale dense testing (ResNet, section 3.4)."""


class Setting(NamedTuple):
    """The setting in which a figure was measured, in the paper or by a run.

    Attributes:
        dataset: of a classifier, a key of ``DATASETS`` or the names of other sets; of a detector,
            the name of its test set.
        network: with shortcuts or without.
        protocol: of a classifier, how the images are scored; of a detector, "two-step" (Fast R-CNN
            on the proposals of an RPN trained before it, as in the paper) or "joint". None in a
            row that has only the paper's figures.
        ways: the number of outputs that compete in a classifier; None for a detector.
    """

    dataset: str
    network: Architecture
    protocol: str | None = None
    ways: int | None = None


class Dataset(NamedTuple):
    """The name of a training set, the sets it is tested on, and how many images these have."""

    train: str
    tests: tuple[str, ...]
    test_images: int


DATASETS: dict[str, Dataset] = {
    "imagenet": Dataset("imagenet_train", ("imagenet_val",), 50_000),
    "imagenet5k": Dataset("imagenet5k_train", ("imagenet_val", "imagenet5k_val"), 50_000),
    "cifar10": Dataset("cifar10_train", ("cifar10_test",), 10_000),
    "cifar100": Dataset("cifar100_train", ("cifar100_test",), 10_000),
}


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper on classification.

    Attributes:
        name: such as "Table 3".
        caption: what it shows.
        rows: the errors of each setting, by the names in ``ERRORS``, in the table's order.
        remarks: why its figures are no target for the networks here.
    """

    name: str
    caption: str
    rows: Mapping[Setting, Mapping[str, float]]
    remarks: tuple[str, ...] = ()


def _read_rows(
    dataset: str, ways: int, text: str, protocol: str = CROP_224
) -> dict[Setting, dict[str, float]]:
    """Read rows such as "R-50 23.9, R-101 22.0 6.0": network, top-1 and, where told, top-5."""
    rows = {}
    for row in text.split(","):
        name, *errors = row.split()
        setting = Setting(dataset, Architecture.parse(name), protocol, ways)
        rows[setting] = dict(zip(ERRORS, map(float, errors)))
    return rows


_PREACTIVATION = (
    "the paper's ResNet-200 is that of He et al. 2016 (Identity Mappings), with norm and ReLU "
    "before each convolution; R-200 here has them after it"
)
_DENSE_TESTING = (
    "the paper's figures of dense testing are of an entry to ILSVRC 2016, whose network the text "
    "does not name"
)

TABLES: tuple[PaperTable, ...] = (
    PaperTable(
        "Table 3",
        "cardinality against width at equal complexity, ImageNet-1K",
        _read_rows(
            "imagenet",
            1000,
            "R-50 23.9, X-50-2x40d 23.0, X-50-4x24d 22.6, X-50-8x14d 22.3, X-50-32x4d 22.2,"
            "R-101 22.0, X-101-2x40d 21.7, X-101-4x24d 21.4, X-101-8x14d 21.3, X-101-32x4d 21.2",
        ),
    ),
    PaperTable(
        "Table 4",
        "twice the complexity of ResNet-101, ImageNet-1K",
        _read_rows(
            "imagenet",
            1000,
            "R-101 22.0 6.0, X-101-32x4d 21.2 5.6, R-200 21.7 5.8, X-101-1x100d 21.3 5.7,"
            "X-101-2x64d 20.7 5.5, X-101-64x4d 20.4 5.3",
        ),
        (_PREACTIVATION,),
    ),
    PaperTable(
        "Section 5.1, residual connections",
        "with and without shortcuts, ImageNet-1K",
        _read_rows(
            "imagenet", 1000, "R-50 23.9, R-50-plain 31.2, X-50-32x4d 22.2, X-50-32x4d-plain 26.1"
        ),
    ),
    PaperTable(
        "Table 5",
        "single crops of two sizes, and from the text multi-scale dense testing, ImageNet-1K",
        {
            **_read_rows("imagenet", 1000, "R-101 22.0 6.0, R-200 21.7 5.8"),
            **_read_rows("imagenet", 1000, "R-200 20.1 4.8", CROP_320),
            **_read_rows("imagenet", 1000, "X-101-64x4d 20.4 5.3"),
            **_read_rows("imagenet", 1000, "X-101-64x4d 19.1 4.4", CROP_320),
            **_read_rows("imagenet", 1000, "X-101-64x4d 17.7 3.7", DENSE),
        },
        (_PREACTIVATION, _DENSE_TESTING),
    ),
    PaperTable(
        "Table 6",
        "trained on ImageNet-5K, tested on the validation set of ImageNet-1K",
        {
            **_read_rows("imagenet5k", 5000, "R-50 45.5 19.4"),
            **_read_rows("imagenet5k", 1000, "R-50 27.1 8.2"),
            **_read_rows("imagenet5k", 5000, "X-50-32x4d 42.3 16.8"),
            **_read_rows("imagenet5k", 1000, "X-50-32x4d 24.4 6.6"),
            **_read_rows("imagenet5k", 5000, "R-101 42.4 16.9"),
            **_read_rows("imagenet5k", 1000, "R-101 24.2 6.8"),
            **_read_rows("imagenet5k", 5000, "X-101-32x4d 40.1 15.1"),
            **_read_rows("imagenet5k", 1000, "X-101-32x4d 22.2 5.7"),
        },
    ),
    PaperTable(
        "Table 7",
        "CIFAR-10 and CIFAR-100, the paper's figures being means of 10 runs",
        {
            **_read_rows("cifar10", 10, "X-29-8x64d 3.65", CROP_32),
            **_read_rows("cifar100", 100, "X-29-8x64d 17.77", CROP_32),
            **_read_rows("cifar10", 10, "X-29-16x64d 3.58", CROP_32),
            **_read_rows("cifar100", 100, "X-29-16x64d 17.31", CROP_32),
        },
    ),
)
"""Tables 3 to 7: the networks that ``Architecture`` describes, so no Inception or Wide ResNet."""

_SGD: dict[str, Any] = {
    "SOLVER.BASE_LR": 0.1,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WARMUP_EPOCHS": 0,
    "SOLVER.IMAGES_PER_EPOCH": 0,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.NESTEROV": True,
    "SOLVER.LABEL_SMOOTHING": 0.0,
    "SOLVER.EMA.ENABLED": False,
    "INPUT.MIXUP": 0.0,
    "INPUT.CUTMIX": 0.0,
}
_IMAGENET: dict[str, Any] = {  # section 4, and fb.resnet.torch, to which it refers
    **_SGD,
    "SOLVER.IMS_PER_BATCH": 256,
    "SOLVER.EPOCHS": 100,
    "SOLVER.STEPS": [30, 60, 90],
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_NORM": 1e-4,
    "INPUT.AUGMENTATION": "paper",
    "INPUT.SIZE_TRAIN": 224,
    "INPUT.COLOR_JITTER": 0.4,
    "INPUT.LIGHTING": 0.1,
    "INPUT.INTERPOLATION": "torch7_bicubic",
}
_CIFAR: dict[str, Any] = {  # appendix A
    **_SGD,
    "SOLVER.IMS_PER_BATCH": 128,
    "SOLVER.EPOCHS": 300,
    "SOLVER.STEPS": [150, 225],
    "SOLVER.WEIGHT_DECAY": 5e-4,
    "SOLVER.WEIGHT_DECAY_NORM": 5e-4,
    "INPUT.AUGMENTATION": "cifar",
    "INPUT.SIZE_TRAIN": 32,
    "INPUT.PADDING": 4,
}
RECIPES: dict[str, dict[str, Any]] = {
    "imagenet": _IMAGENET,
    # As many mini-batches as ImageNet-1K has (section 5.2): an epoch has as many images, a fifth
    # of them all.
    "imagenet5k": {**_IMAGENET, "SOLVER.IMAGES_PER_EPOCH": 1_281_167},
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
}
"""The keys that matter most for the errors, by dataset; the learning rate is for that batch."""

DETECTION_RECIPE: dict[str, Any] = {
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
"""The keys that matter most for table 8, for Fast R-CNN, the second step of the paper."""
