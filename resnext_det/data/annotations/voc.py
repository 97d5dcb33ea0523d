"""Read annotations in Pascal VOC's XML, and make COCO annotations of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnext_det.data.annotations.image_folders import ImageFolder, read_size
from resnext_det.files import list_first, walk_visible

_LEVELS = 3  # folders above a list of names where Annotations is looked for
_SIZE = ("width", "height")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class VocImage:
    """Hold one XML file.

    Attributes:
        path: of the XML file.
        place: the path relative to the folder of all, without ".xml".
        file_name: of the image, as the file says; may be empty.
        size: (width, height) as the file says; (0, 0) if it does not.
        objects: (class name, (xmin, ymin, xmax, ymax), difficult).
    """

    path: Path
    place: str
    file_name: str
    size: tuple[int, int]
    objects: list[tuple[str, tuple[float, ...], bool]] = field(default_factory=list)


def read_voc(annotations: Path) -> tuple[list[VocImage], set[str]]:
    """Read XML files.

    Args:
        annotations: the folder of the XML files, which may have folders; or a list of VOC's
            ``ImageSets/Main``, such as ``train.txt``, for files of ``Annotations`` beside
            ``ImageSets``.

    Returns:
        the images, by path, and the class names of the whole folder.

    Raises:
        FileNotFoundError: the folder, the list or an XML file is not there.
        ValueError: a file is no XML, is not VOC's, or has a wrong number; there is none.
    """
    folder = annotations
    if annotations.is_file() and annotations.suffix.lower() != ".xml":
        above = [parent / "Annotations" for parent in annotations.resolve().parents[:_LEVELS]]
        folder = next((place for place in above if place.is_dir()), above[-1])
    if not folder.is_dir():
        if folder.is_file():
            raise ValueError(f"{folder} is one image's annotations; give the folder of all")
        raise FileNotFoundError(
            f"there is no folder {folder} of Pascal VOC's XML files; give the folder that has them"
        )
    files = [
        path for path in walk_visible(folder, {".xml"}) if path.suffix == ".xml" and path.is_file()
    ]
    if not files:
        raise ValueError(f"folder {folder} has no XML file; give the folder of Pascal VOC's files")
    images = [_read_file(path, folder) for path in files]
    names = {name for image in images for name, _, _ in image.objects}
    return (images if folder == annotations else _choose(images, annotations, folder)), names


def convert_voc(
    images: Iterable[VocImage], image_dir: Path, class_names: Sequence[str]
) -> dict[str, Any]:
    """Make COCO annotations.

    VOC counts pixels from 1 and includes the last, so x = xmin - 1, y = ymin - 1,
    width = xmax - x and height = ymax - y, as in detectron2's reader. Programs that count from 0
    are known by a box that begins at 0: then x = xmin and width = xmax - xmin in all files.

    An object that is ``difficult`` becomes a crowd (iscrowd 1): it is left out in training, as by
    Fast R-CNN, and neither right nor wrong in the evaluation, as in VOC's.

    An image is the file of the XML's name, or else the one that it names. Where the XML gives no
    size, the image's is read.

    Args:
        images: of ``read_voc``.
        image_dir: their folder.
        class_names: get the ids 1, 2 ... in this order.

    Raises:
        FileNotFoundError, ValueError: the folder or an image is missing, or has no size.
    """
    every, folder = list(images), ImageFolder(image_dir)
    lows = (number for image in every for _, box, _ in image.objects for number in box[:2])
    shift = 0 if any(0 <= number < 1 for number in lows) else 1
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(class_names, 1)],
    }
    ids = {name: i for i, name in enumerate(class_names, 1)}
    for image_id, image in enumerate(every, 1):
        name = folder.find(image.place) or folder.find_name(image.file_name)
        if name is None:
            said = f" (it names {image.file_name!r})" if image.file_name else ""
            raise FileNotFoundError(
                f"{image.path} has no image {Path(image.place).name}.* in {image_dir}{said}; put "
                "it there, give the right image folder, or remove the XML file"
            )
        width, height = image.size if min(image.size) > 0 else read_size(image_dir / name)
        content["images"].append(
            {"id": image_id, "file_name": name, "width": width, "height": height}
        )
        for class_name, (xmin, ymin, xmax, ymax), difficult in image.objects:
            x, y = xmin - shift, ymin - shift
            box = [x, y, xmax - x, ymax - y]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": ids[class_name],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(difficult),
                }
            )
    if not class_names:
        where = f"; the first is {every[0].path}" if every else ""
        raise ValueError(f"no XML file has an <object>{where}; give the files with the objects")
    return content


def _choose(images: list[VocImage], names: Path, folder: Path) -> list[VocImage]:
    """Choose the images that a list of names has."""
    by_place = {image.place: image for image in images}
    lines = names.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    wanted = dict.fromkeys(line.split()[0] for line in lines if line.strip())
    missing = [name for name in wanted if name not in by_place]
    if missing or not wanted:
        found = f"names {list_first(missing)}" if missing else "names no image"
        raise ValueError(
            f"{names} {found}, and {folder} has {len(images)} XML files, such as "
            f"{images[0].path.name}; give a list of names without extension, or the folder itself"
        )
    return [by_place[name] for name in wanted]


class _Builder(ET.TreeBuilder):
    """Refuse what VOC's files do not have and attacks need: a document type with entities."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, as Pascal VOC's files never do; remove it")


def _read_file(path: Path, folder: Path) -> VocImage:
    try:
        root = ET.parse(path, parser=ET.XMLParser(target=_Builder())).getroot()
    except (ET.ParseError, LookupError, UnicodeError) as error:
        raise ValueError(f"{path} is not sound XML: {error}; write it again") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if root.tag != "annotation":
        kind = "CVAT's XML: export it as COCO" if root.tag == "annotations" else "another format"
        raise ValueError(f"{path} is not Pascal VOC's: it begins with <{root.tag}>, {kind}")
    width, height = (int(_read_number(root, f"size/{key}", path, "0")) for key in _SIZE)
    place = path.relative_to(folder).with_suffix("").as_posix()
    file_name = (root.findtext("filename") or "").strip().replace("\\", "/")
    image = VocImage(path, place, file_name, (width, height))
    for number, thing in enumerate(root.findall("object"), 1):
        name = (thing.findtext("name") or "").strip()
        where = f"object {number}" + (f" ({name})" if name else "")
        if not name:
            raise ValueError(f"{path}: {where} has no name; write its class in <name>")
        if thing.find("bndbox") is None:
            raise ValueError(
                f"{path}: {where} has no <bndbox>; write <xmin>, <ymin>, <xmax> and <ymax> in one"
            )
        box = tuple(_read_number(thing, f"bndbox/{key}", path) for key in _CORNERS)
        if box[2] < box[0] or box[3] < box[1]:
            raise ValueError(
                f"{path}: {where} has xmax {box[2]:g} below xmin {box[0]:g}, or ymax {box[3]:g} "
                f"below ymin {box[1]:g}; correct them"
            )
        difficult = (thing.findtext("difficult") or "").strip().lower() in ("1", "true")
        image.objects.append((name, box, difficult))
    return image


def _read_number(element: ET.Element, key: str, path: Path, missing: str = "nothing") -> float:
    text = (element.findtext(key) or missing).strip()
    try:
        number = float(text)
        if abs(number) < 1e9:
            return int(number) if number.is_integer() else number
    except ValueError:
        pass
    raise ValueError(
        f"{path}: <{key.rpartition('/')[2]}> is {text!r}; write a number of pixels"
    ) from None
