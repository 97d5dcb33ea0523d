"""From a classifier's configuration to its parts: the one place that reads the keys of MODEL, INPUT and SOLVER."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from resnext_det.config.backbone import read_architecture
from resnext_det.data.images.augmentation import CifarAugmentation, PaperAugmentation
from resnext_det.data.images.cropping import CenterCrop
from resnext_det.data.images.loaders import Augmentation
from resnext_det.data.images.modern_augmentation import Mixing, ModernAugmentation
from resnext_det.forms import convert
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.training.optimizer import build_optimizer
from resnext_det.training.schedule import LearningRateSchedule, build_schedule
from resnext_det.weights import Preprocessing

logger = logging.getLogger(__name__)


def build_classifier(cfg: CfgNode, num_classes: int) -> ResNeXtClassifier:
    """A classifier with random weights, in form C."""
    resnets = cfg.MODEL.RESNETS
    return ResNeXtClassifier(
        read_architecture(resnets), num_classes, resnets.NORM, stride_in_1x1=resnets.STRIDE_IN_1X1
    )


def in_form(cfg: CfgNode, classifier: ResNeXtClassifier) -> ResNeXtClassifier:
    """The classifier in the form that ``MODEL.FORM`` names; changed in place."""
    if cfg.MODEL.FORM != "C":
        convert(classifier, cfg.MODEL.FORM)
    return classifier


class Objective(nn.Module):
    """From a batch of images and labels to its loss, the mean cross entropy.

    Args:
        classifier: is trained.
        label_smoothing: part of a label that is shared out among all classes.
    """

    def __init__(self, classifier: nn.Module, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.classifier = classifier
        self.label_smoothing = label_smoothing

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``images`` (N, 3, H, W) and ``labels`` (N,), or (N, classes) where images are mixed -> {"loss_cls": scalar}."""
        weight = next(self.classifier.parameters())
        images = batch["images"].to(weight, non_blocking=True)
        labels = batch["labels"].to(weight.device, non_blocking=True)
        logits = self.classifier(images)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        return {"loss_cls": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}


def augmentation_of(cfg: CfgNode) -> Augmentation:
    """What makes a training image of a photograph."""
    image = cfg.INPUT
    common = {**_normalization(cfg), "interpolation": image.INTERPOLATION}
    if image.AUGMENTATION == "cifar":
        return CifarAugmentation(image.SIZE_TRAIN, image.PADDING, **_normalization(cfg))
    if image.AUGMENTATION == "modern":
        policy, erasing = image.AUTO_AUGMENT, image.RANDOM_ERASING
        return ModernAugmentation(image.SIZE_TRAIN, policy=policy, random_erasing=erasing, **common)
    return PaperAugmentation(
        image.SIZE_TRAIN, color_jitter=image.COLOR_JITTER, lighting=image.LIGHTING, **common
    )


def mixing_of(cfg: CfgNode, num_classes: int) -> Mixing | None:
    """MixUp and CutMix; None for neither."""
    image = cfg.INPUT
    return Mixing(num_classes, image.MIXUP, image.CUTMIX) if image.MIXUP or image.CUTMIX else None


def center_crop_of(cfg: CfgNode) -> CenterCrop:
    """What makes a test image of a photograph."""
    image = cfg.INPUT
    interpolation = image.INTERPOLATION
    return CenterCrop(
        image.SIZE_TEST,
        image.RESIZE_TEST,
        interpolation=interpolation,
        rounding="up" if interpolation == "torch7_bicubic" else "half_even",
        **_normalization(cfg),
    )


def _normalization(cfg: CfgNode) -> dict[str, Any]:
    return {
        "mean": cfg.MODEL.PIXEL_MEAN,
        "std": cfg.MODEL.PIXEL_STD,
        "channel_order": cfg.INPUT.FORMAT,
    }


def preprocessing_of(cfg: CfgNode) -> Preprocessing:
    """What a detector's images have to be for the weights that come out."""
    return Preprocessing(
        cfg.INPUT.FORMAT,
        tuple(cfg.MODEL.PIXEL_MEAN),
        tuple(cfg.MODEL.PIXEL_STD),
        stride_in_1x1=cfg.MODEL.RESNETS.STRIDE_IN_1X1,
        batch_norm="none" if cfg.MODEL.RESNETS.NORM == "GN" else "statistics",
    )


def iterations_of_epoch(cfg: CfgNode, num_images: int) -> int:
    """Batches after which every image has been seen once, or ``IMAGES_PER_EPOCH``; the last one is filled up from the next epoch's."""
    solver = cfg.SOLVER
    return math.ceil((solver.IMAGES_PER_EPOCH or num_images) / solver.IMS_PER_BATCH)


def base_learning_rate(cfg: CfgNode) -> float:
    """``BASE_LR``, in proportion to the batch where ``REFERENCE_BATCH`` says for which batch it is; the log tells."""
    solver = cfg.SOLVER
    if solver.REFERENCE_BATCH in (0, solver.IMS_PER_BATCH):
        return solver.BASE_LR
    scaled = solver.BASE_LR * solver.IMS_PER_BATCH / solver.REFERENCE_BATCH
    logger.info(
        "The learning rate is %g: SOLVER.BASE_LR = %g is of batches of SOLVER.REFERENCE_BATCH = %d images, and these are of %d.",
        *(scaled, solver.BASE_LR, solver.REFERENCE_BATCH, solver.IMS_PER_BATCH),
    )
    return scaled


def optimizer_of(cfg: CfgNode, model: nn.Module) -> torch.optim.SGD:
    """SGD over all parameters; the paper's weight decay is of each of them, batch norms and biases too (fb.resnet.torch)."""
    solver = cfg.SOLVER
    return build_optimizer(
        model,
        base_lr=base_learning_rate(cfg),
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
    )


def schedule_of(cfg: CfgNode, epoch: int) -> LearningRateSchedule:
    """Iteration -> factor of the learning rate, where an epoch has so many iterations."""
    solver = cfg.SOLVER
    return build_schedule(
        solver.LR_SCHEDULER_NAME,
        max_iter=solver.EPOCHS * epoch,
        steps=[step * epoch for step in solver.STEPS],
        gamma=solver.GAMMA,
        base_lr=solver.BASE_LR,
        base_lr_end=solver.BASE_LR_END,
        warmup_iters=solver.WARMUP_EPOCHS * epoch,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_method=solver.WARMUP_METHOD,
    )
