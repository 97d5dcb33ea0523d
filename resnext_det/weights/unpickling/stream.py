"""The bytes of a pickle: numbers, lines and texts, none longer than what is left of the file."""

from __future__ import annotations

import codecs
import struct
import sys
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

from resnext_det.weights.limits import Budget, Unreadable

_LONGEST_LINE = 1 << 24
_LONGEST_NUMBER = 32
_LONGEST_SHORT_TEXT = 1 << 16

TEXTS = {  # how the length is written, and what the bytes are; Python 2's strings are bytes
    "SHORT_BINUNICODE": ("<B", "utf-8"),
    "BINUNICODE": ("<I", "utf-8"),
    "BINUNICODE8": ("<Q", "utf-8"),
    "SHORT_BINSTRING": ("<B", "latin1"),
    "BINSTRING": ("<i", "latin1"),
    "SHORT_BINBYTES": ("<B", None),
    "BINBYTES": ("<I", None),
    "BINBYTES8": ("<Q", None),
    "BYTEARRAY8": ("<Q", None),
}


class Pending:
    """Stands on the machine's stack, and may not become a part of the contents as it is."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class LongText(Pending):
    """Bytes that stay in the file until their use is known: an array's values are read straight into the array.

    Attributes:
        start, size: where they are.
        encoding: of the text that they are; None for bytes.
        as_bytes: the text was latin1-encoded into bytes, as Python 3 writes bytes in protocol 2.
    """

    start: int
    size: int
    encoding: str | None
    as_bytes: bool = False


class PickleSource:
    """Reads a pickle's parts from where a file stands.

    Args:
        file: opened for bytes.
        end: where the pickle must have ended, as a position in the file.
        budget: of memory, which the pickle may use up.
    """

    def __init__(self, file: BufferedReader, *, end: int, budget: Budget) -> None:
        self.file = file
        self.end = end
        self.budget = budget

    def take(self, size: int) -> bytes:
        """Few bytes."""
        taken = self.file.read(size)
        if len(taken) != size:
            raise Unreadable("is cut short; copy or download the file again")
        return taken

    def number(self, layout: str) -> Any:
        """A number of a layout of ``struct``."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def decimal(self) -> bytes:
        """A line that is a number."""
        return self._line(_LONGEST_NUMBER)

    def name(self) -> str:
        """A line that is a name."""
        return self._line(1024).decode("utf-8")

    def integer_of_bytes(self, size: int) -> int:
        """An integer of up to 64 bits, and a byte for the sign."""
        if not 0 <= size <= 9:
            raise Unreadable(
                f"is refused: it holds an integer of {size} bytes; integers have up to 64 bits"
            )
        return checked_integer(int.from_bytes(self.take(size), "little", signed=True))

    def text(self, kind: str) -> str | bytes | LongText:
        """A text whose length comes first; a long one stays in the file until its use is known."""
        layout, encoding = TEXTS[kind]
        size = self.number(layout)
        if 0 <= size <= _LONGEST_SHORT_TEXT:
            decoded = _decoded(self.take(size), encoding)
            self.budget.take(sys.getsizeof(decoded))
            return decoded
        start = self.file.tell()
        if not 0 <= size <= self.end - start:
            raise Unreadable(
                f"is cut short or damaged: {size} bytes should follow where {self.end - start} are left; copy the file again"
            )
        self.file.seek(size, 1)
        return LongText(start, size, encoding)

    def text_line(self, kind: str) -> str:
        """A text of protocol 0."""
        line = self._line(_LONGEST_LINE)
        if kind == "UNICODE":
            self.budget.take(4 * len(line))
            return line.decode("raw-unicode-escape")
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise Unreadable("is damaged: a text has no quotes; copy or download the file again")
        decoded: bytes = codecs.escape_decode(line[1:-1])[0]
        return decoded.decode("latin1")

    def long_text(self, text: LongText) -> str | bytes:
        """A long text that turned out to be part of the contents."""
        self.budget.take(6 * text.size if text.encoding == "utf-8" else 2 * text.size)
        position = self.file.tell()
        self.file.seek(text.start)
        decoded = _decoded(self.take(text.size), text.encoding)
        self.file.seek(position)
        return decoded.encode("latin1") if text.as_bytes and isinstance(decoded, str) else decoded

    def _line(self, longest: int) -> bytes:
        line = self.file.readline(longest + 1)
        self.budget.take(2 * len(line))
        if not line.endswith(b"\n"):
            reason = (
                "cut short"
                if self.file.tell() >= self.end
                else f"damaged: a line is over {longest} bytes"
            )
            raise Unreadable(
                f"is {reason}; copy or download the file again, or pickle it with protocol 2"
            )
        return line[:-1]


def checked_integer(value: int) -> int:
    """Of up to 64 bits: longer ones are slow to read on purpose."""
    if not -(2**63) <= value < 2**64:
        raise Unreadable(
            "is refused: it holds an integer of more than 64 bits; no weights need such"
        )
    return value


def _decoded(text: bytes, encoding: str | None) -> str | bytes:
    if encoding is None:
        return text
    return text.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
