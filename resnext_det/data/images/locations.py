"""Open image sets by path: class folders, lists of images, and archives."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset
from tqdm import tqdm

from resnext_det.data.images.archives import open_archive, open_archives_of_classes
from resnext_det.data.images.hidden import find_visible
from resnext_det.data.images.image_set import ImageSet, check_no_splits
from resnext_det.data.images.storage import FileSource, PackedPaths
from resnext_det.files import is_hidden, list_first, warn_of_hidden

ACCEPTED = (
    "a folder of class folders, a folder of one .tar for each class, a .tar of either (FILE.tar, "
    "or FILE.tar/FOLDER/IN/IT), or IMAGES_FOLDER:LIST.txt:CLASSES.txt"
)


def open_path(where: str | Path, *, allow_empty: bool = False) -> ImageSet:
    """Open the images of a path, which may be all that ``ACCEPTED`` says.

    Args:
        allow_empty: whether there may be class folders or archives without images.

    Raises:
        FileNotFoundError: nothing is there, or a class has no images.
        ValueError: it is something else, damaged or contradicts itself.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        entries = [*os.scandir(path)]
        hidden = [entry.name for entry in entries if is_hidden(entry.name)]
        entries = [entry for entry in entries if not is_hidden(entry.name)]
        archives = [e.name for e in entries if e.name.endswith(".tar") and e.is_file()]
        folders = [e.name for e in entries if e.is_dir()]
        if archives and folders:
            raise ValueError(
                f"folder {path} has folders ({min(folders)} ...) and archives ({min(archives)} "
                "...), so it is not clear which of them are the classes; move the others away"
            )
        if archives:
            warn_of_hidden(str(path), [name for name in hidden if name.endswith(".tar")])
            return open_archives_of_classes(path, archives, allow_empty=allow_empty)
        return open_class_folders(path, allow_empty=allow_empty)
    for file in (path, *path.parents):
        if file.is_file():
            return open_archive(file, "/".join(path.parts[len(file.parts) :]))
    parts = str(where).split(":")
    if len(parts) == 3 and all(parts):
        images, list_file, classes_file = (Path(part).expanduser() for part in parts)
        return open_list(images, list_file, classes_file)
    raise FileNotFoundError(f"image set {str(where)!r}: there is no such path; give {ACCEPTED}")


def open_class_folders(root: Path, *, allow_empty: bool = False) -> ImageSet:
    """Open ``ROOT/CLASS/**/NAME.jpg``.

    Classes and images are those of ``torchvision.datasets.ImageFolder``, in its order, without
    hidden ones (``.git``, ``.ipynb_checkpoints``, ``__MACOSX``, ``._name.jpg`` ...), of which a
    warning tells.

    Args:
        root: the folder of the class folders.
        allow_empty: whether there may be classes without images.

    Raises:
        FileNotFoundError: there is no such folder; it has no class folders; a class has no images.
        ValueError: the folders are those of splits, train and val.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"folder {root} does not exist; give a folder of class folders")
    try:
        every, _ = find_classes(root)
    except FileNotFoundError:
        every = []
    class_names = [name for name in every if not is_hidden(name)]
    hidden = [name for name in every if is_hidden(name)]
    if not class_names:
        remark = f" but hidden ones ({list_first(hidden)})" if hidden else ""
        raise FileNotFoundError(
            f"folder {root} holds no class folders{remark}; give the folder that holds one folder "
            "of images for each class"
        )
    check_no_splits(str(root), class_names)
    labels, prefix = array("q"), os.path.join(root, "")

    def find_paths() -> Iterator[tuple[str, str]]:
        for label, name in enumerate(tqdm(class_names, desc=f"listing {root.name}", disable=None)):
            for path, _ in make_dataset(root, {name: label}, IMG_EXTENSIONS, allow_empty=True):
                labels.append(label)
                folder, name = os.path.split(path[len(prefix) :])
                yield folder.replace(os.sep, "/"), name

    paths = PackedPaths.pack(find_paths())
    visible = find_visible(str(root), paths, paths.list_folders(), hidden)
    source = FileSource(root, paths.take(np.flatnonzero(visible)))
    of_visible = np.frombuffer(labels, np.int64)[visible]
    found = ImageSet(str(root), tuple(class_names), of_visible, source)
    if not allow_empty:
        _check_no_class_is_empty(found, root)
    return found


def _check_no_class_is_empty(found: ImageSet, root: Path) -> None:
    empty = [name for name, count in zip(found.class_names, found.count_images()) if count == 0]
    if not empty:
        return
    raise FileNotFoundError(
        f"folder {root} holds no images for {len(empty)} of its {len(found.class_names)} classes: "
        f"{list_first(empty)}; images end in {', '.join(IMG_EXTENSIONS)}: put some there, or move "
        "these folders elsewhere"
    )


def open_flat_folder(root: Path) -> FileSource:
    """Open the images of one folder, by name, without those in its folders and hidden ones."""
    names = (entry.name for entry in os.scandir(root))
    found = sorted(name for name in names if name.lower().endswith(IMG_EXTENSIONS))
    paths = PackedPaths.pack(("", name) for name in found)
    visible = find_visible(str(root), paths, paths.list_folders())
    return FileSource(root, paths.take(np.flatnonzero(visible)))


def open_list(images: Path, list_file: Path, classes_file: Path) -> ImageSet:
    """Open the images that a text file of Caffe or mmpretrain names, ``path label`` in each line.

    The label is what follows the last space, so that there may be spaces in the path. Empty lines
    are passed over.

    Args:
        images: the folder that the paths are relative to.
        list_file: labels count from 0.
        classes_file: the name of a class in each line, that of label 0 in the first.

    Raises:
        FileNotFoundError: one of the three does not exist.
        ValueError: a line is not of this form, or has a label without a class; there are no images;
            a class is named twice.
    """
    if not images.is_dir():
        raise FileNotFoundError(
            f"folder {images} does not exist; give the folder that holds the paths of {list_file}"
        )
    class_names = read_class_names(classes_file)
    labels = array("q")

    def find_paths() -> Iterator[tuple[str, str]]:
        for number, line in _read_lines(list_file):
            path, label = _parse(line, f"{list_file}, line {number}", len(class_names))
            labels.append(label)
            folder, _, name = path.rpartition("/")
            yield folder, name

    packed = PackedPaths.pack(find_paths())
    if len(packed) == 0:
        raise ValueError(f"list {list_file} names no images; write a line 'path label' for each")
    name = f"{images}:{list_file}:{classes_file}"
    return ImageSet(name, class_names, np.frombuffer(labels, np.int64), FileSource(images, packed))


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read the lines of a text file that are not empty.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or names a class twice.
    """
    lines: dict[str, int] = {}
    for number, line in _read_lines(path):
        if line in lines:
            raise ValueError(
                f"{path} names the class {line!r} in lines {lines[line]} and {number}; give each "
                "class a name of its own"
            )
        lines[line] = number
    if not lines:
        raise ValueError(
            f"{path} names no classes; write the name of one in each line, that of label 0 first"
        )
    return tuple(lines)


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read the lines that are not empty, with their numbers from 1 on."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if text := line.strip():
                    yield number, text
    except FileNotFoundError:
        raise FileNotFoundError(
            f"file {path} does not exist; correct its path, or put it there"
        ) from None


def _parse(line: str, where: str, num_classes: int) -> tuple[str, int]:
    path, *label_part = line.rsplit(maxsplit=1)
    label = "".join(label_part)
    if not label.isdecimal():
        raise ValueError(
            f"{where}: {line[:100]!r} is not of the form 'path label', with a number as the label"
        )
    if int(label) >= num_classes:
        raise ValueError(
            f"{where}: label {label} has no class; the names of {num_classes} classes are given, "
            f"for labels from 0 to {num_classes - 1}"
        )
    return path, int(label)
