"""The analysis of detections as plain loops over results and annotations, one after another."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from tests.evaluation.helpers import SIDE, Json, add_masks, random_set, reference

CASES: tuple[dict[str, Any], ...] = (
    {"images": 6},
    {"images": 4, "categories": 12},  # some without any object
    {"images": 5, "categories": 1, "noise": 30},
    {"images": 4, "categories": 2, "distinct_scores": 3},  # most scores are equal
    {"images": 3, "categories": 3, "distinct_scores": 10**9},
)


def make_case(seed: int, task: str = "bbox") -> tuple[Json, list[Json]]:
    """Make a random set with crowds, and masks for "segm"; its form changes with the seed."""
    content, results = random_set(seed, **CASES[seed % len(CASES)])
    for entry in content["annotations"][::5]:  # detections of an IoU of .5, or near it
        x, y, w, h = entry["bbox"]
        found = {key: entry[key] for key in ("image_id", "category_id")}
        results.append({**found, "bbox": [x, y, w / 2, h], "score": results[0]["score"]})
    if task == "segm":
        add_masks(content, results, seed)
    return content, results


def compute_iou(entry: Json, other: Json, task: str = "bbox") -> float:
    shapes = [each["bbox"] for each in (entry, other)]
    if task == "segm":
        shapes = [_encode(each["segmentation"]) for each in (entry, other)]
    one, two = (np.array([each]) if task == "bbox" else [each] for each in shapes)
    return float(mask.iou(one, two, [other["iscrowd"]])[0][0])


def _encode(segmentation: Any) -> Any:
    if isinstance(segmentation, dict):
        return segmentation
    return mask.merge(mask.frPyObjects(segmentation, SIDE - 7, SIDE))


class PlainAnalysis:
    """Find what became of every result that counts, at IoU .5 of boxes or of masks."""

    def __init__(
        self, content: Json, results: list[Json], task: str = "bbox", limit: int = 100
    ) -> None:
        self.task = task
        self.results = results
        self.images = sorted(image["id"] for image in content["images"])
        self.categories = sorted(category["id"] for category in content["categories"])
        self.objects = [a for a in content["annotations"] if not a["iscrowd"]]
        self.finds: dict[int, Any] = {}  # number of a result: object, "ignored" or None
        for category in self.categories:
            found = []
            for image in self.images:
                these = [a for a in content["annotations"] if a["image_id"] == image]
                these = [a for a in these if a["category_id"] == category]
                found += self._match(image, category, these, limit)
            # In COCO's order: the highest score first, equal ones by image.
            self.finds.update(sorted(found, key=lambda pair: -results[pair[0]]["score"]))

    def _match(self, image: Any, category: Any, objects: list[Json], limit: int) -> list[Any]:
        chosen = [
            number
            for number, entry in enumerate(self.results)
            if entry["image_id"] == image and entry["category_id"] == category
        ]
        chosen = sorted(chosen, key=lambda number: -self.results[number]["score"])[:limit]
        taken: list[Any] = []
        finds = []
        for number in chosen:
            best, thing = 0.5, None
            for crowd in (0, 1):
                for other in objects:
                    if thing is None or thing["iscrowd"] == crowd:
                        free = other["iscrowd"] or other["id"] not in taken
                        overlap = compute_iou(self.results[number], other, self.task)
                        if other["iscrowd"] == crowd and free and overlap >= best:
                            best, thing = overlap, other
            if thing is not None and not thing["iscrowd"]:
                taken.append(thing["id"])
            finds.append((number, "ignored" if thing is not None and thing["iscrowd"] else thing))
        return finds

    def classify(self) -> dict[int, tuple[str, Any]]:
        """Tell the kind of every result, and which object an error is at."""
        kinds: dict[int, tuple[str, Any]] = {}
        for number, thing in self.finds.items():
            entry = self.results[number]
            same, other = (0.0, None), (0.0, None)
            for candidate in self.objects:
                if candidate["image_id"] == entry["image_id"]:
                    overlap = compute_iou(entry, candidate, self.task)
                    if candidate["category_id"] == entry["category_id"]:
                        same = (overlap, candidate) if overlap > same[0] else same
                    else:
                        other = (overlap, candidate) if overlap > other[0] else other
            if thing is not None:
                kinds[number] = ("ignored" if thing == "ignored" else "correct"), None
            elif 0.1 <= same[0] < 0.5:
                kinds[number] = "localization", same[1]
            elif other[0] >= 0.5:
                kinds[number] = "classification", other[1]
            elif same[0] >= 0.5:
                kinds[number] = "duplicate", None
            elif other[0] <= 0.1:
                kinds[number] = "background", None
            else:
                kinds[number] = "both", None
        return kinds

    def count_found(self, lowest: float) -> list[Any]:
        """List the ids of the objects that results from a score on find."""
        return [
            thing["id"]
            for number, thing in self.finds.items()
            if isinstance(thing, dict) and self.results[number]["score"] >= lowest
        ]

    def compute_cost(self, kind: str) -> float:
        """Compute the AP50 that is gained where the errors of a kind are mended."""
        kinds = self.classify()
        used = self.count_found(-np.inf)
        menders: dict[Any, int] = {}  # the best error at every object that nothing has found
        for number, (_, target) in kinds.items():
            if target is not None and target["id"] not in used:
                other = menders.get(target["id"])
                if other is None or self.results[number]["score"] > self.results[other]["score"]:
                    menders[target["id"]] = number
        objects = {c: sum(a["category_id"] == c for a in self.objects) for c in self.categories}
        present = [category for category in self.categories if objects[category]]
        before = {c: [] for c in self.categories}
        after = {c: [] for c in self.categories}
        for number, (name, target) in kinds.items():
            entry = self.results[number]
            if name == "ignored":
                continue
            before[entry["category_id"]].append((entry["score"], name == "correct"))
            if name != kind:
                after[entry["category_id"]].append((entry["score"], name == "correct"))
            elif number in menders.values():
                after[target["category_id"]].append((entry["score"], True))
        left = dict(objects)
        if kind == "missed":
            for thing in self.objects:
                if thing["id"] not in used and thing["id"] not in menders:
                    left[thing["category_id"]] -= 1
        gains = [
            (compute_ap(after[c], left[c]) if left[c] else 100.0)
            - compute_ap(before[c], objects[c])
            for c in present
        ]
        return max(sum(gains) / len(gains), 0.0)


def compute_ap(detections: list[tuple[float, bool]], objects: int) -> float:
    """Compute the AP in percent, recall by recall."""
    points, correct = [], 0
    for place, (_, hit) in enumerate(sorted(detections, key=lambda pair: -pair[0])):
        correct += hit
        points.append((correct / objects, correct / (place + 1)))
    best = [
        max((precision for reached, precision in points if reached >= recall), default=0.0)
        for recall in np.linspace(0, 1, 101)
    ]
    return 100 * sum(best) / 101


def repeat_images(
    content: Json, results: list[Json], draws: np.ndarray, task: str = "bbox"
) -> COCOeval:
    """Evaluate with pycocotools a set that holds every image as often as it was drawn."""
    images, annotations, found = [], [], []
    for place, image in enumerate(sorted(content["images"], key=lambda image: image["id"])):
        for time in range(int((draws == place).sum())):
            number = 1000 * (place + 1) + time
            images.append({**image, "id": number})
            for entry in content["annotations"]:
                if entry["image_id"] == image["id"]:
                    copied = {**entry, "image_id": number, "id": len(annotations) + 1}
                    annotations.append(copied)
            found += [{**e, "image_id": number} for e in results if e["image_id"] == image["id"]]
    repeated = {**content, "images": images, "annotations": annotations}
    return reference(copy.deepcopy(repeated), found, task=task)
