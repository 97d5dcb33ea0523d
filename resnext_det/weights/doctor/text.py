"""Write the diagnoses of ``diagnosis.py`` for people: a table, and a page for each file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from resnext_det.console import Cell, Look, indent_text, measure, wrap, wrap_command
from resnext_det.files import escape_controls, list_first
from resnext_det.weights.doctor.description import describe_left_out, describe_metrics
from resnext_det.weights.doctor.diagnosis import compare

_PAGE = 96  # columns, where there are more
# Signs where letters beyond ASCII can be shown and where they cannot, their color and meaning.
_MARKS = {
    "good": ("✓", "+", "green", "usable"),
    "look": ("!", "!", "yellow", "usable, see its notes"),
    "bad": ("✗", "x", "red", "not usable"),
}
_SIGNS = {
    "known": ("●", "=", "green", "known"),
    "usual": ("○", "~", "yellow", "usual for such files"),
    "unknown": ("?", "?", "red", "not known"),
}
_LABEL, _VALUE = 16, 26  # columns of a page
_TITLES = ("", "file", "network", "format", "size", "dtype", "images")
# Columns that a narrow console shortens, with the least that is left, or leaves out.
_SHRINK = ((5, 0), (1, 24), (3, 0), (4, 0), (1, 12))
_INLINE = 44  # columns that the last one needs beside the others; it is a line of its own else
_DOES = {
    "convert": "take this network out of the file",
    "train": "train a detector that starts from it",
    "evaluate": "evaluate the detector",
    "predict": "detect",
    "classify": "test the classifier",
}
_LABELS = {
    **{"size_test": "test crop", "resize_test": "resized to"},  # the shorter side, in pixels
    **{"tested_on": "test set", "trained_on": "training set"},
}
_NORMS = {
    "statistics": "with mean and variance",
    "folded": "folded into scale and bias",
    "none": "without statistics",
}

_USUAL = (
    "what is usual for such files is no fact about this one: if it was trained otherwise, say so "
    "by --preprocessing"
)


def format_diagnoses(diagnoses: Sequence[Mapping[str, Any]], look: Look) -> str:
    """Write a page for one file; for several a table, and a short page for each usable one."""
    if len(diagnoses) == 1:
        pages = [_write_page(diagnoses[0], look)]
    else:
        usable = [found for found in diagnoses if found["usable"]]
        pages = [_write_table(diagnoses, look)]
        pages += [_write_page(found, look, short=True) for found in usable]
    return "\n\n".join("\n".join(line.rstrip() for line in page) for page in pages)


def _sign(look: Look, kinds: Mapping[str, tuple[str, str, str, str]], kind: str) -> Cell:
    """Choose a sign, with its color."""
    return kinds[kind][0 if look.unicode else 1], kinds[kind][2]


def _write_table(diagnoses: Sequence[Mapping[str, Any]], look: Look) -> Iterator[str]:
    rows = [_make_row(found, look) for found in diagnoses]
    titles = [(title, "dim") for title in _TITLES]
    widths = [max(measure(text) for text, _ in column) for column in zip(titles, *rows)]
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
        told = [look.paint(line, "dim") for line in wrap(_sum_up(found), look.width - indent)]
        yield join(row) + (told.pop(0) if inline else "")
        yield from (" " * indent + line for line in told)
    yield ""
    yield from _write_legend(diagnoses, look)
    usual = {found["file"] for found in diagnoses if {*(found["usual"] or ())} & {"mean", "std"}}
    for network, needed in compare(diagnoses).items():
        yield ""
        if len(needed) == 1:
            known = usual.isdisjoint(*needed.values())
            condition = "" if known else ", if what is usual for such files is true of them"
            yield from wrap(f"the files of {network} need one preprocessing{condition}", look.width)
            continue
        text = (
            f"the files of {network} differ in the preprocessing that they need: under another's "
        )
        yield from wrap(f"{text}they lose accuracy, and no error says so", look.width)
        for images, files in needed.items():
            names = (f"{PurePath(file).name}{' (usual)' * (file in usual)}" for file in files)
            line = f"{images}: {list_first(names, 4)}"
            yield from indent_text(line, look.width, 4)


def _take(width: int) -> int:
    """Count the columns that one of a table takes, with the space behind it."""
    return width + 2 if width else 0


def _make_row(found: Mapping[str, Any], look: Look) -> list[Cell]:
    images = found["preprocessing"]
    sign, color = _sign(look, _SIGNS, _judge_fact(found, "channel_order"))
    order = {None: "", "L": " gray"}.get(images and images["channel_order"])
    if order is None:
        order = f" {images['channel_order']}"
    network = f"{found['architecture'] or ''}{' deformable' if found['deformable'] else ''}"
    return [
        _sign(look, _MARKS, _judge(found)),
        (escape_controls(found["file"]), "bold"),
        (network, ""),
        (found["format"] or "", ""),
        (_format_size(found["bytes"]), ""),
        ("mixed" if "," in (found["dtype"] or "") else found["dtype"] or "", ""),
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
            f"{look.paint(*_sign(look, kinds, kind))} {kinds[kind][3]}"
            for kind in kinds
            if kind in used
        ]
        if told:
            yield look.paint(title, "dim") + "   ".join(told)


def _write_page(found: Mapping[str, Any], look: Look, *, short: bool = False) -> Iterator[str]:
    """Write all that is known of a file; or, shortly, its images, notes and how to train."""
    look = look._replace(width=min(look.width, _PAGE))
    mark = look.paint(*_sign(look, _MARKS, _judge(found)))
    yield f"{mark} {look.paint(escape_controls(found['file']), 'bold')}"
    if found["error"] is not None:
        yield from indent_text(escape_controls(found["error"]), look.width, 2)
        return
    yield from indent_text(_introduce(found), look.width, 2)
    yield ""
    for label, value, fact in _list_facts(found):
        if not short or fact in (found["preprocessing"] or ("preprocessing",)):
            yield from _write_fact(label, value, fact, found, look)
    if not short or found["warnings"]:
        yield from _write_heading("for detection", look)
    if found["usable"] and not short:
        yield from _write_note("good", _tell_what_is_there(found), look)
        if {*found["usual"]} & {*(found["preprocessing"] or ())}:
            yield from _write_note("usual", _USUAL, look)
    for kind, mark in (("faults", "bad"), ("warnings", "look")):
        for text in found[kind]:
            yield from _write_note(mark, text, look)
    if found["usable"]:
        yield from _write_heading("configuration", look)
        yield from indent_text(_describe_config(found), look.width, 4)
        yield from (f"      {key} {value}" for key, value in found["overrides"].items())
    for name, command in found["commands"].items():
        if not short or name in ("convert", "train"):
            yield from _write_heading(_DOES[name], look)
            yield from wrap_command(command, look.width)


def _write_heading(text: str, look: Look) -> tuple[str, str]:
    return "", f"  {look.paint(text, 'bold')}"


def _write_note(kind: str, text: str, look: Look) -> Iterator[str]:
    first, *others = wrap(escape_controls(text), look.width - 6)
    yield f"    {look.paint(*_sign(look, _MARKS | _SIGNS, kind))} {first}"
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
    if found["architecture"] and found["backbone_parameters"] != found["parameters"]:
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
    if found["architecture"]:
        yield "batch norms", _NORMS[found["batch_norm"]], "batch_norm"
    metadata = {**found["metadata"], "license": found["metadata"].get("license", "")}
    for key, text in metadata.items():
        others = (found["file"], *(metadata[other] for other in metadata if other != key))
        if key in ("name", "page") and text in others:
            continue
        yield _LABELS.get(key, key.replace("_", " ")), text, key
    if found["versions"]:
        yield "trained with", ", ".join(" ".join(each) for each in found["versions"].items()), ""
    for name, numbers in found["metrics"].items():
        yield f"on {name}", describe_metrics(numbers), ""
    if found["left_out"]:
        yield "left out", f"{describe_left_out(found)}, which a backbone does not need", ""
    if found["passed_over"]:
        yield "passed over", f"other networks of the file: {', '.join(found['passed_over'])}", ""
    if found["prefix"]:
        yield "prefix", found["prefix"], ""


def _write_fact(
    label: str, value: str, fact: str, found: Mapping[str, Any], look: Look
) -> Iterator[str]:
    """Write a fact with where it is from, behind it or, where that is too long, below."""
    value, origin = escape_controls(value), found["origins"].get(fact, "")
    kind = _judge_fact(found, fact) if value else "unknown"
    words, sign = "", ""
    if fact and not (value and not origin) and not (fact == "license" and kind == "usual"):
        words = {"known": f"from {origin}", "usual": origin, "unknown": "not known"}[kind]
        sign = look.paint(*_sign(look, _SIGNS, kind))
    tail, indent = f"{sign} {words}".strip(), " " * (_LABEL + 2)
    first, *others = wrap(value, look.width - len(indent))
    column = _VALUE if look.width >= 72 else 0
    blank = " " * (max(column, measure(first)) + 2 - measure(first))
    behind = not others and measure(f"{indent}{first}{blank}= {words}") <= look.width
    behind &= not column or measure(first) <= column
    head = f"  {look.fit((escape_controls(label), 'dim'), _LABEL)}"
    yield head + (tail if not value else first + blank + tail if behind else first)
    yield from (indent + line for line in others)
    if value and tail and not behind:
        aligned = f"{indent}{' ' * (column + 2)}" if column else indent
        yield (aligned if measure(f"{aligned}= {words}") <= look.width else indent) + tail


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
    parts = []
    if found["kind"] == "detector":
        classes = f" of {found['classes']} classes" if found["classes"] else ""
        averages = [each["AP"] for each in found["metrics"].values() if "AP" in each]
        ap = f", AP {averages[0]:.1f}" if averages else ""
        parts.append(f"a detector{classes}{ap}")
    parts.append(_describe_config(found))
    return "; ".join([*parts, *(text.partition(":")[0] for text in found["warnings"])])


def _describe_config(found: Mapping[str, Any]) -> str:
    if found["config_file"] is None:
        return "the file holds its configuration"
    count = len(found["overrides"])
    changes = f" with {count} change{'s' * (count > 1)}" if count else ""
    return f"{escape_controls(found['config_file'])}{changes}"


def _format_size(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"
