"""Safetensors files, against the format's description and its package; hostile ones are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from resnext_det.weights.containers import read_container
from resnext_det.weights.writing import write_weights
from tests.weights.helpers import NOTES, TORCHVISION, classifier, drop_counters, same_bits
from tests.weights.hostile import limit_memory, make_safetensors

MIB = 1 << 20


def write_other_package(path: Path) -> dict[str, torch.Tensor]:
    """Write tensors of every dtype with the package; return them."""
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)
    kinds += (torch.int16, torch.int8, torch.uint8, torch.bool)
    tensors = {f"w.{kind}": torch.randn(3, 4).mul(9).to(kind) for kind in kinds}
    tensors |= {
        "none": torch.zeros(0, 4),
        "one": torch.tensor(1.5),
        "odd": torch.ones(3, dtype=torch.int8),
    }
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return tensors


@pytest.mark.parametrize("mapped", [False, True])
def test_files_of_the_package_are_read(tmp_path: Path, mapped: bool) -> None:
    wanted = write_other_package(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    kind, found = read_container(tmp_path / "a", mapped=mapped)
    assert kind == "safetensors"
    assert found["__metadata__"] == {"format": "pt"}
    assert set(found["state_dict"]) == set(wanted)
    for name in wanted:
        assert found["state_dict"][name].dtype == wanted[name].dtype
        assert torch.equal(found["state_dict"][name], wanted[name])
        found["state_dict"][name].zero_()  # writable, and not the file itself
    assert (tmp_path / "a").read_bytes() == before


def test_tensors_outlive_the_file_unless_they_are_mapped(tmp_path: Path) -> None:
    wanted = write_other_package(tmp_path / "a")
    found = read_container(tmp_path / "a")[1]["state_dict"]
    (tmp_path / "a").write_bytes(bytes((tmp_path / "a").stat().st_size))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("mapped", [False, True])
def test_tensors_at_odd_places_are_read(tmp_path: Path, mapped: bool) -> None:
    """The package writes wide types first; others need not, and processors want aligned values."""
    arrays = {"a": np.arange(3, dtype=np.uint8), "b": np.arange(5, dtype=np.int64)}
    (tmp_path / "a").write_bytes(make_safetensors(arrays))
    found = read_container(tmp_path / "a", mapped=mapped)[1]["state_dict"]
    assert list(found) == ["a", "b"]
    assert found["b"].tolist() == [0, 1, 2, 3, 4]
    assert found["b"].data_ptr() % 8 == 0


def test_mapped_tensors_take_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(make_safetensors({"a": np.ones(24 * MIB, np.float32)}))
    with limit_memory(16 * MIB):
        found = read_container(tmp_path / "a", mapped=True)[1]["state_dict"]
    assert found["a"][-1] == 1


def changed(name: str, **values: Any) -> bytes:
    """Make a safetensors file with one tensor's description changed."""
    arrays = {"a": np.zeros(4, np.float32), "b": np.ones(2, np.int64)}
    described = {
        "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "b": {"dtype": "I64", "shape": [2], "data_offsets": [16, 32]},
    }
    return make_safetensors(arrays, **{name: {**described[name], **values}})


def with_header(text: str, length: int | None = None, values: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text.encode() + values


EMPTY = '{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'
DAMAGED = "damaged or cut short, as a safetensors file"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed("b", data_offsets=[8, 24]), DAMAGED),
        (changed("b", data_offsets=[20, 36]), DAMAGED),
        (changed("b", data_offsets=[16, 2**40]), DAMAGED),
        (changed("b", data_offsets=[-16, 0]), DAMAGED),
        (changed("b", data_offsets=[16, 16], shape=[0]), DAMAGED),
        (changed("b", shape=[2**30, 2**30]), DAMAGED),
        (changed("b", shape=[2**62, 2**62, 0], data_offsets=[16, 16])[:-16], DAMAGED),
        (changed("b", shape=[0, 2**62, 4], data_offsets=[16, 16])[:-16], "has the shape"),
        (changed("b", shape=[3]), DAMAGED),
        (changed("b", shape=[2.0]), DAMAGED),
        (changed("b", shape=[True, 2]), DAMAGED),
        (changed("b", shape=[1] * 33 + [2]), "has the shape"),
        (changed("b", shape="2"), DAMAGED),
        (changed("b", dtype="F8_E4M3"), DAMAGED),
        (changed("b", dtype="F8_E4M3", shape=[16]), r"damaged|'b' is of torch.float8_e4m3fn"),
        (changed("b", dtype="U64"), "'b' is of torch.uint64; save it as torch.float32"),
        (changed("b", dtype=3), DAMAGED),
        (changed("b", dtype={"F32": 1}), DAMAGED),
        (changed("b")[:-1], DAMAGED),
        (changed("b") + b"\0", DAMAGED),
        (make_safetensors({}, __metadata__={"a": 1}), DAMAGED),
        (with_header('{"a": 1'), DAMAGED),
        (with_header('{"a": 1}'), DAMAGED),
        (with_header(f'{{"a": {EMPTY}, "a": {EMPTY}}}'), "a name twice"),
        (with_header(f'{{"a": {EMPTY}, "\\u0061": {EMPTY}}}'), "a name twice"),
        (with_header(f'{{"a": {EMPTY[:-1]}, "shape": [1]}}}}', values=bytes(4)), DAMAGED),
        (with_header(f'{{"__metadata__": {{"a": "1", "a": "2"}}, "a": {EMPTY}}}'), "a name twice"),
        (with_header('{"a": NaN}'), DAMAGED),
        (with_header('{"a": ' + "9" * 1_500_000 + "}"), DAMAGED),
        (with_header('{"a": ' + "[" * 100_000 + "}"), DAMAGED),
        (with_header(f'{{"a": {EMPTY[:-1]}, "b": [' + "[[]]," * 310_000 + "[]]}}"), ""),
        (with_header('{"a": [' + "[[]]," * 310_000 + "[]]}"), DAMAGED),
        (with_header("{}", 2**39), "its header has 549755813888 bytes"),
        (with_header("{", 1000), "cut short"),
        (with_header("{" + " " * 3_000_000), "its header has 3000001 bytes"),
    ],
    ids=range(35),
)
def test_hostile_headers_are_held_to_the_format(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(data)
    for mapped in (False, True):
        with limit_memory(2 * len(data) + 64 * MIB):
            if message:
                with pytest.raises(ValueError, match=f"{tmp_path / 'a'} is .*{message}"):
                    read_container(tmp_path / "a", mapped=mapped)
            else:
                read_container(tmp_path / "a", mapped=mapped)


def test_files_are_written_by_the_formats_description(tmp_path: Path) -> None:
    state = {
        "half": torch.randn(3).half(),
        "bool": torch.tensor([True, False, True]),
        "wide": torch.randn(2, 2, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(7),
        "weight": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "brain": torch.randn(5).bfloat16(),
    }
    state["tied"] = state["wide"]
    path = tmp_path / "weights.safetensors"
    write_weights(state, path, "safetensors", preprocessing=TORCHVISION, metadata=NOTES)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert {key: json.loads(value) for key, value in metadata.items()} == {
        "preprocessing": TORCHVISION.as_dict(),
        "metadata": NOTES,
    }
    assert set(header) == set(state)
    types = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?", "I64": "<i8", "BF16": "<i2"}
    reached = 0
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        begin, end = header[name]["data_offsets"]
        assert begin == reached and begin % state[name].element_size() == 0
        reached = end
        values = np.frombuffer(
            data[8 + length + begin : 8 + length + end], types[header[name]["dtype"]]
        )
        expected = state[name].view(torch.int16) if name == "brain" else state[name]
        assert np.array_equal(values.reshape(header[name]["shape"]), expected.numpy())
    assert 8 + length + reached == len(data)


def test_the_package_reads_what_is_written(tmp_path: Path) -> None:
    model = classifier()
    path = tmp_path / "weights.safetensors"
    write_weights(model, path, "safetensors", preprocessing=TORCHVISION, metadata=NOTES)
    assert same_bits(safetensors.torch.load_file(path), drop_counters(model.state_dict()))
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["metadata"]) == NOTES
