"""Images, files, folders and archives for tests of image sets and of transforms."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from resnext_det.data.images.image_set import ImageSet

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 RGB, (height, width, 3): a gradient, a white and a black block, noise."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([255 * x / width, 255 * y / height, 127 + 100 * np.sin(x / 3 + y / 5)], axis=2)
    image[height // 4 : height // 2, width // 3 : width // 2 + 1] = 255
    image[height // 2 :, : width // 4] = 0
    return np.clip(image + random.normal(0, 12, image.shape), 0, 255).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        buffer, format, **options
    )
    return buffer.getvalue()


def jpeg(seed: int) -> bytes:
    """A small JPEG, of another size and content for each seed."""
    return encoded(picture(12 + seed % 7, 17 + seed % 5, seed))


def pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def write_files(root: Path, contents: Mapping[str, bytes]) -> Path:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def member(name: str, content: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    information = tarfile.TarInfo(name)
    information.size = len(content)
    for key, value in attributes.items():
        setattr(information, key, value)
    return information, content


def tar_bytes(
    contents: Mapping[str, bytes] | Iterable[tuple[tarfile.TarInfo, bytes]],
    format: int = tarfile.GNU_FORMAT,
) -> bytes:
    """An archive of named contents, or of ready-made members, in their order."""
    buffer = io.BytesIO()
    pairs = (
        [member(*pair) for pair in contents.items()]
        if isinstance(contents, Mapping)
        else list(contents)
    )
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for information, content in pairs:
            tar.addfile(information, io.BytesIO(content))
    return buffer.getvalue()


def classes_of_images(names: Iterable[str], per_class: int = 3) -> dict[str, dict[str, bytes]]:
    """{class: {file name: JPEG}}, every image another one."""
    return {
        name: {f"{name}_{i}.JPEG": jpeg(10 * number + i) for i in range(per_class)}
        for number, name in enumerate(names)
    }


def tree(classes: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
    return {
        f"{name}/{file}": content
        for name, files in classes.items()
        for file, content in files.items()
    }


def nested(classes: Mapping[str, Mapping[str, bytes]], prefix: str = "") -> bytes:
    """An archive of an archive for each class."""
    return tar_bytes({f"{prefix}{name}.tar": tar_bytes(files) for name, files in classes.items()})


def holdings(image_set: ImageSet) -> dict[str, tuple[str, bytes]]:
    """{file name without folders: (class, the bytes of the pixels)}."""
    return {
        os.path.basename(image_set.locate(i)): (
            image_set.class_names[image_set.labels[i]],
            image_set.read(i).tobytes(),
        )
        for i in range(len(image_set))
    }


def expected(classes: Mapping[str, Mapping[str, bytes]]) -> dict[str, tuple[str, bytes]]:
    return {
        file: (name, pillow(content).tobytes())
        for name, files in classes.items()
        for file, content in files.items()
    }


class ScriptedState:
    """Gives what is written, and writes down what was asked."""

    def __init__(self, *values: Any) -> None:
        self.values, self.asked = list(values), []

    def _next(self, *question: Any) -> Any:
        self.asked.append(question)
        return self.values.pop(0)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Any:
        return self._next("uniform", low, high)

    def randint(self, low: int, high: int) -> Any:
        return self._next("randint", low, high)

    def permutation(self, length: int) -> Any:
        return self._next("permutation", length)

    def normal(self, mean: float, std: float, size: int) -> Any:
        return self._next("normal", mean, std, size)


CIFAR = {10: CIFAR10, 100: CIFAR100}
RECORDS = 12  # in each file of write_cifar


def write_cifar(root: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write CIFAR-10 or CIFAR-100 of a few images in its published layout, and have it accepted.

    torchvision knows the published files by their MD5; it is made to know these instead.
    """
    published = CIFAR[number]
    folder = root / published.base_folder
    folder.mkdir(parents=True)
    key, labels_key = published.meta["key"], "labels" if number == 10 else "fine_labels"
    names = [name for name, _ in (*published.train_list, *published.test_list)]
    contents: dict[str, dict[str, Any]] = {
        published.meta["filename"]: {key: [f"class {i:02d}" for i in range(number)]}
    }
    for file, name in enumerate(names):
        random = np.random.RandomState(file)
        pixels = random.randint(0, 256, (RECORDS, 3072), dtype=np.uint8)
        contents[name] = {"data": pixels, labels_key: random.randint(0, number, RECORDS).tolist()}
    md5 = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    for files in ("train_list", "test_list"):
        known = [[name, md5[name]] for name, _ in getattr(published, files)]
        monkeypatch.setattr(published, files, known)
    meta = published.meta["filename"]
    monkeypatch.setattr(published, "meta", {**published.meta, "md5": md5[meta]})
    return folder
