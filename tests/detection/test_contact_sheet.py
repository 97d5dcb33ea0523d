"""Contact sheets: every image once, in order, on as few sheets as it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnext_det.detection.contact_sheet import ContactSheets


def test_fifty_images_take_two_sheets() -> None:
    written: dict[str, np.ndarray] = {}
    with ContactSheets(Path("out"), lambda path, sheet: written.update({str(path): sheet})) as each:
        for number in range(50):
            image = np.full((300 + number, 400, 3), number, np.uint8)
            width = each.choose_width(image)
            each.add(
                np.full((width * len(image) // 400, width, 3), number, np.uint8),
                f"{number}",
                [("9 cell", (255, 0, 0))],
            )
    assert list(written) == ["out/contact_sheet_1.jpg", "out/contact_sheet_2.jpg"]
    first, second = written.values()
    centers = first[128 :: 240 + 42 + 8, 158 :: 300 + 8]
    assert centers[:8, :6, 0].ravel().tolist() == list(range(48))
    assert second.shape == (290 + 8, 2 * 308 + 8, 3)
    assert second[128, 158, 0] == 48 and second[128, 466, 0] == 49
    assert (first[248:270, 8:308] < 128).any()  # the caption
    assert (first[270:290, 8:308] == (255, 0, 0)).all(-1).sum() > 200


def test_extreme_images_fit_and_no_picture_is_overwritten() -> None:
    written: list[Path] = []
    taken = [Path("Contact_Sheet.png")]
    with ContactSheets(Path("out"), lambda path, _: written.append(path), taken) as sheets:
        for height, width in ((1, 5000), (5000, 1), (1, 1)):
            chosen = sheets.choose_width(np.zeros((height, width, 3), np.uint8))
            tall = max(1, round(height * chosen / width))
            counts = [("a name \u00e9" * 20, (0, 0, 0)), ("9 cell", (255, 0, 0))] * 9
            sheets.add(np.zeros((tall, chosen, 3), np.uint8), counts[0][0], counts)
    assert written == [Path("out/contact_sheet__1.jpg")]
