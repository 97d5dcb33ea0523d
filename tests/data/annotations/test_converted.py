"""Datasets of VOC and YOLO go through the reader of COCO files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from resnext_det.command_line import add_dataset_flag, read_dataset_flags
from resnext_det.data.annotations.converted import convert_datasets
from resnext_det.data.coco import load_coco, register_coco
from resnext_det.data.inspection.datasets import inspect_dataset
from tests.data.annotations.test_voc import write_voc
from tests.data.annotations.test_yolo import write_yolo


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, alone: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESNEXT_DET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "converted"


def test_the_flags_give_coco_files(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_voc(tmp_path / "a", "1", [("dog", (11, 6, 30, 25))])
    write_voc(tmp_path / "b", "1", [("cat", (1, 1, 60, 40))])
    description, images = write_yolo(tmp_path / "c", {"1": "1 0.5 0.5 0.25 0.5"})
    parser = argparse.ArgumentParser()
    add_dataset_flag(parser)
    flags = ["--register-coco", "given", "given.json", "images"]
    for name in "ab":
        folder = tmp_path / name
        flags += ["--register-voc", name, f"{folder}/Annotations", f"{folder}/JPEGImages"]
    flags += ["--register-yolo", "c/d", str(description), str(images)]
    options = parser.parse_args(flags)
    datasets = read_dataset_flags(options)
    assert [name for name, _, _ in datasets] == ["given", "a", "b", "c/d"]
    told = capsys.readouterr().err
    assert read_dataset_flags(options) == datasets  # as for the second of two jobs
    assert capsys.readouterr().err == ""
    boxes, classes = [], []
    for name, file, folder in datasets[1:]:
        assert f"{name} is now a COCO file: {file}\n" in told
        assert Path(file).parent == cache
        register_coco(name, file, folder)
        dataset = load_coco(name)
        inspect_dataset(dataset)
        classes.append(dataset.class_names)
        boxes.append(dataset.records[0]["annotations"][0]["bbox"])
    assert boxes == [[10, 5, 20, 20], [0, 0, 60, 40], [30, 10, 20, 20]]
    assert classes == [("cat", "dog"), ("cat", "dog"), ("nut", "bolt")]


def test_a_changed_folder_is_converted_anew(tmp_path: Path, cache: Path) -> None:
    path = write_voc(tmp_path, "1", [("dog", (11, 6, 30, 25))])
    given = [("mine", str(tmp_path / "Annotations"), str(tmp_path / "JPEGImages"))]
    ((_, first, _),) = convert_datasets(given, [])
    assert convert_datasets(given, []) == [("mine", first, given[0][2])]
    path.write_text(path.read_text().replace("11", "12"))
    ((_, second, _),) = convert_datasets(given, [])
    assert sorted(cache.iterdir()) == sorted(map(Path, (first, second)))
    x = [
        json.loads(Path(file).read_text())["annotations"][0]["bbox"][0] for file in (first, second)
    ]
    assert x == [10, 11]
