"""Checkpoint files: their names and layout, what is refused, and the way to detectron2 and back."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resnext_det.training.checkpoint import Checkpointer, load_model_state
from resnext_det.training.optimizer import OptimizerSettings, build_optimizer
from resnext_det.training.state import TrainingState
from tests.training.helpers import (
    PERIOD,
    STEPS,
    Toy,
    assert_same,
    build_detectron2_trainer,
    build_toy_schedule,
    make_toy_state,
    run_toy,
    train_toy,
)


class RunsCode:
    """An object whose unpickling would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_names_and_keys_are_detectron2s(tmp_path: Path) -> None:
    state = run_toy(tmp_path)
    names = [f"model_{iteration:07d}.pth" for iteration in range(PERIOD - 1, STEPS, PERIOD)]
    assert sorted(path.name for path in tmp_path.glob("*.p*")) == sorted(
        [*names, "model_final.pth"]
    )
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    contents = Checkpointer(tmp_path).load(tmp_path / "model_0000007.pth")
    assert_same(contents, torch.load(tmp_path / "model_0000007.pth", weights_only=True))
    assert contents.keys() == {
        "model",
        "optimizer",
        "scheduler",
        "iteration",
        "random_state",
        "trainer",
        "training_sets",  # which detectron2 passes over
    }
    assert contents["iteration"] == 7
    assert contents["model"].keys() == state.model.state_dict().keys()
    rates = [
        group["initial_lr"] * build_toy_schedule()(8)
        for group in contents["optimizer"]["param_groups"]
    ]
    assert [group["lr"] for group in contents["optimizer"]["param_groups"]] == rates
    assert contents["scheduler"] == {"base_lrs": [0.02] * len(rates), "last_epoch": 8}
    ours = contents["trainer"]["_trainer"]["optimizer"]["state"][0]["momentum_buffer"]
    assert (
        ours.data_ptr() == contents["optimizer"]["state"][0]["momentum_buffer"].data_ptr()
    )  # stored once


def test_old_ones_go_where_asked(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, max_to_keep=2)
    for iteration in range(4):
        path = checkpointer.save(f"model_{iteration:07d}", {"model": {}})
        os.utime(path, (100 - iteration,) * 2)  # as in a copied folder, where times say nothing
    checkpointer.save("model_final", {"model": {}})
    kept = {"model_0000002.pth", "model_0000003.pth", "model_final.pth", "last_checkpoint"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    with pytest.raises(ValueError, match="max_to_keep is 0"):
        Checkpointer(tmp_path, max_to_keep=0)


def test_a_failed_save_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("model_0000000", {"model": {"a": torch.ones(3)}})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"model_0000001\.pth.*No space left.*--resume"):
        checkpointer.save("model_0000001", {"model": {"a": torch.zeros(3)}})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def flip_bit(path: Path) -> None:
    """Change one bit of a tensor's data."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(100).numpy().tobytes())] ^= 1
    path.write_bytes(content)


# What can befall last_checkpoint, and the newest file that it names.
FAULTS: dict[str, Callable[[Path, Path], Any]] = {
    "empty": lambda pointer, newest: pointer.write_text(""),
    "absolute": lambda pointer, newest: pointer.write_text(str(newest)),
    "above": lambda pointer, newest: pointer.write_text(f"../{newest.parent.name}/{newest.name}"),
    "is not there": lambda pointer, newest: pointer.unlink(),
    "missing file": lambda pointer, newest: newest.unlink(),
    "cut": lambda pointer, newest: newest.write_bytes(newest.read_bytes()[:-300]),
    "empty file": lambda pointer, newest: newest.write_bytes(b""),
    "checksums": lambda pointer, newest: flip_bit(newest),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_checkpoint_before_a_damaged_one_is_used(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.latest() is None
    paths = []
    for iteration in range(3):
        state = {"model": {"a": torch.ones(100)}, "optimizer": {}, "iteration": iteration}
        paths.append(checkpointer.save(f"model_{iteration:07d}", state))
        assert checkpointer.latest() == paths[-1]
    for number, path in enumerate(paths):
        os.utime(path, ns=(9 - number, 9 - number))  # as a copy of the folder may leave them
    Checkpointer(tmp_path / "weights").save("model_final", {"model": {}})
    (tmp_path / "weights" / "model_final.pth").rename(tmp_path / "model_final.pth")  # newer
    checkpointer.tell_choice()
    assert not caplog.records
    FAULTS[name](tmp_path / "last_checkpoint", paths[2])
    left = paths[2] if name in ("empty", "absolute", "above", "is not there") else paths[1]
    assert checkpointer.latest() == left
    checkpointer.tell_choice()
    (record,) = caplog.records
    told = record.getMessage()
    assert record.levelname == "WARNING" and f"{left.name}, is used in its place" in told
    assert "last_checkpoint" in told
    for path in paths:
        path.unlink(missing_ok=True)
    if name == "is not there":
        assert checkpointer.latest() is None  # model_final.pth holds weights alone
    else:
        with pytest.raises(ValueError, match=r"no whole checkpoint is beside it.*--overwrite"):
            checkpointer.latest()


SPOILED: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-300]),
        ("damaged or cut short", "take another one of that run"),
    ),
    "empty": (lambda path: path.write_bytes(b""), ("is empty",)),
    "text": (
        lambda path: path.write_text("<!DOCTYPE html><html>404</html>"),
        ("is a web page",),
    ),
    "one bit": (
        lambda path: torch.save({"model": {"a": torch.ones(100)}}, path) or flip_bit(path),  # type: ignore[func-returns-value]
        ("is damaged: 1 entries are not what their checksums say",),
    ),
    "hostile": (
        lambda path: torch.save({"model": {"a": RunsCode(path.with_name("ran"))}}, path),
        ("cannot be resumed", "posix.system"),
    ),
    "hostile pickle": (
        lambda path: path.write_bytes(pickle.dumps({"model": RunsCode(path.with_name("ran"))})),
        ("cannot be resumed", "posix.system"),
    ),
    "weights alone": (
        lambda path: torch.save({"weight": torch.zeros(3)}, path),
        ("no key 'model'", "MODEL.WEIGHTS"),
    ),
    "missing": (Path.unlink, ("is not there",)),
}


@pytest.mark.parametrize("name", SPOILED)
def test_unreadable_files_are_explained(tmp_path: Path, name: str) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("model_0000000", {"model": {}})
    path = checkpointer.save("model_0000001", {"model": {"a": torch.zeros(1000)}})
    spoil, words = SPOILED[name]
    spoil(path)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        checkpointer.load(path)
    for word in (str(path), *words):
        assert word in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_does_not_fit_is_explained() -> None:
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(6)], nn.Linear(2, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {f"{index}.wrong": torch.zeros(1) for index in range(2)}
    state["6.weight"] = torch.zeros(4, 2)
    with pytest.raises(ValueError) as error:
        load_model_state(model, state)
    message = str(error.value)
    assert "13 missing: 0.weight, 0.bias" in message and "and 5 more" in message
    assert "2 unexpected: 0.wrong, 1.wrong" in message
    assert (
        "1 of another shape: 6.weight is (4, 2) in the checkpoint and (3, 2) in the model"
        in message
    )
    assert_same(dict(model.state_dict()), before)


def test_other_optimizers_are_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_toy_state(tmp_path).save("model_0000000", 0)
    model = Toy()
    other = TrainingState(
        model, torch.optim.SGD(model.parameters(), lr=0.1), Checkpointer(tmp_path)
    )
    with pytest.raises(
        ValueError, match=r"optimizer in .*model_0000000\.pth does not fit.*config\.yaml"
    ):
        other.resume()
    adam = build_optimizer(model, OptimizerSettings(0.1), "Adam")
    words = r"is SGD, and that of this training is Adam; resume with SOLVER.OPTIMIZER SGD"
    with pytest.raises(ValueError, match=words):
        TrainingState(model, adam, Checkpointer(tmp_path)).resume()
    configured = make_toy_state(tmp_path)
    for group in configured.optimizer.param_groups:
        group["momentum"] = 0.5
    with caplog.at_level(logging.WARNING):
        assert configured.resume() == 1
    assert "'momentum': 0.9" in caplog.text and "'momentum': 0.5" in caplog.text
    Checkpointer(tmp_path).save("model_0000001", {"model": model.state_dict()})
    with pytest.raises(ValueError, match=r"no optimizer and iteration.*MODEL\.WEIGHTS"):
        configured.resume()


def go_on(state: TrainingState, stop: int, *, seed: int) -> None:
    """Resume a training of STEPS iterations and go on to ``stop``, with a seed of its own."""
    start = state.resume()
    torch.manual_seed(seed)
    train_toy(state, start=start, stop=stop, after_step=[state.save_every(PERIOD)])


def resume_in_detectron2(folder: Path, stop: int, *, seed: int) -> Any:
    """Do the same in detectron2."""
    trainer = build_detectron2_trainer(folder)
    trainer.resume_or_load(resume=True)
    trainer._trainer.data_loader.start = trainer.start_iter
    trainer.max_iter = stop
    torch.manual_seed(seed)
    trainer.train()
    return trainer


@pytest.mark.detectron2
def test_a_training_moves_between_the_two_engines(tmp_path: Path) -> None:
    """Ours, then detectron2's, then ours: every part equals that of a training in one engine."""
    ours, mixed = tmp_path / "ours", tmp_path / "mixed"
    for folder in (ours, mixed):
        go_on(make_toy_state(folder), 8, seed=11)
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    theirs = resume_in_detectron2(mixed, 16, seed=11)
    assert theirs.start_iter == 8

    state = make_toy_state(ours)
    go_on(state, 16, seed=11)
    assert_same(dict(theirs.model.state_dict()), dict(state.model.state_dict()))

    their_file = torch.load(mixed / "model_0000015.pth", weights_only=True)
    our_file = torch.load(ours / "model_0000015.pth", weights_only=True)
    del our_file["trainer"]["_trainer"]["grad_scaler"]  # in detectron2 of mixed precision only
    assert_same(their_file["trainer"], our_file["trainer"])
    assert their_file["iteration"] == our_file["iteration"] == 15

    (mixed / "last_checkpoint").write_text("model_0000015.pth")
    back = make_toy_state(mixed)
    assert back.resume() == 16
    assert_same(dict(back.model.state_dict()), dict(state.model.state_dict()))
    assert_same(back.optimizer.state_dict(), state.optimizer.state_dict())


@pytest.mark.detectron2
def test_detectron2_resumes_ours_in_mixed_precision(tmp_path: Path) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.engine import AMPTrainer

    state = make_toy_state(tmp_path)
    path = state.save("model_0000000", 0)
    scaler = torch.amp.GradScaler("cpu")
    trainer = AMPTrainer(Toy(), [], make_toy_state(tmp_path).optimizer, grad_scaler=scaler)
    trainer.load_state_dict(Checkpointer(tmp_path).load(path)["trainer"]["_trainer"])
    assert scaler.state_dict() == torch.amp.GradScaler("cpu").state_dict()


def test_a_training_state_is_never_a_placeholder(tmp_path: Path) -> None:
    """Refuse a training state with an object that is not made, and name its place."""
    checkpointer = Checkpointer(tmp_path)
    plain = {"model": {}, "iteration": 2**70, "random_state": {(0, 1): bytearray(b"a")}}
    assert checkpointer.load(checkpointer.save("a", plain)) == plain
    hidden = {**plain, "hooks": [{"rng": np.random.default_rng(0)}], "again": [plain, plain]}
    with pytest.raises(ValueError, match=r"its \['hooks'\]\[0\]\['rng'\] is an object of numpy"):
        checkpointer.load(checkpointer.save("b", hidden))
    with pytest.raises(ValueError, match=r"\['keys'\]\[...\] is the name torch.optim.sgd.SGD"):
        checkpointer.load(checkpointer.save("c", {**plain, "keys": {torch.optim.SGD: 1}}))
    with pytest.raises(ValueError, match="there are no tensors under weight"):
        load_model_state(nn.Linear(1, 1), {"weight": 1, "bias": torch.ones(1)})  # type: ignore[dict-item]
