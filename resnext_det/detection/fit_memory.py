"""Choose how a training step is computed, so that it fits into a given memory.

What leaves the training as it is comes first: recomputed stages, which change no bit, then a batch
in parts, which rounds otherwise. Smaller batches and images, which change the training, come last
and with a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.config.detection import scale_batch, scale_to_processes
from resnext_det.config.rules import get_value, list_keys
from resnext_det.detection.memory_prediction import (
    Prediction,
    check_predictable,
    count_objects,
    find_largest_size,
    keeps_shape,
    prepare_trial_config,
)
from resnext_det.detection.memory_saving import STAGES, MemorySaving
from resnext_det.detection.own_data import Fitted
from resnext_det.detection.step_memory import Trial
from resnext_det.resnext import Bottleneck
from resnext_det.training import distributed

OpenTrial = Callable[[CfgNode], AbstractContextManager[Trial]]

# For what the allocator cannot use and kernels take beside tensors. On a CPU predictions were 0 to
# 5 % above what was allocated; on a GPU nothing was measured, where CUDA itself takes some 500 MB.
_SPARE = 1.1
_CUDA = 600_000_000
_SMALLEST_SIDE = 320
_SIZES = ("MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST")


def fit_memory(
    fitted: Fitted,
    cfg: CfgNode,
    *,
    limit: int,
    given: Collection[str],
    processes: int,
    open_trial: OpenTrial,
) -> None:
    """Choose how a job saves memory, and where that does not suffice, smaller batches or images.

    Args:
        fitted: gets the choice: ``saving``, settings, what is told and warnings.
        cfg: complete, with the datasets.
        limit: bytes of each process: of its GPU, or on a CPU of its tensors.
        given: keys that the user gave by hand, which are not changed.
        processes: that train together.
        open_trial: the engine's, which builds the model of a configuration and its optimizer.

    Raises:
        ValueError: nothing fits, or the memory of such a detector is not predicted.
    """
    check_predictable(cfg)
    scaled = scale_to_processes(cfg, processes)
    images = distributed.divide_batch(scaled.SOLVER.IMS_PER_BATCH, processes)
    on_gpu = distributed.resolve_device(cfg.MODEL.DEVICE).type == "cuda"
    allowed = round((limit - _CUDA * on_gpu) / _SPARE)
    size, objects = find_largest_size(cfg, images), count_objects(cfg)
    with open_trial(prepare_trial_config(cfg, on_gpu=on_gpu)) as trial:
        prediction = Prediction(cfg, trial, size, objects, processes)
        height, width = size
        fitted.told.append(
            f"--fit-memory: {_write(allowed)} of {_write(limit)} are for tensors, the rest for the "
            f"allocator{' and CUDA' * on_gpu}. Predicted for {_count(images)} of {height}x{width} "
            f"pixels with {objects} objects at most, in each process:"
        )
        savings = list(_list_savings(trial, images))
        most = [one for one in savings if one.accumulate == 1][-1]
        for saving in savings:
            fewer = saving.recompute and saving.accumulate == 1 and saving != most
            if fewer and prediction.predict(most, images, size) > allowed:
                continue  # fewer stages need no less, and another measurement
            if _fits(fitted, prediction, allowed, saving, images, size):
                fitted.saving = saving
                return
        _shrink(fitted, cfg, prediction, allowed, savings, images, given)


def _list_savings(trial: Trial, images: int) -> Iterator[MemorySaving]:
    """List the ways to compute the whole batch, from the fastest to the one of least memory."""
    prefixes: list[tuple[str, ...]] = [()]
    for stage in _order_stages(trial):
        saving = MemorySaving(recompute=(*prefixes[-1], stage))
        with suppress(ValueError):  # its norms are trained
            saving.check(trial.model, images)
            prefixes.append(saving.recompute)
    largest = images + 1
    for parts in range(1, images + 1):
        if -(-images // parts) == largest:  # parts are no smaller than those before
            continue
        largest = -(-images // parts)
        try:
            MemorySaving(parts).check(trial.model, images)
        except ValueError:
            return
        # Less is not worth another measurement where a batch is in parts.
        chosen = prefixes if parts == 1 else dict.fromkeys((prefixes[0], prefixes[-1]))
        yield from (MemorySaving(parts, stages) for stages in chosen)


def _order_stages(trial: Trial) -> list[str]:
    """Order the trained stages: the head's res5 first, then from large maps to small ones."""
    trained: dict[str, bool] = {}
    for name, module in trial.model.named_modules():
        if isinstance(module, Bottleneck) and module.conv1.weight.requires_grad:
            stage = next(part for part in name.split(".") if part in STAGES)
            trained[stage] = name.startswith("roi_heads") or trained.get(stage, False)
    return sorted(trained, key=lambda stage: (not trained[stage], stage))


@dataclass(frozen=True)
class _Smaller:
    """Hold a choice that changes the training.

    Attributes:
        images: of a batch, in each process.
        size: height and width of the largest image, in pixels.
        shorter: the largest of INPUT.MIN_SIZE_TRAIN, in pixels.
    """

    images: int
    size: tuple[int, int]
    shorter: int


def _shrink(
    fitted: Fitted,
    cfg: CfgNode,
    prediction: Prediction,
    allowed: int,
    savings: list[MemorySaving],
    images: int,
    given: Collection[str],
) -> None:
    """Choose fewer images, where a batch cannot be computed in parts, and then smaller ones.

    Raises:
        ValueError: nothing fits.
    """
    saving, least = savings[-1], images
    shorter = max(cfg.INPUT.MIN_SIZE_TRAIN)
    size = find_largest_size(cfg, images)
    choices = []
    fewer = _list_changes(cfg, scale_batch(cfg, 1, images))
    if saving.accumulate < images and fewer.keys().isdisjoint(given):
        least = 1
        choices = [
            _Smaller(each, find_largest_size(cfg, each), shorter)
            for each in range(images - 1, 0, -1)
        ]
    if keeps_shape(cfg) and {f"INPUT.{key}" for key in _SIZES}.isdisjoint(given):
        for side in range((shorter - 1) // 32 * 32, _SMALLEST_SIDE - 1, -32):
            smaller = find_largest_size(_resize(cfg, side), least)
            choices.append(_Smaller(least, smaller, side))
    for choice in choices:
        if prediction.predict(saving, choice.images, choice.size) <= allowed:
            _fits(fitted, prediction, allowed, saving, choice.images, choice.size)
            fitted.saving = saving
            _set_smaller(fitted, cfg, choice, images)
            return
    last = choices[-1] if choices else _Smaller(images, size, shorter)
    needed = prediction.predict(saving, last.images, last.size)
    height, width = last.size
    raise ValueError(
        f"--fit-memory: nothing fits; the smallest step that was tried ({_describe(saving)}, "
        f"{_count(last.images)} of {height}x{width}) needs {_write(needed)} of tensors, and "
        f"{_write(allowed)} are for them; give more, or a smaller network, batch or size (what "
        "overrides say of batch and sizes was not changed)"
    )


def _list_changes(cfg: CfgNode, changed: CfgNode) -> dict[str, Any]:
    """List the settings of another configuration that differ, by key."""
    values = {key: get_value(changed, key) for key in list_keys(changed)}
    return {key: value for key, value in values.items() if value != get_value(cfg, key)}


def _resize(cfg: CfgNode, shorter: int) -> CfgNode:
    """Scale all sizes of images, so that the largest of INPUT.MIN_SIZE_TRAIN is ``shorter``."""
    factor = shorter / max(cfg.INPUT.MIN_SIZE_TRAIN)
    resized = cfg.clone()
    resized.defrost()
    for key in _SIZES:
        value: Any = cfg.INPUT[key]
        many = isinstance(value, list | tuple)
        scaled = tuple(round(side * factor) for side in (value if many else [value]))
        resized.INPUT[key] = scaled if many else scaled[0]
    resized.freeze()
    return resized


def _set_smaller(fitted: Fitted, cfg: CfgNode, choice: _Smaller, images: int) -> None:
    """Set the batch and the sizes, and warn that they change the training."""
    changed, follows = cfg, []
    if choice.images < images:
        changed = scale_batch(changed, choice.images, images)
        follows.append("Learning rate and iterations go with the batch.")
    if choice.shorter < max(cfg.INPUT.MIN_SIZE_TRAIN):
        changed = _resize(changed, choice.shorter)
        follows.append("The sizes of tests go with those of training.")
    changes = _list_changes(cfg, changed)
    for key, value in changes.items():
        fitted.set(key, value)
    told = [f"{key} {value}" for key, value in changes.items()]
    fitted.warnings.append(
        f"--fit-memory changes the training, since nothing else fits: {', '.join(told)}. "
        + " ".join(follows)
    )


def _fits(
    fitted: Fitted,
    prediction: Prediction,
    allowed: int,
    saving: MemorySaving,
    images: int,
    size: tuple[int, int],
) -> bool:
    """Tell whether a choice fits, and add a line about it to what is told."""
    needed = prediction.predict(saving, images, size)
    fits = needed <= allowed
    fitted.told.append(
        f"    {_count(images)} of {size[0]}x{size[1]}, {_describe(saving)}: {_write(needed)}"
        + ", chosen" * fits
    )
    return fits


def _describe(saving: MemorySaving) -> str:
    words = [f"--recompute {','.join(saving.recompute)}"] * bool(saving.recompute)
    words += [f"--accumulate {saving.accumulate}"] * (saving.accumulate > 1)
    return " ".join(words) or "as it is"


def _count(images: int) -> str:
    return f"{images} image{'s' * (images != 1)}"


def _write(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
