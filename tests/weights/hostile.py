"""Files that would harm a careless reader: their making, and what reading them may do."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import time
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnext_det.weights.containers import read_container
from tests.weights.torch7_writer import Module, sequential, torch7_bytes

# torch.save's number, its protocol and its machine, as pickles, of before torch 1.6.
LEGACY_HEAD = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    + pickle.dumps(1001, 2)
    + pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}, 2)
)


def bare(text: bytes) -> bytes:
    return text


def in_zip(text: bytes) -> bytes:
    """An archive of torch.save with this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", text)
        archive.writestr("archive/data/0", b"\0" * 64)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def in_legacy(text: bytes) -> bytes:
    """A file of torch.save before 1.6 with this pickle."""
    return LEGACY_HEAD + text + pickle.dumps(["0"], 2) + struct.pack("<q", 16) + b"\0" * 64


ENVELOPES = {"pickle": bare, "torch zip": in_zip, "torch legacy": in_legacy}


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def sample_contents() -> dict[str, Any]:
    """Plain data and tensors: more structure than values, so that most flips hit structure."""
    generator = torch.Generator().manual_seed(0)
    state = OrderedDict(
        (f"layer{number}.weight", torch.randn(2, 3, generator=generator)) for number in range(20)
    )
    counters: dict[str, Any] = {f"counter{number}": torch.tensor(number) for number in range(10)}
    return {
        "model": OrderedDict(**state, **counters),
        "epoch": 3,
        "rate": 0.1,
        "names": ["a", ("b", None, True)],
    }


def sample_files() -> dict[str, bytes]:
    """A small file of each kind."""
    contents = sample_contents()
    arrays = {
        **contents,
        "model": {name: tensor.numpy() for name, tensor in contents["model"].items()},
        "big": np.arange(40000, dtype=np.uint16),
    }
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save(contents, zipped)
    torch.save(contents, legacy, _use_new_zipfile_serialization=False)
    modules = [
        Module(f"nn.Module{number}", {"weight": tensor})
        for number, tensor in enumerate(contents["model"].values())
    ]
    return {
        "torch zip": zipped.getvalue(),
        "torch legacy": legacy.getvalue(),
        "pickle": pickle.dumps({**arrays, "big": None}, 4),
        "pickle of protocol 2": pickle.dumps(arrays, 2),
        "safetensors": safetensors_bytes(
            {name: tensor.numpy() for name, tensor in contents["model"].items()}
        ),
        "torch7": torch7_bytes(sequential(*modules)),
    }


def safetensors_bytes(arrays: dict[str, np.ndarray[Any, Any]], **changes: Any) -> bytes:
    """A file of the safetensors format; ``changes`` replace entries of the header."""
    codes = {"float32": "F32", "int64": "I64", "uint8": "U8", "float16": "F16", "bool": "BOOL"}
    header, values = {}, b""
    for name, array in arrays.items():
        begin, values = len(values), values + array.tobytes()
        header[name] = {
            "dtype": codes[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, len(values)],
        }
    text = json.dumps({**header, **changes}).encode()
    return struct.pack("<Q", len(text)) + text + values


def truncated(data: bytes, step: int) -> Iterator[bytes]:
    yield from (data[:length] for length in range(0, len(data), step))


def flipped(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """The file with one to four bytes replaced."""
    chance = random.Random(seed)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        yield bytes(changed)


def read_or_refuse(data: bytes, path: Path, *, mapped: bool = False) -> str:
    """``read`` or ``refused``. Any exception but a ValueError, and any reading of over five seconds, is a failure."""
    path.write_bytes(data)
    start = time.perf_counter()
    try:
        read_container(path, mapped=mapped)
    except ValueError as error:
        assert str(error).startswith(str(path)), error
        outcome = "refused"
    else:
        outcome = "read"
    assert time.perf_counter() - start < 5
    return outcome


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """This process takes no more than this beyond what it has, torch's memory and mapped files included."""
    status = Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest so far
    except OSError:  # not on Linux, or not allowed
        yield
        return

    def resident(name: str) -> int:
        return next(
            int(line.split()[1]) * 1024
            for line in status.read_text().splitlines()
            if line.startswith(name)
        )

    before = resident("VmRSS")
    yield
    taken = resident("VmHWM") - before
    assert taken < limit, f"{taken >> 20} MiB were taken"


def zip_of(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that are twice there
        for name, data in entries:
            archive.writestr(name, data)
    return file.getvalue()
