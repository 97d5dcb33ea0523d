"""Texts in plots: fonts that have their letters are found, other letters become escapes."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure

from resnext_det.evaluation.lettering import set_fonts, shorten
from tests.evaluation.helpers import keep_own_fonts


@pytest.fixture(autouse=True)
def _own_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_own_fonts(monkeypatch)


def install_font(folder: Path, family: str, letters: str, style: str = "Regular") -> None:
    """Make a font whose letters are squares, and let matplotlib know it."""
    names = [".notdef", *(f"letter{index}" for index in range(len(letters)))]
    pen = TTGlyphPen(None)
    for step, point in enumerate([(50, 0), (50, 700), (750, 700), (750, 0)]):
        (pen.lineTo if step else pen.moveTo)(point)
    pen.closePath()
    font = FontBuilder(1000)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:])})
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": style})
    font.setupOS2(usWeightClass=400)
    font.setupPost()
    font.save(folder / f"{family}.ttf")
    font_manager.fontManager.addfont(folder / f"{family}.ttf")


def draw(text: str, path: Path) -> None:
    figure = Figure(figsize=(3, 1))
    figure.text(0.1, 0.5, text, parse_math=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that a glyph is missing
        figure.savefig(path)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_fonts_that_have_the_letters_are_used(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install_font(tmp_path, "One Serif", "红细")
    install_font(tmp_path, "Two Sans", "红细")
    install_font(tmp_path, "Three", "胞")
    before = list(rcParams["font.family"])
    with set_fonts(["红细胞 a", "é"]) as prepare:
        assert rcParams["font.family"] == [*before, "Two Sans", "Three"]
        assert prepare("红细胞 é") == "红细胞 é"
        draw(prepare("红细胞 é"), tmp_path / f"text.{suffix}")
    assert rcParams["font.family"] == before
    assert caplog.messages == []


def test_letters_that_no_font_has_become_escapes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install_font(tmp_path, "One Sans", "红")
    texts = ["红细胞", "a\U000e0061b \n c", "\udcff\x07", "细"]
    with set_fonts(texts) as prepare:
        shown = [prepare(text) for text in texts]
        draw("".join(shown), tmp_path / "text.png")
    assert shown[0] == r"红\u7ec6\u80de" and shown[3] == r"\u7ec6"
    assert shown[1] == "ab c" and shown[2] == r"\udcff\x07"
    (message,) = caplog.messages
    assert message.startswith(
        "no installed font has the letters 细, 胞; the plot shows their codes: install a font that "
    )


def test_texts_of_known_letters_need_no_font(caplog: pytest.LogCaptureFixture) -> None:
    before = list(rcParams["font.family"])
    with set_fonts(["plain", "клетка", "naïve", ""]) as prepare:
        assert rcParams["font.family"] == before
        assert prepare(" клетка  b ") == "клетка b"
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("short", 5, "short"),
        ("abcdefghij", 9, "abc...hij"),
        ("abcdefghijk", 10, "abcd...ijk"),
        ("红细胞红细胞", 12, "红细胞红细胞"),
        ("红细胞红细胞", 11, "红细...细胞"),
    ],
)
def test_long_texts_lose_their_middle(text: str, width: int, shown: str) -> None:
    assert shorten(text, width) == shown
