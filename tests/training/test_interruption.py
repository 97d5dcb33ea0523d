"""Test what an error between the steps leaves: a state from which a run ends like a whole one."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.training import distributed
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.interruption import StopRequest, TrainingInterrupted, leave_if_asked
from resnext_det.training.loop import Step
from resnext_det.training.processes import Processes, launch
from tests.training.helpers import (
    STEPS,
    Batches,
    assert_same,
    make_toy_state,
    run_toy,
    train_toy,
)

AT = 9


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without errors."""
    folder = tmp_path_factory.mktemp("whole")
    run_toy(folder)
    return folder


def assert_ends_like(folder: Path, whole: Path) -> None:
    """Resume, and compare everything in the last checkpoint with another run's."""
    run_toy(folder, resume=True)
    found, expected = (Checkpointer(out).load(out / "model_final.pth") for out in (folder, whole))
    assert_same(dict(found), dict(expected))
    lines = (folder / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [19, STEPS - 1]


class Breaking(Batches):
    """Batches of which one cannot be loaded."""

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for iteration, batch in enumerate(super().__iter__(), self.start):
            if iteration == AT:
                raise FileNotFoundError("image 17.png does not exist; put the file there")
            yield batch


def raise_at(error: Exception, at: int = AT) -> Callable[[Step], None]:
    """Make a callable that fails after a step, in place of an evaluation."""

    def evaluate(step: Step) -> None:
        torch.rand(3)  # an evaluation's draws are undone
        if step.iteration == at:
            raise error

    return evaluate


def test_a_missing_file_leaves_a_checkpoint(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("tests.training.helpers.Batches", Breaking)
        with pytest.raises(FileNotFoundError) as raised:
            run_toy(tmp_path)
    for words in ("17.png does not exist", "after iteration 8", "model_0000008.pth", "--resume"):
        assert words in str(raised.value)
    assert_ends_like(tmp_path, whole)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "results.json"), OSError, "results.json"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"), ValueError, "bad byte"),
    ],
)
def test_an_evaluation_that_fails_leaves_a_checkpoint(
    tmp_path: Path, whole: Path, error: Exception, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=rf"{words}.*model_0000009\.pth.*--resume"):
        run_toy(tmp_path, extra=raise_at(error))
    assert_ends_like(tmp_path, whole)


def test_another_error_keeps_its_type_and_a_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    error = KeyError("a bug")
    with pytest.raises(KeyError) as raised:
        run_toy(tmp_path, extra=raise_at(error))
    assert raised.value is error
    assert "KeyError: 'a bug'" in caplog.text and "model_0000009.pth" in caplog.text


def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"^nan$"):
        run_toy(tmp_path, extra=raise_at(FloatingPointError("nan")))
    assert not (tmp_path / "model_0000009.pth").exists()


def test_a_first_batch_that_fails_has_nothing_to_keep(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"put the file there$"):
        state = make_toy_state(tmp_path)
        train_toy(state, batches=Breaking(AT), start=AT, save=state.save_after)
    assert not list(tmp_path.iterdir())


def test_a_state_that_cannot_be_saved_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*anything: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Checkpointer, "save", fill)
    state = make_toy_state(tmp_path)
    words = "no image.*after iteration 9, and its state could not be saved: the disk is full"
    with pytest.raises(ValueError, match=words):
        train_toy(state, after_step=[raise_at(ValueError("no image"))], save=state.save_after)


def test_a_signal_ends_an_evaluation_at_once(tmp_path: Path, whole: Path) -> None:
    seen = []

    def evaluate(step: Step) -> None:
        if step.iteration == AT:
            for batch in leave_if_asked(range(5)):
                seen.append(batch)
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted, match=r"after iteration 9 .*model_0000009\.pth"):
        run_toy(tmp_path, extra=evaluate)
    assert seen == [0]
    assert_ends_like(tmp_path, whole)
    assert not StopRequest.is_noted() and list(leave_if_asked([1, 2])) == [1, 2]


class Hanging(Batches):
    """Batches of which one never comes, such as from a disk that does not answer."""

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for iteration, batch in enumerate(super().__iter__(), self.start):
            if iteration == AT:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(300)
            yield batch


def test_a_signal_ends_a_wait_for_a_batch(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as hanging:
        hanging.setattr("tests.training.helpers.Batches", Hanging)
        with pytest.raises(TrainingInterrupted, match=r"after iteration 8 .*model_0000008\.pth"):
            run_toy(tmp_path)
    assert_ends_like(tmp_path, whole)


def test_a_signal_before_the_first_step(tmp_path: Path) -> None:
    state = make_toy_state(tmp_path)
    with pytest.raises(TrainingInterrupted, match=r"after iteration 8 and left no checkpoint$"):
        train_toy(state, batches=Hanging(AT), start=AT, save=state.save_after)
    assert "before its first iteration and left" in str(TrainingInterrupted(None, -1))


class Unsendable(ValueError):
    """An error that does not survive pickling."""

    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


def fail_in_one(folder: str) -> list[tuple[str, str]]:
    """Let process 1 alone fail, in an evaluation and in loading; tell what all have raised."""
    torch.set_num_threads(1)
    mine = distributed.get_rank() == 1
    raised = []
    sent = raise_at(ValueError("no image") if mine else ValueError(), at=AT if mine else -1)
    lost = raise_at(Unsendable("lost") if mine else ValueError(), at=AT if mine else -1)
    breaking = Breaking(0) if mine else Batches(0)
    for name, changes in {
        "sent": {"after_step": [sent]},
        "lost": {"after_step": [lost]},
        "loading": {"batches": breaking},
    }.items():
        state = make_toy_state(Path(folder, name))
        try:
            train_toy(state, save=state.save_after, **changes)
        except (ValueError, OSError, RuntimeError) as error:
            raised.append((type(error).__name__, str(error)))
    return [one for ours in distributed.gather_objects(raised) for one in ours]


@pytest.mark.usefixtures("quick_start")
def test_where_one_process_fails_all_stop_with_a_checkpoint(tmp_path: Path) -> None:
    outcome = launch(fail_in_one, Processes(num_gpus=2), device="cpu", args=(str(tmp_path),))
    assert [kind for kind, _ in outcome] == [
        *("ValueError", "RuntimeError", "FileNotFoundError"),
        *("ValueError", "ValueError", "FileNotFoundError"),
    ]
    texts = [text for _, text in outcome]
    assert "process 1 failed: Unsendable: lost" in texts[1]
    for index in (0, 2, 3, 4, 5):
        assert "--resume" in texts[index], texts
    for name, iteration in {"sent": 9, "lost": 9, "loading": 8}.items():
        path = tmp_path / name / f"model_{iteration:07d}.pth"
        assert len(Checkpointer(tmp_path).load(path)["random_state"]) == 2
