"""Write the metrics of a training: metrics.json, TensorBoard events, a progress bar or log lines.

Files and values are detectron2's: a line every 20 iterations, with losses as the median of the
last 20.
"""

from __future__ import annotations

import json
import logging
import math
import os
import statistics
import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from resnext_det.files import explain_full_disk, write_text
from resnext_det.training import distributed
from resnext_det.training.setup import IN_BAR

if TYPE_CHECKING:
    from resnext_det.training.loop import Step

logger = logging.getLogger(__name__)

PERIOD = 20
"""Iterations between two lines, and the window of the medians."""

_EVENTS = "events.out.tfevents.*"
_TIME_WINDOW = 50  # lines over whose median the remaining time is computed
_WARM_UP = 3  # first iterations of a run, which are slower than the others


class MetricsWriter:
    """Write the metrics of a training; call it with each finished ``Step``.

    Every process calls it, since losses are averaged over the processes; the main one writes. On a
    terminal the console shows a progress bar, elsewhere a line every 20 iterations; log.txt always
    has the lines.

    Args:
        output_dir: gets ``metrics.json`` and TensorBoard's events.
        total_steps: length of the whole training.
        start: the first iteration of this run. Lines of it and of later ones are cut from
            metrics.json, so that each iteration stands once.
        progress_bar: whether to show one; None shows it where stderr is a terminal.
        images_per_step: of all processes; with it, images per second are written too.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        total_steps: int,
        start: int = 0,
        progress_bar: bool | None = None,
        images_per_step: int | None = None,
    ) -> None:
        self._total = total_steps
        self._images_per_step = images_per_step
        self._start = start
        self._waiting: list[dict[str, torch.Tensor]] = []
        self._window: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=PERIOD))
        self._seconds: list[float] = []  # of the steps since the last line
        self._times: deque[float] = deque(maxlen=_TIME_WINDOW)
        self._others: dict[str, float] = {}
        self._bar: Any = None
        if not distributed.is_main_process():
            return
        self._path = Path(output_dir, "metrics.json")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        cut_metrics(self._path, start)
        self._file = self._path.open("a")
        self._board = _open_tensorboard(output_dir, start)
        if progress_bar if progress_bar is not None else sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total_steps, initial=start, unit="it", dynamic_ncols=True)

    def __call__(self, step: Step) -> None:
        """Take note of a step; write every 20 iterations and after the last one."""
        self._waiting.append(step.losses)
        self._window["data_time"].append(step.data_seconds)
        if step.iteration - self._start >= _WARM_UP - 1:
            self._seconds.append(step.seconds)
        if (step.iteration + 1) % PERIOD == 0 or step.iteration == self._total - 1:
            self._read_losses()
            self._write_step(step)
        elif self._others:
            self._write(step.iteration, {})
        if step.iteration == self._start < self._total - 1 and distributed.is_main_process():
            logger.info(  # on a CPU the first line may be many minutes away
                "the first step took %.1f s; losses follow every %d iterations",
                *(step.seconds, PERIOD),
                extra={IN_BAR: self._bar is not None},
            )
        if self._bar is not None:
            self._bar.update()

    def put(self, scalars: Mapping[str, float]) -> None:
        """Add other scalars, as an evaluation's "bbox/AP", to the line of the next step.

        NaN becomes null. Let the writer be the last of the callables after a step. What is put
        after the last step has a line of its own, with the number of steps as its iteration, as in
        detectron2.
        """
        self._others.update(scalars)

    def put_at(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Write scalars of a step that is past, in a line of its own."""
        self._others.update(scalars)
        self._write(iteration, {})

    def close(self) -> None:
        """Write out and close the files and the bar; a second call does nothing."""
        if not distributed.is_main_process() or self._file.closed:
            return
        if self._others:
            self._write(self._total, {})
        with ExitStack() as stack:
            if self._bar is not None:
                stack.callback(self._bar.close)
            if self._board is not None:
                stack.callback(self._close_board)
            with _name_file(self._path):
                os.fsync(self._file.fileno())
                self._file.close()

    def _close_board(self) -> None:
        with _name_file(self._path.with_name(_EVENTS)):
            self._board.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # An error that has come before says more; a full disk fails once more here.
        with suppress(OSError) if kind else nullcontext():
            self.close()

    def _read_losses(self) -> None:
        """Bring the waiting losses from the device, all at once, averaged over the processes."""
        flat = {
            f"{index} {name}": value
            for index, losses in enumerate(self._waiting)
            for name, value in losses.items()
        }
        numbers = torch.stack([value.float() for value in flat.values()]).tolist()
        means = distributed.all_reduce_mean(dict(zip(flat, numbers)))
        for index, losses in enumerate(self._waiting):
            values = {name: means[f"{index} {name}"] for name in losses}
            for name, value in {"total_loss": sum(values.values()), **values}.items():
                self._window[name].append(value)
        self._waiting.clear()

    def _write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Write a line with ``scalars`` and what was put."""
        if not distributed.is_main_process():
            return
        everything = {**scalars, **self._others}
        self._others.clear()
        line = {name: value if math.isfinite(value) else None for name, value in everything.items()}
        with _name_file(self._path):
            self._file.write(json.dumps({**line, "iteration": iteration}, sort_keys=True) + "\n")
            self._file.flush()
        if self._board is not None:
            with _name_file(self._path.with_name(_EVENTS)):
                for name, value in everything.items():
                    self._board.add_scalar(name, value, iteration)

    def _write_step(self, step: Step) -> None:
        if not distributed.is_main_process():
            return
        medians = {name: statistics.median(values) for name, values in self._window.items()}
        scalars = {**medians, "lr": step.learning_rate}
        if self._seconds:
            # A mean: on a GPU most steps only queue work, and one of them waits for all of it.
            scalars["time"] = statistics.fmean(self._seconds)
            self._seconds.clear()
            self._times.append(scalars["time"])
            if self._images_per_step is not None:
                scalars["images_per_second"] = self._images_per_step / scalars["time"]
            steps_left = self._total - step.iteration - 1
            scalars["eta_seconds"] = statistics.median(self._times) * steps_left
        self._write(step.iteration, scalars)
        logger.info(_format_line(step.iteration, scalars), extra={IN_BAR: self._bar is not None})
        if self._bar is not None:
            shown = f"loss {medians['total_loss']:.4g}, lr {step.learning_rate:.5g}"
            if "images_per_second" in scalars:
                shown += f", {scalars['images_per_second']:.0f} images/s"
            self._bar.set_postfix_str(shown)


@contextmanager
def _name_file(path: Path) -> Iterator[None]:
    """Name the file and what to do, where the disk is full."""
    try:
        yield
    except OSError as error:
        raise explain_full_disk(error, path) from error


def read_names(output_dir: str | Path, iteration: int) -> set[str]:
    """Read the names of the scalars that metrics.json has of an iteration; in every process."""
    names: set[str] = set()
    path = Path(output_dir, "metrics.json")
    if distributed.is_main_process() and path.is_file():
        for _, content in _read_whole_lines(path):
            names |= set(content) if content["iteration"] == iteration else set()
    return distributed.broadcast_object(names)


def read_values(output_dir: str | Path, name: str) -> dict[int, float]:
    """Read a scalar's values from metrics.json by iteration, null as nan; in every process."""
    values: dict[int, float] = {}
    path = Path(output_dir, "metrics.json")
    if distributed.is_main_process() and path.is_file():
        for _, content in _read_whole_lines(path):
            if name in content:
                values[content["iteration"]] = float(
                    "nan" if content[name] is None else content[name]
                )
    return distributed.broadcast_object(values)


def cut_metrics(path: Path, start: int) -> None:
    """Remove the lines of iteration ``start`` and later, and any that a killed run cut short."""
    if not path.is_file():
        return
    lines = _read_whole_lines(path)
    write_text(path, "".join(line + "\n" for line, held in lines if held["iteration"] < start))


def _read_whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line with its contents, without those that a killed run cut short."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            content = json.loads(line)
            content["iteration"]
        except (ValueError, KeyError, TypeError):
            continue
        yield line, content


def _format_line(iteration: int, scalars: Mapping[str, float]) -> str:
    """Format a line of progress in the words of detectron2's log."""
    eta = scalars.get("eta_seconds")
    parts = [f"eta: {timedelta(seconds=int(eta))}"] if eta is not None else []
    parts.append(f"iter: {iteration}")
    parts += [f"{name}: {value:.4g}" for name, value in scalars.items() if "loss" in name]
    parts += [f"{name}: {scalars[name]:.4f}" for name in ("time", "data_time") if name in scalars]
    if "images_per_second" in scalars:
        parts.append(f"images/s: {scalars['images_per_second']:.0f}")
    parts.append(f"lr: {scalars['lr']:.5g}")
    if torch.cuda.is_available():
        parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
    return "  ".join(parts)


def _open_tensorboard(output_dir: str | Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning(
            "No TensorBoard events are written: tensorboard is not installed (pip install "
            "tensorboard)."
        )
        return None
    return SummaryWriter(str(output_dir), purge_step=start)
