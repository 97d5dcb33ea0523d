"""Recognize annotations that are no COCO file, to say what they are and what to do."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from resnext_det.data.reading import describe_irregular_file
from resnext_det.files import is_hidden, list_first

_START_SIZE = 1 << 16  # bytes that are looked at
_MOST_PARSED = 1 << 28  # bytes of JSON that are read whole
_MOST_FILES = 2000  # of a folder

_NAME = "and write NAME in DATASETS.TRAIN or DATASETS.TEST"
_VOC = f"give their folder by --register-voc NAME FOLDER IMAGES, {_NAME}"
_YOLO = f"give it by --register-yolo NAME {{0}} IMAGES, {_NAME}"
_EXPORT = "export it from that program in the format COCO"

# How files begin.
_MAGIC = (
    (b"version https://git-lfs", "a pointer of Git LFS; get the file itself by git lfs pull"),
    (b"PK\x03\x04", "a zip archive; unpack it and give the JSON file within"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"BZh", "compressed by bzip2; unpack it"),
    (b"\xfd7zXZ", "compressed by xz; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it and give the JSON file within"),
    (b"PAR1", "a Parquet table; convert it to COCO's JSON"),
    (b"\x89HDF", "an HDF5 file; convert it to COCO's JSON"),
    (b"\x80\x04", "a pickle of Python; convert it to COCO's JSON"),
    (b"\xff\xd8\xff", "an image; give the annotations file"),
    (b"\x89PNG", "an image; give the annotations file"),
)
# Keys that tell a JSON object of another format.
_OBJECTS = (
    ({"shapes", "imagePath"}, f"a labelme file of one image; {_EXPORT}, as one file for all"),
    ({"shapes", "version"}, f"a labelme file of one image; {_EXPORT}, as one file for all"),
    ({"_via_img_metadata"}, f"a project of VIA (VGG Image Annotator); {_EXPORT}"),
    ({"data_list", "metainfo"}, "a set of OpenMMLab; give the COCO file that it was made from"),
    ({"type", "features"}, "GeoJSON; convert its shapes to boxes in pixels, as COCO has them"),
    ({"names", "path"}, "a description of a YOLO set; write it as YAML and use --register-yolo"),
)
# Keys that tell the objects of a JSON list.
_ROWS = (
    ({"image_id", "score"}, "a file of results (detections); give the annotations of the images"),
    ({"image", "annotations"}, f"CreateML's JSON, as labelImg writes it; {_EXPORT}"),
    ({"data", "annotations"}, f"a project of Label Studio; {_EXPORT}"),
    ({"shapes", "imagePath"}, f"labelme's JSON; {_EXPORT}"),
    (
        {"image_id", "bbox"},
        "a list of annotations alone; give an object with 'images', 'annotations' and 'categories'",
    ),
    ({"file_name"}, "a list of images; give an object with 'images', 'annotations', 'categories'"),
)


def describe_other_format(path: Path) -> str | None:
    """Say what annotations are that are no COCO file, and what to do with them.

    Args:
        path: a file or a folder.

    Returns:
        "a folder of Pascal VOC's XML files; give ..."; None where it is a COCO file, unknown, or
        cannot be read.
    """
    try:
        return _describe(path)
    except OSError:
        return None


def _describe(path: Path) -> str | None:
    if path.is_dir():
        return _describe_folder(path)
    if kind := describe_irregular_file(path.stat().st_mode):
        return f"{kind}; give a file"
    with path.open("rb") as file:
        start = file.read(_START_SIZE)
    for magic, description in _MAGIC:
        if start.startswith(magic):
            return description
    if start and not start.strip(b"\0"):
        return "nothing but zeros; copy or download it again"
    text = _decode(start)
    return _describe_text(path, text) or _describe_json(path, text)


def _describe_folder(path: Path) -> str:
    files = sorted(islice(_list_files(path), _MOST_FILES))
    kinds = {suffix: [f for f in files if f.suffix.lower() == suffix] for suffix in _SUFFIXES}
    descriptions = [file for file in [*kinds[".yaml"], *kinds[".yml"]] if _is_yolo_yaml(file)]
    if descriptions:
        return f"a folder of a YOLO set; {_YOLO.format(descriptions[0])}"
    if kinds[".json"]:
        first = kinds[".json"][0]
        other = _describe(first)
        if other:
            return f"a folder; its first JSON file, {first.name}, is {other}"
        names = list_first((str(file.relative_to(path)) for file in kinds[".json"]), 5)
        return f"a folder; give one COCO file in it: {names}"
    if kinds[".xml"]:
        text = _describe_text(kinds[".xml"][0], _decode(kinds[".xml"][0].read_bytes()))
        if text and "Pascal VOC" in text:
            folder = kinds[".xml"][0].parent
            return f"a folder of Pascal VOC's XML files; {_VOC.replace('FOLDER', str(folder))}"
        return f"a folder; its first XML file, {kinds['.xml'][0].name}, is {text or 'unknown'}"
    labels = [file for file in kinds[".txt"] if is_yolo_label(_decode(file.read_bytes()[:4096]))]
    if labels:
        return f"a folder of YOLO's label files; {_YOLO.format(labels[0].parent)}"
    if kinds[".csv"]:
        return f"a folder of tables ({kinds['.csv'][0].name}); convert them to COCO's JSON"
    what = "a folder without annotations" if any(path.iterdir()) else "an empty folder"
    return f"{what}; give the COCO file, in which 'images', 'annotations' and 'categories' are"


_SUFFIXES = (".json", ".xml", ".txt", ".csv", ".yaml", ".yml")


def _list_files(folder: Path) -> Iterator[Path]:
    for top, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not is_hidden(name))
        visible = (file for file in files if not is_hidden(file))
        yield from (Path(top, file) for file in visible if file.lower().endswith(_SUFFIXES))


def _decode(start: bytes) -> str:
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return start.decode(encoding, errors="replace").lstrip()


def _describe_text(path: Path, text: str) -> str | None:
    """Describe a text that is no JSON."""
    lowered = text[:4096].lower()
    if lowered.startswith(("<!doctype html", "<html")):
        return "a web page, as a failed download leaves it; download the annotations again"
    if text.startswith("<"):
        if re.search(r"<annotations[\s>]", text):
            return f"CVAT's XML; {_EXPORT} (COCO 1.0)"
        if re.search(r"<annotation[\s>]", text):
            folder = _VOC.replace("FOLDER", str(path.parent))
            return f"one image's annotations in Pascal VOC's XML; {folder}"
        return "an XML file of another format; convert it to COCO's JSON"
    if path.suffix.lower() in (".yaml", ".yml"):
        known = _is_yolo_yaml(path)
        return f"a description of a YOLO set; {_YOLO.format(path)}" if known else "a YAML file"
    if text.startswith(("{", "[")):
        return None
    if is_yolo_label(text):
        return f"one image's labels as YOLO has them; {_YOLO.format(path.parent)}"
    line = text.partition("\n")[0]
    if path.suffix.lower() in (".csv", ".tsv") or min(len(re.findall(r"[,;\t]", line)), 3) == 3:
        return "a table (CSV); convert it to COCO's JSON"
    return None


def _describe_json(path: Path, text: str) -> str | None:
    """Describe JSON that is no COCO file."""
    lines = [line for line in text.splitlines()[:3] if line.strip()]
    if len(lines) > 1 and all(isinstance(_parse(line), dict) for line in lines[:2]):
        return (
            "JSON Lines, an object a line; write one object with the lists 'images', 'annotations' "
            "and 'categories'"
        )
    if path.stat().st_size > _MOST_PARSED:
        return None
    content = _parse(_decode(path.read_bytes()))
    if isinstance(content, dict) and not {"images", "annotations", "categories"} & {*content}:
        for keys, description in _OBJECTS:
            if keys <= {*content}:
                return description
        values = list(content.values())
        if values and all(isinstance(value, dict) and "regions" in value for value in values):
            return f"annotations of VIA (VGG Image Annotator); {_EXPORT}"
    if isinstance(content, list) and content and isinstance(content[0], dict):
        for keys, description in _ROWS:
            if keys <= {*content[0]}:
                return description
    return None


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_yolo_yaml(path: Path) -> bool:
    """Tell the description of a YOLO set by its key "names"."""
    with path.open("rb") as file:
        return re.search(r"^names\s*:", _decode(file.read(_START_SIZE)), re.MULTILINE) is not None


def is_yolo_label(text: str) -> bool:
    """Tell lines of a class index and four or more shares of the image."""
    line = text.partition("\n")[0].split()
    try:
        index, *shares = map(float, line)
    except ValueError:
        return False
    return len(shares) >= 4 and index.is_integer() and all(-0.1 <= x <= 1.1 for x in shares)
