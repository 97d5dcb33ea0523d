"""The report of a run: its numbers are those of the evaluation, and what is missing is said."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from resnext_det.data.annotations.coco_json import read_coco_json
from resnext_det.data.coco import CocoDataset
from resnext_det.detection.jobs import Job, Metrics, train
from resnext_det.evaluation.analysis import analyze_detections
from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.evaluation.findings import ERROR_KINDS
from resnext_det.report.examination import examine_run
from resnext_det.report.examples import show_best_and_worst
from resnext_det.report.progress import show_progress
from resnext_det.report.runs import read_run
from resnext_det.report.settings import find_nearest
from resnext_det.report.tables import format_cell, format_interval
from resnext_det.report.write import report_on, write_report
from resnext_det.rle import encode_segmentation
from resnext_det.training.environment import read_environment
from tests.detection.helpers import as_datasets, as_flags, write_config
from tests.report.helpers import Page, Sets, check_page, write_run
from tests.tools.helpers import read_error, run_tool

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def written(sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    """The folder of a run, and its report."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", sets)
    assert run_tool("report", folder, *as_flags(sets)) == 0
    path = folder / "report.html"
    assert path.stat().st_size < 3_000_000
    return folder, check_page(path.read_text())


def test_the_numbers_are_those_of_the_evaluation(written: tuple[Path, Page], sets: Sets) -> None:
    folder, page = written
    results = folder / "inference" / "coco_instances_results.json"
    numbers = evaluate_coco(sets["tiny_val"][0], results).as_dict(recalls=True)
    (start,) = [i for i, row in enumerate(page.rows) if row[:2] == ["number", "of"]]
    shown = {row[0]: row[3] for row in page.rows[start + 1 : start + 13]}
    of_all = {name: value for name, value in numbers.items() if "-" not in name}
    assert shown == {name: format_cell(value) for name, value in of_all.items()}


def test_the_page_says_what_is_asked_of_it(written: tuple[Path, Page]) -> None:
    _, page = written
    for words in (
        *("Tested on tiny_val: 5 images", "score to use", "costliest kind of error"),
        *("What to do first", "95 % interval", "precision", "detected as", "Ground truth"),
        *("learning rate", "total loss", "10 iterations of 2 images", "waited for data"),
        *("height / width of an object", "model_final.pth", "Settings that differ"),
    ):
        assert words in page.text, words
    assert len(page.images) == 5
    assert "What this page lacks" not in page.text


def test_masks_have_their_numbers_and_are_drawn(sets: Sets, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", sets, trained=False)
    file = folder / "inference" / "coco_instances_results.json"
    content, results = json.loads(sets["tiny_val"][0].read_text()), json.loads(file.read_text())
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    for entry in [*content["annotations"], *results]:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if "score" in entry:
            size = sizes[entry["image_id"]]
            counts = encode_segmentation(entry["segmentation"], *size)
            entry["segmentation"] = {"size": size, "counts": counts}
    (tmp_path / "val.json").write_text(json.dumps(content))
    given = [("tiny_val", str(tmp_path / "val.json"), str(sets["tiny_val"][1]))]
    file.write_text(json.dumps(results))
    page = check_page(write_report([folder], datasets=given).read_text())
    masks = analyze_detections(tmp_path / "val.json", file).segm
    assert masks is not None and "AP of masks" in page.text and "What this" not in page.text
    (start,) = [i for i, row in enumerate(page.rows) if row[:2] == ["number", "of"]]
    shown = {row[0]: row[5:] for row in page.rows[start + 1 : start + 13]}
    assert shown == {
        name: [format_cell(value), format_interval(*masks.intervals[name])]
        for name, value in masks.metrics.as_dict(recalls=True).items()
        if "-" not in name
    }
    errors = {row[0]: row[5:] for row in page.rows if row[0] in ERROR_KINDS}
    assert errors == {
        error.kind: [format_cell(each) for each in (error.count_at_score, error.count, error.cost)]
        for error in masks.errors
    }
    assert len(page.images) == 5 and page.text.count("The same of masks") == 2


def test_an_image_whose_masks_are_worse_than_its_boxes_is_shown(tmp_path: Path) -> None:
    """Boxes are right everywhere, and of the second image the mask is less than half."""
    whole, part = ([[10, 10, x, 10, x, 40, 10, 40]] for x in (50, 28))
    truth, results = [], []
    for number, found in enumerate((whole, part, whole)):
        owner = {"image_id": number, "category_id": 1, "bbox": [10, 10, 40, 30]}
        truth.append({**owner, "id": 1 + number, "segmentation": whole})
        mask = {"size": [60, 80], "counts": encode_segmentation(found, 60, 80)}
        results.append({**owner, "score": 0.9, "segmentation": mask})
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((60, 80, 3), np.uint8))
    images = [
        {"id": number, "file_name": f"{number}.png", "height": 60, "width": 80}
        for number in range(3)
    ]
    content = {"images": images, "annotations": truth, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "cells.json").write_text(json.dumps(content))
    names, records = read_coco_json(tmp_path / "cells.json", tmp_path, "cells")
    dataset = CocoDataset("cells", tmp_path, tmp_path, tuple(names.values()), (1,), records)
    analysis = analyze_detections(content, results, resamples=0)
    worse, fewest = str(show_best_and_worst(analysis, dataset)).split("Fewest mistakes")
    assert "Most mistakes" not in worse and "More mistakes in masks than in boxes" in worse
    assert re.findall(r"<figcaption>.*/(\S+): (.*)</figcaption", worse) == [
        ("1.png", "0 found, 1 missed, 1 wrong")
    ]
    assert fewest.count("1 found, 0 missed, 0 wrong</fig") == 2


def test_losses_of_a_cascade_and_of_retinanet_have_names(sets: Sets, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", sets)
    lines = [
        {"iteration": i, "total_loss": 1.0, "loss_mask": 0.5}
        | {f"loss_{part}_stage{k}": k + i for part in ("cls", "box_reg") for k in range(3)}
        for i in (4, 9)
    ]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = str(show_progress(read_run(folder)))
    for words in (
        *("class of a region, 3 stages", "box of a region, 3 stages", "mask of a region"),
        *("class, stage 1", "box, stage 3", "Each of 3 losses", "Each of 6 losses"),
    ):
        assert words in page, words
    assert "loss_cls" not in page
    lines = [{"iteration": i, "loss_cls": 0.5, "loss_box_reg": 0.2} for i in (4, 9)]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["MODEL"]["META_ARCHITECTURE"] = "RetinaNet"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    page = str(show_progress(read_run(folder)))
    assert "class of an anchor" in page and "box of an anchor" in page and "region" not in page


def test_what_is_missing_is_said(sets: Sets, tmp_path: Path) -> None:
    """Leave out the annotations, and then the detections."""
    folder = write_run(tmp_path / "run", sets)
    page = check_page(write_report([folder]).read_text())
    assert "--register-coco tiny_val ANNOTATIONS IMAGES" in page.text
    assert "total loss" in page.text and "score to use" not in page.text
    (folder / "inference" / "coco_instances_results.json").unlink()
    (missing,) = examine_run(read_run(folder, datasets=as_datasets(sets))).missing
    assert missing.startswith("There are no detections on tiny_val")


@pytest.mark.slow
def test_an_evaluation_alone_whose_images_are_gone(sets: Sets, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "tested", sets, trained=False)
    gone = {name: (annotations, tmp_path) for name, (annotations, _) in sets.items()}
    page = check_page(write_report([folder], datasets=as_datasets(gone)).read_text())
    assert page.images == [] and "5 images cannot be shown: there is no image" in page.text
    assert "score to use" in page.text and "not trained here" in page.text


@pytest.mark.parametrize("lacking", ["objects", "detections"])
def test_a_test_without_objects_or_detections_has_no_score(
    sets: Sets, tmp_path: Path, lacking: str
) -> None:
    folder = write_run(tmp_path / "run", sets, trained=False)
    content = json.loads(sets["tiny_val"][0].read_text())
    annotations = tmp_path / "val.json"
    if lacking == "objects":
        content["annotations"] = []
    else:
        (folder / "inference" / "coco_instances_results.json").write_text("[]")
    annotations.write_text(json.dumps(content))
    given = [("tiny_val", str(annotations), str(sets["tiny_val"][1]))]
    page = check_page(write_report([folder], datasets=given).read_text())
    assert "score nan" not in page.text and "nan points" not in page.text
    assert "wrong classes" not in page.text
    assert ("has no object to be found" in page.text) == (lacking == "objects")


def test_annotations_that_changed_are_told(sets: Sets, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", sets, trained=False)
    (folder / "inference" / "metrics.json").write_text('{"AP": 99.0, "max_detections": null}')
    page = check_page(write_report([folder], datasets=as_datasets(sets)).read_text())
    assert "The run itself measured AP 99.0 on tiny_val" in page.text


def test_training_sets_with_their_classes_in_other_orders_are_counted_by_name(
    sets: Sets, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", sets)
    annotations, images = sets["tiny_train"]
    content = json.loads(annotations.read_text())
    last = max(category["id"] for category in content["categories"]) + 1
    for entry in [*content["categories"], *content["annotations"]]:
        key = "category_id" if "category_id" in entry else "id"
        entry[key] = last - entry[key]
    turned = tmp_path / "turned.json"
    turned.write_text(json.dumps(content))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["DATASETS"]["TRAIN"] = ["tiny_train", "turned"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    given = [*as_datasets(sets), ("turned", str(turned), str(images))]
    found = examine_run(read_run(folder, datasets=given)).train_statistics
    assert found is not None
    names = {category["id"]: category["name"] for category in content["categories"]}
    once = Counter(names[entry["category_id"]] for entry in content["annotations"])
    expected = [2 * once[name] for name in found.class_names]
    assert found.count_objects().tolist() == expected


def test_a_page_that_cannot_be_written_is_told(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", sets)

    def refuse(path: Path, text: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("resnext_det.report.write.write_text", refuse)
    with pytest.raises(OSError, match=r"report\.html cannot be written .*by --output FILE"):
        write_report([folder])


def test_another_file_is_not_replaced(sets: Sets, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", sets, trained=False)
    with pytest.raises(ValueError, match=r"config\.yaml exists and is no report"):
        write_report([folder], folder / "config.yaml", datasets=as_datasets(sets))


def test_a_mistake_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tool("report", tmp_path / "none") == 1
    assert "there is no folder" in read_error(capsys)


@pytest.mark.parametrize("named", ["nothing", "file", "empty"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, named: str) -> None:
    if named == "file":
        (tmp_path / named).touch()
    elif named == "empty":
        (tmp_path / named / "inside").mkdir(parents=True)
        (tmp_path / named / "inside" / "config.yaml").touch()
    message = "runs within it are" if named == "empty" else "there is no folder"
    with pytest.raises(FileNotFoundError, match=message):
        write_report([tmp_path / named])


def test_no_folder_and_a_damaged_one_are_refused(sets: Sets, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing to report"):
        write_report([])
    folder = write_run(tmp_path / "run", sets)
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"config\.yaml is damaged"):
        write_report([folder])


@pytest.mark.slow
def test_a_training_leaves_what_its_report_needs(sets: Sets, tmp_path: Path) -> None:
    """Train for two steps; the folder tells where the sets are, without being asked."""
    job = Job(
        write_config(tmp_path),
        output_dir=tmp_path / "run",
        overrides=("SOLVER.MAX_ITER", "2"),
        engine="portable",
        datasets=as_datasets(sets),
    )
    metrics = train(job)
    environment = read_environment(tmp_path / "run")
    assert environment is not None and environment.machine.versions["torch"]
    assert environment.sets == {name: tuple(map(str, paths)) for name, paths in sets.items()}
    (line,) = report_on(metrics)
    page = check_page(Path(line.removeprefix("the report is ")).read_text())
    assert environment.command.split()[0] in page.text
    assert list(report_on(Metrics(tmp_path / "run", of_first_process=False))) == []
    shutil.rmtree(tmp_path / "run")
    (line,) = report_on(metrics)
    assert line.startswith("no report was written (FileNotFoundError")


@pytest.mark.parametrize("kind", ["not tested", "proposals"])
def test_every_training_has_a_page(sets: Sets, tmp_path: Path, kind: str) -> None:
    """Losses, rate and settings are there also without a test set, and for a ProposalNetwork."""
    folder = write_run(tmp_path / "run", sets)
    (folder / "inference" / "coco_instances_results.json").unlink()
    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    if kind == "proposals":
        config["MODEL"]["META_ARCHITECTURE"] = "ProposalNetwork"
        recalls = {"AR@100": 41.25, "AR@1000": 50.0, "ARs@100": None}
        (folder / "inference" / "metrics.json").write_text(json.dumps(recalls))
    else:
        config["DATASETS"]["TEST"] = []
    file.write_text(yaml.safe_dump(config))
    page = check_page(write_report([folder], datasets=as_datasets(sets)).read_text())
    for words in ("total loss", "learning rate", "10 iterations of 2 images", "All "):
        assert words in page.text
    told = {"not tested": "was not tested, as DATASETS.TEST is empty"}
    assert told.get(kind, "tiny_val: AR@100 41.2, AR@1000 50.0") in page.text
    assert "There are no detections" not in page.text and "nan" not in page.text


def test_a_report_that_is_stopped_says_how_to_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(folders: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resnext_det.report.write.write_report", stop)
    with pytest.raises(KeyboardInterrupt, match=f"resnext-det report {tmp_path} writes it"):
        list(report_on(Metrics(tmp_path)))


def test_lines_of_metrics_that_were_cut_short_are_passed_over(sets: Sets, tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", sets))
    assert run.iterations == 10 and run.was_trained
    assert run.series["total_loss"].values.tolist() == [2.5, 1.5]
    assert run.series["loss_box_reg"].values[1] != run.series["loss_box_reg"].values[1]
    with (tmp_path / "run" / "metrics.json").open("a") as file:
        file.write('\n{"iteration": 10, "bbox/AP": 3.0}\n')  # as a resumed training writes it
    assert read_run(tmp_path / "run").iterations == 10
    (tmp_path / "run" / "environment.json").write_text(json.dumps({"sets": 3}))
    assert read_run(tmp_path / "run").environment is None


def test_the_nearest_configuration_is_found() -> None:
    from resnext_det.config import load_config
    from resnext_det.config.rules import collect_values

    name = "quickstart/faster_rcnn_X26_8x4d_FPN_shapes.yaml"
    cfg = load_config(name, ["SOLVER.BASE_LR", "0.123"])
    found = find_nearest(collect_values(cfg))
    assert found.config_file == name
    assert [tuple(setting) for setting in found.settings] == [
        ("SOLVER.BASE_LR", 0.123, load_config(name).SOLVER.BASE_LR)
    ]
