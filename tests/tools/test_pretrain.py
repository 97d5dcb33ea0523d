"""The commands for classifiers: training, its signals and errors, a test, the miniature."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import yaml

from resnext_det.paper.miniature import list_networks
from resnext_det.weights import read_weights
from tests.classification.helpers import RESNETS, write_config, write_images
from tests.detection.helpers import FPN
from tests.tools.helpers import finish, fork_tool, run_tool

pytestmark = pytest.mark.usefixtures("alone")

SHORT = ("SOLVER.EPOCHS", "1", "SOLVER.STEPS", "()")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def config(images: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path, images)


def test_train_then_test(
    config: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ("--config-file", config, "--seeds", 0, 1, *SHORT, "OUTPUT_DIR", out)
    assert run_tool("pretrain", *given) == 0
    said = capsys.readouterr().out
    assert re.search(r"3-way top-1 error of 2 trainings: \d+\.\d\d ± \d+\.\d\d\n", said)
    weights = out / "seed_1" / "model_final.pth"
    assert str(weights) in said
    options = ("--device", "cpu", "--num-workers", 0, "--output-dir", out / "seed_1", "--per-class")
    tested = (weights, images / "val", "--protocol", "ten-crop")
    assert run_tool("evaluate_classifier", *tested, *options) == 0
    said = capsys.readouterr().out
    assert f"written: {out}/seed_1/test/" in said
    assert "ten-crop 32 of shorter side 36, torch7_bicubic: top-1" in said and "| middle" in said
    (file,) = (out / "seed_1" / "test").glob(
        "*_ten-crop_32_of_shorter_side_36_torch7_bicubic_3_way.json"
    )
    found = json.loads(file.read_text())
    assert found["images"] == 9 and found["protocol"] == "ten-crop 32"
    assert run_tool("compare_classifiers", out / "seed_0", out / "seed_1") == 0
    assert "ten-crop 32" in capsys.readouterr().out


@pytest.mark.parametrize(("to_all", "processes"), [(False, 1), (True, 1), (True, 2)])
def test_a_stopped_training_leaves_a_checkpoint_to_resume_from(
    config: Path, tmp_path: Path, to_all: bool, processes: int
) -> None:
    """Ctrl-C, and what a scheduler sends to the whole process group, workers included."""
    out = tmp_path / "out"
    changes = (
        "SOLVER.EPOCHS 400 SOLVER.CHECKPOINT_EPOCHS 400 TEST.EVAL_EPOCHS 0 DATALOADER.NUM_WORKERS"
    )
    process = fork_tool(
        *("pretrain", "--config-file", config, "--resume", "--num-gpus", processes),
        *("OUTPUT_DIR", out, *changes.split(), 2 if to_all else 0),
    )
    metrics = out / "metrics.json"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None, finish(process)
        time.sleep(0.05)
    if to_all:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGINT)
    _, said = finish(process, 130)
    assert "the training was stopped after iteration" in said and "--resume" in said
    checkpoint = out / (out / "last_checkpoint").read_text()
    done = int(checkpoint.stem.removeprefix("model_")) + 1
    epochs = str(done // 4 + 1)
    resumed = ("--config-file", config, "--resume", "OUTPUT_DIR", out)
    assert run_tool("pretrain", *resumed, "SOLVER.EPOCHS", epochs, "TEST.EVAL_EPOCHS", 0) == 0
    lines = [json.loads(line)["iteration"] for line in metrics.read_text().splitlines()]
    assert lines == sorted(set(lines)) and lines[-1] >= 4 * int(epochs) - 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config-file", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--config-file", "{config}", "SOLVER.EPOCHS"], "come in pairs KEY VALUE"),
        (["--config-file", "{config}", "DATASETS.TRAIN", "imagenet_train"], "imagenet"),
        (["--config-file", "{config}", "--seeds", "3", "3"], "write different numbers"),
        (["--config-file", "{config}", "--num-gpus", "0"], "--num-gpus 0|does not divide"),
    ],
)
def test_a_users_errors(
    config: Path,
    tmp_path: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert run_tool("pretrain", *(word.format(config=config) for word in arguments)) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and re.search(words, said) and "Traceback" not in said


def test_weights_that_are_no_classifiers(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    given = (tmp_path / "weights.pth", images / "val", "--device", "cpu")
    assert run_tool("evaluate_classifier", *given) == 1
    assert "weights.pth" in capsys.readouterr().err


def miniature_configs(folder: Path, images: Path) -> Path:
    """Two networks so small that all of their trainings take seconds."""
    folder.mkdir()
    for name, groups, width in (("R26_1x8d", 1, 8), ("X26_2x6d", 2, 6)):
        resnets = {**RESNETS, "NUM_GROUPS": groups, "WIDTH_PER_GROUP": width}
        classifier = write_config(
            folder, images, MODEL={"RESNETS": resnets}, SOLVER={"EPOCHS": 1, "STEPS": []}
        )
        classifier.rename(folder / f"classifier_{name}.yaml")
        detector = {**FPN, "SOLVER": {**FPN["SOLVER"], "MAX_ITER": 2, "STEPS": []}}
        detector["MODEL"] = {
            **FPN["MODEL"],
            "RESNETS": {**FPN["MODEL"]["RESNETS"], **resnets},
            "PIXEL_MEAN": [123.675, 116.28, 103.53],
            "PIXEL_STD": [58.395, 57.12, 57.375],
        }
        detector["INPUT"] = {**FPN["INPUT"], "FORMAT": "RGB"}
        (folder / f"faster_rcnn_{name}.yaml").write_text(yaml.safe_dump(detector))
    return folder


@pytest.mark.usefixtures("registered")
def test_table_8_in_miniature(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs, out = miniature_configs(tmp_path / "configs", images), tmp_path / "out"
    seeds = ("--seeds", 0, 1, "--from-random")
    options = ("--configs", configs, "--output-dir", out, *seeds, "--device", "cpu")
    assert run_tool("table8_miniature", *options) == 0
    table = capsys.readouterr().out
    for name in ("R26_1x8d", "X26_2x6d"):
        weights = out / name / "classifier" / "model_final.pth"
        assert read_weights(weights).metadata["trained_on"] == f"{images.name}/train"
        for kind, start in (("seed", str(weights)), ("random_seed", "")):
            for seed in (0, 1):
                found = yaml.safe_load((out / name / f"{kind}_{seed}" / "config.yaml").read_text())
                assert (found["MODEL"]["WEIGHTS"], found["SEED"]) == (start, seed)
        assert re.search(rf"{name} +\d+\.\d\d\n", table)
    assert (
        "X-26 2x6d" in table
        and "X - R" in table
        and "The same detectors from random weights" in table
    )
    assert run_tool("table8_miniature", *options) == 1
    error = capsys.readouterr().err
    assert "has 10 runs of an earlier miniature" in error and "--overwrite" in error
    assert run_tool("table8_miniature", *options, "--resume") == 0
    assert capsys.readouterr().out.splitlines()[-12:] == table.splitlines()[-12:]


@pytest.mark.parametrize(
    ("last", "options", "said"),
    [
        ("MODEL: {RESNET: {DEPTH: 26}}", (), "MODEL.RESNET"),
        (None, ("--device", "gpu"), "--device is 'gpu', which is no torch device"),
        (None, ("--engine", "portable", "--seeds", 0, -1, 0), "the seeds are [0, -1, 0]"),
        (None, ("--iterations", 2, 0), "the numbers of iterations are [2, 0]"),
        (None, ("--parallel", 0), "--parallel 0: write 1 training at a time, or more"),
        (None, ("--iterations", 2), "--iterations would not move the steps of WarmupMultiStepLR"),
        (None, ("--png", "x.png"), "--png draws X - R of several heads or lengths, and "),
    ],
)
def test_a_miniature_tells_what_is_wrong_before_it_trains(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    last: str | None,
    options: tuple[object, ...],
    said: str,
) -> None:
    """In the last of the configurations, too."""
    configs, out = miniature_configs(tmp_path / "configs", images), tmp_path / "out"
    if last is not None:
        (configs / "faster_rcnn_X26_2x6d.yaml").write_text(last)
    assert run_tool("table8_miniature", "--configs", configs, "--output-dir", out, *options) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_miniature_needs_both_of_every_network(tmp_path: Path) -> None:
    (tmp_path / "classifier_A.yaml").touch()
    with pytest.raises(ValueError, match="only one of the two for A"):
        list_networks(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        list_networks(tmp_path / "nowhere")
    (tmp_path / "faster_rcnn_A.yaml").touch()
    assert list_networks(tmp_path) == {"A": ["A"]}
    for name in ("classifier_B", "faster_rcnn_B_C4", "faster_rcnn_B_FPN"):
        (tmp_path / f"{name}.yaml").touch()
    with pytest.raises(ValueError, match="same heads, and they are A: A; B: B_C4, B_FPN"):
        list_networks(tmp_path)
    (tmp_path / "faster_rcnn_A.yaml").unlink()
    for name in ("faster_rcnn_A_C4", "faster_rcnn_A_FPN"):
        (tmp_path / f"{name}.yaml").touch()
    assert list_networks(tmp_path) == {"A": ["A_C4", "A_FPN"], "B": ["B_C4", "B_FPN"]}
