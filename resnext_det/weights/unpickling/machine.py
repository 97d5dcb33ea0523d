"""An interpreter of pickle's instructions, protocols 0 to 5, that calls nothing that is named.

Instructions have the names that the standard library's ``pickletools`` gives them.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from io import BufferedReader
from typing import Any

from resnext_det.files import escape_controls
from resnext_det.weights.limits import AGAIN, Budget, Unreadable
from resnext_det.weights.unpickling.objects import (
    Name,
    OuterTuple,
    PendingTuple,
    Placeholder,
    Unbuilt,
    finish,
    make_key,
    make_placeholder,
)
from resnext_det.weights.unpickling.stream import TEXTS, Pending, PickleStream

_INDEXES = {"BINGET": "<B", "LONG_BINGET": "<I", "BINPUT": "<B", "LONG_BINPUT": "<I"}
_EXTENSIONS = {"EXT1": "<B", "EXT2": "<H", "EXT4": "<i"}

# The most memory that an instruction takes for an object. Items, texts, arrays, placeholders and
# the machine's own lists are counted where they are made.
_COSTS = {
    **dict.fromkeys(("BININT", "BININT2", "BINFLOAT"), 32),
    **dict.fromkeys(("INT", "LONG", "FLOAT", "LONG1", "LONG4"), 48),
    **dict.fromkeys(("EMPTY_DICT", "EMPTY_LIST", "DICT", "LIST"), 80),
    **dict.fromkeys(("EMPTY_SET", "FROZENSET"), 256),
}
_PLACE_COST = 10
_MARK_COST = 40


class PickleMachine(PickleStream):
    """Read one pickle from where a file stands.

    It has a stack, marks on it, a memo, and a method for each kind of instruction, which is given
    the instruction's name.

    Args:
        file, end, budget: see ``PickleStream``.
        known: the names that something is done for, by "module.name": a ``Name``, or a constant.
        persistent: returns the object for a persistent id (torch's storages), of this stream and
            the id; None: all become placeholders.
    """

    def __init__(
        self,
        file: BufferedReader,
        *,
        end: int,
        budget: Budget,
        known: Mapping[str, Any],
        persistent: Callable[[PickleStream, Any], Any] | None = None,
    ) -> None:
        super().__init__(file, end=end, budget=budget)
        self.known = known
        self.persistent = persistent
        self.stack: list[Any] = []
        self.counted = self.counted_marks = 0  # places on the stack, and marks
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.memo_beyond: dict[int, Any] = {}  # of indexes that do not count up from 0
        self.unknown: dict[str, Name] = {}

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
                if len(self.stack) > self.counted:
                    self.budget.take(_PLACE_COST * (len(self.stack) - self.counted))
                    self.counted = len(self.stack)
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
        self.budget.check(32 * (len(self.stack) - start))  # they are copied once or twice
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
        if len(self.marks) > self.counted_marks:
            self.budget.take(_MARK_COST)
            self.counted_marks = len(self.marks)

    def gather(self, name: str) -> None:
        """Make a container of all that was put since the mark."""
        items = self.pop_to_mark()
        if name == "LIST":
            self.budget.take(9 * len(items))
            self.stack.append([finish(self, item) for item in items])
        elif name == "DICT":
            self.stack.append({})
            self._fill_dict(items)
        elif name == "TUPLE":
            self._put_tuple(items)
        else:
            self.budget.take(100 * len(items))
            self.stack.append(frozenset([make_key(self, item) for item in items]))

    def append(self, name: str) -> None:
        items = [self.pop()] if name == "APPEND" else self.pop_to_mark()
        target = self.stack[-1].members if type(self.stack[-1]) is Placeholder else self.stack[-1]
        if type(target) is not list:
            raise TypeError("no list")
        self.budget.take(32 + 9 * len(items))
        target.extend([finish(self, item) for item in items])

    def set_items(self, name: str) -> None:
        if name == "SETITEMS":
            self._fill_dict(self.pop_to_mark())
        else:
            value = self.pop()
            self._fill_dict([self.pop(), value])

    def add_items(self, name: str) -> None:
        items = self.pop_to_mark()
        self.budget.take(100 * len(items))
        members = [make_key(self, item) for item in items]
        if isinstance(self.stack[-1], Placeholder):
            self.stack[-1].members.extend(members)
        elif type(self.stack[-1]) is set:
            self.stack[-1].update(members)
        else:
            raise TypeError("no set")

    def memoize(self, name: str) -> None:
        beyond = self.memo_beyond
        index = len(self.memo) + len(beyond) if name == "MEMOIZE" else self._read_index(name)
        item = self.stack[-1]
        if index == len(self.memo):
            self.budget.take(_PLACE_COST)
            self.memo.append(item)
        else:
            self.budget.take(136)
            beyond[index] = item

    def recall(self, name: str) -> None:
        index = self._read_index(name)
        found = self.memo_beyond[index] if index in self.memo_beyond else self.memo[index]
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
        """Put what is known of the function or class of a name on the stack."""
        if name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
        else:
            module, attribute = self.read_name(), self.read_name()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise TypeError("no name")
        asked = f"{module}.{attribute}"
        self.stack.append(self.known[asked] if asked in self.known else self._make_name(asked))
        if name == "INST":
            self._call(self.stack.pop(), tuple(self.pop_to_mark()))

    def extend(self, name: str) -> None:
        """Put a placeholder for a code of copyreg's registry on the stack."""
        code = self.read_number(_EXTENSIONS[name])
        self.stack.append(self._make_name(f"copyreg.extension {code}"))

    def call(self, name: str) -> None:
        if name == "OBJ":
            function, *items = self.pop_to_mark()
            self._call(function, tuple(items))
            return
        options = (finish(self, self.pop()),) if name == "NEWOBJ_EX" else ()
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple):
            raise TypeError("no arguments")
        self._call(function, (*arguments, *options), called=name == "REDUCE")

    def build(self, name: str) -> None:
        """Give an object its state."""
        state, target = self.pop(), self.pop()
        if isinstance(target, Unbuilt) and target.built is None:
            target = target.build(self, state)
        elif isinstance(target, Placeholder):
            target.state = finish(self, state)
        elif not isinstance(target, OrderedDict):  # its attributes are left out
            raise TypeError("no state")
        self.stack.append(target)

    def find_persistent(self, name: str) -> None:
        """Put an object on the stack that lies outside of the pickle."""
        identifier = self.read_name() if name == "PERSID" else self.pop()
        if self.persistent is None:
            self.stack.append(make_placeholder(self, "a persistent id"))
        elif name == "PERSID":
            raise Unreadable(
                "is refused: its tensors were saved with pickle protocol 0, which loses their "
                "places, so that torch itself cannot read it; save it anew with pickle_protocol=2"
            )
        else:
            self.stack.append(self.persistent(self, identifier))

    def _make_name(self, name: str) -> Name:
        if name not in self.unknown:
            self.budget.take(400 + 4 * len(name))
            self.unknown[name] = Name(escape_controls(name))
        return self.unknown[name]

    def _call(self, function: Any, arguments: tuple[Any, ...], *, called: bool = True) -> None:
        if not isinstance(function, Name | Placeholder):
            raise TypeError("no function")
        if isinstance(function, Name) and function.call is not None:
            made = function.call(self, *arguments)
        else:
            made = make_placeholder(self, function.name, arguments, called=called)
        self.stack.append(made)

    def _put_tuple(self, items: list[Any]) -> None:
        """Put a tuple on the stack, a pending one if something in it is pending, two deep."""
        self.budget.take(48 + 8 * len(items) if items else 0)
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
            self.stack[-1][make_key(self, name)] = finish(self, value)

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
    raise Unreadable(
        f"is refused: it uses pickle's {names[0]}, for arrays that lie outside of it; pickle it "
        "without a buffer_callback"
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
    PickleMachine.extend: tuple(_EXTENSIONS),
    PickleMachine.call: ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ"),
    PickleMachine.build: ("BUILD",),
    PickleMachine.find_persistent: ("PERSID", "BINPERSID"),
}
_CODES = {each.name: each.code.encode("latin1") for each in pickletools.opcodes}
_INSTRUCTIONS = {
    _CODES[name]: (name, _COSTS.get(name, 0), method)
    for method, names in _METHODS.items()
    for name in names
}
