"""Give readers mutated files: they give contents or a sentence, soon, in little memory.

``RESNEXT_DET_FUZZ_CASES`` sets the number of cases for each reader.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.weights.containers import find_damage
from tests.fuzz.targets import CORPUS, TARGETS, UNREAD, is_read

_CASES = int(os.environ.get("RESNEXT_DET_FUZZ_CASES", "1000"))
_SECONDS = 10  # for one case
_MEBIBYTES = 500  # by which the memory may grow in all
_WORDS = (b"[" * 50, b"{", b'"', b"null", b"NaN", b"9" * 400, b"-1", b"&a *a", b"<<: ", b"\x1b[31m")


def _mutate(data: bytes, draw: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place, kind = draw.randrange(len(content) + 1), draw.randrange(5)
        if kind == 0:
            content[place : place + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            del content[place : place + draw.randint(1, 20)]
        elif kind == 2:
            content[place:place] = draw.choice(_WORDS)
        elif kind == 3:
            start = draw.randrange(len(content) + 1)
            content[place:place] = content[start : start + draw.randint(1, 40)]
        else:
            del content[max(1, place) :]
    return bytes(content)


class _Hang(BaseException):
    """A reader does not end; no reader takes it for an error of its file."""


def _stop(*_: Any) -> None:
    raise _Hang


@contextlib.contextmanager
def _interrupt_hangs() -> Iterator[None]:
    old = signal.signal(signal.SIGALRM, _stop)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("name", TARGETS)
def test_right_files_are_read_and_the_corpus_is_refused_or_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / TARGETS[name].file
    path.parent.mkdir(parents=True)
    for seed in TARGETS[name].seeds:
        path.write_bytes(seed)
        assert is_read(TARGETS[name], path) or name in UNREAD
    for found in sorted((CORPUS / name).glob("*")):
        path.write_bytes(found.read_bytes())
        with _interrupt_hangs():
            is_read(TARGETS[name], path)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_mutated_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    target, draw = TARGETS[name], random.Random(0)
    path = tmp_path / name / target.file
    path.parent.mkdir(parents=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(_CASES):
        data = _mutate(draw.choice(target.seeds), draw)
        path.write_bytes(data)
        try:
            with _interrupt_hangs():
                is_read(target, path)
        except Exception as error:
            raise AssertionError(f"case {case} of {name}: {data!r:.2000}") from error
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < _MEBIBYTES << 10


@pytest.mark.slow
def test_every_damage_of_tensor_data_is_noticed(tmp_path: Path) -> None:
    """200 bits flipped, 60 pages of zeros, 60 files cut short."""
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    file = io.BytesIO()
    torch.save({"model": {"a.weight": values}}, file)
    whole = file.getvalue()
    start = whole.index(values[:8].numpy().tobytes())
    draw, number = random.Random(0), itertools.count()

    def is_noticed(data: bytes) -> bool:
        path = tmp_path / f"{next(number)}.pth"  # what is known of a file is kept by its name
        path.write_bytes(data)
        try:
            return find_damage(path) is not None
        except ValueError:
            return True
        finally:
            path.unlink()

    assert not is_noticed(whole)
    for _ in range(200):
        place = start + draw.randrange(values.nbytes)
        flipped = whole[place] ^ (1 << draw.randrange(8))
        assert is_noticed(whole[:place] + bytes([flipped]) + whole[place + 1 :])
    for _ in range(60):
        place = start + draw.randrange(values.nbytes - 4096)
        assert is_noticed(whole[:place] + bytes(4096) + whole[place + 4096 :])
    for _ in range(60):
        assert is_noticed(whole[: draw.randrange(1, len(whole))])
