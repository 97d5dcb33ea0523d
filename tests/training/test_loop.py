"""Test the loop: steps against plain PyTorch, errors, and exactly resumed runs."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resnext_det.signals import STOP_SIGNALS
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.interruption import StopRequest, TrainingInterrupted
from resnext_det.training.loop import LossWatch, Step
from resnext_det.training.optimizer import ClippingSettings, build_clipper
from resnext_det.training.state import TrainingState
from tests.training.helpers import (
    PERIOD,
    STEPS,
    Batches,
    assert_same,
    build_toy_schedule,
    make_toy_state,
    run_in_another_process,
    run_interrupted,
    run_killed,
    run_toy,
    train_toy,
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the last checkpoint of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run_toy(folder)
    return Checkpointer(folder).load(folder / "model_final.pth")


def assert_ended_like(folder: Path, uninterrupted: dict[str, Any]) -> None:
    assert_same(dict(Checkpointer(folder).load(folder / "model_final.pth")), uninterrupted)
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [19, STEPS - 1]


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16])
def test_steps_equal_plain_pytorch(
    tmp_path: Path, amp_dtype: torch.dtype | None, clipped: bool
) -> None:
    ours, plain = make_toy_state(tmp_path), make_toy_state(tmp_path)
    seen: list[Step] = []
    clip = build_clipper(ClippingSettings(clipped, "norm", 0.1))
    torch.manual_seed(7)
    train_toy(ours, stop=8, amp_dtype=amp_dtype, clip=clip, after_step=[seen.append])

    torch.manual_seed(7)
    plain.model.train()
    scheduler = torch.optim.lr_scheduler.LambdaLR(plain.optimizer, build_toy_schedule())
    for iteration, batch in zip(range(8), Batches(0)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp_dtype is not None):
            losses = plain.model(batch)
        plain.optimizer.zero_grad()
        (losses["loss_a"] + losses["loss_b"]).backward()
        if clipped:
            for parameter in plain.model.parameters():
                nn.utils.clip_grad_norm_(parameter, 0.1)
        assert_same(seen[iteration].losses, {name: loss.detach() for name, loss in losses.items()})
        assert [seen[iteration].learning_rate] == scheduler.get_last_lr()[:1]
        plain.optimizer.step()
        scheduler.step()
    assert_same(dict(ours.model.state_dict()), dict(plain.model.state_dict()))
    assert [step.iteration for step in seen] == list(range(8))
    assert all(step.seconds >= step.data_seconds >= 0 for step in seen)


# The process dies after iteration 11, 12 or so; checkpoints are due after 3, 7, 11, 15, ...
@pytest.mark.parametrize("where", ["step", "half a file", "before the name", "before the pointer"])
def test_killed_and_resumed_equals_uninterrupted(
    tmp_path: Path, where: str, uninterrupted: dict[str, Any]
) -> None:
    # Not 19 the second time: a kill between checkpoint and metrics line loses the line.
    iteration = random.randrange(1, STEPS - 2 * PERIOD - 1)
    for resume, at in [(False, iteration), (True, iteration + PERIOD)]:
        exit_code = run_in_another_process(run_killed, str(tmp_path), resume, where, at)
        assert exit_code == -signal.SIGKILL, f"not killed at {at}"
    assert not (tmp_path / "model_final.pth").exists()
    run_toy(tmp_path, resume=True)
    assert_ended_like(tmp_path, uninterrupted)


def test_resuming_matters(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    """The comparison above can fail: without the checkpoint's random numbers weights differ."""
    run_toy(tmp_path)
    for name in ("model_final.pth", "model_0000019.pth", "model_0000023.pth"):
        (tmp_path / name).unlink()
    middle = Checkpointer(tmp_path).load(tmp_path / "model_0000015.pth")
    Checkpointer(tmp_path).save("model_0000015", {**middle, "random_state": None})
    run_toy(tmp_path, resume=True)
    found = Checkpointer(tmp_path).load(tmp_path / "model_final.pth")["model"]
    assert not torch.equal(found["head.weight"], uninterrupted["model"]["head.weight"])


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_leaves_a_checkpoint(
    tmp_path: Path, number: signal.Signals, uninterrupted: dict[str, Any]
) -> None:
    assert run_in_another_process(run_interrupted, str(tmp_path), number, 10) == 3
    message = (tmp_path / "interrupted.txt").read_text()
    assert "iteration 9" in message and "model_0000009.pth" in message and "--resume" in message
    run_toy(tmp_path, resume=True)
    assert_ended_like(tmp_path, uninterrupted)


def test_signals_within_the_loop(tmp_path: Path) -> None:
    state = make_toy_state(tmp_path)

    def interrupt(step: Step) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted) as interrupted:
        train_toy(state, after_step=[state.save_every(1), interrupt], save=state.save_after)
    assert interrupted.value.checkpoint == tmp_path / "model_0000000.pth"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert isinstance(interrupted.value, KeyboardInterrupt)
    with pytest.raises(TrainingInterrupted, match="no checkpoint"):
        train_toy(state, after_step=[interrupt])


def test_a_second_interrupt_stops_at_once() -> None:
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.is_made()
        with pytest.raises(KeyboardInterrupt) as error:
            os.kill(os.getpid(), signal.SIGINT)
    assert not isinstance(error.value, TrainingInterrupted)


class Diverging(nn.Module):
    """A loss that is NaN, or a model that raises, at its third batch."""

    def __init__(self, raises: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.raises, self.calls = raises, 0

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        self.calls += 1
        if self.calls == 3 and self.raises:
            raise FloatingPointError("the boxes are not finite")
        return {
            "loss_a": self.weight * (float("nan") if self.calls == 3 else 1),
            "loss_b": self.weight,
        }


@pytest.mark.parametrize(
    ("raises", "words"), [(False, "loss_a nan, loss_b 0."), (True, "the boxes are not finite")]
)
def test_divergence_names_the_step_the_images_and_remedies(
    raises: bool, words: str, tmp_path: Path
) -> None:
    model = Diverging(raises)
    state = TrainingState(
        model, torch.optim.SGD(model.parameters(), lr=0.1), Checkpointer(tmp_path)
    )
    with pytest.raises(FloatingPointError) as error:
        train_toy(state, after_step=[state.save_every(1)])
    for word in ("iteration 2", words, "2-0.jpg", "2-5.jpg", "BASE_LR", "CLIP_GRADIENTS"):
        assert word in str(error.value)
    assert not (tmp_path / "model_0000002.pth").exists()


def test_losses_seen_late_still_name_their_step() -> None:
    """On a GPU the losses are looked at every 20 steps."""
    watch = LossWatch(torch.device("cuda"))  # which only says how often to look
    for iteration, batch in zip(range(10), Batches(0)):
        value = torch.tensor(float("inf") if iteration >= 4 else 1.0)
        watch.look(iteration, batch, {"loss": value}, last=False)
    with pytest.raises(FloatingPointError, match=r"iteration 4: the losses are loss inf.*4-0\.jpg"):
        watch.check()


def test_wrong_use_is_named(tmp_path: Path) -> None:
    state = make_toy_state(tmp_path)
    with pytest.raises(ValueError, match="bfloat16"):
        train_toy(state, amp_dtype=torch.float16)
    with pytest.raises(ValueError, match="ended before iteration 2"):
        train_toy(state, batches=[batch for _, batch in zip(range(2), Batches(0))])
    with pytest.raises(ValueError, match="dict of scalar losses"):
        train_toy(state, model=nn.Identity())
    with pytest.raises(ValueError, match="CHECKPOINT_PERIOD is 0"):
        state.save_every(0)


def test_nothing_is_left_to_train(tmp_path: Path) -> None:
    run_toy(tmp_path)
    state = make_toy_state(tmp_path)
    assert state.resume() == STEPS
    train_toy(state, start=STEPS, batches=[])
