"""Lay small pictures of many images out on sheets, to look through them at a glance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from resnext_det.detection.labels import Color, render_label

_COLUMNS, _ROWS = 6, 8
_WIDTH, _HEIGHT, _CAPTION, _GAP = 300, 240, 42, 8  # of a cell, in pixels
_TEXT_SIZE, _BETWEEN = 13, 4
_PAPER = (255, 255, 255)


class ContactSheets:
    """Gather small pictures with captions, and write a sheet whenever 48 are there.

    Use it in a ``with`` block, at whose end the last sheet is written.

    Args:
        folder: gets contact_sheet_1.jpg, contact_sheet_2.jpg ...
        write: writes an image, BGR uint8 (height, width, 3), to a file.
        taken: files whose names are not to be used; underscores set the sheets' names apart.
    """

    def __init__(
        self, folder: Path, write: Callable[[Path, np.ndarray], None], taken: Iterable[Path] = ()
    ) -> None:
        self._folder, self._write = folder, write
        self._stem, names = "contact_sheet", [path.name.lower() for path in taken]
        while any(name.startswith(self._stem) for name in names):
            self._stem += "_"
        self._cells: list[np.ndarray] = []
        self._written = 0

    def __enter__(self) -> ContactSheets:
        return self

    def __exit__(self, *reason: object) -> None:
        self._finish_sheet()

    def choose_width(self, image: np.ndarray) -> int:
        """Choose the width in pixels in which a picture of an image fits its cell."""
        height, width = image.shape[:2]
        return max(1, round(width * min(_WIDTH / width, _HEIGHT / height)))

    def add(
        self, picture: np.ndarray, caption: str, counts: Sequence[tuple[str, Color]] = ()
    ) -> None:
        """Add a picture.

        Args:
            picture: of the width that ``choose_width`` gives; one too tall is cut off.
            caption: such as the name of its file.
            counts: what is found, such as "12 cell", each with the color of its boxes; they stand
                below as far as they fit.
        """
        picture = picture[:_HEIGHT]
        cell = np.full((_HEIGHT + _CAPTION, _WIDTH, 3), _PAPER, np.uint8)
        _paste(cell, picture, (_WIDTH - picture.shape[1]) // 2, (_HEIGHT - len(picture)) // 2)
        text = render_label(caption, "", _TEXT_SIZE, _PAPER, _WIDTH)
        _paste(cell, text, (_WIDTH - text.shape[1]) // 2, _HEIGHT + 2)
        chips = [render_label(count, "", _TEXT_SIZE, color, _WIDTH) for count, color in counts]
        left = max(0, _WIDTH - sum(chip.shape[1] + _BETWEEN for chip in chips)) // 2
        for chip in chips:
            if left + chip.shape[1] > _WIDTH:
                break
            _paste(cell, chip, left, _HEIGHT + 22)
            left += chip.shape[1] + _BETWEEN
        self._cells.append(cell)
        if len(self._cells) == _COLUMNS * _ROWS:
            self._finish_sheet()

    def _finish_sheet(self) -> None:
        if not self._cells:
            return
        columns = min(_COLUMNS, len(self._cells))
        rows = -(-len(self._cells) // columns)
        right, down = _WIDTH + _GAP, _HEIGHT + _CAPTION + _GAP
        sheet = np.full((rows * down + _GAP, columns * right + _GAP, 3), _PAPER, np.uint8)
        for position, cell in enumerate(self._cells):
            row, column = divmod(position, columns)
            _paste(sheet, cell, column * right + _GAP, row * down + _GAP)
        self._cells.clear()
        self._written += 1
        self._write(self._folder / f"{self._stem}_{self._written}.jpg", sheet)


def _paste(canvas: np.ndarray, picture: np.ndarray, left: int, top: int) -> None:
    height, width = picture.shape[:2]
    canvas[top : top + height, left : left + width] = picture
