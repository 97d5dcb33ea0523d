"""Measure the memory that a step takes on the CPU, in a process that does nothing else."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from resnext_det.benchmark.cases import Case, Key

logger = logging.getLogger(__name__)

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_peak(case: Case, key: Key) -> int | None:
    """Measure the memory of one that takes part: its weights and what a step needs at most.

    Returns:
        Bytes: the most that a process held during a step, less what it held before it built the
        network. None where the system does not tell (it is not Linux), or the process fails.
    """
    if not _CLEAR.exists():
        return None
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_measure_alone, case, key, torch.get_num_threads()).result()
    except Exception as error:  # what a library raises, or the system ended it for lack of memory
        logger.warning("The memory of %s is not known: %s", key, error)
        return None


def _measure_alone(case: Case, key: Key, threads: int) -> int:
    torch.set_num_threads(threads)
    if importlib.util.find_spec("detectron2") is not None:
        import detectron2.modeling  # noqa: F401 (what libraries take does not count)
    before = _read_status("VmRSS")
    candidate = case.build(key)
    candidate.step()
    case.forget()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what building took
    _CLEAR.write_text("5", encoding="utf-8")  # the peak begins anew
    candidate.step()
    return _read_status("VmHWM") - before


def _read_status(name: str) -> int:
    """Read a size of this process, in bytes."""
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} does not tell {name}")
