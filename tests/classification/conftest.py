"""The tiny set of images, once for a file of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.classification.helpers import write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/CLASS/*.png and val/CLASS/*.png."""
    return write_images(tmp_path_factory.mktemp("images"))
