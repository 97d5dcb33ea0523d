"""Find faults of a training: its rate and length, and what is frozen or cannot be learned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from resnext_det.detection.advice import find_usual_epochs
from resnext_det.report.faults.cause import Cause
from resnext_det.report.faults.measurements import Measurements

# The usual recipe: 0.02 for 16 images (arXiv 1706.02677). Small networks with clipped gradients
# were seen to train well at ten times as much.
_RATE_OF_IMAGE = 0.02 / 16
_RATE_OF_ADAM = 1e-4  # for a batch of any size, as MLPerf's
_HIGH_RATE, _HIGH_RATE_CLIPPED, _LOW_RATE = 4, 20, 1 / 10
_FEWEST_LINES = 5  # of metrics.json, by which a loss should have fallen
_FEW_EPOCHS = 0.25  # of the usual ones
_FEW_ITERATIONS = 500
_SMALL_BATCH = 2  # images of a process, whose statistics a batch norm takes
_IMAGENET = (123.675, 116.28, 103.53)  # red, green, blue
_FEW_IMAGES = 5000


def find_divergence(measured: Measurements) -> Cause | None:
    """Find a learning rate at which the loss rises, or is no number any more."""
    losses = measured.series.get("total_loss", {})
    rate = measured.get("SOLVER.BASE_LR")
    if len(losses) < 2 or rate is None:
        return None
    values = np.array([losses[i] for i in sorted(losses)], np.float64)
    lost = ~np.isfinite(values)
    usual, ratio = _compare_rate(measured)
    advice = f"Lower it: SOLVER.BASE_LR {_round_rate(min(usual, rate / 10))}, and keep the warm-up."
    if lost.any():
        where = sorted(losses)[int(lost.argmax())]
        return Cause(
            "The training diverged",
            f"The loss is no number at iteration {where} (SOLVER.BASE_LR {rate:g}).",
            advice,
            measured.lacking,
        )
    first, last, worst = values[0], float(np.median(values[-3:])), float(values.max())
    clipped = bool(measured.get("SOLVER.CLIP_GRADIENTS.ENABLED"))
    high = ratio >= (_HIGH_RATE_CLIPPED if clipped else _HIGH_RATE)
    rising = worst > 1.5 * first
    if len(values) >= _FEWEST_LINES and not measured.began_as_detector:
        rising |= last > 0.95 * first
    if not (measured.is_low and (high or (rising and ratio > 1))):
        return None
    return Cause(
        "The learning rate is too high",
        f"SOLVER.BASE_LR {rate:g} is {ratio:.0f} times the usual one for "
        f"{measured.get('SOLVER.IMS_PER_BATCH')} images a step ({usual:g}). The loss was "
        f"{first:.2f} at first, {worst:.2f} at most and {last:.2f} at the end.",
        advice,
        measured.lacking * (0.95 if rising else 0.8),
    )


def _compare_rate(measured: Measurements) -> tuple[float, float]:
    """Compute the usual learning rate of the batch, and how many times that the run's is."""
    usual = _RATE_OF_IMAGE * (measured.get("SOLVER.IMS_PER_BATCH") or 16)
    if (measured.get("SOLVER.OPTIMIZER") or "SGD") != "SGD":
        usual = _RATE_OF_ADAM
    return usual, (measured.get("SOLVER.BASE_LR") or usual) / usual


def _round_rate(rate: float) -> str:
    return f"{rate:.2g}"


def find_low_rate(measured: Measurements) -> Cause | None:
    """Find a learning rate at which hardly anything is learned."""
    usual, ratio = _compare_rate(measured)
    if not measured.is_low or ratio > _LOW_RATE or measured.get("SOLVER.BASE_LR") is None:
        return None
    return Cause(
        "The learning rate is too low",
        f"SOLVER.BASE_LR {measured.get('SOLVER.BASE_LR'):g} is {ratio:.2g} times the usual one for "
        f"{measured.get('SOLVER.IMS_PER_BATCH')} images a step{_tell_losses(measured.series)}.",
        f"Raise it: SOLVER.BASE_LR {_round_rate(usual)}.",
        0.85 * measured.lacking,
    )


def _tell_losses(series: Mapping[str, Mapping[int, float]]) -> str:
    losses = series.get("total_loss", {})
    if not losses:
        return ""
    return f"; the loss went from {losses[min(losses)]:.2f} to {losses[max(losses)]:.2f}"


def find_short_training(measured: Measurements) -> Cause | None:
    """Find a training of so few steps that it cannot have learned the set."""
    length, batch = measured.get("SOLVER.MAX_ITER"), measured.get("SOLVER.IMS_PER_BATCH")
    train = measured.train
    if not (length and batch and train and train.num_images and measured.is_low):
        return None
    if not measured.series.get("total_loss") or measured.began_as_detector:
        return None
    epochs = length * batch / train.num_images
    usual = find_usual_epochs(train.num_images, pretrained=bool(measured.get("MODEL.WEIGHTS")))
    if length >= _FEW_ITERATIONS and epochs >= _FEW_EPOCHS * usual:
        return None
    losses = measured.series["total_loss"]
    kept = losses[max(losses)] / max(losses[min(losses)], 1e-9)
    wanted = max(2 * _FEW_ITERATIONS, math.ceil(usual * train.num_images / batch / 100) * 100)
    return Cause(
        "Too few iterations",
        f"SOLVER.MAX_ITER {length} of {batch} images are {epochs:.2g} epochs of "
        f"{train.num_images:,} images, where {usual:.0f} would be usual"
        f"{_tell_losses(measured.series)}.",
        f"Train longer: SOLVER.MAX_ITER {wanted}, with SOLVER.STEPS in proportion, or choose by "
        "--schedule auto.",
        measured.lacking * 0.8 * min(1.0, max(0.0, kept)) * _grade(length, _FEW_ITERATIONS),
    )


def _grade(value: float, limit: float) -> float:
    """Grade how far a value lies below a limit: 1 far below, 0.5 at it and above."""
    return max(0.5, 1 - value / (2 * limit))


def find_frozen_at_random(measured: Measurements) -> Cause | None:
    """Find layers that are frozen though no weights were loaded into them."""
    if measured.cfg is None or measured.get("MODEL.WEIGHTS"):
        return None
    frozen = measured.get("MODEL.BACKBONE.FREEZE_AT") or 0
    norm = measured.get("MODEL.RESNETS.NORM") or ""
    if not measured.series.get("total_loss") or (frozen < 1 and not norm.startswith("Frozen")):
        return None
    parts = [f"MODEL.BACKBONE.FREEZE_AT is {frozen}"] * (frozen >= 1)
    parts += [f"MODEL.RESNETS.NORM is {norm}"] * norm.startswith("Frozen")
    changes = ["MODEL.BACKBONE.FREEZE_AT 0"] * (frozen >= 1)
    changes += ["MODEL.RESNETS.NORM GN"] * norm.startswith("Frozen")
    return Cause(
        "Layers are frozen at random values",
        f"MODEL.WEIGHTS is empty, and {' and '.join(parts)}: what is frozen never learns.",
        "Start from pretrained weights (MODEL.WEIGHTS resnext://torchvision/X-50-32x4d or a file), "
        f"or train all from random weights: {' '.join(changes)}.",
        measured.lacking * (0.5 + 0.1 * min(frozen, 5)) * (0.9 if measured.is_low else 0.3),
    )


def find_small_batch(measured: Measurements) -> Cause | None:
    """Find batch norms that take their statistics from one or two images."""
    norm, batch = measured.get("MODEL.RESNETS.NORM"), measured.get("SOLVER.IMS_PER_BATCH")
    if norm not in ("BN", "naiveSyncBN") or not batch or batch > _SMALL_BATCH:
        return None
    if not measured.series.get("total_loss"):
        return None
    return Cause(
        "Batch norms learn from too few images",
        f"MODEL.RESNETS.NORM is {norm}, and a step has {batch} image{'s' * (batch > 1)}: the "
        "statistics of training are not those of tests.",
        "Write MODEL.RESNETS.NORM FrozenBN (with pretrained weights) or GN, or raise "
        "SOLVER.IMS_PER_BATCH to 8 or more.",
        measured.lacking * (0.6 if batch == 1 else 0.4) * (1 if measured.is_low else 0.3),
    )


def find_swapped_channels(measured: Measurements) -> Cause | None:
    """Find pixel means that stand in the other order than INPUT.FORMAT."""
    order, mean = measured.get("INPUT.FORMAT"), measured.get("MODEL.PIXEL_MEAN")
    if order not in ("RGB", "BGR") or mean is None or len(mean) != 3:
        return None
    wrong = _IMAGENET if order == "BGR" else _IMAGENET[::-1]
    if max(abs(a - b) for a, b in zip(mean, wrong)) > 0.5:
        return None
    return Cause(
        "Color channels are in the wrong order",
        f"INPUT.FORMAT is {order}, and MODEL.PIXEL_MEAN {list(mean)} is ImageNet's mean in the "
        f"order {order[::-1]}.",
        f"Write INPUT.FORMAT {order[::-1]} where the weights were trained so, or turn "
        "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD around; resnext-det inspect FILE "
        "tells what weights need.",
        0.2 * measured.lacking,
    )


def find_overridden_settings(measured: Measurements) -> Cause | None:
    """Find settings of a trained detector that were overridden by hand."""
    told = [text for text in measured.warnings if "changes the detector's numbers" in text]
    if not told:
        return None
    return Cause(
        "Settings differ from those that the weights were trained with",
        told[-1],
        "Leave the override out, unless it is what you want to try.",
        0.3 * measured.lacking,
    )


def find_overfitting(measured: Measurements) -> Cause | None:
    """Find that the loss of the test set, or AP, has become worse while the training went on."""
    for name, losses in _list_finite(measured, "validation/total_loss"):
        best, last = min(losses, key=losses.__getitem__), max(losses)
        if len(losses) >= 3 and losses[last] > 1.1 * losses[best]:
            return _describe_overfitting(
                measured,
                f"The loss of {name or 'the test set'} was {losses[best]:.2f} at iteration {best} "
                f"and is {losses[last]:.2f} at the end",
                100 * min(0.1, losses[last] / losses[best] - 1),
            )
    for name, scores in _list_finite(measured, "bbox/AP"):
        best, last = max(scores, key=scores.__getitem__), max(scores)
        if scores[best] - scores[last] > 1.0:
            return _describe_overfitting(
                measured,
                f"AP{f' on {name}' if name else ''} was {scores[best]:.1f} at iteration {best} and "
                f"is {scores[last]:.1f} at the end",
                scores[best] - scores[last],
            )
    return None


def _list_finite(measured: Measurements, ending: str) -> Iterator[tuple[str, dict[int, float]]]:
    """List a scalar's finite values of each test set; its name is empty where there is one set."""
    for name, values in measured.series.items():
        finite = {i: value for i, value in values.items() if math.isfinite(value)}
        if finite and (name == ending or name.endswith(f"/{ending}")):
            yield name.removesuffix(ending).rstrip("/"), finite


def _describe_overfitting(measured: Measurements, evidence: str, weight: float) -> Cause:
    advice = "Keep the best checkpoint (TEST.BEST_METRIC bbox/AP with TEST.EVAL_PERIOD), "
    if measured.get("TEST.BEST_METRIC"):
        advice = "Use the best checkpoint, model_best.pth, "
    if not measured.get("TEST.PATIENCE"):
        advice += "stop early (TEST.PATIENCE), "
    return Cause(
        "The detector became worse while the training went on",
        f"{evidence}.",
        f"{advice}or add training images.",
        weight,
    )


def find_no_flips(measured: Measurements) -> Cause | None:
    """Find a small set that is trained without any augmentation."""
    train = measured.train
    if measured.get("INPUT.RANDOM_FLIP") != "none" or train is None:
        return None
    if train.num_images >= _FEW_IMAGES or not measured.series.get("total_loss"):
        return None
    return Cause(
        "Images are never flipped in training",
        f"INPUT.RANDOM_FLIP is none, and there are {train.num_images:,} training images.",
        "Write INPUT.RANDOM_FLIP horizontal, which shows each image in two ways, unless a mirrored "
        "object is another one, as a letter is.",
        0.05 * measured.lacking,
    )
