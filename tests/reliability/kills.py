"""Kill trainings by SIGKILL at random moments, resume them, and compare them with whole ones.

    python -m tests.reliability.kills --number 200 --seed 0

Each case starts a tiny training, kills it (some twice), looks at what it left, resumes it and
compares weights, optimizer, random numbers and metrics with those of a run that nobody killed. A
table tells how many fell into which phase. Some 8 seconds a case on a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnext_det.training.checkpoint import Checkpointer
from tests.classification import helpers as classification
from tests.detection.helpers import as_flags, json_lines, write_config, write_sets
from tests.fork_server import Program
from tests.tools.helpers import ROOT, make_environment, start_tool
from tests.training.helpers import assert_same

VICTIM = Path(__file__).with_name("victim.py")
PATIENCE = 300.0  # seconds, for a run to end
GRACE = 60.0  # seconds, for what a killed process started to end by itself
_TESTS = ("bbox/", "test/")  # other numbers are medians over the steps since a run was resumed
_STATE = ("model", "optimizer", "scheduler", "iteration", "random_state")
_DETECTION = {
    "SOLVER.MAX_ITER": 24,
    "SOLVER.STEPS": "(16,)",
    "SOLVER.CHECKPOINT_PERIOD": 4,
    "TEST.EVAL_PERIOD": 8,
}
_CLASSIFICATION = {"SOLVER.CHECKPOINT_EPOCHS": 1, "TEST.EVAL_EPOCHS": 1}


@dataclass(frozen=True)
class Kind:
    """Say which training is killed.

    Attributes:
        tool: of tools/.
        engine: of a detector; None for a classifier.
        ranks: processes that train.
        start: "fork" starts each rank from a server that has torch loaded, and phases are known;
            "spawn" is --num-gpus, "torchrun" is torchrun: these are killed at any time; "restarts"
            is torchrun --max-restarts, which has to go on by itself where a process is killed.
    """

    tool: str
    engine: str | None = None
    ranks: int = 1
    start: str = "fork"


KINDS = {
    "portable": Kind("train_net", "portable"),
    "detectron2": Kind("train_net", "detectron2"),
    "pretrain": Kind("pretrain"),
    "portable-2": Kind("train_net", "portable", ranks=2),
    "pretrain-2": Kind("pretrain", ranks=2),
    "portable-spawn": Kind("train_net", "portable", ranks=2, start="spawn"),
    "portable-torchrun": Kind("train_net", "portable", ranks=2, start="torchrun"),
    "portable-restarts": Kind("train_net", "portable", ranks=2, start="restarts"),
}
POINTS = ("loading", "step", "evaluation", "write", "before", "after", "final", "end")


@dataclass
class Result:
    """Tell what came of some cases.

    Attributes:
        killed: cases by the phase in which the process died.
        ended: runs that were over before they could be killed.
        faults: a line for each that was not as promised.
    """

    killed: Counter[str] = field(default_factory=Counter)
    ended: int = 0
    faults: list[str] = field(default_factory=list)


class Killer:
    """Kill runs of one kind; a whole run, made first, tells the phases and what is right.

    Args:
        kind: of the training.
        folder: for all files.
        chance: chooses what is killed when.
    """

    def __init__(self, kind: Kind, folder: Path, chance: random.Random) -> None:
        self.kind, self.folder, self.chance = kind, folder, chance
        self.result = Result()
        folder.mkdir(parents=True, exist_ok=True)
        if kind.engine is None:
            config = classification.write_config(folder, classification.write_images(folder))
            self.flags, changes = ["--config-file", str(config)], _CLASSIFICATION
        else:
            sets = as_flags(write_sets(folder))
            config = write_config(folder)
            self.flags = ["--no-report", "--engine", kind.engine, "--config-file", str(config)]
            self.flags += sets
            changes = _DETECTION
        self.changes = [str(word) for pair in changes.items() for word in pair]
        self.whole = folder / "whole"
        began = time.monotonic()
        self.finish(self.start(self.whole, []), self.whole)
        self.seconds = time.monotonic() - began
        self.marks = read_marks(self.whole)
        self.expected = self.read_end(self.whole)

    def start(self, out: Path, flags: list[str], death: str = "") -> list[Any]:
        """Start a run; returns its processes, that of rank 0 first."""
        workers = self.chance.choice((0, 0, 2)) if out != self.whole else 0
        given = [*flags, *self.flags, *self.changes, "DATALOADER.NUM_WORKERS", str(workers)]
        given += ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(out)]
        tool = ROOT / "tools" / f"{self.kind.tool}.py"
        if self.kind.start == "spawn":
            return [start_tool(self.kind.tool, "--num-gpus", self.kind.ranks, *given)]
        if self.kind.start in ("torchrun", "restarts"):
            torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
            program = (*torchrun, "--nproc-per-node", str(self.kind.ranks))
            if self.kind.start == "restarts":
                program += ("--max-restarts", "3")
                given = ["--resume", *(word for word in given if word != "--resume")]
            return [start_tool(self.kind.tool, *given, program=program)]
        group = {"WORLD_SIZE": self.kind.ranks, "LOCAL_WORLD_SIZE": self.kind.ranks}
        group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": find_free_port()}
        processes = []
        for rank in range(self.kind.ranks):
            variables: dict[str, Any] = {"MARKS": locate_marks(out, rank)}
            variables["DIE"] = death if rank == 0 else ""
            if self.kind.ranks > 1:
                variables |= {**group, "RANK": rank, "LOCAL_RANK": rank}
            environment = {name: str(value) for name, value in variables.items()}
            environment = make_environment() | environment
            processes.append(Program(VICTIM, [str(tool), *given], environment, Path.cwd()))
        return processes

    def finish(self, processes: Sequence[Any], out: Path) -> None:
        """Wait for the end of a run that has to succeed."""
        for process in processes:
            output, errors = process.communicate(timeout=PATIENCE)
            if process.returncode != 0:
                raise AssertionError(f"{out}: status {process.returncode}: {output}{errors}")

    def run(self, number: int) -> None:
        """Do one case; what is wrong is noted in ``result``."""
        out = self.folder / f"case_{number:04d}"
        story: list[str] = []
        try:
            for _ in range(self.chance.choice((1, 1, 1, 2))):
                self.kill(out, story)
                self.check_left(out)
            self.finish(self.start(out, ["--resume"]), out)
            self.check_end(out)
        except (AssertionError, ValueError, OSError, subprocess.TimeoutExpired) as error:
            self.result.faults.append(f"{out.name} ({', '.join(story)}): {str(error)[-2000:]}")
            return
        remove(out)

    def kill(self, out: Path, story: list[str]) -> None:
        """Start a run and kill it; ``story`` gets in which phase."""
        flags = ["--resume"] * out.exists()
        for rank in range(self.kind.ranks):  # or those of the first kill would be counted
            locate_marks(out, rank).unlink(missing_ok=True)
        if self.kind.start != "fork":
            (process,) = self.start(out, flags)
            moment = self.chance.uniform(0, self.seconds)
            time.sleep(moment)
            family = [process.pid, *list_children(process.pid)]
            if self.kind.start == "restarts":
                family = family[1:]  # the launcher starts them again; it may have none any more
            victims = [self.chance.choice(family)] if family else []
            phase = f"{self.kind.start}, {'launcher' if process.pid in victims else 'child'}"
            story.append(f"{phase} after {moment:.1f} s")
            self.end([process], victims, phase)
            return
        point = self.chance.choice(POINTS)
        death, wait = self.choose(point)
        story.append(point if not death else f"{point} ({death})")
        processes = self.start(out, flags, death)
        victim = processes[0]
        if wait is not None:
            phase, count, delay = wait
            deadline = time.monotonic() + PATIENCE
            while sum(mark[1] == phase for mark in read_marks(out)) < count:
                if victim.poll() is not None or time.monotonic() > deadline:
                    break
                time.sleep(0.001)
            time.sleep(delay)
            victim = self.chance.choice(processes)
        self.end(processes, [victim.pid] if wait is not None else [], point)

    def choose(self, point: str) -> tuple[str, tuple[str, int, float] | None]:
        """Choose a moment of the whole run: one for the victim itself, or one for this process."""
        times = [time for time, *_ in self.marks]
        writes = [mark for mark in self.marks if mark[1] == "write"]
        renamings = sum(mark[1] == "rename" for mark in self.marks)
        size = max(path.stat().st_size for path in self.whole.glob("*.pth"))
        if point in ("write", "final"):
            final = [n for n, mark in enumerate(writes, 1) if "model_final" in mark[2]]
            count = self.chance.choice(final or [1]) if point == "final" else 0
            count = count or self.chance.randint(1, len(writes))
            return f"write:{count}:{self.chance.randrange(size)}", None
        if point in ("before", "after"):
            return f"{point}:{self.chance.randint(1, renamings)}", None
        if point == "end":
            return f"after:{self.chance.randint(renamings - 2, renamings)}", None
        places = [n for n, mark in enumerate(self.marks[:-1]) if mark[1] == point]
        place = self.chance.choice(places)
        count = places.index(place) + 1
        return "", (point, count, self.chance.uniform(0, times[place + 1] - times[place]))

    def end(self, processes: Sequence[Any], victims: Sequence[int], phase: str) -> None:
        """Kill, and wait until all that belongs to the run has ended by itself."""
        family = {child for process in processes for child in list_children(process.pid)}
        runs = bool(victims) and any(process.poll() is None for process in processes)
        send_signal(victims, signal.SIGKILL)
        for process in processes:
            self.await_end(process, processes, family)
        over = all(process.returncode == 0 for process in processes)
        if self.kind.start == "restarts":
            assert over, processes[0].communicate()[1][-2000:]
            over = not runs
        if over:
            self.result.ended += 1
        else:
            self.result.killed[phase] += 1
        deadline = time.monotonic() + GRACE
        while left := [pid for pid in family if is_alive(pid)]:
            if time.monotonic() > deadline:
                raise AssertionError(f"processes {left} outlive their parent by {GRACE:.0f} s")
            time.sleep(0.05)

    def await_end(self, process: Any, processes: Sequence[Any], family: set[int]) -> None:
        """Wait for the end of a process of a killed run.

        One that was started without a launcher, and tells that it waits for one that has died
        before they met, is ended as a launcher would end it.
        """
        deadline = time.monotonic() + (GRACE + 30 if self.kind.start != "restarts" else PATIENCE)
        while True:
            try:
                process.communicate(timeout=1)
                return
            except subprocess.TimeoutExpired:
                died = any(other.poll() not in (None, 0) for other in processes)
                if died and self.kind.start == "fork" and "Waiting for process" in process.peek():
                    process.send_signal(signal.SIGTERM)
                if time.monotonic() > deadline:
                    send_signal([process.pid, *family], signal.SIGABRT)  # tells where it stands
                    told = "".join(process.communicate(timeout=30))[-3000:]
                    raise AssertionError(f"process {process.pid} does not end: {told}") from None

    def check_left(self, out: Path) -> None:
        """Look at what a killed run left: every file under a valid name is whole."""
        for path in out.glob("*.pth"):
            Checkpointer(out).load(path)
        newest = max((read_iteration(path) for path in out.glob("model_*.pth")), default=-1)
        latest = Checkpointer(out).latest() if out.is_dir() else None
        kept = read_iteration(latest) if latest is not None else -1
        allowed = {newest} | {read_iteration(p) for p in sorted(out.glob("model_*.pth"))}
        assert latest is None or kept in allowed, f"last_checkpoint names {latest}"

    def check_end(self, out: Path) -> None:
        """Compare a resumed run with the whole one."""
        found = self.read_end(out)
        # What asks a run to stop, as the end of its launcher, lets it leave one more checkpoint.
        found["files"] = {
            name
            for name in found["files"]
            if name in self.expected["files"] or not re.fullmatch(r"model_\d{7}\.pth", name)
        }
        assert_same(found["state"], self.expected["state"])
        for name in ("metrics", "files"):
            assert found[name] == self.expected[name], f"{name}: {found[name]}"

    def read_end(self, out: Path) -> dict[str, Any]:
        """Read what has to be equal."""
        newest = Checkpointer(out).latest()
        assert newest is not None
        resumable, final = (Checkpointer(out).load(p) for p in (newest, out / "model_final.pth"))
        state = {name: resumable[name] for name in _STATE} | {"final": final["model"]}
        last = resumable["iteration"]
        paths = (path.relative_to(out) for path in out.rglob("*") if path.is_file())
        names = {str(path) for path in paths if not path.name.startswith(("events.", "marks"))}
        metrics: dict[int, dict[str, Any]] = {}
        for line in json_lines(out / "metrics.json"):
            # An evaluation that is caught up with stands after the last step, maybe once more.
            row = metrics.setdefault(min(line["iteration"], last), {})
            tested = {name: line[name] for name in line if name.startswith(_TESTS)}
            assert all(row[name] == tested[name] for name in row.keys() & tested), f"{line}, {row}"
            row |= tested
        metrics = {iteration: row for iteration, row in metrics.items() if row}
        return {"state": state, "files": names, "metrics": metrics}


def send_signal(pids: Iterable[int], number: int) -> None:
    """Send a signal to those of the processes that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def locate_marks(out: Path, rank: int) -> Path:
    """Name the file of a rank's marks, beside the folder of the run."""
    return out.with_name(f"{out.name}.marks.{rank}")


def read_marks(out: Path) -> list[tuple[float, str, str]]:
    """Read the marks of rank 0: time, phase and detail."""
    path = locate_marks(out, 0)
    lines = path.read_text().splitlines() if path.exists() else []
    split = (line.split(" ", 2) for line in lines if line.count(" ") >= 2)
    return [(float(moment), phase, detail) for moment, phase, detail in split]


def read_iteration(path: Path) -> int:
    """Read the number in the name of a checkpoint; that of model_final is infinite for us."""
    digits = path.stem.removeprefix("model_")
    return int(digits) if digits.isdigit() else sys.maxsize


def list_children(pid: int) -> list[int]:
    """List the living processes below one, its children's children too."""
    found: list[int] = []
    for parent in (pid, *_read_children(pid)):
        found += [child for child in _read_children(parent) if child not in found]
    return found


def _read_children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            yield from map(int, (task / "children").read_text().split())
        except OSError:  # the thread has ended
            continue


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def find_free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def remove(out: Path) -> None:
    """Remove the folder of a case and its marks."""
    import shutil

    shutil.rmtree(out, ignore_errors=True)
    for marks in out.parent.glob(f"{out.name}.marks.*"):
        marks.unlink()


def kill_all(
    folder: Path, number: int, kinds: Sequence[str] = tuple(KINDS), seed: int = 0
) -> dict[str, Result]:
    """Do ``number`` cases, dealt out to the kinds in turn; returns the results of each."""
    killers = {
        name: Killer(KINDS[name], folder / name, random.Random(f"{seed} {name}"))
        for name in kinds[:number]
    }
    with contextlib.suppress(KeyboardInterrupt):  # what came so far is told
        for index in range(number):
            killer = killers[kinds[index % len(kinds)]]
            killer.run(index)
            faults = sum(len(each.result.faults) for each in killers.values())
            print(f"{index + 1} of {number} cases, {faults} faults", file=sys.stderr)
    return {name: killer.result for name, killer in killers.items()}


def main() -> int:
    """Kill, and print a table and the faults; returns 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", type=Path, help="write the table into this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = kill_all(Path(folder), options.number, options.kinds, options.seed)
    table = {
        name: dict(result.killed) | {"ended": result.ended} for name, result in results.items()
    }
    faults = [f"{name}: {fault}" for name, result in results.items() for fault in result.faults]
    for name, row in table.items():
        print(f"{name:18}", ", ".join(f"{phase} {count}" for phase, count in sorted(row.items())))
    killed = sum(sum(result.killed.values()) for result in results.values())
    print(f"{killed} SIGKILLs; {len(faults)} runs were not equal, lost something or left it over")
    print(*faults, sep="\n")
    if options.json:
        options.json.write_text(json.dumps({"table": table, "faults": faults}, indent=2))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
