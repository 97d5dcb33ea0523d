"""Write the diagnoses of ``doctor.py`` for people: a table, and a page for each file."""

from __future__ import annotations

import os
import shlex
import shutil
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from resnext_det.files import escape_controls
from resnext_det.weights.doctor import compare

_NARROWEST, _WIDEST = 40, 120
_PAGE = 96  # columns, where there are more
_COLORS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
# Signs where letters beyond ASCII can be shown and where they cannot, their color and meaning.
_MARKS = {
    "good": ("✓", "+", "green", "usable"),
    "look": ("!", "!", "yellow", "usable, see its notes"),
    "bad": ("✗", "x", "red", "not usable"),
}
_SIGNS = {
    "known": ("●", "=", "green", "known"),
    "usual": ("○", "~", "yellow", "usual for such files, and not known of this one"),
    "unknown": ("?", "?", "red", "not known"),
}
_LABEL, _VALUE = 16, 26  # columns of a page
_TITLES = ("", "file", "network", "format", "size", "dtype", "images")
# Columns that a narrow console shortens, with the least that is left, or leaves out.
_SHRINK = ((1, 12), (5, 0), (3, 0), (4, 0))
_INLINE = 44  # columns that the last one needs beside the others; it is a line of its own else
_DOES = {
    "convert": "take this network out of the file",
    "train": "train a detector that starts from it",
    "evaluate": "evaluate the detector",
    "predict": "detect",
    "classify": "test the classifier",
}
_NORMS = {
    "statistics": "with mean and variance",
    "folded": "folded into scale and bias",
    "none": "without statistics",
}

Cell = tuple[str, str]  # a text and its color


class Look(NamedTuple):
    """What a console can show.

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

    def sign(self, kinds: Mapping[str, tuple[str, str, str, str]], kind: str) -> Cell:
        """Choose a sign, with its color."""
        return kinds[kind][0 if self.unicode else 1], kinds[kind][2]

    def fit(self, cell: Cell, width: int, *, right: bool = False) -> str:
        """Cut a text to a width, from its start, or pad it; and color it."""
        text, color = cell
        dots = "…" if self.unicode else "..."
        if _measure(text) > width:
            while text and _measure(text) > width - len(dots):
                text = text[1:]
            text = dots[:width] + text
        blank = " " * (width - _measure(text))
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


def format_diagnoses(diagnoses: Sequence[Mapping[str, Any]], look: Look) -> str:
    """Write a page for one file; for several a table, and a short page for each usable one."""
    if len(diagnoses) == 1:
        pages = [_write_page(diagnoses[0], look)]
    else:
        usable = [found for found in diagnoses if found["usable"]]
        pages = [_write_table(diagnoses, look)]
        pages += [_write_page(found, look, short=True) for found in usable]
    return "\n\n".join("\n".join(line.rstrip() for line in page) for page in pages)


def _write_table(diagnoses: Sequence[Mapping[str, Any]], look: Look) -> Iterator[str]:
    rows = [_make_row(found, look) for found in diagnoses]
    titles = [(title, "dim") for title in _TITLES]
    widths = [max(_measure(text) for text, _ in column) for column in zip(titles, *rows)]
    for column, least in _SHRINK:
        beyond = sum(map(_take, widths)) - look.width
        if beyond > 0:
            widths[column] = max(least, widths[column] - beyond) if least else 0
    used = sum(map(_take, widths))
    inline = look.width - used >= _INLINE
    indent = used if inline else 4

    def join(cells: Sequence[Cell]) -> str:
        return "".join(
            look.fit(cell, width, right=_TITLES[column] == "size") + "  "
            for column, (cell, width) in enumerate(zip(cells, widths))
            if width
        )

    yield join(titles) + look.paint("for detection", "dim") * inline
    yield look.paint(("─" if look.unicode else "-") * look.width, "dim")
    for found, row in zip(diagnoses, rows):
        told = [look.paint(line, "dim") for line in _wrap(_sum_up(found), look.width - indent)]
        yield join(row) + (told.pop(0) if inline else "")
        yield from (" " * indent + line for line in told)
    yield ""
    yield from _write_legend(diagnoses, look)
    for sentence in compare(diagnoses):
        yield ""
        yield from _wrap(escape_controls(sentence), look.width)


def _take(width: int) -> int:
    """Count the columns that one of a table takes, with the space behind it."""
    return width + 2 if width else 0


def _make_row(found: Mapping[str, Any], look: Look) -> list[Cell]:
    images = found["preprocessing"]
    sign, color = look.sign(_SIGNS, _judge_fact(found, "channel_order"))
    order = {None: "", "L": " gray"}.get(images and images["channel_order"])
    if order is None:
        order = f" {images['channel_order']}"
    network = f"{found['architecture'] or ''}{' deformable' if found['deformable'] else ''}"
    return [
        look.sign(_MARKS, _judge(found)),
        (escape_controls(found["file"]), "bold"),
        (network, ""),
        (found["format"] or "", ""),
        (_format_size(found["bytes"]), ""),
        (found["dtype"] or "", ""),
        (f"{sign}{order}" if found["architecture"] else "", color),
    ]


def _write_legend(diagnoses: Sequence[Mapping[str, Any]], look: Look) -> Iterator[str]:
    """Explain the signs that were used."""
    facts = [_judge_fact(found, "channel_order") for found in diagnoses if found["architecture"]]
    for title, kinds, used in (
        ("", _MARKS, [_judge(found) for found in diagnoses]),
        ("images ", _SIGNS, facts),
    ):
        told = [
            f"{look.paint(*look.sign(kinds, kind))} {kinds[kind][3]}"
            for kind in kinds
            if kind in used
        ]
        if told:
            yield look.paint(title, "dim") + "   ".join(told)


def _write_page(found: Mapping[str, Any], look: Look, *, short: bool = False) -> Iterator[str]:
    """Write all that is known of a file; or, shortly, its images, notes and how to train."""
    look = look._replace(width=min(look.width, _PAGE))
    mark = look.paint(*look.sign(_MARKS, _judge(found)))
    yield f"{mark} {look.paint(escape_controls(found['file']), 'bold')}"
    if found["error"] is None:
        yield from _indent(_introduce(found), look.width, 2)
        if not short:
            yield ""
        for label, value, fact in _list_facts(found):
            if not short or fact in (found["preprocessing"] or ("preprocessing",)):
                yield from _write_fact(label, value, fact, found, look)
    if not short or found["warnings"]:
        yield from _write_heading("for detection", look)
    if found["usable"] and not short:
        yield from _write_note("good", _tell_what_is_there(found), look)
    for kind, mark in (("faults", "bad"), ("warnings", "look")):
        for text in found[kind]:
            yield from _write_note(mark, text, look)
    if found["usable"]:
        yield from _write_heading("configuration", look)
        yield from _indent(_describe_config(found), look.width, 4)
        yield from (f"      {key} {value}" for key, value in found["overrides"].items())
    for name, command in found["commands"].items():
        if not short or name in ("convert", "train"):
            yield from _write_heading(_DOES[name], look)
            yield from _wrap_command(command, look.width)


def _write_heading(text: str, look: Look) -> tuple[str, str]:
    return "", f"  {look.paint(text, 'bold')}"


def _write_note(kind: str, text: str, look: Look) -> Iterator[str]:
    first, *others = _wrap(escape_controls(text), look.width - 6)
    yield f"    {look.paint(*look.sign(_MARKS, kind))} {first}"
    yield from (f"      {line}" for line in others)


def _introduce(found: Mapping[str, Any]) -> str:
    if not found["architecture"]:
        return "no ResNeXt or ResNet with bottleneck blocks"
    classes = f" of {found['classes']} classes" if found["classes"] else ""
    return f"{found['architecture']}, a {found['kind']}{classes}"


def _tell_what_is_there(found: Mapping[str, Any]) -> str:
    end = "res4" if "res5" in found["lacks"] else "res5"
    text = f"stem to {end} are there and their numbers are finite"
    return text + "; its classifier is not needed" * (found["kind"] == "classifier")


def _list_facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """List label, value and name of each fact; the name is "" where it needs no origin."""
    yield "format", found["format"], ""
    yield "size", f"{_format_size(found['bytes'])}, {found['dtype']}".removeprefix(", "), ""
    counts = f"{found['parameters'] / 1e6:.1f} M"
    if found["backbone_parameters"] != found["parameters"]:
        counts += f", {found['backbone_parameters'] / 1e6:.1f} M of them the backbone's"
    yield "parameters", counts, ""
    if found["architecture"]:
        yield "multiply-adds", f"{found['multiply_adds'] / 1e9:.2f} G at 224x224", ""
    if found["deformable"]:
        yield "deformable", ", ".join(f"{k} {v}" for k, v in found["deformable"].items()), ""
    if found["class_names"]:
        yield "classes", ", ".join(found["class_names"]), ""
    images = found["preprocessing"] if found["architecture"] else None
    if images:
        yield "channel order", images["channel_order"].replace("L", "gray"), "channel_order"
        for key in ("mean", "std"):
            yield key, " ".join(f"{number:.6g}" for number in images[key]), key
        stride = "in the 1x1 convolution" if images["stride_in_1x1"] else "in the 3x3 convolution"
        yield "stride", stride, "stride_in_1x1"
    elif found["architecture"]:
        yield "preprocessing", "", "preprocessing"
    yield "batch norms", _NORMS[found["batch_norm"]], "batch_norm"
    metadata = {**found["metadata"], "license": found["metadata"].get("license", "")}
    yield from ((key, text, key) for key, text in metadata.items())
    if found["versions"]:
        yield "trained with", ", ".join(" ".join(each) for each in found["versions"].items()), ""
    for name, numbers in found["metrics"].items():
        told = (f"{key} {value:.1f}" for key, value in numbers.items() if "-" not in key)
        yield f"on {name}", ", ".join(told), ""
    if found["left_out"]:
        yield "left out", f"{found['left_out']} names of heads, which a backbone does not need", ""


def _write_fact(
    label: str, value: str, fact: str, found: Mapping[str, Any], look: Look
) -> Iterator[str]:
    """Write a fact with where it is from, behind it or, where that is too long, below."""
    value, origin = escape_controls(value), found["origins"].get(fact, "")
    kind = _judge_fact(found, fact) if value else "unknown"
    tail = ""
    if fact and not (value and not origin) and not (fact == "license" and kind == "usual"):
        words = {"known": f"from {origin}", "usual": origin, "unknown": "not known"}[kind]
        tail = f"{look.paint(*look.sign(_SIGNS, kind))} {words}"
    indent = " " * (_LABEL + 2)
    first, *others = _wrap(value, look.width - len(indent))
    blank = " " * (max(_VALUE, _measure(first)) + 2 - _measure(first))
    behind = not others and len(indent) + _measure(first + blank + origin) + 7 <= look.width
    head = f"  {look.fit((escape_controls(label), 'dim'), _LABEL)}"
    yield head + (tail if not value else first + blank + tail if behind else first)
    yield from (indent + line for line in others)
    if value and tail and not behind:
        yield indent + tail


def _judge(found: Mapping[str, Any]) -> str:
    """Choose the mark of a file."""
    if not found["usable"]:
        return "bad"
    return "look" if found["warnings"] or found["lacks"] else "good"


def _judge_fact(found: Mapping[str, Any], fact: str) -> str:
    """Tell whether a fact is known, usual or unknown."""
    if fact in (found["usual"] or ()):
        return "usual"
    has = found["preprocessing"] or {}
    return "known" if fact in has or fact in (found["metadata"] or {}) else "unknown"


def _sum_up(found: Mapping[str, Any]) -> str:
    """Say in a line what detection can do with a file."""
    if not found["usable"]:
        return escape_controls("; ".join(found["faults"]))
    parts = [_describe_config(found)]
    if found["kind"] == "detector":
        classes = f" of {found['classes']} classes" if found["classes"] else ""
        averages = [each["AP"] for each in found["metrics"].values() if "AP" in each]
        ap = f", AP {averages[0]:.1f}" if averages else ""
        parts.insert(0, f"a detector{classes}{ap}")
    lacks = [word for word in found["lacks"] if word != "configuration"]
    if lacks:
        parts.append(f"lacks {', '.join(lacks)}")
    return "; ".join(parts)


def _describe_config(found: Mapping[str, Any]) -> str:
    if found["config_file"] is None:
        return "its own configuration, which the file holds"
    count = len(found["overrides"])
    changes = f" with {count} change{'s' * (count > 1)}" if count else ""
    return f"{escape_controls(found['config_file'])}{changes}"


def _format_size(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"


def _wrap_command(command: str, width: int) -> Iterator[str]:
    """Break a line for a shell before its flags and settings, with backslashes."""
    words, groups = shlex.split(command), []
    for word in words:
        new = word.startswith("--") or (word[:1].isupper() and ("." in word or "_" in word))
        if new or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    line = "    "
    for group in groups:
        text = shlex.join(group)
        if line.strip() and _measure(f"{line}{text} \\") > width:
            yield f"{line}\\"
            line = "        "
        line += f"{text} "
    yield line


def _indent(text: str, width: int, count: int) -> Iterator[str]:
    return (" " * count + line for line in _wrap(text, width - count))


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _measure(text: str) -> int:
    """Count the columns of a text: East Asian letters take two, accents none."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )
