"""How diagnoses are written: aligned, within the width, and without colors or letters of others."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from resnext_det.console import Look
from resnext_det.weights import KNOWN
from resnext_det.weights.doctor.description import format_description
from resnext_det.weights.doctor.diagnosis import diagnose
from resnext_det.weights.doctor.text import format_diagnoses
from resnext_det.weights.writing import write_weights
from tests.weights.doctor.test_diagnosis import backbone
from tests.weights.helpers import classifier, fill_randomly, save, torchvision_network

_ESCAPE = re.compile(r"\x1b\[\d+m")


@pytest.fixture(scope="module")
def diagnoses(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A file of each kind: usual, known, not known, broken, not read."""
    folder = tmp_path_factory.mktemp("weights")
    save(fill_randomly(torchvision_network()).state_dict(), folder, "usual.pth")
    notes = {"license": "MIT", "comment": "two\nlines \x1b[2J " + "and more " * 30}
    write_weights(classifier(), folder / "known.pkl", preprocessing=KNOWN["msra"], metadata=notes)
    save(backbone(), folder, "没有-unknown-" + "x" * 40 + ".pth")
    save({name: t * torch.nan for name, t in backbone().items()}, folder, "broken.pth")
    (folder / "cut.pth").write_bytes((folder / "usual.pth").read_bytes()[:9999])
    names = ["usual.pth", "known.pkl", f"没有-unknown-{'x' * 40}.pth", "broken.pth", "cut.pth"]
    return [diagnose(str(folder / name)) for name in names]


def strip_folder(text: str, diagnoses: list[dict[str, Any]]) -> str:
    return text.replace(str(Path(diagnoses[0]["file"]).parent), "DIR")


@pytest.mark.parametrize("width", [60, 72, 80, 100, 120])
@pytest.mark.parametrize("unicode", [True, False])
def test_lines_stay_within_the_width(
    width: int, unicode: bool, diagnoses: list[dict[str, Any]]
) -> None:
    short = [{**found, "file": Path(found["file"]).name[-30:]} for found in diagnoses]
    look = Look(width, color=False, unicode=unicode)
    for text in (format_diagnoses(short, look), *(format_diagnoses([f], look) for f in short)):
        for line in text.splitlines():
            wide = sum(1 + (letter in "没有") for letter in line)
            of_command = line.startswith("        ") or "resnext-det" in line
            one_flag = of_command and line.strip(" \\").count(" ") <= 1  # whose value is long
            assert wide <= width or one_flag, line
            assert line.isprintable() and line == line.rstrip()
        assert unicode or text.replace("没有", "").isascii()


def test_columns_begin_under_their_titles(diagnoses: list[dict[str, Any]]) -> None:
    short = [{**found, "file": Path(found["file"]).name[:9]} for found in diagnoses]
    for width in (80, 120):
        lines = format_diagnoses(short, Look(width)).splitlines()
        for title, column in (("network", "architecture"), ("format", "format"), ("dtype",) * 2):
            at = lines[0].index(title)
            rows = [line for line in lines[2:20] if line[:1] in "✓!✗" and line[1:3] == "  "]
            assert len(rows) == len(short)
            for row, found in zip(rows, short):
                before = sum(letter in "没有" for letter in row[:at])
                assert row[at - before :].startswith(found[column] or " " * bool(row[at:])), row


def test_a_row_tells_how_sure_it_is(diagnoses: list[dict[str, Any]]) -> None:
    """By signs that differ without colors, on consoles without them too."""
    for unicode, signs in ((True, "✓✓!✗✗"), (False, "++!xx")):
        lines = format_diagnoses(diagnoses, Look(120, unicode=unicode)).splitlines()
        rows = [line for line in lines[2:20] if line[:1] and line[0] in signs and line[1] == " "]
        assert "".join(row[0] for row in rows[:5]) == signs
        usual, known, unknown = ("○ RGB", "● BGR", "  ?") if unicode else ("~ RGB", "= BGR", "?")
        for row, sign in zip(rows, (usual, known, unknown)):
            assert sign in row
        legend = "\n".join(lines)
        assert "not usable" in legend and "usual for such files" in legend


def test_the_page_says_where_facts_are_from(diagnoses: list[dict[str, Any]]) -> None:
    usual, known, unknown, broken, cut = (format_diagnoses([f], Look()) for f in diagnoses)
    assert re.search(r"channel order +RGB +○ usual for torchvision's files\n", usual)
    assert re.search(r"channel order +BGR +● from the file\n", known)
    assert re.search(r"preprocessing +\? not known\n", unknown)
    assert "X-26-2x4d, a classifier of 7 classes" in usual
    assert "--preprocessing" in usual and "--preprocessing" in unknown
    assert "NaN" in broken and "configuration" not in broken
    assert "cut short" in " ".join(cut.split()) and "resnext-det" not in cut


def test_the_page_of_what_travels_with_the_package() -> None:
    """Labels are distinct, nothing is said twice, and the signs stand in one column."""
    found = diagnose("resnext://shapes/X-26-8x4d")
    lines = format_diagnoses([found], Look(96)).partition("for detection")[0].splitlines()
    labels = [line[2:18].strip() for line in lines[3:] if line[2:18].strip()]
    assert len(labels) == len({*labels})
    assert {"test crop", "resized to", "test set", "training set", "recipe"} <= {*labels}
    assert not {"name", "page"} & {*labels}
    assert len({line.index("●") for line in lines if "●" in line}) == 1


def test_a_mixed_dtype_shortens_no_names(diagnoses: list[dict[str, Any]]) -> None:
    names = ["resnext50_32x4d-7cdf4587.pth", "a.pth"]
    mixed = [{**diagnoses[0], "file": name, "dtype": "float16, float32"} for name in names]
    table = format_diagnoses(mixed, Look(80))
    assert names[0] in table.splitlines()[2]
    assert "float16+" not in table


def test_what_a_file_says_does_not_steer_the_terminal(diagnoses: list[dict[str, Any]]) -> None:
    text = format_diagnoses(diagnoses[1:2], Look(color=True))
    assert "\x1b[2J" not in text and r"\x1b[2J" in text
    assert set(_ESCAPE.findall(text)) <= {f"\x1b[{n}m" for n in (0, 1, 2, 31, 32, 33)}


def test_colors_change_nothing_else(diagnoses: list[dict[str, Any]]) -> None:
    for found in (diagnoses, diagnoses[:1]):
        plain = format_diagnoses(found, Look())
        colored = format_diagnoses(found, Look(color=True))
        assert colored != plain and _ESCAPE.sub("", colored) == plain


def test_commands_that_are_broken_into_lines_stay_what_they_are(
    diagnoses: list[dict[str, Any]],
) -> None:
    text = format_diagnoses(diagnoses[1:2], Look(60))
    joined = [
        shlex.split(part.replace("\\\n", ""))
        for part in re.findall(r"^    (resnext-det (?:.*\\\n)*.*)", text, re.M)
    ]
    assert joined == [shlex.split(line) for line in diagnoses[1]["commands"].values()]


def test_what_is_usual_is_no_fact_in_a_comparison(tmp_path: Path) -> None:
    network = fill_randomly(torchvision_network())
    files = [str(save(network.state_dict(), tmp_path, name)) for name in ("one.pth", "two.pth")]
    look = Look(width=100)
    text = format_diagnoses([*map(diagnose, files)], look)
    assert "need one preprocessing, if what is usual for such files is true of them" in text
    write_weights(classifier(), tmp_path / "own.pth", "native", preprocessing=KNOWN["pycls"])
    text = format_diagnoses([*map(diagnose, [*files, str(tmp_path / "own.pth")])], look)
    assert "one.pth (usual), two.pth (usual)" in text and "own.pth (usual)" not in text


def test_a_network_that_is_not_recognized_has_no_facts_of_one(tmp_path: Path) -> None:
    found = diagnose(str(save(torchvision.models.resnet18().state_dict(), tmp_path)))
    text = format_diagnoses([found], Look()) + format_description(found)
    assert "batch norms" not in text and "the backbone's" not in text
    assert "11.7 M" in text and "parameters: 11,689,512; 1000 classes" in text
