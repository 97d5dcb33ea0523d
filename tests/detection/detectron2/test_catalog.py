"""Names of datasets in detectron2's catalogs: a user's stay, and a run leaves none of its own."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.data import coco
from resnext_det.detection.jobs import Job, train
from tests.detection.helpers import as_overrides, override, write_config

pytestmark = [pytest.mark.detectron2, pytest.mark.usefixtures("registered", "catalogs")]
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402
from detectron2.data.datasets import register_coco_instances  # noqa: E402
from detectron2.utils.logger import setup_logger  # noqa: E402

from resnext_det.detection.detectron2.catalog import (  # noqa: E402
    check_names,
    lend_datasets,
    register_datasets,
)

Sets = dict[str, tuple[Path, Path]]
# For which detectron2 loads the images.
AUGMENTED = override("TEST.AUG", ENABLED=True, MIN_SIZES=(48,), MAX_SIZE=64)


@pytest.fixture
def catalogs() -> Iterator[None]:
    """Give detectron2's catalogs back after each test."""
    catalogs = (DatasetCatalog, MetadataCatalog)
    before = [dict(catalog) for catalog in catalogs]
    yield
    for catalog, entries in zip(catalogs, before, strict=True):
        catalog.data = entries


def take_snapshot() -> list[Any]:
    """List what a program around a run may have set up."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    return [
        dict(DatasetCatalog),
        {name: metadata.as_dict() for name, metadata in MetadataCatalog.items()},
        [([*each.handlers], each.level, each.propagate) for each in loggers],
        (torch.get_num_threads(), torch.backends.cudnn.benchmark),
    ]


def run(folder: Path, *changes: Any, check_data: bool = False) -> Any:
    folder.mkdir(exist_ok=True)
    given = ["SOLVER.MAX_ITER", 1, "SOLVER.STEPS", (), "CUDNN_BENCHMARK", True, *changes]
    words = tuple(as_overrides(given))
    file, out = write_config(folder), folder / "out"
    job = Job(file, out, words, engine="detectron2", check_data=check_data)
    return train(job).per_dataset


def test_a_run_leaves_the_program_around_it_as_it_was(
    tmp_path: Path, sets: Sets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever loads the images; the same names may then stand for other files, in either order."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    logger = setup_logger(str(tmp_path / "host.txt"), name="detectron2")
    handlers = [*logger.handlers]
    before = take_snapshot()
    capsys.readouterr()
    try:
        assert set(run(tmp_path / "augmented", *AUGMENTED)) == {"tiny_val"}
        assert take_snapshot() == before
        shown = capsys.readouterr().out
        monkeypatch.setattr(coco, "_registered", dict.fromkeys(sets, sets["tiny_val"]))
        for name, changes in (("again", AUGMENTED), ("plain", [])):
            assert set(run(tmp_path / name, *changes)) == {"tiny_val"}
            assert take_snapshot() == before
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
    line = "Making batched data loader with batch_size=2"  # of detectron2
    assert line in (tmp_path / "augmented/out/log.txt").read_text()
    assert line in (tmp_path / "host.txt").read_text() and shown.count(line) == 1


@pytest.mark.parametrize("changes", [[], AUGMENTED], ids=["by us", "by detectron2"])
def test_a_users_set_of_the_same_name_is_never_passed_over(
    tmp_path: Path, sets: Sets, changes: list[Any]
) -> None:
    file, images = map(str, sets["tiny_train"])
    register_coco_instances("shapes_val", {}, file, images)
    register_coco_instances("tiny_val", {}, file, images)
    coco.register_coco("made", file, images)
    DatasetCatalog.register("made", list)  # whose files nobody knows
    before = take_snapshot()
    for name, there, here in (
        ("shapes_val", file, "the generated set"),
        ("tiny_val", file, f"{sets['tiny_val'][0]} with images in {sets['tiny_val'][1]}"),
        ("made", "a set of its own", f"{file} with images in {images}"),
    ):
        words = f"dataset '{name}' stands for {there} in detectron2's catalog, and for {here} in "
        with pytest.raises(ValueError, match=re.escape(words) + "this .* yours by another name"):
            run(tmp_path, *changes, "DATASETS.TEST", (name,))
    assert take_snapshot() == before


def test_what_detectron2_loads_is_looked_at_before(tmp_path: Path, sets: Sets) -> None:
    coco.register_coco("gone", sets["tiny_train"][0], tmp_path)
    with pytest.raises(FileNotFoundError, match=r"dataset 'gone' .* do not exist"):
        run(tmp_path, *AUGMENTED, *override("DATASETS", TRAIN=("gone",), TEST=()))
    assert not list(tmp_path.glob("out/*.pth"))


def test_the_same_files_may_stand_in_both(
    tmp_path: Path, sets: Sets, caplog: pytest.LogCaptureFixture
) -> None:
    for name, (file, images) in sets.items():
        register_coco_instances(name, {}, os.path.relpath(file), str(images))
    register_coco_instances("mine", {}, *map(str, sets["tiny_val"]))
    before = take_snapshot()
    for changes in ([], [*AUGMENTED, "DATASETS.TEST", ("mine",)]):
        folder = tmp_path / str(len(changes))
        assert set(run(folder, *changes, check_data=True)) <= {"tiny_val", "mine"}
    assert caplog.text.count("The images of mine are not looked at: detectron2 alone") == 1
    assert take_snapshot()[0] == before[0]


def test_datasets_are_registered_on_request(
    sets: Sets, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))  # COCO's are COCO's anywhere
    before = take_snapshot()
    for _ in range(2):
        register_datasets()
    new = set(DatasetCatalog) - set(before[0])
    assert new == {"shapes_train", "shapes_val", "tiny_train", "tiny_val"}
    assert len(DatasetCatalog.get("tiny_val")) == len(coco.load_coco("tiny_val").records)
    assert MetadataCatalog.get("tiny_val").json_file == str(sets["tiny_val"][0])
    assert not (tmp_path / "shapes").exists()
    with pytest.raises(ValueError, match="dataset 'tiny' is unknown; known are"):
        register_datasets(["tiny"])
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in new:
            catalog.pop(name)
    register_coco_instances("shapes_val", {}, *map(str, sets["tiny_val"]))
    with pytest.raises(ValueError, match=r"'shapes_val' stands for .* register yours by another"):
        register_datasets()
    assert "shapes_train" not in DatasetCatalog
    register_datasets("tiny_val")
    assert "tiny_val" in DatasetCatalog and "tiny_train" not in DatasetCatalog
    check_names(["tiny_val", "coco_2017_val"])


def test_what_a_user_has_told_of_a_name_comes_back(sets: Sets) -> None:
    told = MetadataCatalog.get("tiny_val").set(thing_classes=["cell"], json_file="mine.json")
    with pytest.raises(KeyboardInterrupt), lend_datasets(["tiny_val", "tiny_train"]):
        assert DatasetCatalog.get("tiny_val") and MetadataCatalog.get("tiny_val") is not told
        raise KeyboardInterrupt
    assert MetadataCatalog.get("tiny_val") is told and told.json_file == "mine.json"
    assert (
        not {"tiny_val", "tiny_train"} & {*DatasetCatalog} and "tiny_train" not in MetadataCatalog
    )
