"""Convert datasets of other formats to COCO files, by the contents of their folders."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from resnext_det.data.annotations.voc import convert_voc, read_voc
from resnext_det.data.annotations.yolo import convert_yolo
from resnext_det.files import cache_folder, write_text

Dataset = tuple[str, str, str]  # name, annotations, images


def convert_datasets(voc: Iterable[Sequence[str]], yolo: Iterable[Sequence[str]]) -> list[Dataset]:
    """Convert datasets of Pascal VOC and YOLO to COCO files in the cache folder.

    A file is named by its contents: a changed folder gives another one. The classes of VOC's sets
    are those of all of them, in the order of the alphabet, since an XML file names its own alone.

    Args:
        voc: (name, annotations, images), see ``read_voc``.
        yolo: (name, labels, images), see ``convert_yolo``.

    Returns:
        (name, COCO file, images) of every dataset, for ``register_coco``.

    Raises:
        FileNotFoundError, ValueError: see ``convert_voc`` and ``convert_yolo``.
        OSError: the cache folder cannot be written to.
    """
    read = [(name, *read_voc(Path(a).expanduser()), images) for name, a, images in voc]
    names = sorted(set[str]().union(*(found for _, _, found, _ in read)))
    contents = [
        (name, convert_voc(files, Path(images).expanduser(), names), images)
        for name, files, _, images in read
    ]
    contents += [
        (name, convert_yolo(Path(labels).expanduser(), Path(images).expanduser()), images)
        for name, labels, images in yolo
    ]
    return [(name, str(_write(name, content)), images) for name, content, images in contents]


def _write(name: str, content: dict[str, Any]) -> Path:
    text = json.dumps(content, ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = cache_folder() / "converted" / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{digest}.json"
    if not path.exists():
        write_text(path, text)
    return path
