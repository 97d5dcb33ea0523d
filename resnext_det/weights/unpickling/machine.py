"""An interpreter of pickle's instructions, protocols 0 to 5, that calls only what is admitted.

Instructions have the names that the standard library's ``pickletools`` gives them.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from io import BufferedReader
from typing import Any

from resnext_det.weights.limits import AGAIN, Budget, Unreadable
from resnext_det.weights.unpickling.objects import (
    Admitted,
    Attributes,
    OuterTuple,
    PendingTuple,
    Unbuilt,
    check_key,
    finish,
)
from resnext_det.weights.unpickling.stream import TEXTS, Pending, PickleStream

_INDEXES = {"BINGET": "<B", "LONG_BINGET": "<I", "BINPUT": "<B", "LONG_BINPUT": "<I"}
_NEEDING_CODE = ("EXT1", "EXT2", "EXT4", "OBJ", "NEWOBJ_EX")

# The most memory that an instruction takes, for a place on the stack and an object. Items, texts
# and arrays are counted where they are made.
_USUAL_COST = 16
_COSTS = {
    **dict.fromkeys(("BININT", "BININT2", "BINFLOAT", "INT", "LONG", "FLOAT"), 48),
    **dict.fromkeys(("LONG1", "LONG4", "MARK"), 48),
    **dict.fromkeys(("EMPTY_DICT", "EMPTY_LIST", "DICT", "LIST", "TUPLE"), 96),
    **dict.fromkeys(("TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ"), 80),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), 104),
    **dict.fromkeys(("EMPTY_SET", "FROZENSET"), 256),
}


class PickleMachine(PickleStream):
    """Read one pickle from where a file stands.

    It has a stack, marks on it, a memo, and a method for each kind of instruction, which is given
    the instruction's name.

    Args:
        file, end, budget: see ``PickleStream``.
        admitted: what the pickle may ask for, by "module.name": ``Admitted``, or a constant.
        persistent: returns the object for a persistent id (torch's storages); None refuses them.
    """

    def __init__(
        self,
        file: BufferedReader,
        *,
        end: int,
        budget: Budget,
        admitted: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file, end=end, budget=budget)
        self.admitted = admitted
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """Read the pickled object; the file then stands behind it.

        Raises:
            Unreadable: the pickle is refused, damaged or cut short.
        """
        try:
            while (code := self.file.read(1)) != b".":
                if code not in _INSTRUCTIONS:
                    _refuse_instruction(code)
                name, cost, method = _INSTRUCTIONS[code]
                self.budget.take(cost)
                method(self, name)
            if len(self.stack) != 1 or self.marks or self.file.tell() > self.end:
                raise Unreadable(f"is damaged: its pickle ends at a wrong place; {AGAIN}")
            return finish(self, self.stack.pop())
        except Unreadable:
            raise
        except Exception as error:  # what damaged bytes lead to is of many kinds
            raise Unreadable(
                f"is damaged ({type(error).__name__} near byte {self.file.tell()}); {AGAIN}"
            ) from error

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError("nothing since the mark")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Take the newest mark, and all that was put since, from the stack."""
        start = self.marks.pop()
        self.budget.take(32 * (len(self.stack) - start))  # they are copied once or twice
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def begin(self, name: str) -> None:
        if name == "FRAME":
            self.read_number("<Q")
        elif self.read_number("<B") > 5:
            raise Unreadable("is of a pickle protocol after 5, or damaged; save it with protocol 2")

    def put(self, name: str) -> None:
        self.stack.append(_VALUES[name](self))

    def put_tuple(self, name: str) -> None:
        items = [self.pop() for _ in range(_TUPLES[name])]
        self._put_tuple(items[::-1])

    def mark(self, name: str) -> None:
        self.marks.append(len(self.stack))

    def gather(self, name: str) -> None:
        """Make a container of all that was put since the mark."""
        items = self.pop_to_mark()
        if name == "LIST":
            self.stack.append([finish(self, item) for item in items])
        elif name == "DICT":
            self.stack.append({})
            self._fill_dict(items)
        elif name == "TUPLE":
            self._put_tuple(items)
        else:
            self.budget.take(100 * len(items))
            self.stack.append(frozenset(check_key(item) for item in items))

    def append(self, name: str) -> None:
        items = [self.pop()] if name == "APPEND" else self.pop_to_mark()
        if type(self.stack[-1]) is not list:
            raise TypeError("no list")
        self.budget.take(32 + 8 * len(items))
        self.stack[-1].extend([finish(self, item) for item in items])

    def set_items(self, name: str) -> None:
        if name == "SETITEMS":
            self._fill_dict(self.pop_to_mark())
        else:
            value = self.pop()
            self._fill_dict([self.pop(), value])

    def add_items(self, name: str) -> None:
        items = self.pop_to_mark()
        if type(self.stack[-1]) is not set:
            raise TypeError("no set")
        self.budget.take(100 * len(items))
        self.stack[-1].update([check_key(item) for item in items])

    def memoize(self, name: str) -> None:
        index = len(self.memo) if name == "MEMOIZE" else self._read_index(name)
        self.memo[index] = self.stack[-1]

    def recall(self, name: str) -> None:
        found = self.memo[self._read_index(name)]
        built = isinstance(found, Unbuilt) and found.built is not None
        self.stack.append(found.built if built else found)

    def drop(self, name: str) -> None:
        if name == "POP_MARK" or (self.marks and len(self.stack) == self.marks[-1]):
            self.pop_to_mark()
        else:
            self.pop()

    def repeat(self, name: str) -> None:
        self.stack.append(self.stack[-1])

    def ask(self, name: str) -> None:
        """Put the function or class of a name on the stack, if it is admitted."""
        if name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
        else:
            module, attribute = self.read_name(), self.read_name()
        is_text = isinstance(module, str) and isinstance(attribute, str)
        asked = f"{module}.{attribute}" if is_text else "something"
        if asked not in self.admitted or name == "INST":
            raise Unreadable(
                f"is refused: it asks for {ascii(asked)[1:-1]:.100}, which could run code; where "
                "you trust its source, save its weights alone, by name"
            )
        self.stack.append(self.admitted[asked])

    def call(self, name: str) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Admitted) or not isinstance(arguments, tuple):
            raise Unreadable("is refused: it calls what is no function, which could run code")
        self.stack.append(function.call(self, *arguments))

    def build(self, name: str) -> None:
        """Give an object its state."""
        state, target = self.pop(), self.pop()
        if isinstance(target, Unbuilt) and target.built is None:
            self.stack.append(target.build(self, state))
        elif isinstance(target, OrderedDict | Attributes):
            if isinstance(target, Attributes) and target.takes_state and isinstance(state, dict):
                self.budget.take(200 * len(state))
                target.update(state)
            self.stack.append(target)  # else attributes beside the items, as a state_dict has them
        else:
            raise Unreadable(
                f"is refused: it sets the state of a {type(target).__name__}, which could run code"
            )

    def find_persistent(self, name: str) -> None:
        """Put an object on the stack that lies outside of the pickle."""
        if self.persistent is None or name == "PERSID":
            raise Unreadable(
                "is refused: it names objects outside of itself, as only a part of a larger file "
                "does"
            )
        self.stack.append(self.persistent(self.pop()))

    def _put_tuple(self, items: list[Any]) -> None:
        """Put a tuple on the stack, a pending one if something in it is pending, two deep."""
        kind: type[tuple[Any, ...]] = tuple
        if any(isinstance(item, OuterTuple) for item in items):
            items = [finish(self, item) for item in items]
        elif any(isinstance(item, PendingTuple) for item in items):
            kind = OuterTuple
        elif any(isinstance(item, Pending) for item in items):
            kind = PendingTuple
        self.stack.append(kind(items))

    def _fill_dict(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(items) % 2:
            raise TypeError("no dict")
        self.budget.take(160 + 50 * len(items))
        for name, value in zip(items[::2], items[1::2]):
            self.stack[-1][check_key(name)] = finish(self, value)

    def _read_index(self, name: str) -> int:
        if name in _INDEXES:
            return self.read_number(_INDEXES[name])
        return int(self.read_number_line())


def _refuse_instruction(code: bytes) -> None:
    if not code:
        raise Unreadable(f"is cut short; {AGAIN}")
    names = [each.name for each in pickletools.opcodes if each.code == code.decode("latin1")]
    if not names:
        raise Unreadable(f"is no pickle, or damaged: byte {code!r} is no instruction; {AGAIN}")
    reason = "which could run code" if names[0] in _NEEDING_CODE else "which no weights need"
    raise Unreadable(
        f"is refused: it uses pickle's {names[0]}, {reason}; save its weights alone, by name"
    )


_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_VALUES: dict[str, Callable[[PickleMachine], Any]] = {
    "NONE": lambda machine: None,
    "NEWTRUE": lambda machine: True,
    "NEWFALSE": lambda machine: False,
    "EMPTY_LIST": lambda machine: [],
    "EMPTY_DICT": lambda machine: {},
    "EMPTY_SET": lambda machine: set(),
    "BININT": lambda machine: machine.read_number("<i"),
    "BININT1": lambda machine: machine.read_number("<B"),
    "BININT2": lambda machine: machine.read_number("<H"),
    "BINFLOAT": lambda machine: machine.read_number(">d"),
    "LONG1": lambda machine: machine.read_integer(machine.read_number("<B")),
    "LONG4": lambda machine: machine.read_integer(machine.read_number("<i")),
    "INT": lambda machine: machine.read_integer_line(),
    "LONG": lambda machine: machine.read_integer_line(),
    "FLOAT": lambda machine: float(machine.read_number_line()),
    "STRING": lambda machine: machine.read_string_line(),
    "UNICODE": lambda machine: machine.read_unicode_line(),
    **{name: partial(PickleStream.read_text, kind=name) for name in TEXTS},
}
_METHODS: dict[Callable[[PickleMachine, str], None], tuple[str, ...]] = {
    PickleMachine.begin: ("PROTO", "FRAME"),
    PickleMachine.put: tuple(_VALUES),
    PickleMachine.put_tuple: tuple(_TUPLES),
    PickleMachine.mark: ("MARK",),
    PickleMachine.gather: ("LIST", "DICT", "TUPLE", "FROZENSET"),
    PickleMachine.append: ("APPEND", "APPENDS"),
    PickleMachine.set_items: ("SETITEM", "SETITEMS"),
    PickleMachine.add_items: ("ADDITEMS",),
    PickleMachine.memoize: ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
    PickleMachine.recall: ("GET", "BINGET", "LONG_BINGET"),
    PickleMachine.drop: ("POP", "POP_MARK"),
    PickleMachine.repeat: ("DUP",),
    PickleMachine.ask: ("GLOBAL", "STACK_GLOBAL", "INST"),
    PickleMachine.call: ("REDUCE", "NEWOBJ"),
    PickleMachine.build: ("BUILD",),
    PickleMachine.find_persistent: ("PERSID", "BINPERSID"),
}
_CODES = {each.name: each.code.encode("latin1") for each in pickletools.opcodes}
_INSTRUCTIONS = {
    _CODES[name]: (name, _COSTS.get(name, _USUAL_COST), method)
    for method, names in _METHODS.items()
    for name in names
}
