"""Average recall of region proposals: how many objects the best 100 or 1000 boxes cover."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor
from torchvision.ops import box_iou

from resnext_det.evaluation.coco_files import GroundTruth, Source, find_images, read_ground_truth
from resnext_det.evaluation.matching import AREA_RANGES
from resnext_det.files import format_json

LIMITS = (100, 1000)
"""How many proposals of an image count, the best first."""

# By the suffix of a recall's name, the areas of its objects in pixels, both ends included.
_AREAS = dict(zip(("", "s", "m", "l"), AREA_RANGES.tolist(), strict=True))


@dataclass(frozen=True)
class ProposalMetrics:
    """Hold average recalls in percent, by detectron2's names; nan where no object defines one.

    ``AR@100`` is the mean over the IoU thresholds .50, .55 ... .95 of the share of objects that one
    of the image's best 100 proposals covers so far; ``ARs@100``, ``ARm@100``, ``ARl@100`` are of
    small, medium and large objects; the same with 1000.
    """

    recalls: Mapping[str, float]

    def as_dict(self) -> dict[str, float]:
        """Name the numbers as detectron2 does."""
        return dict(self.recalls)

    def to_json(self) -> str:
        """Write the numbers as a JSON object; null stands for nan."""
        return format_json(self.recalls)

    def format_table(self) -> str:
        """Format the numbers in columns, as detectron2 logs them."""
        values = [list(self.recalls.values())]
        return tabulate(values, headers=list(self.recalls), tablefmt="pipe", floatfmt=".3f")

    def summarize(self) -> str:
        """Write the recalls of all objects in a line."""
        return ", ".join(f"AR@{limit} {self.recalls[f'AR@{limit}']:.1f}" for limit in LIMITS)


def evaluate_proposals(
    annotations: Source, proposals: Mapping[Any, tuple[np.ndarray, np.ndarray]]
) -> ProposalMetrics:
    """Compare proposals with annotated boxes.

    The numbers equal those of detectron2's COCOEvaluator to the last bit. As there, classes do not
    matter, crowds are left out, every proposal covers one object at most (the pair of the largest
    IoU first), and an image without any proposal is left out.

    Args:
        annotations: a file of COCO instance annotations, or the dict read from one.
        proposals: by image id, boxes (N, 4) as x0, y0, x1, y1 in pixels of the original image, and
            objectness logits (N,).

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not of COCO's form; an image id is unknown.
    """
    truth = read_ground_truth(annotations)
    find_images(proposals, truth)  # which refuses an unknown one
    number = {identity: position for position, identity in enumerate(truth.image_ids)}
    best: dict[str, list[Tensor]] = {f"AR{size}@{limit}": [] for limit in LIMITS for size in _AREAS}
    for identity, (boxes, logits) in proposals.items():
        objects, areas = _select_objects(truth, number[identity])
        if len(objects) == 0 or len(boxes) == 0:
            continue
        order = torch.from_numpy(logits).sort(descending=True)[1]
        overlaps = box_iou(torch.from_numpy(boxes)[order[: max(LIMITS)]], objects).nan_to_num()
        for limit in LIMITS:
            for size, (low, high) in _AREAS.items():
                chosen = overlaps[:limit, (areas >= low) & (areas <= high)]
                best[f"AR{size}@{limit}"].append(_match(chosen))
    return ProposalMetrics({name: _average_recall(values) for name, values in best.items()})


def _select_objects(truth: GroundTruth, image: int) -> tuple[Tensor, Tensor]:
    """Select an image's objects: boxes (N, 4), x0, y0, x1, y1, and areas (N,), without crowds.

    They are float32, in which detectron2 adds too.
    """
    chosen = (truth.images == image) & (truth.crowd == 0)
    boxes = truth.boxes[chosen].astype(np.float32)
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    return torch.from_numpy(corners), torch.from_numpy(truth.areas[chosen].astype(np.float32))


def _match(overlaps: Tensor) -> Tensor:
    """Pair proposals with objects, the largest IoU first.

    Args:
        overlaps: IoU (P, G) of proposals and objects.

    Returns:
        IoU (G,) of the pairs, largest first, and 0 for objects without a partner.
    """
    overlaps = overlaps.clone()
    found = torch.zeros(overlaps.shape[1])
    for pair in range(min(overlaps.shape)):
        of_object, by_proposal = overlaps.max(dim=0)
        found[pair], index = of_object.max(dim=0)
        overlaps[by_proposal[index], :] = -1
        overlaps[:, index] = -1
    return found


def _average_recall(overlaps: list[Tensor]) -> float:
    """Average the share of objects covered over thresholds, in percent; float32 as detectron2."""
    values = torch.cat(overlaps) if overlaps else torch.zeros(0)
    thresholds = torch.arange(0.5, 0.95 + 1e-5, 0.05, dtype=torch.float32)
    covered = (values[None, :] >= thresholds[:, None]).float().sum(dim=1)
    return float((covered / float(len(values))).mean()) * 100
