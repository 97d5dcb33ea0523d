"""Files are told apart by their contents; damage is a ValueError, without much memory."""

from __future__ import annotations

import collections
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext_det.weights.containers import read_container
from tests.weights.hostile import (
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
