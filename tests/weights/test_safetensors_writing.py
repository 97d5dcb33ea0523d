"""The safetensors format, against its description and its own library."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from resnext_det.weights.writing import write_weights
from tests.weights.test_writing import (
    NOTES,
    TORCHVISION,
    classifier,
    same_bits,
    without_counters,
)


def test_safetensors_by_its_description(tmp_path: Path) -> None:
    state = {
        "half": torch.randn(3).half(),
        "bool": torch.tensor([True, False, True]),
        "wide": torch.randn(2, 2, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(7),
        "weight": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "brain": torch.randn(5).bfloat16(),
    }
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
    assert list(header) == list(state)
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


def test_safetensors_reads_it(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    model = classifier()
    path = tmp_path / "weights.safetensors"
    write_weights(model, path, "safetensors", preprocessing=TORCHVISION, metadata=NOTES)
    assert same_bits(library.load_file(path), without_counters(model.state_dict()))
    with library.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["metadata"]) == NOTES
