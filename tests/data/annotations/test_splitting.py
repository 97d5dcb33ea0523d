"""Held-out images: a fifth of them, always the same, with every class in both parts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from resnext_det.data.annotations.coco_json import read_coco_json
from resnext_det.data.annotations.splitting import choose_images, hold_out, is_made_of


def write_set(path: Path, classes: dict[int, list[int]]) -> Path:
    """Write a COCO file with one box for every class of an image."""
    content = {
        "info": {"description": "of São Paulo"},
        "images": [
            {"id": image, "file_name": f"{image}.jpg", "width": 64, "height": 48}
            for image in classes
        ],
        "categories": [
            {"id": name, "name": f"class {name}"}
            for name in sorted({name for names in classes.values() for name in names})
        ],
        "annotations": [
            {"id": 1000 * image + name, "image_id": image, "category_id": name}
            | {"bbox": [1, 2, 30, 20], "area": 600, "iscrowd": 0}
            for image, names in classes.items()
            for name in names
        ],
    }
    path.write_text(json.dumps(content))
    return path


def test_a_set_is_written_as_two(tmp_path: Path) -> None:
    whole = write_set(tmp_path / "cells.json", {image: [1 + image % 2] for image in range(10, 40)})
    train, test, told = hold_out(whole, tmp_path / "out")
    assert [train.name, test.name] == ["cells_train.json", "cells_test.json"]
    sets = [read_coco_json(file, tmp_path, "cells") for file in (whole, train, test)]
    assert sets[0][0] == sets[1][0] == sets[2][0] == {1: "class 1", 2: "class 2"}
    assert len(sets[2][1]) == 6
    parts = [*sets[1][1], *sets[2][1]]
    assert sorted(parts, key=lambda record: record["image_id"]) == sets[0][1]
    assert json.loads(test.read_text(encoding="utf-8"))["info"]["description"] == "of São Paulo"
    assert "6 of 30 images are held out" in told and str(test) in told and "--test-data" in told
    written = test.stat().st_mtime_ns, test.read_bytes()
    hold_out(whole, tmp_path / "out")
    assert (test.stat().st_mtime_ns, test.read_bytes()) == written


def test_a_file_that_changed_is_told_from_its_copies(tmp_path: Path) -> None:
    whole = write_set(tmp_path / "cells.json", {image: [1 + image % 2] for image in range(9)})
    parts = hold_out(whole, tmp_path / "out")[:2]
    content = json.loads(whole.read_text())
    whole.write_text(json.dumps(content, indent=1))
    assert is_made_of(whole, *parts)
    content["annotations"][3]["bbox"][0] += 1
    whole.write_text(json.dumps(content))
    assert not is_made_of(whole, *parts)
    whole.write_text("[]")
    assert not is_made_of(whole, *parts)


def test_the_choice_is_the_same_everywhere() -> None:
    """Choose by the ids alone, whatever the order of the file: ``echo -n 8 | sha256sum``."""
    classes = {image: {1} for image in range(20)}
    assert choose_images(classes) == choose_images(dict(reversed(classes.items())))
    assert choose_images(classes) == {8, 9, 13, 17}


@pytest.mark.parametrize("seed", range(30))
def test_every_class_is_in_both_parts(seed: int) -> None:
    """Give every class to both parts, where each has more images than one."""
    draw = random.Random(seed)
    classes = {image: {draw.randrange(3)} for image in range(40)}
    rare = draw.sample(range(40), 6)
    for index, image in enumerate(rare):
        classes[image] = {10 + index // 2}  # three classes of two images
    chosen = choose_images(classes)
    assert 8 - 6 <= len(chosen) <= 8 + 6  # one may move for each class
    names = set().union(*classes.values())
    for part in (chosen, classes.keys() - chosen):
        assert set().union(*(classes[image] for image in part)) == names


def test_small_sets(tmp_path: Path) -> None:
    """A class of one image is trained on or tested on; no part is ever empty."""
    assert len(choose_images({1: {1}, 2: {2}})) == 1
    assert len(choose_images({1: {1, 2}, 2: {1, 2}})) == 1
    for only in (1, 2, 3):  # the one image with an object is trained on
        assert only not in choose_images({i: {1} if i == only else set() for i in (1, 2, 3)})
    whole = write_set(tmp_path / "pair.json", {1: [1], 2: [2]})
    told = hold_out(whole, tmp_path)[2]
    assert "No object to test on has class " in told
    content = json.loads(whole.read_text()) | {"info": {"description": "cut \ud83d"}}
    content["annotations"][1]["iscrowd"] = 1
    whole.write_text(json.dumps(content))
    train = hold_out(whole, tmp_path)[0]
    assert json.loads(train.read_text())["images"][0]["id"] == 1
    with pytest.raises(ValueError, match=r"has one image.*--test-data"):
        hold_out(write_set(tmp_path / "one.json", {1: [1]}), tmp_path)
