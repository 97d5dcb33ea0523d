"""The machine: pickle's instructions of protocols 0 to 5, as the standard library's ``pickletools`` names them."""

from __future__ import annotations

import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from io import BufferedReader
from typing import Any

from resnext_det.weights.limits import Budget, Unreadable
from resnext_det.weights.unpickling.objects import Admitted, Attributes, Packed, Unbuilt, held
from resnext_det.weights.unpickling.stack import CONSTANTS, CONTAINERS, NUMBERS, TUPLES, PickleStack
from resnext_det.weights.unpickling.stream import TEXTS

# What an instruction takes of memory at most: a place on the stack, an object. Items, texts and arrays come on top of it.
_USUAL_COST = 16
_COST = {
    **dict.fromkeys(
        ("BININT", "BININT2", "BINFLOAT", "INT", "LONG", "FLOAT", "LONG1", "LONG4", "MARK"), 48
    ),
    **dict.fromkeys(("EMPTY_DICT", "EMPTY_LIST", "DICT", "LIST", "TUPLE"), 96),
    **dict.fromkeys(("TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ"), 80),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), 104),
    **dict.fromkeys(("EMPTY_SET", "FROZENSET"), 256),
}
_SIGNS_OF_DAMAGE = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
)
_MEANING_CODE = ("EXT1", "EXT2", "EXT4", "OBJ", "NEWOBJ_EX")


class PickleMachine(PickleStack):
    """Reads one pickle from where a file stands.

    Args:
        file, end, budget: see ``PickleSource``.
        admitted: what the pickle may ask for, by "module.name": ``Admitted``, or a constant.
        persistent: gives the object for a persistent id (torch's storages); None refuses them.

    Errors are ``Unreadable``, whose text follows the file's name.
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

    def read(self) -> Any:
        """The pickled object. The file then stands behind it."""
        try:
            while True:
                code = self.file.read(1)
                if code not in _OPERATIONS:
                    _refuse(code)
                name, cost, method = _OPERATIONS[code]
                self.budget.take(cost)
                if name == "STOP":
                    return self._result()
                method(self, name)
        except Unreadable:
            raise
        except _SIGNS_OF_DAMAGE as error:
            raise Unreadable(
                f"is damaged ({type(error).__name__} near byte {self.file.tell()}); copy or download the file again"
            ) from error

    def _result(self) -> Any:
        if len(self.stack) != 1 or self.marks or self.file.tell() > self.end:
            raise Unreadable(
                "is damaged: its pickle ends at a wrong place; copy or download the file again"
            )
        return held(self, self.stack.pop())

    def _ask(self, name: str) -> None:
        if name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
        else:
            module, attribute = self.name(), self.name()
        asked = (
            f"{module}.{attribute}"
            if isinstance(module, str) and isinstance(attribute, str)
            else "something"
        )
        if asked not in self.admitted or name == "INST":
            raise Unreadable(
                f"is refused: it asks for {ascii(asked)[1:-1]:.100}, which could run code; where you trust its source, save its weights "
                "alone, by name"
            )
        self.stack.append(self.admitted[asked])

    def _call(self, name: str) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Admitted) or not isinstance(arguments, tuple | Packed):
            raise Unreadable("is refused: it calls what is no function, which could run code")
        values = arguments.items if isinstance(arguments, Packed) else arguments
        self.stack.append(function.call(self, *values))

    def _build(self, name: str) -> None:
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

    def _persist(self, name: str) -> None:
        if self.persistent is None or name == "PERSID":
            raise Unreadable(
                "is refused: it names objects outside of itself, as only a part of a larger file does"
            )
        self.stack.append(self.persistent(self.pop()))

    def _begin(self, name: str) -> None:
        if name == "FRAME":
            self.number("<Q")
        elif self.number("<B") > 5:
            raise Unreadable("is of a pickle protocol after 5, or damaged; save it with protocol 2")


def _refuse(code: bytes) -> None:
    if not code:
        raise Unreadable("is cut short; copy or download the file again")
    names = [
        operation.name
        for operation in pickletools.opcodes
        if operation.code == code.decode("latin1")
    ]
    if not names:
        raise Unreadable(
            f"is no pickle, or damaged: byte {code!r} is no instruction; copy the file again"
        )
    reason = "which could run code" if names[0] in _MEANING_CODE else "which no weights need"
    raise Unreadable(
        f"is refused: it uses pickle's {names[0]}, {reason}; save its weights alone, by name"
    )


_METHODS: dict[Callable[[PickleMachine, str], None], tuple[str, ...]] = {
    PickleMachine.put_constant: (*CONSTANTS, "STOP"),
    PickleMachine.put_number: tuple(NUMBERS),
    PickleMachine.put_decimal: ("INT", "LONG", "FLOAT"),
    PickleMachine.put_long: ("LONG1", "LONG4"),
    PickleMachine.put_text: tuple(TEXTS),
    PickleMachine.put_text_line: ("STRING", "UNICODE"),
    PickleMachine.put_container: tuple(CONTAINERS),
    PickleMachine.mark: ("MARK",),
    PickleMachine.gather: ("LIST", "DICT", "TUPLE", "FROZENSET"),
    PickleMachine.put_tuple: tuple(TUPLES),
    PickleMachine.append: ("APPEND", "APPENDS"),
    PickleMachine.set_items: ("SETITEM", "SETITEMS"),
    PickleMachine.add_items: ("ADDITEMS",),
    PickleMachine.memoize: ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
    PickleMachine.recall: ("GET", "BINGET", "LONG_BINGET"),
    PickleMachine.drop: ("POP", "POP_MARK"),
    PickleMachine.repeat: ("DUP",),
    PickleMachine._ask: ("GLOBAL", "STACK_GLOBAL", "INST"),
    PickleMachine._call: ("REDUCE", "NEWOBJ"),
    PickleMachine._build: ("BUILD",),
    PickleMachine._persist: ("PERSID", "BINPERSID"),
    PickleMachine._begin: ("PROTO", "FRAME"),
}
_OPERATIONS = {
    operation.code.encode("latin1"): (
        operation.name,
        _COST.get(operation.name, _USUAL_COST),
        method,
    )
    for method, names in _METHODS.items()
    for operation in pickletools.opcodes
    if operation.name in names
}
