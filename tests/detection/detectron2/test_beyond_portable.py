"""Test what only detectron2 has, on our backbone by our jobs, and what it loads and evaluates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnext_det.detection.inference import Predictor
from resnext_det.detection.jobs import Job, evaluate, train
from resnext_det.detection.validation import measure_losses
from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.training.checkpoint import Checkpointer
from tests.detection.helpers import (
    CASCADE_CHANGES,
    as_datasets,
    as_overrides,
    draw_sample,
    json_lines,
    override,
    write_config,
    write_sets,
)

pytestmark = [pytest.mark.detectron2, pytest.mark.usefixtures("alone")]
pytest.importorskip("detectron2", reason="detectron2 is not installed")

SHORT: list[Any] = ["SOLVER.MAX_ITER", 3, "SOLVER.STEPS", ()]
MASKS: list[Any] = [
    *override("MODEL", MASK_ON=True),
    *override("MODEL.ROI_MASK_HEAD", NAME="MaskRCNNConvUpsampleHead", NUM_CONV=1, CONV_DIM=8),
]
RETINANET: list[Any] = [
    *override("MODEL", META_ARCHITECTURE="RetinaNet"),
    *override("MODEL.BACKBONE", NAME="build_retinanet_resnext_fpn_backbone"),
    *override("MODEL.FPN", IN_FEATURES=["res3", "res4", "res5"]),
    *override("MODEL.RETINANET", IN_FEATURES=["p3", "p4", "p5"], NUM_CONVS=1),
    *override("MODEL.RETINANET", NUM_CLASSES=6, SCORE_THRESH_TEST=0.0),
]
LAYER_NORM: list[Any] = [
    *override("MODEL.RESNETS", NORM="LN"),
    *override("MODEL.ROI_HEADS", SCORE_THRESH_TEST=0.0),
]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, str, str], ...]:
    """Write the tiny sets, with their boxes as polygons."""
    sets = write_sets(tmp_path_factory.mktemp("sets"))
    for file, _ in sets.values():
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            x, y, width, height = annotation["bbox"]
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotation["segmentation"] = [corners]
        file.write_text(json.dumps(content))
    return as_datasets(sets, "masked_")


def make_job(folder: Path, datasets: tuple[tuple[str, str, str], ...], *changes: Any) -> Job:
    sets = ["DATASETS.TRAIN", ("masked_tiny_train",), "DATASETS.TEST", ("masked_tiny_val",)]
    given = as_overrides([*SHORT, *sets, *changes])
    return Job(
        write_config(folder), folder / "out", tuple(given), engine="detectron2", datasets=datasets
    )


@contextmanager
def lend(datasets: tuple[tuple[str, str, str], ...]) -> Iterator[None]:
    """Let detectron2 alone know these sets, so that it loads the images and evaluates."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    for name, file, images in datasets:
        register_coco_instances(name, {}, file, images)
    try:
        yield
    finally:
        for name, *_ in datasets:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    "changes", [RETINANET, CASCADE_CHANGES, LAYER_NORM], ids=["RetinaNet", "Cascade R-CNN", "LN"]
)
def test_boxes_are_loaded_and_evaluated_as_ever(
    tmp_path: Path, datasets: tuple[tuple[str, str, str], ...], changes: list[Any]
) -> None:
    metrics = train(make_job(tmp_path, datasets, *changes))
    found = metrics.per_dataset["masked_tiny_val"]
    assert json.loads((tmp_path / "out/inference/metrics.json").read_text())["AP"] == found.AP
    assert json.loads((tmp_path / "out/inference/coco_instances_results.json").read_text())
    weights = ("MODEL.WEIGHTS", str(tmp_path / "out/model_final.pth"))
    again = make_job(tmp_path, datasets, *changes, *weights)
    assert evaluate(again).per_dataset["masked_tiny_val"].to_json() == found.to_json()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [RETINANET, MASKS], ids=["RetinaNet", "masks"])
def test_measuring_losses_on_the_test_set_changes_no_weight(
    tmp_path: Path, datasets: tuple[tuple[str, str, str], ...], changes: list[Any]
) -> None:
    """RetinaNet notes a mean by which it divides losses; detectron2's mappers use numpy."""
    states = []
    for period in (0, 1):
        np.random.seed(1)
        (folder := tmp_path / str(period)).mkdir()
        train(make_job(folder, datasets, *changes, "TEST.LOSS_PERIOD", period))
        states.append(Checkpointer(folder).load(folder / "out/model_final.pth")["model"])
        lines = json_lines(folder / "out/metrics.json")
        measured = [line["iteration"] for line in lines if "validation/total_loss" in line]
        assert measured == [0, 1, 2][: 3 * period]
    # Two trainings of RetinaNet on detectron2 differ by 1e-18 in a bias, without losses too.
    torch.testing.assert_close(*map(dict, states), rtol=1e-9, atol=1e-15)


def test_the_loss_of_an_image_is_divided_by_its_own_anchors(tmp_path: Path) -> None:
    """RetinaNet's mean of a training's batches would make it as small as batches are large."""
    from detectron2.utils.events import EventStorage

    from resnext_det.detection.detectron2 import engine
    from resnext_det.detection.detectron2.datasets import convert_sample

    frozen = override("MODEL.RESNETS", NORM="FrozenBN")  # which compute in training as in a test
    cfg = engine.load_config(write_config(tmp_path), as_overrides([*RETINANET, *frozen]))
    model = engine.build_detector(cfg)
    (sample,) = [draw_sample(torch.Generator().manual_seed(1), 64, 64, [[8, 8, 40, 40]])]
    batch = [{**convert_sample(sample), "image_id": 1}]
    found = []
    for model.loss_normalizer in (1.0, 1e6):
        sets = {"a": lambda: [batch]}
        found.append(measure_losses(model, sets, around=lambda: EventStorage(1)))
        assert "_ema_update" not in vars(model)
    assert found[0] == found[1]
    del model.loss_normalizer
    with EventStorage(), torch.no_grad():
        for _ in range(300):  # until the mean is that of this image
            losses = model.train()(batch)
    assert found[0]["validation/loss_cls"] == pytest.approx(losses["loss_cls"].item(), rel=1e-3)


@pytest.mark.parametrize(("limit", "task"), [(100, "bbox"), (150, "bbox@150")])
def test_masks_are_loaded_and_evaluated_by_detectron2(
    limit: int, task: str, tmp_path: Path, datasets: tuple[tuple[str, str, str], ...]
) -> None:
    changes = [*MASKS, *override("TEST", DETECTIONS_PER_IMAGE=limit)]
    changes += override("MODEL.ROI_HEADS", SCORE_THRESH_TEST=0.0)
    with lend(datasets):
        found = train(make_job(tmp_path, (), *changes)).per_dataset["masked_tiny_val"]
    assert set(found.tasks) == {"bbox", "segm"}
    assert found.summarize().startswith("bbox AP ") and "segm" in found.format_table()
    line = json_lines(tmp_path / "out/metrics.json")[-1]
    assert line["loss_mask"] > 0 and f"{task.replace('bbox', 'segm')}/AP" in line
    written = json.loads((tmp_path / "out/inference/metrics.json").read_text())
    assert written["AP50"] == found.as_dict()["AP50"]
    assert written.get("max_detections", 100) == limit
    for words in (found.summarize(), found.format_table()):
        assert ("at most 150 detections an image, where COCO counts 100" in words) == (limit == 150)
    annotations = next(file for name, file, _ in datasets if name == "masked_tiny_val")
    ours = evaluate_coco(
        annotations,
        tmp_path / "out/inference/coco_instances_results.json",
        max_detections_per_image=limit,
    )
    assert (written["AP"], written["AP50"]) == (ours.AP, ours.AP50)
    assert ours.segm is not None and ours.segm.as_dict() == pytest.approx(
        dict(found.tasks["segm"]), abs=0, nan_ok=True
    )


def test_images_that_it_alone_reads_are_held_to_the_order_of_the_ids(
    tmp_path: Path, datasets: tuple[tuple[str, str, str], ...]
) -> None:
    """detectron2, which loads and evaluates, takes classes by their ids, not their names."""
    content = json.loads(Path(datasets[1][1]).read_text())
    for entry in content["categories"]:
        entry["id"] = 10 - entry["id"]
    for annotation in content["annotations"]:
        annotation["category_id"] = 10 - annotation["category_id"]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    sets = (*datasets, ("other_order", str(other), datasets[1][2]))
    tested = override("DATASETS", TEST=("masked_tiny_val", "other_order"))
    with pytest.raises(ValueError, match=r"'other_order' has the classes triangle, .*circle.*ids"):
        train(make_job(tmp_path, sets, "INPUT.FORMAT", "YUV-BT.601", *tested))


def test_the_portable_engine_names_the_engine_of_a_detector_that_it_cannot_compute(
    tmp_path: Path, datasets: tuple[tuple[str, str, str], ...]
) -> None:
    train(make_job(tmp_path, datasets, *LAYER_NORM))
    file = tmp_path / "out/model_final.pth"
    words = r"has MODEL.RESNETS.NORM = 'LN'.* write --engine detectron2"
    with pytest.raises(ValueError, match=words):
        evaluate(Job(None, tmp_path / "again", engine="portable", weights=file))
    with pytest.raises(ValueError, match=words):
        Predictor(file)


def test_the_classes_of_retinanet_are_those_of_the_data(
    tmp_path: Path, datasets: tuple[tuple[str, str, str], ...]
) -> None:
    wrong = make_job(tmp_path, datasets, *RETINANET, *override("MODEL.RETINANET", NUM_CLASSES=5))
    with pytest.raises(ValueError, match=r"RETINANET.NUM_CLASSES = 5, but .* 6 categories"):
        train(wrong)


def test_masks_that_are_missing_are_told(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sets = write_sets(tmp_path_factory.mktemp("bare"))
    file, _ = sets["tiny_train"]
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    file.write_text(json.dumps(content))
    datasets = as_datasets(sets, "bare_")
    changes = [*MASKS, "DATASETS.TRAIN", ("bare_tiny_train",), "DATASETS.TEST", ()]
    words = r"annotations of .*jpg.* have no masks.*MODEL.MASK_ON = True.*write False"
    with lend(datasets), pytest.raises(ValueError, match=words):
        train(make_job(tmp_path, (), *changes))


def test_a_model_that_detectron2_refuses_is_told_in_a_line(
    tmp_path: Path, datasets: tuple[tuple[str, str, str], ...]
) -> None:
    words = "cannot build this model: .*NoSuchHeads.*correct the keys of MODEL"
    with pytest.raises(ValueError, match=words):
        train(make_job(tmp_path, datasets, "MODEL.ROI_HEADS.NAME", "NoSuchHeads"))
    with pytest.raises(ValueError, match=r"MODEL.RESNETS.DEPTH = 34 is not supported"):
        train(make_job(tmp_path, datasets, *MASKS, "MODEL.RESNETS.DEPTH", 34))
