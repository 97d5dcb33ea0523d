"""Plant faults in a set or a training, and see which of them the report names.

    python -m tests.report.planted_faults FOLDER [NAME ...]

The quickstart's network is trained shortly from its shipped weights. Most faults are planted in a
still shorter training that goes on from there, the others in one of their own. What is in the
folder already is not trained again. A table says at which place the fault's own cause stands.
"""

from __future__ import annotations

import copy
import json
import logging
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from resnext_det.data.shapes import generate_shapes
from resnext_det.detection.datasets import summarize_set
from resnext_det.detection.jobs import Job, train
from resnext_det.evaluation.analysis import analyze_detections
from resnext_det.report.causes import Cause, find_causes
from resnext_det.report.runs import read_run

CONFIG = "quickstart/faster_rcnn_X26_8x4d_FPN_shapes.yaml"
SHORT = {
    "SOLVER.MAX_ITER": 300,
    "SOLVER.CHECKPOINT_PERIOD": 1000,
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.DEVICE": "cpu",
    "INPUT.MIN_SIZE_TRAIN": "(144,)",
    "INPUT.MAX_SIZE_TRAIN": 192,
    "INPUT.MIN_SIZE_TEST": 144,
    "INPUT.MAX_SIZE_TEST": 192,
    "MODEL.ANCHOR_GENERATOR.SIZES": "[[18],[36],[72]]",
}
GO_ON = {"SOLVER.MAX_ITER": 100, "SOLVER.WARMUP_ITERS": 10}
TRAIN_IMAGES, TEST_IMAGES = 400, 100

Coco = dict[str, Any]


@dataclass
class Sets:
    """Hold the annotations of both sets, and the folder of their images."""

    train: Coco
    test: Coco
    images: Path


def leave_alone(sets: Sets) -> None:
    """Plant nothing."""


@dataclass(frozen=True)
class Fault:
    """Describe a fault.

    Attributes:
        name: of its folder.
        title: a part of the title of the cause that names it, or of the error that refuses it; ""
            where nothing is to be named.
        plant: changes the sets.
        overrides: of the training.
        goes_on: from the sound detector; else the training is one from the shipped weights.
    """

    name: str
    title: str
    plant: Callable[[Sets], None] = leave_alone
    overrides: str = ""
    goes_on: bool = True


def swap_labels(sets: Sets) -> None:
    """Exchange circle and triangle in the training set."""
    exchanged = {1: 6, 6: 1}
    for entry in sets.train["annotations"]:
        entry["category_id"] = exchanged.get(entry["category_id"], entry["category_id"])


def rotate_labels(sets: Sets) -> None:
    """Number the classes of the training set from another start."""
    for entry in sets.train["annotations"]:
        entry["category_id"] = entry["category_id"] % 6 + 1


def shift_boxes(sets: Sets) -> None:
    """Move the boxes of the training set by 8 pixels to the right and 6 down."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in sets.train["images"]}
    for entry in sets.train["annotations"]:
        x, y, w, h = entry["bbox"]
        width, height = sizes[entry["image_id"]]
        entry["bbox"] = [min(x + 8, width - w), min(y + 6, height - h), w, h]


def write_corners(sets: Sets) -> None:
    """Write the corners x1, y1, x2, y2 for the training set, clipped to the image."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in sets.train["images"]}
    for entry in sets.train["annotations"]:
        x, y, w, h = entry["bbox"]
        width, height = sizes[entry["image_id"]]
        entry["bbox"] = [x, y, min(x + w, width - x), min(y + h, height - y)]


def shrink_boxes(sets: Sets) -> None:
    """Write the boxes of the training set for images of four fifths of the size."""
    for entry in sets.train["annotations"]:
        entry["bbox"] = [0.8 * value for value in entry["bbox"]]


def remove_boxes(sets: Sets) -> None:
    """Remove half of the boxes of the training set."""
    draw = random.Random(0)
    sets.train["annotations"] = [e for e in sets.train["annotations"] if draw.random() < 0.5]


def remove_test_boxes(sets: Sets) -> None:
    """Remove 40 % of the boxes of the test set."""
    draw = random.Random(0)
    sets.test["annotations"] = [e for e in sets.test["annotations"] if draw.random() < 0.6]


def remove_class(sets: Sets) -> None:
    """Remove all stars of the training set."""
    sets.train["annotations"] = [e for e in sets.train["annotations"] if e["category_id"] != 5]


def thin_out_class(sets: Sets) -> None:
    """Keep one star in thirty of the training set."""
    stars = iter(range(10**6))
    sets.train["annotations"] = [
        e for e in sets.train["annotations"] if e["category_id"] != 5 or next(stars) % 30 == 0
    ]


def confuse_labels(sets: Sets) -> None:
    """Annotate every other object of the training set once more, as another class."""
    more = []
    for entry in sets.train["annotations"][::2]:
        other = {**entry, "category_id": entry["category_id"] % 6 + 1}
        more.append({**other, "id": entry["id"] + 10**6})
    sets.train["annotations"] += more


def repeat_images(sets: Sets) -> None:
    """Train on 100 images, each there four times under another name."""
    first, copies, boxes = sets.train["images"][:100], [], []
    kept = {image["id"] for image in first}
    mine = [e for e in sets.train["annotations"] if e["image_id"] in kept]
    for turn in range(4):
        for image in first:
            name = f"copies/{turn}_{Path(image['file_name']).name}"
            copies.append({**image, "id": image["id"] + 1000 * turn, "file_name": name})
            (sets.images / name).parent.mkdir(exist_ok=True)
            shutil.copy(sets.images / image["file_name"], sets.images / name)
        for entry in mine:
            moved = {"id": entry["id"] + 10**5 * turn, "image_id": entry["image_id"] + 1000 * turn}
            boxes.append({**entry, **moved})
    sets.train["images"], sets.train["annotations"] = copies, boxes


def leak_test_images(sets: Sets) -> None:
    """Add 40 test images to the training set, under other names."""
    for image in sets.test["images"][:40]:
        name = f"leaked/{Path(image['file_name']).name}"
        (sets.images / name).parent.mkdir(exist_ok=True)
        shutil.copy(sets.images / image["file_name"], sets.images / name)
        sets.train["images"].append({**image, "id": image["id"] + 10**6, "file_name": name})
        sets.train["annotations"] += [
            {**entry, "id": entry["id"] + 10**6, "image_id": entry["image_id"] + 10**6}
            for entry in sets.test["annotations"]
            if entry["image_id"] == image["id"]
        ]


def _rewrite_test(sets: Sets, change: Callable[[np.ndarray], np.ndarray]) -> None:
    (sets.images / "changed").mkdir(exist_ok=True)
    for image in sets.test["images"]:
        pixels = cv2.imread(str(sets.images / image["file_name"]))
        image["file_name"] = f"changed/{Path(image['file_name']).name}"
        cv2.imwrite(str(sets.images / image["file_name"]), change(pixels))


def darken_test(sets: Sets) -> None:
    """Test on dark, gray and blurred images."""

    def change(pixels: np.ndarray) -> np.ndarray:
        gray = cv2.GaussianBlur(pixels.mean(axis=2), (0, 0), 1.5) * 0.3
        return np.repeat(gray[..., None], 3, axis=2).astype(np.uint8)

    _rewrite_test(sets, change)


def _enlarge(sets: Sets, factor: int) -> None:
    """Place every image into the corner of a larger canvas, so that its objects are small."""
    (sets.images / "large").mkdir(exist_ok=True)
    for part in (sets.train, sets.test):
        for number, image in enumerate(part["images"]):
            pixels = cv2.imread(str(sets.images / image["file_name"]))
            height, width = pixels.shape[:2]
            canvas = np.full((height * factor, width * factor, 3), 127, np.uint8)
            x, y = (number * 97) % (width * (factor - 1)), (number * 61) % (height * (factor - 1))
            canvas[y : y + height, x : x + width] = pixels
            image["file_name"] = f"large/{image['file_name'].replace('/', '_')}"
            image.update(width=width * factor, height=height * factor, moved=(x, y))
            cv2.imwrite(str(sets.images / image["file_name"]), canvas)
        moved = {image["id"]: image.pop("moved") for image in part["images"]}
        for entry in part["annotations"]:
            x, y = moved[entry["image_id"]]
            entry["bbox"] = [entry["bbox"][0] + x, entry["bbox"][1] + y, *entry["bbox"][2:]]


def enlarge_images(sets: Sets) -> None:
    """Make images of 1024 pixels of which the objects are as large as before."""
    _enlarge(sets, 4)


def shrink_objects(sets: Sets) -> None:
    """Make the objects a third as large, in images of the size of the training."""
    (sets.images / "small").mkdir(exist_ok=True)
    _enlarge(sets, 3)
    for part in (sets.train, sets.test):
        sizes = {}
        for image in part["images"]:
            pixels = cv2.imread(str(sets.images / image["file_name"]))
            scale = 192 / max(pixels.shape)
            small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            image["file_name"] = image["file_name"].replace("large/", "small/")
            cv2.imwrite(str(sets.images / image["file_name"]), small)
            image["height"], image["width"] = small.shape[:2]
            sizes[image["id"]] = scale
        for entry in part["annotations"]:
            scale = sizes[entry["image_id"]]
            entry["bbox"] = [value * scale for value in entry["bbox"]]
            entry["area"] *= scale * scale


FAULTS = (
    Fault("sound", "", goes_on=False),
    Fault("swapped labels", "Class names are exchanged", swap_labels),
    Fault("classes in wrong order", "Class names are exchanged", rotate_labels),
    Fault("shifted boxes", "do not mean the same place", shift_boxes),
    Fault("corners as width and height", "seem to be corners", write_corners),
    Fault("boxes of smaller images", "seem to be of smaller images", shrink_boxes),
    Fault("missing boxes", "seem to have no box", remove_boxes),
    Fault("missing test boxes", "where the test set has no box", remove_test_boxes),
    Fault("objects of two classes", "as two classes at once", confuse_labels),
    Fault("duplicated images", "are there several times", repeat_images),
    Fault("test overlaps training", "test images were trained on", leak_test_images),
    Fault("class never in training", "Never in training", remove_class),
    Fault("unequal classes", "Rare in training", thin_out_class),
    Fault("another distribution", "look unlike", darken_test),
    Fault(
        "wrong anchors",
        "Anchors do not fit",
        overrides="MODEL.ANCHOR_GENERATOR.SIZES [[128],[256],[512]] SOLVER.MAX_ITER 150",
        goes_on=False,
    ),
    Fault("large images", "much larger than the size", enlarge_images),
    Fault("tiny objects", "Objects are tiny", shrink_objects),
    Fault(
        "frozen at random",
        "are frozen",  # by an error before the first step
        overrides="MODEL.WEIGHTS '' MODEL.BACKBONE.FREEZE_AT 5 SOLVER.MAX_ITER 150",
        goes_on=False,
    ),
    Fault(
        "rate too high", "learning rate is too high", overrides="SOLVER.BASE_LR 0.4", goes_on=False
    ),
    Fault(
        "too few iterations",
        "Too few iterations",
        overrides="SOLVER.MAX_ITER 40 SOLVER.WARMUP_ITERS 10",
        goes_on=False,
    ),
    Fault(
        "score threshold",
        "score threshold",
        overrides="MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.7 SOLVER.MAX_ITER 20",
    ),
    Fault(
        "few detections",
        "Too few detections",
        overrides="TEST.DETECTIONS_PER_IMAGE 3 SOLVER.MAX_ITER 20",
    ),
    Fault(
        "batch norm of one image",
        "Batch norms",
        overrides="MODEL.RESNETS.NORM BN SOLVER.IMS_PER_BATCH 1 SOLVER.BASE_LR 0.01",
        goes_on=False,
    ),
    Fault(
        "high NMS threshold",
        "detected several times",
        overrides="MODEL.ROI_HEADS.NMS_THRESH_TEST 0.95 SOLVER.MAX_ITER 20",
    ),
    Fault(
        "few proposals",
        "Too few proposals",
        overrides="MODEL.RPN.POST_NMS_TOPK_TEST 8 SOLVER.MAX_ITER 20",
    ),
    Fault(
        "channels in wrong order", "wrong order", overrides="INPUT.FORMAT BGR SOLVER.MAX_ITER 20"
    ),
    Fault("wrong number of classes", "write 6", overrides="MODEL.ROI_HEADS.NUM_CLASSES 5"),
    Fault("no flips", "never flipped", overrides="INPUT.RANDOM_FLIP none SOLVER.MAX_ITER 40"),
    Fault(
        "other test size",
        "another size in tests",
        overrides="INPUT.MIN_SIZE_TEST 320 INPUT.MAX_SIZE_TEST 427 SOLVER.MAX_ITER 20",
    ),
)


def train_fault(fault: Fault, folder: Path) -> Path:
    """Train with a fault; return the folder of the run, which may be there already."""
    if fault.goes_on:
        train_fault(FAULTS[0], folder)
    here = folder / fault.name.replace(" ", "_")
    output = here / "output"
    if (output / "inference").is_dir():
        return output
    shutil.rmtree(here, ignore_errors=True)
    images = here / "images"
    images.mkdir(parents=True)
    parts = []
    for split, number in (("train", TRAIN_IMAGES), ("val", TEST_IMAGES)):
        index, pictures = generate_shapes(folder / "sets", split=split, num_images=number, seed=0)
        (images / split).symlink_to(pictures.absolute())
        content = json.loads(index.read_text())
        for image in content["images"]:
            image["file_name"] = f"{split}/{image['file_name']}"
        parts.append(content)
    sets = Sets(*copy.deepcopy(parts), images)
    fault.plant(sets)
    files = (here / "train.json", here / "test.json")
    for file, content in zip(files, (sets.train, sets.test), strict=True):
        file.write_text(json.dumps(content))
    settings = {**SHORT, **(GO_ON if fault.goes_on else {})}
    weights = folder / "sound" / "output" / "model_final.pth" if fault.goes_on else None
    words = [word.replace("''", "") for word in fault.overrides.split()]
    train(
        Job(
            CONFIG,
            output,
            (*(str(word) for pair in settings.items() for word in pair), *words),
            engine="portable",
            weights=weights,
            train_data=(str(files[0]), str(images)),
            test_data=(str(files[1]), str(images)),
            schedule="config",
        )
    )
    return output


def find_place(fault: Fault, causes: list[Cause]) -> int:
    """Find the place of a fault's own cause, from 1; 0 if it is not named."""
    places = [i for i, cause in enumerate(causes, 1) if fault.title in cause.title]
    return places[0] if places and fault.title else 0


def find_causes_of(output: Path) -> list[Cause]:
    """Find the causes that the report of a run names."""
    run = read_run(output)
    assert run.cfg is not None and run.tests[0].detections is not None
    train, test = (run.load_set(run.list_sets(split)[0]) for split in ("TRAIN", "TEST"))
    analysis = analyze_detections(test.annotations_file, run.tests[0].detections, resamples=0)
    return find_causes(run, analysis, summarize_set(run.cfg, train), summarize_set(run.cfg, test))


def describe(fault: Fault, output: Path) -> str:
    """Describe what the report says of a fault, in a row of a table."""
    causes = find_causes_of(output)
    ap = read_run(output).tests[0].metrics["AP"]
    listed = "; ".join(f"{cause.title} ({cause.weight:.1f})" for cause in causes[:4])
    return f"| {fault.name} | {ap:.1f} | {find_place(fault, causes) or 0} | {listed} |"


def main(folder: str, *names: str) -> None:
    """Train with every fault, or those of some names, and print the table."""
    logging.basicConfig(level=logging.ERROR)
    print("| fault | AP | place | causes, with points of AP |\n|---|---|---|---|")
    for fault in FAULTS:
        if not names or fault.name in names:
            try:
                print(describe(fault, train_fault(fault, Path(folder))), flush=True)
            except ValueError as error:
                print(f"| {fault.name} | refused | {int(fault.title in str(error))} | {error} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
