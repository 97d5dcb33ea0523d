"""Files are told apart by their contents; damage is a ValueError, without much memory."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import subprocess
import tarfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resnext_det.weights.containers import read_container, unpack_weights
from tests.weights.hostile import (
    Call,
    flip_bytes,
    limit_memory,
    make_samples,
    make_zip,
    read_or_refuse,
    truncate,
)
from tests.weights.torch7_writer import write_torch7

MIB = 1 << 20


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "contents", [{"a": [1, "b"]}, collections.OrderedDict(a=1), [np.zeros(3)], {}, []], ids=repr
)
def test_bare_pickles(tmp_path: Path, protocol: int, contents: Any) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps(contents, protocol))
    kind, found = read_container(tmp_path / "a.pth")
    assert kind == "pickle"
    np.testing.assert_equal(found, contents)


def test_torch7(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(write_torch7({"a": 1}))
    assert read_container(tmp_path / "a") == ("torch7", {"a": 1})


def make_others() -> dict[str, tuple[bytes, str]]:
    """Make files of no weights, each with what its refusal says."""
    tar, npy = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    np.save(npy, np.zeros(3))
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
    return {
        "nothing": (b"", "is empty"),
        "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5.*give PyTorch's weights"),
        "gzip": (b"\x1f\x8b\x08" + bytes(100), "compressed; unpack it"),
        "tar": (tar.getvalue(), "tar archive"),
        "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x051.9", "ONNX network"),
        "npy": (npy.getvalue(), "single array of numpy"),
        "Git LFS": (lfs, "pointer of Git LFS.*git lfs pull"),
        "web page": (b"\n<!doctype html><html>", "web page"),
        "an error of a store": (b"<?xml version='1.0'?><Error>", "web page"),
        "JSON": (b'{"a": 1}', "is text"),
        "YAML": (b"# ours\n_BASE_: a.yaml\n", "configuration.*as --config-file, or to load_config"),
        "Torch 7 in ASCII": (b"4\n1\n3\nV 1\n13\nnn.Sequential\n", "Torch 7 file in ASCII"),
        "a program": (b"#!/bin/sh\n", "is a program"),
        "an empty zip archive": (make_zip([]), "empty zip archive"),
        "anything": (b"anything else", "no known format.*b'anything'"),
    }


@pytest.mark.parametrize("name", sorted(make_others()))
def test_other_files_are_named(tmp_path: Path, name: str) -> None:
    data, message = make_others()[name]
    (tmp_path / "model.pth").write_bytes(data)
    with pytest.raises(ValueError, match=f"model.pth .*{message}"):
        read_container(tmp_path / "model.pth")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not there; give the path"):
        read_container(tmp_path / "a")
    with pytest.raises(ValueError, match="is a folder"):
        read_container(tmp_path)
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(ValueError, match="is a pipe, socket or device"):
        read_container(tmp_path / "pipe.pth")


@pytest.mark.parametrize("kind", sorted(make_samples()))
def test_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    """Large files are cut at every kilobyte, small ones at every 16 bytes."""
    data = make_samples()[kind]
    path = tmp_path / "a"
    assert read_or_refuse(data, path) == "read"
    cuts = list(truncate(data, 1024 if len(data) > 50_000 else 16))
    assert {read_or_refuse(cut, path) for cut in cuts} == {"refused"}


@pytest.mark.parametrize("kind", sorted(make_samples()))
def test_flipped_bytes_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    count_flips(tmp_path / "a", kind, 150)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(make_samples()))
def test_ten_thousand_flips(tmp_path: Path, kind: str) -> None:
    count_flips(tmp_path / "a", kind, 10_000)


def count_flips(path: Path, kind: str, count: int) -> None:
    data = make_samples()[kind]
    read_or_refuse(data, path, mapped=True)
    outcomes: collections.Counter[str] = collections.Counter()
    with limit_memory(2 * len(data) + 64 * MIB):
        for number, changed_data in enumerate(flip_bytes(data, count, seed=1)):
            outcomes[read_or_refuse(changed_data, path, mapped=bool(number % 2))] += 1
    assert outcomes.total() == count
    assert outcomes["refused"] > count / 4
    assert outcomes["read"] > 0  # a value was hit, or a name


WEIGHT = torch.eye(2)
STATE = {"conv1.weight": WEIGHT, "bn1.bias": torch.ones(2)}


def unpack(folder: Path, contents: Any) -> Any:
    torch.save(contents, folder / "a")
    return unpack_weights(read_container(folder / "a")[1])


@pytest.mark.parametrize(
    ("contents", "envelope"),
    [
        (
            {"net": STATE, "accuracy": torch.tensor(0.9), "optimizer": {"state": {"a": STATE}}},
            "net",
        ),
        ({"model": {"depth": 50}, "net": STATE}, "net"),
        ({"state": {"model": STATE, "rng": [1]}, "callbacks": {"a": {}}}, "model"),
        ({"ema": {"decay": 0.9, "module": STATE}}, "module"),
        ({"module": STATE, "args": argparse.Namespace(a=1)}, "module"),
        ({"model": {"a": None}, "weights": STATE}, "weights"),
        (STATE, ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weights_are_found_under_any_word(tmp_path: Path, contents: Any, envelope: str) -> None:
    found = unpack(tmp_path, contents)
    assert list(found.state) == list(STATE)
    assert found.envelope == envelope


def test_several_networks_keep_their_words(tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    found = unpack(tmp_path, {"teacher": STATE, "student": other, "epoch": 3})
    names = [f"{word}.{name}" for word in ("teacher", "student") for name in STATE]
    assert list(found.state) == names
    assert found.beside == {"epoch": 3}


def test_dicts_that_are_shared_many_times_take_no_time(tmp_path: Path) -> None:
    """Each way through them is not walked: there are 1000**4."""
    inner: dict[str, Any] = {"a": 1}
    for _ in range(4):
        inner = {str(number): inner for number in range(1000)}
    start = time.process_time()
    with pytest.raises(ValueError, match="is a dict, where a tensor is needed"):
        unpack(tmp_path, inner)
    many = {str(number): dict(inner, w=WEIGHT) for number in range(3)}
    many |= dict.fromkeys(map(str, range(3, 3000)), many["0"])
    with pytest.raises(ValueError, match="is a dict, where a tensor is needed"):
        unpack(tmp_path, many)
    assert time.process_time() - start < 2


def test_what_is_no_weight_is_left_out(tmp_path: Path) -> None:
    """Scalars, None and objects among the weights, as in a flat checkpoint."""
    beside = {
        "epoch": 3,
        "version": "1.0",
        "fc._extra_state": io.BytesIO(b"a"),
        "step": np.int64(4),
    }
    beside |= {"_metadata": {"": {"version": 1}}, "conv1.bias": None, "best": torch.tensor(0.5)}
    beside |= {"args": argparse.Namespace(lr=0.1), "loss": nn.CrossEntropyLoss(), (0, 1): "cat"}
    found = unpack(tmp_path, {**STATE, **beside})
    assert list(found.state) == list(STATE)
    assert found.left_out == tuple(map(str, beside))


@pytest.mark.parametrize("envelope", ["", "state_dict"])
def test_an_object_under_a_weights_name_is_named(tmp_path: Path, envelope: str) -> None:
    """Only what could run code is said to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantization is to move elsewhere
        quantized = torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.qint8)
    cases = {
        "is a quantized tensor, .*tensor.dequantize()": quantized,
        "is a sparse tensor, .*tensor.to_dense()": WEIGHT.to_sparse(),
        "is a complex tensor": WEIGHT.to(torch.complex64),
        "is a tensor of torch.float8_e4m3fn, .*tensor.float()": WEIGHT.to(torch.float8_e4m3fn),
        "is a whole model .torch.nn.modules.linear.Linear. and not": nn.Linear(2, 2),
        "is an object of argparse.Namespace, ": argparse.Namespace(),
        "is the name torch.optim.sgd.SGD, ": torch.optim.SGD,
        "is a dtype, ": torch.float16,
        "is an array of dtype 'U3', ": np.array(["cat"]),
        f"is a call of {os.name}.system .which could run code": Call(os.system, "true"),
        "is an object of collections.deque, ": collections.deque([1]),
        "is a call of (subprocess|commands).run .which could run code": Call(
            subprocess.run, "true"
        ),
    }
    place = r"state_dict\['layer1.weight'\] " if envelope else "'layer1.weight' "
    for words, value in cases.items():
        state = {**STATE, "layer1.weight": value}
        with pytest.raises(ValueError, match=place + words) as error:
            unpack(tmp_path, {envelope: state} if envelope else state)
        assert ("could run code" in str(error.value)) == ("which could" in words)


def test_a_whole_model_is_told_by_its_class(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    message = r"a whole model \(torch\.nn\.modules\.container\.Sequential\) and not its state_dict"
    for contents in (network, {"epoch": 3, "model": network}):
        with pytest.raises(ValueError, match=message) as error:
            unpack(tmp_path, contents)
        assert "weights_only=False).state_dict(), 'weights.pth')" in str(error.value)
    with pytest.raises(ValueError, match="there is nothing, where tensors by name"):
        unpack(tmp_path, {})


def test_tensors_that_torch_did_not_save_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(pickle.dumps(STATE))
    with pytest.raises(ValueError, match="is a tensor of torch in a pickle"):
        unpack_weights(read_container(tmp_path / "a")[1])
