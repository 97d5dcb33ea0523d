"""Plain data and arrays are read as Python reads them; other objects become placeholders."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import os
import pathlib
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

from resnext_det.weights import limits
from resnext_det.weights.containers import read_container
from resnext_det.weights.unpickling.objects import Name, Placeholder
from resnext_det.weights.unpickling.pickle_files import read_plain_pickle
from tests.weights.hostile import ENVELOPES, Call, pack, truncate

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
    """Make pickles that would run code, each with what its placeholder says."""
    command = f"touch {folder / 'harmed'}"
    run, asked = Call(os.system, command), f"{os.name}.system"
    evaluated = pickle.dumps(Call(eval, f"__import__('os').system({command!r})"), 4)
    nested = pickle.dumps(Call(torch.storage._load_from_bytes, b"PK\x03\x04"), 2)
    objects = pickle.dumps(np.array([run], dtype=object), 2)
    chain = b"cfunctools\npartial\n(cos\nsystem\ntR(S'" + command.encode() + b"'\ntR."
    return {
        "os.system": (pickle.dumps(run, 2), asked),
        "eval": (evaluated, "builtins.eval"),
        "INST": (f"(S'{command}'\nios\nsystem\n.".encode(), "os.system"),
        "OBJ": (b"(cos\nsystem\nS'" + command.encode() + b"'\no.", "os.system"),
        "a call of a call": (chain, "functools.partial"),
        "nested archive": (nested, "torch.storage._load_from_bytes"),
        "numpy.load": (b"cnumpy\nload\nS'x'\n\x85R.", "numpy.load"),
        "an array of objects": (objects, "numpy.ndarray"),
        "NEWOBJ_EX": (b"\x80\x04csubprocess\nPopen\n)}\x92.", "subprocess.Popen"),
        "a method": (b"\x80\x04\x8c\x02os\x8c\tenviron.x\x93)R.", "os.environ.x"),
    }


@pytest.mark.parametrize("envelope", sorted(ENVELOPES))
@pytest.mark.parametrize("name", sorted(make_attacks(Path())))
def test_nothing_is_run(tmp_path: Path, name: str, envelope: str) -> None:
    """Attacks become placeholders, in a bare pickle and in both formats of torch.save."""
    text, asked = make_attacks(tmp_path)[name]
    path = write(tmp_path / "weights", pack(envelope, text))
    found = read_container(path)[1]
    assert not (tmp_path / "harmed").exists()
    assert isinstance(found, Placeholder)
    assert found.name == asked


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Python's own unpickler does run them."""
    attacks = make_attacks(tmp_path)
    for name in ("os.system", "eval", "INST", "OBJ", "a call of a call", "an array of objects"):
        (tmp_path / "harmed").unlink(missing_ok=True)
        pickle.loads(attacks[name][0])
        assert (tmp_path / "harmed").exists(), name


ORDERED = b"ccollections\nOrderedDict\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"S'os.system'\n(S'x'\ntR.", "damaged .TypeError"),
        (b"}}b.", "damaged .TypeError"),
        (ORDERED + b"}b.", "damaged .TypeError"),
        (b"}]Ns.", "damaged .TypeError"),
        (b"\x80\x05\x97.", "refused: it uses pickle's NEXT_BUFFER"),
    ],
    ids=["a call of data", "a state for a dict", "a state for a class", "a list as key", "buffer"],
)
def test_what_no_pickler_writes_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plain_pickle(write(tmp_path / "a.pkl", text))


Point = collections.namedtuple("Point", "x y")


class Phase(enum.Enum):
    TRAIN = "train"


@dataclasses.dataclass
class Settings:
    rate: float = 0.1


class Settable(dict):  # type: ignore[type-arg]
    """A dict with attributes, as configurations are."""


@pytest.mark.parametrize("protocol", range(6))
def test_objects_become_placeholders(tmp_path: Path, protocol: int) -> None:
    """Read what is no plain data as a placeholder: it holds what it was given, and may be a key."""
    settable = Settable(depth=50)
    settable.new = True  # type: ignore[attr-defined]
    odd: list[Any] = [
        *(Phase.TRAIN, Settings(), Point(1, 2), collections.deque([1.0]), range(3), slice(1)),
        *(torch.optim.SGD, datetime.date(2020, 1, 2), functools.partial(int, base=2), settable),
        *(np.array(["cat"]), np.str_("cat"), np.array([None]), np.zeros(2, "c8"), np.dtype("f4")),
        *(np.random.default_rng(0), np.ma.masked_array([1.0]), pathlib.PurePosixPath("/a/b")),
        *(np.zeros(2, [("a", "f4")]), decimal.Decimal("0.1"), len, np.datetime64("2020-01-01")),
    ]
    contents = {
        "odd": odd,
        torch.optim.SGD: 1,
        Phase.TRAIN: 2,
        "w": np.arange(3.0),
        "odd again": odd,
    }
    found = read_plain_pickle(write(tmp_path / "a.pkl", pickle.dumps(contents, protocol)))
    assert_same(found["w"], np.arange(3.0))
    assert len(found) == 5
    assert all(isinstance(each, Placeholder | Name) for each in found["odd"])
    assert found["odd again"] is found["odd"]
    by_name = {each.name.rpartition(".")[2]: each for each in found["odd"]}
    assert by_name["Settings"].state == {"rate": 0.1}
    assert by_name["Phase"].arguments == ("train",)
    assert dict(by_name["Settable"]) == {"depth": 50}
    assert by_name["Settable"].state == {"new": True}
    assert "SGD" in by_name


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_is_read_as_it_is(tmp_path: Path, protocol: int) -> None:
    """Long integers, tuples as keys and others beside the weights are what was pickled."""
    wanted = {
        "integers": [2**64, 2**70, -(2**200), 10**3000, 2**63 - 1],
        "generator": np.random.default_rng(0).bit_generator.state,
        "bytearrays": [bytearray(), bytearray(b"abc"), bytearray(b"\xff" * 3000)],
        "complex": [1j, complex(1, -2)],
        "keys": {(0, 1): "cat", (): 0, ("a", (1.5, None)): 1, 1j: 2, "k" * 3000: 3},
        "sets": [{(1, 2), "a"}, frozenset({(1, 2)})],
        "shared": ["t" * 3000] * 2,
    }
    found = read_plain_pickle(write(tmp_path / "a.pkl", pickle.dumps(wanted, protocol)))
    assert_same(found, wanted)
    assert found["shared"][0] is found["shared"][1]
    counted = {"counter": collections.Counter("aab"), "default": collections.defaultdict(list, a=1)}
    found = read_plain_pickle(write(tmp_path / "a.pkl", pickle.dumps(counted, protocol)))
    assert found == {"counter": {"a": 2, "b": 1}, "default": {"a": 1}}


def make_colliding_tuples(count: int) -> list[tuple[int, int]]:
    """Make tuples of one hash: the second number makes up for the first (Python's xxHash)."""
    first, second, third = 11400714785074694791, 14029467366897019727, 2870177450012600261
    inverse, mask = pow(second, -1, 2**64), 2**64 - 1

    def rotate(value: int, by: int) -> int:
        return (value << by | value >> (64 - by)) & mask

    found: list[tuple[int, int]] = []
    number = 0
    while len(found) < count:
        number += 1
        inner = rotate((third + number * second) & mask, 31) * first & mask
        # the sum of both, which everything after it depends on, is to be 0
        other = -inner * inverse & mask
        if other < 2**61 - 1:
            found.append((number, other))
    return found


@pytest.mark.parametrize("depth", [10, 60])
def test_tuples_in_tuples_are_hashed_by_identity(tmp_path: Path, depth: int) -> None:
    """Hashing such a key would take 2**depth steps."""
    path = write(tmp_path / "a.pkl", b"\x80\x02})" + b"2\x86" * depth + b"Ns.")
    ((key, value),) = read_plain_pickle(path).items()
    assert isinstance(key, Placeholder)
    assert key.name == "builtins.tuple"
    assert value is None


def test_colliding_keys_take_no_time(tmp_path: Path) -> None:
    """Python's own takes time with the square of their number."""
    keys = make_colliding_tuples(10_000)
    assert len({hash(key) for key in keys[:50]}) == 1
    pairs = b"".join(pickle.dumps(key, 2)[2:-1] + b"N" for key in keys)
    path = write(tmp_path / "a.pkl", b"\x80\x02}(" + pairs + b"u.")
    start = time.process_time()
    assert len(read_plain_pickle(path)) == len(keys)
    assert time.process_time() - start < 4


def make_bombs(many: int) -> dict[str, bytes]:
    """Make small pickles that would take much memory, much time or a deep stack.

    Args:
        many: of things as make ``many * 64`` bytes.
    """
    huge = struct.pack("<Q", 2**60)
    array = pickle.dumps(np.zeros(3, np.float32), 2)
    encoded = b"X" + struct.pack("<I", 60_000) + b"a" * 60_000
    again = b"h\x00h\x01h\x02\x86R"
    called = b"cposix\nsystem\nq\x00"
    few = b"N" * (many // 10)
    deep = b"]q\x00" + b"h\x00h\x00\x86q\x00" * 60  # as many paths as 2**60
    return {
        "bytes": b"\x80\x04\x8e" + huge + b"abc.",
        "more bytes than there are numbers": b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.",
        "bytearray": b"\x80\x05\x96" + huge + b"abc.",
        "text": b"\x80\x04\x8d" + huge + b"abc.",
        "negative text": b"T" + struct.pack("<i", -5) + b"abc.",
        "integer": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01" * 1000 + b".",
        "decimal": b"I" + b"9" * many + b"\n.",
        "line without an end": b"V" + b"a" * (17 * MIB),
        "array of many": array.replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"),
        "array of a negative number": array.replace(b"K\x03\x85", b"J\xff\xff\xff\xff\x85"),
        "array of many dimensions": array.replace(b"K\x03\x85", b"(" + b"K\x01" * 100 + b"t"),
        "lists in lists": b"]" * (many // 5) + b"a" * (many // 5 - 1) + b".",
        "tuples in tuples": b")" + b"\x85" * (many // 5) + b".",
        "calls": called + b"]q\x01(" + b"h\x00)R" * many + b"e.",
        "calls of calls": called + b")R" * (2 * many) + b".",
        "calls in calls": called + b")" + b"\x85h\x00h\x01" * 10 + b"R" * many + b".",
        "copies of arguments": called + b"((" + few + b"tq\x01" + b"h\x00h\x01R" * many,
        "states": called + b")Rq\x01]q\x02(" + b"h\x01(}tb" * many + b"e.",
        "items": called + b")R(" + b"h\x00N" * many + b"u" + b"(" + b"}" * many + b"e.",
        "sizes": b"ctorch\nSize\nq\x00((" + few + b"tq\x01" + b"h\x00h\x01\x85R" * many,
        "pairs": ORDERED + b"q\x00(" + b"h\x00)R" * many + b"l.",
        "a device of many paths": deep + b"ctorch\ndevice\nh\x00\x85R.",
        "a shape of many paths": array.replace(b"K\x03\x85", deep + b"\x85"),
        "names": b"(" + b"".join(b"ca\n%d\n" % n for n in range(many // 3)) + b"l.",
        "extensions": b"("
        + b"".join(b"\x84" + struct.pack("<i", n) for n in range(many // 3))
        + b"l.",
        "sets": b"(" + b"\x8f" * (many // 2) + b"l.",
        "dicts": b"(" + b"}" * many + b"l.",
        "marks": b"(" * many + b".",
        "memo": b"]" + b"".join(b"r" + struct.pack("<I", 7 * n) for n in range(many)) + b".",
        "bytes from one text": b"".join(
            (
                b"c_codecs\nencode\nq\x00",
                encoded,
                b"q\x01U\x06latin1q\x02\x86R(",
                again * (many // 100),
                b"l.",
            )
        ),
    }


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    return make_bombs(MIB // 8)


@pytest.mark.parametrize("name", make_bombs(100))
def test_a_bomb_is_refused_before_it_takes_memory(
    tmp_path: Path, bombs: dict[str, bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An eighth of the memory that a file may take is enough to tell, and 1 MiB for the reader."""
    monkeypatch.setattr(limits, "_SLACK", 8 * MIB)
    refuse_bomb(write(tmp_path / "bomb.pkl", bombs[name]), slack=9 * MIB)


@pytest.mark.slow
@pytest.mark.parametrize("name", make_bombs(100))
def test_a_large_bomb_is_refused_before_it_takes_memory(tmp_path: Path, name: str) -> None:
    refuse_bomb(write(tmp_path / "bomb.pkl", make_bombs(MIB)[name]), slack=64 * MIB)


def refuse_bomb(path: Path, slack: int) -> None:
    tracemalloc.start()
    start = time.process_time()  # however busy the machine is
    with pytest.raises(ValueError, match=r"bomb.pkl is (refused|damaged|cut short)"):
        read_plain_pickle(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * path.stat().st_size + slack
    assert time.process_time() - start < 60  # with every allocation traced


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
