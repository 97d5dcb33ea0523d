"""The log of a run: any letter in the file, what the console knows of them there, no traceback."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path

import pytest

from resnext_det.config import get_cfg
from resnext_det.training.setup import log_too, read_recorded, set_up, setup_logging


def test_letters_of_any_script_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a letter too, as Python reads a file name that is no UTF-8."""
    console, errors = io.TextIOWrapper(io.BytesIO(), encoding="ascii"), io.StringIO()
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(sys, "stderr", errors)
    log = setup_logging(tmp_path)
    monkeypatch.setattr(log, "propagate", False)  # pytest's own processes cannot tell such letters
    log.info("红 \udcff")
    assert isinstance(console.buffer, io.BytesIO)
    assert console.buffer.getvalue().endswith(rb"INFO: \u7ea2 \udcff" + b"\n")
    written = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert written.endswith("INFO: 红 \\udcff\n")
    assert errors.getvalue() == ""  # where logging writes what it could not


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk is stood for by it")
def test_a_log_that_cannot_be_written_is_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    log = setup_logging(tmp_path)
    for message in ("one", "two"):
        log.info(message)
    out, errors = capfd.readouterr()
    assert out.count("INFO: ") == 2
    assert errors.count("\n") == 1 and "log.txt cannot be written (No space left" in errors


def test_a_console_that_is_gone_is_left_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        log = setup_logging(tmp_path)
        for message in ("one", "two"):
            log.info(message)
        os.dup2(os.open(os.devnull, os.O_WRONLY), gone.fileno())
    assert capfd.readouterr().err == ""
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").count("INFO: ") == 2


@pytest.mark.parametrize("level", [logging.NOTSET, logging.DEBUG, logging.WARNING])
def test_another_packages_log_is_lent_and_given_back(tmp_path: Path, level: int) -> None:
    """A program's own handler misses nothing meanwhile, as detectron2's, which writes DEBUG."""
    other, own = logging.getLogger(f"another_package.{level}"), io.StringIO()
    other.setLevel(level)
    other.addHandler(logging.StreamHandler(own))
    before = (other.level, other.propagate, [*other.handlers])
    setup_logging(tmp_path, console=False)
    with pytest.raises(KeyboardInterrupt), log_too(other.name):
        other.debug("fine")
        other.info("coarse")
        raise KeyboardInterrupt
    other.info("later")
    written = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert written.endswith(f"another_package.{level} INFO: coarse\n") and "fine" not in written
    assert ("fine" in own.getvalue()) == (level == logging.DEBUG) and "coarse" in own.getvalue()
    assert (other.level, other.propagate, other.handlers) == before


def test_an_output_folder_whose_name_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "cpu", f"{tmp_path}/\udcff"
    with pytest.raises(ValueError, match=r"holds bytes that are no UTF-8; write another folder"):
        set_up(cfg)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"SEED: [", b"SEED: one", b"- 1", b"a: &a [*a]", b"SEED: !!int 1", b"\xff", b"\0"],
    ids=lambda content: content[:16].decode(errors="replace"),
)
def test_a_damaged_record_of_a_run(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.yaml is damaged \(.+\); remove it, and resume"):
        read_recorded(file)
