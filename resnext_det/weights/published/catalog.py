"""Turn a name of the catalog of published weights into a local, verified file."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from tabulate import tabulate

from resnext_det.weights.published import hub
from resnext_det.weights.published.catalog_entries import ENTRIES, PREFIX, Entry
from resnext_det.weights.published.downloading import download, verify

_MATCHED = (
    "Of mmpretrain, pycls and gluon each, R-50, X-50-32x4d, R-101 and X-101-32x4d were trained by "
    "one recipe: for a fair comparison of networks, take all four of one. ~: 4 bytes a parameter, "
    "the size is not published. shapes/X-26-8x4d travels with the package, and nothing is "
    "downloaded: a small net of generated pictures, whose top-1 is of their six classes."
)


def find_entry(name: str) -> Entry:
    """Find the entry of ``resnext://torchvision/X-50-32x4d`` or ``torchvision/X-50-32x4d``.

    Raises:
        ValueError: there is none; the text names those that are near.
    """
    known = ENTRIES.get(name) or ENTRIES.get(f"{PREFIX}{name}")
    if known is None:
        raise ValueError(
            f"{name!r:.200} is not in the catalog of weights; did you mean "
            f"{' or '.join(_find_near(name))}? resnext-det convert --list shows all"
        )
    return known


def _find_near(name: str) -> list[str]:
    """Find the same network of other publishers, and names that are written alike."""
    network = name.rpartition("/")[2].lower()
    same = [known for known in ENTRIES if known.rpartition("/")[2].lower() == network]
    lowered = {known.removeprefix(PREFIX).lower(): known for known in ENTRIES}
    alike = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), lowered, n=4, cutoff=0)
    return list(dict.fromkeys([*same, *(lowered[known] for known in alike)]))[:4]


def advise_shipped(source: str) -> str:
    """Name the network that travels with the package, to follow the error of weights that cannot be
    downloaded; "" where ``source`` is not downloaded."""
    known = ENTRIES.get(source)
    if not source.startswith((PREFIX, hub.PREFIX)) or (known and known.is_shipped):
        return ""
    return (
        "; or start from the small network that travels with the package, MODEL.WEIGHTS "
        "resnext://shapes/X-26-8x4d --fit-config"
    )


def locate(name: str) -> tuple[Path, Entry]:
    """Locate the file of a name, downloaded if it is not here; it is verified every time.

    Raises:
        FileNotFoundError: the file cannot be had; the text says where to put it by hand.
        ValueError: the name is unknown, or the file is not what it should be or cannot be written.
    """
    known = find_entry(name)
    path = known.path
    # Unlike Path.is_file, os.path.isfile raises no error in a folder that may not be read.
    if not os.path.isfile(path):
        if known.is_shipped:
            raise FileNotFoundError(
                f"{path} is a part of the package and is missing; install resnext-det again"
            )
        download(
            known.url,
            path,
            sha256=known.sha256,
            md5_url=known.md5_url,
            smallest_size=known.smallest_size,
        )
        return path, known
    try:
        verify(path, sha256=known.sha256, smallest_size=known.smallest_size)
    except ValueError as error:
        if known.is_shipped:
            raise ValueError(
                f"{path} is not the file of this package, or it is damaged: {error}; install "
                "resnext-det again"
            ) from None
        raise ValueError(
            f"{path} is not the file of {known.url}, or it is damaged: {error}; remove it, and it "
            "is downloaded anew"
        ) from None
    return path, known


def recognize(path: Path) -> Entry | None:
    """Recognize a file that was downloaded by hand, by its name and its checksum.

    Names are compared first, so that no other file is read for its checksum. Where no checksum is
    published, a file is not recognized.
    """
    for entry in ENTRIES.values():
        if entry.sha256 and entry.path.name == path.name:
            try:
                verify(path, sha256=entry.sha256)
            except ValueError:
                continue
            return entry
    return None


def format_catalog() -> str:
    """Write every entry as a line of a table, for people to choose from."""
    rows = [
        (
            known.name,
            str(known.architecture),
            "" if known.top1 is None else f"{known.top1:.2f}",
            known.license,
            known.preprocessing,
            f"~{4 * known.architecture.num_parameters() / 2**20:.0f}"
            if known.mebibytes is None
            else f"{known.mebibytes:.0f}",
            known.verification,
        )
        for known in ENTRIES.values()
    ]
    headers = ("name", "network", "top-1", "license", "preprocessing", "MiB", "verified by")
    alignment = ("left", "left", "right", "left", "left", "right", "left")
    table = tabulate(rows, headers, tablefmt="pipe", colalign=alignment, disable_numparse=True)
    return f"{table}\n\n{_MATCHED}"
