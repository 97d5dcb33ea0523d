"""Random annotations and results, and what pycocotools itself makes of them."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pytest
from matplotlib import font_manager, get_data_path
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import frPyObjects, merge

Json = dict[str, Any]
SIDE = 300  # of images with masks, which are 7 less high


def random_set(
    seed: int, *, images: int = 12, categories: int = 4, noise: int = 12, distinct_scores: int = 12
) -> tuple[Json, list[Json]]:
    """Objects of all sizes with crowds; results near them and anywhere, with many equal scores."""
    random = np.random.default_rng(seed)
    ids = random.permutation(np.arange(3, 3 + 7 * images, 7)).tolist()
    classes = (random.permutation(categories) * 3 + 2).tolist()

    def box() -> np.ndarray:
        return np.concatenate(
            [random.uniform(0, 200, 2), np.exp(random.uniform(np.log(6), np.log(250), 2))]
        )

    def score() -> float:
        return float(random.integers(1, distinct_scores) / distinct_scores)

    annotations: list[Json] = []
    results: list[Json] = []
    for image in ids:
        for _ in range(random.integers(0, 10)):
            b, c = box(), int(random.choice(classes))
            entry = {
                "id": 5 + 2 * len(annotations),
                "image_id": image,
                "category_id": c,
                "bbox": b.tolist(),
            }
            area = float(b[2] * b[3] * random.uniform(0.5, 1))
            annotations.append({**entry, "area": area, "iscrowd": int(random.random() < 0.1)})
            for _ in range(random.integers(0, 4)):
                near = b + random.normal(0, 0.06, 4) * np.tile(b[2:], 2)
                found = c if random.random() < 0.8 else int(random.choice(classes))
                results.append(
                    {
                        "image_id": image,
                        "category_id": found,
                        "bbox": near.tolist(),
                        "score": score(),
                    }
                )
        for _ in range(noise):
            found = int(random.choice(classes))
            results.append(
                {"image_id": image, "category_id": found, "bbox": box().tolist(), "score": score()}
            )
    order = random.permutation(len(results))
    content = {
        "images": [{"id": i, "width": 500, "height": 500, "file_name": f"{i}.jpg"} for i in ids],
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in classes],
    }
    return content, [results[i] for i in order]


def reference(
    annotations: Json,
    results: list[Json],
    *,
    task: str = "bbox",
    limits: tuple[int, ...] = (1, 10, 100),
    image_ids: Any = None,
) -> COCOeval:
    """Run pycocotools as its documentation says.

    Of masks it is given no boxes, as by detectron2, so that areas are those of the masks.
    """
    given = copy.deepcopy(results)
    for entry in given if task == "segm" else ():
        del entry["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(annotations)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(given), task)
        evaluation.params.maxDets = list(limits)
        if image_ids is not None:
            evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def add_masks(annotations: Json, results: list[Json], seed: int = 0) -> None:
    """Add polygons and encodings to annotations, and encodings to results, of their boxes."""
    rng = np.random.default_rng(seed)
    for image in annotations["images"]:
        image.update(width=SIDE, height=SIDE - 7)
    for entry in [*annotations["annotations"], *results]:
        corners = int(rng.integers(3, 9))
        entry["segmentation"] = [_draw_polygon(entry["bbox"], corners)]
        if rng.random() < 0.3:
            x, y, w, h = entry["bbox"]
            entry["segmentation"].append(_draw_polygon([x + w / 2, y, w, h / 3], 4))
        if "score" in entry or entry["iscrowd"]:
            entry["segmentation"] = encode_polygons(entry["segmentation"])


def encode_polygons(polygons: list[list[float]]) -> Json:
    """Encode polygons on such an image."""
    found = merge(frPyObjects(polygons, SIDE - 7, SIDE))
    return {"size": found["size"], "counts": found["counts"].decode()}


def _draw_polygon(box: list[float], corners: int) -> list[float]:
    """Draw a polygon within a box, x, y, width, height."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2 + 0.5
    return (np.array(box[:2]) + points * box[2:]).ravel().tolist()


def keep_own_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave matplotlib the fonts that come with it, as on a machine that has no Chinese ones."""
    fonts = font_manager.fontManager.ttflist
    own = [font for font in fonts if font.fname.startswith(get_data_path())]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
