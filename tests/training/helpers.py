"""A small training with everything in it: random numbers, a DataLoader, checkpoints and metrics."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from resnext_det.training.checkpoint import LAST_CHECKPOINT, Checkpointer
from resnext_det.training.loop import Step, train_loop
from resnext_det.training.metrics import MetricsWriter
from resnext_det.training.optimizer import OptimizerSettings, build_optimizer
from resnext_det.training.schedule import LearningRateSchedule, ScheduleSettings, build_schedule
from resnext_det.training.state import TrainingState
from tests import fork_server

STEPS = 24
PERIOD = 4


class Toy(nn.Module):
    """Two losses of a small network with a batch norm; dropout draws from torch's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 2)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        x = torch.stack([sample["x"] for sample in batch])
        y = self.head(self.body(x))
        return {"loss_a": (y[:, 0] - x.sum(1)).square().mean(), "loss_b": y[:, 1].abs().mean()}


class Batches(IterableDataset):
    """Endless batches, a function of their number."""

    def __init__(self, start: int, size: int = 6) -> None:
        self.start, self.size = start, size

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        iteration = self.start
        while True:
            x = torch.randn(self.size, 4, generator=torch.Generator().manual_seed(iteration))
            yield [{"x": row, "file_name": f"{iteration}-{i}.jpg"} for i, row in enumerate(x)]
            iteration += 1


def build_toy_schedule() -> LearningRateSchedule:
    return build_schedule(ScheduleSettings(max_iter=STEPS, steps=(STEPS // 2,), warmup_iters=5))


def make_toy_state(output_dir: str | Path, *, seed: int = 3) -> TrainingState:
    torch.manual_seed(seed)
    model = Toy()
    optimizer = build_optimizer(model, OptimizerSettings(base_lr=0.02, weight_decay=1e-3))
    return TrainingState(model, optimizer, Checkpointer(output_dir))


def train_toy(state: TrainingState, **changed: Any) -> None:
    """The loop over the toy, all of it or as ``changed`` says."""
    arguments: dict[str, Any] = {
        "model": state.model,
        "optimizer": state.optimizer,
        "schedule": build_toy_schedule(),
        "batches": Batches(changed.get("start", 0)),
        "start": 0,
        "stop": STEPS,
        "device": torch.device("cpu"),
    }
    train_loop(**{**arguments, **changed})


def assert_same(one: Any, other: Any) -> None:
    """Equal nested containers, tensors to the last bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other):
            assert_same(left, right)
    else:
        assert one == other


Files = dict[str, tuple[int, bytes]]


def read_files(folder: Path) -> Files:
    """Read every file below a folder, with the time of its last change."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def drop_log(files: Files) -> Files:
    """Leave out log.txt, which goes on with every run."""
    return {name: file for name, file in files.items() if not name.endswith("log.txt")}


def run_in_another_process(target: Any, *args: Any) -> int | None:
    """Exit code of ``target(*args)``; a fork server loads torch once."""
    process = fork_server.get_context().Process(target=target, args=args)
    process.start()
    process.join(300)
    return process.exitcode


def draw_like_an_evaluation(step: Step) -> None:
    """An evaluation makes a DataLoader's iterator, which draws from torch's generator."""
    if step.iteration % 3 == 0:
        next(iter(DataLoader([0, 1])))


def run_toy(
    output_dir: str | Path,
    *,
    resume: bool = False,
    extra: Callable[[Step], None] = lambda step: None,
) -> TrainingState:
    """Train; with ``resume`` from the newest checkpoint, with other first weights and draws."""
    begun = resume and Checkpointer(output_dir).latest() is not None
    state = make_toy_state(output_dir, seed=99 if begun else 3)
    start = state.resume() if resume else 0
    with MetricsWriter(output_dir, total_steps=STEPS, start=start, progress_bar=False) as metrics:
        train_toy(
            state,
            batches=DataLoader(Batches(start), batch_size=None),
            start=start,
            after_step=[state.save_every(PERIOD), draw_like_an_evaluation, extra, metrics],
            save=state.save_after,
        )
    return state


def run_killed(output_dir: str, resume: bool, where: str, iteration: int) -> None:
    """Train and die by SIGKILL: after a step, within a checkpoint, or right before a rename."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    due = False

    def watch(step: Step) -> None:
        nonlocal due
        due = step.iteration >= iteration
        if due and where == "step":
            die()

    if where == "half a file":
        save = torch.save

        def save_half(state: Any, file: Any) -> None:
            save(state, file)
            if due:
                file.truncate(file.tell() // 2)
                die()

        torch.save = save_half
    if where in ("before the name", "before the pointer"):
        replace = os.replace
        dying_name = LAST_CHECKPOINT if where == "before the pointer" else ".pth"

        def replace_not(source: Any, target: Any) -> None:
            if due and str(target).endswith(dying_name):
                die()
            replace(source, target)

        os.replace = replace_not
    run_toy(output_dir, resume=resume, extra=watch)


def run_interrupted(output_dir: str, number: int, at: int) -> None:
    """Train, and send this process a signal before iteration ``at``; exit with 3 if orderly."""
    from resnext_det.training.interruption import TrainingInterrupted

    torch.set_num_threads(1)

    def send(step: Step) -> None:
        if step.iteration == at - 1:
            os.kill(os.getpid(), number)

    try:
        run_toy(output_dir, extra=send)
    except TrainingInterrupted as interrupted:
        Path(output_dir, "interrupted.txt").write_text(str(interrupted))
        raise SystemExit(3) from interrupted


def build_detectron2_trainer(folder: Path) -> Any:
    """detectron2's DefaultTrainer, with its hooks, over the toy model and its batches."""
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultTrainer, hooks

    torch.manual_seed(3)
    model = Toy()

    class Trainer(DefaultTrainer):
        @classmethod
        def build_model(cls, cfg: Any) -> nn.Module:
            return model

        @classmethod
        def build_train_loader(cls, cfg: Any) -> Any:
            return Batches(0)

        def build_hooks(self) -> list[Any]:
            period = self.cfg.SOLVER.CHECKPOINT_PERIOD
            return [hooks.LRScheduler(), hooks.PeriodicCheckpointer(self.checkpointer, period)]

    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.DEVICE = "cpu"
    solver = cfg.SOLVER
    solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY, solver.WARMUP_ITERS = 0.02, 0.9, 1e-3, 5
    solver.MAX_ITER, solver.STEPS, solver.CHECKPOINT_PERIOD = STEPS, (STEPS // 2,), PERIOD
    return Trainer(cfg)
