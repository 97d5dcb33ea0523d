"""Train a model: the one loop of classifiers and detectors.

A model in training maps a batch to a dict of scalar losses; their sum is minimized. What else
happens around a step (metrics, checkpoints, evaluation) is a list of callables that take the
finished ``Step``.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnext_det.files import list_first
from resnext_det.training.interruption import (
    SaveState,
    StopRequest,
    TrainingInterrupted,
    keep_state,
)
from resnext_det.training.optimizer import GradientClipper, get_learning_rate, set_learning_rate
from resnext_det.training.schedule import LearningRateSchedule

LossParts = Callable[[nn.Module, Any], Iterator[dict[str, torch.Tensor] | None]]
"""Takes the model and a batch, and yields the losses of its parts, which add up to the batch's.

The gradients of a part are computed before the next one is asked for. None takes back all that was
yielded for this batch.
"""


def compute_whole(model: nn.Module, batch: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the losses of the whole batch."""
    yield model(batch)


_END: Any = object()
# On a GPU every look at a loss waits for the GPU, so it is done for several steps at once.
_CHECK_PERIOD_CUDA = 20
_SHOWN = 16


@dataclass(frozen=True)
class Step:
    """A finished step of a training.

    Attributes:
        iteration: its number, from 0.
        stop: the length of the training; ``iteration`` is ``stop - 1`` in the last step.
        losses: the scalars, detached, on the model's device.
        learning_rate: of this step.
        data_seconds: the wait for the batch.
        seconds: of the whole step, without the callables that follow it.
        check_losses: raises FloatingPointError if a loss so far was not finite. Call it before
            anything is kept.
    """

    iteration: int
    stop: int
    losses: dict[str, torch.Tensor]
    learning_rate: float
    data_seconds: float
    seconds: float
    check_losses: Callable[[], None] = field(repr=False)


def train_loop(
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LearningRateSchedule,
    batches: Iterable[Any],
    start: int,
    stop: int,
    device: torch.device,
    amp_dtype: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    clip: GradientClipper | None = None,
    split: LossParts = compute_whole,
    after_step: Sequence[Callable[[Step], None]] = (),
    save: Callable[[Step], Path] | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Train ``model`` from iteration ``start`` up to, not including, ``stop``.

    Iteration i has the learning rate ``schedule(i)`` times the optimizer's own. After it the
    optimizer is set to ``schedule(i + 1)``, so that a checkpoint holds what detectron2's does.

    Args:
        batches: begin with that of iteration ``start``; they must not draw from torch's global
            generators.
        amp_dtype: ``torch.bfloat16`` or ``torch.float16`` for mixed precision, on GPU and CPU; None
            for full precision.
        scaler: scales the loss, which float16 needs: its small gradients would be 0.
        clip: applied to the gradients before each step.
        split: computes the losses of a batch in parts, see ``LossParts``; at first all at once.
        after_step: called in order after each step. What they draw from torch's generators is
            undone, so that the training does not depend on how often it is evaluated or saved.
        save: saves a checkpoint after a step and returns its path. It is called where SIGINT,
            SIGTERM or SIGHUP asks to stop, and where a batch or a callable after the step fails.
        is_over: asked after these callables whether the training ends before ``stop``; it has to
            tell the same in every process.

    Raises:
        FloatingPointError: a loss is infinite or NaN.
        TrainingInterrupted: one of these signals came; the step was finished and ``save`` called.
        ValueError: the batches end before ``stop``; the model returns no losses; float16 without a
            scaler.
        ValueError, OSError: of a batch or a callable, with the checkpoint in its text.
    """
    if amp_dtype not in (None, torch.bfloat16) and scaler is None:
        raise ValueError(
            f"mixed precision in {amp_dtype} needs loss scaling; give a scaler, or use "
            "torch.bfloat16, or None for float32"
        )
    if start >= stop:
        return
    scaler = torch.amp.GradScaler(device.type, enabled=False) if scaler is None else scaler
    model.train()
    watch = LossWatch(device)
    set_learning_rate(optimizer, schedule(start))
    source = _time_batches(batches, start)
    save_last: SaveState | None = None  # the state after the last finished step
    with StopRequest() as stop_request:
        for iteration in range(start, stop):
            began = time.perf_counter()
            with keep_state(iteration - 1, save_last), stop_request.leave_waits():
                batch, data_seconds = next(source)
            optimizer.zero_grad()
            mixed = torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None)
            detached: dict[str, torch.Tensor] = {}
            parts = split(model, batch)
            while True:
                with watch.name_errors(iteration, batch), mixed:
                    losses = next(parts, _END)
                if losses is _END:
                    break
                if losses is None:
                    optimizer.zero_grad()
                    detached = {}
                    continue
                scaler.scale(_sum_losses(losses, iteration)).backward()
                detached = _add_losses(detached, losses)
            watch.look(iteration, batch, detached, last=iteration == stop - 1)
            if clip is not None:
                scaler.unscale_(optimizer)
                clip(optimizer)
            scaler.step(optimizer)
            scaler.update()
            step = Step(
                iteration=iteration,
                stop=stop,
                losses=detached,
                learning_rate=get_learning_rate(optimizer),
                data_seconds=data_seconds,
                seconds=time.perf_counter() - began,
                check_losses=watch.check,
            )
            set_learning_rate(optimizer, schedule(iteration + 1))
            save_last = partial(save, step) if save else None
            forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
            with keep_state(iteration, save_last), forked:
                for call in after_step:
                    call(step)
            assert model.training, "a callable after the step left the model in evaluation mode"
            if stop_request.is_made():
                raise TrainingInterrupted(save_last() if save_last else None, iteration)
            if is_over():
                return


class LossWatch:
    """Refuse losses that are not finite, naming the step and its images.

    Losses are looked at after each step, and on a GPU after every 20.
    """

    def __init__(self, device: torch.device) -> None:
        self._period = _CHECK_PERIOD_CUDA if device.type == "cuda" else 1
        self._unseen: list[tuple[int, list[str], dict[str, torch.Tensor]]] = []

    def look(
        self, iteration: int, batch: Any, losses: dict[str, torch.Tensor], *, last: bool
    ) -> None:
        """Note the detached losses of a step, and check the noted ones when it is time.

        Raises:
            FloatingPointError: as ``check``.
        """
        self._unseen.append((iteration, _list_file_names(batch), losses))
        if last or (iteration + 1) % self._period == 0:
            self.check()

    def check(self) -> None:
        """Raise FloatingPointError for the first unseen step with a loss that is not finite."""
        values = [value.float() for _, _, losses in self._unseen for value in losses.values()]
        if values and not bool(torch.isfinite(torch.stack(values)).all()):
            for iteration, files, losses in self._unseen:
                if not all(bool(torch.isfinite(value)) for value in losses.values()):
                    shown = ", ".join(f"{name} {float(loss):.4g}" for name, loss in losses.items())
                    raise _make_divergence(f"the losses are {shown}", iteration, files)
        self._unseen.clear()

    @contextmanager
    def name_errors(self, iteration: int, batch: Any) -> Iterator[None]:
        """Add the iteration and the images to a FloatingPointError of the model itself."""
        try:
            yield
        except FloatingPointError as error:
            self.check()  # an earlier loss may be where it began
            raise _make_divergence(str(error), iteration, _list_file_names(batch)) from error


def _make_divergence(what: str, iteration: int, files: Sequence[str]) -> FloatingPointError:
    images = f" The images: {list_first(files, _SHOWN)}." if files else ""
    return FloatingPointError(
        f"the training diverged at iteration {iteration}: {what}.{images} "
        "Lower SOLVER.BASE_LR, lengthen the warm-up (SOLVER.WARMUP_ITERS, WARMUP_EPOCHS), or clip "
        "gradients (SOLVER.CLIP_GRADIENTS.ENABLED True); if it is always these images, look at "
        "them and their annotations"
    )


def _list_file_names(batch: Any) -> list[str]:
    if isinstance(batch, dict):
        return list(batch.get("file_names", ()))
    samples = batch if isinstance(batch, (list, tuple)) else []
    return [
        str(sample["file_name"])
        for sample in samples
        if isinstance(sample, dict) and "file_name" in sample
    ]


def _sum_losses(losses: Any, iteration: int) -> torch.Tensor:
    if not isinstance(losses, dict) or not losses:
        raise ValueError(
            f"at iteration {iteration} the model returned {type(losses).__name__} {losses!r:.80}; "
            "in training it has to return a dict of scalar losses"
        )
    return reduce(torch.add, losses.values())


def _add_losses(
    sums: Mapping[str, torch.Tensor], losses: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Add detached losses to what is there of the same names."""
    detached = {name: loss.detach() for name, loss in losses.items()}
    return {name: sums[name] + loss if name in sums else loss for name, loss in detached.items()}


def _time_batches(batches: Iterable[Any], start: int) -> Iterator[tuple[Any, float]]:
    """Yield each batch with the seconds that it took.

    A DataLoader draws a seed from torch's generator when it starts. An uninterrupted run draws it
    once, at its very beginning; so a run that starts later undoes what its first batch drew, and
    the model's draws are the same.
    """
    random_state = torch.get_rng_state() if start > 0 else None
    iterator: Iterator[Any] | None = None
    for iteration in itertools.count(start):
        began = time.perf_counter()
        iterator = iter(batches) if iterator is None else iterator
        batch = next(iterator, _END)
        if batch is _END:
            raise ValueError(
                f"the batches ended before iteration {iteration}; a training needs one for each "
                "iteration, so repeat them"
            )
        if random_state is not None:
            torch.set_rng_state(random_state)
            random_state = None
        yield batch, time.perf_counter() - began
