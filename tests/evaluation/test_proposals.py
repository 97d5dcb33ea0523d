"""Average recall of proposals: detectron2's numbers to the last bit, and by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext_det.evaluation.proposals import ProposalMetrics, evaluate_proposals

Found = dict[int, tuple[np.ndarray, np.ndarray]]


def annotations(seed: int, images: int = 12) -> dict[str, Any]:
    """Make objects of every size, crowds, areas at the bounds; some images have none."""
    random = np.random.RandomState(seed)
    rows: list[dict[str, Any]] = []
    for image in range(images):
        for _ in range(random.randint(0, 9) if image % 5 else 0):
            x, y = random.uniform(0, 300, 2)
            width, height = random.uniform(2, 180, 2) ** random.choice([0.6, 1.0])
            box = (
                [x, y, width, height]
                if random.rand() < 0.7
                else [int(v) for v in (x, y, width, height)]
            )
            area = random.choice([box[2] * box[3], 1024, 9216, 1024.0001])
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image,
                    "category_id": int(random.randint(1, 3)),
                    "bbox": box,
                    "area": float(area) if random.rand() < 0.5 else area.item(),
                    "iscrowd": int(random.rand() < 0.1),
                }
            )
    return {
        "images": [
            {"id": image, "width": 640, "height": 480, "file_name": f"{image}.jpg"}
            for image in range(images)
        ],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": rows,
    }


def proposals(content: dict[str, Any], seed: int, most: int) -> Found:
    """Boxes at random and boxes near the objects; of one image none."""
    random = np.random.RandomState(seed)
    found = {}
    for entry in content["images"]:
        count = random.randint(0, most) if entry["id"] != 3 else 0
        low = random.uniform(0, 300, (count, 2))
        boxes = np.hstack([low, low + random.uniform(1, 200, (count, 2))])
        objects = [row["bbox"] for row in content["annotations"] if row["image_id"] == entry["id"]]
        for index, (x, y, width, height) in enumerate(objects[: count // 2] * 2):
            boxes[index] = [x, y, x + width, y + height] + random.normal(0, 3 + index % 5, 4)
        logits = random.randn(count).round(1)
        found[entry["id"]] = (boxes.astype(np.float32), logits.astype(np.float32))
    return found


@pytest.mark.detectron2
@pytest.mark.parametrize(("seed", "most"), [(0, 40), (1, 300), (2, 3), (3, 1400)])
def test_the_numbers_are_those_of_detectron2(seed: int, most: int, tmp_path: Path) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    import torch
    from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals
    from detectron2.structures import Boxes, Instances
    from pycocotools.coco import COCO

    content = annotations(seed)
    found = proposals(content, seed, most)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    ours = evaluate_proposals(tmp_path / "annotations.json", found).as_dict()
    predictions = [
        {
            "image_id": identity,
            "proposals": Instances(
                (480, 640),
                proposal_boxes=Boxes(torch.from_numpy(boxes)),
                objectness_logits=torch.from_numpy(logits),
            ),
        }
        for identity, (boxes, logits) in found.items()
    ]
    api = COCO(str(tmp_path / "annotations.json"))
    theirs = {
        f"AR{suffix}@{limit}": float(
            _evaluate_box_proposals(predictions, api, area=area, limit=limit)["ar"].item() * 100
        )
        for limit in (100, 1000)
        for area, suffix in (("all", ""), ("small", "s"), ("medium", "m"), ("large", "l"))
    }
    assert ours == pytest.approx(theirs, abs=0, rel=0, nan_ok=True)
    assert list(ours) == list(theirs) and max(ours.values()) > 0
    assert evaluate_proposals(content, found).as_dict() == pytest.approx(
        ours, abs=0, rel=0, nan_ok=True
    )


def one_image(*boxes: list[float]) -> dict[str, Any]:
    rows = [
        {
            "id": i,
            "image_id": 1,
            "category_id": 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for i, box in enumerate(boxes, start=1)
    ]
    return {"images": [{"id": 1}], "categories": [{"id": 1, "name": "thing"}], "annotations": rows}


def as_found(*boxes: list[float]) -> Found:
    return {
        1: (
            np.array(boxes, np.float32).reshape(-1, 4),
            np.arange(len(boxes), 0, -1, dtype=np.float32),
        )
    }


def test_by_hand() -> None:
    """Objects of 40 x 10 and 100 x 100: IoU .8 passes seven of ten thresholds.

    One proposal covers one object only.
    """
    truth = one_image([0, 0, 40, 10], [100, 100, 100, 100])
    metrics = evaluate_proposals(truth, as_found([0, 0, 40, 8], [100, 100, 200, 200]))
    numbers = metrics.as_dict()
    assert numbers["AR@100"] == pytest.approx(85.0) and numbers["ARs@100"] == pytest.approx(70.0)
    assert numbers["ARl@1000"] == 100.0 and math.isnan(numbers["ARm@100"])
    assert metrics.summarize() == "AR@100 85.0, AR@1000 85.0"
    assert json.loads(metrics.to_json())["ARm@100"] is None
    assert metrics.format_table().startswith("|   AR@100 |") and "85.000" in metrics.format_table()
    for others in ([], [[200, 200, 240, 240]]):
        found = as_found([0, 0, 40, 40], *others)
        twice = evaluate_proposals(one_image([0, 0, 40, 40], [0, 0, 40, 40]), found)
        assert twice.as_dict()["AR@100"] == 50.0


def test_the_best_hundred_count() -> None:
    boxes = [[300.0, 300.0, 310.0, 310.0]] * 100 + [[0.0, 0.0, 40.0, 40.0]]
    numbers = evaluate_proposals(one_image([0, 0, 40, 40]), as_found(*boxes)).as_dict()
    assert (numbers["AR@100"], numbers["AR@1000"]) == (0.0, 100.0)


def test_nothing_to_find() -> None:
    """As in detectron2, images without proposals are left out; without objects all is nan."""
    for truth, found in (
        (one_image(), as_found([0, 0, 9, 9])),
        (one_image([0, 0, 9, 9]), as_found()),
    ):
        assert all(
            math.isnan(number) for number in evaluate_proposals(truth, found).as_dict().values()
        )
    assert isinstance(evaluate_proposals(one_image(), {}), ProposalMetrics)


def test_another_image() -> None:
    with pytest.raises(ValueError, match="image_ids holds 2, which annotations does not list"):
        evaluate_proposals(one_image(), {2: as_found()[1]})
