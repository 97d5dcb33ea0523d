"""The parts of a page: HTML that is well formed whatever the names, charts, tables, thumbnails."""

from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest
from markupsafe import Markup, escape
from matplotlib import rc_context

from resnext_det.report.charts import Line, draw_bars, draw_heatmap, draw_histogram, draw_lines
from resnext_det.report.page import (
    Section,
    fold,
    join,
    mark_code,
    place_beside,
    render_page,
    write_paragraph,
)
from resnext_det.report.pictures import embed_image, place_pictures, shrink
from resnext_det.report.tables import format_cell, format_interval, format_table
from tests.report.helpers import check_page

NASTY = '<b>"x" & $y_1$</b>\x1b[31m'
SHOWN = '<b>"x" & $y_1$</b>\\x1b[31m'


def render(*bodies: Markup) -> str:
    sections = [Section(f"{NASTY} {i}", f"part-{i}", body) for i, body in enumerate(bodies)]
    return render_page(NASTY, sections, write_paragraph(NASTY))


def test_texts_of_users_are_no_html() -> None:
    charts = [
        draw_lines(
            [Line(NASTY, [0, 1], [1, 2]), Line("_b", [0, 1], [2, 1])], x_label=NASTY, alt="a"
        ),
        draw_bars([NASTY, "$"], {NASTY: [1.0, np.nan], "two": [2.0, -1.0]}, x_label="x", alt="b"),
        draw_histogram({NASTY: [1, 2, 2, 40], "t": [3]}, x_label="x", alt="c", log_x=True),
        draw_heatmap(np.eye(2), [NASTY, "b"], ["a", NASTY], x_label="x", y_label="y", alt=NASTY),
    ]
    table = format_table([NASTY, "n"], [[NASTY, 1]], NASTY)
    image = embed_image(np.zeros((4, 4, 3), np.uint8), NASTY, caption=NASTY)
    html = render(place_beside(charts), table, place_pictures([image]), fold(NASTY, table))
    page = check_page(html)
    assert "<b>" not in html and "\x1b" not in html
    assert page.text.count(SHOWN) >= 14
    assert page.images == [SHOWN]


def test_charts_are_text_and_the_same_every_time() -> None:
    def draw(alt: str) -> Markup:
        lines = [Line("up", [0, 1, 2], [0, 1, np.nan], band=([0, 1, 1], [1, 2, 2]))]
        lines += [Line("", [0, 2], [1, 0], quiet=True), Line("down", [0, 2], [2, 0])]
        return draw_lines(lines, x_label="x", y_label="y", alt=alt, marks={"here": 1.5})

    assert draw("one") == draw("one")
    page = check_page(render(join([draw("one"), draw("two")])))  # no id stands twice
    for word in ("up", "down", "here"):
        assert page.text.count(word) == 2
    ids = re.findall(r'id="([^"]+)"', draw("one"))
    assert all(f"#{name}" in draw("one") for name in ids)


def test_settings_of_a_users_matplotlib_change_nothing() -> None:
    chart = draw_bars(["a"], {"AP": [1.0]}, x_label="AP", alt="AP")
    with rc_context({"font.size": 40, "axes.facecolor": "black", "savefig.bbox": "tight"}):
        assert draw_bars(["a"], {"AP": [1.0]}, x_label="AP", alt="AP") == chart


def test_bars_end_where_their_values_do() -> None:
    """Compare the lengths of drawn bars with the values."""
    svg = draw_bars(["a", "b"], {"n": [10.0, 40.0]}, x_label="x", alt="bars")
    paths = re.findall(r' d="M ([\d.]+) [\d.]+ L ([\d.]+) ', svg)
    widths = [float(end) - float(begin) for begin, end in paths]
    assert any(
        first and second == pytest.approx(4 * first, rel=1e-2)
        for first in widths
        for second in widths
    )


def test_a_heatmap_has_its_values() -> None:
    values = np.array([[5, 0], [123, 7]])
    page = check_page(
        render(draw_heatmap(values, "ab", "cd", x_label="x", y_label="y", alt="matrix"))
    )
    words = page.text.split()
    assert words.count("123") == words.count("7") == 1


def test_nothing_can_be_drawn() -> None:
    check_page(
        render(
            draw_lines([], x_label="x", alt="a"),
            draw_bars([], {"n": []}, x_label="x", alt="b"),
            draw_histogram({"n": []}, x_label="x", alt="c", log_x=True),
            draw_heatmap(np.zeros((1, 1)), "a", "b", x_label="x", y_label="y", alt="d"),
            format_table(["a"], []),
        )
    )


def test_numbers_are_aligned_and_texts_are_not() -> None:
    rows = [["a", 12345, 1.25, "1.0 to 2.0", "1 day"], ["b", None, float("nan"), "\u2013", "2"]]
    html = format_table(["name", "n", "x", "interval", "text"], rows, strong=[1])
    kinds = re.findall(r"<th scope=\"col\"(.*?)>", html)
    assert ["number" in kind for kind in kinds] == [False, True, True, True, False]
    assert "12,345" in html and "1.2" in html and html.count("\u2013") == 3
    assert html.count('class="strong"') == 1
    with pytest.raises(ValueError, match="a row has 1 cells for 2 headers"):
        format_table(["a", "b"], [["a"]])


def test_cells_are_written_for_readers() -> None:
    assert format_cell(-1.5) == "\u22121.5"
    assert format_cell(np.float64(2.345), 2) == "2.35" or format_cell(2.345, 2) == "2.35"
    assert format_cell(Markup("<i>x</i>")) == Markup("<i>x</i>")
    assert format_interval(-1.0, 2.0) == "\u22121.0 to 2.0"
    assert format_interval(float("nan"), 2.0) == "\u2013"


def test_thumbnails_keep_the_image_within_their_bytes() -> None:
    smooth = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8), (0, 0), 9
    )
    html = embed_image(smooth, "blur", 200)
    data = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (150, 200, 3) and 'width="200"' in html and 'height="150"' in html
    assert np.abs(decoded.astype(int) - shrink(smooth, 200)).mean() < 3
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    for limit in (20_000, 3_000):
        encoded = re.search(r"base64,([^\"]+)", embed_image(noise, "noise", 400, max_bytes=limit))
        assert len(base64.b64decode(encoded[1])) <= limit


def test_keys_and_flags_are_set_as_code() -> None:
    text = "<b> MODEL.RPN.NMS_THRESH 0.7, a.b, COCO, X-50, e.g. --fit-config; INPUT.CROP.ENABLED."
    html = mark_code(text)
    assert re.findall("<code>(.*?)</code>", html) == [
        *("MODEL.RPN.NMS_THRESH", "--fit-config", "INPUT.CROP.ENABLED")
    ]
    assert re.sub("</?code>", "", html) == escape(text)


def test_anchors_stand_once() -> None:
    with pytest.raises(ValueError, match="two sections have the anchor 'a'"):
        render_page("t", [Section("x", "a", Markup()), Section("y", "a", Markup())])
