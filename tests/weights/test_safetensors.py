"""Files of safetensors: what its own library wrote, and headers that break the format."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnext_det.weights.containers import read_container
from tests.weights.hostile import (
    memory_below,
    safetensors_bytes,
)

MIB = 1 << 20


@pytest.mark.parametrize("mapped", [False, True])
def test_safetensors_as_its_own_library_writes_them(tmp_path: Path, mapped: bool) -> None:
    library = pytest.importorskip("safetensors.torch")
    kinds = (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
    )
    wanted = {
        f"w.{kind}": torch.randn(3, 4).mul(9).to(kind) for kind in (*kinds, torch.uint8, torch.bool)
    }
    wanted |= {
        "none": torch.zeros(0, 4),
        "one": torch.tensor(1.5),
        "odd": torch.ones(3, dtype=torch.int8),
    }
    library.save_file(wanted, tmp_path / "a", metadata={"format": "pt"})
    kind, found = read_container(tmp_path / "a", mapped=mapped)
    assert kind == "safetensors"
    assert found["__metadata__"] == {"format": "pt"}
    assert set(found["state_dict"]) == set(wanted)
    for name in wanted:
        assert found["state_dict"][name].dtype == wanted[name].dtype
        assert torch.equal(found["state_dict"][name], wanted[name])


def changed(name: str, **values: Any) -> bytes:
    """A file of safetensors with one description changed."""
    arrays = {"a": np.zeros(4, np.float32), "b": np.ones(2, np.int64)}
    begin = {"a": [0, 16], "b": [16, 32]}[name]
    shape = {"a": [4], "b": [2]}[name]
    described = {
        "dtype": {"a": "F32", "b": "I64"}[name],
        "shape": shape,
        "data_offsets": begin,
        **values,
    }
    return safetensors_bytes(arrays, **{name: described})


def header(text: str, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text.encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed("b", data_offsets=[8, 24]), "overlaps another one"),
        (changed("b", data_offsets=[20, 36]), "follows a gap"),
        (changed("b", data_offsets=[16, 2**40]), "damaged"),
        (changed("b", data_offsets=[-16, 0]), "damaged"),
        (
            changed("b", data_offsets=[16, 16], shape=[0]),
            "damaged: its tensors have 16 bytes, and 32 are there",
        ),
        (changed("b", shape=[2**30, 2**30]), "of shape"),
        (changed("b", shape=[3]), "of shape"),
        (changed("b", shape=[2.0]), "has the shape"),
        (changed("b", shape=[True, 2]), "has the shape"),
        (changed("b", shape=[1] * 33 + [2]), "of shape"),
        (changed("b", shape="2"), "has the shape"),
        (changed("b", dtype="F8_E4M3"), "is of dtype 'F8_E4M3'"),
        (changed("b", dtype=3), "is of dtype 3"),
        (changed("b", more=1), "describes"),
        (changed("b")[:-1], "cut short: its tensors have 32 bytes, and 31 are there"),
        (changed("b") + b"\0", "32 bytes, and 33 are there"),
        (safetensors_bytes({}, __metadata__={"a": 1}), "metadata"),
        (header('{"a": 1'), "no JSON"),
        (header('{"a": 1}'), "describes 'a'"),
        (header('{"a": {}, "a": {}}'), "a name twice"),
        (header('{"a": NaN}'), "header has NaN"),
        (header('{"a": ' + "9" * 5000 + "}"), "5000 digits"),
        (header('{"a": ' + "[" * 100_000 + "}"), "no JSON"),
        (header("{}", 2**39), "cut short: its header has 549755813888 bytes"),
        (header("{" + " " * 3_000_000), "its header has 3000001 bytes"),
    ],
    ids=range(25),
)
def test_safetensors_are_held_to_the_format(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with memory_below(2 * len(data) + 64 * MIB), pytest.raises(ValueError, match=message):
        read_container(tmp_path / "a")
