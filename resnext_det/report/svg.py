"""Make SVG for a page of what is drawn with matplotlib: text stays text, and ids are unique."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from markupsafe import Markup

from resnext_det.files import escape_controls
from resnext_det.report.page import render_fragment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Size = tuple[int, int]
"""Width and height in pixels of the page."""

GRAY = "#5b636c"
"""Of axes and their labels."""

_WIDE = 700  # pixels, from which a chart scrolls on a narrow screen rather than shrink

_TEMPLATE = """\
<figure><div class="chart{{ " wide" if wide }}"{% if wide %} tabindex="0"{% endif %}>{{ svg }}</div>
{%- if caption %}<figcaption>{{ caption }}</figcaption>{% endif %}</figure>"""


def render_chart(
    draw: Callable[[Axes], None], size: Size, alt: str, caption: str | Markup
) -> Markup:
    """Draw a chart, and make HTML of it.

    Args:
        draw: takes the axes of a new figure.
        alt: what the chart shows, for those who do not see it; once a page, as ids follow from it.
        caption: stands below; text is escaped, HTML kept.
    """
    from matplotlib import rc_context, rcdefaults, rcParams
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": alt,  # ids are the same every time, and others in another chart
        "text.usetex": False,
        "font.size": 11,
        "hatch.linewidth": 0.8,
        **{f"axes.{key}": GRAY for key in ("edgecolor", "labelcolor")},
        **{f"{axis}tick.{key}": GRAY for axis in "xy" for key in ("color", "labelcolor")},
        **{"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True},
    }
    buffer = io.StringIO()
    with rc_context(), warnings.catch_warnings():
        rcdefaults()  # what a user's matplotlibrc says is of his own figures
        rcParams.update(style)
        warnings.filterwarnings("ignore", "Glyph")  # the browser's fonts have them
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        labels = (axes.xaxis.label, axes.yaxis.label)
        for text in labels:
            text.set_text(escape_controls(text.get_text()))
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), *labels):
            text.set_parse_math(False)
        figure.savefig(buffer, format="svg")
    return render_fragment(
        _TEMPLATE,
        svg=_clean(buffer.getvalue(), size, alt),
        wide=size[0] > _WIDE,
        caption=caption if isinstance(caption, Markup) else escape_controls(caption),
    )


def _clean(text: str, size: Size, alt: str) -> Markup:
    """Keep of a file of SVG what a page needs: no prolog, metadata, styles or ids of groups."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' d="[^"]*"', lambda found: _round(found[0]), text)
    text = re.sub(r"\n\s*", "\n", text)
    begin = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" aria-label="{2}">'
    ).format(*size, escape_controls(alt))
    return begin + Markup(text[text.index(">") + 1 :].strip())


def _round(path: str) -> str:
    """Round the coordinates of a path to hundredths of a pixel."""
    return re.sub(r"\s+", " ", re.sub(r"(\.\d\d)\d+", r"\1", path))
