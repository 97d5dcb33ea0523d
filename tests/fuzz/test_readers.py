"""Mutate right files of every kind: a reader gives contents or a sentence, soon, in little memory.

``RESNEXT_DET_FUZZ_CASES`` sets the number of cases for each reader.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnext_det.config import load_config
from resnext_det.data.annotations.coco_json import read_coco_json
from resnext_det.data.proposals import read_proposals
from resnext_det.data.reading import read_image
from resnext_det.evaluation.coco_files import read_detections, read_ground_truth
from resnext_det.weights.containers import find_damage, read_container

_CASES = int(os.environ.get("RESNEXT_DET_FUZZ_CASES", "1000"))
_SECONDS = 10  # for one case
_MEBIBYTES = 500  # by which the memory may grow in all
_WORDS = (b"[" * 50, b"{", b'"', b"null", b"NaN", b"9" * 400, b"-1", b"&a *a", b"<<: ", b"\x1b[31m")


def _save(save: Callable[[io.BytesIO], Any]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


_COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 9], "area": 81}],
    "categories": [{"id": 1, "name": "cat"}],
}
_RESULTS = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 9], "score": 0.5}]
_YAML = b"MODEL: {RESNETS: {DEPTH: 50}}\nSOLVER:\n  STEPS: &s [60, 80]\n  MAX_ITER: 90\nSEED: 1\n"
_PROPOSALS = {
    "ids": [1],
    "boxes": [np.zeros((1, 4), np.float32)],
    "objectness_logits": [np.zeros(1, np.float32)],
    "bbox_mode": 0,
}
_STATE = {"model": {"a.weight": torch.ones(4, 4)}, "iteration": 3}


def _read_results(path: Path) -> None:
    truth = read_ground_truth(_COCO)
    read_detections(path, truth)


_PICTURE = Image.new("RGB", (20, 30))
_READERS: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
    "yaml": (_YAML, load_config),
    "coco": (json.dumps(_COCO).encode(), lambda path: read_coco_json(path, path.parent, "set")),
    "results": (json.dumps(_RESULTS).encode(), _read_results),
    "png": (_save(lambda f: _PICTURE.save(f, "PNG")), lambda path: read_image(path, "BGR")),
    "jpeg": (_save(lambda f: _PICTURE.save(f, "JPEG")), lambda path: read_image(path, "RGB")),
    "proposals": (pickle.dumps(_PROPOSALS), read_proposals),
    "checkpoint": (_save(lambda f: torch.save(_STATE, f)), read_container),
}


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


@pytest.mark.slow
@pytest.mark.parametrize("name", _READERS)
def test_a_mutated_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    seed, read = _READERS[name]
    path, draw = tmp_path / "file", random.Random(0)
    path.write_bytes(seed)
    read(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGALRM, _stop)
    try:
        for case in range(_CASES):
            data = _mutate(seed, draw)
            path.write_bytes(data)
            signal.alarm(_SECONDS)
            try:
                read(path)
            except (ValueError, FileNotFoundError):
                pass
            except Exception as error:
                raise AssertionError(f"case {case} of {name}: {data!r:.2000}") from error
            finally:
                signal.alarm(0)
    finally:
        signal.signal(signal.SIGALRM, old)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < _MEBIBYTES << 10


@pytest.mark.slow
def test_every_damage_of_tensor_data_is_noticed(tmp_path: Path) -> None:
    """200 bits flipped, 60 pages of zeros, 60 files cut short."""
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    whole = _save(lambda file: torch.save({"model": {"a.weight": values}}, file))
    start = whole.index(values[:8].numpy().tobytes())
    path, draw = tmp_path / "model.pth", random.Random(0)

    def is_noticed(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            return find_damage(path) is not None
        except ValueError:
            return True

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
