"""Find the images of a folder by names without extension, and read their sizes."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from resnext_det.data.reading import RECORD_REMEDY, explain_unreadable, is_turned, open_image
from resnext_det.files import walk_visible


class ImageFolder:
    """List the images of a folder and its folders, without hidden ones.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"the image folder {folder} does not exist; give an existing one"
            )
        extensions = Image.registered_extensions()
        self.names = sorted(
            file.relative_to(folder).as_posix()
            for file in walk_visible(folder, extensions, follow=True)
            if file.suffix.lower() in extensions
        )
        self._known = set(self.names)
        self._places = {os.path.splitext(name)[0]: name for name in reversed(self.names)}

    def find(self, place: str) -> str | None:
        """Find an image by its path without extension, relative to the folder."""
        return self._places.get(place) or self._places.get(place.rpartition("/")[2])

    def find_name(self, name: str) -> str | None:
        """Find an image by its path, or its last part, relative to the folder."""
        last = name.rpartition("/")[2]
        return next((found for found in (name, last) if found in self._known), None)


def read_size(path: Path) -> tuple[int, int]:
    """Read the width and height of an image, upright by its EXIF orientation.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with path.open("rb") as file, open_image(file) as image:
            width, height = image.size
            return (height, width) if is_turned(image) else (width, height)
    except (OSError, ValueError) as error:
        raise ValueError(explain_unreadable(path, error, RECORD_REMEDY)) from error
