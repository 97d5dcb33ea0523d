"""Read JSON files of users: typed and fast where they are right, a sentence where they are not."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from resnext_det.files import escape_controls, show, tell_reason

Entry = TypeVar("Entry")


class _Key(str):
    """Make a key that equals no other, so that a dict keeps what stands there twice."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__


_BATCH = 20_000  # entries that are held decoded at one time


def read_text(path: Path, source: str) -> bytes:
    """Read a JSON file in UTF-8, or in UTF-16 with a byte order mark.

    Args:
        path: of the file.
        source: begins every message: what the file is, with its path.

    Returns:
        the text in UTF-8, without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, no regular file, cannot be read, or is not text.
    """
    if path.is_dir():
        raise ValueError(escape_controls(f"{source} is a folder; give the path of a JSON file"))
    if not path.exists():
        raise FileNotFoundError(
            escape_controls(f"{source} does not exist; give the path of a JSON file")
        )
    if not path.is_file():
        raise ValueError(
            escape_controls(f"{source} is no regular file; copy its contents into one")
        )
    try:
        with path.open("rb", buffering=0) as file:  # which takes the memory of one copy
            encoding = json.detect_encoding(file.read(4))
            file.seek(len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0)
            text = file.read()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            escape_controls(f"{source} cannot be read: {reason}; make it readable")
        ) from None
    try:
        if not encoding.startswith("utf-8"):
            return text.decode(encoding).encode()
        _check_utf8(text)
    except UnicodeDecodeError as error:
        raise ValueError(
            escape_controls(f"{source} is not text in UTF-8: {error}; save it as JSON in UTF-8")
        ) from None
    return text


def split_table(text: bytes, kind: type[Any], source: str) -> Any:
    """Split the outermost list or object of a JSON text, without decoding what is in it.

    Args:
        text: in UTF-8.
        kind: list or dict.
        source: begins every message.

    Returns:
        a list, or a dict by key, of ``msgspec.Raw``; of decoded values where only Python's own
        reader takes the text. A value of another kind is returned decoded.

    Raises:
        ValueError: the text is not JSON, or its outermost object has a key twice.
    """
    try:
        if kind is not dict:
            return msgspec.json.decode(text, type=list[msgspec.Raw])
        pairs = msgspec.json.decode(
            text, type=dict[_Key, msgspec.Raw], dec_hook=lambda _, key: _Key(key)
        )
        content = {str(key): value for key, value in pairs.items()}
        if len(content) < len(pairs):
            names = Counter(map(str, pairs))
            raise ValueError(
                escape_controls(
                    f"{source} has {show(names.most_common(1)[0][0])} twice in its outermost "
                    "object; put them together"
                )
            )
        return content
    except msgspec.ValidationError:  # of another kind, which may be broken too
        pass
    except RecursionError:
        _refuse_nesting(source)
    except msgspec.DecodeError as error:
        # What else it refuses Python may take (NaN, Infinity, halves of surrogate pairs), though
        # with many times the memory.
        if "truncated" in str(error) and not text[-64:].rstrip().endswith((b"}", b"]")):
            raise explain_not_json(text, len(text), "", source) from None
    try:
        return json.loads(text.decode())  # of bytes it would guess the encoding
    except json.JSONDecodeError as error:
        position = len(error.doc[: error.pos].encode())
        raise explain_not_json(text, position, error.msg, source) from None
    except RecursionError:
        _refuse_nesting(source)
    except ValueError as error:  # a number of more digits than Python takes
        reason = tell_reason(error)
        told = f"{source} cannot be read: {reason}; correct it"
        raise ValueError(escape_controls(told)) from None


def explain_not_json(text: bytes, position: int, reason: str, source: str) -> ValueError:
    """Make the error of a text that is not JSON: the one place for it.

    Args:
        text: in UTF-8.
        position: the byte where the fault was found.
        reason: what was found there.
        source: begins the message.
    """
    if not text.strip():
        return ValueError(
            escape_controls(f"{source} is empty; write it again, or copy or download it anew")
        )
    if position >= len(text.rstrip()):
        reason = "the text ends too early"
    elif reason == "Extra data":
        reason = "more follows where the value ends (join several into one list or object)"
    line = text.count(b"\n", 0, position) + 1
    begin = text.rfind(b"\n", 0, position) + 1
    column = len(text[begin:position].decode(errors="replace")) + 1
    return ValueError(
        escape_controls(
            f"{source} is not JSON: {reason} at line {line} column {column}; correct it, or copy "
            "or download it again"
        )
    )


def decode_entries(
    entries: Sequence[Any],
    kind: type[Entry],
    check: Callable[[Mapping[str, Any], int], Entry],
    table: str,
    source: str,
) -> Iterator[list[Entry]]:
    """Decode the entries of a table, some thousands at a time.

    Args:
        entries: of ``split_table``, or dicts.
        kind: a ``msgspec.Struct`` that most of them are.
        check: takes an entry that is not (a dict) and its number, and converts or refuses it.
        table: what the entries are of, for messages: "'images'".
        source: begins every message.

    Raises:
        ValueError: an entry is no object, or is not JSON; and what ``check`` raises.
    """
    decoder = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
    for start in range(0, len(entries), _BATCH):
        batch = entries[start : start + _BATCH]
        if isinstance(batch[0], msgspec.Raw):
            try:
                yield decoder.decode(b"[" + b",".join(batch) + b"]")
                continue
            except (msgspec.DecodeError, ValueError, RecursionError):  # not all are of this kind
                pass
        yield [
            check(_decode_entry(entry, index, table, source), index)
            for index, entry in enumerate(batch, start)
        ]


def _decode_entry(entry: Any, index: int, table: str, source: str) -> Mapping[str, Any]:
    if isinstance(entry, msgspec.Raw):
        try:
            entry = json.loads(bytes(entry))
        except RecursionError:
            _refuse_nesting(f"{source}: entry {index} of {table}")
        except ValueError as error:
            reason = tell_reason(error)
            raise ValueError(
                escape_controls(
                    f"{source}: entry {index} of {table} is not JSON: {reason}; correct it"
                )
            ) from None
    if not isinstance(entry, Mapping):
        raise ValueError(
            escape_controls(
                f"{source}: entry {index} of {table} is {show(entry)}; it has to be an object"
            )
        )
    return entry


def _refuse_nesting(source: str) -> NoReturn:
    raise ValueError(
        escape_controls(f"{source} is nested too deep to be COCO's format; give another file")
    )


def _check_utf8(text: bytes) -> None:
    """Raise UnicodeDecodeError where a text is not UTF-8, with little memory."""
    if text.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    size = 1 << 20
    for start in range(0, len(text), size):
        decoder.decode(text[start : start + size], final=start + size >= len(text))
