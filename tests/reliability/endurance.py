"""Train for thousands of steps, and look whether memory, handles, threads or the step grow.

    python -m tests.reliability.endurance --steps 10000

A tiny detector with two loading processes, checkpoints and evaluations. Memory is that of the
process and of those it started. Some 8 minutes for 10,000 steps on a quiet machine.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.detection.helpers import as_flags, write_config, write_sets
from tests.reliability.kills import list_children
from tests.tools.helpers import start_tool

MIB = 2**20
GROWTH = 16.0  # MiB that memory may grow by from one fifth of the steps to the last
SLOWER = 1.2  # of the time of a step, in the same way


@dataclass(frozen=True)
class Sample:
    """Tell what a training held at one moment, and the time of a step since the sample before.

    The first sample's time holds the start of the program.
    """

    step: int
    memory: float  # MiB, of all its processes
    handles: int  # of the main process
    threads: int
    processes: int
    milliseconds: float


def measure(pid: int) -> tuple[float, int, int, int]:
    """Measure memory (MiB), handles, threads and the number of processes of a program."""
    family = [pid, *list_children(pid)]
    memory = sum(read_private(member) for member in family)
    status = Path(f"/proc/{pid}/status").read_text()
    threads = int(status.partition("Threads:")[2].split()[0])
    return memory, len(list(Path(f"/proc/{pid}/fd").iterdir())), threads, len(family)


def read_private(pid: int) -> float:
    """Read the memory of a process in MiB, of shared pages its share; 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return int(text.partition("\nPss:")[2].split()[0]) / 1024


def train(folder: Path, steps: int) -> list[Sample]:
    """Train, and take a sample every fiftieth of the steps; returns them all."""
    sets, config, out = as_flags(write_sets(folder)), write_config(folder), folder / "out"
    part = max(steps // 50, 1)
    changes = {
        **{"SOLVER.MAX_ITER": steps, "SOLVER.STEPS": "()", "SOLVER.CHECKPOINT_PERIOD": part},
        **{"SOLVER.BASE_LR": 0.001, "TEST.EVAL_PERIOD": steps // 5, "DATALOADER.NUM_WORKERS": 2},
        **{"MODEL.DEVICE": "cpu", "OUTPUT_DIR": out},
    }
    given = [word for pair in changes.items() for word in pair]
    flags = ("--no-report", "--config-file", config)
    process = start_tool("train_net", *flags, *sets, *given)
    # Read all along: a pipe that nobody reads is full after some thousand steps.
    pool = ThreadPoolExecutor(max_workers=1)
    told = pool.submit(process.communicate)
    samples: list[Sample] = []
    began = time.monotonic()
    for number in range(part - 1, steps, part):
        path = out / f"model_{number:07d}.pth"
        while not path.exists():
            if process.poll() is not None:
                raise AssertionError("".join(told.result()))
            time.sleep(0.01)
        now = time.monotonic()
        if process.poll() is None:
            try:
                held = measure(process.pid)
            except OSError:  # it has ended
                break
            samples.append(Sample(number + 1, *held, (now - began) / part * 1000))
        began = time.monotonic()
        if number + 1 < steps:
            path.unlink()
    output, errors = told.result(timeout=600)
    pool.shutdown()
    assert process.returncode == 0, output + errors
    return samples


def find_growth(samples: Sequence[Sample]) -> list[str]:
    """Compare the second fifth of the samples with the last; returns a line for what has grown."""
    fifth = max(len(samples) // 5, 1)
    early, late = samples[fifth : 2 * fifth], samples[-fifth:]
    found = []
    for name, allowed in {"memory": GROWTH, "handles": 0, "threads": 0, "processes": 0}.items():
        before, after = (
            statistics.median(getattr(s, name) for s in part) for part in (early, late)
        )
        if after > before + allowed:
            found.append(f"{name}: {before:g}, and {after:g} at the end")
    before, after = (statistics.median(s.milliseconds for s in part) for part in (early, late))
    if after > before * SLOWER:
        found.append(f"milliseconds of a step: {before:.1f}, and {after:.1f} at the end")
    return found


def main() -> int:
    """Train, print the samples and what has grown; returns 1 if something has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = train(Path(folder), options.steps)
    print("   step  memory/MiB  handles  threads  processes  ms/step")
    for sample in itertools.islice(samples, 0, None, 5):
        print(
            f"{sample.step:7} {sample.memory:11.1f} {sample.handles:8} {sample.threads:8} "
            f"{sample.processes:10} {sample.milliseconds:8.1f}"
        )
    grown = find_growth(samples)
    print(*(grown or ["nothing has grown"]), sep="\n")
    return int(bool(grown))


if __name__ == "__main__":
    sys.exit(main())
