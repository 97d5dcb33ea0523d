"""The command: stopped and resumed runs, processes, evaluation, its files, a user's errors."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from resnext_det.config import load_config
from resnext_det.training.checkpoint import Checkpointer
from tests.detection.helpers import C4_CHANGES, as_flags, as_overrides, json_lines, write_config
from tests.fork_server import Program
from tests.tools.helpers import (
    TORCHRUN,
    finish,
    fork_like_torchrun,
    fork_tool,
    run_tool,
    start_tool,
)
from tests.training.helpers import assert_same

pytestmark = pytest.mark.usefixtures("alone")

run = partial(run_tool, "train_net")
start = partial(start_tool, "train_net")
fork = partial(fork_tool, "train_net")
STEPS = 40  # some 30 ms each; a run is stopped in the first 13 or so
PERIOD = 2


@pytest.fixture(
    scope="module", params=["portable", pytest.param("detectron2", marks=pytest.mark.detectron2)]
)
def common(
    sets: dict[str, tuple[Path, Path]],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> list[str]:
    """The flags of every run."""
    pytest.importorskip(
        "resnext_det" if request.param == "portable" else "detectron2",
        reason="detectron2 is not installed",
    )
    config = write_config(tmp_path_factory.mktemp("config"))
    flags = ["--no-report", "--engine", request.param, "--config-file", str(config)]
    return [*flags, *as_flags(sets)]


def wait_for_a_random_step(process: Program, folder: Path) -> None:
    """Wait for a checkpoint and some moment more, so that the end falls anywhere in a step."""
    iteration = random.randrange(1, STEPS // 3, PERIOD)
    deadline = time.monotonic() + 300
    while not (folder / f"model_{iteration:07d}.pth").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.1))


def training(workers: int, folder: Path) -> list[object]:
    changes = {
        "DATALOADER.NUM_WORKERS": workers,
        "SOLVER.MAX_ITER": STEPS,
        "SOLVER.CHECKPOINT_PERIOD": PERIOD,
    }
    return [word for pair in changes.items() for word in pair] + ["OUTPUT_DIR", folder]


def assert_ended_like(folder: Path, other: Path) -> None:
    """Weights, optimizer, schedule and random numbers are equal; lines of metrics stand once."""
    ends = [Checkpointer(path).load(path / "model_final.pth") for path in (folder, other)]
    assert set(ends[0]) >= {"model", "optimizer", "scheduler", "iteration", "random_state"}
    assert len(ends[0]["optimizer"]["state"]) > 50
    for end in ends:  # with any number of workers
        del end["detector"]["config"]["DATALOADER"]["NUM_WORKERS"]
    assert_same(*ends)
    lines = json_lines(folder / "metrics.json")
    assert [line["iteration"] for line in lines] == [19, STEPS - 1]


@pytest.fixture(scope="module")
def uninterrupted(common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a whole run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    output, _ = finish(fork(*common, *training(0, folder)))
    assert (
        output.splitlines()[-1].startswith("tiny_val: AP ")
        and str(folder) in output.splitlines()[-1]
    )
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_equals_uninterrupted(
    common: list[str], tmp_path: Path, workers: int, uninterrupted: Path
) -> None:
    process = fork(*common, *training(workers, tmp_path))
    wait_for_a_random_step(process, tmp_path)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "model_final.pth").exists()
    if workers:
        finish(fork("--resume", *common, *training(workers, tmp_path)))
    else:
        assert run("--resume", *common, *training(workers, tmp_path)) == 0
    assert_ended_like(tmp_path, uninterrupted)


def test_interrupted_and_resumed_equals_uninterrupted(
    common: list[str], tmp_path: Path, uninterrupted: Path
) -> None:
    """Ctrl-C reaches every process of the group, the loading ones too."""
    process = fork(*common, *training(2, tmp_path))
    wait_for_a_random_step(process, tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    newest = Checkpointer(tmp_path).latest()
    assert newest is not None and newest.name != "model_final.pth"
    assert f"left {newest}; run the same command with --resume" in errors
    assert "Traceback" not in errors
    assert run("--resume", *common, *training(2, tmp_path)) == 0
    assert_ended_like(tmp_path, uninterrupted)


def test_ctrl_c_outside_of_a_step(
    common: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resnext_det.detection.datasets.load_coco", interrupt)
    assert run(*common, "OUTPUT_DIR", tmp_path) == 130
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize("forked", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("quick_start")
def test_two_processes(common: list[str], forked: bool, tmp_path: Path) -> None:
    """Spawned and under torchrun a training ends alike; one process evaluates as two do.

    Started as a user starts it, that takes half a minute; from the fork server some seconds.
    """
    spawned, under_torchrun, evaluated = (
        tmp_path / name for name in ("spawned", "torchrun", "evaluated")
    )
    schedule = ("SOLVER.MAX_ITER", 20, "SOLVER.CHECKPOINT_PERIOD", 20)
    short = ["MODEL.DEVICE", "cpu", *schedule, "OUTPUT_DIR"]
    if forked:
        assert run("--num-gpus", 2, *common, *short, spawned) == 0
        fork_like_torchrun("train_net", *common, *short, under_torchrun)
    else:
        finish(start("--num-gpus", 2, *common, *short, spawned))
        finish(start(*common, *short, under_torchrun, program=TORCHRUN))
    ends = [Checkpointer(path).load(path / "model_final.pth") for path in (spawned, under_torchrun)]
    assert len(ends[0]["random_state"]) == 2
    assert_same(*ends)

    given = ["MODEL.WEIGHTS", spawned / "model_final.pth", "OUTPUT_DIR", evaluated]
    assert run("--eval-only", *common, *given) == 0
    assert_evaluated_alike(evaluated, spawned)


def assert_evaluated_alike(folder: Path, other: Path) -> None:
    for name in ("coco_instances_results.json", "metrics.json"):
        assert (folder / "inference" / name).read_text() == (other / "inference" / name).read_text()
    assert len(json.loads((folder / "inference" / "coco_instances_results.json").read_text())) > 50


@pytest.mark.parametrize("resumed", [False, True])
def test_eval_only_equals_the_end_of_training(
    common: list[str],
    sets: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    uninterrupted: Path,
    resumed: bool,
) -> None:
    folder = uninterrupted if resumed else tmp_path
    weights = [] if resumed else ["MODEL.WEIGHTS", uninterrupted / "model_final.pth"]
    before = (
        (uninterrupted / "config.yaml").read_text(),
        (uninterrupted / "metrics.json").read_text(),
    )
    numbers = json.loads((uninterrupted / "inference" / "metrics.json").read_text())
    assert numbers["AP"] > 0
    assert run("--eval-only", *["--resume"][:resumed], *common, *weights, "OUTPUT_DIR", folder) == 0
    assert_evaluated_alike(folder, uninterrupted)
    assert json.loads((folder / "inference" / "metrics.json").read_text()) == numbers
    assert (
        (uninterrupted / "config.yaml").read_text(),
        (uninterrupted / "metrics.json").read_text(),
    ) == before

    last = json_lines(uninterrupted / "metrics.json")[-1]
    logged = {
        name.removeprefix("bbox/"): value
        for name, value in last.items()
        if name.startswith("bbox/")
    }
    assert logged.items() <= numbers.items() and len(logged) == 6 + 6

    results = folder / "inference" / "coco_instances_results.json"
    written = ("--json", tmp_path / "again.json")
    assert run_tool("evaluate_coco", sets["tiny_val"][0], results, *written) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == numbers


def test_the_files_of_a_run(common: list[str], uninterrupted: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {
        str(path.relative_to(uninterrupted)) for path in uninterrupted.rglob("*") if path.is_file()
    }
    (events,) = (name for name in found if name.startswith("events.out.tfevents."))
    checkpoints = {f"model_{iteration:07d}.pth" for iteration in range(PERIOD - 1, STEPS, PERIOD)}
    inference = {"inference/coco_instances_results.json", "inference/metrics.json"}
    others = {"config.yaml", "log.txt", "metrics.json", "model_final.pth", "last_checkpoint"}
    others.add("environment.json")
    assert found == {events} | checkpoints | inference | others
    assert (uninterrupted / "last_checkpoint").read_text() == "model_final.pth"

    given = load_config(
        common[common.index("--config-file") + 1], as_overrides(training(0, uninterrupted))
    )
    assert load_config(uninterrupted / "config.yaml") == given

    board = EventAccumulator(str(uninterrupted / events)).Reload()
    for line in json_lines(uninterrupted / "metrics.json"):
        for name in ("total_loss", "lr", "loss_rpn_cls"):
            (value,) = [
                entry.value for entry in board.Scalars(name) if entry.step == line["iteration"]
            ]
            assert value == pytest.approx(line[name], rel=1e-6)

    log = (uninterrupted / "log.txt").read_text()
    assert "iter: 19  total_loss: " in log and "tiny_val, bbox:" in log


def test_a_detector_that_finds_nothing(
    common: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = ["SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1]
    changes += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0]
    assert run(*common, *changes, "OUTPUT_DIR", tmp_path) == 0
    assert "no detection" in caplog.text
    assert json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text()) == []
    lines = json_lines(tmp_path / "metrics.json")
    assert [(line["iteration"], line["bbox/AP"]) for line in lines] == [(0, 0.0), (1, 0.0)]


def test_a_training_that_had_ended_is_evaluated(
    common: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Evaluate a training that was killed within its last evaluation, into metrics.json."""
    short = ["SOLVER.MAX_ITER", 2, "OUTPUT_DIR", tmp_path]
    assert run(*common, *short, "DATASETS.TEST", "()") == 0
    for _ in range(2):
        assert run("--resume", *common, *short) == 0
        lines = json_lines(tmp_path / "metrics.json")
        assert [(line["iteration"], "bbox/AP" in line) for line in lines] == [(1, False), (2, True)]

    assert run("--overwrite", *common, *short) == 0
    assert "the earlier run in" in caplog.text and "is removed" in caplog.text
    assert [line["iteration"] for line in json_lines(tmp_path / "metrics.json")] == [1]


def test_a_drawn_seed_is_kept(common: list[str], tmp_path: Path) -> None:
    """SEED -1 is another seed in each run, and the same one where a run is resumed."""
    # With a warm-up, the rate would depend on MAX_ITER.
    changes = ["SEED", -1, "SOLVER.WARMUP_ITERS", 0, "DATASETS.TEST", "()"]

    def seed(folder: Path) -> int:
        return load_config(folder / "config.yaml").SEED

    one, two = tmp_path / "one", tmp_path / "two"
    assert run(*common, *changes, "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", one) == 0
    drawn = seed(one)
    assert run("--resume", *common, *changes, "SOLVER.MAX_ITER", 4, "OUTPUT_DIR", one) == 0
    assert seed(one) == drawn >= 0
    assert run(*common, *changes, "SOLVER.MAX_ITER", 4, "SEED", drawn, "OUTPUT_DIR", two) == 0
    ends = [Checkpointer(folder).load(folder / "model_final.pth") for folder in (one, two)]
    assert_same(ends[0]["model"], ends[1]["model"])
    assert run("--overwrite", *common, *changes, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", two) == 0
    assert seed(two) != drawn


def broken_set(kind: str) -> Callable[[Path, Path], list[object]]:
    """Register "broken": a copy of a set of two images, the second not as it should be."""

    def make(folder: Path, annotations: Path) -> list[object]:
        images = folder / "images"
        images.mkdir()
        content = json.loads(annotations.read_text())
        content["images"] = content["images"][:2]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [
            entry for entry in content["annotations"] if entry["image_id"] in kept
        ]
        for image in content["images"]:
            source = annotations.with_name("train") / image["file_name"]
            (images / image["file_name"]).write_bytes(source.read_bytes())
        last = images / content["images"][-1]["file_name"]
        if kind == "missing image":
            last.unlink()
        elif kind == "truncated image":
            last.write_bytes(last.read_bytes()[:2000])
        elif kind == "damaged image":
            Image.open(last).save(last, "PNG")
            content_of_file = bytearray(last.read_bytes())
            content_of_file[len(content_of_file) // 2] ^= 255
            last.write_bytes(content_of_file)
        elif kind == "box outside":
            content["annotations"][0]["bbox"] = [5000, 5000, 10, 10]
        elif kind == "other categories":
            content["categories"][0]["name"] = "zebra"
        text = json.dumps(content)
        path = folder / "broken.json"
        path.write_text(text[: len(text) // 2] if kind == "half a JSON" else text)
        return ["--register-coco", "broken", path, images]

    return make


BROKEN = "DATASETS.TRAIN ('broken',)"
# What a user does wrong: a set to break, flags, KEY VALUE; exit status, words of the message.
# fmt: off
ERRORS: dict[str, tuple[str | None, str, str, int, list[str]]] = {
    "dataset unknown": (None, "", "DATASETS.TRAIN ('coc_2017_train',)", 1,
        ["'coc_2017_train' is unknown", "--register-coco NAME ANNOTATIONS IMAGES"]),
    "dataset missing": (None, "", "DATASETS.TRAIN ('coco_2017_train',)", 1,
        ["instances_train2017.json does not exist", "DETECTRON2_DATASETS"]),
    "no training set": (None, "", "DATASETS.TRAIN ()", 1,
        ["DATASETS.TRAIN is empty", "('coco_2017_train',)"]),
    "no test set": (None, "--eval-only", "DATASETS.TEST ()", 1,
        ["DATASETS.TEST is empty", "('coco_2017_val',)"]),
    "image missing": ("missing image", "", BROKEN, 1,
        ["1 of 2 images do not exist", "'000001.jpg'", "put the files there"]),
    "image truncated": ("truncated image", "", BROKEN, 1,
        ["000001.jpg cannot be read", "truncated", "replace the file"]),
    "image truncated, in a worker": ("truncated image", "", f"{BROKEN} DATALOADER.NUM_WORKERS 1", 1,
        ["000001.jpg cannot be read", "truncated", "replace the file"]),
    "image damaged, each checked": ("damaged image", "--check-data", BROKEN, 1,
        ["1 of 2 images looked at cannot be read", "000001.jpg", "replace the file"]),
    "half a JSON": ("half a JSON", "", BROKEN, 1,
        ["broken.json", "is not JSON", "line 1 column", "correct it"]),
    "box outside": ("box outside", "", BROKEN, 1,
        ["annotation 1", "[5000", "lies wholly outside", "remove"]),
    "other categories": ("other categories", "", BROKEN, 1,
        ["'broken'", "'tiny_val'", "zebra", "the same 'categories'"]),
    "number of classes": (None, "", "MODEL.ROI_HEADS.NUM_CLASSES 80", 1,
        ["NUM_CLASSES = 80", "'tiny_train' has 6 categories", "write 6"]),
    "unknown key": (None, "", "SOLVER.BASE_LEARNING_RATE 0.1", 1,
        ["BASE_LEARNING_RATE", "SOLVER.BASE_LR"]),
    "wrong type": (None, "", "SOLVER.BASE_LR 1", 1, ["SOLVER.BASE_LR = ", "1.0"]),
    "unsupported value": (None, "", "MODEL.KEYPOINT_ON True", 1,
        ["MODEL.KEYPOINT_ON = True", "False"]),
    "a set by file and by name": (None, "--train-data a.json photos", BROKEN, 1,
        ["--train-data and DATASETS.TRAIN both name a set", "one of them"]),
    "half a pair": (None, "", "SOLVER.BASE_LR", 1, ["SOLVER.BASE_LR", "KEY VALUE"]),
    "flag after the overrides": (None, "", "SEED 1 --resume", 1,
        ["'--resume'", "before the first KEY"]),
    "unknown flag": (None, "--gpus 2", "", 2, ["--gpus"]),
    "no such configuration": (None, "--config-file nowhere.yaml", "", 1,
        ["nowhere.yaml does not exist"]),
    "divergence": (None, "", "SOLVER.BASE_LR 1e10 SOLVER.WARMUP_ITERS 0", 1,
        ["diverged at iteration", ".jpg", "Lower SOLVER.BASE_LR"]),
    "no GPU": (None, "", "MODEL.DEVICE cuda", 1, ["'cuda'", "no GPU", "MODEL.DEVICE cpu"]),
    "no GPUs": (None, "--num-gpus 2", "MODEL.DEVICE cuda", 1,
        ["'cuda'", "no GPU", "MODEL.DEVICE cpu"]),
    "no such device": (None, "", "MODEL.DEVICE gpu", 1, ["'gpu'", "write auto, cuda or cpu"]),
    "frozen norms at random": (None, "", "MODEL.RESNETS.NORM FrozenBN", 1,
        ["train to nothing", "MODEL.WEIGHTS", "MODEL.RESNETS.NORM"]),
    "weights missing": (None, "", "MODEL.WEIGHTS nowhere.pth", 1, ["nowhere.pth is not there"]),
    "no weights to evaluate": (None, "--eval-only", "", 1,
        ["MODEL.WEIGHTS is empty", "model_final.pth"]),
    "unknown engine": (None, "--engine d2", "", 2, ["invalid choice: 'd2'", "portable"]),
    "batch not divisible": (None, "--num-gpus 2", "SOLVER.IMS_PER_BATCH 3", 1,
        ["batch of 3 images", "2 processes", "SOLVER.IMS_PER_BATCH to a multiple of 2"]),
    "output is a file": (None, "", "OUTPUT_DIR {file}", 1,
        ["OUTPUT_DIR = ", "File exists", "another folder"]),
    "output below a file": (None, "", "OUTPUT_DIR {file}/below", 1,
        ["OUTPUT_DIR = ", "another folder"]),
    "regions from another map": (None, "", "MODEL.ROI_HEADS.IN_FEATURES ['p2','p4']", 1,
        ["MODEL"]),  # each engine in its own words
}
# fmt: on


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_to_do(
    name: str,
    common: list[str],
    sets: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind, flags, overrides, status, words = ERRORS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    (tmp_path / "file").write_text("")
    extra = broken_set(kind)(tmp_path, sets["tiny_train"][0]) if kind else []
    changes = overrides.replace("{file}", str(tmp_path / "file"))
    given = ["OUTPUT_DIR", tmp_path / "out", *changes.split(" ")] if changes else []
    try:
        found = run(*common, *extra, *flags.split(), *given)
    except SystemExit as stop:  # argparse's own
        found = int(str(stop.code))
    errors = capsys.readouterr().err
    assert found == status
    assert [word for word in words if word not in errors] == [], errors
    assert "Traceback" not in errors
    if status == 1:
        assert [
            line for line in errors.splitlines() if line.startswith("error: ")
        ] == errors.splitlines()[-1:]


def test_a_checkpoint_of_another_network_is_not_resumed(
    common: list[str], tmp_path: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model_final.pth").write_bytes((uninterrupted / "model_final.pth").read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    for flags in (["--resume-anyway"], ["--resume", "--eval-only"]):
        assert run(*flags, *common, *as_overrides(C4_CHANGES), "OUTPUT_DIR", tmp_path) == 1
        errors = capsys.readouterr().err
        assert "fit the model" in errors and "(config.yaml " in errors


def test_a_backbone_alone_is_not_evaluated(
    common: list[str], tmp_path: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = "backbone.bottom_up."
    state = Checkpointer(uninterrupted).load(uninterrupted / "model_final.pth")["model"]
    backbone = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    torch.save(backbone, tmp_path / "backbone.pth")
    given = [*common, "MODEL.WEIGHTS", tmp_path / "backbone.pth", "OUTPUT_DIR", tmp_path / "out"]
    assert run("--eval-only", *given) == 1
    assert "not a whole detector" in capsys.readouterr().err
    assert run(*given, "SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()", "SOLVER.BASE_LR", 0.0) == 0
    trained = Checkpointer(tmp_path).load(tmp_path / "out" / "model_final.pth")["model"]
    assert torch.equal(
        trained[f"{prefix}res4.0.conv1.weight"], state[f"{prefix}res4.0.conv1.weight"]
    )
