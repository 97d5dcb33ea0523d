"""Write texts of any script into plots and pictures: fonts that have the letters, or escapes."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from resnext_det.files import list_first

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_REGULAR = 400  # the weight of fonts that are neither light nor bold


@contextmanager
def draw_figure(
    path: str | Path, size: tuple[float, float], texts: Iterable[str]
) -> Iterator[tuple[Figure, Callable[[str], str]]]:
    """Draw a figure into a file.

    Args:
        path: its suffix chooses the format, as ".png".
        size: width and height in inches.
        texts: what will be written, see ``set_fonts``.

    Yields:
        the figure, which is saved at the end of the context, and what prepares a text.

    Raises:
        ValueError: the format is unknown.
    """
    from matplotlib.figure import Figure

    with set_fonts(texts) as prepare:
        figure = Figure(figsize=size, layout="constrained")
        yield figure, prepare
        figure.savefig(path, dpi=150)


@contextmanager
def set_fonts(texts: Iterable[str]) -> Iterator[Callable[[str], str]]:
    """Let matplotlib draw the letters of the texts with the fonts that are installed.

    Matplotlib's own fonts have no Chinese letters, for one: it warns of each, and draws boxes. Draw
    and save the figure within the context; give texts ``parse_math=False``, so that a name with $
    is no formula.

    Yields:
        what prepares a text: letters that no font has become escapes, such as \\u7ea2, with one
        warning for all.
    """
    from matplotlib import rc_context, rcParams

    letters = {letter for text in texts for letter in text}
    needed = {letter for letter in letters if letter.isprintable() and not letter.isspace()}
    families = list(rcParams["font.family"])
    known = _read_letters(families)
    if needed - known:
        for family, has in _find_families(needed - known):
            families.append(family)
            known |= has
    if missing := needed - known:
        logger.warning(
            "no installed font has the letters %s; the plot shows their codes: install a font that "
            "has them, such as Noto Sans CJK for Chinese, Japanese and Korean",
            list_first(sorted(missing), 10),
        )

    def prepare(text: str) -> str:
        shown = []
        for letter in " ".join(text.split()):
            if letter in known or letter == " ":
                shown.append(letter)
            elif unicodedata.category(letter) != "Cf":  # joiners and marks of direction are unseen
                shown.append(ascii(letter)[1:-1])
        return "".join(shown)

    with rc_context({"font.family": families, "text.usetex": False}):
        yield prepare


def find_font(letters: str) -> Path | None:
    """Find the file of one font that has all letters, for libraries that draw with one font.

    DejaVu Sans, which comes with matplotlib, goes before the installed fonts.

    Returns:
        None where no font has all of them.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    own = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    needed = {x for x in letters if not x.isspace() and unicodedata.category(x) != "Cf"}
    if letters.isascii() or needed <= set(map(chr, FT2Font(str(own)).get_charmap())):
        return own
    from matplotlib.font_manager import FontProperties, findfont

    family, has = next(_find_families(needed), ("", set()))
    return Path(findfont(FontProperties(family=[family]))) if has >= needed else None


def shorten(text: str, width: int) -> str:
    """Leave out the middle of a text that is wider; a Chinese letter is as wide as two others."""
    if _take(text, width) == text:
        return text
    head, tail = _take(text, (width - 2) // 2), _take(text[::-1], (width - 3) // 2)[::-1]
    return f"{head}...{tail}"


def _take(text: str, width: int) -> str:
    """Take the first letters that are not wider together."""
    for position, letter in enumerate(text):
        width -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if width < 0:
            return text[:position]
    return text


def _read_letters(families: list[str]) -> set[str]:
    """Read which letters the fonts have that matplotlib takes for the families."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    letters: set[str] = set()
    for family in families:
        with suppress(ValueError):  # there is no such font
            path = findfont(FontProperties(family=[family]), fallback_to_default=False)
            letters |= set(map(chr, get_font(path).get_charmap()))
    return letters


def _find_families(missing: set[str]) -> Iterator[tuple[str, set[str]]]:
    """Find the fewest installed fonts that have the letters, as far as there are any."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import fontManager, get_font

    own = str(get_data_path())  # matplotlib's: symbols, and one that has a box for every letter
    found: dict[str, set[str]] = {}
    for entry in fontManager.ttflist:
        if entry.weight == _REGULAR and entry.style == "normal" and not entry.fname.startswith(own):
            with suppress(OSError, RuntimeError):  # a damaged font
                letters = set(map(chr, get_font(entry.fname).get_charmap()))
                found[entry.name] = letters & missing
    while missing:
        gains = {name: (len(had & missing), "Sans" in name) for name, had in found.items()}
        best = max(gains, key=lambda name: gains[name], default="")
        if not best or not gains[best][0]:
            return
        missing = missing - found[best]
        yield best, found[best]
