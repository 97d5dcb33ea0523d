"""Tiny images and weights, once for a file of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnext_det.weights import KNOWN, write_weights
from tests.classification.helpers import CLASSES, make_network, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with train/CLASS/*.png and val/CLASS/*.png."""
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write random weights of three classes, in ascending order."""
    path = tmp_path_factory.mktemp("weights") / "three.pth"
    known, names = KNOWN["torchvision"], sorted(CLASSES)
    write_weights(make_network(3), path, "native", preprocessing=known, class_names=names)
    return path
