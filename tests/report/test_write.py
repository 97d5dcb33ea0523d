"""The report of a run: its numbers are those of the evaluation, and what is missing is said."""

from __future__ import annotations

import errno
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from resnext_det.detection.jobs import Job, Metrics, train
from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.report.examination import examine_run
from resnext_det.report.runs import read_run
from resnext_det.report.settings import find_nearest
from resnext_det.report.tables import format_cell
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
    segm = evaluate_coco(tmp_path / "val.json", file).segm
    assert segm is not None and "AP of masks" in page.text and "masks, %" in page.text
    for value in segm.as_dict(recalls=True).values():
        assert format_cell(value) in page.text
    assert len(page.images) == 5 and "What this page lacks" not in page.text


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
