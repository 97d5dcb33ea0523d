"""Labels, names and sizes in memory of image sets, and the mapping between lists of classes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from resnext_det.data.images import storage
from resnext_det.data.images.archives import open_archive
from resnext_det.data.images.image_set import ImageSet, check_same_classes, relabel
from resnext_det.data.images.locations import open_class_folders
from resnext_det.data.images.storage import (
    Archive,
    ArchiveSource,
    ArraySource,
    FileSource,
    JoinedSource,
    PackedPaths,
)
from tests.data.images.helpers import (
    classes_of_images,
    jpeg,
    pillow,
    tar_bytes,
    tree,
    write_files,
)


def a_set(*class_names: str, name: str = "a", labels: list[int] | None = None) -> ImageSet:
    numbers = np.array(range(len(class_names)) if labels is None else labels, np.int64)
    pixels = np.arange(len(numbers) * 12, dtype=np.uint8).reshape(-1, 2, 2, 3)
    return ImageSet(name, class_names, numbers, ArraySource(pixels, ("records.bin",)))


def list_paths(paths: PackedPaths) -> list[str]:
    return [paths[index] for index in range(len(paths))]


def test_packed_paths_are_a_list_of_paths_and_store_each_folder_once() -> None:
    pairs = [("n01", "a.jpg"), ("", "b.jpg"), ("n02/sub", "a.jpg"), ("n01", "c.jpg")]
    packed = PackedPaths.pack(pairs)
    assert list_paths(packed) == ["n01/a.jpg", "b.jpg", "n02/sub/a.jpg", "n01/c.jpg"]
    assert packed.list_folders() == ["n01", "", "n02/sub"]
    assert packed.list_names() == ["a.jpg", "b.jpg", "a.jpg", "c.jpg"]
    assert list_paths(packed.take(np.array([3, 1, 1]))) == ["n01/c.jpg", "b.jpg", "b.jpg"]


def test_paths_of_every_kind_are_packed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_CHUNK", 2)
    names = ["a.jpg", "Ünïcode 名.jpg", "b" * 255, "\udcff.jpg", "c", "", "d"]
    pairs = [(name * 10 if len(name) < 99 else "e", name) for name in names]
    packed = PackedPaths.pack(pairs)
    assert list_paths(packed) == [f"{folder}/{name}" if folder else name for folder, name in pairs]
    stored = PackedPaths.from_arrays(packed.to_arrays("x."), "x.")
    assert list_paths(stored) == list_paths(packed)
    assert list_paths(PackedPaths.pack([])) == []


@pytest.mark.parametrize(("folder", "name"), [("a", "b" * 256), ("a" * 4097, "b")])
def test_a_path_that_would_widen_all_others_is_refused(folder: str, name: str) -> None:
    """Every name takes as many bytes as the longest; no file system has such a long one."""
    with pytest.raises(ValueError, match=r"is too long: .*; give the image a shorter name"):
        PackedPaths.pack([("a", "b"), (folder, name)])


@pytest.mark.parametrize("kind", ["files", "archives"])
def test_a_million_images_take_few_bytes_each(kind: str) -> None:
    """Pickled too, which is what a spawned process is sent."""
    number = 1_000_000
    paths = PackedPaths.pack(
        (f"n{i // 1300:08d}", f"n{i // 1300:08d}_{i}.JPEG") for i in range(number)
    )
    source: FileSource | ArchiveSource = FileSource(Path("/data/imagenet/train"), paths)
    if kind == "archives":
        archive = Archive("train.tar", 1 << 40, 0)
        of_folder = np.zeros(len(paths.folders), np.int32)
        numbers = np.arange(number, dtype=np.int64)
        source = ArchiveSource(Path("/data"), (archive,), paths, of_folder, numbers, numbers)
    classes = tuple(paths.list_folders())
    images = ImageSet("big", classes, paths.folder_of.astype(np.int64), source)
    sent = pickle.dumps(images, protocol=pickle.HIGHEST_PROTOCOL)
    text = sum(len(f"n{i // 1300:08d}_{i}.JPEG") for i in range(number))
    assert len(sent) - text < 30 * number
    again = pickle.loads(sent)
    index = 765_432
    assert again.locate(index).endswith("/n00000588/n00000588_765432.JPEG")
    assert again.labels[index] == 588


class _Images(Dataset):
    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return 20 * len(self.images)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray]:
        number = index * 7 % len(self.images)
        return number, self.images.read(number)


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_two_workers_read_one_set_at_once(tmp_path: Path, kind: str) -> None:
    classes = classes_of_images(["cat", "dog", "emu"], per_class=5)
    if kind == "folder":
        images = open_class_folders(write_files(tmp_path / "set", tree(classes)))
    else:
        (tmp_path / "set.tar").write_bytes(tar_bytes(tree(classes)))
        images = open_archive(tmp_path / "set.tar")
    truth = [pillow(content) for content in tree(classes).values()]
    np.testing.assert_array_equal(
        images.read(3), truth[3]
    )  # a handle that is kept would be inherited
    sent = pickle.loads(pickle.dumps(images))
    loader = DataLoader(_Images(sent), batch_size=None, num_workers=2, generator=torch.Generator())
    seen = 0
    for number, pixels in loader:
        np.testing.assert_array_equal(pixels, truth[number])
        seen += 1
    assert seen == 20 * 15


def test_an_image_is_asked_for_by_a_number_that_exists() -> None:
    images = a_set("x", "y", "z")
    assert len(images) == 3
    assert images.locate(-1) == images.locate(2) == "records.bin, image 2"
    np.testing.assert_array_equal(images.read(-3), images.read(0))
    for index in (3, -4):
        with pytest.raises(IndexError):
            images.read(index)
        with pytest.raises(IndexError):
            images.locate(index)


def test_changing_an_image_does_not_change_the_set() -> None:
    images = a_set("x", "y")
    images.read(1)[:] = 0
    assert images.read(1).tolist() == np.arange(12, 24).reshape(2, 2, 3).tolist()


def test_images_are_counted_per_class() -> None:
    images = a_set("x", "y", "z", "w", labels=[2, 0, 2, 2, 0])
    assert images.count_images().tolist() == [2, 0, 3, 0]


def test_joined_sources_follow_each_other() -> None:
    parts = [ArraySource(np.full((n, 1, 1, 3), n, np.uint8), (f"{n}.bin",)) for n in (2, 1, 3)]
    joined = JoinedSource(tuple(parts))
    assert len(joined) == 6
    assert [int(joined.read(i)[0, 0, 0]) for i in range(6)] == [2, 2, 1, 3, 3, 3]
    assert [joined.locate(i) for i in (1, 2, 5)] == [
        "2.bin, image 1",
        "1.bin, image 0",
        "3.bin, image 2",
    ]


def test_a_file_that_goes_missing_or_breaks_is_named(tmp_path: Path) -> None:
    images = open_class_folders(write_files(tmp_path, {"cat/1.jpg": jpeg(0), "cat/2.jpg": jpeg(1)}))
    (tmp_path / "cat/1.jpg").unlink()
    (tmp_path / "cat/2.jpg").write_bytes(jpeg(1)[:300])
    with pytest.raises(
        FileNotFoundError, match=rf"image {tmp_path}/cat/1\.jpg does not exist; put it there"
    ):
        images.read(0)
    with pytest.raises(
        ValueError, match=rf"image {tmp_path}/cat/2\.jpg cannot be read: .+; replace the file"
    ):
        images.read(1)
    (tmp_path / "cat/1.jpg").mkdir()
    with pytest.raises(
        ValueError, match=r"cat/1\.jpg cannot be read: .*[Ii]s a directory.*; replace"
    ):
        images.read(0)


def test_sets_of_the_same_classes_fit_together() -> None:
    check_same_classes(a_set("x", "y"), a_set("x", "y", name="b"))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            ("x", "y"),
            ("x", "z"),
            r"'train' \(2 classes\) and 'test' \(2\) .*'test' lacks y; 'train' lacks z",
        ),
        (
            ("x",),
            ("x", "y"),
            r"have different classes: 'train' lacks y; give sets of the same classes",
        ),
        (tuple("abcdefgh"), ("a",), r"'test' lacks b, c, d, e, f and 2 more"),
        (("x", "y", "z"), ("x", "z", "y"), "label 1 is y in one and z in the other"),
    ],
)
def test_sets_of_different_classes_are_refused(
    train: tuple[str, ...], test: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_same_classes(a_set(*train, name="train"), a_set(*test, name="test"))


def test_relabelling_keeps_the_class_of_every_image() -> None:
    images = a_set("b", "d", "a", labels=[2, 0, 1, 1, 0])
    wanted = ["d", "x", "a", "b"]
    found = relabel(images, wanted)
    assert found.class_names == ("d", "x", "a", "b")
    assert [found.class_names[i] for i in found.labels] == [
        images.class_names[i] for i in images.labels
    ]
    assert found.labels.dtype == np.int64
    for index in range(5):
        np.testing.assert_array_equal(found.read(index), images.read(index))
    with pytest.raises(ValueError, match="'a' has classes that are not among the 2 wanted ones: a"):
        relabel(images, ["b", "d"])
