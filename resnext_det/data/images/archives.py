"""Open image sets in tar archives, which are read where they lie, and keep an index of them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from resnext_det.data.images.archive_walk import IMAGE_SUFFIXES, walk_archive
from resnext_det.data.images.array_files import pack, read_arrays, unpack, write_arrays
from resnext_det.data.images.hidden import find_visible
from resnext_det.data.images.image_set import ImageSet, check_no_splits
from resnext_det.data.images.storage import Archive, ArchiveSource, PackedPaths
from resnext_det.files import cache_folder, list_first, lock_file

logger = logging.getLogger(__name__)

_TAR = ".tar"


def open_archive(path: Path, inside: str = "") -> ImageSet:
    """Open an archive of class folders, or of one archive for each class.

    ILSVRC2012_img_train.tar and fall11_whole.tar are of the second kind. Classes and images are
    those that ``torchvision.datasets.ImageFolder`` finds in the extracted archive, in its order;
    hidden ones are left out, as in ``open_class_folders``. A folder that alone holds all class
    folders, as ``train/``, is passed over.

    Args:
        inside: the folder in the archive that holds the class folders, where that is not clear.

    Raises:
        FileNotFoundError: there is no such archive, or nothing in it in ``inside``.
        ValueError: it holds no class folders or several splits; see ``walk_archive``.
    """
    source = index_archive(path)
    parts = [tuple(folder.split("/")[1:]) for folder in source.paths.list_folders()]
    wanted = tuple(part for part in inside.split("/") if part)
    below = [folder[len(wanted) :] if folder[: len(wanted)] == wanted else None for folder in parts]
    source, has_images = _leave_out_hidden(
        str(path), source, [None if folder is None else "/".join(folder) for folder in below]
    )
    below = [folder if has_images[number] else None for number, folder in enumerate(below)]
    known = [folder for folder in below if folder is not None]
    if not known:
        found = list_first(sorted({folder[0] for folder in parts if folder}), 10)
        remedy = "give an archive of class folders"
        if inside and found:
            remedy = f"its folders are {found}"
        suffixes, where = ", ".join(IMAGE_SUFFIXES), inside or "it"
        raise FileNotFoundError(f"archive {path} holds no images ({suffixes}) in {where}; {remedy}")
    depth = _measure_depth(known)
    class_of_folder = [
        None if folder is None or len(folder) <= depth else folder[depth].removesuffix(_TAR)
        for folder in below
    ]
    if all(name is None for name in class_of_folder):
        raise ValueError(
            f"archive {path} holds images and no class folders, so their classes are not known; "
            "make a list of them (FOLDER:LIST.txt:CLASSES.txt), or put them into one folder for "
            "each class"
        )
    check_no_splits("/".join([str(path), *wanted, *known[0][:depth]]), class_of_folder)
    return _label("/".join([str(path), *wanted]), source, class_of_folder)


def open_archives_of_classes(
    folder: Path, names: Sequence[str], *, allow_empty: bool = False
) -> ImageSet:
    """Open a folder of archives, each named after the class of its images: n01440764.tar ...

    Args:
        allow_empty: leave out archives without images.

    Raises:
        ValueError: an archive holds no images, or archives; see ``walk_archive``.
    """
    source = index_archives(folder, names)
    source, has_images = _leave_out_hidden(str(folder), source, source.paths.list_folders())
    classes = [
        source.archives[number].name.removesuffix(_TAR) if has_images[at] else None
        for at, number in enumerate(source.archive_of_folder.tolist())
    ]
    empty = sorted(set(names).difference(f"{name}{_TAR}" for name in classes))
    if empty and not allow_empty:
        raise ValueError(
            f"folder {folder}: there are no images in {list_first(empty)}; download them again, or "
            "remove them to do without these classes"
        )
    return _label(str(folder), source, classes)


def open_flat_archive(path: Path) -> ArchiveSource:
    """Open all images of an archive, whatever folders they are in, without hidden ones.

    Raises:
        FileNotFoundError, ValueError: see ``index_archive``.
    """
    source = index_archive(path)
    folders = [folder.partition("/")[2] for folder in source.paths.list_folders()]
    return _leave_out_hidden(str(path), source, folders)[0]


def _leave_out_hidden(
    where: str, source: ArchiveSource, folders: Sequence[str | None]
) -> tuple[ArchiveSource, np.ndarray]:
    """Leave out hidden images; also tell which folders have images then: bool (F,)."""
    visible = find_visible(where, source.paths, folders)
    if not visible.all():
        source = source.take(np.flatnonzero(visible))
    return source, np.bincount(source.paths.folder_of, minlength=len(folders)) > 0


def _measure_depth(folders: Sequence[tuple[str, ...]]) -> int:
    """Count the folders above the class folders, each of which holds nothing but the next."""
    depth = 0
    while min(map(len, folders)) >= depth + 2:
        first = {folder[depth] for folder in folders}
        if len(first) > 1 or first.pop().endswith(_TAR):
            break
        depth += 1
    return depth


def _label(name: str, source: ArchiveSource, class_of_folder: Sequence[str | None]) -> ImageSet:
    """Label images by the class of their folder, class after class; None leaves a folder out."""
    class_names = sorted({found for found in class_of_folder if found is not None})
    numbers: dict[str | None, int] = {found: number for number, found in enumerate(class_names)}
    of_folder = np.array([numbers.get(found, -1) for found in class_of_folder], np.int64)
    labels = of_folder[source.paths.folder_of]
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    if not np.array_equal(order, np.arange(len(labels))):
        source, labels = source.take(order), labels[order]
    return ImageSet(name, tuple(class_names), labels, source)


def index_archive(path: Path) -> ArchiveSource:
    """Find every image of one archive and of the archives in it, by folder and then by name.

    It has the hidden ones too, which ``open_archive`` leaves out.

    The headers are read once, with a bar that shows the progress on a terminal. The index is kept
    in ``PATH.index.npz`` or, where that cannot be written, below ``$RESNEXT_DET_CACHE``, and holds
    as long as the archive's size and time of change do. Processes that want one index wait for the
    one that makes it. Of two images of one path the later one counts, as when it is extracted.

    Raises:
        FileNotFoundError: there is no such archive.
        ValueError: see ``walk_archive``.
    """
    return _index(path.parent, (path.name,), path.with_name(f"{path.name}.index.npz"), nested=True)


def index_archives(folder: Path, names: Sequence[str]) -> ArchiveSource:
    """Find every image of the archives of a folder, none of which holds archives.

    The index is kept in ``FOLDER/archives.index.npz``; otherwise as ``index_archive``.
    """
    return _index(folder, tuple(sorted(names)), folder / "archives.index.npz", nested=False)


def _index(root: Path, names: tuple[str, ...], beside: Path, *, nested: bool) -> ArchiveSource:
    archives = tuple(Archive.inspect(root, name) for name in names)
    digest = hashlib.sha256(os.fsencode(beside.resolve())).hexdigest()[:16]
    places = (beside, cache_folder() / "archives" / f"{digest}.{beside.name}")
    for place in places:
        if (found := _read_index(place, root, archives)) is not None:
            return found
    for place in places:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock_file(place))
            except OSError as error:
                logger.debug("%s", error)
                continue
            found = _read_index(place, root, archives)  # another process may have been faster
            if found is None:
                found = _walk(root, archives, nested)
                try:
                    write_arrays(place, *pack(found))
                except OSError as error:
                    logger.warning(
                        "The index %s cannot be written (%s): it will be made anew the next time.",
                        *(place, error),
                    )
            return found
    logger.warning(
        "The index of %s can be kept neither beside it nor in %s: it will be made anew.",
        *(beside, cache_folder()),
    )
    return _walk(root, archives, nested)


def _read_index(place: Path, root: Path, archives: tuple[Archive, ...]) -> ArchiveSource | None:
    """Read the index in a file, if it is of these very archives and whole."""
    try:
        source = unpack(*read_arrays(place), root=root)
    except OSError:
        return None
    except ValueError as error:
        logger.warning("%s; it is made anew.", error)
        return None
    return source if isinstance(source, ArchiveSource) and source.archives == archives else None


def _walk(root: Path, archives: tuple[Archive, ...], nested: bool) -> ArchiveSource:
    total = sum(archive.size for archive in archives)
    offsets, sizes = array("q"), array("q")

    def find_paths(progress: Callable[[int], object]) -> Iterator[tuple[str, str]]:
        for archive in archives:
            for member in walk_archive(root / archive.name, progress=progress, nested=nested):
                offsets.append(member.offset)
                sizes.append(member.size)
                yield member.folder, member.name

    title = f"indexing {archives[0].name if len(archives) == 1 else root.name}"
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None) as bar:
        paths = PackedPaths.pack(find_paths(bar.update))
    numbers = {archive.name: number for number, archive in enumerate(archives)}
    of_folder = np.array([numbers[f.split("/")[0]] for f in paths.list_folders()], np.int32)
    where = np.frombuffer(offsets, np.int64), np.frombuffer(sizes, np.int64)
    found = ArchiveSource(root, archives, paths, of_folder, *where)
    found.check()
    return found.take(_sort(paths))


def _sort(paths: PackedPaths) -> np.ndarray:
    """Sort by folder, then by name, as ImageFolder does; of equal paths the last one is kept."""
    _, rank = np.unique(paths.folders, return_inverse=True)
    of_path = rank[paths.folder_of]
    order = np.lexsort((paths.names, of_path))
    names, folders = paths.names[order], of_path[order]
    is_last = np.ones(len(order), bool)
    is_last[:-1] = (names[1:] != names[:-1]) | (folders[1:] != folders[:-1])
    return order[is_last]
