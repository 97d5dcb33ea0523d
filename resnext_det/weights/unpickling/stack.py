"""The machine's stack: the instructions that put plain data on it and gather it into containers."""

from __future__ import annotations

from collections.abc import Callable
from io import BufferedReader
from typing import Any

from resnext_det.weights.limits import Budget
from resnext_det.weights.unpickling.objects import Packed, Pending, Unbuilt, held, key
from resnext_det.weights.unpickling.stream import PickleSource, checked_integer

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NUMBERS = {"BININT": "<i", "BININT1": "<B", "BININT2": "<H", "BINFLOAT": ">d"}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
CONTAINERS: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_INDEXES = {"BINGET": "<B", "LONG_BINGET": "<I", "BINPUT": "<B", "LONG_BINPUT": "<I"}


class PickleStack(PickleSource):
    """A stack, its marks and a memo. There is one method for the instructions of a kind; each gets the instruction's name.

    Args:
        file, end, budget: see ``PickleSource``.
    """

    def __init__(self, file: BufferedReader, *, end: int, budget: Budget) -> None:
        super().__init__(file, end=end, budget=budget)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError("nothing since the mark")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        self.budget.take(32 * (len(self.stack) - start))  # they are copied once or twice
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put_constant(self, name: str) -> None:
        self.stack.append(CONSTANTS[name])

    def put_number(self, name: str) -> None:
        self.stack.append(self.number(NUMBERS[name]))

    def put_decimal(self, name: str) -> None:
        text = self.decimal()
        if name == "FLOAT":
            self.stack.append(float(text))
        elif name == "INT" and text in (b"00", b"01"):
            self.stack.append(text == b"01")
        else:
            self.stack.append(checked_integer(int(text.removesuffix(b"L"))))

    def put_long(self, name: str) -> None:
        self.stack.append(self.integer_of_bytes(self.number("<B" if name == "LONG1" else "<i")))

    def put_text(self, name: str) -> None:
        self.stack.append(self.text(name))

    def put_text_line(self, name: str) -> None:
        self.stack.append(self.text_line(name))

    def put_container(self, name: str) -> None:
        self.stack.append(CONTAINERS[name]())

    def mark(self, name: str) -> None:
        self.marks.append(len(self.stack))

    def gather(self, name: str) -> None:
        items = self.since_mark()
        if name == "LIST":
            self.stack.append([held(self, item) for item in items])
        elif name == "DICT":
            self.stack.append({})
            self._fill_dict(items)
        elif name == "TUPLE":
            self._tuple(items)
        else:
            self.budget.take(100 * len(items))
            self.stack.append(frozenset(key(item) for item in items))

    def put_tuple(self, name: str) -> None:
        items = [self.pop() for _ in range(TUPLES[name])]
        self._tuple(items[::-1])

    def _tuple(self, items: list[Any]) -> None:
        """A tuple with something pending in it waits too: a long text stays in the file until it is known whether it is an array."""
        depth = max((item.depth for item in items if isinstance(item, Packed)), default=0)
        if depth > 1:
            items, depth = [held(self, item) for item in items], 0
        waiting = any(isinstance(item, Pending) for item in items)
        self.stack.append(Packed(tuple(items), depth + 1) if waiting else tuple(items))

    def append(self, name: str) -> None:
        items = [self.pop()] if name == "APPEND" else self.since_mark()
        if type(self.stack[-1]) is not list:
            raise TypeError("no list")
        self.budget.take(32 + 8 * len(items))
        self.stack[-1].extend([held(self, item) for item in items])

    def set_items(self, name: str) -> None:
        if name == "SETITEMS":
            self._fill_dict(self.since_mark())
        else:
            value = self.pop()
            self._fill_dict([self.pop(), value])

    def _fill_dict(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(items) % 2:
            raise TypeError("no dict")
        self.budget.take(160 + 50 * len(items))
        for name, value in zip(items[::2], items[1::2]):
            self.stack[-1][key(name)] = held(self, value)

    def add_items(self, name: str) -> None:
        items = self.since_mark()
        if type(self.stack[-1]) is not set:
            raise TypeError("no set")
        self.budget.take(100 * len(items))
        self.stack[-1].update([key(item) for item in items])

    def memoize(self, name: str) -> None:
        self.memo[len(self.memo) if name == "MEMOIZE" else self._index(name)] = self.stack[-1]

    def recall(self, name: str) -> None:
        found = self.memo[self._index(name)]
        self.stack.append(
            found.built if isinstance(found, Unbuilt) and found.built is not None else found
        )

    def _index(self, name: str) -> int:
        return self.number(_INDEXES[name]) if name in _INDEXES else int(self.decimal())

    def drop(self, name: str) -> None:
        if name == "POP_MARK" or (self.marks and len(self.stack) == self.marks[-1]):
            self.since_mark()
        else:
            self.pop()

    def repeat(self, name: str) -> None:
        self.stack.append(self.stack[-1])
