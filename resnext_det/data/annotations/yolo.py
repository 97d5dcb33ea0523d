"""Read YOLO's label files, and make COCO annotations of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnext_det.config.yaml_files import parse_yaml
from resnext_det.data.annotations.image_folders import ImageFolder, read_size
from resnext_det.data.annotations.other_formats import is_yolo_label
from resnext_det.files import find_hidden, list_first

_NAME_FILES = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names", "_darknet.labels")
_LEVELS = 3  # folders above the labels where class names are looked for
_LEAST = 3  # boxes beyond their images before another form is told
_TOLERANCE = 0.01  # what a share may lie beyond 0 ... 1, as Ultralytics allows
_MOST_TEXT = 1 << 20  # bytes of a file of class names


def convert_yolo(labels: Path, image_dir: Path) -> dict[str, Any]:
    """Make COCO annotations of YOLO's labels.

    A line of five numbers is a class index and a box: center x, center y, width and height, as
    shares of the upright image; a sixth, a confidence, is passed over. A longer line is a polygon,
    x, y, x, y ..., which becomes a mask and its box; where the description says ``kpt_shape``, it
    is a box with keypoints. An image without a label file, or with an empty one, has no object.

    Args:
        labels: the description of the set (``data.yaml``, with ``names``): then the labels of
            ``.../images/...`` are in ``.../labels/...``, or else beside the images. Or the folder
            of the labels, laid out as that of the images, with the names in ``data.yaml``,
            ``classes.txt``, ``obj.names`` or ``_darknet.labels``, in it or up to three folders
            above.
        image_dir: the folder of the images.

    Returns:
        annotations whose category ids are the class indices.

    Raises:
        FileNotFoundError: a file or folder, or the image of a label file is missing.
        ValueError: no class name is known, no label belongs to an image, or a line is wrong.
    """
    images = ImageFolder(image_dir)
    names_file = labels if labels.is_file() else _find_names_file(labels)
    names, has_keypoints = _read_names(names_file)
    folder = _find_labels(labels, image_dir)
    if not any(Path(folder, _to_label(name)).is_file() for name in images.names):
        raise FileNotFoundError(
            f"no image of {image_dir} has a label file in {folder} (as {folder}/NAME.txt for "
            "NAME.jpg); give the folder of the labels and that of their images"
        )
    _refuse_strays(folder, images, image_dir)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": index, "name": name} for index, name in names.items()],
    }
    boxes: list[tuple[float, float, float, float]] = []
    for image_id, name in enumerate(images.names, 1):
        width, height = read_size(image_dir / name)
        content["images"].append(
            {"id": image_id, "file_name": name, "width": width, "height": height}
        )
        label = Path(folder, _to_label(name))
        if not label.is_file():
            continue
        for index, box, polygon in _read_label(label, names, names_file, has_keypoints):
            boxes.append(box)
            x, y, w, h = (side * share for side, share in zip((width, height) * 2, box))
            entry = {
                "id": len(content["annotations"]) + 1,
                "image_id": image_id,
                "category_id": index,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
            }
            if polygon:
                sides = (width, height) * (len(polygon) // 2)
                entry["segmentation"] = [[s * side for s, side in zip(polygon, sides)]]
            content["annotations"].append(entry)
    _refuse_corners(boxes, folder)
    return content


def _to_label(name: str) -> str:
    return f"{os.path.splitext(name)[0]}.txt"


def _find_names_file(labels: Path) -> Path:
    """Find the file of class names in the folder of labels, or above."""
    if not labels.is_dir():
        raise FileNotFoundError(f"{labels} does not exist; give YOLO's data.yaml, or the labels")
    for folder in (labels, *labels.resolve().parents[:_LEVELS]):
        for name in _NAME_FILES:
            if (folder / name).is_file():
                return folder / name
    raise ValueError(
        f"the class names of {labels} are not known: neither it nor a folder above has "
        f"{', '.join(_NAME_FILES[:-1])}; write one, with a name a line in classes.txt, or give the "
        "set's data.yaml in place of the folder"
    )


def _read_names(path: Path) -> tuple[dict[int, str], bool]:
    """Read class names by index, and whether a description speaks of keypoints."""
    if path.stat().st_size > _MOST_TEXT:
        raise ValueError(f"{path} is too large for a file of class names; give YOLO's data.yaml")
    text = _read_text(path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            raise ValueError(f"{path} is empty; write the class names, one a line")
        return dict(enumerate(lines)), False
    try:
        content = parse_yaml(text, _MOST_TEXT)
    except ValueError as error:
        raise ValueError(f"{path} is not plain YAML: {error}; correct it") from None
    names = content.get("names") if isinstance(content, Mapping) else None
    if isinstance(names, Sequence) and not isinstance(names, str):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or not names:
        raise ValueError(f"{path} has no class names; write 'names: [a, b]' in it")
    try:
        by_index = {int(index): str(name) for index, name in names.items()}
    except (TypeError, ValueError):
        raise ValueError(
            f"{path}: the keys of 'names' are no class indices; write 0, 1 ..."
        ) from None
    repeated = [name for name, count in Counter(by_index.values()).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{path} gives several classes the name {repeated[0]!r}; give each class its own"
        )
    return dict(sorted(by_index.items())), "kpt_shape" in content


def _refuse_corners(boxes: Sequence[tuple[float, float, float, float]], folder: Path) -> None:
    """Refuse labels that are corners x1, y1, x2, y2, by what boxes of YOLO's form do not do.

    Args:
        boxes: x, y, width, height in shares of the image, as read in YOLO's form.
    """
    beyond = sum(
        min(x, y) < -_TOLERANCE or max(x + w, y + h) > 1 + _TOLERANCE for x, y, w, h in boxes
    )
    # The center lies left of and above the other two numbers in every line, as a corner does.
    if beyond >= max(_LEAST, 0.05 * len(boxes)) and all(
        x + w / 2 <= w and y + h / 2 <= h for x, y, w, h in boxes
    ):
        raise ValueError(
            f"{beyond} of {len(boxes)} boxes of the labels in {folder} reach beyond their images, "
            "but all fit as corners x1, y1, x2, y2; write center x, center y, width, height, as "
            "YOLO has them"
        )


def _find_labels(labels: Path, image_dir: Path) -> Path:
    """Find the folder that is laid out as the image folder, with labels in it."""
    if labels.is_dir():
        inner = labels / image_dir.name
        return inner if inner.is_dir() and image_dir.name != "images" else labels
    parts = image_dir.resolve().parts
    for last in reversed(range(len(parts))):
        folder = Path(*parts[:last], "labels", *parts[last + 1 :])
        if parts[last] in ("images", "JPEGImages") and folder.is_dir():
            return folder
    return image_dir


def _refuse_strays(folder: Path, images: ImageFolder, image_dir: Path) -> None:
    """Refuse label files whose image is missing; other texts are passed over."""
    known = {_to_label(name) for name in images.names}
    strays = [
        path
        for path in sorted(folder.rglob("*.txt"))
        if (name := path.relative_to(folder).as_posix()) not in known
        and find_hidden(name) is None
        and path.is_file()
        and is_yolo_label(_read_text(path))
    ]
    if strays:
        raise FileNotFoundError(
            f"{len(strays)} label files have no image in {image_dir}, the first is {strays[0]}; "
            "put the images there, or remove the label files"
        )


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _read_label(
    path: Path, names: Mapping[int, str], names_file: Path, has_keypoints: bool
) -> Iterator[tuple[int, tuple[float, float, float, float], Sequence[float]]]:
    """Read class indices, boxes, as x, y, width, height in shares of the image, and polygons.

    A polygon is x, y, x, y ..., or empty where there is a box alone.
    """
    lines = _read_text(path).splitlines()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        where = f"{path}, line {number}"
        try:
            index, *shares = (float(word) for word in words)
        except ValueError:
            raise ValueError(
                f"{where}: {line.strip()[:80]!r} are no numbers; write a class index and a box"
            ) from None
        if index not in names:
            known = list_first((f"{i} {name}" for i, name in names.items()), 10)
            raise ValueError(
                f"{where}: class {words[0]} is not in {names_file}, which has {known}; add its "
                "name there, or correct the label"
            )
        if has_keypoints or len(shares) == 5:
            shares = shares[:4]
        if len(shares) < 4 or len(shares) % 2:
            raise ValueError(
                f"{where} has {len(words)} numbers; write a class index and center x, center y, "
                "width, height, or a class index and the x, y of three or more points"
            )
        if not all(-_TOLERANCE <= share <= 1 + _TOLERANCE for share in shares):
            raise ValueError(
                f"{where}: {line.strip()[:80]!r} has numbers outside of 0 ... 1; YOLO's are shares "
                "of the image: divide x and width by its width, y and height by its height"
            )
        if len(shares) == 4:
            x, y, w, h = shares
            if w < 0 or h < 0:
                raise ValueError(
                    f"{where}: {line.strip()[:80]!r} has a negative side; write a class index and "
                    "center x, center y, width, height"
                )
            yield int(index), (x - w / 2, y - h / 2, w, h), ()
        else:
            xs, ys = shares[::2], shares[1::2]
            box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
            yield int(index), box, shares
