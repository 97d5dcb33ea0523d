"""Generate sets of textured shapes of six classes, for a first run and for tests.

They need no download, are drawn in seconds, and are hard enough to tell a good detector from a bad
one: small objects, overlaps, and distractors (slabs beside squares, ellipses and half discs beside
circles) that belong to no class. Image i of a split depends on nothing but (seed, split, i) and on
the version of OpenCV.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.random import Generator
from tqdm import tqdm

from resnext_det.data.shape_drawing import (
    SHAPE_CLASSES,
    DrawnObject,
    draw_objects,
    draw_scene,
)
from resnext_det.files import lock_file, write_text

logger = logging.getLogger(__name__)

VERSION = "2"
"""Changes whenever the code gives other pixels or boxes, so that no old file is taken for a new."""

DRAWER = f"OpenCV {'.'.join(cv2.__version__.split('.')[:2])}"
"""OpenCV 4.10, 4.12, 4.13 and 5.0 each give other pixels, and 4.10 also other boxes."""

STANDARD_SIZES = {"train": 1200, "val": 200}
STANDARD_IMAGES_PER_CLASS = {"train": 1000, "val": 100}
STANDARD_IMAGE_SIZE = 64
JPEG_QUALITY = 90


class _Index(msgspec.Struct):
    """Say what a set is; the images and objects of its file are not decoded."""

    info: dict[str, Any] | None = None


def prepare_shapes(root: Path | str, split: str) -> tuple[Path, Path]:
    """Generate the standard detection set under ``root/shapes`` where it is missing.

    It takes about ten seconds.

    Args:
        split: "train" (1200 images) or "val" (200 images).

    Returns:
        The annotation file and the folder of images.
    """
    number = _look_up(STANDARD_SIZES, split, "shapes")
    folder = Path(root) / "shapes" / f"v{VERSION}"
    return generate_shapes(folder, split=split, num_images=number, seed=0)


def prepare_shape_images(root: Path | str, split: str) -> Path:
    """Generate the standard classification set under ``root/shape_images`` where it is missing.

    It takes about ten seconds.

    Args:
        split: "train" (1000 images a class) or "val" (100), of 64 by 64 pixels.

    Returns:
        The folder of class folders.
    """
    number = _look_up(STANDARD_IMAGES_PER_CLASS, split, "shape images")
    folder = Path(root) / "shape_images" / f"v{VERSION}"
    return generate_shape_images(
        folder, split=split, images_per_class=number, seed=0, size=STANDARD_IMAGE_SIZE
    )


def generate_shapes(
    root: Path | str, *, split: str, num_images: int, seed: int
) -> tuple[Path, Path]:
    """Write a detection set: ``root/SPLIT/*.jpg``, and ``root/instances_SPLIT.json`` as COCO's.

    The longer side of an image is 256 pixels, the shorter one 192 to 256. A set that is there is
    kept; one without masks, as earlier versions wrote it, gets these.

    Returns:
        The annotation file and the folder of images.

    Raises:
        ValueError: ``root`` holds another set of that split: of another seed, number or version, or
            drawn by another version of OpenCV.
    """
    index, images = Path(root) / f"instances_{split}.json", Path(root) / split

    def draw(folder: Path) -> dict[str, Any]:
        def write(i: int) -> tuple[int, int, list[DrawnObject]]:
            random = _make_generator(split, seed, i)
            size = (256, int(random.integers(192, 257)))
            height, width = size if random.random() < 0.5 else size[::-1]
            image, objects = draw_scene(random, height, width)
            _write_image(folder / f"{i:06d}.jpg", image)
            return height, width, objects

        return _build_coco(_call_all(write, num_images, f"drawing shapes, {split}"))

    info = {"description": "generated shapes", "split": split, "seed": seed, "images": num_images}
    _generate(index, images, info, draw)
    _add_masks(index, images, draw)
    return index, images


def generate_shape_images(
    root: Path | str, *, split: str, images_per_class: int, seed: int, size: int = 96
) -> Path:
    """Write single shapes for classification: ``root/SPLIT/CLASS/*.jpg``, of size by size pixels.

    A set that is there is kept; ``root/shapes_SPLIT.json`` says which one it is.

    Returns:
        ``root/SPLIT``, which ``torchvision.datasets.ImageFolder`` reads.

    Raises:
        ValueError: ``root`` holds another set of that split: of another seed, number, size or
            version, or drawn by another version of OpenCV.
    """
    index, images = Path(root) / f"shapes_{split}.json", Path(root) / split

    def draw(folder: Path) -> dict[str, Any]:
        for name in SHAPE_CLASSES:
            (folder / name).mkdir()

        def write(i: int) -> None:
            number, kind = divmod(i, len(SHAPE_CLASSES))
            random = _make_generator(split, seed, i)
            objects: list[Any] = []
            while not objects:  # now and then no place is found
                radius = random.uniform(0.2, 0.48) * size
                clutter = int(random.integers(0, 3))
                image, objects = draw_objects(
                    random, size, size, classes=[kind], radii=[radius], clutter=clutter
                )
            _write_image(folder / SHAPE_CLASSES[kind] / f"{number:05d}.jpg", image)

        _call_all(write, images_per_class * len(SHAPE_CLASSES), f"drawing single shapes, {split}")
        return {}

    info = {"description": "generated single shapes", "split": split, "seed": seed}
    info |= {"images_per_class": images_per_class, "size": size}
    _generate(index, images, info, draw)
    return images


def _look_up(numbers: dict[str, int], split: str, kind: str) -> int:
    if split not in numbers:
        raise ValueError(
            f"the generated {kind} have no split {split!r}; write one of {', '.join(numbers)}"
        )
    return numbers[split]


def _make_generator(split: str, seed: int, index: int) -> Generator:
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index])


def _generate(
    index: Path, images: Path, info: dict[str, Any], draw: Callable[[Path], dict[str, Any]]
) -> None:
    """Make a set where it is missing; of several processes one does.

    A generation broken off leaves no folder of images and is redone.

    Args:
        info: what makes this set differ from others.
        draw: fills a folder and returns the index beside ``info``.
    """
    info = {"version": VERSION, "drawn_by": DRAWER, **info}
    if _exists(index, images, info):
        return
    with lock_file(images):
        if _exists(index, images, info):  # another process was faster
            return
        with _make_folder(images) as folder:
            write_text(index, json.dumps({"info": info, **draw(folder)}))


def _add_masks(index: Path, images: Path, draw: Callable[[Path], dict[str, Any]]) -> None:
    """Add the masks to the index of a set that was drawn before there were any.

    Where nothing can be written, the set stays without.

    Args:
        draw: draws the same images into a folder, and returns the index beside ``info``.
    """
    if _has_masks(index):
        return
    try:
        with lock_file(images), tempfile.TemporaryDirectory() as folder:
            if _has_masks(index):  # another process was faster
                return
            content = json.loads(index.read_text(encoding="utf-8"))
            drawn = draw(Path(folder))["annotations"]
            if [entry["bbox"] for entry in drawn] == [e["bbox"] for e in content["annotations"]]:
                write_text(index, json.dumps({**content, "annotations": drawn}))
    except OSError as error:
        logger.info("%s has no masks, and they cannot be added: %s", index, error)


def _has_masks(index: Path) -> bool:
    return '"segmentation"' in index.read_text(encoding="utf-8")


def _exists(index: Path, images: Path, info: dict[str, Any]) -> bool:
    """Tell whether this very set is there; raise ValueError where another one is."""
    if not images.is_dir():
        return False
    if not index.is_file():
        raise ValueError(
            f"{images} has no {index.name} beside it that says what it holds; remove {images}"
        )
    found = msgspec.json.decode(index.read_bytes(), type=_Index).info or {}
    wrong = [key for key in info if found.get(key) != info[key]]
    if wrong:
        differences = (f"{key} is {found.get(key)!r}, not {info[key]!r}" for key in wrong)
        raise ValueError(
            f"{index} describes another set than the one asked for: {', '.join(differences)}; "
            f"remove it together with {images}, or choose another folder"
        )
    return True


@contextmanager
def _make_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which appears under ``path`` when it is full, or not at all."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        (aside / path.name).mkdir()
        yield aside / path.name
        os.rename(aside / path.name, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _call_all(function: Callable[[int], Any], number: int, description: str) -> list[Any]:
    """Call function(0) to function(number - 1), in as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        calls = pool.map(function, range(number))
        return list(tqdm(calls, total=number, desc=description, disable=None))


def _write_image(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise OSError(f"{path} cannot be written; choose a folder with room and the right to write")


def _build_coco(scenes: Iterable[tuple[int, int, list[DrawnObject]]]) -> dict[str, Any]:
    """Build the lists of a COCO file; ids of images, annotations and categories count from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, (height, width, objects) in enumerate(scenes):
        images.append({"id": i + 1, "file_name": f"{i:06d}.jpg", "height": height, "width": width})
        for kind, box, area, polygons in objects:
            entry: dict[str, Any] = {"id": len(annotations) + 1, "image_id": i + 1}
            entry |= {"category_id": kind + 1, "bbox": list(box), "area": area, "iscrowd": 0}
            annotations.append({**entry, "segmentation": polygons})
    categories = [
        {"id": k + 1, "name": name, "supercategory": "shape"}
        for k, name in enumerate(SHAPE_CLASSES)
    ]
    return {"licenses": [], "images": images, "annotations": annotations, "categories": categories}
