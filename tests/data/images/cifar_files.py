"""CIFAR in its binary form and in its Python form, of a few records."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from resnext_det.data.images import cifar
from resnext_det.data.images.cifar import open_cifar10, open_cifar100
from tests.data.images.helpers import tar_bytes, write_files

RECORDS = 12  # in each file
NAMES10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FINE, COARSE = [f"fine{i:02d}" for i in range(100)], [f"coarse{i:02d}" for i in range(20)]
FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def few_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 12 records are of the right size."""
    for form in (cifar._CIFAR10, cifar._CIFAR100):
        for split in ("train", "test"):
            monkeypatch.setitem(form.records_of_file, split, RECORDS)


def records(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072), and numbers to make labels of (N,)."""
    random = np.random.RandomState(number)
    return random.randint(0, 256, (RECORDS, 3072), dtype=np.uint8), random.randint(0, 100, RECORDS)


def cifar10() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The binary version, and the Python version."""
    binary, python = {}, {}
    for number, name in enumerate([*FILES["train"], *FILES["test"]]):
        pixels, labels = records(number)
        labels = labels % 10
        binary[f"{name}.bin"] = np.hstack([labels[:, None].astype(np.uint8), pixels]).tobytes()
        python[name] = pickle.dumps({"data": pixels, "labels": labels.tolist()})
    binary["batches.meta.txt"] = ("\n".join(NAMES10) + "\n\n").encode()
    python["batches.meta"] = pickle.dumps({"label_names": NAMES10})
    return binary, python


def cifar100() -> tuple[dict[str, bytes], dict[str, bytes]]:
    binary, python = {}, {}
    for number, name in enumerate(["train", "test"]):
        pixels, fine = records(10 + number)
        coarse = fine // 5
        both = np.stack([coarse, fine], axis=1).astype(np.uint8)
        binary[f"{name}.bin"] = np.hstack([both, pixels]).tobytes()
        python[name] = pickle.dumps({"data": pixels, "fine_labels": fine.tolist()})
    binary["fine_label_names.txt"] = "\n".join(FINE).encode()
    binary["coarse_label_names.txt"] = "\n".join(COARSE).encode()
    python["meta"] = pickle.dumps({"fine_label_names": FINE})
    return binary, python


SETS = {
    10: (open_cifar10, CIFAR10, cifar10, "cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
    100: (open_cifar100, CIFAR100, cifar100, "cifar-100-binary", "cifar-100-binary.tar.gz"),
}


def put(root: Path, number: int, form: str) -> None:
    _, _, make, folder, archive = SETS[number]
    binary = {f"{folder}/{name}": content for name, content in make()[0].items()}
    if form == "folder":
        write_files(root, binary)
    else:
        (root / archive).write_bytes(gzip.compress(tar_bytes(binary)))
