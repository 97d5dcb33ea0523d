"""Find a YAML file, and read it with the files that its ``_BASE_`` names into one dict."""

from __future__ import annotations

import difflib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml
from fvcore.common.config import CfgNode

from resnext_det.config.expressions import TAG, compute_expression
from resnext_det.files import escape_controls, list_first, shipped_folder, tell_reason

# A dump of every key has 12,000 characters. Aliases are counted as what they stand for.
_MOST_CHARACTERS = 200_000
_MOST_LEVELS = 20
_MOST_FILES = 100


def config_file(name: str | Path) -> Path:
    """Find a configuration: a file of yours, or else one that comes with the package.

    Example:
        ``config_file("modern/faster_rcnn_X50_32x4d_FPN_1x.yaml")``

    Args:
        name: a path, or where the file stands in the package's folder ``configs``, with or without
            that word.

    Raises:
        ValueError: there is no such file (the text gives names that are nearly the same), or it
            is a folder or a pipe.
    """
    path, shipped = Path(name), shipped_folder("configs")
    inside = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    for found in (path, shipped / inside):
        if found.is_file():
            return found
    if path.exists():
        kind = "a folder" if path.is_dir() else "no regular file, and is read several times"
        raise ValueError(f"configuration {path} is {kind}; give the path of a YAML file")
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
            names itself as its base; they are larger or deeper than configurations are.
    """
    leaf = config_file(path)
    files: list[str] = []
    texts: list[str] = []

    class Reader(CfgNode):
        """Check each file before fvcore reads its YAML and merges the bases."""

        @classmethod
        def _open_cfg(cls, filename: str) -> IO[str]:
            files.append(filename)
            if len(files) > _MOST_FILES:
                raise ValueError(
                    f"configuration {leaf}: its _BASE_ leads back to {filename}; break the circle"
                )
            texts.append(_read_text(filename, leaf, read=sum(map(len, texts))))
            return io.StringIO(_check_text(texts[-1], filename))

    try:
        values = Reader.load_yaml_with_base(str(leaf), allow_unsafe=False)
    except (yaml.YAMLError, RecursionError) as error:
        raise _explain_not_plain(files[-1], error) from error
    except AssertionError as error:
        raise ValueError(
            f"configuration {path}: a key is a group here and a value in its _BASE_: {error}"
        ) from error
    return values, files


def parse_yaml(text: str, most: int = _MOST_CHARACTERS) -> Any:
    """Parse plain YAML that is no configuration to be merged, within the limits of one.

    Args:
        text: of the file.
        most: characters that it may have, with its aliases counted as what they stand for.

    Raises:
        ValueError: it is too large or too deep, has a tag, or is no YAML; the text is the reason
            alone, in one line.
    """
    if len(text) > most:
        raise ValueError(f"it has over {most} characters")
    try:
        with _compose(text, most) as (loader, document):
            return None if document is None else loader.construct_document(document)
    except (yaml.YAMLError, ValueError) as error:  # of a date that is none, or a long number
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        reason = f"{getattr(error, 'problem', None) or tell_reason(error)}{line}"
        raise ValueError(escape_controls(" ".join(reason.split()))) from error


def _read_text(filename: str, leaf: Path, read: int) -> str:
    """Read the text of a file of a configuration, of whose other files so much is read already."""
    try:
        regular = stat.S_ISREG(os.stat(filename).st_mode)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"configuration {leaf}: its _BASE_ names {filename:.300}, which does not exist; "
            "correct the path, which is relative to the file that names it"
        ) from error
    if not regular:  # a pipe would be waited for
        raise ValueError(
            f"configuration {leaf}: its _BASE_ names {filename}, which is no regular file; give a "
            "YAML file"
        )
    try:
        with open(filename, encoding="utf-8") as file:
            text = file.read(_MOST_CHARACTERS + 1 - read)
    except OSError as error:
        raise ValueError(
            f"configuration {filename} cannot be read ({error.strerror}); make it readable"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"configuration {filename} is no text; give a YAML file") from error
    if len(text) + read > _MOST_CHARACTERS:
        raise ValueError(
            f"configuration {filename} has over {_MOST_CHARACTERS} characters, with its base "
            "files, as no configuration has; give another file"
        )
    return text


class _Loader(yaml.SafeLoader):
    """Read plain YAML with a limit on its depth, and refuse tags."""

    depth = 0
    known_tags: tuple[str | None, ...] = (None, "!")

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) not in self.known_tags:
            raise yaml.YAMLError(f"there is a tag in line {line}, {event.tag!r:.100}")
        self.depth += 1
        if self.depth > _MOST_LEVELS:
            raise yaml.YAMLError(f"line {line} has over {_MOST_LEVELS} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _ConfigurationLoader(_Loader):
    """Read the YAML of a configuration, which may have arithmetic, see ``compute_expression``."""

    known_tags = (*_Loader.known_tags, TAG)

    def construct_expression(self, node: yaml.Node) -> Any:
        entries = self.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
        if len(entries) != 1 or not isinstance(entries[0], str):
            raise ValueError("an expression is written as a list of one string")
        return compute_expression(entries[0])


_ConfigurationLoader.add_constructor(TAG, _ConfigurationLoader.construct_expression)


def _check_text(text: str, filename: str) -> str:
    """Refuse what is not plain YAML, a key twice, a wrong ``_BASE_`` and too many aliases.

    Returns:
        the text; where it has expressions, one with their values.

    Raises:
        ValueError: naming the file, and the line where there is one.
    """
    values = None
    try:
        with _compose(text, _MOST_CHARACTERS, _ConfigurationLoader) as (loader, document):
            if isinstance(document, yaml.MappingNode):
                _refuse_repeated_keys(document, filename)
                _check_base(document, filename)
                values = _construct(loader, document)
    except yaml.YAMLError as error:
        raise _explain_not_plain(filename, error) from error
    if not isinstance(document, yaml.MappingNode):
        raise ValueError(
            f"configuration {filename} holds no KEY: value lines; write some, or leave the file out"
        )
    return yaml.safe_dump(values) if "!!python" in text else text


def _construct(loader: yaml.SafeLoader, document: yaml.Node) -> Any:
    try:
        return loader.construct_document(document)
    except ValueError as error:  # of a date that is none, or a number of thousands of digits
        raise yaml.YAMLError(tell_reason(error)) from error


def _explain_not_plain(filename: str, error: Exception) -> ValueError:
    return ValueError(
        f"configuration {filename} is not plain YAML: {error}; correct it (tags are not read)"
    )


@contextmanager
def _compose(
    text: str, most: int, kind: type[_Loader] = _Loader
) -> Iterator[tuple[_Loader, yaml.Node | None]]:
    """Parse a text to its nodes, and measure them: see ``_measure``."""
    loader = kind(text)
    try:
        document = loader.get_single_node()
        _measure(document, {}, most)
        yield loader, document
    finally:
        loader.dispose()


def _measure(node: yaml.Node | None, known: dict[int, int | None], most: int) -> int:
    """Count the characters that a node stands for, with those of its aliases.

    Raises:
        yaml.YAMLError: there are too many, or a node stands within itself.
    """
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value if node else "")
    if id(node) not in known:
        known[id(node)] = None
        entries: Iterable[yaml.Node] = node.value
        if isinstance(node, yaml.MappingNode):
            entries = (each for pair in node.value for each in pair)
        known[id(node)] = 1 + sum(_measure(entry, known, most) for entry in entries)
    size = known[id(node)]
    if size is None or size > most:
        what = "stands within itself" if size is None else "stands for too much, by its aliases"
        raise yaml.YAMLError(f"what begins in line {node.start_mark.line + 1} {what}")
    return size


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
