"""YOLO's labels as COCO annotations, beside supervision's reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext_det.data.annotations.yolo import convert_yolo

YAML = "train: images/train\nnames: [nut, bolt]\n"


def write_yolo(folder: Path, labels: dict[str, str | None], split: str = "") -> tuple[Path, Path]:
    """Write images of 80 x 40 with labels, and a description; return its path and the images'."""
    images = folder / "images" / split
    for place, label in labels.items():
        image, path = images / f"{place}.png", folder / "labels" / split / f"{place}.txt"
        for file in (image, path):
            file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 40)).save(image)
        if label is not None:
            path.write_text(label)
    (folder / "data.yaml").write_text(YAML)
    return folder / "data.yaml", images


def list_boxes(content: dict[str, Any]) -> list[list[float]]:
    return [annotation["bbox"] for annotation in content["annotations"]]


def test_the_annotations_are_cocos(tmp_path: Path) -> None:
    labels = {"a": "1 0.5 0.5 0.25 0.5\n\n0 0.25 0.25 0.5 0.5 0.9\n", "b": None, "sub/c": ""}
    assert convert_yolo(*write_yolo(tmp_path, labels)) == {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 80, "height": 40},
            {"id": 2, "file_name": "b.png", "width": 80, "height": 40},
            {"id": 3, "file_name": "sub/c.png", "width": 80, "height": 40},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [30, 10, 20, 20]}
            | {"area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 0, "bbox": [0, 0, 40, 20]}
            | {"area": 800, "iscrowd": 0},
        ],
        "categories": [{"id": 0, "name": "nut"}, {"id": 1, "name": "bolt"}],
    }


def test_polygons_become_masks_and_their_boxes(tmp_path: Path) -> None:
    label = "0 0.25 0.5 0.5 0.25 0.75 0.75\n0 0.5 0.5 0.25 0.5\n"
    content = convert_yolo(*write_yolo(tmp_path, {"a": label}))
    assert list_boxes(content) == [[20, 10, 40, 20], [30, 10, 20, 20]]
    with_mask, without = content["annotations"]
    assert with_mask["segmentation"] == [[20, 20, 40, 10, 60, 30]]
    assert "segmentation" not in without


def test_keypoints_are_left_out(tmp_path: Path) -> None:
    description, images = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.25 0.5 0.1 0.1 2 0.9 0.9 1\n"})
    description.write_text(f"{YAML}kpt_shape: [2, 3]\n")
    assert list_boxes(convert_yolo(description, images)) == [[30, 10, 20, 20]]


def test_boxes_equal_those_of_supervision(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    random = np.random.RandomState(0)
    labels = {}
    for place in "abc":
        sides = random.uniform(0.1, 0.4, (4, 2))
        centers = sides / 2 + random.rand(4, 2) * (1 - sides)
        rows = np.concatenate([centers, sides], axis=1)
        labels[place] = "".join(
            f"{random.randint(2)} {' '.join(f'{n:.6f}' for n in row)}\n" for row in rows
        )
    description, images = write_yolo(tmp_path, labels)
    theirs = supervision.DetectionDataset.from_yolo(
        str(images), str(tmp_path / "labels"), str(description)
    )
    ours = convert_yolo(description, images)
    assert theirs.classes == [category["name"] for category in ours["categories"]]
    for image in ours["images"]:
        found = theirs.annotations[str(images / image["file_name"])]
        rows = [a for a in ours["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array([row["bbox"] for row in rows])
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        np.testing.assert_allclose(corners, found.xyxy, atol=1e-4)
        assert [row["category_id"] for row in rows] == found.class_id.tolist()


def test_hidden_images_and_labels_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An image without a label would count as background, a label without an image as an error."""
    description, images = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5\n"})
    expected = convert_yolo(description, images)
    write_yolo(tmp_path, {"._a": None, ".ipynb_checkpoints/a-checkpoint": None, "@eaDir/a": None})
    (images / ".DS_Store").touch()
    for name in (".ipynb_checkpoints/a-checkpoint", ".ipynb_checkpoints/b"):
        (tmp_path / "labels" / f"{name}.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    assert convert_yolo(description, images) == expected
    (message,) = caplog.messages
    assert message == (
        f"{images}: passed over 3 hidden files and folders: ._a.png, .ipynb_checkpoints, @eaDir"
    )


_NAMES = [
    ("classes.txt", "nut\r\nbolt"),
    ("data.yaml", "names:\n  1: bolt\n  0: nut\n"),
    ("labels/classes.txt", "nut\nbolt\n"),
    ("labels/data.yaml", "names: ['nut', 'bolt']"),
]
_NAMES_OF_TRAIN = [  # which lie below "labels", where nothing is looked for
    ("labels/train/classes.txt", "nut\nbolt\n"),
    ("labels/train/_darknet.labels", "nut\nbolt"),
]


@pytest.mark.parametrize(
    ("labels", "name", "text"),
    [
        *(("labels", *each) for each in _NAMES),
        *(("labels/train", *each) for each in [*_NAMES, *_NAMES_OF_TRAIN]),
    ],
)
def test_names_are_found_beside_the_labels(
    tmp_path: Path, labels: str, name: str, text: str
) -> None:
    description, images = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5"}, "train")
    description.unlink()
    (tmp_path / name).write_text(text)
    content = convert_yolo(tmp_path / labels, images)
    assert [category["name"] for category in content["categories"]] == ["nut", "bolt"]
    assert list_boxes(content) == [[30, 10, 20, 20]]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train/images", "train/labels"),
        ("images/train", "labels/train"),
        ("VOC/JPEGImages", "VOC/labels"),
        ("obj", "obj"),
    ],
)
def test_labels_are_found_by_their_images(tmp_path: Path, images: str, labels: str) -> None:
    for folder in (images, labels):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (80, 40)).save(tmp_path / images / "a.jpg")
    (tmp_path / labels / "a.txt").write_text("0 0.5 0.5 0.25 0.5")
    (tmp_path / labels / "train.txt").write_text("obj/a.jpg\n")  # no label
    (tmp_path / "data.yaml").write_text(YAML)
    content = convert_yolo(tmp_path / "data.yaml", tmp_path / images)
    assert list_boxes(content) == [[30, 10, 20, 20]]


def test_shares_are_of_the_upright_image(tmp_path: Path) -> None:
    description, images = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.25 0.5"})
    exif = Image.Exif()
    exif[0x112] = 6
    (images / "a.png").unlink()
    Image.new("RGB", (80, 40)).save(images / "a.jpg", exif=exif.tobytes())
    content = convert_yolo(description, images)
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (40, 80)
    assert list_boxes(content) == [[15, 20, 10, 40]]


WRONG = {
    "5 0.5 0.5 0.2 0.2": r"line 1: class 5 is not in .*data\.yaml, which has 0 nut, 1 bolt; add",
    "-1 0.5 0.5 0.2 0.2": r"line 1: class -1 is not in",
    "0.5 0.5 0.5 0.2 0.2": r"line 1: class 0\.5 is not in",
    "0 0.5 0.5 0.2 0.2\n0 50 20 10 10": r"a\.txt, line 2: '0 50 20 10 10' has numbers outside of 0",
    "0 0.5 nan 0.2 0.2": r"has numbers outside of 0 \.\.\. 1",
    "nut 0.5 0.5 0.2 0.2": r"line 1: 'nut 0\.5 0\.5 0\.2 0\.2' are no numbers; write a class index",
    "0 0.5 0.5 0.2": "has 4 numbers; write a class index and center x",
    "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4": "has 8 numbers; write .* of three or more points",
    "0,0.5,0.5,0.2,0.2": "are no numbers",
    "0 0.5 0.5 -0.005 0.2": "line 1: .* has a negative side; write a class index and center x",
    "\n".join(f"0 0.{i} 0.1 0.9 0.{i}" for i in range(1, 9)): (
        "8 of 8 boxes of the labels in .* but all fit as corners x1, y1, x2, y2; write center x"
    ),
}


@pytest.mark.parametrize("label", WRONG)
def test_a_wrong_line_is_named(tmp_path: Path, label: str) -> None:
    with pytest.raises(ValueError, match=WRONG[label]):
        convert_yolo(*write_yolo(tmp_path, {"a": label}))


NAMES = {
    "": "has no class names; write 'names:",
    "nc: 2\n": "has no class names",
    "names: nut\n": "has no class names",
    "names: {a: nut}\n": "the keys of 'names' are no class indices",
    "names: [nut, nut]\n": "gives several classes the name 'nut'",
    "names: [a\n": "is not plain YAML: expected .* at line 2; correct it",
    "names: !!python/object/apply:os.system ['true']\n": "is not plain YAML",
}


@pytest.mark.parametrize("text", NAMES)
def test_wrong_descriptions_are_named(tmp_path: Path, text: str) -> None:
    description, images = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"})
    description.write_text(text)
    with pytest.raises(ValueError, match=rf"data\.yaml {NAMES[text]}|data\.yaml: {NAMES[text]}"):
        convert_yolo(description, images)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    description, images = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2", "b": "0 0.5 0.5 1 1"})
    with pytest.raises(FileNotFoundError, match=r"none does not exist; give YOLO's data\.yaml"):
        convert_yolo(tmp_path / "none", images)
    with pytest.raises(FileNotFoundError, match=r"image folder .*none does not exist"):
        convert_yolo(description, tmp_path / "none")
    (tmp_path / "other").mkdir()
    Image.new("RGB", (80, 40)).save(tmp_path / "other" / "z.png")
    with pytest.raises(FileNotFoundError, match=r"no image of .*other has a label file in .*other"):
        convert_yolo(description, tmp_path / "other")
    (images / "b.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 label files have no image .*labels/b\.txt; put"
    ):
        convert_yolo(description, images)
    (images / "a.png").write_bytes(b"")
    (tmp_path / "labels" / "b.txt").unlink()
    with pytest.raises(ValueError, match=r"a\.png cannot be read: it is empty"):
        convert_yolo(description, images)
    description.unlink()
    with pytest.raises(
        ValueError, match=r"the class names of .*labels are not known: .*classes\.txt"
    ):
        convert_yolo(tmp_path / "labels", images)
