"""Pickles of plain data and arrays are read as Python reads them; all others are refused."""

from __future__ import annotations

import os
import pickle
import struct
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnext_det.weights.unpickling.pickle_files import read_plain_pickle
from tests.weights.hostile import ENVELOPES, Call, read_or_refuse, truncate

MIB = 1 << 20


def make_plain_data() -> dict[str, Any]:
    random = np.random.default_rng(0)
    weights = OrderedDict(
        (f"w{n}", random.normal(size=(8, 4 + n, 3, 3)).astype(np.float32)) for n in range(4)
    )
    return {
        "model": weights,
        "again": weights,
        "__author__": "ünï",
        "matching_heuristics": True,
        "bytes": [b"", b"a\xff", b"\x80" * 70_000],
        "long": ("é" * 70_000, ("a" * 70_000, 1)),
        "numbers": [0, -5, 255, 256, 65536, -(2**31), 2**40, 2**63, -1.5, float("inf")],
        "containers": [
            [],
            {},
            (),
            (1,),
            (1, 2),
            (1, 2, 3),
            (1, 2, 3, 4),
            {1, 2},
            frozenset({"a"}),
            None,
            False,
        ],
        "keys": {1: "a", 2.5: "b", None: "c", b"d": "d"},
        "kinds": [
            np.arange(5).astype(kind) for kind in ("?", "i1", "u2", "i4", "u8", "f2", "f4", "f8")
        ],
        "fortran": np.asfortranarray(random.normal(size=(300, 41))),
        "big-endian": random.normal(size=20_000).astype(">f4"),
        "bytes of all values": np.arange(256, dtype=np.uint8).repeat(1000),
        "empty": np.zeros((0, 3)),
        "no dimensions": np.array(3.5),
        "scalars": [np.float32(3.5), np.int64(-7), np.bool_(True)],
        "view": np.arange(100.0).reshape(10, 10)[::2, 1:],
        "axes turned": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    }


def assert_same(found: Any, wanted: Any) -> None:
    """Check that contents are equal, with the types and order of the containers and strides."""
    if isinstance(wanted, torch.Tensor):
        assert (found.dtype, found.stride()) == (wanted.dtype, wanted.stride())
        assert torch.equal(found, wanted)
    elif isinstance(wanted, np.ndarray | np.generic):
        assert type(found) is type(wanted)
        assert found.dtype == wanted.dtype.newbyteorder("=")
        assert found.shape == wanted.shape
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, dict):
        assert type(found) is type(wanted)
        assert list(found) == list(wanted)
        for key in wanted:
            assert_same(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert type(found) is type(wanted)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted):
            assert_same(one, other)
    else:
        assert type(found) is type(wanted)
        assert found == wanted


def write(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_what_was_pickled(tmp_path: Path, protocol: int) -> None:
    wanted = make_plain_data()
    found = read_plain_pickle(write(tmp_path / "a.pkl", pickle.dumps(wanted, protocol)))
    assert_same(found, wanted)
    assert found["again"] is found["model"]
    array = found["model"]["w0"]
    array += 1  # writable, and its own
    assert_same(found["again"]["w0"], wanted["model"]["w0"] + 1)


def write_python2_text(text: bytes) -> bytes:
    """Write a str as Python 2's cPickle does in protocol 2."""
    return (
        b"U" + bytes([len(text)]) + text
        if len(text) < 256
        else b"T" + struct.pack("<i", len(text)) + text
    )


def write_python2_array(array: np.ndarray[Any, Any]) -> bytes:
    """Write an array as Python 2's cPickle does in protocol 2."""
    shape = b"(" + b"".join(b"K" + bytes([size]) for size in array.shape) + b"t"
    dtype = (
        b"cnumpy\ndtype\n" + write_python2_text(array.dtype.str[1:].encode()) + b"K\x00K\x01\x87R"
    )
    dtype += b"(K\x03" + write_python2_text(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return made + b"(K\x01" + shape + dtype + b"\x89" + write_python2_text(array.tobytes()) + b"tb"


@pytest.mark.parametrize("shape", [(2, 3), (200, 200), ()])
def test_python2_strings_are_latin1(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Detectron's model zoo has such files."""
    array = np.random.default_rng(0).normal(size=shape)
    text = (
        b"\x80\x02}("
        + write_python2_text(b"blobs")
        + b"}"
        + write_python2_text(b"conv1_w")
        + write_python2_array(array)
        + b"s"
    )
    text += write_python2_text(b"cfg") + write_python2_text(b"\xe9" * 300) + b"u."
    wanted = pickle.loads(text, encoding="latin1")
    assert wanted["cfg"] == "é" * 300
    assert_same(read_plain_pickle(write(tmp_path / "a.pkl", text)), wanted)


def test_what_contains_itself_is_read(tmp_path: Path) -> None:
    wanted: list[Any] = [1]
    wanted.append(wanted)
    found = read_plain_pickle(write(tmp_path / "a.pkl", pickle.dumps(wanted)))
    assert found[1] is found


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_are_read_into_their_place(tmp_path: Path, protocol: int) -> None:
    """Reading takes next to no memory beside the arrays themselves."""
    arrays = {
        f"w{number}": np.random.default_rng(number).normal(size=1_000_000) for number in range(4)
    }
    path = write(tmp_path / "a.pkl", pickle.dumps(arrays, protocol))
    tracemalloc.start()
    found = read_plain_pickle(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_same(found, arrays)
    assert peak < sum(array.nbytes for array in arrays.values()) + 8 * MIB


def make_attacks(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Make pickles that would run code, each with what its refusal says."""
    command = f"touch {folder / 'harmed'}"
    run, asked = Call(os.system, command), f"asks for {os.name}.system"
    evaluated = pickle.dumps(Call(eval, f"__import__('os').system({command!r})"), 4)
    nested = pickle.dumps(Call(torch.storage._load_from_bytes, b"PK\x03\x04"), 2)
    objects = pickle.dumps(np.array([run], dtype=object), 2)
    records = pickle.dumps(np.zeros(2, dtype=[("a", "f4")]), 2)
    method = b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93."
    ordered = b"ccollections\nOrderedDict\n"
    no_array = b"cnumpy.core.multiarray\n_reconstruct\n" + ordered + b")S'b'\n\x87R."
    return {
        "os.system": (pickle.dumps({"model": run}, 2), asked),
        "eval": (evaluated, "asks for builtins.eval"),
        "deep in data": (pickle.dumps([{"a": (run,)}], 0), asked),
        "reduce chain": (b"cfunctools\nreduce\n(cos\nsystem\n(lS'x'\natR.", "functools.reduce"),
        "method of a method": (method, "OrderedDict.__init__"),
        "nested archive": (nested, "_load_from_bytes"),
        "numpy.load": (b"cnumpy\nload\nS'x'\n\x85R.", "asks for numpy.load"),
        "numpy's own": (no_array, "subclass"),
        "INST": (f"(S'{command}'\nios\nsystem\n.".encode(), "asks for os.system"),
        "INST of an admitted class": (b"(icollections\nOrderedDict\n.", "collections.OrderedDict"),
        "OBJ": (b"(" + ordered + b"o.", "uses pickle's OBJ"),
        "NEWOBJ_EX": (b"\x80\x04" + ordered + b")}\x92.", "uses pickle's NEWOBJ_EX"),
        "an extension": (b"\x80\x02\x82\x01.", "uses pickle's EXT1"),
        "a persistent id": (b"Pabc\n.", "objects outside of itself"),
        "a call of data": (b"S'os.system'\n(S'x'\ntR.", "calls what is no function"),
        "a state for a dict": (b"}}b.", "sets the state of a dict"),
        "a state for a class": (ordered + b"}b.", "sets the state of"),
        "a class as data": (ordered + b".", "holds collections.OrderedDict itself"),
        "a storage": (b"S'storage'\nQ.", "objects outside of itself"),
        "a buffer": (b"\x80\x05\x97.", "uses pickle's NEXT_BUFFER"),
        "an array of objects": (objects, "dtype 'O8'"),
        "an array of records": (records, "dtype 'V4'"),
    }


@pytest.mark.parametrize("envelope", sorted(ENVELOPES))
@pytest.mark.parametrize("name", sorted(make_attacks(Path())))
def test_nothing_is_run(tmp_path: Path, name: str, envelope: str) -> None:
    """Attacks fail in a bare pickle and in both formats of torch.save."""
    text, message = make_attacks(tmp_path)[name]
    path = tmp_path / "weights"
    assert read_or_refuse(ENVELOPES[envelope](text), path) == "refused"
    assert not (tmp_path / "harmed").exists()
    if envelope == "pickle":
        with pytest.raises(ValueError, match=message):
            read_plain_pickle(path)


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Python's own unpickler does run them."""
    for name in ("os.system", "eval", "deep in data", "INST", "an array of objects"):
        (tmp_path / "harmed").unlink(missing_ok=True)
        pickle.loads(make_attacks(tmp_path)[name][0])
        assert (tmp_path / "harmed").exists(), name


def make_bombs() -> dict[str, bytes]:
    """Make small pickles that would take much memory, much time or a deep stack."""
    huge = struct.pack("<Q", 2**60)
    array = pickle.dumps(np.zeros(3, np.float32), 2)
    encoded = b"X" + struct.pack("<I", 60_000) + b"a" * 60_000
    again = b"h\x00h\x01h\x02\x87R"
    return {
        "bytes": b"\x80\x04\x8e" + huge + b"abc.",
        "more bytes than there are numbers": b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.",
        "bytearray": b"\x80\x05\x96" + huge + b"abc.",
        "text": b"\x80\x04\x8d" + huge + b"abc.",
        "negative text": b"T" + struct.pack("<i", -5) + b"abc.",
        "integer": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01" * 1000 + b".",
        "decimal": b"I" + b"9" * MIB + b"\n.",
        "line without an end": b"V" + b"a" * (17 * MIB),
        "array of many": array.replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"),
        "array of a negative number": array.replace(b"K\x03\x85", b"J\xff\xff\xff\xff\x85"),
        "array of many dimensions": array.replace(b"K\x03\x85", b"(" + b"K\x01" * 100 + b"t"),
        "lists in lists": b"]" * 200_000 + b"a" * 199_999 + b".",
        "tuples in tuples": b")" + b"\x85" * 200_000 + b".",
        "hash of tuples in tuples": b"})" + b"2\x86" * 100 + b"Ns.",
        "sets": b"(" + b"\x8f" * (MIB // 2) + b"l.",
        "dicts": b"(" + b"}" * MIB + b"l.",
        "marks": b"(" * MIB + b".",
        "memo": b"]" + b"\x94" * MIB + b".",
        "bytes from one text": b"".join(
            (
                b"c_codecs\nencode\nq\x00",
                encoded,
                b"q\x01U\x06latin1q\x02\x87(",
                again * 10_000,
                b"l.",
            )
        ),
    }


@pytest.mark.parametrize("name", sorted(make_bombs()))
def test_a_bomb_is_refused_before_it_takes_memory(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "bomb.pkl", make_bombs()[name])
    tracemalloc.start()
    start = time.process_time()  # however busy the machine is
    with pytest.raises(ValueError, match=r"bomb.pkl is (refused|damaged|cut short)"):
        read_plain_pickle(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * path.stat().st_size + 64 * MIB
    assert time.process_time() - start < 10  # with every allocation traced


def test_a_memo_index_takes_no_memory(tmp_path: Path) -> None:
    """Python's own takes 2**33 bytes for this one."""
    path = write(tmp_path / "a.pkl", b"Kxr" + struct.pack("<I", 2**29) + b".")
    tracemalloc.start()
    assert read_plain_pickle(path) == ord("x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MIB


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cut_short_at_any_byte(tmp_path: Path, protocol: int) -> None:
    text = pickle.dumps({"model": {"w": np.arange(12.0)}, "a": [1, (2.5, "b")]}, protocol)
    for cut in truncate(text, 1):
        path = write(tmp_path / "a.pkl", cut)
        with pytest.raises(ValueError, match=r"cut short|is empty"):
            read_plain_pickle(path)


def test_bytes_behind_the_end_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pkl", pickle.dumps([1]) + b"more")
    with pytest.raises(ValueError, match="ends 4 bytes before"):
        read_plain_pickle(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a.pkl is no file"):
        read_plain_pickle(tmp_path / "a.pkl")
