"""What a machine that reads pickles makes: plain data within a budget of memory, and what is not yet an object."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnext_det.weights.limits import Unreadable
from resnext_det.weights.unpickling.stream import LongText, Pending, PickleSource

_DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Packed(Pending):
    """A tuple with something pending in it: the state of an array, or arguments that are such.

    Attributes:
        items: of the tuple.
        depth: how many such tuples are in one another.
    """

    items: tuple[Any, ...]
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Admitted(Pending):
    """Something that a pickle may ask for by name, and what is done when it calls it.

    Attributes:
        name: as in "collections.OrderedDict".
        call: gets the pickle's source and its arguments.
    """

    name: str
    call: Callable[..., Any]


class Unbuilt(Pending):
    """An object whose state follows; ``built`` is the finished one."""

    __slots__ = ("built",)

    def __init__(self) -> None:
        self.built: Any = None

    def build(self, source: PickleSource, state: Any) -> Any:
        raise NotImplementedError


class Attributes(dict[Any, Any]):
    """An object of a class that is not imported: what it held, by name."""

    takes_state = True


def held(source: PickleSource, item: Any) -> Any:
    """An item as a part of the contents."""
    if not isinstance(item, Pending):
        return item
    if isinstance(item, LongText):
        return source.long_text(item)
    if isinstance(item, Packed):
        return tuple(held(source, each) for each in item.items)
    if isinstance(item, Unbuilt) and item.built is not None and not isinstance(item.built, Pending):
        return item.built
    what = (
        item.name
        if isinstance(item, Admitted)
        else type(item).__name__.removeprefix("Unbuilt").lower()
    )
    raise Unreadable(
        f"is refused: it holds {what} itself, not an object made by it; save arrays by name"
    )


def key(item: Any) -> Any:
    """An item as a dict's key or a set's member. Tuples are none: hashing nested ones can take for ever."""
    if item is None or isinstance(item, str | bytes | int | float | np.generic):
        return item
    raise Unreadable(
        f"is refused: it has a {type(item).__name__} as a key; names and numbers may be keys"
    )


def check_depth(contents: Any) -> None:
    """Contents that would overflow the stack of whoever walks through them are refused."""
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


def ordered_dict(source: PickleSource, pairs: Any = ()) -> OrderedDict[Any, Any]:
    source.budget.take(400 * len(pairs))
    return OrderedDict((key(name), held(source, value)) for name, value in pairs)


def make_set(source: PickleSource, members: Any = ()) -> set[Any]:
    source.budget.take(200 * len(members))
    return {key(member) for member in members}


def make_frozenset(source: PickleSource, members: Any = ()) -> frozenset[Any]:
    return frozenset(make_set(source, members))


def encode(source: PickleSource, text: Any, encoding: str) -> Any:
    """Bytes, as Python 3 writes them in protocol 2: ``_codecs.encode(text, "latin1")``."""
    if encoding not in ("latin1", "latin-1"):
        raise Unreadable(f"is refused: it encodes text by {encoding!r:.40}, where latin1 is bytes")
    if isinstance(text, LongText):
        return LongText(text.start, text.size, text.encoding, as_bytes=True)
    source.budget.take(len(text) + 40)
    return text.encode("latin1")


def no_bytes(source: PickleSource) -> bytes:
    """Empty bytes, as Python 3 writes them in protocol 2: ``bytes()``."""
    return b""


def admit(calls: Mapping[str, Any]) -> dict[str, Admitted]:
    """What a pickle may ask for, by "module.name"."""
    return {name: Admitted(name, call) for name, call in calls.items()}


PLAIN = admit(
    {
        "collections.OrderedDict": ordered_dict,
        "builtins.set": make_set,
        "__builtin__.set": make_set,
        "builtins.frozenset": make_frozenset,
        "__builtin__.frozenset": make_frozenset,
        "builtins.bytes": no_bytes,
        "__builtin__.bytes": no_bytes,
        "_codecs.encode": encode,
    }
)
