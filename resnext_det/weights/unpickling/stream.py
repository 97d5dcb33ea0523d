"""The bytes of a pickle: numbers, lines and texts, none longer than what is left of the file."""

from __future__ import annotations

import codecs
import struct
import sys
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

from resnext_det.weights.limits import AGAIN, Budget, Unreadable, read_exactly

_LONGEST_LINE = 1 << 24
_LONGEST_NUMBER = 32
_LONGEST_NAME = 1024
_LONGEST_SHORT_TEXT = 1 << 16

# How the length is written, and how the bytes become text; Python 2's strings are bytes.
TEXTS = {
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
    """The base of objects that may lie on the machine's stack, but not in the contents."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class LongText(Pending):
    """Bytes that stay in the file until their use is known: an array reads them into its memory.

    Attributes:
        start, size: their place in the file.
        encoding: of the text that they are; None for bytes.
        as_bytes: the text is to be encoded by latin1, as Python 3 writes bytes in protocol 2.
    """

    start: int
    size: int
    encoding: str | None
    as_bytes: bool = False


class PickleStream:
    """Read the parts of a pickle from where a file stands.

    Args:
        file: open for bytes.
        end: the position in the file at which the pickle must have ended.
        budget: of memory, which the pickle may use up.
    """

    def __init__(self, file: BufferedReader, *, end: int, budget: Budget) -> None:
        self.file = file
        self.end = end
        self.budget = budget

    def read_number(self, layout: str) -> Any:
        """Read a number of a layout of ``struct``."""
        return struct.unpack(layout, read_exactly(self.file, struct.calcsize(layout)))[0]

    def read_number_line(self) -> bytes:
        """Read a line that is a number."""
        return self._read_line(_LONGEST_NUMBER)

    def read_integer_line(self) -> int:
        """Read a line that is an integer, with an L behind it in Python 2, or 00 or 01 for bool."""
        text = self.read_number_line()
        if text in (b"00", b"01"):
            return text == b"01"
        return _check_integer(int(text.removesuffix(b"L")))

    def read_name(self) -> str:
        """Read a line that is a name."""
        return self._read_line(_LONGEST_NAME).decode()

    def read_integer(self, size: int) -> int:
        """Read an integer of up to 64 bits and a sign, written in `size` bytes."""
        if not 0 <= size <= 9:
            raise Unreadable(
                f"is refused: it holds an integer of {size} bytes; integers have up to 64 bits"
            )
        return _check_integer(int.from_bytes(read_exactly(self.file, size), "little", signed=True))

    def read_text(self, kind: str) -> str | bytes | LongText:
        """Read a text of known length; a long one stays in the file until its use is known."""
        layout, encoding = TEXTS[kind]
        size = self.read_number(layout)
        if 0 <= size <= _LONGEST_SHORT_TEXT:
            text = _decode(read_exactly(self.file, size), encoding)
            self.budget.take(sys.getsizeof(text))
            return text
        start = self.file.tell()
        if not 0 <= size <= self.end - start:
            raise Unreadable(
                f"is cut short or damaged: {size} bytes should follow where {self.end - start} are "
                f"left; {AGAIN}"
            )
        self.file.seek(size, 1)
        return LongText(start, size, encoding)

    def read_unicode_line(self) -> str:
        """Read a text of protocol 0."""
        line = self._read_line(_LONGEST_LINE)
        self.budget.take(4 * len(line))
        return line.decode("raw-unicode-escape")

    def read_string_line(self) -> str:
        """Read a string of Python 2 in protocol 0, in quotes."""
        line = self._read_line(_LONGEST_LINE)
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise Unreadable(f"is damaged: a text has no quotes; {AGAIN}")
        unescaped: bytes = codecs.escape_decode(line[1:-1])[0]
        return unescaped.decode("latin1")

    def read_long_text(self, text: LongText) -> str | bytes:
        """Read a long text that turned out to be a part of the contents."""
        self.budget.take(6 * text.size if text.encoding == "utf-8" else 2 * text.size)
        position = self.file.tell()
        self.file.seek(text.start)
        found = _decode(read_exactly(self.file, text.size), text.encoding)
        self.file.seek(position)
        return found.encode("latin1") if text.as_bytes and isinstance(found, str) else found

    def _read_line(self, longest: int) -> bytes:
        line = self.file.readline(longest + 1)
        self.budget.take(2 * len(line))
        if not line.endswith(b"\n"):
            cut = self.file.tell() >= self.end
            reason = "cut short" if cut else f"damaged: a line is over {longest} bytes"
            raise Unreadable(f"is {reason}; {AGAIN}, or pickle it with protocol 2")
        return line[:-1]


def _check_integer(value: int) -> int:
    """Refuse an integer of more than 64 bits: long ones are slow to read."""
    if not -(2**63) <= value < 2**64:
        raise Unreadable(
            "is refused: it holds an integer of more than 64 bits; no weights need such"
        )
    return value


def _decode(text: bytes, encoding: str | None) -> str | bytes:
    if encoding is None:
        return text
    return text.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
