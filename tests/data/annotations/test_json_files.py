"""JSON files: every encoding and what else Python reads, and a sentence for all others."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from resnext_det.data.annotations.json_files import read_text, split_table
from resnext_det.files import escape_controls

CONTENT = {"name": "Zürich 猫 😀", "values": [1, 2.5, None]}


def read(path: Path, kind: type[Any] = dict) -> Any:
    return split_table(read_text(path, f"file {path}"), kind, f"file {path}")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_every_encoding_of_json_is_read(encoding: str, ascii_only: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(CONTENT, ensure_ascii=ascii_only).encode(encoding))
    found = read(path)
    assert {key: msgspec.json.decode(value) for key, value in found.items()} == CONTENT


@pytest.mark.parametrize("mark, encoding", [(b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")])
def test_utf_16_of_either_order(mark: bytes, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(mark + "[1]".encode(encoding))
    assert [bytes(value) for value in read(path, list)] == [b"1"]


@pytest.mark.parametrize(
    "data, message",
    [
        ('{"a": "é"}'.encode("latin-1"), "is not text in UTF-8: .* position 7"),
        (b'{"a": "' + b"\xc3\xa9" * 700_000 + b'\xe9"}', "is not text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "is not text in UTF-8"),
        (b"\xff\xfe[\x00\x00\xd8", r"is not text in UTF-8: 'utf-16-le' codec"),
        (b"", "is empty; write it again"),
        (b" \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\0" * 40, "is not JSON"),
        (b'{"a": [1, 2', "is not JSON: the text ends too early at line 1 column 12; correct it"),
        (b'{"a":\n  [1, 2', "the text ends too early at line 2 column 8"),
        ('{"é": 1,\n "猫": x}'.encode(), "is not JSON: .* at line 2 column 7"),
        ('{"猫": x}'.encode("utf-16"), "is not JSON: .* at line 1 column 7"),
        (
            b'{"a": 1} {"b": 2}',
            "is not JSON: more follows where the value ends .* at line 1 column 10",
        ),
        (b"{'a': 1}", "is not JSON: .* at line 1 column 2"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is nested too deep"),
        (b"[" * 100_000, "is nested too deep"),
        (b'{"a": NaN, "b": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is nested too deep"),
    ],
    ids=map(str, itertools.count()),  # of the bytes they would be megabytes long
)
def test_what_is_no_json_gets_a_sentence(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert type(error.value) is ValueError
    assert str(error.value).startswith(f"file {path} is ")
    assert len(str(error.value)) < 500


def test_what_python_alone_reads_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": NaN, "b": [-Infinity, Infinity], "c": "\\ud800", "d": 1}')
    found = read(path)
    assert repr(found) == r"{'a': nan, 'b': [-inf, inf], 'c': '\ud800', 'd': 1}"


def test_a_path_that_is_no_file_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder; give the path of a JSON file$"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist; give the path"):
        read(tmp_path / "none.json")
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):  # which would be read for ever
        with pytest.raises(ValueError, match="is no regular file; copy its contents into one"):
            read(path)


def test_control_characters_are_escaped() -> None:
    assert escape_controls("a\x1b[31m\nb\x9b\u202eé猫\ud800") == r"a\x1b[31m\nb\x9b\u202eé猫\ud800"
    assert escape_controls("plain, and Zürich") == "plain, and Zürich"


def test_a_table_that_stands_twice_is_refused() -> None:
    text = b'{"images": [], "images": [1], "annotations": []}'
    with pytest.raises(ValueError, match="FILE has 'images' twice in its outermost object"):
        split_table(text, dict, "FILE")
