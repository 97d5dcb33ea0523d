"""Write for a console: within its width, with its letters, in colors where it has them."""

from __future__ import annotations

import os
import shlex
import shutil
import textwrap
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple, TextIO

_NARROWEST, _WIDEST = 40, 120
_COLORS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}

Cell = tuple[str, str]
"""A text and its color, "" for none."""


class Look(NamedTuple):
    """Hold what a console can show.

    Attributes:
        width: in columns.
        color: whether it shows colors.
        unicode: whether it shows letters beyond ASCII.
    """

    width: int = 80
    color: bool = False
    unicode: bool = True

    def paint(self, text: str, color: str) -> str:
        """Color a text, where colors are shown."""
        return f"\033[{_COLORS[color]}m{text}\033[0m" if self.color and color and text else text

    def fit(self, cell: Cell, width: int, *, right: bool = False) -> str:
        """Cut a text at its start or pad it to a width, and color it."""
        text, color = cell
        dots = "…" if self.unicode else "..."
        if measure(text) > width:
            while text and measure(text) > width - len(dots):
                text = text[1:]
            text = dots[:width] + text
        blank = " " * (width - measure(text))
        return f"{blank * right}{self.paint(text, color)}{blank * (not right)}"


def find_look(stream: TextIO) -> Look:
    """Find out what the console behind a stream shows.

    Its width is that of the terminal, COLUMNS where that is set, and 80 where there is none. There
    are colors on a terminal alone, and never where NO_COLOR is set.
    """
    width = min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST)
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    try:
        "✓✗●○─…".encode(stream.encoding or "ascii")
        unicode = True
    except (UnicodeEncodeError, LookupError):
        unicode = False
    return Look(width, stream.isatty() and not plain, unicode)


def wrap_command(command: str, width: int) -> Iterator[str]:
    """Break a line for a shell, with backslashes, before its flags and settings if that will do."""
    groups: list[list[str]] = []
    for word in shlex.split(command):
        new = word.startswith("--") or (word[:1].isupper() and ("." in word or "_" in word))
        if new or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    line = "    "
    for words in groups:
        text = shlex.join(words)
        fits = measure(text) + 10 <= width
        for part in [text] if fits else map(shlex.quote, words):
            if line.strip() and measure(f"{line}{part} \\") > width:
                yield f"{line}\\"
                line = "        "
            line += f"{part} "
    yield line


def indent_text(text: str, width: int, count: int) -> Iterator[str]:
    """Break a text into lines of at most ``width`` columns, with ``count`` blanks before each."""
    return (" " * count + line for line in wrap(text, width - count))


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines of at most ``width`` columns, one at least."""
    # textwrap counts letters: a mark stands for the second column of those that take two
    marked = "".join(letter + "\0" * (measure(letter) - 1) for letter in text)
    lines = textwrap.wrap(marked, width, break_on_hyphens=False)
    return [line.replace("\0", "") for line in lines] or [""]


def measure(text: str) -> int:
    """Count the columns of a text: East Asian letters take two, accents none."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )
