"""The moving average of weights, its place in checkpoints, and gradients scaled for float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.loop import Step
from resnext_det.training.state import MovingAverage, TrainingState
from resnext_det.weights.containers import unpack_weights
from tests.training.helpers import assert_same, make_toy_state, train_toy


def test_it_is_the_formula_in_float64(tmp_path: Path) -> None:
    state = make_toy_state(tmp_path)
    average = MovingAverage(state.model, 0.7)
    seen: list[dict[str, torch.Tensor]] = []

    def note(step: Step) -> None:
        seen.append({name: value.clone() for name, value in state.model.state_dict().items()})

    train_toy(state, stop=8, after_step=[average, note])
    expected = {name: value.double() for name, value in seen[0].items()}
    for t, weights in enumerate(seen[1:], start=1):
        decay = min(0.7, (1 + t) / (10 + t))
        expected = {
            name: decay * value + (1 - decay) * weights[name] for name, value in expected.items()
        }
    found = average.model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), expected[name], rtol=1e-6, atol=1e-7), name
    assert not torch.equal(found["head.weight"], state.model.state_dict()["head.weight"])


def make_averaged_state(folder: Path, seed: int) -> tuple[TrainingState, MovingAverage]:
    state = make_toy_state(folder, seed=seed)
    average = MovingAverage(state.model, 0.7)
    state.parts = {"model_ema": average}
    return state, average


def test_it_resumes_and_is_what_readers_take(tmp_path: Path) -> None:
    whole, expected = make_averaged_state(tmp_path / "whole", 3)
    train_toy(whole, stop=9, after_step=[expected])
    first, average = make_averaged_state(tmp_path / "parts", 3)
    train_toy(first, stop=5, after_step=[average, first.save_every(5)])
    second, average = make_averaged_state(tmp_path / "parts", 99)
    start = second.resume()
    train_toy(second, start=start, stop=9, after_step=[average, second.save_every(9)])
    assert_same(dict(average.model.state_dict()), dict(expected.model.state_dict()))
    contents = Checkpointer(tmp_path / "parts").load(tmp_path / "parts" / "model_0000008.pth")
    assert unpack_weights(contents).envelope == "model_ema"


class Overflowing(torch.nn.Module):
    """Gradients of 1e4, which a scale of 65536 takes beyond float32 in the third batch alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {"loss": self.weight * (1e34 if self.calls == 3 else 1.0)}


@pytest.mark.parametrize("clipped", [False, True])
def test_a_step_that_overflows_is_left_out(tmp_path: Path, clipped: bool) -> None:
    model = Overflowing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = TrainingState(model, optimizer, Checkpointer(tmp_path))
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    seen: list[float] = []

    def clip(_: torch.optim.Optimizer) -> None:
        assert model.weight.grad is not None
        seen.append(float(model.weight.grad))

    weights: list[float] = []
    train_toy(
        state,
        stop=5,
        schedule=lambda _: 1.0,
        amp_dtype=torch.float16,
        scaler=scaler,
        clip=clip if clipped else None,
        after_step=[lambda step: weights.append(float(model.weight))],
    )
    assert weights == pytest.approx([0.9, 0.8, 0.8, 0.7, 0.6])
    assert scaler.get_scale() == 32768.0
    if clipped:  # of gradients that are no longer scaled
        assert [seen[i] for i in (0, 1, 3, 4)] == [1.0] * 4


def test_a_checkpoint_without_a_part(tmp_path: Path) -> None:
    state = make_toy_state(tmp_path)
    train_toy(state, stop=1, after_step=[state.save_every(1)])
    other, _ = make_averaged_state(tmp_path, 3)
    with pytest.raises(
        ValueError, match=r"holds no model_ema: it is of a training with other settings"
    ):
        other.resume()


@pytest.mark.parametrize("place", ["weights", "statistics", "momentum"])
def test_what_is_not_finite_is_never_kept(tmp_path: Path, place: str) -> None:
    state = make_toy_state(tmp_path)
    good: list[Path] = []

    def spoil(step: Step) -> None:
        if step.iteration == 1:
            good.append(state.save_after(step))
        elif step.iteration == 3:
            first = next(iter(state.optimizer.state.values()))
            tensors = {
                "weights": state.model.state_dict()["head.weight"],
                "statistics": state.model.state_dict()["body.1.running_var"],
                "momentum": first["momentum_buffer"],
            }
            tensors[place].view(-1)[0] = float("nan" if place == "weights" else "inf")

    before = "head.weight" if place == "weights" else "body.1.running_var"
    name = "the optimizer's momentum_buffer" if place == "momentum" else before
    words = rf"iteration 3: 1 of 15 tensors .*\({name}\).*model_0000001\.pth is from before"
    with pytest.raises(FloatingPointError, match=words):
        train_toy(state, stop=4, after_step=[spoil, state.save_every(9)], save=state.save_after)
    assert {path.name for path in tmp_path.iterdir()} == {"model_0000001.pth", "last_checkpoint"}
    assert Checkpointer(tmp_path).latest() == good[0]


def test_a_last_checkpoint_that_was_cut_off_is_written(tmp_path: Path) -> None:
    """End a run as if it was killed between its last step and its last checkpoint."""
    state = make_toy_state(tmp_path)
    train_toy(state, stop=4, after_step=[state.save_every(4)])
    expected = Checkpointer(tmp_path).load(tmp_path / "model_final.pth")
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    resumed = make_toy_state(tmp_path, seed=99)
    assert resumed.resume() == 4
    resumed.save_final(3)
    path = tmp_path / "model_final.pth"
    assert_same(Checkpointer(tmp_path).load(path), expected)
    assert Checkpointer(tmp_path).latest() == path
    written = path.stat().st_mtime_ns
    resumed.facts = {"numbers": 1}
    resumed.add_facts("model_final")
    assert path.stat().st_mtime_ns == written
    assert Checkpointer(tmp_path).load(path)["numbers"] == 1


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        *(("iteration", value, "which is no number from 0 up") for value in ("5", 0.5, -1, None)),
        *(("random_state", [value], "random numbers") for value in (5, {}, {"cpu": torch.ones(3)})),
    ],
)
def test_a_checkpoint_that_says_nonsense(tmp_path: Path, key: str, value: Any, words: str) -> None:
    state = make_toy_state(tmp_path)
    train_toy(state, stop=1, after_step=[state.save_every(1)])
    content = Checkpointer(tmp_path).load(tmp_path / "model_final.pth")
    Checkpointer(tmp_path).save("model_final", {**content, key: value})
    with pytest.raises(ValueError, match=words):
        state.resume()


def test_momentum_that_is_missing_or_of_another_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = make_toy_state(tmp_path)
    train_toy(state, stop=1, after_step=[state.save_every(1)])
    content = Checkpointer(tmp_path).load(tmp_path / "model_final.pth")
    state.resume()
    assert not [record for record in caplog.records if "momentum" in record.getMessage()]
    nan = torch.full((8, 4), float("nan"))
    for value, words in (
        ("text", "no tensor of the shape"),
        (torch.ones(1), "no tensor of the"),
        (nan, "NaN or inf"),
    ):
        content["optimizer"]["state"][0]["momentum_buffer"] = value
        Checkpointer(tmp_path).save("model_final", content)
        with pytest.raises(ValueError, match=words):
            state.resume()
    content["optimizer"]["state"] = []
    Checkpointer(tmp_path).save("model_final", content)
    with pytest.raises(ValueError, match="does not fit"):
        state.resume()
    content["optimizer"]["state"] = {}
    Checkpointer(tmp_path).save("model_final", content)
    state.resume()
    assert "holds no momentum of 6 of 6 parameters" in caplog.text


def test_training_sets_that_have_changed_are_not_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = make_toy_state(tmp_path)
    state.contents = {"a": {"images": 4, "boxes": 9, "names": "ab"}, "b": {"images": 2}}
    path = state.save("model_0000001", 1)
    assert make_toy_state(tmp_path).resume() == 2  # where nothing tells what there is now
    for changed, words in (
        ({"a": {"images": 5, "boxes": 9, "names": "ab"}}, r"'a' has 5 images in place of 4;"),
        ({"a": {"names": "cd"}, "b": {"images": 1}}, r"'a' has other names, 'b' has 1 images in"),
    ):
        state.contents = changed
        with pytest.raises(ValueError, match=rf"not as they were when .*001\.pth was.*: {words}"):
            state.resume()
        assert state.resume(anyway=True) == 2
    assert "The run goes on with them, as --resume-anyway says" in caplog.text
    contents = Checkpointer(tmp_path).load(path)
    for odd in (None, [], {"a": 3}, {"c": {"images": 9}}, {"a": {"images": torch.ones(2)}}):
        Checkpointer(tmp_path).save("model_0000001", {**contents, "training_sets": odd})
        assert state.resume() == 2
