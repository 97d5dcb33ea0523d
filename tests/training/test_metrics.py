"""metrics.json, TensorBoard's events, log.txt and what the console shows."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from resnext_det.training.loop import Step
from resnext_det.training.metrics import MetricsWriter, cut_metrics
from resnext_det.training.setup import setup_logging
from tests.training.helpers import STEPS, build_detectron2_trainer, make_toy_state, train_toy


def make_step(iteration: int, stop: int = 100, **losses: float) -> Step:
    return Step(
        iteration=iteration,
        stop=stop,
        losses={
            name: torch.tensor(value)
            for name, value in (losses or {"loss_a": float(iteration)}).items()
        },
        learning_rate=0.1 / (iteration + 1),
        data_seconds=0.25,
        seconds=2.0,
        check_losses=lambda: None,
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not JSON")

    text = (folder / "metrics.json").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    yield
    package = logging.getLogger("resnext_det")
    for handler in [handler for handler in package.handlers if handler.name == "resnext_det"]:
        package.removeHandler(handler)
        handler.close()


def test_a_line_every_20_iterations_with_medians(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, total_steps=50, progress_bar=False) as writer:
        for iteration in range(50):
            writer(make_step(iteration, loss_a=float(iteration % 7), loss_b=0.5))
    found = lines(tmp_path)
    assert [line["iteration"] for line in found] == [19, 39, 49]
    for line in found:
        window = [float(i % 7) for i in range(line["iteration"] - 19, line["iteration"] + 1)]
        assert line["loss_a"] == statistics.median(window)
        assert line["loss_b"] == 0.5 and line["total_loss"] == statistics.median(window) + 0.5
        assert line["lr"] == 0.1 / (line["iteration"] + 1)
        assert line["data_time"] == 0.25 and line["time"] == 2.0 and line["data_share"] == 0.125
        assert line["eta_seconds"] == 2.0 * (49 - line["iteration"])


def test_images_in_a_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO),
        MetricsWriter(tmp_path, total_steps=40, progress_bar=False, images_per_step=32) as writer,
    ):
        for iteration in range(40):
            writer(make_step(iteration, 40, loss=1.0))
    for line in map(json.loads, (tmp_path / "metrics.json").read_text().splitlines()):
        assert line["images_per_second"] == pytest.approx(32 / line["time"])
    assert f"images/s: {line['images_per_second']:.0f}" in caplog.text


@pytest.mark.parametrize(("start", "total", "told"), [(0, 100, 1), (40, 100, 1), (99, 100, 0)])
def test_the_time_of_the_first_step_is_told(
    start: int, total: int, told: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Twenty steps of a large network on a CPU take many minutes."""
    writer = MetricsWriter(tmp_path, total_steps=total, start=start, progress_bar=False)
    with caplog.at_level(logging.INFO), writer:
        for iteration in range(start, min(start + 3, total)):
            writer(make_step(iteration, total, loss=1.0))
    seconds = make_step(start).seconds
    assert caplog.text.count(f"the first step took {seconds:.1f} s; losses follow") == told


def test_what_is_put_joins_the_next_line(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, total_steps=40, progress_bar=False) as writer:
        for iteration in range(40):
            if iteration in (4, 19):
                writer.put({"bbox/AP": 30.5 + iteration, "bbox/APs": float("nan")})
            writer(make_step(iteration))
        writer.put({"bbox/AP": 1.0, "bbox/APm": float("inf")})
    found = lines(tmp_path)
    assert [line["iteration"] for line in found] == [4, 19, 39, 40]
    assert found[0] == {"iteration": 4, "bbox/AP": 34.5, "bbox/APs": None}
    assert found[1]["bbox/AP"] == 49.5 and found[1]["loss_a"] == 9.5
    assert found[3] == {"iteration": 40, "bbox/AP": 1.0, "bbox/APm": None}


def test_each_iteration_stands_once_after_a_resume(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, total_steps=100, progress_bar=False) as writer:
        for iteration in range(60):
            writer(make_step(iteration, loss_a=1.0))
    with (tmp_path / "metrics.json").open("a") as file:
        file.write('{"iteration": 79, "lo')  # killed here
    with MetricsWriter(tmp_path, total_steps=100, start=30, progress_bar=False) as writer:
        for iteration in range(30, 100):
            writer(make_step(iteration, loss_a=2.0))
    found = [(line["iteration"], line["loss_a"]) for line in lines(tmp_path)]
    assert found == [(19, 1.0), (39, 2.0), (59, 2.0), (79, 2.0), (99, 2.0)]


def test_a_run_that_begins_anew_has_its_own_lines_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"iteration": 39}\n')
    with MetricsWriter(tmp_path, total_steps=20, progress_bar=False) as writer:
        for iteration in range(20):
            writer(make_step(iteration))
    assert [line["iteration"] for line in lines(tmp_path)] == [19]


def test_cutting_leaves_other_lines_untouched(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    cut_metrics(path, 5)
    assert not path.exists()
    path.write_text('{"iteration": 3, "x":  1}\n[]\n{"iteration": 5}\n{"x": 1}\n{"iteration": 4}\n')
    cut_metrics(path, 5)
    assert path.read_text() == '{"iteration": 3, "x":  1}\n{"iteration": 4}\n'


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk is stood for by it")
def test_an_error_is_not_hidden_by_closing(tmp_path: Path) -> None:
    """A disk that is full fails again where the files are closed."""
    writer = MetricsWriter(tmp_path, total_steps=9)
    os.dup2(os.open("/dev/full", os.O_WRONLY), writer._file.fileno())
    with pytest.raises(OSError, match=r"metrics\.json could not be written .*mine"), writer:
        try:
            writer.put_at(1, {"a": 1.0})
        except OSError as error:
            raise OSError(f"{error}, mine") from error


def test_tensorboard_has_the_same_numbers_once(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start in (0, 30):
        time.sleep(1.1 * (start > 0))  # files are read in the order of their names, in seconds
        with MetricsWriter(tmp_path, total_steps=60, start=start, progress_bar=False) as writer:
            for iteration in range(start, 60):
                writer(make_step(iteration))
    accumulator = events.EventAccumulator(str(tmp_path)).Reload()
    for name in ("loss_a", "total_loss", "lr", "time"):
        shown = [(event.step, event.value) for event in accumulator.Scalars(name)]
        written = [(line["iteration"], pytest.approx(line[name])) for line in lines(tmp_path)]
        assert shown == written


@pytest.mark.parametrize("bar", [False, True])
def test_console_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bar: bool) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    for _ in range(2):  # the second call adds nothing
        setup_logging(tmp_path)
    logging.getLogger("resnext_det.training").info("a message")
    with MetricsWriter(tmp_path, total_steps=40, progress_bar=bar) as writer:
        for iteration in range(40):
            writer(make_step(iteration))
    log = (tmp_path / "log.txt").read_text()
    for line in (
        "a message",
        "eta: 0:00:40  iter: 19  ",
        "total_loss: 9.5  ",
        "lr: 0.005",
        "iter: 39  ",
    ):
        assert log.count(line) == 1
    assert log.count("bound: compute") == log.count("max_mem: ") == 2
    assert out.getvalue().count("a message") == 1
    assert out.getvalue().count("iter: 19") == (0 if bar else 1)
    shown = ("40/40", "0:00:00 left, loss 29.5, lr 0.0025", " GiB, bound by compute")
    assert all(words in err.getvalue() for words in shown) == bar


def test_watches_get_every_line_and_images_stand_at_their_step(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    seen: list[tuple[int, dict[str, float]]] = []
    image = np.zeros((6, 8, 3), np.uint8)

    def watch(iteration: int, scalars: Mapping[str, float]) -> None:
        seen.append((iteration, dict(scalars)))

    with MetricsWriter(tmp_path, total_steps=40, progress_bar=False, watches=[watch]) as writer:
        for iteration in range(40):
            if iteration == 4:
                writer.put({"bbox/AP": 2.0})
                writer.put_image("samples/a", image)
                writer.put_curve("curve", np.linspace(0, 1, 66).reshape(6, 11))
            writer(make_step(iteration))
    assert [{"iteration": iteration, **scalars} for iteration, scalars in seen] == lines(tmp_path)
    accumulator = events.EventAccumulator(str(tmp_path)).Reload()
    (shown,) = accumulator.Images("samples/a")
    assert (shown.step, shown.width, shown.height) == (4, 8, 6) and writer.takes_pictures
    (curve,) = accumulator.Tensors("curve")
    assert curve.step == 4 and list(curve.tensor_proto.float_val)[-1] == 1.0


@pytest.mark.parametrize("place", ["start", "later"])
def test_a_full_disk_is_told_without_the_traceback_of_a_thread(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """TensorBoard writes in a thread of its own, whose error Python would print."""
    record_writer = pytest.importorskip("tensorboard.summary.writer.record_writer")

    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    told = re.escape(str(tmp_path / "events.out")) + ".*make room there"
    if place == "start":
        monkeypatch.setattr(record_writer.RecordWriter, "write", fail)
        with pytest.raises(OSError, match=told):
            MetricsWriter(tmp_path, total_steps=40)
    else:
        writer = MetricsWriter(tmp_path, total_steps=40, progress_bar=False)
        monkeypatch.setattr(record_writer.RecordWriter, "write", fail)
        with pytest.raises(OSError, match=told):  # in a step or at the end: the thread is free
            for iteration in range(20):
                writer(make_step(iteration))
            writer.close()
    assert "Traceback" not in capfd.readouterr().err


def test_a_full_disk_is_told_where_metrics_json_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match=r"metrics\.json could not be written .*make room there"):
        MetricsWriter(tmp_path, total_steps=40)


def test_logging_moves_to_another_folder(tmp_path: Path) -> None:
    for name in ("first", "second"):
        setup_logging(tmp_path / name, console=False)
        logging.getLogger("resnext_det.data").warning("in the %s", name)
    assert "in the second" not in (tmp_path / "first" / "log.txt").read_text()
    assert "WARNING: in the second" in (tmp_path / "second" / "log.txt").read_text()


class Broken:
    """Fail as an import of tensorboard does beside a protobuf that is too new for it."""

    def __getattr__(self, name: str) -> NoReturn:
        raise TypeError("Descriptors cannot be created directly.\nIf this call came from a _pb2")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "is not installed (pip install tensorboard)"),
        (Broken(), "cannot be imported (TypeError: Descriptors cannot be created directly.)"),
    ],
    ids=["missing", "broken"],
)
def test_without_tensorboard(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    module: Any,
    words: str,
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with MetricsWriter(tmp_path, total_steps=20, progress_bar=False) as writer:
        for iteration in range(20):
            writer(make_step(iteration))
    assert caplog.text.count(words) == 1 and len(lines(tmp_path)) == 1


@pytest.mark.detectron2
def test_lines_are_detectron2s(tmp_path: Path) -> None:
    """The same 24 steps give metrics.json with the same iterations, names and losses."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.engine import hooks

    trainer = build_detectron2_trainer(tmp_path / "theirs")
    trainer.register_hooks(
        [hooks.IterationTimer(), hooks.PeriodicWriter(trainer.build_writers(), period=20)]
    )
    torch.manual_seed(4)
    trainer.train()
    state = make_toy_state(tmp_path / "ours")
    torch.manual_seed(4)
    with MetricsWriter(tmp_path / "ours", total_steps=STEPS, progress_bar=False) as metrics:
        train_toy(state, after_step=[metrics])
    theirs, ours = lines(tmp_path / "theirs"), lines(tmp_path / "ours")
    assert len(theirs) == len(ours) == 2
    for their_line, our_line in zip(theirs, ours):
        their_line.pop("rank_data_time")
        for own in ("data_share", "peak_memory_mib"):
            assert our_line.pop(own) >= 0
        assert their_line.keys() == our_line.keys()
        for name in ("iteration", "lr"):
            assert their_line[name] == our_line[name]
        for name in ("loss_a", "loss_b", "total_loss"):
            assert their_line[name] == pytest.approx(our_line[name], rel=1e-12)
