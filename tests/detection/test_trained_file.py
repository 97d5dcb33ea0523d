"""The file of a trained detector is the detector: settings and classes come from it, or agree."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from resnext_det.config import load_config
from resnext_det.detection.inference import Predictor
from resnext_det.detection.jobs import Job, Metrics, evaluate, train
from resnext_det.detection.weights import load_trained_config
from resnext_det.weights import read_weights, write_weights
from resnext_det.weights.doctor.description import describe, format_description
from tests.detection.helpers import as_datasets, as_overrides, override, write_config

pytestmark = pytest.mark.usefixtures("alone")

NAMES = ("circle", "cross", "ring", "square", "star", "triangle")
# What the configuration file does not say, as a user gives it by hand in the training alone.
BY_HAND = [
    *override("MODEL.ANCHOR_GENERATOR", SIZES=[[16], [32], [64]]),
    *override("INPUT", MIN_SIZE_TEST=80, MAX_SIZE_TEST=128),
]


@pytest.fixture
def job(sets: dict[str, tuple[Path, Path]], tmp_path: Path, engine: str) -> Job:
    """Train for three steps with settings that the configuration file does not have."""
    words = as_overrides([*BY_HAND, *override("SOLVER", MAX_ITER=3, STEPS=())])
    return Job(
        write_config(tmp_path), tmp_path / "out", tuple(words), engine, datasets=as_datasets(sets)
    )


def get_numbers(metrics: Metrics) -> dict[str, float]:
    (found,) = metrics.per_dataset.values()
    return {
        name: pytest.approx(value, abs=0, nan_ok=True) for name, value in found.as_dict().items()
    }


def renumber(annotations: Path, rename: dict[str, str] | None = None) -> Path:
    """Write the set with its category ids in the opposite order, and perhaps other names."""
    data = json.loads(annotations.read_text())
    last = max(category["id"] for category in data["categories"])
    for category in data["categories"]:
        category["id"] = 7 * (last - category["id"]) + 2
        category["name"] = (rename or {}).get(category["name"], category["name"])
    for annotation in data["annotations"]:
        annotation["category_id"] = 7 * (last - annotation["category_id"]) + 2
    path = annotations.with_name(f"other_{annotations.name}")
    path.write_text(json.dumps(data))
    return path


def swap_annotations(job: Job, **rename: str) -> tuple[tuple[str, str, str], ...]:
    """Name the same images under other category ids, and perhaps names."""
    return tuple(
        (f"other_{name}", str(renumber(Path(annotations), rename)), images)
        for name, annotations, images in job.datasets
    )


def test_the_file_alone_is_the_detector(job: Job, tmp_path: Path) -> None:
    trained = train(job)
    file = tmp_path / "moved" / "detector.pth"
    file.parent.mkdir()
    (tmp_path / "out" / "model_final.pth").rename(file)
    Path(str(job.config_file)).unlink()
    known = read_weights(file).detector
    assert known is not None and known.class_names == NAMES
    defined = {k: v for k, v in get_numbers(trained).items() if "nan" not in str(v)}
    assert len(defined) > 5 and defined == known.metrics["tiny_val"]

    alone = Job(None, tmp_path / "again", engine=job.engine, datasets=job.datasets, weights=file)
    assert evaluate(alone).per_dataset["tiny_val"].as_dict() == get_numbers(trained)
    cfg = load_trained_config(file)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.MODEL.DEVICE) == (80, "auto")
    assert Predictor(file).class_names == NAMES
    # Fine-tuning goes on with the same settings, too.
    tuned = replace(alone, output_dir=tmp_path / "tuned", overrides=("SOLVER.MAX_ITER", "1"))
    assert set(train(tuned).per_dataset) == {"tiny_val"}
    recorded = load_config(tmp_path / "tuned" / "config.yaml")
    assert recorded.MODEL.ANCHOR_GENERATOR.SIZES == [[16], [32], [64]]


def test_a_configuration_that_changes_the_numbers_is_refused(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = train(job)
    weights = tmp_path / "out" / "model_final.pth"
    other = replace(job, overrides=(), output_dir=tmp_path / "again", weights=weights)
    with pytest.raises(ValueError, match="needs another configuration") as refused:
        evaluate(other)
    told = str(refused.value)
    lines = yaml.safe_load(told[told.index("Write\n") + 6 : told.index("\nor add --fit-config")])
    assert lines == {
        "INPUT": {"MAX_SIZE_TEST": 128, "MIN_SIZE_TEST": 80},
        "MODEL": {"ANCHOR_GENERATOR": {"SIZES": [[16], [32], [64]]}},
    }
    fitted = evaluate(replace(other, fit_config=True))
    assert fitted.per_dataset["tiny_val"].as_dict() == get_numbers(trained)
    # By hand they are taken, aloud.
    given = (*as_overrides(BY_HAND[:2]), "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128")
    with caplog.at_level(logging.WARNING, "resnext_det"):
        evaluate(replace(other, overrides=given))
    (line,) = [text for text in caplog.messages if "which holds" in text]
    assert "INPUT.MIN_SIZE_TEST 80; the override says 64" in line
    # A training on these weights may choose the sizes of its images, but not other anchors.
    with pytest.raises(ValueError, match=r"ANCHOR_GENERATOR\.SIZES is") as refused:
        train(replace(other, output_dir=tmp_path / "tuned"))
    assert "MIN_SIZE_TEST" not in str(refused.value)
    # They hold beside fit_config, too.
    caplog.clear()
    smaller = ("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96")
    with caplog.at_level(logging.WARNING, "resnext_det"):
        assert evaluate(replace(other, overrides=smaller, fit_config=True))
    assert len([text for text in caplog.messages if "which holds" in text]) == 2
    # To resume is to go on with the same detector.
    resumed = replace(job, overrides=("SOLVER.MAX_ITER", "4"), resume=True)
    with pytest.raises(ValueError, match=r"ANCHOR_GENERATOR\.SIZES was \[\[16\]"):
        train(resumed)
    with pytest.raises(ValueError, match="MIN_SIZE_TEST is 64"):
        train(replace(resumed, resume_anyway=True))
    annotations = Path(job.datasets[0][1])
    text = annotations.read_text()
    changed = json.loads(text)
    del changed["annotations"][0]
    annotations.write_text(json.dumps(changed))
    words = r"'tiny_train' has \d+ boxes in place of \d+, .* other coordinates.*resume with"
    with pytest.raises(ValueError, match=words):
        train(replace(resumed, fit_config=True))
    annotations.write_text(text)
    train(replace(resumed, fit_config=True))
    assert load_trained_config(weights).INPUT.MIN_SIZE_TEST == 80
    newest = replace(resumed, overrides=("MODEL.WEIGHTS", "missing.pth"), fit_config=True)
    assert evaluate(newest)


def test_classes_go_by_name_and_not_by_id(job: Job, tmp_path: Path) -> None:
    trained = train(job)
    tested = ("DATASETS.TRAIN", "('other_tiny_train',)", "DATASETS.TEST", "('other_tiny_val',)")
    alone = Job(None, tmp_path / "again", tested, job.engine, datasets=swap_annotations(job))
    alone = replace(alone, weights=tmp_path / "out" / "model_final.pth")
    found = evaluate(alone).per_dataset["other_tiny_val"]
    expected = get_numbers(trained)
    assert found.as_dict() == expected
    rows = json.loads((tmp_path / "again/inference/coco_instances_results.json").read_text())
    assert {row["category_id"] for row in rows} <= {2 + 7 * position for position in range(6)}
    # A training on them has the outputs in the detector's order, and keeps them all.
    frozen = (*tested, "SOLVER.BASE_LR", "0.0", "SOLVER.MAX_ITER", "1")
    tuned = replace(alone, output_dir=tmp_path / "tuned", overrides=frozen)
    train(tuned)
    before, after = (read_weights(tmp_path / run / "model_final.pth") for run in ("out", "tuned"))
    assert after.class_names == NAMES
    outputs = [name for name in before.state if name.startswith("roi_heads.box_predictor.")]
    assert len(outputs) == 4
    assert all(torch.equal(before.state[name], after.state[name]) for name in outputs)
    # Mixed sets of a run are brought to the order of the first.
    mixed = ("DATASETS.TEST", "('other_tiny_val',)", "SOLVER.MAX_ITER", "3")
    again = replace(job, output_dir=tmp_path / "mixed", overrides=(*job.overrides, *mixed))
    again = replace(again, datasets=(*job.datasets, *alone.datasets))
    assert train(again).per_dataset["other_tiny_val"].as_dict() == expected


def test_other_names_start_anew_or_are_refused(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(job)
    weights = tmp_path / "out" / "model_final.pth"
    other = swap_annotations(job, star="nut")
    tested = ("DATASETS.TRAIN", "('other_tiny_train',)", "DATASETS.TEST", "('other_tiny_val',)")
    alone = Job(None, tmp_path / "again", tested, job.engine, datasets=other, weights=weights)
    words = r"is a detector of circle, cross, ring, square, star, triangle, and dataset '\w+' has"
    if job.engine == "portable":
        with pytest.raises(ValueError, match=words):
            evaluate(alone)
        resumed = replace(job, datasets=other, overrides=(*job.overrides, *tested), resume=True)
        with pytest.raises(ValueError, match=r"DATASETS\.TRAIN was \['tiny_train'\] and is"):
            train(resumed)
        with pytest.raises(ValueError, match=f"{words}.*leave --resume out"):
            train(replace(resumed, resume_anyway=True))
    with caplog.at_level(logging.WARNING, "resnext_det"):
        train(replace(alone, overrides=(*tested, "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.0")))
    assert any("so 4 start at random" in text for text in caplog.messages)
    before, after = (
        torch.load(path, weights_only=True)["model"]
        for path in (weights, tmp_path / "again" / "model_final.pth")
    )
    changed = {
        name
        for name in before
        if "running" not in name and "num_batches" not in name
        if not torch.equal(before[name], after[name])
    }
    assert changed <= {
        f"roi_heads.box_predictor.{layer}.{kind}"
        for layer in ("cls_score", "bbox_pred")
        for kind in ("weight", "bias")
    }
    assert "roi_heads.box_predictor.cls_score.weight" in changed


def test_the_configuration_is_fitted_to_a_detector_of_gray_images(
    sets: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    gray = ("INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", "[110.0]", "MODEL.PIXEL_STD", "[50.0]")
    job = Job(write_config(tmp_path), tmp_path / "out", (*gray, "SOLVER.MAX_ITER", "1"), "portable")
    job = replace(job, datasets=as_datasets(sets))
    trained = train(job)
    weights = tmp_path / "out" / "model_final.pth"
    fitted = replace(job, overrides=(), output_dir=tmp_path / "again", weights=weights)
    assert get_numbers(evaluate(replace(fitted, fit_config=True))) == get_numbers(trained)


@pytest.mark.parametrize("name", ["a.pkl", "a.safetensors", "a.pth"])
def test_every_format_keeps_what_a_file_says(
    sets: dict[str, tuple[Path, Path]], tmp_path: Path, name: str
) -> None:
    words = as_overrides([*BY_HAND, *override("SOLVER", MAX_ITER=1, STEPS=())])
    job = Job(write_config(tmp_path), tmp_path / "out", tuple(words), "portable")
    train(replace(job, datasets=as_datasets(sets)))
    file = read_weights(tmp_path / "out" / "model_final.pth")
    formats = {".pkl": "detectron2", ".safetensors": "safetensors", ".pth": "native"}
    write_weights(file, tmp_path / name, formats[Path(name).suffix])
    again = read_weights(tmp_path / name)
    assert file.detector is not None and again.detector is not None
    assert str(again.detector.as_dict()) == str(file.detector.as_dict())
    assert again.class_names == NAMES
    text = format_description(describe(again))
    assert "class names: circle, cross" in text and "trained with: resnext_det" in text
    assert yaml.safe_load(text)["INPUT"]["MIN_SIZE_TEST"] == 80
    assert load_trained_config(tmp_path / name).INPUT.MIN_SIZE_TEST == 80


def test_a_file_of_another_program_says_nothing(job: Job, tmp_path: Path) -> None:
    """Evaluate such a file under the configuration that is given, as detectron2 does."""
    trained = train(job)
    contents = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    model, detector = contents["model"], contents["detector"]
    detector["config"]["DATALOADER"]["NUM_WORKERS"] = 10**9
    torch.save(contents, tmp_path / "large.pth")
    assert load_trained_config(tmp_path / "large.pth").DATALOADER.NUM_WORKERS == 4  # the default
    torch.save({"model": model, "detector": "faster_rcnn"}, tmp_path / "plain.pth")
    plain: Any = replace(job, output_dir=tmp_path / "again", weights=tmp_path / "plain.pth")
    assert evaluate(plain).per_dataset["tiny_val"].as_dict() == get_numbers(trained)
    words = r"plain\.pth does not hold the config.*; give one .* such as .*config\.yaml, or"
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ValueError, match=words):
        evaluate(replace(plain, config_file=None))


def test_the_numbers_on_further_sets_are_kept_together(
    sets: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    """An ended training that is resumed evaluates the same weights."""
    words = ("SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()")
    job = Job(write_config(tmp_path), tmp_path / "out", words, "portable")
    job = replace(job, datasets=as_datasets(sets))
    train(job)
    train(replace(job, resume=True, overrides=(*words, "DATASETS.TEST", "('tiny_train',)")))
    known = read_weights(tmp_path / "out" / "model_final.pth").detector
    assert known is not None and set(known.metrics) == {"tiny_val", "tiny_train"}
    train(replace(job, resume=True, overrides=("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()")))
    known = read_weights(tmp_path / "out" / "model_final.pth").detector
    assert known is not None and set(known.metrics) == {"tiny_val"}
