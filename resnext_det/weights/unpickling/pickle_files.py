"""Bare pickle files: detectron2's and Detectron's weights, precomputed proposals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnext_det.weights.limits import Budget, Unreadable
from resnext_det.weights.unpickling.arrays import NUMPY
from resnext_det.weights.unpickling.machine import PickleMachine
from resnext_det.weights.unpickling.objects import PLAIN, check_depth


def read_plain_pickle(path: str | Path) -> Any:
    """The contents of a bare pickle file, without running any of its code.

    Read are dict, list, tuple, set, frozenset, str, bytes (a bytearray becomes bytes), int of 64 bits, float, bool, None, OrderedDict,
    and numpy's arrays and scalars of bool, int, uint and float, also of big-endian machines (they come back in this one's order).
    Python 2's strings become str by latin1. Nothing that the file names is imported or called.

    Memory stays below twice the file plus 64 MiB; arrays are read straight into their memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, cut short, damaged or too deep, asks for anything else (the text names what), or would take more
            memory than that.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give the path of a pickle file")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty; copy or download the file again")
    with path.open("rb") as file:
        try:
            contents = PickleMachine(
                file, end=size, budget=Budget(size), admitted={**PLAIN, **NUMPY}
            ).read()
            if file.tell() != size:
                left = size - file.tell()
                raise Unreadable(
                    f"is damaged: its pickle ends {left} bytes before it; copy the file again"
                )
            check_depth(contents)
        except Unreadable as error:
            raise ValueError(f"{path} {error}") from error.__cause__
    return contents
