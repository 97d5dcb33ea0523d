"""Find the files of detectron2's model zoo by the names that its configurations have for them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from resnext_det.files import cache_folder
from resnext_det.weights.published.catalog_entries import ENTRIES, PREFIX
from resnext_det.weights.published.downloading import download

BASE = "https://dl.fbaipublicfiles.com/detectron2/"
"""Where the files of ``detectron2://`` are."""

_NAME = re.compile(rf"(?:detectron2://|{re.escape(BASE)})((?:[\w-][\w.-]*/)*[\w-][\w.-]*\.pkl)")
_OF_DETECTRON = "catalog://ImageNetPretrained/FAIR/"
_SMALLEST = 1 << 20  # bytes, of a detector's or backbone's weights or a set's proposals


def find_catalog_name(name: str) -> str | None:
    """Find the name in our catalog of a backbone that detectron2's configurations start from.

    Example:
        >>> find_catalog_name("detectron2://ImageNetPretrained/MSRA/R-50.pkl")
        'resnext://msra/R-50'

    Args:
        name: ``detectron2://...``, the address that it stands for, or ``catalog://...``.

    Returns:
        None for any other file.
    """
    if name.startswith(_OF_DETECTRON):
        known = f"{PREFIX}detectron1/{name.removeprefix(_OF_DETECTRON)}"
        return known if known in ENTRIES else None
    found = _NAME.fullmatch(name)
    url = f"{BASE}{found[1]}" if found else None
    return next((entry.name for entry in ENTRIES.values() if url and entry.url == url), None)


def is_in_zoo(name: str) -> bool:
    """Tell whether this names a .pkl file of detectron2's model zoo."""
    return _NAME.fullmatch(name) is not None


def locate_zoo_file(name: str) -> Path:
    """Locate a file of the model zoo, downloaded on first use: a detector, or proposals.

    It is kept in the cache under ``detectron2/``, with its path in the zoo. No checksum is
    published; a download is held to the size that the server states.

    Args:
        name: such as ``detectron2://COCO-Detection/retinanet_R_50_FPN_1x/190397773/
            model_final_bfca0b.pkl``, or the address that it stands for.

    Raises:
        FileNotFoundError: the file cannot be had; the text says where to put it by hand.
        ValueError: it is no name of a file there, or the file cannot be written.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(
            f"{name!a:.200} names no file of detectron2's model zoo; write detectron2:// and its "
            "path there, which ends in .pkl"
        )
    path = cache_folder() / "detectron2" / found[1]
    if not os.path.isfile(path):
        download(f"{BASE}{found[1]}", path, smallest_size=_SMALLEST)
    return path
