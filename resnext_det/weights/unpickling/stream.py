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
_LONGEST_NUMBER = 4096  # digits, for which the time grows with the square
_LONGEST_NAME = 1024
_LONGEST_SHORT_TEXT = 128
_LONG_TEXT_COST = 140
_MOST_COSTLY_KEYS = 5000

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
    """The base of objects that may lie on the machine's stack, but not in the contents.

    Attributes:
        class_name: what a placeholder for one is called, where it is not finished.
    """

    __slots__ = ()
    class_name = ""


@dataclass(slots=True)
class LongText(Pending):
    """Bytes that stay in the file until their use is known: an array reads them into its memory.

    Attributes:
        start, size: their place in the file.
        encoding: of the text that they are; None for bytes.
        kind: what they become. Python 3 writes bytes as a text of latin1 in protocol 2.
        found: what they became, so that all references to them share it.
    """

    start: int
    size: int
    encoding: str | None
    kind: type[str] | type[bytes] | type[bytearray]
    found: str | bytes | bytearray | None = None


class PickleStream:
    """Read the parts of a pickle from where a file stands.

    Args:
        file: open for bytes.
        end: the position in the file at which the pickle must have ended.
        budget: of memory, which the pickle may use up.

    Attributes:
        costly_keys: how many tuples may still be keys; see ``make_key``.
    """

    def __init__(self, file: BufferedReader, *, end: int, budget: Budget) -> None:
        self.file = file
        self.end = end
        self.budget = budget
        self.costly_keys = _MOST_COSTLY_KEYS

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
        return int(text.removesuffix(b"L"))

    def read_name(self) -> str:
        """Read a line that is a name."""
        return self._read_line(_LONGEST_NAME).decode()

    def read_integer(self, size: int) -> int:
        """Read an integer with a sign, written in `size` bytes."""
        self._check_left(size)
        self.budget.take(2 * size)
        return int.from_bytes(read_exactly(self.file, size), "little", signed=True)

    def read_text(self, kind: str) -> str | bytes | bytearray | LongText:
        """Read a text of known length; a long one stays in the file until its use is known."""
        layout, encoding = TEXTS[kind]
        size = self.read_number(layout)
        wanted = bytearray if kind == "BYTEARRAY8" else bytes if encoding is None else str
        if 0 <= size <= _LONGEST_SHORT_TEXT:
            text = _decode(read_exactly(self.file, size), encoding, wanted)
            self.budget.take(sys.getsizeof(text))
            return text
        self._check_left(size)
        self.budget.take(_LONG_TEXT_COST)
        start = self.file.tell()
        self.file.seek(size, 1)
        return LongText(start, size, encoding, wanted)

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

    def read_long_text(self, text: LongText) -> str | bytes | bytearray:
        """Read a long text that turned out to be a part of the contents."""
        if text.found is None:
            # the bytes, and a text of up to four bytes a letter
            self.budget.check(6 * text.size if text.encoding == "utf-8" else 3 * text.size)
            position = self.file.tell()
            self.file.seek(text.start)
            text.found = _decode(read_exactly(self.file, text.size), text.encoding, text.kind)
            self.budget.take(sys.getsizeof(text.found))
            self.file.seek(position)
        return text.found

    def _check_left(self, size: int) -> None:
        left = self.end - self.file.tell()
        if not 0 <= size <= left:
            raise Unreadable(
                f"is cut short or damaged: {size} bytes should follow where {left} are left; "
                f"{AGAIN}"
            )

    def _read_line(self, longest: int) -> bytes:
        line = self.file.readline(longest + 1)
        self.budget.take(2 * len(line))
        if not line.endswith(b"\n"):
            cut = self.file.tell() >= self.end
            reason = "cut short" if cut else f"damaged: a line is over {longest} bytes"
            raise Unreadable(f"is {reason}; {AGAIN}, or pickle it with protocol 2")
        return line[:-1]


def _decode(taken: bytes, encoding: str | None, kind: type) -> Any:
    if encoding is None:
        return taken if kind is bytes else kind(taken)
    text = taken.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    return text if kind is str else kind(text, "latin1")
