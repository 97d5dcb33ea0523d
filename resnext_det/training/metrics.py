"""Write the metrics of a training: metrics.json, TensorBoard events, a progress bar or log lines.

Files and values are detectron2's: a line every 20 iterations, with losses as the median of the
last 20. Besides, "images_per_second", "data_share" (of the time, the wait for batches) and
"peak_memory_mib" are this project's.
"""

from __future__ import annotations

import json
import logging
import math
import os
import statistics
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from resnext_det.files import explain_full_disk, write_text
from resnext_det.training import distributed
from resnext_det.training.pace import PERIOD, WAITING, Pace, read_peak_memory
from resnext_det.training.setup import IN_BAR

if TYPE_CHECKING:
    from resnext_det.training.loop import Step

logger = logging.getLogger(__name__)

Watch = Callable[[int, Mapping[str, float]], None]
"""Takes the iteration and the scalars of a line of metrics.json, to warn of what is wrong."""

_EVENTS = "events.out.tfevents.*"
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


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
        watches: called in the main process with every line.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        total_steps: int,
        start: int = 0,
        progress_bar: bool | None = None,
        images_per_step: int | None = None,
        watches: Sequence[Watch] = (),
    ) -> None:
        self._total = total_steps
        self._images_per_step = images_per_step
        self._start = start
        self._waiting: list[dict[str, torch.Tensor]] = []
        self._window: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=PERIOD))
        self._watches = watches
        self._pace = Pace()
        self._others: dict[str, float] = {}
        self._pictures: list[Callable[[Any, int], None]] = []  # for TensorBoard
        self._bar: Any = None
        self._shown = ""  # in the bar, of the last line
        if not distributed.is_main_process():
            return
        self._path = Path(output_dir, "metrics.json")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        cut_metrics(self._path, start)
        with _name_file(self._path):
            self._file = self._path.open("a")
        with _name_file(self._path.with_name(_EVENTS)):
            self._board = _open_tensorboard(output_dir, start)
        if progress_bar if progress_bar is not None else sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total_steps, initial=start, dynamic_ncols=True, bar_format=_BAR)

    def __call__(self, step: Step) -> None:
        """Take note of a step; write every 20 iterations and after the last one."""
        self._waiting.append(step.losses)
        self._window["data_time"].append(step.data_seconds)
        self._pace.note(step.seconds, step.data_seconds)
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
            left = self._pace.estimate(self._total - step.iteration - 1)
            shown = [] if left is None else [f"{_format_time(left)} left"]
            self._bar.set_postfix_str(", ".join([*shown, self._shown]).strip(", "), refresh=False)
            self._bar.update()

    def put(self, scalars: Mapping[str, float]) -> None:
        """Add other scalars, as an evaluation's "bbox/AP", to the line of the next step.

        NaN becomes null. Let the writer be the last of the callables after a step. What is put
        after the last step has a line of its own, with the number of steps as its iteration, as in
        detectron2.
        """
        self._others.update(scalars)

    @property
    def takes_pictures(self) -> bool:
        """Tell whether TensorBoard shows what ``put_image`` and ``put_curve`` are given."""
        return distributed.is_main_process() and self._board is not None

    def put_image(self, name: str, image: np.ndarray) -> None:
        """Add an RGB image, uint8 (height, width, 3), to TensorBoard at the next step."""
        self._pictures.append(lambda board, step: _add_picture(board, name, image, step))

    def put_curve(self, name: str, counts: np.ndarray) -> None:
        """Add a precision-recall curve to TensorBoard at the next step.

        Args:
            counts: (6, S), for S evenly spaced scores from 0 to 1: true and false positives, true
                and false negatives, precision and recall.
        """
        size = counts.shape[1]
        self._pictures.append(
            lambda board, iteration: board.add_pr_curve_raw(name, *counts, iteration, size)
        )

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
        pictures = list(self._pictures)
        self._others.clear()
        self._pictures.clear()
        line = {name: value if math.isfinite(value) else None for name, value in everything.items()}
        with _name_file(self._path):
            self._file.write(json.dumps({**line, "iteration": iteration}, sort_keys=True) + "\n")
            self._file.flush()
        if self._board is not None:
            with _name_file(self._path.with_name(_EVENTS)):
                for name, value in everything.items():
                    self._board.add_scalar(name, value, iteration)
                for put in pictures:
                    put(self._board, iteration)
        for watch in self._watches:
            watch(iteration, everything)

    def _write_step(self, step: Step) -> None:
        if not distributed.is_main_process():
            return
        medians = {name: statistics.median(values) for name, values in self._window.items()}
        scalars = {**medians, "lr": step.learning_rate}
        if timed := self._pace.finish_line():
            scalars["time"], scalars["data_share"] = timed
            if self._images_per_step is not None:
                scalars["images_per_second"] = self._images_per_step / scalars["time"]
            eta = self._pace.estimate(self._total - step.iteration - 1)
            assert eta is not None
            scalars["eta_seconds"] = eta
        if (memory := read_peak_memory()) is not None:
            scalars["peak_memory_mib"] = memory
        self._write(step.iteration, scalars)
        logger.info(_format_line(step.iteration, scalars), extra={IN_BAR: self._bar is not None})
        self._shown = _format_shown(scalars)


@contextmanager
def _name_file(path: Path) -> Iterator[None]:
    """Name the file and what to do, where the disk is full."""
    try:
        yield
    except OSError as error:
        raise explain_full_disk(error, path) from error


def read_names(output_dir: str | Path, iteration: int) -> set[str]:
    """Read the names of the scalars that metrics.json has of an iteration; in every process."""
    recorded = read_recorded(output_dir)
    return {name for name, values in recorded.items() if iteration in values}


def read_recorded(output_dir: str | Path) -> dict[str, dict[int, float]]:
    """Read the scalars of a run's metrics.json, as ``read_series``; in every process.

    Only the main process reads, so that what all of them know is one state of the file.
    """
    main = distributed.is_main_process()
    found = read_series(Path(output_dir, "metrics.json")) if main else {}
    return distributed.broadcast_object(found)


def read_series(path: Path) -> dict[str, dict[int, float]]:
    """Read the scalars of a metrics.json by name and iteration; none where there is no file.

    Null and what is infinite is nan. Where an iteration stands twice, as detectron2 leaves it when
    it resumes a training, the later line holds.
    """
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for _, content in _read_whole_lines(path) if path.is_file() else ():
        iteration = content.pop("iteration")
        for name, value in content.items():
            if value is None or isinstance(value, int | float):
                number = math.nan if value is None else float(value)
                found[name][iteration] = number if math.isfinite(number) else math.nan
    return dict(found)


def cut_metrics(path: Path, start: int) -> None:
    """Remove the lines of iteration ``start`` and later, and any that a killed run cut short."""
    if not path.is_file():
        return
    lines = _read_whole_lines(path)
    write_text(path, "".join(line + "\n" for line, held in lines if held["iteration"] < start))


def _read_whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line with its contents, without those that a killed run cut short."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict) and isinstance(content.get("iteration"), int):
            yield line, content


def _format_line(iteration: int, scalars: Mapping[str, float]) -> str:
    """Format a line of progress in the words of detectron2's log."""
    eta = scalars.get("eta_seconds")
    parts = [f"eta: {_format_time(eta)}"] if eta is not None else []
    parts.append(f"iter: {iteration}")
    parts += [f"{name}: {value:.4g}" for name, value in scalars.items() if "loss" in name]
    parts += [f"{name}: {scalars[name]:.4f}" for name in ("time", "data_time") if name in scalars]
    if "images_per_second" in scalars:
        parts.append(f"images/s: {_format_rate(scalars['images_per_second'])}")
    parts.append(f"lr: {scalars['lr']:.5g}")
    if "peak_memory_mib" in scalars:
        parts.append(f"max_mem: {scalars['peak_memory_mib']:.0f}M")
    if "data_share" in scalars:
        parts.append(f"bound: {_name_bound(scalars['data_share'])}")
    return "  ".join(parts)


def _format_shown(scalars: Mapping[str, float]) -> str:
    """Format what the bar shows of a line."""
    shown = [f"loss {scalars['total_loss']:.4g}, lr {scalars['lr']:.5g}"]
    if "images_per_second" in scalars:
        shown.append(f"{_format_rate(scalars['images_per_second'])} images/s")
    if "peak_memory_mib" in scalars:
        shown.append(f"{scalars['peak_memory_mib'] / 2**10:.1f} GiB")
    if "data_share" in scalars:
        shown.append(f"bound by {_name_bound(scalars['data_share'])}")
    return ", ".join(shown)


def _name_bound(share: float) -> str:
    return "data" if share >= WAITING else "compute"


def _format_rate(images: float) -> str:
    return f"{images:.0f}" if images >= 100 else f"{images:.3g}"


def _format_time(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _open_tensorboard(output_dir: str | Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning(
            "No TensorBoard events are written: tensorboard is not installed (pip install "
            "tensorboard)."
        )
        return None
    except Exception as error:  # such as the TypeError of a protobuf that is too new for it
        logger.warning(
            "No TensorBoard events are written: tensorboard cannot be imported (%s: %s); install "
            "it anew (pip install --upgrade tensorboard protobuf).",
            *(type(error).__name__, str(error).strip().partition("\n")[0]),
        )
        return None
    _silence_tensorboard()
    return SummaryWriter(str(output_dir), purge_step=start)


def _silence_tensorboard() -> None:
    """Leave out the traceback of TensorBoard's thread: its next call here raises the error."""
    tell = threading.excepthook
    if not isinstance(tell, partial) or tell.func is not _tell_of_others:
        threading.excepthook = partial(_tell_of_others, tell)


def _tell_of_others(tell: Callable[[Any], object], given: Any) -> None:
    """Call ``tell`` with the error of a thread, unless the thread is TensorBoard's."""
    if not type(given.thread).__module__.startswith("tensorboard."):
        tell(given)


def _add_picture(board: Any, name: str, image: np.ndarray, iteration: int) -> None:
    """Add an RGB image as JPEG: the PNG of ``add_image`` takes five times as much room."""
    import cv2
    from tensorboard.compat.proto.summary_pb2 import Summary

    _, data = cv2.imencode(".jpg", image[:, :, ::-1])
    height, width = image.shape[:2]
    content = Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=data.tobytes()
    )
    value = Summary.Value(tag=name, image=content)
    board.file_writer.add_summary(Summary(value=[value]), iteration)
