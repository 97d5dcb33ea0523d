"""Format tables in HTML, with numbers aligned."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

from markupsafe import Markup

from resnext_det.files import escape_controls
from resnext_det.report.page import render_fragment

Cell = str | int | float | Markup | None

_NUMBER = re.compile(r"[+\u2212-]?\d[\d.,]*( ?%)?( to [+\u2212-]?\d[\d.,]*)?")
_MISSING = "\u2013"

_TEMPLATE = """\
<div class="table" tabindex="0" role="region" aria-label="{{ caption or headers | join(', ') }}">
<table>
{% if caption %}
<caption>{{ caption }}</caption>
{% endif %}
<thead><tr>
{% for text in headers %}
<th scope="col"{% if numeric[loop.index0] %} class="number"{% endif %}>{{ text }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr{% if loop.index0 in strong %} class="strong"{% endif %}>
{%- for text in row -%}
{% if loop.first %}<th scope="row"{% if numeric[0] %} class="number"{% endif %}>{{ text }}</th>
{%- else %}<td{% if numeric[loop.index0] %} class="number"{% endif %}>{{ text }}</td>{% endif %}
{%- endfor -%}
</tr>
{% endfor %}
</tbody>
</table>
</div>"""


def format_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    caption: str = "",
    *,
    digits: int = 1,
    strong: Collection[int] = (),
) -> Markup:
    """Format a table, whose first column names the rows; it scrolls where it is too wide.

    A column of numbers alone, or of texts such as "12.5 to 14.0", is aligned to the right.

    Args:
        rows: a cell a header. Floats get ``digits`` decimals, integers commas between thousands,
            None and nan a dash; text is escaped, HTML kept.
        caption: what the table shows.
        strong: the rows that are bold, such as that of a total.

    Raises:
        ValueError: a row has another number of cells than there are headers.
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(
                f"a row has {len(row)} cells for {len(headers)} headers; give one a header"
            )
    columns = list(zip(*rows)) or [()] * len(headers)
    return render_fragment(
        _TEMPLATE,
        headers=[escape_controls(text) for text in headers],
        rows=[[format_cell(cell, digits) for cell in row] for row in rows],
        numeric=[_holds_numbers(column) for column in columns],
        caption=escape_controls(caption),
        strong=set(strong),
    )


def format_cell(cell: Cell, digits: int = 1) -> str | Markup:
    """Format a cell: a float with decimals, an integer with commas between thousands.

    >>> format_cell(12345)
    '12,345'
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return _MISSING
    if isinstance(cell, Markup):
        return cell
    if isinstance(cell, str):
        return escape_controls(cell)
    text = f"{cell:,.{digits}f}" if isinstance(cell, float) else f"{cell:,}"
    return text.replace("-", "\u2212")


def format_interval(low: float, high: float, digits: int = 1) -> str:
    """Format an interval, such as "12.5 to 14.0"; a dash where it is not defined."""
    if math.isnan(low) or math.isnan(high):
        return _MISSING
    return f"{format_cell(float(low), digits)} to {format_cell(float(high), digits)}"


def _holds_numbers(cells: Sequence[Cell]) -> bool:
    given = [cell for cell in cells if cell is not None and cell not in ("", _MISSING)]
    return bool(given) and all(
        _NUMBER.fullmatch(cell) if isinstance(cell, str) else True for cell in given
    )
