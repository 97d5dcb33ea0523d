"""Fuzz one reader guided by coverage, with Google's atheris, which is no dependency.

``pip install atheris`` and run, from the root of the repository:

    python -m tests.fuzz.guided coco FOLDER -max_total_time=300

The first word is a name of ``targets.TARGETS``; FOLDER keeps the inputs that reached new
branches, and a further run goes on from them. The options are libFuzzer's. A reader that fails, or
takes over 10 seconds or 2 GiB, ends the run and leaves its input in FOLDER, as crash-*, timeout-*
or oom-*. Mend the reader, make the input as small as fails (``-minimize_crash=1 -runs=5000 FILE``),
and keep it in ``corpus/NAME``, from where ``test_readers.py`` replays it.
"""

from __future__ import annotations

import logging
import re
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["resnext_det", "json", "yaml", "tarfile", "zipfile"]):
    from tests.fuzz.targets import CORPUS, TARGETS, is_read

_LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-max_len=32768", "-print_final_stats=1")
_WORDS = (b"null", b"true", b"NaN", b"1e999", b"-1", b"99999999999999999999", b"\\x00", b"[[[[[[")


def main(name: str, folder: str, *options: str) -> None:
    """Fuzz the reader ``name`` until it fails or the time of the options is over."""
    logging.disable(logging.CRITICAL)
    work = Path(tempfile.mkdtemp())
    target = TARGETS[name]
    path = work / "read" / target.file
    path.parent.mkdir(parents=True)
    found = Path(folder)
    found.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (found / f"seed-{number}").write_bytes(seed)

    def try_input(data: bytes) -> None:
        path.write_bytes(data)
        is_read(target, path)

    words = {word for seed in target.seeds for word in re.findall(rb"[\w.]{2,30}", seed)}
    dictionary = work / "words"
    dictionary.write_text("".join(f'"{word.decode()}"\n' for word in {*words, *_WORDS}))
    kept = [str(CORPUS / name)] if (CORPUS / name).is_dir() else []
    places = (f"-artifact_prefix={found}/", f"-dict={dictionary}")
    arguments = [sys.argv[0], *_LIMITS, *places, *options, str(found), *kept]
    atheris.Setup(arguments, try_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
