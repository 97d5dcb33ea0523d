"""A small ImageNet-1K in its published arrangements."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.images.helpers import classes_of_images, jpeg, tar_bytes, write_files

savemat = pytest.importorskip(
    "scipy.io", reason="scipy, which reads and writes meta.mat, is not installed"
).savemat

# ILSVRC2012 id: WordNet id. As published, the ids are not in the order of the WordNet ids, and ids
# above those of the classes are of their ancestors.
LEAVES = {1: "n02119789", 2: "n02100735", 3: "n01440764"}
GROUND_TRUTH = [3, 1, 2, 2, 1, 3, 3]
NAMES = [f"ILSVRC2012_val_{number:08d}" for number in range(1, len(GROUND_TRUTH) + 1)]
WNIDS = {name: LEAVES[identity] for name, identity in zip(NAMES, GROUND_TRUTH)}
IMAGES = {f"{name}.JPEG": jpeg(40 + i) for i, name in enumerate(NAMES)}
TRAIN = classes_of_images(LEAVES.values())


def meta() -> bytes:
    """meta.mat as MATLAB wrote it: a column of structs."""
    fields = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    rows = [
        (i, w, f"{w}, other", "gloss", 0.0, np.zeros((0, 0)), 0.0, 1300.0)
        for i, w in LEAVES.items()
    ]
    rows.append((4, "n00000001", "animal", "gloss", 2.0, np.array([1.0, 2.0]), 1.0, 0.0))
    synsets = np.empty((len(rows), 1), [(field, object) for field in fields])
    for row, values in enumerate(rows):
        synsets[row, 0] = values
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets})
    return buffer.getvalue()


def devkit() -> dict[str, bytes]:
    truth = "".join(f"{identity}\n" for identity in GROUND_TRUTH)
    files = {"data/meta.mat": meta(), "data/ILSVRC2012_validation_ground_truth.txt": truth.encode()}
    return {f"ILSVRC2012_devkit_t12/{name}": content for name, content in files.items()}


def put_devkit(folder: Path) -> None:
    write_files(folder, devkit())


def put_devkit_archive(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        for name, content in devkit().items():
            information = tarfile.TarInfo(name)
            information.size = len(content)
            tar.addfile(information, io.BytesIO(content))


def put_solution(folder: Path) -> None:
    rows = [
        f"{name},{wnid} 1 2 30 40 {wnid} 5 6 70 80 "
        for name, wnid in sorted(WNIDS.items(), reverse=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LOC_val_solution.csv").write_text(
        "\n".join(["ImageId,PredictionString", *rows]) + "\n"
    )


def put_solution_within(folder: Path) -> None:
    put_solution(folder / "ILSVRC")


def put_annotations(folder: Path) -> None:
    xml = "<annotation><folder>val</folder>{}</annotation>"
    box = "<object>\n\t<name>{}</name>\n\t<bndbox><xmin>1</xmin></bndbox>\n</object>\n"
    where = folder / "ILSVRC/Annotations/CLS-LOC/val"
    write_files(
        where,
        {f"{name}.xml": xml.format(box.format(wnid) * 2).encode() for name, wnid in WNIDS.items()},
    )


def put_flat(folder: Path) -> None:
    write_files(folder / "val", {**IMAGES, ".thumbnails/1.txt": b"x"})


def put_kaggle(folder: Path) -> None:
    write_files(folder / "ILSVRC/Data/CLS-LOC/val", IMAGES)


def put_archive(folder: Path) -> None:
    write_files(
        folder, {"ILSVRC2012_img_val.tar": tar_bytes(dict(sorted(IMAGES.items(), reverse=True)))}
    )


LABELS = [put_devkit, put_devkit_archive, put_solution, put_solution_within, put_annotations]
Put = Callable[[Path], None]
