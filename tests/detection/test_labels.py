"""Labels: none hides another, texts fit, and letters of any script are drawn."""

from __future__ import annotations

import itertools
import re

import cv2
import numpy as np
import pytest
from matplotlib.ft2font import FT2Font
from PIL import features

from resnext_det.detection import labels
from resnext_det.detection.drawing import choose_labels
from resnext_det.detection.labels import place_labels, render_label
from resnext_det.evaluation.lettering import find_font

WHITE = (255, 255, 255)


def overlap(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Tell whether two of (left, top, width, height) have a pixel in common."""
    return all(
        first[i] < second[i] + second[i + 2] and second[i] < first[i] + first[i + 2] for i in (0, 1)
    )


@pytest.mark.parametrize("seed", range(4))
def test_no_label_hides_another(seed: int) -> None:
    """A hundred labels at crowded boxes: those that are placed stay apart and in the picture."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(-20, 280, (100, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 90, (100, 2))], 1)
    sizes = np.stack([rng.integers(20, 80, 100), np.full(100, 15)], 1)
    order = rng.permutation(100).tolist()
    places = place_labels(sizes, boxes, order, (300, 200))
    assert places == place_labels(sizes, boxes, order, (300, 200))
    assert places[order[0]] is not None
    placed = [(*place, *size) for place, size in zip(places, sizes.tolist(), strict=True) if place]
    assert 20 < len(placed) < 100
    for left, top, width, height in placed:
        assert 0 <= left <= 300 - width and 0 <= top <= 200 - height
    assert not any(overlap(*pair) for pair in itertools.combinations(placed, 2))


def test_the_most_important_label_has_the_choice() -> None:
    boxes = np.array([[10, 30, 60, 60], [10, 30, 60, 60]])
    sizes = np.array([[30, 10], [30, 10]])
    assert place_labels(sizes, boxes, [0, 1], (100, 100))[0] == (10, 20)  # above, on the left
    assert place_labels(sizes, boxes, [1, 0], (100, 100))[1] == (10, 20)
    both = np.array([[0, 0, 40, 12], [0, 0, 40, 12]])  # the picture holds one label
    assert place_labels(sizes, both, [1, 0], (40, 12)) == [None, (0, 0)]
    assert place_labels(sizes, both, [1, 0], (29, 12)) == [None, None]


def test_a_label_does_not_hide_a_small_box() -> None:
    boxes = np.array([[10, 30, 90, 90], [12, 21, 20, 28]])  # the second lies above the first
    place, _ = place_labels(np.array([[30, 10], [0, 0]]), boxes, [0, 1], (100, 100))
    assert place is not None and not overlap((*place, 30, 10), (12, 21, 8, 7))


def test_a_long_name_is_shortened_and_its_score_is_kept() -> None:
    name, ending = "hematology analyzer, third generation", "87%"
    whole = render_label(name, ending, 12, WHITE, 1000)
    for room in (200, 120, 90):
        short = render_label(name, ending, 12, WHITE, room)
        assert room - 12 < short.shape[1] <= room < whole.shape[1]
        assert short.shape[0] == whole.shape[0]
    assert re.fullmatch(r"hema\w*\.\..*ion", labels._shorten(name, 12, 80))
    assert labels._shorten(name, 12, 20) == ""
    score = render_label("", ending, 12, WHITE, 60)
    assert (render_label(name, ending, 12, WHITE, 45) == score).all()
    assert render_label(name, ending, 12, WHITE, 9).size == 0
    assert render_label("", "", 12, WHITE, 99).size == 0


def test_letters_stand_out_on_any_ground() -> None:
    for color in (WHITE, (0, 0, 0), (10, 240, 30), (200, 20, 20)):
        label = render_label("cell", "", 14, color, 100).reshape(-1, 3).astype(int)
        assert np.abs(label - color).sum(-1).max() > 250


def test_a_font_that_has_the_letters_is_found() -> None:
    for text in ("caf\u00e9", "\u043a\u043b\u0435\u0442\u043a\u0430", "\u03b1\u03b2", "a"):
        path = find_font(text)
        assert path is not None and path.name == "DejaVuSans.ttf"
        assert set(text) <= set(map(chr, FT2Font(str(path)).get_charmap()))
    path = find_font("\u7ea2\u7ec6\u80de")  # Chinese: where a font is installed
    assert path is None or 0x7EA2 in FT2Font(str(path)).get_charmap()
    assert find_font("\U000e1234") is None  # no letter
    alpha, beta = (render_label(letter, "", 20, WHITE, 99) for letter in "\u03b1\u03b2")
    assert alpha.shape != beta.shape or (alpha != beta).any()


NAMES = ("cell", "what?", "a\nb", "\u0e44\u0e17\u0e22 \U000e1234", "caf\u00e9")
LATIN, CHINESE, HEBREW = "caf\u00e9", "\u7ea2\u7ec6\u80de", "\u05e9\u05dc\u05d5\u05dd"


def test_what_no_font_can_draw_is_called_by_its_number(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_labels(NAMES) == ["cell", "what?", "class 2", "class 3", LATIN]
    (told,) = caplog.messages
    assert "can draw 2 of 5 class names, such as 'a\\nb'; pictures have the class's number" in told
    caplog.clear()
    assert choose_labels([LATIN, "cafe\u0301"]) == [LATIN, LATIN]
    assert choose_labels([HEBREW]) == [HEBREW if features.check("raqm") else "class 0"]


def test_without_such_a_font_opencv_draws_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 5 has Latin and Chinese letters, version 4 ASCII alone; Hebrew needs Pillow."""
    monkeypatch.setattr(labels, "_load_font", lambda text, size: None)
    for cached in (labels._render_text, render_label):
        cached.cache_clear()
    try:
        assert render_label("cell", " 87%", 14, WHITE, 100).size
        if int(cv2.__version__.split(".")[0]) >= 5:
            assert choose_labels([LATIN, CHINESE, HEBREW]) == [LATIN, CHINESE, "class 2"]
        put_text = cv2.putText
        monkeypatch.setattr(
            cv2,
            "putText",
            lambda image, text, *rest: put_text(image, re.sub("[^ -~]", "?", text), *rest),
        )
        assert choose_labels([LATIN, CHINESE, "cell"]) == ["class 0", "class 1", "cell"]
    finally:
        for cached in (labels._render_text, render_label):
            cached.cache_clear()
