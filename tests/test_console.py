"""Text for a console: what it shows, and lines within its width."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from resnext_det.command_line import finish
from resnext_det.console import Look, find_look, measure, wrap, wrap_command
from resnext_det.training.setup import setup_logging


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_the_console_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    piped = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert find_look(piped) == Look(80, color=False, unicode=True)
    assert find_look(Terminal(io.BytesIO(), encoding="utf-8")) == Look(80, True, True)
    assert find_look(Terminal(io.BytesIO(), encoding="cp1252")) == Look(80, True, False)
    monkeypatch.setenv("COLUMNS", "101")
    assert find_look(piped).width == 101
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not find_look(Terminal(io.BytesIO(), encoding="ascii")).color


def test_texts_are_cut_at_their_start_and_padded() -> None:
    assert Look().fit(("model_final.pth", ""), 10) == "…final.pth"
    assert Look(unicode=False).fit(("model_final.pth", ""), 10) == "...nal.pth"
    assert Look().fit(("没有", ""), 6) == "没有  " and Look().fit(("没有没", ""), 5) == "…有没"
    assert Look(color=True).fit(("7", "red"), 3, right=True) == "  \x1b[31m7\x1b[0m"


def test_wide_letters_count_twice() -> None:
    text = "没有 weights 没有" * 9
    assert measure("没有a\u0301") == 5
    lines = wrap(text, 20)
    assert all(measure(line) <= 20 for line in lines) and wrap("", 20) == [""]
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_command_stays_what_it_is(width: int) -> None:
    words = ["resnext-det", "train", "--weights", "two  words.pth", "--schedule", "auto"]
    words += ["OUTPUT_DIR", "a/b", "MODEL.PIXEL_MEAN", "[1.0, 2.0]", "x" * 90]
    lines = [*wrap_command(shlex.join(words), width)]
    assert all(len(line) <= width or "x" * 90 in line for line in lines)
    assert all(line.endswith("\\") for line in lines[:-1])
    assert shlex.split("".join(line.removesuffix("\\") for line in lines)) == words


def test_control_characters_of_files_reach_no_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Neither by an error, nor by the log, nor by a line of a table; colors of ours do."""
    name = "\x1b]0;title\x07\x1b[2J\x9b1mcat"

    def work() -> Iterator[str]:
        yield f"\x1b[31mred\x1b[0m {name}"
        raise ValueError(f"class {name}\nis unknown")

    setup_logging(tmp_path).warning("class %s", name)
    assert finish(work) == 1
    told = capsys.readouterr()
    escaped = r"\x1b]0;title\x07\x1b[2J\x9b1mcat"
    assert told.err == f"error: class {escaped}\nis unknown\n"
    assert told.out.splitlines()[0].endswith(f"class {escaped}")
    assert told.out.splitlines()[1] == f"\x1b[31mred\x1b[0m {escaped}"
    assert escaped in (tmp_path / "log.txt").read_text()
