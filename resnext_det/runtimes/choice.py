"""Choose the backend that is fastest on this machine: time each once, and remember the times."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from resnext_det.files import cache_folder, format_json, write_text
from resnext_det.runtimes.backends import find_backend, list_backends
from resnext_det.runtimes.parts import Part, Run
from resnext_det.training.machine import read_cpu_name

logger = logging.getLogger(__name__)

_TURNS = 5  # of which the median counts
_PACKAGES = ("resnext-det", "torch", "onnxruntime", "openvino")


def choose_backend(parts: Sequence[Part], dtype: torch.dtype, device: torch.device) -> str:
    """Choose the backend that computes the parts of a model fastest, of those built in seconds.

    The times are kept in a file, and read back for a network of the same shapes, images of the same
    size, the same number of threads, processor and versions of the packages. "compiled" is not
    tried, as torch.compile takes a minute at every start. A backend that cannot compute the model
    is left out with a warning; that is kept too.

    Raises:
        ValueError: no backend can.
    """
    names = [name for name in list_backends(dtype, device) if name != "compiled"]
    if len(names) == 1:
        logger.info("Backend auto takes %s, the only one to choose from here.", names[0])
        return names[0]
    key = describe(parts, dtype, device)
    path = locate_times(key)
    milliseconds = _read_times(path, key)
    if milliseconds is None or not set(names) <= set(milliseconds):
        logger.info(
            "Backend auto times %s on this network, once on this machine.", ", ".join(names)
        )
        milliseconds = _time_backends(names, parts, dtype, device)
        if not any(math.isfinite(value) for value in milliseconds.values()):
            raise ValueError(f"none of the backends {', '.join(names)} can compute this model")
        try:
            kept = {
                name: value if math.isfinite(value) else None
                for name, value in milliseconds.items()
            }
            write_text(path, format_json({"key": key, "milliseconds": kept}))
        except OSError as error:
            logger.warning("The times of the backends are not remembered: %s", error)
    chosen, second, *_ = sorted(names, key=lambda name: milliseconds[name])
    ratio = milliseconds[second] / milliseconds[chosen]
    why = f"{ratio:.2f} times as fast as {second}"
    if math.isinf(ratio):
        why = "the only one that can compute this model"
    times = ", ".join(_format_time(name, milliseconds[name]) for name in names)
    logger.info("Backend auto takes %s, %s: %s (%s).", chosen, why, times, path)
    return chosen


def _format_time(name: str, milliseconds: float) -> str:
    return f"{name} {milliseconds:.0f} ms" if math.isfinite(milliseconds) else f"{name} cannot"


def describe(parts: Sequence[Part], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Describe what the times depend on, in values of JSON."""
    shapes = [
        [part.name, list(part.example.shape)]
        + [[name, list(value.shape)] for name, value in part.network.state_dict().items()]
        for part in parts
    ]
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "network": hashlib.sha256(json.dumps(shapes).encode()).hexdigest(),
        "dtype": str(dtype),
        "device": read_cpu_name() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def locate_times(key: dict[str, Any]) -> Path:
    """Name the file of the times of one key, in the folder of downloads."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / "backends" / f"{digest}.json"


def _read_times(path: Path, key: dict[str, Any]) -> dict[str, float] | None:
    """Read times; None where there are none, or the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        times = {
            str(name): math.inf if value is None else float(value)
            for name, value in content["milliseconds"].items()
        }
        is_sound = all(value > 0 for value in times.values())
        return times if is_sound and content["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _time_backends(
    names: Sequence[str], parts: Sequence[Part], dtype: torch.dtype, device: torch.device
) -> dict[str, float]:
    """Time backends on the parts' examples; warn of those that fail.

    They take turns, so that what slows the machine down for a moment slows all of them down.

    Returns:
        the median of several turns in ms by name; infinity where a backend fails.
    """
    turns: dict[str, Callable[[], float]] = {}
    for name in names:
        try:
            turns[name] = _prepare_turn(name, parts, dtype, device)
            turns[name]()  # the first run is slower
        except Exception as error:  # exporters and compilers raise errors of many kinds
            turns.pop(name, None)
            logger.warning("The backend %s is left out: %s", name, describe_failure(error))
    rounds = [{name: turn() for name, turn in turns.items()} for _ in range(_TURNS)]
    medians = {name: statistics.median(times[name] for times in rounds) for name in turns}
    return {name: medians.get(name, math.inf) for name in names}


def _prepare_turn(
    name: str, parts: Sequence[Part], dtype: torch.dtype, device: torch.device
) -> Callable[[], float]:
    """Build a backend for the parts; the function given runs it on their examples, and tells ms."""
    build = find_backend(name, dtype, device)
    runs = [(build(part, dtype), part.example) for part in parts]
    return lambda: _run_all(runs)


def _run_all(runs: Sequence[tuple[Run, torch.Tensor]]) -> float:
    began = time.perf_counter()
    for run, example in runs:
        outputs = run(example)
        if outputs[0].is_cuda:
            torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def describe_failure(error: Exception) -> str:
    """Say in one line that a backend's own tools failed on a model."""
    lines = str(error).strip().splitlines() or [""]
    return f"it cannot compute this model ({type(error).__name__}: {lines[0]})"
