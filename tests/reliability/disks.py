"""Fill the disk of a training at each write, and at each new file, and resume it with room.

    python -m tests.reliability.disks

Every case trains on a small file system of its own (tmpfs, so only root can), with one page more
room, or one more file, than the case before. The training ends in order: with status 0, or with
status 1 and one line that names the file and says what to do. With room again it is resumed, and
ends like one that always had room. Some 5 seconds a case.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability.kills import KINDS, Killer
from tests.tools.helpers import ROOT, finish, fork_tool

PAGE = 4096
_ADVICE = re.compile(r"make room|OUTPUT_DIR")


@dataclass
class Result:
    """Tell what came of some cases: how many failed in order, how many were whole, the faults."""

    refused: int = 0
    whole: int = 0
    faults: list[str] = field(default_factory=list)
    lines: set[str] = field(default_factory=set)


def can_mount() -> bool:
    """Tell whether this process may mount a file system."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True)
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return done.returncode == 0


@contextlib.contextmanager
def mount(folder: Path, limit: str) -> Iterator[Path]:
    """Mount a small file system, with "size=BYTES" or "nr_inodes=FILES"."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", limit, "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(killer: Killer, limit: str, result: Result) -> None:
    """Train with little room, then with enough, and note what is wrong in ``result``."""
    folder = killer.folder / "disk"
    with mount(folder, limit):
        out = folder / "out"
        given = [*killer.flags, *killer.changes, "DATALOADER.NUM_WORKERS", "0"]
        given += ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(out)]
        process = fork_tool(killer.kind.tool, *given, TMPDIR=killer.folder)
        _, errors = process.communicate(timeout=300)
        last = errors.strip().splitlines()[-1] if errors.strip() else ""
        try:
            if process.returncode != 0:
                result.refused += 1
                result.lines.add(re.sub(r"\d+|/\S*/", "", last)[:160])
                assert process.returncode == 1, f"status {process.returncode}: {errors[-1500:]}"
                assert "Traceback" not in errors, errors[-1500:]
                assert last.startswith("error: "), last
                assert str(folder) in last and _ADVICE.search(last), f"no file or advice: {last}"
            else:
                result.whole += 1
            subprocess.run(
                ["mount", "-o", "remount,size=64m,nr_inodes=1000", str(folder)], check=True
            )
            finish(fork_tool(killer.kind.tool, "--resume", *given))
            killer.check_end(out)
        except AssertionError as error:
            result.faults.append(f"{limit}: {str(error)[-1500:]}")
    os.rmdir(folder)


def list_limits(whole: Path, cases: int, chance: random.Random) -> list[str]:
    """List limits: of files, every number that a run may lack; of bytes, some at random."""
    files = [path for path in whole.rglob("*") if path.is_file()]
    pages = sum(-(-path.stat().st_size // PAGE) for path in files)
    inodes = [f"nr_inodes={number}" for number in range(2, len(files) + 6)]
    few = list(range(1, 12))  # where the small files are written first
    some = chance.sample(range(12, pages), min(cases, pages - 12))
    return inodes + [f"size={PAGE * number}" for number in (*few, *sorted(some))]


def fill_all(folder: Path, kinds: Sequence[str], cases: int, seed: int = 0) -> dict[str, Result]:
    """Fill the disk of trainings of each kind; ``cases`` is the number of random sizes."""
    results = {}
    for name in kinds:
        killer = Killer(KINDS[name], folder / name, random.Random(seed))
        results[name] = Result()
        for limit in list_limits(killer.whole, cases, killer.chance):
            fill(killer, limit, results[name])
    return results


def main() -> int:
    """Fill, and print what came of it; returns 1 if a case was not as promised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=40, help="random sizes of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=["portable", "detectron2", "pretrain"])
    options = parser.parse_args()
    if not can_mount():
        sys.exit("this process may not mount a file system; run it as root")
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        results = fill_all(Path(folder), options.kinds, options.cases, options.seed)
    for name, result in results.items():
        print(f"{name:12} refused {result.refused}, whole {result.whole}")
        print(*(f"    {line}" for line in sorted(result.lines)), sep="\n")
        print(*(f"    FAULT {fault}" for fault in result.faults), sep="\n")
    return int(any(result.faults for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
