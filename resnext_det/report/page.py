"""Make one HTML page of sections: it needs no network, no scripts, and opens from a mail."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from resnext_det.files import escape_controls

_TEMPLATES = Path(__file__).with_name("templates")
_CODE = re.compile(r"((?<![\w.-])(?:[A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)+|--[a-z]+(?:-[a-z]+)*))")


@dataclass(frozen=True)
class Section:
    """Hold a part of a page.

    Attributes:
        title: its heading.
        anchor: its name in the page's address, in ASCII letters and hyphens, once a page.
        body: HTML, as the functions of this package give it.
    """

    title: str
    anchor: str
    body: Markup


def render_page(title: str, sections: Sequence[Section], lead: str | Markup = "") -> str:
    """Render a page, with its contents listed at the top.

    Args:
        title: what the page is about; text is escaped.
        sections: the most important first.
        lead: the summary above everything: text, or HTML as ``Markup``.

    Raises:
        ValueError: two sections have the same anchor.
    """
    anchors = [section.anchor for section in sections]
    if twice := {anchor for anchor in anchors if anchors.count(anchor) > 1}:
        raise ValueError(f"two sections have the anchor {min(twice)!r}; give each one of its own")
    template = _load_templates().get_template("page.html")
    return template.render(
        title=escape_controls(title),
        lead=lead,
        sections=[replace(each, title=escape_controls(each.title)) for each in sections],
        version=_find_version(),
    )


def render_fragment(template: str, **values: object) -> Markup:
    """Render HTML of a Jinja2 template given as text; every value that is no ``Markup`` is escaped.

    >>> render_fragment("<p>{{ name }}</p>", name="<cell>")
    Markup('<p>&lt;cell&gt;</p>')
    """
    return Markup(_load_templates().from_string(template).render(**values))


def join(parts: Sequence[Markup]) -> Markup:
    """Join pieces of HTML, one a line."""
    return Markup("\n").join(parts)


def fold(summary: str, body: Markup) -> Markup:
    """Put what is looked up seldom behind a line that opens it, also before printing."""
    return render_fragment(
        "<details><summary>{{ summary }}</summary>\n{{ body }}\n</details>",
        summary=escape_controls(summary),
        body=body,
    )


def place_beside(parts: Sequence[Markup]) -> Markup:
    """Put charts or tables beside each other, and below each other on a narrow screen."""
    return Markup('<div class="beside">\n{}\n</div>').format(join(parts))


def write_paragraph(text: str | Markup, *, note: bool = False) -> Markup:
    """Write a paragraph; a note is smaller and gray. Text is escaped, HTML kept."""
    shown = text if isinstance(text, Markup) else escape_controls(text)
    return Markup('<p class="note">{}</p>' if note else "<p>{}</p>").format(shown)


def mark_code(text: str) -> Markup:
    """Escape a text, and set its keys of a configuration and its flags as code.

    >>> mark_code("Raise SOLVER.MAX_ITER.")
    Markup('Raise <code>SOLVER.MAX_ITER</code>.')
    """
    parts = _CODE.split(escape_controls(text))  # texts and pieces of code in turns
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )


def write_heading(text: str) -> Markup:
    """Write a heading within a section."""
    return Markup("<h3>{}</h3>").format(escape_controls(text))


@cache
def _load_templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _find_version() -> str:
    try:
        return version("resnext-det")
    except PackageNotFoundError:  # a clone that is not installed
        return ""
