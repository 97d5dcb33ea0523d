"""Make the objects that a pickle names: plain data as it is, a placeholder for anything else.

Nothing that a pickle names is imported or called. So an object beside the weights (a training
configuration, a date, a generator's state) cannot do anything, and does not keep them from being
read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from resnext_det.weights.limits import Unreadable
from resnext_det.weights.unpickling.stream import LongText, Pending, PickleStream

_DEEPEST = 64
_PLACEHOLDER_COST = 250
_LONGEST_KEY = 1 << 16
_MOST_IN_A_KEY = 16


class PendingTuple(tuple[Any, ...], Pending):
    """A tuple that holds pending objects, such as the state of an array."""

    __slots__ = ()


class OuterTuple(PendingTuple):
    """A pending tuple with pending tuples in it."""

    __slots__ = ()


class Unbuilt(Pending):
    """An object whose state follows; ``built`` is the finished one."""

    __slots__ = ("built",)

    def __init__(self) -> None:
        self.built: Any = None

    def build(self, stream: PickleStream, state: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A class or function that a pickle names.

    Attributes:
        name: as in "collections.OrderedDict".
        call: what is done when the pickle calls it, with the pickle's stream and the arguments;
            None: a placeholder is made.
    """

    name: str
    call: Callable[..., Any] | None = None


class Placeholder(dict[Any, Any]):
    """Stand for an object that is not made, since its class or function is not imported.

    It is a dict of the items that the pickle gives it, as it does to objects of dict's subclasses.
    It equals itself alone, and may be a key.

    Attributes:
        name: of the class or function, as in "argparse.Namespace".
        called: the pickle calls the function, and does not only make an object of a class.
        arguments: of the call.
        members: what the pickle appends to the object, as to a list.
        state: what the pickle gives the object as its state; mostly a dict of its attributes.
    """

    __slots__ = ("arguments", "called", "members", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] = (), *, called: bool = False) -> None:
        super().__init__()
        self.name = name
        self.called = called
        self.arguments = arguments
        self.members: list[Any] = []
        self.state: Any = None

    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.name:.80}, not imported>"


def make_placeholder(
    stream: PickleStream, name: str, arguments: tuple[Any, ...] = (), *, called: bool = False
) -> Placeholder:
    """Make a placeholder, and count its memory, with that of its arguments."""
    stream.budget.take(_PLACEHOLDER_COST + 8 * len(arguments))
    finished = tuple(finish(stream, each) for each in arguments)
    return Placeholder(name, finished, called=called)


def finish(stream: PickleStream, item: Any) -> Any:
    """Return an item as a part of the contents: what is still pending is read, or replaced."""
    if not isinstance(item, Pending):
        return item
    if isinstance(item, LongText):
        return stream.read_long_text(item)
    if isinstance(item, PendingTuple):
        stream.budget.take(48 + 8 * len(item))
        return tuple(finish(stream, each) for each in item)
    if isinstance(item, Unbuilt) and item.built is not None and not isinstance(item.built, Pending):
        return item.built
    return make_placeholder(stream, item.class_name)


def make_key(stream: PickleStream, item: Any) -> Any:
    """Return what may be a dict's key or a set's member, or a placeholder for it.

    Tuples of numbers can be made that all have one hash, and tuples in tuples that take forever to
    hash. So only small tuples are keys, some thousand of them in a file; all others, long texts and
    long integers are replaced by a placeholder, which is hashed by its identity.
    """
    item = finish(stream, item)
    if _is_cheap(item):
        return item
    if type(item).__hash__ is None:
        raise TypeError(f"a {type(item).__name__} as a key")
    if isinstance(item, complex | tuple) and stream.costly_keys and _is_small(item):
        stream.costly_keys -= 1
        return item
    return make_placeholder(stream, f"builtins.{type(item).__name__}", (item,))


def _is_cheap(item: Any) -> bool:
    """Tell whether hashing and comparing an item takes next to no time."""
    if isinstance(item, str | bytes):
        return len(item) <= _LONGEST_KEY
    if isinstance(item, int):
        return item.bit_length() <= 64
    return item is None or isinstance(item, float | np.generic | torch.dtype | Name | Placeholder)


def _is_small(item: Any) -> bool:
    """Tell whether a tuple holds few and cheap items, those of tuples in it among them."""
    waiting, seen = [item], 0
    while waiting:
        each = waiting.pop()
        seen += 1
        if isinstance(each, tuple) and len(each) <= _MOST_IN_A_KEY:
            waiting.extend(each)
        elif not (_is_cheap(each) or isinstance(each, complex)):
            return False
        if seen > _MOST_IN_A_KEY:
            return False
    return True


def check_depth(contents: Any) -> None:
    """Refuse contents that would overflow the stack of whoever walks through them."""
    level, seen = [contents], set[int]()
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict | list | tuple) and id(item) not in seen:
                seen.add(id(item))
                inner.extend(item.values() if isinstance(item, dict) else item)
        if not inner:
            return
        level = inner
    raise Unreadable(
        f"is refused: its contents are nested over {_DEEPEST} deep; save arrays by name alone"
    )


def admit(calls: Mapping[str, Callable[..., Any]]) -> dict[str, Name]:
    """Admit the names that something is done for: make a table of them, by "module.name"."""
    return {name: Name(name, call) for name, call in calls.items()}


def _make_ordered_dict(stream: PickleStream, pairs: Any = ()) -> OrderedDict[Any, Any]:
    stream.budget.take(400 + 400 * len(pairs))
    return OrderedDict((make_key(stream, name), finish(stream, value)) for name, value in pairs)


def _make_counter(stream: PickleStream, items: Any = ()) -> dict[Any, Any]:
    stream.budget.take(80 + 200 * len(items))
    return dict(items)


def _make_default_dict(stream: PickleStream, factory: Any = None) -> dict[Any, Any]:
    stream.budget.take(80)
    return {}


def _make_set(stream: PickleStream, members: Any = ()) -> set[Any]:
    stream.budget.take(256 + 200 * len(members))
    return {make_key(stream, member) for member in members}


def _make_frozenset(stream: PickleStream, members: Any = ()) -> frozenset[Any]:
    return frozenset(_make_set(stream, members))


def _make_complex(stream: PickleStream, real: float, imaginary: float) -> complex:
    stream.budget.take(48)
    return complex(real, imaginary)


def _make_bytes(stream: PickleStream, *arguments: Any) -> Any:
    """Make empty bytes, which Python 3 writes as ``bytes()`` in protocol 2."""
    return make_placeholder(stream, "builtins.bytes", arguments) if arguments else b""


def _make_bytearray(stream: PickleStream, values: Any = b"", encoding: str = "latin1") -> bytearray:
    """Make a bytearray, of bytes or, since Python 2, of a text of latin1."""
    found = finish(stream, values)
    if not isinstance(found, str | bytes):
        raise TypeError("no bytes")
    stream.budget.take(len(found) + 60)
    return bytearray(found.encode("latin1") if isinstance(found, str) else found)


def _encode(stream: PickleStream, text: Any, encoding: str) -> Any:
    """Make bytes, which Python 3 writes as ``_codecs.encode(text, "latin1")`` in protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        return make_placeholder(stream, "_codecs.encode", (encoding,), called=True)
    if isinstance(text, LongText):
        return LongText(text.start, text.size, text.encoding, bytes)
    stream.budget.take(len(text) + 40)
    return text.encode("latin1")


def _make_object(stream: PickleStream, kind: Any, *arguments: Any) -> Placeholder:
    """Make a placeholder for an object whose class copyreg calls, as in protocols 0 and 1."""
    made = make_placeholder(stream, kind.name if isinstance(kind, Name) else "?", arguments)
    if len(arguments) == 2 and isinstance(arguments[1], dict):  # of a dict's subclass
        stream.budget.take(200 * len(arguments[1]))
        made.update(arguments[1])
    return made


_BUILTINS: dict[str, Callable[..., Any]] = {
    "set": _make_set,
    "frozenset": _make_frozenset,
    "bytes": _make_bytes,
    "bytearray": _make_bytearray,
    "complex": _make_complex,
}
PLAIN = admit(
    {
        "collections.OrderedDict": _make_ordered_dict,
        "collections.Counter": _make_counter,
        "collections.defaultdict": _make_default_dict,
        "_codecs.encode": _encode,
        "copyreg._reconstructor": _make_object,
        "copy_reg._reconstructor": _make_object,
        **{f"builtins.{name}": make for name, make in _BUILTINS.items()},
        **{f"__builtin__.{name}": make for name, make in _BUILTINS.items()},
    }
)
"""The names that pickles of plain data ask for; ``__builtin__`` and copy_reg are Python 2's."""
