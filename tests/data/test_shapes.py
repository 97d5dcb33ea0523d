"""Generated shapes: determinism, tight boxes, valid files, generations that break off or meet."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from torchvision.datasets import ImageFolder

from resnext_det.data import shape_drawing, shapes
from resnext_det.data.shapes import (
    SHAPE_CLASSES,
    draw_scene,
    generate_shape_images,
    generate_shapes,
    prepare_shapes,
)
from resnext_det.masks import rasterize_polygons


def generate(
    root: Path, *, seed: int = 3, split: str = "train", num_images: int = 6
) -> tuple[Path, Path]:
    return generate_shapes(root, split=split, num_images=num_images, seed=seed)


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


def test_a_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    generate(tmp_path / "a")
    generate(tmp_path / "b")
    generate(tmp_path / "c", seed=4)
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert len(first) == 7
    assert all(first[name] != other[name] for name in first)


def test_an_image_depends_on_seed_split_and_number_alone(tmp_path: Path) -> None:
    generate(tmp_path / "six", num_images=6)
    generate(tmp_path / "two", num_images=2)
    generate(tmp_path / "val", num_images=2, split="val")
    six, two = contents(tmp_path / "six"), contents(tmp_path / "two")
    assert six["train/000001.jpg"] == two["train/000001.jpg"]
    assert six["train/000001.jpg"] != contents(tmp_path / "val")["val/000001.jpg"]


def test_the_annotations_are_valid_coco(tmp_path: Path) -> None:
    annotations, images = generate(tmp_path, num_images=20)
    coco = COCO(str(annotations))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(SHAPE_CLASSES)
    assert list(SHAPE_CLASSES) == sorted(SHAPE_CLASSES)
    assert len(coco.getImgIds()) == 20
    numbers = []
    for image in coco.loadImgs(coco.getImgIds()):
        pixels = cv2.imread(str(images / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
        assert max(pixels.shape) == 256
        assert min(pixels.shape[:2]) >= 192
        objects = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        numbers.append(len(objects))
        for entry in objects:
            x, y, w, h = entry["bbox"]
            assert 0 <= x < x + w <= image["width"]
            assert 0 <= y < y + h <= image["height"]
            assert 0 < entry["area"] <= w * h
            assert entry["iscrowd"] == 0
    assert min(coco.getAnnIds()) == 1  # COCO's evaluation takes a match with id 0 for none
    assert len(coco.getAnnIds()) == sum(numbers)
    assert min(numbers) >= 1
    assert max(numbers) <= 12


def rasterize(shape: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Find the pixels that a shape covers at least by half, with Pillow at eight times the size."""
    canvas = Image.new("L", (8 * width, 8 * height))
    for contour, value in zip(shape, (255, 0)):
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in contour * 8 - 0.5], fill=value)
    covered = np.asarray(canvas, np.float64).reshape(height, 8, width, 8).mean((1, 3))
    return covered >= 128


@pytest.mark.parametrize("kind", range(len(SHAPE_CLASSES)), ids=SHAPE_CLASSES)
def test_the_box_of_an_object_is_tight_around_its_pixels(
    kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[list[np.ndarray]] = []
    place = shape_drawing._place

    def recorded(*arguments: object) -> list[np.ndarray]:
        placed.append(place(*arguments))  # type: ignore[arg-type]
        return placed[-1]

    monkeypatch.setattr(shape_drawing, "_place", recorded)
    for seed in range(6):
        random = np.random.default_rng(seed)
        _, objects = shape_drawing.draw_objects(
            random, 90, 120, classes=[kind], radii=[25.0], clutter=0
        )
        (index, (x, y, w, h), area, polygons), mask = objects[0], rasterize(placed[-1], 90, 120)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert index == kind
        expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose([x, y, x + w, y + h], expected, atol=1)
        assert area == pytest.approx(mask.sum(), rel=0.06)
        filled = rasterize_polygons([np.array(each) for each in polygons], 90, 120)
        assert (filled & mask).sum() / (filled | mask).sum() > 0.9  # also around a ring's hole


def test_overlapping_objects_keep_their_own_visible_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red over green over blue, so that the picture itself says what is visible."""
    paints = iter([(255, 0, 0), (0, 255, 0), (0, 0, 255)] * 50)

    def paint(random: np.random.Generator, image: np.ndarray, coverage: np.ndarray) -> None:
        image[:, coverage >= 128] = np.array(next(paints))[:, None]

    monkeypatch.setattr(shape_drawing, "_paint", paint)
    for name in ("_cast_shadow", "_draw_lines"):
        monkeypatch.setattr(shape_drawing, name, lambda *arguments: None)
    monkeypatch.setattr(shape_drawing, "_finish", lambda random, image: image.transpose(1, 2, 0))
    overlaps = 0
    for seed in range(50):
        random = np.random.default_rng(seed)
        image, objects = shape_drawing.draw_objects(
            random, 100, 100, classes=[0, 3, 5], radii=[30.0, 24.0, 18.0], clutter=0
        )
        while len(objects) < 3:  # a place was not found: take the colors that were left over
            next(paints)
            objects.append(shape_drawing.DrawnObject(-1, (0.0, 0.0, 0.0, 0.0), 0.0, []))
        for channel, (kind, (x, y, w, h), area, polygons) in enumerate(objects):
            if kind < 0:
                continue
            mask = image[..., channel] == 255
            mask &= (image == 0).sum(-1) == 2
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] == [x, y, x + w, y + h]
            assert mask.sum() == area
            filled = rasterize_polygons([np.array(each) for each in polygons], 100, 100)
            assert (filled & mask).sum() / (filled | mask).sum() > 0.9
            overlaps += bool(kind == 0 and 0.65 < area / (np.pi * 30**2) < 0.95)
            assert kind != 0 or area >= 0.64 * np.pi * 30**2
    assert overlaps > 10


def test_scenes_have_every_class_and_all_sizes() -> None:
    random = np.random.default_rng(0)
    objects = [entry for _ in range(80) for entry in draw_scene(random, 224, 256)[1]]
    areas = np.array([entry.area for entry in objects])
    assert {kind for kind, *_ in objects} == set(range(len(SHAPE_CLASSES)))
    assert 0.2 < (areas < 32**2).mean() < 0.7
    assert 0.05 < (areas > 64**2).mean() < 0.3


def test_an_object_stands_out_from_what_surrounds_it() -> None:
    random = np.random.default_rng(1)
    contrasts = []
    for _ in range(40):
        image, objects = shape_drawing.draw_objects(
            random, 96, 96, classes=[5], radii=[20.0], clutter=0
        )
        x, y, w, h = map(int, objects[0][1])
        inside = image[y + h // 2 - 3 : y + h // 2 + 4, x + w // 2 - 3 : x + w // 2 + 4].mean(
            (0, 1)
        )
        contrasts.append(np.linalg.norm(inside - image.mean((0, 1))))
    assert np.mean(contrasts) > 50


def test_a_set_that_is_there_is_kept(tmp_path: Path) -> None:
    _, images = generate(tmp_path)
    (images / "000000.jpg").write_bytes(b"kept")
    generate(tmp_path)
    assert (images / "000000.jpg").read_bytes() == b"kept"


@pytest.mark.parametrize("is_writable", [True, False])
def test_a_set_that_was_drawn_before_there_were_masks_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_writable: bool
) -> None:
    annotations, images = generate(tmp_path, num_images=2)
    (images / "000000.jpg").write_bytes(b"kept")
    pictures, whole = contents(images), json.loads(annotations.read_text())
    without = json.loads(annotations.read_text())
    for entry in without["annotations"]:
        del entry["segmentation"]
    annotations.write_text(json.dumps(without))

    def fail(*_: object) -> None:
        raise PermissionError("the disk is read-only")

    if not is_writable:
        monkeypatch.setattr(shapes, "write_text", fail)
    generate(tmp_path, num_images=2)
    assert json.loads(annotations.read_text()) == (whole if is_writable else without)
    assert contents(images) == pictures


@pytest.mark.parametrize("change", [{"seed": 4}, {"num_images": 5}])
def test_another_set_is_not_taken_for_the_one_asked_for(
    tmp_path: Path, change: dict[str, int]
) -> None:
    generate(tmp_path)
    with pytest.raises(
        ValueError, match=r"instances_train\.json describes another set.*or choose another folder"
    ):
        generate(tmp_path, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "key", "value"), [("VERSION", "version", "0"), ("DRAWER", "drawn_by", "OpenCV 3.4")]
)
def test_a_set_of_another_version_or_drawer_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, key: str, value: str
) -> None:
    monkeypatch.setattr(shapes, name, value)
    annotations, _ = generate(tmp_path)
    assert json.loads(annotations.read_text())["info"][key] == value
    monkeypatch.undo()
    with pytest.raises(
        ValueError, match=f"another set .*: {key} is '{value}', not '.+'; remove it"
    ):
        generate(tmp_path)


def test_the_drawer_is_the_installed_opencv(tmp_path: Path) -> None:
    annotations, _ = generate(tmp_path, num_images=1)
    drawer = json.loads(annotations.read_text())["info"]["drawn_by"]
    assert cv2.__version__.startswith(drawer.removeprefix("OpenCV "))


def test_images_without_annotations_are_refused(tmp_path: Path) -> None:
    annotations, _ = generate(tmp_path)
    annotations.unlink()
    with pytest.raises(ValueError, match=r"has no instances_train\.json beside it .* remove"):
        generate(tmp_path)


def test_a_generation_broken_off_is_redone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = shapes._write_image

    def failing(path: Path, image: np.ndarray) -> None:
        if path.name == "000003.jpg":
            raise OSError("the disk is full")
        write(path, image)

    monkeypatch.setattr(shapes, "_write_image", failing)
    with pytest.raises(OSError, match="the disk is full"):
        generate(tmp_path / "a")
    assert set(contents(tmp_path / "a")) == {"train.lock"}
    monkeypatch.setattr(shapes, "_write_image", write)
    generate(tmp_path / "a")
    generate(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_several_generations_at_once_do_not_hurt_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: generate(tmp_path / "a"), range(4)))
    generate(tmp_path / "b")
    assert set(results) == {(tmp_path / "a" / "instances_train.json", tmp_path / "a" / "train")}
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_standard_set_is_generated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(shapes.STANDARD_SIZES, "val", 3)
    annotations, images = prepare_shapes(tmp_path, "val")
    assert annotations.is_relative_to(tmp_path / "shapes")
    assert len(list(images.iterdir())) == 3
    assert json.loads(annotations.read_text())["info"]["seed"] == 0
    before = annotations.stat().st_mtime_ns
    assert prepare_shapes(tmp_path, "val") == (annotations, images)
    assert annotations.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="no split 'test'; write one of train, val"):
        prepare_shapes(tmp_path, "test")


def test_single_shapes_are_an_image_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    folder = generate_shape_images(tmp_path, split="train", images_per_class=3, seed=0, size=48)
    dataset = ImageFolder(str(folder))
    assert tuple(dataset.classes) == SHAPE_CLASSES
    assert len(dataset) == 3 * len(SHAPE_CLASSES)
    assert dataset[0][0].size == (48, 48)
    assert (
        generate_shape_images(tmp_path, split="train", images_per_class=3, seed=0, size=48)
        == folder
    )
    with pytest.raises(ValueError, match=r"shapes_train\.json describes another set"):
        generate_shape_images(tmp_path, split="train", images_per_class=3, seed=0, size=64)
    again = generate_shape_images(
        tmp_path / "b", split="train", images_per_class=3, seed=0, size=48
    )
    assert contents(again) == contents(folder)
