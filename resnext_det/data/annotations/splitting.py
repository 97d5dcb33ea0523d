"""Hold out a part of a COCO set to test on, where a user has no test set."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from resnext_det.data.annotations.json_files import read_text
from resnext_det.files import list_first, write_text

FRACTION = 0.2
"""Of the images, the part that is held out."""


def hold_out(annotations: Path, folder: Path) -> tuple[Path, Path, str]:
    """Write a set of COCO's format as two: what is trained on, and a fifth of it to test on.

    The same file always gives the same two, and files that are there and the same are kept.

    Args:
        annotations: a valid file.
        folder: gets ``NAME_train.json`` and ``NAME_test.json``; images stay where they are.

    Returns:
        The two files, and a sentence that tells what was done.

    Raises:
        ValueError: there is one image only.
        OSError: the folder cannot be written to.
    """
    content = json.loads(read_text(annotations, str(annotations)))
    classes: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
    for entry in content["annotations"]:
        if entry["image_id"] in classes and not entry.get("iscrowd"):
            classes[entry["image_id"]].add(entry["category_id"])
    if len(classes) < 2:
        raise ValueError(
            f"{annotations} has one image, so that none can be held out to test on; add images, "
            "or give a set with --test-data"
        )
    chosen = choose_images(classes)
    files = {}
    for part, kept in (("train", classes.keys() - chosen), ("test", chosen)):
        images = [image for image in content["images"] if image["id"] in kept]
        entries = [entry for entry in content["annotations"] if entry["image_id"] in kept]
        # Escapes also write what UTF-8 cannot: halves of surrogate pairs, as in cut-off texts.
        text = json.dumps({**content, "images": images, "annotations": entries})
        files[part] = folder / f"{annotations.stem}_{part}.json"
        if not files[part].is_file() or files[part].read_bytes() != text.encode():
            write_text(files[part], text)
    present = set().union(*(classes[image] for image in chosen))
    absent = [entry["name"] for entry in content["categories"] if entry["id"] not in present]
    told = (
        f"{len(chosen)} of {len(classes)} images are held out to test on, chosen by a hash of "
        f"their ids: {files['test']}; the others are trained on: {files['train']}. For a choice of "
        "your own give --test-data"
    )
    if absent:
        told += f". No object to test on has {list_first(absent)}"
    return files["train"], files["test"], told


def is_made_of(annotations: Path, train: Path, test: Path) -> bool:
    """Tell whether two files of ``hold_out`` hold what the file does that they were made of."""
    files = (annotations, train, test)
    try:
        whole, *parts = (json.loads(read_text(path, str(path))) for path in files)
        return whole["categories"] == parts[0]["categories"] and all(
            _sort_entries(whole[key]) == _sort_entries(parts[0][key] + parts[1][key])
            for key in ("images", "annotations")
        )
    except (ValueError, LookupError, TypeError):  # it is no COCO file any more
        return False


def _sort_entries(entries: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(entry, sort_keys=True) for entry in entries)


def choose_images(classes: Mapping[int, Set[int]]) -> set[int]:
    """Choose the images to hold out: a fifth, with every class in both parts where that can be.

    Where one image alone has an object, it is trained on. Images are taken in the order of a hash
    of their ids.

    Args:
        classes: image id -> the classes in it; two images or more.
    """
    order = sorted(classes, key=lambda image: hashlib.sha256(str(image).encode()).digest())
    chosen = set(order[: max(1, round(FRACTION * len(order)))])
    total = Counter(name for found in classes.values() for name in found)
    for name in sorted(total, key=lambda each: (total[each], each)):  # the rarest first
        having = [image for image in order if name in classes[image]]
        inside = chosen.intersection(having)
        if len(having) > 1 and len(inside) in (0, len(having)):
            source = chosen if inside else classes.keys() - chosen
            chosen ^= _find_spare(having, source, classes, total)
    rest = classes.keys() - chosen
    if total and not any(classes[image] for image in rest):  # else nothing could be trained on
        chosen ^= {next(image for image in order if classes[image]), min(rest, key=order.index)}
    return chosen


def _find_spare(
    having: list[int], source: Set[int], classes: Mapping[int, Set[int]], total: Mapping[int, int]
) -> set[int]:
    """Find the first image without which its side still has all of its classes, if there is one."""
    for image in having:
        left = source - {image}
        if left and all(
            total[name] == 1 or any(name in classes[other] for other in left)
            for name in classes[image]
        ):
            return {image}
    return set()
