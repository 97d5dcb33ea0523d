"""COCO's numbers of a random set: pycocotools, other libraries that compute them, and ours."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from resnext_det.benchmark.cases import Candidate, Case, Key
from resnext_det.evaluation.coco import evaluate_coco

_SIDE = 600  # of an image, in pixels


@dataclass(frozen=True)
class EvaluationCase(Case):
    """Compare COCO's evaluation of boxes, from the files of annotations and results on.

    Args:
        images, categories: of the set, which has about 7 objects and 40 detections an image.
    """

    images: int = 1000
    categories: int = 80
    device = torch.device("cpu")

    @property
    def limits(self) -> Mapping[str, float]:  # type: ignore[override]
        return {"float32": 1e-9}

    @property
    def title(self) -> str:
        return f"COCO's 12 numbers, {self.images} images, {self.categories} categories, from files"

    @property
    def reference(self) -> str:
        return "pycocotools"

    def list_keys(self) -> list[Key]:
        names = ["pycocotools", "resnext_det, pycocotools", "resnext_det, numpy"]
        if importlib.util.find_spec("hotcoco"):
            names += ["hotcoco", "resnext_det, hotcoco"]
        if importlib.util.find_spec("detectron2"):
            names.append("detectron2")
        return [Key("", name, "float32") for name in names]

    def build(self, key: Key) -> Candidate:
        folder = TemporaryDirectory()
        annotations, results = Path(folder.name, "annotations.json"), Path(folder.name, "results")
        for path, content in zip((annotations, results), make_set(self.images, self.categories)):
            path.write_text(json.dumps(content))
        library, _, backend = key.name.partition(", ")
        evaluate: Callable[[Path, Path], Any] = partial(_evaluate_with_ours, backend=backend)
        evaluate = _EVALUATIONS.get(library, evaluate)
        step = partial(evaluate, annotations, results)
        return Candidate(step, lambda: {"numbers": step()}, keeps=folder)


def make_set(images: int, categories: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Make annotations of objects of all sizes, and results near them and anywhere.

    Returns:
        A COCO file of annotations, and one of results.
    """
    random = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        for _ in range(random.poisson(7)):
            box = np.concatenate([random.uniform(0, 400, 2), random.uniform(5, 200, 2)])
            category = int(random.integers(1, categories + 1))
            entry = {"image_id": image, "category_id": category, "bbox": box.tolist()}
            area, number = float(box[2] * box[3]), len(annotations) + 1
            annotations.append({**entry, "id": number, "area": area, "iscrowd": 0})
            near = box + random.normal(0, 0.08, 4) * np.tile(box[2:], 2)
            results.append({**entry, "bbox": near.tolist(), "score": float(random.random())})
        for _ in range(33):
            box = np.concatenate([random.uniform(0, 400, 2), random.uniform(5, 200, 2)])
            category, score = int(random.integers(1, categories + 1)), float(random.random()) / 2
            entry = {"image_id": image, "category_id": category, "score": score}
            results.append({**entry, "bbox": box.tolist()})
    size = {"width": _SIDE, "height": _SIDE}
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", **size} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, categories + 1)],
    }
    return content, results


def _evaluate_with_ours(annotations: Path, results: Path, backend: str) -> list[float]:
    numbers = evaluate_coco(annotations, results, backend=backend).as_dict(recalls=True)
    return [value / 100 for value in list(numbers.values())[:12]]


def _evaluate_with_pycocotools(annotations: Path, results: Path) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _evaluate(COCO, COCOeval, annotations, results)


def _evaluate_with_detectron2(annotations: Path, results: Path) -> Any:
    from detectron2.evaluation.fast_eval_api import COCOeval_opt
    from pycocotools.coco import COCO

    return _evaluate(COCO, COCOeval_opt, annotations, results)


def _evaluate_with_hotcoco(annotations: Path, results: Path) -> Any:
    from hotcoco import COCO, COCOeval

    return _evaluate(COCO, COCOeval, annotations, results)


def _evaluate(coco: Any, evaluation: Any, annotations: Path, results: Path) -> Any:
    """Evaluate as pycocotools' documentation says."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco(str(annotations))
        found = evaluation(truth, truth.loadRes(str(results)), "bbox")
        found.evaluate()
        found.accumulate()
        found.summarize()
    return found.stats


_EVALUATIONS = {
    "pycocotools": _evaluate_with_pycocotools,
    "detectron2": _evaluate_with_detectron2,
    "hotcoco": _evaluate_with_hotcoco,
}
