"""Test two processes: messages, equal gradients and interrupts; and devices."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from resnext_det.training import distributed
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.interruption import StopRequest, TrainingInterrupted
from resnext_det.training.loop import Step, train_loop
from resnext_det.training.metrics import MetricsWriter
from resnext_det.training.optimizer import OptimizerSettings, build_optimizer
from resnext_det.training.processes import Processes, launch
from resnext_det.training.setup import setup_logging
from resnext_det.training.state import TrainingState
from tests.training.helpers import build_toy_schedule

BATCH, STEPS = 6, 20
TWO = Processes(num_gpus=2)


class Regression(nn.Module):
    """A mean loss, so that the mean of two halves is the whole."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.body(x)[:, 0] - x.sum(1)).square().mean()}


def train_share(
    output_dir: str, interrupt: Literal["itself"] | int | None = None
) -> dict[str, Any]:
    """Train on this process's share of each batch; returns what the test looks at.

    Args:
        interrupt: who gets a signal from process 1 after iteration 12: "itself", the process of
            this number, or no one.
    """
    torch.set_num_threads(1)
    setup_logging(output_dir, console=False)
    rank, size = distributed.get_rank(), distributed.get_world_size()
    share = distributed.divide_batch(BATCH, size)
    state_model = Regression()
    optimizer = build_optimizer(state_model, OptimizerSettings(base_lr=0.1))
    model = distributed.distribute(state_model, torch.device("cpu"))
    state = TrainingState(model, optimizer, Checkpointer(output_dir))
    torch.manual_seed(rank)
    start = state.resume()

    def batches() -> Any:
        for iteration in range(start, STEPS):
            whole = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(iteration))
            yield whole[rank * share : (rank + 1) * share]

    gradients: list[torch.Tensor] = []

    def look(step: Step) -> None:
        gradients.append(
            torch.cat([p.grad.flatten() for p in state_model.parameters() if p.grad is not None])
        )
        if step.iteration == 12 and rank == 1 and interrupt == "itself":
            os.kill(os.getpid(), signal.SIGINT)
        elif step.iteration == 12 and rank == 1 and interrupt is not None:
            os.kill(interrupt, signal.SIGTERM)
            while not StopRequest.is_noted():  # the last to be told
                time.sleep(0.01)

    with MetricsWriter(output_dir, total_steps=STEPS, start=start, progress_bar=False) as metrics:
        train_loop(
            model=model,
            optimizer=optimizer,
            schedule=build_toy_schedule(),
            batches=batches(),
            start=start,
            stop=STEPS,
            device=torch.device("cpu"),
            after_step=[state.save_every(10), look, metrics],
            save=state.save_after,
        )
    return {
        "start": start,
        "gradients": gradients,
        "weights": {
            name: tensor.clone() for name, tensor in distributed.unwrap(model).state_dict().items()
        },
        "ranks": distributed.gather_objects((rank, distributed.get_local_rank())),
        "mean": distributed.all_reduce_mean({"b": rank + 1.0, "a": 4.0 * rank}),
        "any": (distributed.is_any_true(rank == size - 1), distributed.is_any_true(False)),
        "sent": distributed.broadcast_object({"from": rank}),
        "wrapped": model is not state_model,
    }


def train_and_resume(folder: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """A training that one process interrupts, and that is resumed, ends like a whole one."""
    whole = train_share(f"{folder}/two")
    message = "was not interrupted"
    try:
        train_share(f"{folder}/stopped", "itself")
    except TrainingInterrupted as interrupted:
        message = str(interrupted)
    return whole, message, train_share(f"{folder}/stopped")


def work_in_turn(folder: str, seconds: float, patience: float) -> bool:
    """Let the main process make a folder in some time; tell whether the other finds it."""
    with distributed.run_main_process_first(timedelta(seconds=patience)):
        if distributed.get_rank() == 0:
            time.sleep(seconds)
            Path(folder).mkdir()
        found = Path(folder).is_dir()
    return all(distributed.gather_objects(found))


@pytest.mark.usefixtures("quick_start")
def test_the_main_process_is_first(tmp_path: Path) -> None:
    assert launch(work_in_turn, TWO, device="cpu", args=(str(tmp_path / "made"), 1.0, 60.0))
    with pytest.raises(Exception, match=r"(?i)timed out"):
        launch(work_in_turn, TWO, device="cpu", args=(str(tmp_path / "late"), 3.0, 1.0))


def fail_first(folder: str) -> None:
    """Let the main process fail in what it does first; the other goes on to the common end."""
    with (
        distributed.fail_together(),
        distributed.run_main_process_first(timedelta(seconds=60)),
    ):
        if distributed.is_main_process():
            raise FileNotFoundError(f"{folder} is gone")
        Path(folder, "second").touch()


@pytest.mark.usefixtures("quick_start")
def test_the_main_process_fails_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is gone"):
        launch(fail_first, TWO, device="cpu", args=(str(tmp_path),))
    assert (tmp_path / "second").exists()


@pytest.mark.usefixtures("quick_start")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    alone = launch(train_share, device="cpu", args=(str(tmp_path / "one"),))
    together, message, resumed = launch(train_and_resume, TWO, device="cpu", args=(str(tmp_path),))
    assert not alone["wrapped"] and together["wrapped"]
    for one, two in zip(alone["gradients"], together["gradients"]):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together["weights"], alone["weights"], rtol=1e-5, atol=1e-6)
    assert alone["ranks"] == [(0, 0)] and together["ranks"] == [(0, 0), (1, 1)]
    assert alone["mean"] == {"a": 0.0, "b": 1.0} and together["mean"] == {"a": 2.0, "b": 1.5}
    assert alone["any"] == together["any"] == (True, False)
    assert together["sent"] == {"from": 0}

    one, two = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")
    )
    assert two["total_loss"] == pytest.approx(one["total_loss"], rel=1e-5)
    assert (tmp_path / "two" / "log.txt").exists() and (tmp_path / "two" / "log.txt.rank1").exists()
    contents = Checkpointer(tmp_path / "two").load(tmp_path / "two" / "model_final.pth")
    assert contents["model"].keys() == alone["weights"].keys()
    states = contents["random_state"]
    assert len(states) == 2 and not torch.equal(states[0]["cpu"], states[1]["cpu"])

    # The first checkpoint of two processes goes on in one, to the weights of two.
    elastic = tmp_path / "elastic"
    elastic.mkdir()
    shutil.copy(tmp_path / "two" / "model_0000009.pth", elastic)
    (elastic / "last_checkpoint").write_text("model_0000009.pth")
    went_on = launch(train_share, device="cpu", args=(str(elastic),))
    assert went_on["start"] == 10
    assert "a training by 2 processes, and there are 1" in (elastic / "log.txt").read_text()
    torch.testing.assert_close(went_on["weights"], together["weights"], rtol=1e-5, atol=1e-6)

    assert "model_0000012.pth" in message and "--resume" in message
    assert resumed["start"] == 13
    for name, tensor in together["weights"].items():
        assert torch.equal(resumed["weights"][name], tensor)


@pytest.mark.usefixtures("quick_start")
def test_a_signal_to_the_launching_process_stops_all(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted, match=r"model_00000\d\d\.pth.*--resume") as interrupted:
        launch(train_share, TWO, device="cpu", args=(str(tmp_path), os.getpid()))
    checkpoint = interrupted.value.checkpoint
    assert checkpoint is not None
    assert Checkpointer(tmp_path).load(checkpoint)["iteration"] == interrupted.value.iteration >= 12


def test_shares_of_a_batch() -> None:
    assert distributed.divide_batch(16, 8) == 2
    with pytest.raises(
        ValueError, match=r"16 images does not divide among 3 processes.*multiple of 3, as 15"
    ):
        distributed.divide_batch(16, 3)
    with pytest.raises(ValueError, match="as 4"):
        distributed.divide_batch(1, 4)


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cpu", "cpu:0", "auto"):
        assert distributed.resolve_device(name) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is 'cuda'.*no GPU.*MODEL\.DEVICE cpu"):
        distributed.resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, index in (("cuda", 0), ("auto", 0), ("cuda:1", 1)):
        assert distributed.resolve_device(name) == torch.device("cuda", index)
    with pytest.raises(ValueError, match=r"cuda:5.*cuda:1"):
        distributed.resolve_device("cuda:5")
    with pytest.raises(ValueError, match=r"cuda:256.*cuda:1"):  # torch takes it for cuda:0
        distributed.resolve_device("cuda:256")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "no torch device; write auto, cuda or cpu") for name in ("gpu", "CUDA", "", "0")),
        *((name, "no torch device; write auto, cuda or cpu") for name in ("cuda:", "cuda:x")),
        *((name, "never tried; write auto, cpu or cuda") for name in ("mps", "xpu", "meta:0")),
        ("hip", "never tried; .* cuda, which is torch's name of AMD's GPUs too"),
        ("cpu:3", "one CPU device; write cpu"),
    ],
)
def test_devices_that_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^--device is '{name}', .*{reason}"):
        distributed.resolve_device(name, setting="--device")
