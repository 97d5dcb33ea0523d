"""Test the recipes of configs/classification/ and configs/miniature/ against the paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from resnext_det.architecture import Architecture
from resnext_det.classification.build import build_classifier, read_optimizer_settings
from resnext_det.config import load_config
from resnext_det.config.backbone import ARCHITECTURE_KEYS, read_architecture
from resnext_det.config.classification import load_classifier_config
from resnext_det.config.rules import get_value
from resnext_det.training.optimizer import build_optimizer

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(
    path for path in (CONFIGS / "classification").glob("*/*.yaml") if path.parent.name != "base"
)
MINIATURE = sorted((CONFIGS / "miniature").glob("*/classifier_*_*x*.yaml"))

# Parameters, with the classes of the set, of every row of tables 3 to 7 and section 5.1.
NETS = {
    "imagenet": {
        "R50_1x64d": 25_557_032,
        "X50_2x40d": 25_425_000,
        "X50_4x24d": 25_292_968,
        "X50_8x14d": 25_603_016,
        "X50_32x4d": 25_028_904,
        "R101_1x64d": 44_549_160,
        "X101_2x40d": None,
        "X101_4x24d": None,
        "X101_8x14d": None,
        "X101_32x4d": 44_177_704,
        "R200_1x64d": None,
        "X101_1x100d": 85_611_336,
        "X101_2x64d": 84_198_184,
        "X101_64x4d": 83_455_272,
    },
    "no_shortcuts": {"R50_1x64d": None, "X50_32x4d": None},
    "imagenet5k": dict.fromkeys(("R50_1x64d", "X50_32x4d", "R101_1x64d", "X101_32x4d")),
    "cifar10": {"X29_8x64d": 34_426_698, "X29_16x64d": 68_155_210},
    "cifar100": {"X29_8x64d": None, "X29_16x64d": None},
    "modern": dict.fromkeys(("R50_1x64d", "X50_32x4d", "R101_1x64d", "X101_32x4d")),
    "finetune": dict.fromkeys(("R50_1x64d", "X50_32x4d", "R101_1x64d", "X101_32x4d")),
}
# facts of section 4, section 5.2 and appendix A
PAPER = {
    "imagenet": {
        "SOLVER.IMS_PER_BATCH": 256,
        "SOLVER.BASE_LR": 0.1,
        "SOLVER.STEPS": (30, 60, 90),
        "SOLVER.EPOCHS": 100,
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.NESTEROV": True,
        "SOLVER.WEIGHT_DECAY": 1e-4,
        "SOLVER.WEIGHT_DECAY_NORM": None,
        "SOLVER.LABEL_SMOOTHING": 0.0,
        "SOLVER.WARMUP_EPOCHS": 0,
        "SOLVER.EMA.ENABLED": False,
        "INPUT.AUGMENTATION": "paper",
        "INPUT.SIZE_TRAIN": 224,
        "INPUT.RESIZE_TEST": 256,
        "INPUT.SIZE_TEST": 224,
        "INPUT.COLOR_JITTER": 0.4,
        "INPUT.LIGHTING": 0.1,
        "INPUT.INTERPOLATION": "torch7_bicubic",
        "INPUT.FORMAT": "RGB",
        "INPUT.MIXUP": 0.0,
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    },
    "cifar": {
        "SOLVER.IMS_PER_BATCH": 128,
        "SOLVER.BASE_LR": 0.1,
        "SOLVER.STEPS": (150, 225),
        "SOLVER.EPOCHS": 300,
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.NESTEROV": True,
        "SOLVER.WEIGHT_DECAY": 5e-4,
        "SOLVER.WEIGHT_DECAY_NORM": None,
        "SOLVER.WARMUP_EPOCHS": 0,
        "INPUT.AUGMENTATION": "cifar",
        "INPUT.PADDING": 4,
        "INPUT.SIZE_TRAIN": 32,
        "INPUT.SIZE_TEST": 32,
    },
}
PAPER["no_shortcuts"] = PAPER["imagenet"]
PAPER["imagenet5k"] = {**PAPER["imagenet"], "SOLVER.IMAGES_PER_EPOCH": 1_281_167}
PAPER["cifar10"] = {**PAPER["cifar"], "MODEL.PIXEL_MEAN": [125.3, 123.0, 113.9]}
PAPER["cifar100"] = {**PAPER["cifar"], "MODEL.PIXEL_MEAN": [129.3, 124.1, 112.4]}


def get_name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def test_every_row_of_the_tables_has_its_recipe() -> None:
    found: dict[str, set[str]] = {}
    for path in RECIPES:
        found.setdefault(path.parent.name, set()).add(path.stem)
    assert found == {folder: set(nets) for folder, nets in NETS.items()}


@pytest.mark.parametrize("path", RECIPES, ids=get_name)
def test_it_is_the_papers_recipe_of_the_net_of_its_name(path: Path) -> None:
    cfg = load_classifier_config(path)
    folder = path.parent.name
    for key, value in PAPER.get(folder, {}).items():
        found = get_value(cfg, key)
        assert (list(found) if isinstance(found, list) else found) == value, key
    architecture = read_architecture(cfg.MODEL.RESNETS)
    plain = "-plain" if folder == "no_shortcuts" else ""
    assert architecture == Architecture.parse(re.sub(r"[RX](\d+)_", r"X-\1-", path.stem) + plain)
    classes = {"imagenet5k": 5000, "cifar10": 10, "cifar100": 100, "finetune": 0}.get(folder, 1000)
    assert classes == cfg.MODEL.NUM_CLASSES
    with torch.device("meta"):
        network = build_classifier(cfg, classes or 3)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == architecture.num_parameters(classes or 3)
    assert NETS[folder][path.stem] in (None, count)
    assert Path(cfg.OUTPUT_DIR) == Path("output/classification", folder, path.stem)
    groups = build_optimizer(network, read_optimizer_settings(cfg)).param_groups
    decayed = {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in groups}
    if folder != "modern":  # every parameter alike, batch norms and biases too
        assert decayed == {cfg.SOLVER.WEIGHT_DECAY: count}
    else:
        norms = sum(2 * layer.out_channels for layer in architecture.convolutions())
        assert decayed == {2e-5: count - norms, 0.0: norms}


@pytest.mark.parametrize("path", MINIATURE, ids=get_name)
def test_a_miniatures_detector_is_of_its_classifiers_net(path: Path) -> None:
    cfg = load_classifier_config(path)
    name = path.stem.removeprefix("classifier_")
    detectors = list(path.parent.glob(f"faster_rcnn_{name}*.yaml"))
    assert len(detectors) == (3 if path.parent.name == "heads" else 1)
    keys = (*ARCHITECTURE_KEYS, "STRIDE_IN_1X1")
    for detector in map(load_config, detectors):
        assert [cfg.MODEL.RESNETS[k] for k in keys] == [detector.MODEL.RESNETS[k] for k in keys]
        assert cfg.INPUT.FORMAT == detector.INPUT.FORMAT
        assert list(cfg.MODEL.PIXEL_MEAN) == list(detector.MODEL.PIXEL_MEAN)
        assert list(cfg.MODEL.PIXEL_STD) == list(detector.MODEL.PIXEL_STD)
    resnets = cfg.MODEL.RESNETS
    template = f"{resnets.DEPTH}_{resnets.NUM_GROUPS}x{resnets.WIDTH_PER_GROUP}d"
    assert name == f"{'R' if resnets.NUM_GROUPS == 1 else 'X'}{template}"


@pytest.mark.parametrize("size", ["cpu", "heads", "gpu"])
def test_the_nets_of_a_miniature_are_of_equal_complexity(size: str) -> None:
    nets: dict[int, list[int]] = {}
    for path in MINIATURE:
        if path.parent.name == size:
            architecture = read_architecture(load_classifier_config(path).MODEL.RESNETS)
            nets.setdefault(architecture.depth, []).append(architecture.multiply_adds(64, 64, 6))
    assert set(nets) == ({50, 101} if size == "gpu" else {26})
    for counts in nets.values():
        assert len(counts) == 2 and max(counts) < 1.05 * min(counts)
