"""Leave hidden files and folders out of sets of images, and tell of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnext_det.data.images.storage import PackedPaths
from resnext_det.files import find_hidden, warn_of_hidden


def find_visible(
    where: str,
    paths: PackedPaths,
    folders: Sequence[str | None],
    hidden_classes: Sequence[str] = (),
) -> np.ndarray:
    """Find the images that count: those that are neither hidden nor in a hidden folder.

    A warning names some of the others.

    Args:
        where: the set's name for the warning.
        folders: of each folder of ``paths`` its path in the set; what is above the set may be
            hidden. None for folders that are not of the set.
        hidden_classes: hidden folders that the warning shall name too.

    Returns:
        bool (N,), False for hidden images and those that are not of the set.
    """
    hidden_part = [None if folder is None else find_hidden(folder) for folder in folders]
    counts = [
        folder is not None and part is None
        for folder, part in zip(folders, hidden_part, strict=True)
    ]
    visible = np.array(counts, bool)[paths.folder_of]
    begins = paths.names.view("S1").reshape(len(paths), -1)[:, 0] if len(paths) else paths.names
    hidden_files = visible & (begins == b".")
    found = {part for part in hidden_part if part is not None}.union(hidden_classes)
    for index in np.flatnonzero(hidden_files).tolist():
        folder, name = folders[paths.folder_of[index]], paths[index].rpartition("/")[2]
        found.add(f"{folder}/{name}" if folder else name)
    warn_of_hidden(where, sorted(found))
    return visible & ~hidden_files
