"""Make files that would harm a careless reader, and check what reading them does."""

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
from tests.weights.torch7_writer import Module, make_sequential, write_torch7

# torch.save's number, its protocol and its machine, as pickles, of before torch 1.6.
LEGACY_HEAD = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    + pickle.dumps(1001, 2)
    + pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}, 2)
)


def make_zip(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that are twice there
        for name, data in entries:
            archive.writestr(name, data)
    return file.getvalue()


def pack_zip(text: bytes) -> bytes:
    """Make an archive of torch.save with this pickle."""
    entries = [("data.pkl", text), ("data/0", bytes(64)), ("version", b"3\n")]
    return make_zip([(f"archive/{name}", data) for name, data in entries])


def pack_legacy(text: bytes) -> bytes:
    """Make a file of torch.save before 1.6 with this pickle."""
    return LEGACY_HEAD + text + pickle.dumps(["0"], 2) + struct.pack("<q", 16) + bytes(64)


ENVELOPES = {"pickle": bytes, "torch zip": pack_zip, "torch legacy": pack_legacy}


def pack(envelope: str, text: bytes) -> bytes:
    """Put a pickle that names no storages into a file of a kind of ``ENVELOPES``."""
    if envelope == "torch legacy":
        return LEGACY_HEAD + text + pickle.dumps([], 2)
    if envelope == "pickle" and not text.startswith(b"\x80"):
        return b"\x80\x02" + text  # by which a pickle is known
    return ENVELOPES[envelope](text)


class Call:
    """An object that is pickled as the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _make_contents() -> dict[str, Any]:
    """Make plain data and tensors: more structure than values, so that most flips hit structure."""
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


def make_samples() -> dict[str, bytes]:
    """Make a small file of each kind."""
    contents = _make_contents()
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
        "safetensors": make_safetensors(
            {name: tensor.numpy() for name, tensor in contents["model"].items()}
        ),
        "torch7": write_torch7(make_sequential(*modules)),
    }


def make_safetensors(arrays: dict[str, np.ndarray[Any, Any]], **changes: Any) -> bytes:
    """Make a safetensors file; ``changes`` replace entries of its header."""
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


def truncate(data: bytes, step: int) -> Iterator[bytes]:
    """Cut a file short at every `step` bytes."""
    yield from (data[:length] for length in range(0, len(data), step))


def flip_bytes(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Replace one to four bytes of a file, `count` times anew."""
    chance = random.Random(seed)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        yield bytes(changed)


def read_or_refuse(data: bytes, path: Path, *, mapped: bool = False) -> str:
    """Read a file and return "read" or "refused".

    Any error but a ValueError, and over five seconds of computing, fail the test.
    """
    path.write_bytes(data)
    start = time.process_time()
    try:
        read_container(path, mapped=mapped)
    except ValueError as error:
        assert str(error).startswith(str(path)), error
        outcome = "refused"
    else:
        outcome = "read"
    assert time.process_time() - start < 5
    return outcome


@contextmanager
def limit_memory(limit: int) -> Iterator[None]:
    """Fail if this process takes more bytes than `limit`, torch's and mapped files included."""
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
