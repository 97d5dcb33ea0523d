"""Classifiers and a set of images so small that a training takes seconds."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from resnext_det.architecture import Architecture
from resnext_det.classification.jobs import ClassificationJob, Pretrained, pretrain
from resnext_det.config.backbone import write_architecture
from resnext_det.resnext import ResNeXtClassifier

CLASSES = ("dark", "middle", "light")
IMAGES = {"train": 8, "val": 3}  # of a class
BATCH = 6
EPOCH = 4  # 24 images in batches of 6

NETWORK = Architecture(26, 2, 4, stem_channels=32, res2_channels=32)
RESNETS = {**write_architecture(NETWORK), "NORM": "BN"}
CONFIG: dict[str, Any] = {
    "MODEL": {"DEVICE": "cpu", "RESNETS": RESNETS},
    "INPUT": {
        "SIZE_TRAIN": 32,
        "SIZE_TEST": 32,
        "RESIZE_TEST": 36,
        "COLOR_JITTER": 0.4,
        "LIGHTING": 0.1,
    },
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {
        "EPOCHS": 3,
        "IMS_PER_BATCH": BATCH,
        "BASE_LR": 0.02,
        "STEPS": [2],
        "CHECKPOINTS_KEPT": 9,
    },
    "SEED": 5,
}


def write_images(root: Path, classes: Sequence[str] = CLASSES) -> Path:
    """Write ``root/train`` and ``root/val``: noise around a class's brightness, 40 x 48 pixels."""
    random = np.random.RandomState(7)
    for split, number in IMAGES.items():
        for k, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                image = (60 + 60 * k + random.normal(0, 30, (40, 48, 3))).clip(0, 255)
                cv2.imwrite(str(folder / f"{i}.png"), image.astype(np.uint8))
    return root


def write_config(folder: Path, images: Path, **changes: dict[str, Any]) -> Path:
    """Write ``tiny.yaml``: ``CONFIG``, with the keys of ``changes`` in its top nodes."""
    nodes = copy.deepcopy(CONFIG)
    nodes["DATASETS"] = {"TRAIN": str(images / "train"), "TEST": str(images / "val")}
    for name, change in changes.items():
        nodes[name].update(change)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(nodes))
    return path


def run(config: Path, output_dir: Path, *overrides: object, **options: Any) -> Pretrained:
    """Train; within this process, unless there are several."""
    return pretrain(ClassificationJob(config, output_dir, tuple(map(str, overrides)), **options))


def run_killed(config: str, output_dir: str, overrides: tuple[str, ...], iteration: int) -> None:
    """Train, and die by SIGKILL right after an iteration and what follows it."""
    from resnext_det.training import metrics

    write = metrics.MetricsWriter.__call__

    def write_and_die(self: Any, step: Any) -> None:
        write(self, step)
        if step.iteration == iteration:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    metrics.MetricsWriter.__call__ = write_and_die  # type: ignore[method-assign]
    run(Path(config), Path(output_dir), *overrides)


def run_killed_in_test(
    config: str, output_dir: str, overrides: tuple[str, ...], count: int
) -> None:
    """Train, and die by SIGKILL at the beginning of a test, after ``count`` others."""
    from resnext_det.classification import training

    evaluate, tests = training.evaluate_on, iter(range(count))

    def evaluate_or_die(*args: Any, **options: Any) -> Any:
        if next(tests, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluate(*args, **options)

    torch.set_num_threads(1)
    training.evaluate_on = evaluate_or_die
    run(Path(config), Path(output_dir), *overrides)


def make_network(
    num_classes: int, norm: str = "BN", architecture: Architecture = NETWORK
) -> ResNeXtClassifier:
    """Make a classifier in evaluation mode, all of whose numbers are random."""
    torch.manual_seed(3)
    network = ResNeXtClassifier(architecture, num_classes, norm)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        network.linear.weight.normal_(0, 1)
    return network.eval()
