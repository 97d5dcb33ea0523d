"""Files of torch.save, of both formats, are read as torch reads them; hostile ones are refused."""

from __future__ import annotations

import argparse
import io
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resnext_det.weights.containers import read_container
from resnext_det.weights.unpickling.descriptions import describe_object
from resnext_det.weights.unpickling.objects import Name, Placeholder
from tests.weights.hostile import (
    ENVELOPES,
    limit_memory,
    make_zip,
    pack,
    read_or_refuse,
)
from tests.weights.unpickling.test_pickle_files import assert_same

MIB = 1 << 20
FORMATS = {"torch zip": {}, "torch legacy": {"_use_new_zipfile_serialization": False}}


def make_training_state() -> dict[str, Any]:
    """Make what a training saves, and tensors of every kind."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    shared = torch.randn(100)
    extended = torch.randn(3)
    extended.origin = "an attribute of its own"  # type: ignore[attr-defined]
    return {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "parameter": network[0].weight,
        "extended": extended,
        "types": [
            torch.arange(4).to(kind)
            for kind in (torch.bool, torch.uint8, torch.int16, torch.half, torch.bfloat16)
        ],
        "shared": [shared[10:20], shared[::2], shared],
        "turned": torch.randn(4, 5).t(),
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "none": [torch.zeros(0, 3), torch.tensor(3.0)],
        "numpy": [np.float64(3), np.arange(5.0), np.ones((2, 3), np.float16)],
        "plain": {"epoch": 3, "names": ["a", ("b", None, True)]},
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_torchs_files_are_read_as_torch_reads_them(
    tmp_path: Path, kind: str, mapped: bool, protocol: int
) -> None:
    path = tmp_path / "weights.safetensors"  # the suffix says nothing
    with path.open("wb") as file:
        torch.save(make_training_state(), file, pickle_protocol=protocol, **FORMATS[kind])
    with path.open("rb") as file:
        wanted = torch.load(file, weights_only=False)
    found_kind, found = read_container(path, mapped=mapped)
    assert found_kind == kind
    assert_same(found, wanted)
    part, other, whole = found["shared"]
    whole.fill_(7)  # writable, one storage as in the file, and not the file itself
    assert part.tolist() == [7] * 10
    assert other[0] == 7
    assert not torch.equal(read_container(path)[1]["shared"][2], whole)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_other_libraries_add(tmp_path: Path, kind: str) -> None:
    """Objects beside the weights become placeholders, without being imported."""
    config = pytest.importorskip("yacs.config").CfgNode({"MODEL": {"DEPTH": 50}})
    weight = torch.eye(3)
    extended = torch.ones(2).as_subclass(Subclass)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of prototypes of torch
        quantized = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)
        others = [weight.to_sparse(), weight.to_sparse_csr(), weight.to("meta"), quantized]
        others += [weight.to(torch.complex64), torch.ones(1).expand(99), extended]
        others += [nn.Parameter(weight.to_sparse()), weight.to(torch.float8_e4m3fn)]
        others += [
            torch.arange(3.0).untyped_storage(),
            torch.complex64,
            torch.qint8,
            nn.CrossEntropyLoss(),
        ]
        others += [argparse.Namespace(lr=0.1), config, torch.strided, nn.Linear(2, 2)]
        extras = {"others": others, "size": torch.Size([1, 2]), "weight": weight}
        extras |= {"device": torch.device("cuda:0"), "dtype": torch.float16}
        torch.save(extras, tmp_path / "a", **FORMATS[kind])
    found = read_container(tmp_path / "a")[1]
    assert_same(found.pop("weight"), weight)
    placeholders = found.pop("others")
    assert found == {"size": (1, 2), "device": "cuda:0", "dtype": torch.float16}
    assert all(isinstance(each, Placeholder | Name) for each in placeholders)
    by_name = {each.name: each for each in placeholders}
    assert by_name["argparse.Namespace"].state == {"lr": 0.1}
    assert {"DEPTH": 50} in [dict(each) for each in by_name["yacs.config.CfgNode"].values()]
    forms = [describe_object(each) for each in placeholders[:8]]
    assert forms[:4] == [
        *["a sparse tensor"] * 2,
        "a tensor of the device meta, which has no values",
        "a quantized tensor",
    ]
    assert forms[4:6] == ["a complex tensor", "an expanded tensor, with fewer values than elements"]


class Subclass(torch.Tensor):
    """A tensor whose numbers could mean anything."""


HISTORY = (  # as mmengine's runner saves: a class with methods of its own and numpy arrays
    b"\x80\x02}X\x03\0\0\0logcmmengine.logging.history_buffer\nHistoryBuffer\nq\x01)\x81}("
    b"X\x03\0\0\0maxK\x05X\x07\0\0\0methods}"
    b"X\x03\0\0\0minc__builtin__\ngetattr\nh\x01X\x03\0\0\0min\x86Rsubs."
)


@pytest.mark.parametrize("envelope", ["torch zip", "torch legacy"])
def test_the_history_of_mmengine(tmp_path: Path, envelope: str) -> None:
    (tmp_path / "a").write_bytes(pack(envelope, HISTORY))
    kind, found = read_container(tmp_path / "a")
    assert kind == envelope
    state = found["log"].state
    assert state["max"] == 5
    assert state["methods"]["min"].arguments[1] == "min"


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "a")
    with pytest.raises(ValueError, match="TorchScript archive"):
        read_container(tmp_path / "a")


def make_hostile_zips() -> dict[str, tuple[bytes, str]]:
    """Make archives that break their rules, each with what its refusal says; one is right."""
    tensor = io.BytesIO()
    torch.save({"w": torch.arange(8.0)}, tensor)
    good = tensor.getvalue()
    pickled = zipfile.ZipFile(io.BytesIO(good)).read("archive/data.pkl")
    first, second = ("archive/data.pkl", pickled), ("archive/data/0", bytes(32))
    whole = make_zip([first, second])
    # the directory's second entry
    where = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 1)
    sized, overlapping = bytearray(whole), bytearray(whole)
    sized[where + 20 : where + 28] = struct.pack("<II", 2**31, 2**31)
    overlapping[where + 42 : where + 46] = struct.pack("<I", 0)
    deflated = make_zip([first, ("archive/data/0", bytes(50 * MIB))], zipfile.ZIP_DEFLATED)
    many = make_zip([(f"archive/data/{number:0200}", b"") for number in range(10_000)])
    storage = b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"
    rebuilt = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"%stQ%s\x89}tR."

    def make_tensor(elements: bytes, place: bytes) -> bytes:
        return make_zip([("archive/data.pkl", rebuilt % (elements, place)), second])

    small, beyond = b"K\x08", "reaches beyond its 8 values"
    return {
        "a bomb": (deflated, "compressed"),
        "a compressed pickle": (make_zip([first, second], zipfile.ZIP_BZIP2), "compressed"),
        "an archive in an archive": (make_zip([("archive/a.pth", good)]), "not one of torch.save"),
        "two archives": (make_zip([first, ("b/data.pkl", pickled)]), "not one of torch.save"),
        "a name twice": (make_zip([first, second, second]), "twice"),
        "entries over one another": (bytes(overlapping), "overlaps"),
        "an entry beyond the file": (bytes(sized), "lies beyond the file"),
        "a storage that is missing": (make_zip([first]), "has 0 bytes, not 32"),
        "a short storage": (make_zip([first, (second[0], bytes(16))]), "has 16 bytes, not 32"),
        "many entries": (many, "directory is over"),
        "arrays": (make_zip([("w.npy", b"\x93NUMPY")]), "archive of numpy"),
        "byte order": (make_zip([first, second, ("archive/byteorder", b"big")]), "big-endian"),
        "the right one": (make_tensor(small, b"K\x00K\x08\x85K\x01\x85"), ""),
        "an offset": (make_tensor(small, b"K\x01K\x08\x85K\x01\x85"), beyond),
        "a negative offset": (
            make_tensor(small, b"J\xff\xff\xff\xffK\x08\x85K\x01\x85"),
            "damaged: a tensor has strides",
        ),
        "a stride": (make_tensor(small, b"K\x00K\x08\x85K\x02\x85"), beyond),
        "one value for many": (make_tensor(small, b"K\x00J\0\0\0\x7f\x85K\x00\x85"), ""),
        "elements": (
            make_tensor(b"J\0\0\0\x7f", b"K\x00K\x08\x85K\x01\x85"),
            "has 32 bytes, not 8522825728",
        ),
    }


@pytest.mark.parametrize("name", sorted(make_hostile_zips()))
def test_zip_archives_are_held_to_the_file(tmp_path: Path, name: str) -> None:
    data, message = make_hostile_zips()[name]
    path = tmp_path / "a"
    with limit_memory(2 * len(data) + 64 * MIB):
        outcomes = {read_or_refuse(data, path, mapped=mapped) for mapped in (False, True)}
    if not message:
        assert outcomes == {"read"}
        return
    with pytest.raises(ValueError, match=message):
        read_container(path)


@pytest.mark.parametrize("elements", [2**20, 2**31 - 1, -1])
def test_old_files_take_no_memory_for_storages_that_are_not_there(
    tmp_path: Path, elements: int
) -> None:
    storage = (
        b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ"
        + struct.pack("<i", elements)
        + b"NtQ"
    )
    text = b"\x80\x02ctorch._utils\n_rebuild_tensor\n((" + storage + b"K\x00K\x01\x85K\x01\x85tR."
    with limit_memory(2 * MIB):
        assert read_or_refuse(ENVELOPES["torch legacy"](text), tmp_path / "a") == "refused"
