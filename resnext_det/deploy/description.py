"""Describe files of exported detectors, as ``resnext-det inspect`` tells them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resnext_det.console import Look, indent_text, wrap, wrap_command
from resnext_det.deploy.exported import ExportedDetector
from resnext_det.deploy.metadata import Metadata
from resnext_det.files import escape_controls

KIND = "exported detector"

_FACTS = [name for name in Metadata.__struct_fields__ if not name.startswith("content_")]
_LABEL = 16  # columns


def describe_exported(file: str) -> dict[str, Any]:
    """Describe the file of an exported detector, without an error for what is wrong with it.

    Returns:
        Plain data: ``file``, as it was given; ``usable``; ``error``: why it cannot be used, or
        None; ``kind``: ``KIND``; ``bytes``; ``backend``, which runs it; and the attributes of
        ``Metadata`` but the checksum, all None where it cannot be used.
    """
    path = Path(file).expanduser()
    size = path.stat().st_size if path.is_file() else None
    found: dict[str, Any] = {"file": file, "usable": False, "error": None, "kind": KIND}
    found |= {"bytes": size, "backend": None, **dict.fromkeys(_FACTS)}
    try:
        detector = ExportedDetector(path)
    except (ValueError, OSError) as error:
        return found | {"error": str(error)}
    told = {name: getattr(detector.metadata, name) for name in _FACTS}
    return found | {"usable": True, "backend": detector.backend, **told}


def format_exported(found: Mapping[str, Any], look: Look) -> str:
    """Write a page for people of what ``describe_exported`` gives."""
    return "\n".join(line.rstrip() for line in _write_page(found, look))


def _write_page(found: Mapping[str, Any], look: Look) -> Iterator[str]:
    sign = ("✓" if look.unicode else "+") if found["usable"] else "✗" if look.unicode else "x"
    mark = look.paint(sign, "green" if found["usable"] else "red")
    yield f"{mark} {look.paint(escape_controls(found['file']), 'bold')}"
    if not found["usable"]:
        yield from indent_text(escape_controls(found["error"]), look.width, 2)
        return
    yield f"  a detector that resnext-det {escape_controls(found['version'])} exported"
    yield ""
    for label, value in _list_facts(found):
        first, *others = wrap(escape_controls(value), look.width - _LABEL - 4)
        yield f"    {look.paint(f'{label:<{_LABEL}}', 'dim')}{first}"
        yield from (f"{' ' * (_LABEL + 4)}{line}" for line in others)
    yield from ("", f"  {look.paint('detect', 'bold')}")
    yield from wrap_command(f"resnext-det predict {shlex.quote(found['file'])} photos/", look.width)


def _list_facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "network", f"{found['architecture']}, {found['detector']}"
    yield "size", f"{found['bytes'] / 1e6:.1f} MB"
    yield "classes", ", ".join(found["class_names"])
    sides = f"shorter side {found['min_size']} pixels, longer at most {found['max_size']}"
    yield "images", sides if found["min_size"] else "in their own size"
    most = f"at most {found['max_detections']} an image, of score {found['score_threshold']:g}"
    side = found["mask_size"]
    yield "detections", f"{most} or more{f', with masks of {side} x {side} cells' if side else ''}"
    yield "runs by", found["backend"]
