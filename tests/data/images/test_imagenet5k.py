"""ImageNet-5K: which classes are chosen, what is written, and what is opened again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from resnext_det.data.images import imagenet5k
from resnext_det.data.images.array_files import read_arrays, write_arrays
from resnext_det.data.images.catalog import open_image_set
from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.imagenet5k import choose_classes, make_imagenet5k, open_imagenet5k
from resnext_det.data.images.locations import open_path
from resnext_det.data.images.storage import ArraySource
from tests.data.images.helpers import (
    classes_of_images,
    expected,
    holdings,
    jpeg,
    nested,
    tar_bytes,
    tree,
    write_files,
)

# The full set lacks n04; of the others n08 and n02 have the most images, n06 and n07 equally many.
COUNTS = {"n01": 2, "n02": 5, "n03": 1, "n05": 3, "n06": 4, "n07": 4, "n08": 6, "n09": 1}
FULL = {
    name: {f"{name}_{i}.JPEG": jpeg(10 * number + i) for i in range(count)}
    for number, (name, count) in enumerate(COUNTS.items())
}
SMALL = classes_of_images(["n05", "n04", "n01"], per_class=1)


def put(root: Path, form: str) -> Path:
    """The full set in one of its forms."""
    if form == "folders":
        return write_files(root / "full", {**tree(FULL), "n10/readme.txt": b""})
    if form == "archives":
        return write_files(
            root / "full", {f"{name}.tar": tar_bytes(files) for name, files in FULL.items()}
        )
    return write_files(root, {"full.tar": nested(FULL, "fall11/")}) / "full.tar"


def test_the_largest_other_classes_are_chosen_by_a_plain_loop() -> None:
    random = np.random.RandomState(0)
    counts = {f"n{i:04d}": int(random.randint(0, 12)) for i in random.permutation(300)}
    of_1k = [name for name in counts if counts[name] > 0][:40]
    choice = choose_classes(counts, of_1k, 150)
    others = {name: count for name, count in counts.items() if name not in of_1k}
    wanted = set()
    while len(wanted) < 110:
        most = max(others.values())
        first = min(name for name, count in others.items() if count == most)
        wanted.add(first)
        del others[first]
    assert choice.class_names == (*sorted(of_1k), *sorted(wanted))
    assert choice.counts == tuple(counts[name] for name in choice.class_names)
    assert choice.added == ()


def test_classes_that_cannot_be_chosen() -> None:
    counts = {"a": 3, "b": 2, "c": 1, "d": 0}
    with pytest.raises(
        ValueError,
        match=r"5 classes cannot be had: 2 are ImageNet-1K.s, .* has 1 others .* from 2 to 3",
    ):
        choose_classes(counts, ["a", "b"], 5)
    with pytest.raises(ValueError, match="1 classes cannot be had: 2 are"):
        choose_classes(counts, ["a", "b"], 1)
    with pytest.raises(
        ValueError,
        match=r"no images of 2 of the 3 classes of ImageNet-1K: d, e; give the training images of",
    ):
        choose_classes(counts, ["a", "e", "d"], 4)
    choice = choose_classes(counts, ["a", "e", "d"], 4, {"a": 9, "d": 7, "e": 8})
    assert choice.class_names == ("a", "d", "e", "b")
    assert (choice.counts, choice.added) == ((3, 7, 8, 2), ("d", "e"))


@pytest.mark.parametrize("form", ["folders", "archives", "archive"])
def test_the_list_opens_as_an_image_set(tmp_path: Path, form: str) -> None:
    full = open_path(put(tmp_path, form), allow_empty=True)
    choice = make_imagenet5k(full, ["n05", "n01"], tmp_path / "5k", num_classes=5)
    assert choice.class_names == ("n01", "n05", "n02", "n06", "n08")
    assert sorted(os.listdir(tmp_path / "5k")) == ["classes.txt", "counts.txt", "train.npz"]
    assert (tmp_path / "5k/classes.txt").read_text().split() == list(choice.class_names)
    assert (tmp_path / "5k/counts.txt").read_text() == "n01 2\nn05 3\nn02 5\nn06 4\nn08 6\n"
    found = open_imagenet5k(tmp_path / "5k")
    assert found.name == "imagenet5k_train"
    assert found.class_names == choice.class_names
    assert found.count_images().tolist() == list(choice.counts)
    assert holdings(found) == expected({name: FULL[name] for name in choice.class_names})


@pytest.mark.parametrize("small_form", ["folders", "archive"])
@pytest.mark.parametrize("form", ["folders", "archive"])
def test_classes_that_the_full_set_lacks_are_taken_from_imagenet1k(
    tmp_path: Path, form: str, small_form: str
) -> None:
    full = open_path(put(tmp_path, form), allow_empty=True)
    small_path = tmp_path / "small.tar"
    if small_form == "archive":
        small_path.write_bytes(nested(SMALL))
    else:
        small_path = write_files(tmp_path / "small", tree(SMALL))
    choice = make_imagenet5k(full, open_path(small_path), tmp_path / "5k", num_classes=5)
    assert choice.class_names == ("n01", "n04", "n05", "n02", "n08")
    assert choice.added == ("n04",)
    wanted = {name: FULL[name] for name in choice.class_names if name != "n04"} | {
        "n04": SMALL["n04"]
    }
    assert holdings(open_imagenet5k(tmp_path / "5k")) == expected(wanted)


def test_validation_images_bear_the_labels_of_imagenet5k(tmp_path: Path) -> None:
    full = open_path(put(tmp_path, "folders"), allow_empty=True)
    make_imagenet5k(full, ["n01", "n05"], tmp_path / "imagenet5k", num_classes=5)
    validation = {name: SMALL[name] for name in ("n01", "n05")}
    write_files(tmp_path / "imagenet/val", tree(validation))
    train = open_image_set("imagenet5k_train", root=tmp_path)
    found = open_image_set("imagenet5k_val", root=tmp_path)
    assert found.class_names == train.class_names
    assert found.name == "imagenet5k_val"
    assert holdings(found) == expected(validation)
    assert (
        found.labels.tolist()
        == open_image_set("imagenet_val", root=tmp_path).labels.tolist()
        == [0, 1]
    )
    write_files(tmp_path / "imagenet/val", {"n99/1.JPEG": jpeg(0)})
    with pytest.raises(
        ValueError, match=r"'imagenet_val' has classes that are not among the 5 wanted ones: n99"
    ):
        open_image_set("imagenet5k_val", root=tmp_path)


@pytest.mark.parametrize("name", ["write_arrays", "pack"])
def test_a_list_that_is_broken_off_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    full = open_path(put(tmp_path, "folders"), allow_empty=True)

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(imagenet5k, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_imagenet5k(full, ["n01", "n05"], tmp_path / "5k", num_classes=5)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="is not there"):
        open_imagenet5k(tmp_path / "5k")
    make_imagenet5k(full, ["n01", "n05"], tmp_path / "5k", num_classes=5)
    assert len(open_imagenet5k(tmp_path / "5k")) == 20


def test_a_list_is_not_overwritten(tmp_path: Path) -> None:
    full = open_path(put(tmp_path, "folders"), allow_empty=True)
    make_imagenet5k(full, ["n01"], tmp_path / "5k", num_classes=2)
    with pytest.raises(
        ValueError, match=r"5k holds a list already; remove .*train\.npz to make it anew"
    ):
        make_imagenet5k(full, ["n01"], tmp_path / "5k", num_classes=3)


def test_images_that_moved_or_changed_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"'imagenet5k_train' is not there: .*train\.npz does not exist; make",
    ):
        open_imagenet5k(tmp_path / "5k")
    path = put(tmp_path, "archive")
    make_imagenet5k(open_path(path), ["n01"], tmp_path / "5k", num_classes=2)
    path.write_bytes(nested({"n01": FULL["n01"]}))
    with pytest.raises(
        ValueError,
        match=r"lists images in .*full\.tar, which has changed since; put it back, or rem",
    ):
        open_imagenet5k(tmp_path / "5k")
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"lists images in .*full\.tar, which does not exist; put it back"
    ):
        open_imagenet5k(tmp_path / "5k")
    shutil.rmtree(tmp_path / "5k")
    folder = put(tmp_path, "folders")
    make_imagenet5k(open_path(folder, allow_empty=True), ["n01"], tmp_path / "5k", num_classes=2)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"lists images in .*/full, which does not exist; put it back"
    ):
        open_imagenet5k(tmp_path / "5k")


@pytest.mark.parametrize("change", ["cut", "labels", "number", "header", "missing"])
def test_a_damaged_list_is_refused(tmp_path: Path, change: str) -> None:
    make_imagenet5k(open_path(put(tmp_path, "archive")), ["n01"], tmp_path / "5k", num_classes=2)
    path = tmp_path / "5k" / "train.npz"
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    else:
        header, arrays = read_arrays(path)
        if change == "labels":
            arrays["labels"] = arrays["labels"] + 1
        elif change == "number":
            arrays["labels"] = arrays["labels"][:-1]
        elif change == "header":
            del header["class_names"]
        else:
            del arrays["0.offsets"]
        write_arrays(path, header, arrays)
    with pytest.raises(ValueError, match=r"train\.npz is damaged: .+; remove it, and make it anew"):
        open_imagenet5k(tmp_path / "5k")


def test_a_set_that_is_in_memory_cannot_be_listed(tmp_path: Path) -> None:
    pixels = ArraySource(np.zeros((2, 1, 1, 3), np.uint8), ("a.bin",))
    images = ImageSet("a", ("n01", "n02"), np.array([0, 1]), pixels)
    with pytest.raises(ValueError, match="'a' is not of files or archives; give their path"):
        make_imagenet5k(images, ["n01"], tmp_path / "5k", num_classes=2)
    assert not (tmp_path / "5k").exists()
