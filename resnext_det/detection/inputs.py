"""Find the images and videos to detect on, and name a picture for each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from resnext_det.data.coco import CocoDataset
from resnext_det.detection.video import is_camera, is_video
from resnext_det.files import list_first, walk_visible

logger = logging.getLogger(__name__)

_GIVE = "give images, folders of images, or videos"
# The kinds of files that pictures are written as; for an image of another kind, a PNG.
_PICTURES = (".jpg", ".jpeg", ".png")


def find_images(
    inputs: Sequence[str | Path],
    *,
    outside: str | Path | None = None,
    dataset: CocoDataset | None = None,
) -> list[Path]:
    """Find the image files among files and folders, each once, those of a folder by name.

    A warning counts the files in folders that are no images, which are passed over, as is what is
    hidden in them.

    Args:
        inputs: files, whatever their names, numbers of cameras, such as 0, and folders, which are
            searched with those below. With a dataset there may be none: then its images are found.
        outside: a folder to pass over where it lies below an input: with an earlier run's pictures.
        dataset: of the images in folders only those that it has are found; a warning counts the
            others.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: there is no image among them.
    """
    Image.init()
    readable = {
        suffix for suffix, format in Image.registered_extensions().items() if format in Image.OPEN
    }
    avoided = None if outside is None else Path(outside).resolve()
    found: dict[Path, Path] = {}
    others: Counter[str] = Counter()
    known = None if dataset is None else locate_images(dataset)
    strange = 0
    for entry in map(Path, inputs or known or ()):
        if not entry.exists() and not is_camera(entry):
            raise FileNotFoundError(f"{entry} does not exist; {_GIVE}")
        for path in walk_visible(entry, readable) if entry.is_dir() else [entry]:
            resolved = path.resolve()
            if entry.is_dir() and (not path.is_file() or avoided in resolved.parents):
                continue
            if entry.is_dir() and path.suffix.lower() not in readable:
                others[path.suffix.lower()] += 1
            elif entry.is_dir() and known is not None and resolved not in known:
                strange += 1
            else:
                found.setdefault(resolved, path)
    if not found:
        passed_over = "" if outside is None else f" (the output folder {outside} does not count)"
        of = "" if dataset is None else f" of the dataset {dataset.name!r}"
        where = f" in {', '.join(map(str, inputs))}{passed_over}" if inputs else ""
        raise ValueError(f"there is no image{of}{where}; {_GIVE}")
    if strange:
        assert dataset is not None
        logger.warning(
            "passed over %d images in folders that the dataset %s does not have",
            *(strange, dataset.name),
        )
    if others.total():
        logger.warning(
            "passed over %d files of the folders, which are no images that Pillow reads (%s); a "
            "video has to be given by its own name",
            *(
                others.total(),
                list_first(
                    f"{n} {suffix or 'without a suffix'}" for suffix, n in others.most_common()
                ),
            ),
        )
    return list(found.values())


def locate_images(dataset: CocoDataset) -> dict[Path, Any]:
    """Locate the images of a dataset: {resolved path: image id}."""
    located: dict[Path, Any] = {}
    for record in dataset.records:
        located.setdefault(Path(record["file_name"]).resolve(), record["image_id"])
    return located


def name_pictures(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Name a picture or video for each input; taken names get a number.

    Names that differ in upper and lower case alone are one name, as they are on some systems.

    Raises:
        ValueError: one would overwrite an input.
    """
    targets: dict[str, Path] = {}
    for path in paths:
        suffix = path.suffix.lower() if path.suffix.lower() in _PICTURES else ".png"
        stem = f"camera_{path}" if is_camera(path) else path.stem
        suffix = ".mp4" if is_video(path) else suffix
        target, number = folder / f"{stem}{suffix}", 1
        while str(target).lower() in targets:
            number += 1
            target = folder / f"{stem}_{number}{suffix}"
        targets[str(target).lower()] = target
    images = {path.resolve() for path in paths}
    lost = next((target for target in targets.values() if target.resolve() in images), None)
    if lost is not None:
        raise ValueError(
            f"the picture {lost} would overwrite an image; choose another folder for --output"
        )
    return list(targets.values())
