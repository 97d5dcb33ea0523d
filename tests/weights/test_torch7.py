"""Torch 7 files, written byte by byte as the format is described, are read back as they were."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.weights.torch7 import read_torch7
from tests.weights.hostile import limit_memory, truncate
from tests.weights.torch7_writer import (
    NAMES,
    LongStorage,
    Module,
    Torch7Writer,
    make_sequential,
    write_torch7,
)


def read(folder: Path, data: bytes) -> Any:
    path = folder / "a.t7"
    path.write_bytes(data)
    return read_torch7(path)


def test_plain_data(tmp_path: Path) -> None:
    wanted = {
        "a": 1,
        "b": -2.5,
        3: "text\xff",
        4: True,
        5: False,
        6: {},
        "list": [1, 2],
        "large": 1e300,
    }
    found = read(tmp_path, write_torch7({**wanted, "none": None}))
    assert found == {**wanted, "list": {1: 1, 2: 2}, "none": None}
    assert type(found["a"]) is int


def test_a_table_by_the_bytes_of_the_description(tmp_path: Path) -> None:
    text = struct.pack("<3i", 3, 1, 2)  # a table, its index, two entries
    text += struct.pack("<2i", 2, 3) + b"key" + struct.pack("<id", 1, 0.5)
    text += struct.pack("<id", 1, 2.0) + struct.pack("<2i", 5, 1)
    assert read(tmp_path, text) == {"key": 0.5, 2: True}


@pytest.mark.parametrize("dtype", sorted(NAMES, key=str), ids=str)
@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("versions", [False, True])
def test_tensors_of_every_type(
    tmp_path: Path, dtype: torch.dtype, cuda: bool, versions: bool
) -> None:
    whole = torch.arange(60).to(dtype).view(5, 12)
    wanted = {
        "whole": whole,
        "part": whole[1:4, 2::3],
        "turned": whole.t(),
        "same": whole,
        "none": torch.empty(0, dtype=dtype),
    }
    found = read(tmp_path, write_torch7(wanted, cuda=cuda, versions=versions))
    for name, tensor in wanted.items():
        assert found[name].dtype == dtype
        assert found[name].stride() == tensor.stride() or not tensor.numel()
        assert torch.equal(found[name], tensor)
    assert found["same"] is found["whole"]
    found["whole"][1, 2] = 7
    assert found["part"][0, 0] == 7  # one storage, as in the file


def test_storages_on_their_own_are_flat_tensors(tmp_path: Path) -> None:
    sizes = LongStorage((-1, 2048))
    assert read(tmp_path, write_torch7(sizes)).tolist() == [-1, 2048]
    assert read(tmp_path, write_torch7({"size": sizes}))["size"].tolist() == [-1, 2048]


def test_what_contains_itself_is_read(tmp_path: Path) -> None:
    module = Module("nn.Sequential", {"name": "a"})
    module.fields["owner"] = module
    found = read(tmp_path, write_torch7(module))
    assert found.fields["owner"] is found
    assert found.class_name == "nn.Sequential"
    assert repr(found) == "TorchObject(class_name='nn.Sequential')"


def write_tensor(
    *,
    sizes: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (3, 1),
    offset: int = 1,
    stored: int = 6,
    there: int = 6,
) -> bytes:
    """Write a float tensor byte by byte."""
    writer = Torch7Writer()
    writer.integer(4)
    writer.integer(1)
    writer.text("V 1")
    writer.text("torch.FloatTensor")
    writer.integer(len(sizes))
    writer.long(*sizes, *strides, offset)
    writer.integer(4)
    writer.integer(2)
    writer.text("V 1")
    writer.text("torch.FloatStorage")
    writer.long(stored)
    return bytes(writer.data) + struct.pack(f"<{there}f", *range(there))


def test_the_tensor_that_the_hostile_ones_vary(tmp_path: Path) -> None:
    assert read(tmp_path, write_tensor()).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 2}, "reaches beyond its 6 values"),
        ({"offset": 0}, "damaged: a tensor has "),
        ({"offset": -(2**63)}, "damaged"),
        ({"offset": 2**63 - 1}, "damaged"),
        ({"sizes": (2, 4)}, "reaches beyond"),
        ({"sizes": (2**40, 2**40)}, "damaged: a tensor has the shape"),
        ({"sizes": (-2, 3)}, "damaged: a tensor has "),
        ({"sizes": (2**62, 0)}, "damaged"),
        ({"sizes": (2**40,), "strides": (0,)}, "has only 6 values, by strides of 0"),
        ({"strides": (4, 1)}, "reaches beyond"),
        ({"strides": (-3, 1)}, "damaged: a tensor has "),
        ({"strides": (2**62, 2**62)}, "damaged"),
        ({"sizes": (1,) * 33, "strides": (1,) * 33}, "33 dimensions"),
        ({"stored": 2**60}, "storage of 1152921504606846976 elements"),
        ({"stored": 7}, "storage of 7 elements"),
        ({"stored": -1}, "storage of -1 elements"),
        ({"there": 7}, "ends 4 bytes before"),
    ],
)
def test_offsets_out_of_bounds(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, write_tensor(**changes))


def nest_tables(depth: int) -> bytes:
    return b"".join(
        struct.pack("<3i", 3, index, 1) + struct.pack("<id", 1, 1) for index in range(1, depth)
    ) + bytes(4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut short"),
        (struct.pack("<i", 9), "object of type 9"),
        (struct.pack("<i", -1), "object of type -1"),
        (struct.pack("<3i", 3, 1, 2**31 - 1), "table of 2147483647 elements"),
        (struct.pack("<3i", 3, 1, -1), "table of -1 elements"),
        (struct.pack("<2i", 2, 2**31 - 1) + b"abc", "string of 2147483647 elements"),
        (struct.pack("<2i", 2, -4) + b"abc", "string of -4 elements"),
        (struct.pack("<6i", 3, 1, 1, 3, 2, 0) + struct.pack("<i", 0), "table has a dict as a key"),
        (
            struct.pack("<4i", 3, 1, 1, 0) + struct.pack("<i", 0) * 2,
            "table has a NoneType as a key",
        ),
        (struct.pack("<4i", 8, 1, 4, 0), "Lua function"),
        (struct.pack("<4i", 7, 1, 4, 0), "Lua function"),
        (struct.pack("<4i", 6, 4, 0, 0), "Lua function"),
        (
            struct.pack("<3i", 4, 1, 3) + b"V 1" + struct.pack("<i", 8) + b"tds.Hash" + bytes(4),
            "holds 'tds.Hash', which is no module",
        ),
        (nest_tables(100_000), "nested over 150 deep"),
    ],
    ids=range(14),
)
def test_damage_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, data)


def test_a_tensor_with_the_storage_of_another_type(tmp_path: Path) -> None:
    data = write_tensor().replace(
        struct.pack("<i", 17) + b"torch.FloatTensor", struct.pack("<i", 15) + b"torch.IntTensor"
    )
    with pytest.raises(ValueError, match="no storage of its type"):
        read(tmp_path, data)


def test_cut_short_at_any_byte(tmp_path: Path) -> None:
    data = write_torch7(
        make_sequential(
            Module("nn.Linear", {"weight": torch.ones(2, 3), "name": "a", "train": True})
        )
    )
    for cut in truncate(data, 1):
        with pytest.raises(ValueError, match="cut short"):
            read(tmp_path, cut)


def test_memory_is_the_files(tmp_path: Path) -> None:
    data = write_torch7([torch.ones(1 << 20) for _ in range(4)])
    with limit_memory(2 * len(data)):
        read(tmp_path, data)
