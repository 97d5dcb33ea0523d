"""Find the images of a dataset that are not there, and the likeliest reason."""

from __future__ import annotations

import logging
import os
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from resnext_det.data.reading import describe_irregular_file
from resnext_det.data.records import Records
from resnext_det.files import is_hidden

logger = logging.getLogger(__name__)

_MOST_NAMES = 1000  # missing names that a reason is looked for, evenly chosen
_SEARCH_SECONDS = 3.0  # in folders, for files that may be meant; and among these for the reason
_DEPTH_BESIDE = 2  # folders below the image folder's parent that are searched too

# Reasons, from the narrowest: two names that are equal after this step and those before it differ
# by the reason alone.
_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("a backslash stands for a slash", lambda name: name.replace("\\", "/")),
    (
        "its letters are composed in another way (Unicode NFC or NFD)",
        lambda name: unicodedata.normalize("NFC", name),
    ),
    ("upper and lower case differ", str.casefold),
    ("blanks or %-codes differ", lambda name: unquote(name).strip()),
    ("the extension differs", lambda name: os.path.splitext(name)[0]),
)
_OTHER_FOLDER = "it lies in another folder"


def find_missing_files(records: Records, image_dir: Path) -> tuple[list[int], list[str]]:
    """Find the records whose image file is missing or is no regular file.

    Folders are listed, so that no file is asked for by itself.

    Returns:
        the indices of these records, in order, and a sentence for each kind of fault.
    """
    listed: dict[str, set[str]] = {}
    missing: list[int] = []
    irregular: list[tuple[int, str]] = []
    for index, path in enumerate(records.file_names):
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = _list_files(folder)
        if name in listed[folder]:
            continue
        kind = _find_fault(path)  # a system may know the name in other letters
        if kind == "missing":
            missing.append(index)
        elif kind is not None:
            irregular.append((index, kind))
    sentences = []
    if missing:
        sentences.append(_explain_missing(records, missing, image_dir))
    if irregular:
        first, kind = irregular[0]
        sentences.append(
            f"{len(irregular)} of {len(records)} images are no files that can be read: the first, "
            f"{records.file_names[first]}, is {kind}; put image files there, or correct "
            "'file_name' in the annotations"
        )
    return sorted([*missing, *(index for index, _ in irregular)]), sentences


def shorten_name(name: str, image_dir: Path) -> str:
    """Write the path of an image as the annotations do: relative to the image folder."""
    folder = os.path.join(image_dir, "")
    return name[len(folder) :] if name.startswith(folder) else name


def _list_files(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()


def _find_fault(path: str) -> str | None:
    """Say "missing", what is there that is no file, or None for a file."""
    try:
        return describe_irregular_file(os.stat(path).st_mode)
    except PermissionError:
        return "in a folder without permission to enter"
    except (OSError, ValueError):
        return "missing"


def _explain_missing(records: Records, missing: list[int], image_dir: Path) -> str:
    first = records.file_names[missing[0]]
    text = (
        f"{len(missing)} of {len(records)} images do not exist in {image_dir}: the first is "
        f"{shorten_name(first, image_dir)!r} (image id {records.image_ids[missing[0]]})"
    )
    if os.path.islink(first):
        target = os.readlink(first)
        return f"{text}, a link to {target}, which does not exist; put the file there"
    logger.info("%s; it is looked for in that folder and beside it.", text)
    step = -(-len(missing) // _MOST_NAMES)
    names = [shorten_name(records.file_names[index], image_dir) for index in missing[::step]]
    meant = _find_meant(names, image_dir)
    if not meant:
        return (
            f"{text}; no file of such a name was found in that folder or beside it: put the files "
            "there, give the folder that holds them (built-in datasets lie under "
            "$DETECTRON2_DATASETS, others where --register-coco NAME ANNOTATIONS IMAGES says), or "
            "correct 'file_name' in the annotations"
        )
    reason = Counter(reason for reason, _ in meant.values()).most_common(1)[0][0]
    found = {name: path for name, (why, path) in meant.items() if why == reason}
    name, path = next(iter(found.items()))
    return f"{text}; likely {reason}: " + _advise(reason, name, path, found, image_dir)


def _advise(reason: str, name: str, path: str, found: dict[str, str], image_dir: Path) -> str:
    if reason != _OTHER_FOLDER:
        return (
            f"{path!r} is there for {name!r}; correct 'file_name' in the annotations, or rename "
            "the files"
        )
    folders = {_find_folder(key, value, image_dir) for key, value in found.items()}
    place = os.path.normpath(image_dir / path)
    folder = folders.pop()
    if folder is not None and not folders:
        return f"there is {place}; give {folder} as the image folder"
    return (
        f"there is {place}; write 'file_name' relative to the image folder, as {path!r}, or move "
        "the files"
    )


def _find_folder(name: str, path: str, image_dir: Path) -> str | None:
    """Find the folder that a file name leads to a file from; None where there is none."""
    place, end = os.path.normpath(image_dir / path), f"{os.sep}{os.path.normpath(name)}"
    return place[: -len(end)] or os.sep if place.endswith(end) else None


def _find_meant(names: list[str], image_dir: Path) -> dict[str, tuple[str, str]]:
    """Find files that names may stand for: {name: (reason, path relative to the image folder)}.

    After some seconds the reasons that are left, which are the less likely ones, are not tried.
    """
    files = list(_walk(image_dir))
    end = time.monotonic() + _SEARCH_SECONDS
    meant: dict[str, tuple[str, str]] = {}
    steps = [(reason, change) for reason, change in _STEPS]
    for in_folder in (True, False):
        given = {name: name for name in names}
        here = {file: file for file in files}
        if not in_folder:
            given = {name: name.replace("\\", "/").rpartition("/")[2] for name in names}
            here = {file: file.rpartition("/")[2] for file in files}
            steps = [(_OTHER_FOLDER, lambda name: name), *steps]
        for reason, change in steps:
            if len(meant) == len(set(names)) or time.monotonic() > end:
                return meant
            given = {name: change(key) for name, key in given.items() if name not in meant}
            here = {file: change(key) for file, key in here.items()}
            by_key = {key: file for file, key in reversed(here.items())}
            for name, key in given.items():
                if key in by_key:
                    meant[name] = (reason if in_folder else _OTHER_FOLDER, by_key[key])
    return meant


def _walk(image_dir: Path) -> Iterator[str]:
    """List image files in a folder, then beside it, by paths relative to it, for some seconds."""
    extensions = {"", *Image.registered_extensions()}
    end = time.monotonic() + _SEARCH_SECONDS
    for top, depth in ((image_dir, None), (image_dir.resolve().parent, _DEPTH_BESIDE)):
        prefix = "" if top == image_dir else "../"
        for folder, below, files in os.walk(top):
            below[:] = [name for name in below if not is_hidden(name)]
            relative = os.path.relpath(folder, top).replace(os.sep, "/")
            if depth is not None and (
                relative.count("/") + 2 > depth or os.path.samefile(folder, image_dir)
            ):
                below.clear()
            start = prefix if relative == "." else f"{prefix}{relative}/"
            for file in files:
                if os.path.splitext(file)[1].lower() in extensions:
                    yield start + file
                if time.monotonic() > end:  # a folder may have millions of files
                    return
            if time.monotonic() > end:
                return
