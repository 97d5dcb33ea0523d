"""The objects that a pickle may ask for, made without importing or calling what it names.

Plain data is made as it is. What other libraries' checkpoints carry beside the weights, such as
configurations and dates, becomes a dict of its attributes or items.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from resnext_det.weights.limits import Unreadable
from resnext_det.weights.unpickling.stream import LongText, Pending, PickleStream

_DEEPEST = 64


class PendingTuple(tuple[Any, ...], Pending):
    """A tuple that holds pending objects, such as the state of an array."""

    __slots__ = ()


class OuterTuple(PendingTuple):
    """A pending tuple with pending tuples in it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Admitted(Pending):
    """A name that a pickle may ask for, and what is done when the pickle calls it.

    Attributes:
        name: as in "collections.OrderedDict".
        call: takes the pickle's stream and the arguments.
    """

    name: str
    call: Callable[..., Any]


class Unbuilt(Pending):
    """An object whose state follows; ``built`` is the finished one."""

    __slots__ = ("built",)

    def __init__(self) -> None:
        self.built: Any = None

    def build(self, stream: PickleStream, state: Any) -> Any:
        raise NotImplementedError


class Attributes(dict[Any, Any]):
    """An object of a class that is not imported, as a dict of what it held."""

    takes_state = True


def finish(stream: PickleStream, item: Any) -> Any:
    """Return an item as a part of the contents; what is still pending is read, or refused."""
    if not isinstance(item, Pending):
        return item
    if isinstance(item, LongText):
        return stream.read_long_text(item)
    if isinstance(item, PendingTuple):
        return tuple(finish(stream, each) for each in item)
    if isinstance(item, Unbuilt) and item.built is not None and not isinstance(item.built, Pending):
        return item.built
    kind = type(item).__name__.removeprefix("Unbuilt").lower()
    raise Unreadable(
        f"is refused: it holds {item.name if isinstance(item, Admitted) else kind} itself, not an "
        "object made by it; save arrays by name"
    )


def check_key(item: Any) -> Any:
    """Return what may be a dict's key or a set's member.

    Tuples may not: to hash tuples in tuples can take forever.
    """
    if item is None or isinstance(item, str | bytes | int | float | np.generic):
        return item
    raise Unreadable(
        f"is refused: it has a {type(item).__name__} as a key; names and numbers may be keys"
    )


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


def admit(calls: Mapping[str, Callable[..., Any]]) -> dict[str, Admitted]:
    """Make a table of what a pickle may ask for, by "module.name"."""
    return {name: Admitted(name, call) for name, call in calls.items()}


def refuse_call(stream: PickleStream, *arguments: Any) -> Any:
    """Refuse to call a name that may only be passed as an argument."""
    raise Unreadable(
        "is refused: it makes an object in a way that no library writes, which could run code; "
        "save a model's state_dict()"
    )


def _make_ordered_dict(stream: PickleStream, pairs: Any = ()) -> OrderedDict[Any, Any]:
    stream.budget.take(400 * len(pairs))
    return OrderedDict((check_key(name), finish(stream, value)) for name, value in pairs)


def _make_set(stream: PickleStream, members: Any = ()) -> set[Any]:
    stream.budget.take(200 * len(members))
    return {check_key(member) for member in members}


def _make_frozenset(stream: PickleStream, members: Any = ()) -> frozenset[Any]:
    return frozenset(_make_set(stream, members))


def _make_empty_bytes(stream: PickleStream) -> bytes:
    """Make empty bytes, which Python 3 writes as ``bytes()`` in protocol 2."""
    return b""


def _encode(stream: PickleStream, text: Any, encoding: str) -> Any:
    """Make bytes, which Python 3 writes as ``_codecs.encode(text, "latin1")`` in protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        raise Unreadable(f"is refused: it encodes text by {encoding!r:.40}, where latin1 is bytes")
    if isinstance(text, LongText):
        return LongText(text.start, text.size, text.encoding, as_bytes=True)
    stream.budget.take(len(text) + 40)
    return text.encode("latin1")


PLAIN = admit(
    {
        "collections.OrderedDict": _make_ordered_dict,
        "builtins.set": _make_set,
        "__builtin__.set": _make_set,
        "builtins.frozenset": _make_frozenset,
        "__builtin__.frozenset": _make_frozenset,
        "builtins.bytes": _make_empty_bytes,
        "__builtin__.bytes": _make_empty_bytes,
        "_codecs.encode": _encode,
    }
)
"""The names that pickles of plain data ask for; ``__builtin__`` is Python 2's."""

_WITH_ATTRIBUTES = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.config.config.Config",
    "mmcv.utils.config.Config",
    *("datetime.date", "datetime.datetime", "datetime.time"),
    *("datetime.timedelta", "datetime.timezone"),
)
_WITH_ITEMS = (
    "addict.addict.Dict",
    "collections.Counter",
    "detectron2.config.config.CfgNode",
    "easydict.EasyDict",
    "fvcore.common.config.CfgNode",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "yacs.config.CfgNode",
)
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_PATH_MODULES = ("pathlib", "pathlib._local")  # the latter in Python 3.13 alone
_FACTORIES = ("int", "float", "list", "dict")  # of default dicts


def _make_attributes(stream: PickleStream, *arguments: Any) -> Attributes:
    """Make an object without its arguments: no weights depend on a date."""
    return Attributes()


def _make_items(stream: PickleStream, items: Any = None) -> Attributes:
    made = Attributes()
    made.takes_state = False
    if isinstance(items, dict):
        stream.budget.take(200 * len(items))
        made.update(items)
    return made


def _make_default_dict(stream: PickleStream, factory: Any = None) -> dict[Any, Any]:
    return {}


def _make_path(stream: PickleStream, *parts: Any) -> str:
    stream.budget.take(sum(len(part) for part in parts))
    return str(PurePosixPath(*(str(check_key(part)) for part in parts)))


def _get_method(stream: PickleStream, owner: Any, name: Any) -> Attributes:
    """Replace a method of a class above, which mmengine's history holds, by an empty dict."""
    if not isinstance(owner, Admitted) or owner.name not in FOREIGN:
        raise Unreadable(
            f"is refused: it asks for the attribute {name!a:.60} of an object, which could run code"
        )
    return Attributes()


FOREIGN = admit(
    {
        **dict.fromkeys(_WITH_ATTRIBUTES, _make_attributes),
        **dict.fromkeys(_WITH_ITEMS, _make_items),
        **{f"{module}.{name}": _make_path for module in _PATH_MODULES for name in _PATHS},
        "collections.defaultdict": _make_default_dict,
        "builtins.getattr": _get_method,
        "__builtin__.getattr": _get_method,
        **{f"builtins.{name}": refuse_call for name in _FACTORIES},
        **{f"__builtin__.{name}": refuse_call for name in _FACTORIES},
    }
)
"""The names that checkpoints of other libraries ask for beside their weights."""
