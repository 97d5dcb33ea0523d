"""Image sets by path."""

from __future__ import annotations

import os
from pathlib import Path

from resnext_det.data.images.archives import open_archive, open_archives_of_classes
from resnext_det.data.images.folders import open_class_folders
from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.lists import open_list

ACCEPTED = (
    "a folder of class folders, a folder of one .tar for each class, a .tar of either (FILE.tar, or FILE.tar/FOLDER/IN/IT), "
    "or IMAGES_FOLDER:LIST.txt:CLASSES.txt"
)


def open_path(where: str | Path, *, allow_empty: bool = False) -> ImageSet:
    """Open the images of a path: ``ACCEPTED`` says what it may be.

    Args:
        allow_empty: whether there may be class folders or archives without images.

    Raises:
        FileNotFoundError: nothing is there, or a class has no images.
        ValueError: it is something else, damaged or contradicts itself.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        entries = list(os.scandir(path))
        archives = [
            entry.name for entry in entries if entry.name.endswith(".tar") and entry.is_file()
        ]
        folders = [entry.name for entry in entries if entry.is_dir() and not _is_hidden(entry.name)]
        if archives and folders:
            raise ValueError(
                f"folder {path} has folders ({min(folders)} ...) and archives ({min(archives)} ...), so it is not clear which of them are "
                "the classes; move the others away"
            )
        if archives:
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


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "lost+found"
