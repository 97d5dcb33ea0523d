"""Take names of sets, the number of classes and the schedule from the data."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from resnext_det.config.loading import list_set_keys, load_config
from resnext_det.data import coco
from resnext_det.detection import own_data
from resnext_det.detection.jobs import DEFAULT_CONFIG, Job, evaluate, train
from tests.detection.helpers import (
    FPN,
    RETINANET_CHANGES,
    TRAIN_IMAGES,
    as_datasets,
    as_overrides,
    write_config,
)

pytestmark = pytest.mark.usefixtures("alone")

Sets = dict[str, tuple[Path, Path]]
ENGINES = ["portable", pytest.param("detectron2", marks=pytest.mark.detectron2)]


def write_unsaid(folder: Path, **changes: Any) -> Path:
    """Write the tiny configuration without a number of classes and without sets."""
    heads = {key: value for key, value in FPN["MODEL"]["ROI_HEADS"].items() if key != "NUM_CLASSES"}
    return write_config(
        folder, {"MODEL": {**FPN["MODEL"], "ROI_HEADS": heads}, "DATASETS": {"TEST": []}, **changes}
    )


def as_words(paths: tuple[Path, Path]) -> tuple[str, str]:
    return str(paths[0]), str(paths[1])


def test_keys_that_are_set(tmp_path: Path) -> None:
    """List keys of the file, its base and the overrides, and none that has detectron2's default."""
    base = write_unsaid(tmp_path)
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text(f"_BASE_: {base.name}\nSOLVER:\n  GAMMA: 0.5\n")
    keys = list_set_keys(leaf, ["TEST.EVAL_PERIOD", "3"])
    assert {"MODEL.RPN.IN_FEATURES", "SOLVER.GAMMA", "TEST.EVAL_PERIOD", "SEED"} <= keys
    assert not {"MODEL.ROI_HEADS.NUM_CLASSES", "SOLVER.MOMENTUM", "_BASE_"} & keys


@pytest.mark.parametrize("engine", ENGINES)
def test_classes_are_those_of_the_data_where_nothing_says_them(
    sets: Sets, tmp_path: Path, engine: str
) -> None:
    if engine == "detectron2":
        pytest.importorskip("detectron2")
    train_set = ("DATASETS.TRAIN", "('tiny_train',)")
    unsaid = Job(
        write_unsaid(tmp_path), engine=engine, overrides=train_set, datasets=as_datasets(sets)
    )
    cfg, fitted = unsaid.fit()
    assert len(fitted.told) == 1
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 6
    assert "NUM_CLASSES is 6, the classes of dataset 'tiny_train'." in " ".join(fitted.told)
    retina = ("MODEL.META_ARCHITECTURE", "RetinaNet")
    pyramid = ("MODEL.BACKBONE.NAME", "build_retinanet_resnext_fpn_backbone")
    anchors = ("MODEL.ANCHOR_GENERATOR.SIZES", "[[32]]")
    cfg = replace(unsaid, overrides=(*train_set, *retina, *pyramid, *anchors)).configuration()
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 6
    said = Job(
        unsaid.config_file,
        engine=engine,
        overrides=(*train_set, "MODEL.ROI_HEADS.NUM_CLASSES", "80"),
        datasets=unsaid.datasets,
    )
    assert said.configuration().MODEL.ROI_HEADS.NUM_CLASSES == 80  # and the data refuse it


def test_classes_of_sets_that_are_known_or_missing(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generated set is not drawn to count its classes; a missing set is told of later."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    assert coco.count_classes("shapes_train") == 6
    assert not (tmp_path / "datasets").exists()
    assert coco.count_classes("coco_2017_train") == 80
    assert coco.count_classes("unknown") is None
    coco.register_coco("missing", "nowhere.json", "nowhere")
    assert coco.count_classes("missing") is None
    job = Job(write_unsaid(tmp_path), overrides=("DATASETS.TRAIN", "('shapes_val',)"))
    assert job.configuration().MODEL.ROI_HEADS.NUM_CLASSES == 6
    assert job.configuration(training=False).MODEL.ROI_HEADS.NUM_CLASSES == 80


def test_names_of_files(tmp_path: Path) -> None:
    """Sets are named by their files, and by their folders where two files have one name."""
    files = [tmp_path / folder / "_annotations.coco.json" for folder in ("train", "valid")]
    names = [coco.register_files(file, file.parent) for file in (*files, *files)]
    assert names == ["_annotations.coco", "valid__annotations.coco"] * 2
    third = tmp_path / "other" / "train" / "_annotations.coco.json"
    fourth = tmp_path / "another" / "train" / "_annotations.coco.json"
    names = [coco.register_files(file, file.parent) for file in (third, fourth, third)]
    assert names[0] == names[2] == "train__annotations.coco" and names[1] not in names[::2]
    assert coco.find_dataset(names[1]) == (fourth, fourth.parent)
    assert coco.register_files(tmp_path / "shapes_val.json", tmp_path) != "shapes_val"


def test_training_data_alone_are_enough(
    sets: Sets, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A part is held out, the schedule follows the data, and a resumed run chooses nothing anew."""
    short = ("SOLVER.MAX_ITER", "4", "INPUT.MIN_SIZE_TEST", "64")
    job = Job(
        write_unsaid(tmp_path, DATASETS={"TEST": ["unknown"]}),
        tmp_path / "out",
        short,
        train_data=as_words(sets["tiny_train"]),
        schedule="auto",
    )
    with caplog.at_level(logging.INFO):
        metrics = train(job)
    assert list(metrics.per_dataset) == ["instances_train_test"]
    assert f"3 of {TRAIN_IMAGES} images are held out" in caplog.text
    assert "--schedule auto: SOLVER.BASE_LR" in caplog.text
    assert "no configuration is given" not in caplog.text.lower()
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("images are held out") == 1 and "NUM_CLASSES is 6" in log

    chosen = job.configuration()
    assert (chosen.SOLVER.MAX_ITER, chosen.SOLVER.IMS_PER_BATCH) == (4, 2)
    files = sorted((tmp_path / "out" / "data").iterdir())
    images = [json.loads(file.read_text())["images"] for file in files]
    assert list(map(len, images)) == [3, TRAIN_IMAGES - 3]  # of six classes

    files[0].write_text(files[0].read_text().replace('"split": "train"', '"split": "mine"'))
    recorded = tmp_path / "out" / "config.yaml"
    recorded.write_text(recorded.read_text().replace("MIN_SIZE_TEST: 64", "MIN_SIZE_TEST: 96"))
    recorded.write_text(recorded.read_text().replace("BASE_LR: 0.0025", "BASE_LR: 0.0017"))
    resumed = replace(job, resume=True)
    cfg, fitted = resumed.fit()
    assert (cfg.SOLVER.BASE_LR, cfg.INPUT.MIN_SIZE_TEST) == (0.0017, 64)
    assert "are those of" in " ".join(fitted.told) and '"mine"' in files[0].read_text()
    assert "has changed" not in " ".join(fitted.warnings)
    copy = json.loads(files[0].read_text())
    copy["annotations"].pop()
    files[0].write_text(json.dumps(copy))
    assert "has changed, and this run goes on with the copies" in resumed.fit()[1].warnings[-1]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        itself = Job(**{**vars(resumed), "config_file": None})  # the checkpoint's configuration
        assert list(evaluate(itself).per_dataset) == ["instances_train_test"]
    assert "--schedule auto" not in caplog.text


@pytest.mark.usefixtures("quick_start")
def test_every_process_gets_the_sets_and_the_schedule_of_the_first(
    sets: Sets, tmp_path: Path
) -> None:
    job = Job(
        write_unsaid(tmp_path),
        tmp_path / "out",
        overrides=("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"),
        engine="portable",
        train_data=as_words(sets["tiny_train"]),
        schedule="auto",
        num_gpus=2,
    )
    assert list(train(job).per_dataset) == ["instances_train_test"]
    recorded = (tmp_path / "out" / "config.yaml").read_text()
    assert "IMS_PER_BATCH: 2" in recorded and "NUM_CLASSES: 6" in recorded
    assert (tmp_path / "out" / "log.txt").read_text().count("images are held out") == 1


def test_both_sets_are_given(sets: Sets, tmp_path: Path) -> None:
    job = Job(
        write_unsaid(tmp_path),
        tmp_path,
        train_data=as_words(sets["tiny_train"]),
        test_data=as_words(sets["tiny_val"]),
    )
    cfg, fitted = job.fit()
    assert cfg.DATASETS.TRAIN == ("instances_train",) and cfg.DATASETS.TEST == ("instances_val",)
    assert cfg.SOLVER.MAX_ITER == 10
    assert len(fitted.told) == 1 and not (tmp_path / "data").exists()
    # The number of classes in a file is that of the sets which are replaced; an override holds.
    said = replace(job, config_file=write_config(tmp_path), overrides=("TEST.EVAL_PERIOD", "1"))
    said.config_file.write_text(said.config_file.read_text().replace("CLASSES: 6", "CLASSES: 9"))
    assert said.configuration().MODEL.ROI_HEADS.NUM_CLASSES == 6
    said = replace(said, overrides=("MODEL.ROI_HEADS.NUM_CLASSES", "9"))
    assert said.configuration().MODEL.ROI_HEADS.NUM_CLASSES == 9


def test_without_a_configuration(sets: Sets, tmp_path: Path) -> None:
    """The default is told; it takes the device that is there and a schedule that fits."""
    job = Job(output_dir=tmp_path, train_data=as_words(sets["tiny_train"]))
    cfg, fitted = job.fit()
    assert fitted.told[0] == f"No configuration is given; {DEFAULT_CONFIG} is taken."
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 6 and cfg.SOLVER.MAX_ITER < 2000
    assert cfg.MODEL.WEIGHTS == "resnext://mmpretrain/X-50-32x4d"
    kept = Job(output_dir=tmp_path, train_data=job.train_data, schedule="config").configuration()
    assert kept.SOLVER.MAX_ITER == 90000
    with pytest.raises(ValueError, match="--config-file"):
        Job(output_dir=tmp_path).configuration()


def test_a_broken_set_is_told_by_its_own_name(sets: Sets, tmp_path: Path) -> None:
    """Before anything is written or held out."""
    broken = tmp_path / "mine.json"
    broken.write_text(sets["tiny_train"][0].read_text()[:-50])
    job = Job(output_dir=tmp_path / "out", train_data=(str(broken), str(sets["tiny_train"][1])))
    with pytest.raises(ValueError, match=r"'mine' \(.*mine\.json\) is not JSON"):
        train(job)
    for given, error, words in (
        (("nowhere.json", "photos"), FileNotFoundError, r"--train-data: nowhere\.json does not"),
        ((str(broken), "photos"), FileNotFoundError, r"--train-data: photos does not exist"),
        ((str(tmp_path), str(broken)), ValueError, rf"write --train-data {broken} {tmp_path}"),
    ):
        with pytest.raises(error, match=words):
            train(Job(output_dir=tmp_path / "out", train_data=given))
    assert not (tmp_path / "out").exists()
    given = as_words(sets["tiny_train"])
    (tmp_path / "file").write_text("")
    for folder, words in (
        ("file", r"cannot be written to .*file/data in OUTPUT_DIR.*; write another OUTPUT_DIR"),
        ("\udcff", "holds bytes that are no UTF-8; write another folder"),
    ):
        with pytest.raises(ValueError, match=words):
            train(Job(output_dir=tmp_path / folder, train_data=given))
    assert not (tmp_path / "\udcff").exists()


def test_a_batch_without_its_rate_is_warned_of(sets: Sets, tmp_path: Path) -> None:
    for more, warned in (((), True), (("SOLVER.BASE_LR", "0.1"), False)):
        overrides = ("SOLVER.IMS_PER_BATCH", "8", *more)
        job = Job(write_config(tmp_path), overrides=overrides, datasets=as_datasets(sets))
        fitted = job.fit()[1]
        assert ["write SOLVER.BASE_LR 0.08" in text for text in fitted.warnings] == [True] * warned


def test_an_evaluation_takes_the_classes_of_its_detector(sets: Sets, tmp_path: Path) -> None:
    """Evaluate with the classes in the detector's file, and refuse a set of other names."""
    unsaid = write_unsaid(tmp_path)
    short = ("SOLVER.MAX_ITER", "1")
    first = Job(unsaid, tmp_path / "out", short, train_data=as_words(sets["tiny_train"]))
    train(replace(first, test_data=as_words(sets["tiny_val"])))
    content = json.loads(sets["tiny_val"][0].read_text())
    content["categories"] = content["categories"][:2]
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] < 3]
    other = tmp_path / "two.json"
    other.write_text(json.dumps(content))
    weights = tmp_path / "out" / "model_final.pth"
    two = (str(other), str(sets["tiny_val"][1]))
    for config in (unsaid, None):
        job = Job(config, tmp_path / "again", weights=weights, test_data=two)
        assert job.configuration(training=False).MODEL.ROI_HEADS.NUM_CLASSES == 6
        with pytest.raises(ValueError, match=r"is a detector of circle.*'two' has circle, cross;"):
            evaluate(job)


def test_classes_follow_a_fit_to_another_kind_of_detector(sets: Sets, tmp_path: Path) -> None:
    """Fit a RetinaNet's configuration to a Faster R-CNN: its key of classes is dropped."""
    job = Job(write_unsaid(tmp_path), tmp_path / "out", ("SOLVER.MAX_ITER", "1"))
    job = replace(job, train_data=as_words(sets["tiny_train"]))
    train(replace(job, test_data=as_words(sets["tiny_val"])))
    retinanet = tmp_path / "retinanet.yaml"
    retinanet.write_text(
        load_config(write_config(tmp_path), as_overrides(RETINANET_CHANGES)).dump()
    )
    content = json.loads(sets["tiny_train"][0].read_text())
    content["categories"] = content["categories"][:2]
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] < 3]
    two = tmp_path / "two.json"
    two.write_text(json.dumps(content))
    data = (str(two), str(sets["tiny_train"][1]))
    fit = Job(retinanet, tmp_path / "again", weights=tmp_path / "out" / "model_final.pth")
    fit = replace(fit, fit_config=True, train_data=data, test_data=data)
    model = fit.configuration().MODEL
    assert (model.META_ARCHITECTURE, model.ROI_HEADS.NUM_CLASSES) == ("GeneralizedRCNN", 2)


def test_facts_of_a_gpu(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest of several GPUs decides, so that every process chooses the same."""
    gpus = [SimpleNamespace(total_memory=gib * 2**30) for gib in (24, 11)]
    monkeypatch.setattr(own_data.distributed, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(gpus))
    monkeypatch.setattr("torch.cuda.get_device_properties", gpus.__getitem__)
    monkeypatch.setattr(own_data, "choose_schedule", lambda facts, given: told.append(facts) or [])
    told: list[Any] = []
    job = Job(DEFAULT_CONFIG, tmp_path, schedule="auto", num_gpus=2)
    replace(job, train_data=as_words(sets["tiny_train"])).configuration()
    (facts,) = told
    assert (facts.gpu_memory, facts.processes, facts.images) == (11, 2, TRAIN_IMAGES - 3)
    assert (facts.pretrained, facts.network, facts.c4, facts.tested) == (True, 1.0, False, True)
    deformable = ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, True, True, True]")
    job = replace(job, train_data=as_words(sets["tiny_train"]), overrides=deformable)
    job.configuration()
    assert told[1].network == 2.0
    content = json.loads((tmp_path / "data" / "instances_train_train.json").read_text())
    areas = sorted(each["bbox"][2] * each["bbox"][3] for each in content["annotations"])
    assert facts.boxes == len(areas) and 192 <= facts.side <= 256
    assert areas[0] ** 0.5 < facts.box_side < areas[-1] ** 0.5
