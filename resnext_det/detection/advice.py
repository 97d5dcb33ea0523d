"""Choose a schedule and image sizes for a set of images, and find schedules that are mistakes.

Everything here is a pure function of facts, so that the same facts always give the same settings.
The rules are calibrated on the usual recipe of COCO: where that fits the machine, it comes out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.config.detection import get_own

# The usual recipe, "1x" of detectron2's model zoo: 90,000 iterations of 16 of COCO's images.
_COCO_IMAGES, _COCO_PASSES = 118_287, 1_440_000
_RECIPE_BATCH, _RECIPE_RATE, _RECIPE_SIDE = 16, 0.02, 800
_LARGEST_SIDE = 1333 / 800  # of the longest side over the shorter one
_MOST_EPOCHS = 100  # ultralytics' default for a set of any size
# From random weights: as many times as long, since "Rethinking ImageNet Pre-training" (1811.08883)
# needs 3 to 6 times; and epochs at most.
_FROM_RANDOM, _MOST_FROM_RANDOM = 3, 250
_HOURS_ON_CPU = 3
_CPU_SIDE, _SMALLEST_SIDE = 320, 320
_SMALL_OBJECT = 16  # pixels; the smallest anchor is 32, and an IoU of 0.3 with it needs 18

CHOSEN_KEYS = (
    *(f"INPUT.{key}" for key in ("MIN_SIZE_TRAIN", "MIN_SIZE_TRAIN_SAMPLING", "MAX_SIZE_TRAIN")),
    *("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "DATALOADER.NUM_WORKERS", "TEST.EVAL_PERIOD"),
    *(f"SOLVER.{key}" for key in ("IMS_PER_BATCH", "BASE_LR", "MAX_ITER", "STEPS")),
    *(f"SOLVER.{key}" for key in ("LR_SCHEDULER_NAME", "WARMUP_ITERS", "CHECKPOINT_PERIOD")),
)
"""The keys that are chosen; a test compares them with the choices."""


@dataclass(frozen=True)
class Facts:
    """Say what a schedule depends on.

    Attributes:
        images, boxes: how many there are to train on.
        side: the median of the images' shorter sides, in pixels.
        box_side: the median of the square roots of the boxes' areas, in pixels.
        pretrained: the training starts from weights, not from random numbers.
        gpu_memory: GiB of one GPU; 0 on a CPU.
        cores: of the machine.
        processes: that train together.
        network: multiply-adds of the backbone, over those of ResNeXt-50.
        rate: the usual recipe's learning rate, for a batch of 16.
        c4: res5 runs on every region.
        tested: there is a set to evaluate on.
    """

    images: int
    boxes: int
    side: int
    box_side: float
    pretrained: bool = True
    gpu_memory: float = 0.0
    cores: int = 2
    processes: int = 1
    network: float = 1.0
    rate: float = _RECIPE_RATE
    c4: bool = False
    tested: bool = True


@dataclass(frozen=True)
class Choice:
    """Hold settings that were chosen together, and why."""

    settings: Mapping[str, Any]
    reason: str

    def __str__(self) -> str:
        words = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        return f"{words}: {self.reason}"


def choose_schedule(facts: Facts, given: Mapping[str, Any] | None = None) -> list[Choice]:
    """Choose sizes, batch, learning rate, length, decays, periods and workers.

    Args:
        given: settings that are decided already; they are not chosen, and the others follow them.
    """
    given = given or {}
    side, sizes = _choose_sizes(facts, given)
    batch, why = _choose_batch(facts, side)
    batch = int(given.get("SOLVER.IMS_PER_BATCH", batch))
    length, epochs = _choose_length(facts, side, batch)
    length = int(given.get("SOLVER.MAX_ITER", length))
    epoch = math.ceil(facts.images / batch)
    period = min(5000, max(length // 5, epoch))  # the usual period at most
    warmup = min(1000, length // 10)
    steps = (_round(length * 2 / 3), _round(length * 8 / 9))
    choices = [
        *sizes,
        Choice({"SOLVER.IMS_PER_BATCH": batch}, why),
        Choice(
            {"SOLVER.BASE_LR": round(facts.rate * batch / _RECIPE_BATCH, 6)},
            f"in proportion to the batch, {facts.rate:g} for 16 images (linear scaling, arXiv "
            "1706.02677)",
        ),
        Choice({"SOLVER.MAX_ITER": length}, epochs),
        Choice(
            {
                "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
                "SOLVER.STEPS": steps if 0 < steps[0] < steps[1] < length else (),
                "SOLVER.WARMUP_ITERS": warmup,
            },
            "a tenth of the rate after 2/3 and 8/9 of the iterations, as in the usual recipe; a "
            "warm-up of its 1,000 iterations, or a tenth of a shorter training",
        ),
        Choice(
            {
                "SOLVER.CHECKPOINT_PERIOD": period,
                "TEST.EVAL_PERIOD": period if facts.tested else 0,
            },
            "a checkpoint and an evaluation five times, every 5,000 iterations or every epoch",
        ),
        _choose_workers(facts),
    ]
    left = [_leave_out(choice, given) for choice in choices]
    return [choice for choice in left if choice.settings]


def find_mistakes(cfg: CfgNode, images: int) -> Iterator[str]:
    """Find what is sure to be a mistake in the schedule of a training, in sentences.

    Args:
        images: how many there are to train on.
    """
    solver = cfg.SOLVER
    epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / images
    told = (
        f"SOLVER.MAX_ITER = {solver.MAX_ITER} of SOLVER.IMS_PER_BATCH = {solver.IMS_PER_BATCH} "
        f"images are {epochs:,.{0 if epochs >= 10 else 2}f} epochs of {images:,} training images"
    )
    if epochs > (300 if cfg.MODEL.WEIGHTS else 600):  # from random weights 400 are usual
        yield (
            f"{told}, as if the set were a larger one; --schedule auto chooses a length that fits "
            "it, or lower SOLVER.MAX_ITER"
        )
    elif epochs < 1 and solver.MAX_ITER >= 1000:  # fewer are a trial
        yield (
            f"{told}, so some images are never seen; raise SOLVER.MAX_ITER, to which --schedule "
            "auto gives a fitting value on a GPU"
        )
    if images < solver.IMS_PER_BATCH:
        yield (
            f"SOLVER.IMS_PER_BATCH = {solver.IMS_PER_BATCH} is more than the {images} training "
            "images, so that a batch holds an image twice; lower it, with SOLVER.BASE_LR in "
            "proportion"
        )


def find_rate_mistake(cfg: CfgNode, recipe: CfgNode) -> Iterator[str]:
    """Find that a batch was changed by 4 times or more, and the learning rate was not.

    Args:
        recipe: the configuration without the change of the batch.
    """
    if get_own(cfg, "SOLVER.OPTIMIZER") != "SGD":  # the proportion is SGD's
        return
    batch, old, rate = cfg.SOLVER.IMS_PER_BATCH, recipe.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR
    if rate == recipe.SOLVER.BASE_LR and not 1 / 4 < batch / old < 4:
        yield (
            f"SOLVER.IMS_PER_BATCH = {batch} replaces {old}, and SOLVER.BASE_LR = {rate:g} is "
            f"still the one for {old}; they go in proportion: write SOLVER.BASE_LR "
            f"{rate * batch / old:g}"
        )


def _choose_sizes(facts: Facts, given: Mapping[str, Any]) -> tuple[int, list[Choice]]:
    """Choose the shorter side of images; return it with the choices."""
    most = min(_RECIPE_SIDE, max(_round_up(2 * facts.side), _SMALLEST_SIDE))
    reason = f"the usual {_RECIPE_SIDE} pixels"
    if most < _RECIPE_SIDE:
        reason = f"twice the {facts.side} pixels of the images; more would show nothing new"
    if not facts.gpu_memory:
        most, reason = min(most, _CPU_SIDE), f"{_CPU_SIDE} pixels, for a CPU"
    else:
        while most > _SMALLEST_SIDE and _count_fitting(facts, most) < 1:
            most -= 32
            reason = f"what {facts.gpu_memory:.0f} GiB of GPU memory hold"
    test = int(given.get("INPUT.MIN_SIZE_TEST", most))
    train = given.get("INPUT.MIN_SIZE_TRAIN", _spread_sizes(most))
    object_side = facts.box_side * max(train) / facts.side
    if max(train) != most:
        reason = "in proportion to the sizes that are given"
    if facts.boxes and object_side < _SMALL_OBJECT:
        reason += (
            f"; half of the objects have {object_side:.0f} pixels or less then: larger images "
            "would find more of them"
        )
    return max(train), [
        Choice(
            {
                "INPUT.MIN_SIZE_TRAIN": train,
                "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
                "INPUT.MAX_SIZE_TRAIN": round(max(train) * _LARGEST_SIDE),
                "INPUT.MIN_SIZE_TEST": test,
                "INPUT.MAX_SIZE_TEST": round(test * _LARGEST_SIDE),
            },
            reason,
        )
    ]


def _spread_sizes(most: int) -> tuple[int, ...]:
    """Spread training sizes from 0.8 of the largest in steps of 32, as the usual recipe does."""
    return tuple(range(_round_up(most * 0.8), most, 32)) + (most,)


def _choose_batch(facts: Facts, side: int) -> tuple[int, str]:
    """Choose the images of a step, a power of 2 in every process."""
    if facts.gpu_memory:
        most, why = _RECIPE_BATCH, f"that of the usual recipe, which {facts.gpu_memory:.0f} GiB of "
        why += "GPU memory hold"
        fitting = _count_fitting(facts, side) * facts.processes
        if fitting < most:
            most, why = fitting, f"what {facts.gpu_memory:.0f} GiB of GPU memory are sure to hold"
    else:  # where a larger batch is no faster, more steps learn more
        most, why = 4, "a CPU is no faster with larger ones"
    if facts.images // 40 < most:
        most, why = max(2, facts.images // 40), f"so that an epoch of {facts.images} images has "
        why += "some tens of steps"
    each = 2 ** int(math.log2(max(1, most / facts.processes)))
    return each * facts.processes, why


def _count_fitting(facts: Facts, side: int) -> int:
    """Count the images that a GPU holds in training.

    Autograd keeps 1.0 GiB of an image of 800x1333 for ResNeXt-50 with FPN, 1.6 for ResNeXt-101, and
    2 more where res5 runs on 512 regions. With what is computed on the way, and weights, gradients
    and momentum, that agrees with the memory that detectron2's model zoo lists.
    """
    megapixels = side * side * _LARGEST_SIDE / 1e6
    gib = (0.25 + 1.2 * megapixels) * max(facts.network, 0.1) + 2.0 * facts.c4
    return int((0.8 * facts.gpu_memory - 1.5) / gib)


def find_usual_epochs(images: int, *, pretrained: bool = True) -> float:
    """Find how many epochs a training on a number of images usually has.

    Small sets are seen more often: epochs fall with the cube root of the number of images. That
    gives the 12 epochs of COCO, and what others train within a factor of 1.6: 23 for the 16,551
    images of VOC (detectron2: 17), 42 for the 2,975 of Cityscapes (64), 6 for the 1.17 million of
    OpenImages (MLPerf: 4).
    """
    usual = _COCO_PASSES / _COCO_IMAGES * (_COCO_IMAGES / images) ** (1 / 3)
    usual = min(usual, _MOST_EPOCHS)
    return usual if pretrained else min(usual * _FROM_RANDOM, _MOST_FROM_RANDOM)


def _choose_length(facts: Facts, side: int, batch: int) -> tuple[int, str]:
    """Choose the number of iterations."""
    usual = find_usual_epochs(facts.images, pretrained=facts.pretrained)
    why = "small sets are seen more often than COCO"
    if facts.images >= 0.8 * _COCO_IMAGES:
        why = "as COCO's usual recipe"
    if not facts.pretrained:
        why += "; random weights need longer than pretrained ones"
    epochs = usual
    if not facts.gpu_memory:
        affordable = _HOURS_ON_CPU * 3600 / _estimate_seconds(facts, side) / facts.images
        if affordable < usual:
            epochs = affordable
            why = (
                f"some {_HOURS_ON_CPU} hours on {facts.cores} cores by a rough estimate; "
                f"{usual:.0f} epochs would be usual"
            )
    length = max(100, _round(epochs * facts.images / batch))
    epochs = length * batch / facts.images
    digits = 0 if epochs >= 10 else 1 if epochs >= 1 else 2
    return length, (
        f"{epochs:.{digits}f} epochs of {facts.images:,} images with {facts.boxes:,} boxes: {why}"
    )


def _estimate_seconds(facts: Facts, side: int) -> float:
    """Estimate the seconds of a training step for an image on the CPU.

    ResNeXt-50 with FPN was seen to take 2 at 320x427 and 10 at 800x1333 on two cores, and 26 more
    where res5 runs on 512 regions.
    """
    megapixels = side * side * 4 / 3 / 1e6
    return ((1 + 8 * megapixels) + 26 * facts.c4) * facts.network * 2 / facts.cores


def _choose_workers(facts: Facts) -> Choice:
    if not facts.gpu_memory:
        return Choice({"DATALOADER.NUM_WORKERS": 1}, "the cores are needed to train")
    workers = min(4, max(1, facts.cores // facts.processes))
    return Choice(
        {"DATALOADER.NUM_WORKERS": workers}, f"loading for one GPU of {facts.cores} cores"
    )


def _leave_out(choice: Choice, given: Mapping[str, Any]) -> Choice:
    settings = {key: value for key, value in choice.settings.items() if key not in given}
    return Choice(settings, choice.reason)


def _round(value: float) -> int:
    """Round to two significant digits."""
    digits = max(0, math.floor(math.log10(max(1.0, value))) - 1)
    return round(value / 10**digits) * 10**digits


def _round_up(value: float) -> int:
    """Round up to a multiple of 32, the stride of res5."""
    return math.ceil(value / 32 - 1e-9) * 32
