"""A generated set: textured shapes of six classes, for a first run and for tests.

It needs no download, it is drawn in seconds, and it is hard enough to tell a good detector from a bad one:
small objects, overlaps, and distractors (slabs beside squares, ellipses and half discs beside circles) that belong
to no class. Image i of a split depends on nothing but (seed, split, i).
"""

from __future__ import annotations

import json
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
import numpy as np
from numpy.random import Generator
from tqdm import tqdm

from resnext_det.data.shape_drawing import SHAPE_CLASSES, Box, draw_objects, draw_scene

__all__ = [
    "SHAPE_CLASSES",
    "draw_scene",
    "generate_shape_images",
    "generate_shapes",
    "prepare_shape_images",
    "prepare_shapes",
]

VERSION = "2"
"""Changes whenever the same seed gives other pixels or boxes, so that no old file is taken for a new one."""

STANDARD_SIZES = {"train": 1200, "val": 200}
STANDARD_IMAGES_PER_CLASS = {"train": 1000, "val": 100}
STANDARD_IMAGE_SIZE = 64
JPEG_QUALITY = 90


def _generator(split: str, seed: int, index: int) -> Generator:
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index])


def _write_all(function: Callable[[int], Any], number: int, description: str) -> list[Any]:
    """function(0) to function(number - 1), by as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(
            tqdm(pool.map(function, range(number)), total=number, desc=description, disable=None)
        )


def _write_image(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise OSError(f"{path} cannot be written; choose a folder with room and the right to write")


def _exists(index: Path, images: Path, info: dict[str, Any]) -> bool:
    """Whether this very set is there; raises ValueError where another one is."""
    if not images.is_dir():
        return False
    if not index.is_file():
        raise ValueError(
            f"{images} has no {index.name} beside it that says what it holds; remove {images}"
        )
    found = json.loads(index.read_text()).get("info")
    if found != info:
        raise ValueError(
            f"{index} describes another set, {found}, than the one asked for, {info}; "
            f"remove it together with {images}, or choose another folder"
        )
    return True


@contextmanager
def _published(index: Path, images: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder to fill and a description to complete, put in place at the end, the folder of images last.

    A generation broken off leaves no folder of images and is redone. Of two at once the second finds the
    folder, which holds the same images, and throws its own away.
    """
    index.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{images.name}-", dir=index.parent))
    try:
        description: dict[str, Any] = {}
        (aside / "images").mkdir()
        yield aside / "images", description
        (aside / "index.json").write_text(json.dumps(description))
        os.replace(aside / "index.json", index)
        try:
            os.rename(aside / "images", images)
        except OSError:
            if not images.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def generate_shapes(
    root: Path | str, *, split: str, num_images: int, seed: int
) -> tuple[Path, Path]:
    """Write a detection set: ``root/SPLIT/000000.jpg`` ... and ``root/instances_SPLIT.json`` in COCO's form.

    The longer side of an image is 256 pixels, the shorter one 192 to 256. A set that is there is kept.

    Returns:
        the annotation file and the folder of images.

    Raises:
        ValueError: ``root`` holds another set of that split (another seed, number or version).
    """
    index, images = Path(root) / f"instances_{split}.json", Path(root) / split
    info = {
        "description": "generated shapes",
        "version": VERSION,
        "split": split,
        "seed": seed,
        "images": num_images,
    }
    if _exists(index, images, info):
        return index, images
    with _published(index, images) as (folder, description):

        def write(i: int) -> tuple[int, int, list[tuple[int, Box, float]]]:
            random = _generator(split, seed, i)
            size = (256, int(random.integers(192, 257)))
            height, width = size if random.random() < 0.5 else size[::-1]
            image, objects = draw_scene(random, height, width)
            _write_image(folder / f"{i:06d}.jpg", image)
            return height, width, objects

        description.update(
            info=info, **_coco(_write_all(write, num_images, f"drawing shapes, {split}"))
        )
    return index, images


def _coco(scenes: Iterable[tuple[int, int, list[tuple[int, Box, float]]]]) -> dict[str, Any]:
    """The lists of a COCO file; ids of images, annotations and categories count from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, (height, width, objects) in enumerate(scenes):
        images.append({"id": i + 1, "file_name": f"{i:06d}.jpg", "height": height, "width": width})
        for kind, box, area in objects:
            entry = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": kind + 1}
            annotations.append({**entry, "bbox": list(box), "area": area, "iscrowd": 0})
    categories = [
        {"id": k + 1, "name": name, "supercategory": "shape"}
        for k, name in enumerate(SHAPE_CLASSES)
    ]
    return {"licenses": [], "images": images, "annotations": annotations, "categories": categories}


def prepare_shapes(root: Path | str, split: str) -> tuple[Path, Path]:
    """The standard detection set under ``root/shapes``, generated where it is missing (about ten seconds).

    Args:
        split: "train" (1200 images) or "val" (200 images).

    Returns:
        the annotation file and the folder of images.
    """
    if split not in STANDARD_SIZES:
        raise ValueError(
            f"the generated shapes have no split {split!r}; write one of {', '.join(STANDARD_SIZES)}"
        )
    folder = Path(root) / "shapes" / f"v{VERSION}"
    return generate_shapes(folder, split=split, num_images=STANDARD_SIZES[split], seed=0)


def generate_shape_images(
    root: Path | str, *, split: str, count_images: int, seed: int, size: int = 96
) -> Path:
    """Write single shapes for classification: ``root/SPLIT/CLASS/00000.jpg`` ..., of size by size pixels.

    A set that is there is kept; ``root/shapes_SPLIT.json`` says which one it is.

    Returns:
        ``root/SPLIT``, which ``torchvision.datasets.ImageFolder`` reads.

    Raises:
        ValueError: ``root`` holds another set of that split (another seed, number, size or version).
    """
    index, images = Path(root) / f"shapes_{split}.json", Path(root) / split
    info = {
        "description": "generated single shapes",
        "version": VERSION,
        "split": split,
        "seed": seed,
        "count_images": count_images,
        "size": size,
    }
    if _exists(index, images, info):
        return images
    with _published(index, images) as (folder, description):
        for name in SHAPE_CLASSES:
            (folder / name).mkdir()

        def write(i: int) -> None:
            number, kind = divmod(i, len(SHAPE_CLASSES))
            random = _generator(split, seed, i)
            objects: list[Any] = []
            while not objects:  # now and then no place is found
                radius = random.uniform(0.2, 0.48) * size
                image, objects = draw_objects(
                    random,
                    size,
                    size,
                    classes=[kind],
                    radii=[radius],
                    clutter=int(random.integers(0, 3)),
                )
            _write_image(folder / SHAPE_CLASSES[kind] / f"{number:05d}.jpg", image)

        _write_all(write, count_images * len(SHAPE_CLASSES), f"drawing single shapes, {split}")
        description.update(info=info)
    return images


def prepare_shape_images(root: Path | str, split: str) -> Path:
    """The standard classification set under ``root/shape_images``, generated where it is missing (about ten seconds).

    Args:
        split: "train" (1000 images a class) or "val" (100), of 64 by 64 pixels.

    Returns:
        the folder of class folders.
    """
    if split not in STANDARD_IMAGES_PER_CLASS:
        raise ValueError(
            f"the generated shape images have no split {split!r}; write one of {', '.join(STANDARD_IMAGES_PER_CLASS)}"
        )
    folder = Path(root) / "shape_images" / f"v{VERSION}"
    return generate_shape_images(
        folder,
        split=split,
        count_images=STANDARD_IMAGES_PER_CLASS[split],
        seed=0,
        size=STANDARD_IMAGE_SIZE,
    )
