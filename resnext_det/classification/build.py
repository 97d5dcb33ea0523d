"""Build the parts of a classifier's training from its configuration."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from resnext_det.classification.protocols import EvaluationProtocol, make_protocol
from resnext_det.config.backbone import read_architecture
from resnext_det.config.rules import read_settings
from resnext_det.data.images.augmentation import CifarAugmentation, PaperAugmentation
from resnext_det.data.images.loaders import Augmentation
from resnext_det.data.images.modern_augmentation import Mixing, ModernAugmentation
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.training.optimizer import OptimizerSettings
from resnext_det.training.schedule import ScheduleSettings
from resnext_det.weights import Preprocessing

logger = logging.getLogger(__name__)


def build_classifier(cfg: CfgNode, num_classes: int) -> ResNeXtClassifier:
    """Build a classifier with random weights, in form C."""
    resnets = cfg.MODEL.RESNETS
    return ResNeXtClassifier(
        read_architecture(resnets), num_classes, resnets.NORM, stride_in_1x1=resnets.STRIDE_IN_1X1
    )


class Objective(nn.Module):
    """Compute the loss of a batch, the mean cross entropy.

    Args:
        classifier: the network to train.
        label_smoothing: part of a label that is shared out among all classes.
    """

    def __init__(self, classifier: nn.Module, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.classifier = classifier
        self.label_smoothing = label_smoothing

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute {"loss_cls": scalar} of a batch of the loader.

        Args:
            batch: ``images`` (N, 3, H, W), and ``labels`` (N,), or (N, classes) of mixed images.
        """
        weight = next(self.classifier.parameters())
        images = batch["images"].to(weight, non_blocking=True)
        labels = batch["labels"].to(weight.device, non_blocking=True)
        logits = self.classifier(images)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        return {"loss_cls": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}


def build_augmentation(cfg: CfgNode) -> Augmentation:
    """Build what makes a training image from a photograph, by ``INPUT.AUGMENTATION``."""
    image, size = cfg.INPUT, cfg.INPUT.SIZE_TRAIN
    common: dict[str, Any] = {
        "mean": cfg.MODEL.PIXEL_MEAN,
        "std": cfg.MODEL.PIXEL_STD,
        "channel_order": image.FORMAT,
    }
    if image.AUGMENTATION == "cifar":
        return CifarAugmentation(size, image.PADDING, **common)
    common["interpolation"] = image.INTERPOLATION
    if image.AUGMENTATION == "modern":
        policy, erasing = image.AUTO_AUGMENT, image.RANDOM_ERASING
        return ModernAugmentation(size, policy=policy, random_erasing=erasing, **common)
    return PaperAugmentation(
        size, color_jitter=image.COLOR_JITTER, lighting=image.LIGHTING, **common
    )


def build_mixing(cfg: CfgNode, num_classes: int) -> Mixing | None:
    """Build MixUp and CutMix of a batch; None where both are off."""
    image = cfg.INPUT
    return Mixing(num_classes, image.MIXUP, image.CUTMIX) if image.MIXUP or image.CUTMIX else None


def build_protocol(cfg: CfgNode) -> EvaluationProtocol:
    """Build the test of a training: the central crop."""
    return make_protocol(
        "center",
        get_preprocessing(cfg),
        size=cfg.INPUT.SIZE_TEST,
        resize=cfg.INPUT.RESIZE_TEST,
        interpolation=cfg.INPUT.INTERPOLATION,
    )


def get_preprocessing(cfg: CfgNode) -> Preprocessing:
    """Get the preprocessing that a detector's images need for the weights of this training."""
    return Preprocessing(
        cfg.INPUT.FORMAT,
        tuple(cfg.MODEL.PIXEL_MEAN),
        tuple(cfg.MODEL.PIXEL_STD),
        stride_in_1x1=cfg.MODEL.RESNETS.STRIDE_IN_1X1,
        batch_norm="none" if cfg.MODEL.RESNETS.NORM == "GN" else "statistics",
    )


def count_iterations(cfg: CfgNode, num_images: int) -> int:
    """Count the batches of an epoch: of all images, or of ``SOLVER.IMAGES_PER_EPOCH``.

    The last batch is filled up with images of the next epoch.
    """
    return math.ceil((cfg.SOLVER.IMAGES_PER_EPOCH or num_images) / cfg.SOLVER.IMS_PER_BATCH)


def scale_learning_rate(cfg: CfgNode) -> float:
    """Scale ``BASE_LR`` from batches of ``REFERENCE_BATCH`` images to the batch, and log that.

    ``REFERENCE_BATCH`` 0 leaves it as it is.
    """
    solver = cfg.SOLVER
    if solver.REFERENCE_BATCH in (0, solver.IMS_PER_BATCH):
        return solver.BASE_LR
    scaled = solver.BASE_LR * solver.IMS_PER_BATCH / solver.REFERENCE_BATCH
    logger.info(
        "The learning rate is %g: SOLVER.BASE_LR = %g is of batches of SOLVER.REFERENCE_BATCH = %d "
        "images, and these are of %d.",
        *(scaled, solver.BASE_LR, solver.REFERENCE_BATCH, solver.IMS_PER_BATCH),
    )
    return scaled


def read_optimizer_settings(cfg: CfgNode) -> OptimizerSettings:
    """Read what the optimizer needs from a classifier's configuration.

    The paper's weight decay is of every parameter, of batch norms and biases too, as in
    fb.resnet.torch.
    """
    return read_settings(
        OptimizerSettings,
        cfg.SOLVER,
        base_lr=scale_learning_rate(cfg),
        weight_decay_bias=None,
        bias_lr_factor=1.0,
    )


def read_schedule_settings(cfg: CfgNode, epoch: int) -> ScheduleSettings:
    """Read what the schedule needs from a classifier's configuration, which counts in epochs.

    Args:
        epoch: its length in iterations.
    """
    solver = cfg.SOLVER
    return read_settings(
        ScheduleSettings,
        solver,
        max_iter=solver.EPOCHS * epoch,
        steps=tuple(step * epoch for step in solver.STEPS),
        warmup_iters=solver.WARMUP_EPOCHS * epoch,
        num_decays=1,  # a classifier has no schedule to which this and the next one matter
        rescale_interval=False,
    )
