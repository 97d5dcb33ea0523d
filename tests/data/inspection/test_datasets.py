"""The look at datasets before the first step: each fault is one sentence with its remedy."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext_det.data import reading
from resnext_det.data.coco import CocoDataset, load_coco, register_coco
from resnext_det.data.inspection import missing_files
from resnext_det.data.inspection.datasets import inspect_dataset, inspect_datasets

Content = dict[str, Any]
WIDTH, HEIGHT = 96, 80


@pytest.fixture(autouse=True)
def _is_alone(alone: None, tmp_path: Path) -> None:
    reading._warn_of_dark_images.cache_clear()
    (tmp_path / "images").mkdir()


def draw(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(0).randint(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def make_content(folder: Path, count: int = 6, extension: str = "png", seed: int = 0) -> Content:
    """Draw images, and make annotations with a box of its own in each."""
    random = np.random.RandomState(seed)
    boxes = []
    for number in range(1, count + 1):
        draw(folder / "images" / f"{number}.{extension}")
        width, height = random.randint(10, 40, 2).tolist()
        x, y = random.randint(0, WIDTH - width), random.randint(0, HEIGHT - height)
        boxes.append([x, y, width, height])
    return {
        "images": [
            {"id": i, "file_name": f"{i}.{extension}", "width": WIDTH, "height": HEIGHT}
            for i in range(1, count + 1)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i % 2, "bbox": box}
            for i, box in enumerate(boxes, 1)
        ],
        "categories": [{"id": 0, "name": "nut"}, {"id": 1, "name": "bolt"}],
    }


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., CocoDataset]:
    """Write a content, register it under a name and load it."""

    def write_and_load(content: Content, name: str = "mine", images: str = "images") -> CocoDataset:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        register_coco(name, path, tmp_path / images)
        return load_coco(name)

    return write_and_load


def get_error(dataset: CocoDataset, **options: Any) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        inspect_dataset(dataset, **options)
    return str(caught.value)


def test_a_right_set_is_silent(
    tmp_path: Path, load: Callable[..., CocoDataset], caplog: pytest.LogCaptureFixture
) -> None:
    train, test = make_content(tmp_path, 6), make_content(tmp_path / "other", 6)
    inspect_datasets([load(train)], [load(test, "test", "other/images")], everything=True)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


# file_name of image 1 -> what is told; the files are 1.png ... 6.png and sub/é.png.
MISSPELLED = {
    "sub\\1.png": "a backslash stands for a slash: 'sub/1.png' is there for",
    "1.PNG": "upper and lower case differ: '1.png' is there for '1.PNG'; correct 'file_name'",
    "1.jpg": "the extension differs: '1.png' is there for '1.jpg'",
    "1": "the extension differs: '1.png' is there for '1'",
    "1.png ": "blanks or %-codes differ: '1.png' is there for '1.png '",
    "su%62/1.png": "blanks or %-codes differ: 'sub/1.png' is there for",
    unicodedata.normalize("NFD", "sub/\xe9.png"): "composed in another way .*: 'sub/\xe9.png' is",
    "train/1.png": "it lies in another folder: there is .*images/1.png; write 'file_name' relative",
    "C:\\data\\1.png": "it lies in another folder: there is .*images/1.png; write 'file_name' rel",
    "/data/1.jpeg": "it lies in another folder: there is .*images/1.png",
    "gone.png": r"no file of such a name was found in that folder or beside it: put the files",
}


@pytest.mark.parametrize("name", MISSPELLED)
def test_a_missing_file_is_told_with_the_likeliest_reason(
    tmp_path: Path, load: Callable[..., CocoDataset], name: str
) -> None:
    content = make_content(tmp_path)
    for other in ("1.png", "\xe9.png"):
        draw(tmp_path / "images" / "sub" / other)
    content["images"][0]["file_name"] = name
    dataset = load(content)
    with pytest.raises(FileNotFoundError, match=MISSPELLED[name]) as caught:
        inspect_dataset(dataset)
    start = (
        f"dataset 'mine' ({tmp_path}/mine.json): 1 of 6 images do not exist in {tmp_path}/images"
    )
    assert str(caught.value).startswith(f"{start}: the first is {name!r} (image id 1); ")


def test_a_search_ends_after_some_seconds(
    tmp_path: Path,
    load: Callable[..., CocoDataset],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(missing_files, "_SEARCH_SECONDS", -1.0)
    content = make_content(tmp_path)
    content["images"][0]["file_name"] = "1.PNG"
    dataset = load(content)
    caplog.set_level(logging.INFO, "resnext_det")
    assert "no file of such a name was found in that folder" in get_error(dataset)
    assert "'1.PNG' (image id 1); it is looked for in that folder and beside it." in caplog.text


@pytest.mark.parametrize(
    ("prefix", "images", "right"),
    [
        ("images/", "images", "{0}"),  # a folder above
        ("", ".", "{0}/images"),  # below
        ("", "annotations", "{0}/images"),  # beside
        ("deep/images/", "deep/images", "{0}"),
    ],
)
def test_the_right_image_folder_is_named(
    tmp_path: Path, load: Callable[..., CocoDataset], prefix: str, images: str, right: str
) -> None:
    content = make_content(tmp_path / "deep" if "deep" in prefix else tmp_path)
    (tmp_path / "annotations").mkdir()
    for image in content["images"]:
        image["file_name"] = prefix + image["file_name"]
    error = get_error(load(content, images=images))
    assert "6 of 6 images do not exist" in error
    assert f"give {right.format(tmp_path)} as the image folder" in error


def test_a_link_that_leads_nowhere_names_its_target(
    tmp_path: Path, load: Callable[..., CocoDataset]
) -> None:
    content = make_content(tmp_path)
    image = tmp_path / "images" / "2.png"
    image.rename(tmp_path / "2.png")
    image.symlink_to(tmp_path / "2.png")
    inspect_dataset(load(content))  # a link to a file is a file
    (tmp_path / "2.png").unlink()
    assert f"a link to {tmp_path}/2.png, which does not exist; put" in get_error(load(content))


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device"])
def test_what_is_no_file_is_not_opened(
    tmp_path: Path, load: Callable[..., CocoDataset], kind: str
) -> None:
    content = make_content(tmp_path)
    path = tmp_path / "images" / "3.png"
    path.unlink()
    make = {
        "a pipe": os.mkfifo,
        "a folder": os.mkdir,
        "a device": lambda p: p.symlink_to("/dev/zero"),
    }
    make[kind](path)
    error = get_error(load(content), everything=True)
    assert (
        f"1 of 6 images are no files that can be read: the first, {path}, is {kind}; put" in error
    )
    with pytest.raises(
        ValueError, match=f"3.png cannot be read: it is {kind}, not a file; replace"
    ):
        reading.read_image(path, "BGR")


def test_faults_of_several_kinds_are_told_together(
    tmp_path: Path, load: Callable[..., CocoDataset]
) -> None:
    content = make_content(tmp_path)
    content["images"][0]["file_name"] = "gone.png"
    (tmp_path / "images" / "2.png").write_bytes(b"")
    content["images"][2]["width"] = 97
    lines = get_error(load(content)).splitlines()
    assert [re.findall(r"\d of \d images [a-z ]+", line)[0] for line in lines] == [
        "1 of 6 images do not exist in ",
        "1 of 5 images looked at cannot be read",
        "1 of 5 images looked at are of another size than annotated",
    ]


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_a_file_that_is_cut_off_is_found(
    tmp_path: Path, load: Callable[..., CocoDataset], extension: str
) -> None:
    content = make_content(tmp_path, extension=extension)
    path = tmp_path / "images" / f"4.{extension}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    error = get_error(load(content))
    assert re.search(rf"1 of 6 .* cannot be read: image {path} cannot be read: .*truncated", error)


def test_what_follows_the_end_of_a_file_is_no_fault(
    tmp_path: Path, load: Callable[..., CocoDataset]
) -> None:
    content = make_content(tmp_path, extension="jpg")
    with (tmp_path / "images" / "4.jpg").open("ab") as file:
        file.write(bytes(5000))  # as some cameras write a preview there
    inspect_dataset(load(content))


def test_damage_within_is_found_where_everything_is_checked(
    tmp_path: Path, load: Callable[..., CocoDataset]
) -> None:
    content = make_content(tmp_path)
    path = tmp_path / "images" / "5.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    dataset = load(content)
    inspect_dataset(dataset)
    assert f"1 of 6 images looked at cannot be read: image {path}" in get_error(
        dataset, everything=True
    )


@pytest.mark.parametrize(
    ("size", "remedy"),
    [
        ((HEIGHT, WIDTH), "exchange 'width' and 'height' of image id 2 if the boxes lie right"),
        ((WIDTH * 2, HEIGHT * 2), "was resized: multiply .* the boxes of image id 2 by 2, or"),
        ((50, 60), "correct 'width' and 'height' of image id 2 in the annotations if"),
    ],
)
def test_a_size_that_differs(
    tmp_path: Path, load: Callable[..., CocoDataset], size: tuple[int, int], remedy: str
) -> None:
    content = make_content(tmp_path)
    draw(tmp_path / "images" / "2.png", size)
    error = get_error(load(content))
    assert re.search(rf"1 of 6 .* size .*2\.png is {size[0]} x {size[1]} .* say 96 x 80; ", error)
    assert re.search(remedy, error)


def turn(content: Content, folder: Path) -> None:
    """Give every image the EXIF orientation of a camera held upright."""
    exif = Image.Exif()
    exif[0x112] = 6
    for image in content["images"]:
        draw(folder / "images" / image["file_name"], exif=exif.tobytes())


def test_turned_images_annotated_unturned(
    tmp_path: Path, load: Callable[..., CocoDataset], caplog: pytest.LogCaptureFixture
) -> None:
    content = make_content(tmp_path, extension="jpg")
    turn(content, tmp_path)
    remedy = r"1\.jpg is 80 x 96 .* EXIF .* say 96 x 80, as it is stored: remove the orientation"
    dataset = load(content)
    assert re.search(remedy, get_error(dataset))
    record = dataset.records[0]
    with pytest.raises(ValueError, match=remedy):  # the reader says the same
        reading.check_image_size(record, reading.read_image(record["file_name"], "BGR"))

    for image in content["images"]:  # sizes are exchanged, and the boxes stay
        image["width"], image["height"] = HEIGHT, WIDTH
    content["annotations"][0]["bbox"] = [60, 10, 30, 20]
    error = get_error(load(content))
    assert "1 of 6 images looked at have boxes of unturned pixels" in error
    assert (
        "box [60.0, 10.0, 30.0, 20.0] reaches beyond it, but lies within the stored 96 x 80"
        in error
    )


def test_turned_images_annotated_upright(
    tmp_path: Path, load: Callable[..., CocoDataset], caplog: pytest.LogCaptureFixture
) -> None:
    content = make_content(tmp_path, extension="jpg")
    turn(content, tmp_path)
    for image in content["images"]:
        image["width"], image["height"] = HEIGHT, WIDTH
    for annotation in content["annotations"]:
        annotation["bbox"] = [10, 10, 20, 20]
    inspect_dataset(load(content))
    assert "6 of 6 images looked at are turned upright by their EXIF orientation" in caplog.text
    caplog.clear()
    content["annotations"][3]["bbox"] = [10, 60, 20, 30]  # lies in the upright image alone
    inspect_dataset(load(content))
    assert caplog.records == []


def to_corners(box: list[float]) -> list[float]:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def to_centers(box: list[float]) -> list[float]:
    return [box[0] + box[2] / 2, box[1] + box[3] / 2, box[2], box[3]]


def scale(box: list[float], x: float, y: float) -> list[float]:
    return [box[0] * x, box[1] * y, box[2] * x, box[3] * y]


OTHER_FORMS: dict[str, tuple[Callable[[list[float]], list[float]], str]] = {
    "corners": (to_corners, r"fit as corners \[x1, y1, x2, y2\]: .*\[x1, y1, x2 - x1, y2 - y1\]"),
    "centers": (to_centers, r"fit as \[center x, .*\]: .*\[x - width / 2, y - height / 2, width"),
    "y first": (lambda box: [box[i] for i in (1, 0, 3, 2)], r"fit as \[y, x, height, width\]"),
    "corners, y first": (
        lambda box: [to_corners(box)[i] for i in (1, 0, 3, 2)],
        r"fit as corners \[y1, x1, y2, x2\]",
    ),
    "shares": (
        lambda box: scale(box, 1 / WIDTH, 1 / HEIGHT),
        r"all 60 boxes lie within 0 \.\.\. 1, the first is .*: they are shares of the image; mul",
    ),
    "shares, corners": (
        lambda box: to_corners(scale(box, 1 / WIDTH, 1 / HEIGHT)),
        r"shares of the image \(they seem to be corners",
    ),
    "shares, centers": (
        lambda box: to_centers(scale(box, 1 / WIDTH, 1 / HEIGHT)),
        r"shares of the image \(they seem to be \[center x",
    ),
}


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("form", OTHER_FORMS)
def test_boxes_of_another_form(
    tmp_path: Path, load: Callable[..., CocoDataset], form: str, outside: bool
) -> None:
    change, words = OTHER_FORMS[form]
    content = make_content(tmp_path, 60)
    wide, high = (WIDTH * 2, HEIGHT) if "y first" in form else (WIDTH, HEIGHT)
    for image in content["images"]:
        image["width"] = wide
    random = np.random.RandomState(1)
    for annotation in content["annotations"]:
        width, height = random.randint(10, 40, 2).tolist()
        x, y = int(random.randint(0, wide - width)), int(random.randint(0, high - height))
        if not outside:
            x = min(x, 79)
        annotation["bbox"] = change([x, y, width, height])
    if wide != WIDTH:
        for image in content["images"]:
            draw(tmp_path / "images" / image["file_name"], (wide, high))
    with pytest.raises(ValueError, match=words):  # the reader's, where a box is wholly outside
        inspect_dataset(load(content))


@pytest.mark.parametrize("seed", range(5))
def test_careless_and_amodal_boxes_are_no_other_form(
    tmp_path: Path,
    load: Callable[..., CocoDataset],
    caplog: pytest.LogCaptureFixture,
    seed: int,
) -> None:
    content = make_content(tmp_path, 40, seed=seed)
    random = np.random.RandomState(seed)
    for annotation in content["annotations"][:20]:  # whole objects, of which a part is seen
        width, height = random.randint(10, 40, 2).tolist()
        center = random.rand(2) * (WIDTH, HEIGHT)
        annotation["bbox"] = [center[0] - width / 2, center[1] - height / 2, width, height]
    dataset = load(content)
    inspect_dataset(dataset)
    boxes = np.array([a["bbox"] for a in content["annotations"]])
    ends = boxes[:, :2] + boxes[:, 2:]
    beyond = ((boxes[:, :2] < -1) | (ends > np.array([WIDTH + 1, HEIGHT + 1]))).any(axis=1).sum()
    assert f"{beyond} of 40 boxes reach beyond their image by more than a pixel" in caplog.text


def test_one_object_that_fills_each_image_is_no_other_form(
    tmp_path: Path, load: Callable[..., CocoDataset]
) -> None:
    content = make_content(tmp_path, 12)
    for number, annotation in enumerate(content["annotations"]):
        annotation["bbox"] = [number % 4, number % 3, WIDTH - 1, HEIGHT]  # careless: up to 3 beyond
    inspect_dataset(load(content))


def test_boxes_of_larger_images(tmp_path: Path, load: Callable[..., CocoDataset]) -> None:
    content = make_content(tmp_path, 30)
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = scale([min(x, 45), min(y, 35), width + 10, height + 10], 2, 2)
    error = get_error(load(content))
    assert re.search(r"\d+ of 30 boxes reach beyond .* and none beyond the left or upper", error)


def test_percent_is_told(
    tmp_path: Path, load: Callable[..., CocoDataset], caplog: pytest.LogCaptureFixture
) -> None:
    content = make_content(tmp_path, 30)
    for image, annotation in zip(content["images"], content["annotations"]):
        draw(tmp_path / "images" / image["file_name"], (400, 300))
        annotation["bbox"] = scale(annotation["bbox"], 100 / WIDTH, 100 / HEIGHT)
        image["width"], image["height"] = 400, 300
    inspect_dataset(load(content))
    assert "all 30 boxes end within 100, though every image has 200 pixels" in caplog.text


def test_what_stands_twice_is_counted(
    tmp_path: Path, load: Callable[..., CocoDataset], caplog: pytest.LogCaptureFixture
) -> None:
    content = make_content(tmp_path)
    content["annotations"] += [
        dict(content["annotations"][index], id=100 + number)
        for number, index in enumerate((1, 1, 3))
    ]
    content["annotations"].append(dict(content["annotations"][2], id=200, category_id=0))
    content["images"].append(dict(content["images"][4], id=50, file_name="./5.png"))
    inspect_dataset(load(content))
    assert "3 annotations repeat another one (same image, class and box), the first" in caplog.text
    assert "1 images are listed again under another id, the first is" in caplog.text
    assert "5.png, 96 x 80)" in caplog.text


def test_boxes_without_area_and_pixels_without_a_range_are_refused(
    tmp_path: Path, load: Callable[..., CocoDataset]
) -> None:
    content = make_content(tmp_path)
    for annotation in content["annotations"]:
        annotation["bbox"][2] = 1e-7
    assert "all 6 boxes have no area, the first is" in get_error(load(content))
    content = make_content(tmp_path)
    content["images"][1]["file_name"] = "2.tif"
    Image.new("F", (WIDTH, HEIGHT)).save(tmp_path / "images" / "2.tif")
    assert "2.tif cannot be read: its pixels are 32-bit numbers" in get_error(load(content, "f"))


def test_exchanged_sizes_are_not_told_as_boxes_alone(
    tmp_path: Path, load: Callable[..., CocoDataset]
) -> None:
    content = make_content(tmp_path, 12)
    for image, annotation in zip(content["images"], content["annotations"]):
        draw(tmp_path / "images" / image["file_name"], (HEIGHT * 2, HEIGHT))
        image["width"], image["height"] = HEIGHT, HEIGHT * 2
        annotation["bbox"] = [70, 20 + annotation["id"], 60, 30]
    error = get_error(load(content))
    assert "exchange 'width' and 'height' of the images if these are of another size" in error
    assert "12 of 12 images looked at are of another size than annotated" in error


@pytest.mark.parametrize(("reach", "told"), [(1000, True), (700, False)])
def test_thousandths_are_told(
    tmp_path: Path,
    load: Callable[..., CocoDataset],
    caplog: pytest.LogCaptureFixture,
    reach: int,
    told: bool,
) -> None:
    """Warn of boxes of 0 to 1000, as vision-language models give them, in larger images."""
    content = make_content(tmp_path, 1)
    draw(tmp_path / "images" / "1.png", (1300, 1250))
    content["images"][0].update(width=1300, height=1250)
    content["annotations"] = [
        {"id": i, "image_id": 1, "category_id": i % 2, "bbox": [i, i, reach - 30, reach - 30]}
        for i in range(1, 31)
    ]
    inspect_dataset(load(content))
    assert ("if they are thousandths, multiply" in caplog.text) == told


def test_names_that_lead_out_of_the_folder_are_told_once(
    tmp_path: Path, load: Callable[..., CocoDataset], caplog: pytest.LogCaptureFixture
) -> None:
    content = make_content(tmp_path)
    make_content(tmp_path / "other")
    content["images"][0]["file_name"] = "../other/images/1.png"
    content["images"][1]["file_name"] = str(tmp_path / "other" / "images" / "2.png")
    content["images"][2]["file_name"] = "../images/3.png"
    content["images"][3]["file_name"] = "a/../4.png"
    (tmp_path / "images" / "a").mkdir()
    inspect_dataset(load(content))
    (record,) = caplog.records
    assert "3 file names lead out of the image folder" in record.getMessage()
    assert "the first is '../other/images/1.png'" in record.getMessage()


def test_what_training_and_testing_have_in_common(
    tmp_path: Path, load: Callable[..., CocoDataset], caplog: pytest.LogCaptureFixture
) -> None:
    train, test = make_content(tmp_path), make_content(tmp_path)
    test["images"], test["annotations"] = test["images"][:2], test["annotations"][:1]
    inspect_datasets([load(train)], [load(test, "test")])
    assert "2 of 2 images of test set 'test' are training images too" in caplog.text
    assert "1 of 2 classes have no box in testing: nut; correct" in caplog.text
    assert "in training" not in caplog.text
    caplog.clear()
    train["categories"].append({"id": 7, "name": "washer"})
    inspect_datasets([load(train, "wide")], [])
    assert "1 of 3 classes have no box in training: washer" in caplog.text
    caplog.clear()
    (tmp_path / "link").symlink_to(tmp_path / "images")
    inspect_datasets([load(make_content(tmp_path), "a")], [load(test, "b", "link")])
    assert "2 of 2 images of test set 'b' are training images too" in caplog.text
    caplog.clear()
    train["images"][0]["file_name"] = "../images/1.png"  # the same file
    inspect_datasets([load(train, "dotted")], [load(train, "dotted")])
    assert "1 of 3 classes have no box in training and in testing: washer" in caplog.text
    assert "6 of 6 images of test set 'dotted' are training images too" in caplog.text


@pytest.mark.parametrize("highest", [255, 4095])
def test_images_of_12_bits_in_16_are_told_once(
    tmp_path: Path, load: Callable[..., CocoDataset], caplog: pytest.LogCaptureFixture, highest: int
) -> None:
    content = make_content(tmp_path)
    for image in content["images"]:
        pixels = np.linspace(0, highest, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)
        Image.fromarray(pixels).save(tmp_path / "images" / image["file_name"])
    dataset = load(content)
    inspect_dataset(dataset)
    reading.read_image(dataset.records[0]["file_name"], "BGR")
    (record,) = caplog.records
    assert "has no value of 4096 or more, as from a camera of 12 bits" in record.getMessage()


def test_full_16_bit_images_are_silent(
    tmp_path: Path, load: Callable[..., CocoDataset], caplog: pytest.LogCaptureFixture
) -> None:
    content = make_content(tmp_path)
    pixels = np.full((HEIGHT, WIDTH), 4096, np.uint16)
    for image in content["images"]:
        Image.fromarray(pixels).save(tmp_path / "images" / image["file_name"])
    inspect_dataset(load(content))
    assert caplog.records == []


@pytest.mark.filterwarnings("error")
def test_many_pixels_are_read_up_to_the_limit_and_refused_beyond(
    tmp_path: Path, load: Callable[..., CocoDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT - 1)
    content = make_content(tmp_path)
    dataset = load(content)
    inspect_dataset(dataset, everything=True)  # Pillow's warning of up to twice the limit is hidden
    draw(tmp_path / "images" / "2.png", (WIDTH, 2 * HEIGHT))
    error = get_error(dataset)
    assert re.search(
        r"1 of 6 .* 2\.png cannot be read: Image size \(15360 pixels\) exceeds limit of 15358 "
        r"pixels .*; scale the image down or cut it into tiles",
        error.replace("/", " "),
    )
    assert "replace" not in error


def test_empty_sets_are_looked_at(tmp_path: Path, load: Callable[..., CocoDataset]) -> None:
    content = make_content(tmp_path)
    content["annotations"] = []
    inspect_datasets([], [load(content)])


def test_a_folder_without_files(tmp_path: Path, load: Callable[..., CocoDataset]) -> None:
    content = make_content(tmp_path)
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").mkdir()
    assert "6 of 6 images do not exist" in get_error(load(content))
