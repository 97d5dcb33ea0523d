"""The command ``resnext-det inspect``: its output, JSON and exit status."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest

from tests.tools.helpers import finish, fork_tool, read_error, run_tool
from tests.weights.helpers import fill_randomly, save, torchvision_network

run = partial(run_tool, "inspect_weights")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return save(fill_randomly(torchvision_network()).state_dict(), tmp_path, "theirs.pth")


def test_one_file_gets_a_page(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(theirs) == 0
    output, errors = capsys.readouterr()
    assert output.startswith(f"✓ {theirs}\n") and errors == ""


def test_a_file_that_fails_does_not_stop_the_others(
    theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (theirs.parent / "broken.pth").write_bytes(theirs.read_bytes()[:999])
    assert run(theirs.parent, "none.pth") == 1
    output, errors = capsys.readouterr()
    row, mark, page = re.findall(r"^✓ .*", output, re.M)
    assert "X-26-2x4d" in row and mark.startswith("✓ usable") and page == f"✓ {theirs}"
    words = " ".join(output.split())  # lines are broken where the folder's name is long
    assert "cut short" in words and "none.pth is not there" in words
    assert errors.startswith("error: 2 of 3 files cannot be used: ") and "none.pth" in errors


def test_json_is_a_list_of_plain_data(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(theirs, "none.pth", "--json") == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert good["usable"] and good["architecture"] == "X-26-2x4d" and set(good) == set(bad)
    assert not bad["usable"] and bad["architecture"] is None and "not there" in bad["error"]


def test_a_console_without_its_letters(theirs: Path) -> None:
    """Piped, and on a console of ASCII alone."""
    started = fork_tool("inspect_weights", theirs, PYTHONIOENCODING="ascii", COLUMNS=72)
    output, errors = finish(started)
    assert output.isascii() and errors == "" and "\\u" not in output and "\x1b" not in output
    assert output.startswith("+ ")


def test_every_key_of_json_is_in_the_help(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(theirs, "--json")
    (found,) = json.loads(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        run("--help")
    said = capsys.readouterr().out.replace(",", " ").replace(":", " ").split()
    assert set(found) <= {word.strip(".") for word in said}


def test_a_preprocessing_that_is_none(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(theirs, "--preprocessing", "RGB:1") == 1
    assert "--preprocessing 'RGB:1' is no publisher" in read_error(capsys)
