"""Find a YAML file, and read it with the files that its ``_BASE_`` names into one dict."""

from __future__ import annotations

import difflib
import io
from pathlib import Path
from typing import IO, Any

import yaml
from fvcore.common.config import CfgNode

from resnext_det.files import list_first, shipped_folder


def config_file(name: str | Path) -> Path:
    """Find a configuration: a file of yours, or else one that comes with the package.

    Example:
        ``config_file("modern/faster_rcnn_X50_32x4d_FPN_1x.yaml")``

    Args:
        name: a path, or where the file stands in the package's folder ``configs``, with or without
            that word.

    Raises:
        ValueError: there is no such file. The text gives names that are nearly the same.
    """
    path, shipped = Path(name), shipped_folder("configs")
    inside = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    for found in (path, shipped / inside):
        if found.is_file():
            return found
    names = [file.relative_to(shipped).as_posix() for file in sorted(shipped.rglob("*.yaml"))]
    near = [known for known in names if Path(known).name == path.name]
    near += difflib.get_close_matches(inside.as_posix(), names, n=3)
    remedy = (
        "give the path of a YAML file, or a name such as modern/faster_rcnn_X50_32x4d_FPN_1x.yaml"
    )
    if near:
        remedy = f"did you mean {list_first(dict.fromkeys(near))}?"
    raise ValueError(f"configuration {path} does not exist; {remedy}")


def read_yaml(path: str | Path) -> tuple[dict[str, Any], list[str]]:
    """Read a configuration file, which ``config_file`` finds.

    Returns:
        its values over those of its base files, and the files that were read.

    Raises:
        FileNotFoundError: a base file does not exist.
        ValueError: the file does not exist; one of them is not plain YAML, has a key twice, or
            names itself as its base.
    """
    leaf = config_file(path)
    files: list[str] = []

    class Reader(CfgNode):
        """fvcore reads the YAML and merges the bases; this sees each file first."""

        @classmethod
        def _open_cfg(cls, filename: str) -> IO[str]:
            files.append(filename)
            return io.StringIO(_read_text(filename, leaf, depth=len(files)))

    try:
        values = Reader.load_yaml_with_base(str(leaf), allow_unsafe=False)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(
            f"configuration {files[-1]} is not plain YAML: {error}; correct it (tags are not read)"
        ) from error
    except AssertionError as error:
        raise ValueError(
            f"configuration {path}: a key is a group here and a value in its _BASE_: {error}"
        ) from error
    return values, files


def _read_text(filename: str, leaf: Path, depth: int) -> str:
    """Read the text of a file, and refuse one with a key twice or a wrong ``_BASE_``."""
    if depth > 100:
        raise ValueError(
            f"configuration {leaf}: its _BASE_ leads back to {filename}; break the circle"
        )
    try:
        text = Path(filename).read_text(encoding="utf-8")
    except OSError as error:
        raise FileNotFoundError(
            f"configuration {leaf}: its _BASE_ names {filename}, which does not exist; correct the "
            "path, which is relative to the file that names it"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"configuration {filename} is no text; give a YAML file") from error
    document = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(document, yaml.MappingNode):
        raise ValueError(
            f"configuration {filename} holds no KEY: value lines; write some, or leave the file out"
        )
    _refuse_repeated_keys(document, filename)
    _check_base(document, filename)
    return text


def _check_base(document: yaml.MappingNode, filename: str) -> None:
    for name, value in document.value:
        if name.value != "_BASE_":
            continue
        entries = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not entries or not all(entry.tag == "tag:yaml.org,2002:str" for entry in entries):
            raise ValueError(
                f"configuration {filename}: _BASE_ in line {name.start_mark.line + 1} names no "
                "file; write a path, or a list of paths"
            )


def _refuse_repeated_keys(mapping: yaml.MappingNode, filename: str) -> None:
    """Refuse a key that stands twice: YAML would keep the last and lose the first in silence."""
    lines: dict[str, int] = {}
    for name, value in mapping.value:
        key, line = str(name.value), name.start_mark.line + 1
        if key in lines:
            raise ValueError(
                f"configuration {filename} has {key} twice in one group, in lines {lines[key]} and "
                f"{line}; put them together"
            )
        lines[key] = line
        if isinstance(value, yaml.MappingNode):
            _refuse_repeated_keys(value, filename)
