"""The index of an archive is kept, holds for that archive alone, and is never believed."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext_det.data.images import archives as archive_index
from resnext_det.data.images.archives import index_archive, index_archives
from resnext_det.data.images.array_files import read_arrays, write_arrays
from resnext_det.data.images.storage import ArchiveSource
from tests.data.images.helpers import classes_of_images, jpeg, pillow, tar_bytes, tree

CLASSES = classes_of_images(["cat", "dog"])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESNEXT_DET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The archives whose headers were read."""
    walked: list[Path] = []
    walk = archive_index.walk_archive

    def recorded(path: Path, **options: Any) -> Any:
        walked.append(path)
        return walk(path, **options)

    monkeypatch.setattr(archive_index, "walk_archive", recorded)
    return walked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tar").write_bytes(tar_bytes(tree(CLASSES)))
    return tmp_path / "data" / "a.tar"


def contents(source: ArchiveSource) -> dict[str, bytes]:
    return {source.locate(i): source.read(i).tobytes() for i in range(len(source))}


def test_the_headers_are_read_once(path: Path, walks: list[Path], cache: Path) -> None:
    first = contents(index_archive(path))
    assert sorted(os.listdir(path.parent)) == ["a.tar", "a.tar.index.npz"]
    assert contents(index_archive(path)) == first
    assert first == {
        f"{path}/{name}": pillow(content).tobytes() for name, content in tree(CLASSES).items()
    }
    moved = path.parent.rename(path.parent.with_name("moved")) / "a.tar"
    assert list(contents(index_archive(moved))) == [
        f"{moved}/{name}" for name in sorted(tree(CLASSES))
    ]
    assert walks == [path]
    assert not cache.exists()


def test_an_archive_that_changed_is_read_anew(path: Path, walks: list[Path]) -> None:
    index_archive(path)
    state = path.stat()
    path.write_bytes(tar_bytes({"cat/other.jpg": jpeg(1)}))
    assert list(contents(index_archive(path))) == [f"{path}/cat/other.jpg"]
    assert len(walks) == 2
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    index_archive(path)
    assert len(walks) == 3
    index_archive(path)
    assert len(walks) == 3


def test_a_folder_of_archives_has_one_index(tmp_path: Path, walks: list[Path]) -> None:
    for name, files in CLASSES.items():
        (tmp_path / f"{name}.tar").write_bytes(tar_bytes(files))
    first = contents(index_archives(tmp_path, ["dog.tar", "cat.tar"]))
    assert contents(index_archives(tmp_path, ["cat.tar", "dog.tar"])) == first
    assert walks == [tmp_path / "cat.tar", tmp_path / "dog.tar"]
    index_archives(tmp_path, ["cat.tar"])
    assert len(walks) == 3


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["RESNEXT_DET_CACHE"] + "-was-run",)


def _cut(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:-100])


def _flip(index: Path) -> None:
    content = bytearray(index.read_bytes())
    content[content.index(b"cat_1.JPEG")] ^= 1
    index.write_bytes(content)


def _is_text(index: Path) -> None:
    index.write_text("no index")


def _is_pickle(index: Path) -> None:
    index.write_bytes(pickle.dumps(_Trap()))


def _holds_pickle(index: Path) -> None:
    header, arrays = read_arrays(index)
    write_arrays(index, header, arrays | {"offsets": np.array([_Trap()] * 6, object)})


def _other(name: str, change: Any) -> Any:
    def damage(index: Path) -> None:
        header, arrays = read_arrays(index)
        write_arrays(index, header, arrays | {name: change(arrays[name])})

    return damage


def _other_version(index: Path) -> None:
    header, arrays = read_arrays(index)
    write_arrays(index, header | {"version": 0}, arrays)


def _without_offsets(index: Path) -> None:
    header, arrays = read_arrays(index)
    del arrays["offsets"]
    write_arrays(index, header, arrays)


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        _flip,
        _is_text,
        _is_pickle,
        _holds_pickle,
        _other_version,
        _without_offsets,
        _other("offsets", lambda a: a + 10_000_000),
        _other("offsets", lambda a: -a),
        _other("offsets", lambda a: a[:-1]),
        _other("offsets", lambda a: a.astype(np.float64)),
        _other("sizes", lambda a: a + (1 << 62)),
        _other("sizes", lambda a: -a),
        _other("names", lambda a: a.astype(str)),
        _other("names", lambda a: a[:, None]),
        _other("names", lambda a: a[:-1]),
        _other("folder_of", lambda a: a + 1),
        _other("folder_of", lambda a: a[:-1]),
        _other("folder_of", lambda a: a.astype(np.int64)),
        _other("folders", lambda a: a[:-1]),
        _other("archive_of_folder", lambda a: a - 1),
        _other("archive_of_folder", lambda a: a[:0]),
    ],
)
def test_a_damaged_index_is_made_anew(
    path: Path, walks: list[Path], damage: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    first = contents(index_archive(path))
    index = path.with_name("a.tar.index.npz")
    damage(index)
    assert contents(index_archive(path)) == first
    assert len(walks) == 2
    assert "it is made anew" in caplog.text
    assert contents(index_archive(path)) == first
    assert len(walks) == 2
    assert not (tmp_path / "cache-was-run").exists()


def test_where_the_archive_lies_may_be_closed_to_writing(
    path: Path,
    walks: list[Path],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lock_file = archive_index.lock_file
    closed = [path.parent]

    def refusing(place: Path) -> Any:
        if place.parent in closed:
            raise PermissionError("the folder is read-only")
        return lock_file(place)

    monkeypatch.setattr(archive_index, "lock_file", refusing)
    first = contents(index_archive(path))
    assert os.listdir(path.parent) == ["a.tar"]
    assert len(list((cache / "archives").glob("*.a.tar.index.npz"))) == 1
    assert contents(index_archive(path)) == first
    assert len(walks) == 1
    assert not caplog.records
    (path.parent / "b.tar").write_bytes(path.read_bytes())
    closed.append(cache / "archives")
    assert len(index_archive(path.with_name("b.tar"))) == 6
    assert "can be kept neither beside it nor in" in caplog.text


def test_a_full_disk_costs_the_index_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    assert len(index_archive(path)) == 6
    assert "cannot be written (no space left): it will be made anew the next time" in caplog.text
    assert os.listdir(path.parent) == ["a.tar"]


def test_of_several_at_once_one_makes_the_index(path: Path, walks: list[Path]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: contents(index_archive(path)), range(4)))
    assert found == [found[0]] * 4
    assert len(walks) == 1
