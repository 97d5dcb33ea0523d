"""Top-1 and top-5 against a plain loop over sorted scores, torch's cross entropy, and by hand."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from resnext_det.evaluation.classification import ClassificationMetrics, Tally


def names(count: int) -> list[str]:
    return [f"n{index:08d}" for index in range(count)]


def tallied(scores: Tensor, labels: Tensor) -> ClassificationMetrics:
    tally = Tally(names(scores.shape[1]))
    tally.add(scores, labels)
    return tally.compute_metrics()


def random_batch(
    count: int, classes: int, *, seed: int = 0, decimals: int = 7
) -> tuple[Tensor, Tensor]:
    """With few decimals many scores are equal; the labels leave some classes out."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, max(1, classes - 2), (count,), generator=generator)
    scores = torch.randn(count, classes, generator=generator)
    scores[torch.arange(count), labels] += torch.rand(count, generator=generator) * 3
    return scores.round(decimals=decimals), labels


def ranks_of_a_plain_loop(scores: Tensor, labels: Tensor) -> list[int]:
    """Python's sort is stable: equal scores stay in the order of their columns."""
    rows = zip(scores.tolist(), labels.tolist())
    return [
        sorted(range(len(row)), key=lambda k, row=row: -row[k]).index(label) for row, label in rows
    ]


@pytest.mark.parametrize("decimals", [0, 1, 7])
@pytest.mark.parametrize("classes", [1, 2, 4, 5, 6, 40])
def test_counts_are_those_of_a_plain_loop(classes: int, decimals: int) -> None:
    scores, labels = random_batch(300, classes, decimals=decimals)
    metrics, ranks = tallied(scores, labels), ranks_of_a_plain_loop(scores, labels)
    right = {k: [rank < k for rank in ranks] for k in (1, 5)}
    assert (metrics.num_images, metrics.ways) == (300, classes)
    assert metrics.top1 == 100 * sum(right[1]) / 300
    assert metrics.top5 == (100 * sum(right[5]) / 300 if classes > 5 else None)
    assert len(metrics.class_top5) == (classes if classes > 5 else 0)
    for index in range(classes):
        of_class = [row for row, label in enumerate(labels.tolist()) if label == index]
        assert metrics.class_images[index] == len(of_class)
        figures = [(1, metrics.class_top1[index])]
        figures += [(5, value) for value in metrics.class_top5[index : index + 1]]
        for k, value in figures:
            if of_class:
                assert value == 100 * sum(right[k][row] for row in of_class) / len(of_class)
            else:
                assert math.isnan(value)


def test_without_ties_it_is_the_papers_score() -> None:
    """As fb.resnet.torch's ``computeScore`` has it: the label among the five of ``topk``."""
    scores, labels = random_batch(2000, 1000)
    found = scores.topk(5).indices == labels[:, None]
    metrics = tallied(scores, labels)
    assert metrics.top1 == 100 * int(found[:, 0].sum()) / 2000
    assert metrics.top5 == 100 * int(found.sum()) / 2000
    assert 0 < metrics.top1 < metrics.top5 < 100


@pytest.mark.parametrize("classes", [1, 3, 5, 6])
def test_top5_of_five_classes_or_fewer_is_no_result(classes: int) -> None:
    """It would be 100, an error of 0.00, whatever the network."""
    metrics = tallied(*random_batch(50, classes))
    told = [metrics.summarize(), metrics.format_table(per_class=True), metrics.to_json()]
    if classes == 6:
        assert metrics.top5 is not None and all("top5" in text for text in told[1:])
        return
    assert metrics.top5 is None and [*metrics.as_dict()] == ["top1", "cross_entropy"]
    assert not any("top5" in text or "error5" in text for text in told[1:3])
    assert told[0].endswith(
        f"of 50 images, {classes}-way (top-5 of {classes} classes is always 100)"
    ) and told[0].startswith(f"top-1 {metrics.top1:.2f} % (error {100 - metrics.top1:.2f}) of")
    assert "cross_entropy" in told[1] and f"{metrics.top1:.3f}" in told[1]


@pytest.mark.parametrize("value", [0.0, -0.0, 3.5, -1e30])
def test_a_constant_network_is_right_by_chance_alone(value: float) -> None:
    """It predicts class 0; 20 classes of 10 images each."""
    labels = torch.arange(200) % 20
    scores = torch.full((200, 20), value)
    if value == 0:
        scores[::2, ::2] *= -1  # 0.0 and -0.0 are equal
    metrics = tallied(scores, labels)
    assert (metrics.top1, metrics.top5) == (5, 25)
    assert metrics.class_top1 == (100.0,) + 19 * (0.0,)
    assert metrics.class_top5 == 5 * (100.0,) + 15 * (0.0,)
    assert metrics.cross_entropy == pytest.approx(math.log(20), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_cross_entropy_is_torchs_in_float64(dtype: torch.dtype) -> None:
    scores, labels = random_batch(500, 30)
    scores = (20 * scores).to(dtype)  # which float16's own softmax would underflow
    expected = F.cross_entropy(scores.double(), labels).item()
    assert tallied(scores, labels).cross_entropy == pytest.approx(expected, rel=1e-13)


def test_batches_and_processes_add_up() -> None:
    """Counts are equal to the last one however the images are spread over batches and processes."""
    scores, labels = random_batch(1000, 12, decimals=1)
    at_once = Tally(names(12))
    at_once.add(scores, labels)
    at_once.skip("a.jpg")
    at_once.skip("b.jpg")
    parts = [Tally(names(12)) for _ in range(3)]
    for start in range(0, 1000, 7):
        parts[start % 3].add(scores[start : start + 7], labels[start : start + 7])
    parts[1].skip("b.jpg")
    parts[2].skip("a.jpg")
    merged = Tally(names(12))
    for part in parts:
        merged.merge(pickle.loads(pickle.dumps(part)))
    ours, expected = merged.compute_metrics("crop 224"), at_once.compute_metrics("crop 224")
    assert ours.cross_entropy == pytest.approx(expected.cross_entropy, rel=1e-14)
    for name in ("num_images", "top1", "top5", "class_images", "skipped", "protocol"):
        assert getattr(ours, name) == getattr(expected, name)
    assert ours.class_top1 == pytest.approx(expected.class_top1, rel=0, abs=0, nan_ok=True)
    assert ours.class_top5 == pytest.approx(expected.class_top5, rel=0, abs=0, nan_ok=True)
    assert ours.num_images == 1000
    assert ours.skipped == ("a.jpg", "b.jpg")


def test_what_is_sent_between_processes_is_small() -> None:
    tally = Tally(names(1000))
    empty = len(pickle.dumps(tally))
    for seed in range(3):
        tally.add(*random_batch(500, 1000, seed=seed))
    assert len(pickle.dumps(tally)) < empty + 100


def test_an_empty_batch_counts_nothing() -> None:
    tally = Tally(names(4))
    tally.add(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    tally.add(torch.eye(4), torch.arange(4))
    assert (tally.compute_metrics().num_images, tally.compute_metrics().top1) == (4, 100)


def test_no_images_have_no_number(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Tally(names(10)).compute_metrics()
    assert metrics.num_images == 0
    assert all(math.isnan(value) for value in metrics.as_dict().values())
    assert "There is no image to evaluate on" in caplog.text
    assert json.loads(metrics.to_json())["top1"] is None


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (
            torch.zeros(3, 5),
            [0, 1, 2],
            r"torch.float32 of shape \(3, 5\); give floating-point .* \(N, 4\)",
        ),
        (torch.zeros(4), [0], r"of shape \(4,\); give"),
        (torch.zeros(3, 4, dtype=torch.int64), [0, 1, 2], "the scores are torch.int64"),
        (
            torch.zeros(3, 4),
            [0, 1],
            r"the labels are torch.int64 of shape \(2,\); give int64 \(3,\)",
        ),
        (torch.zeros(3, 4), [[0], [1], [2]], r"the labels are torch.int64 of shape \(3, 1\)"),
        (torch.zeros(3, 4), [0.0, 1.0, 2.0], "the labels are torch.float32"),
        (
            torch.zeros(3, 4),
            [0, 4, 9],
            "label 4 of row 1 is none of the 4 classes; labels count from 0 to 3",
        ),
        (torch.zeros(3, 4), [0, 1, -1], "label -1 of row 2 is none of the 4 classes"),
        (
            torch.tensor([[0.0, 0, 0, math.nan], [0, 0, 0, 0], [math.inf, 0, 0, 0]]),
            [0, 1, 2],
            "scores of 2 of 3 images are nan or infinite: the network has diverged",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(scores: Tensor, labels: list[Any], message: str) -> None:
    tally = Tally(names(4))
    with pytest.raises(ValueError, match=message):
        tally.add(scores, torch.tensor(labels))
    assert tally.compute_metrics().num_images == 0


def test_counts_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no class to count"):
        Tally([])
    with pytest.raises(
        ValueError, match="counts of 2 and of 2 classes that are not the same, or in another"
    ):
        Tally(["cat", "dog"]).merge(Tally(["dog", "cat"]))


def test_how_the_numbers_are_shown() -> None:
    """By hand: of 3 cats 2 are right and 1 comes sixth, 1 dog comes second, there is no crane."""
    classes = ["cat", "dog", "crane", "d", "e", "f"]
    tally = Tally(classes)
    scores = torch.tensor([[9.0, 0, 1, 2, 3, 4]] * 3 + [[9.0, 8, 1, 2, 3, 4]])
    scores[2] = torch.tensor([0.0, 9, 1, 2, 3, 4])
    tally.add(scores, torch.tensor([0, 0, 0, 1]))
    tally.skip("broken.jpg")
    metrics = tally.compute_metrics("crop 224", "pets_val")
    assert metrics.describe_test() == "crop 224"
    metrics = replace(metrics, resize=256, interpolation="bilinear")
    assert metrics.describe_test() == "crop 224 of shorter side 256, bilinear"
    assert metrics.summarize() == (
        "top-1 50.00 % (error 50.00), top-5 75.00 % (error 25.00) of 4 images, 6-way; 1 skipped"
    )
    assert metrics.as_dict() == {"top1": 50, "top5": 75, "cross_entropy": metrics.cross_entropy}
    content = json.loads(
        metrics.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON")
    )
    assert content["classes"][:3] == [
        {
            "name": "cat",
            "images": 3,
            "top1": pytest.approx(200 / 3),
            "top5": pytest.approx(200 / 3),
        },
        {"name": "dog", "images": 1, "top1": 0, "top5": 100},
        {"name": "crane", "images": 0, "top1": None, "top5": None},
    ]
    del content["classes"]
    assert content == {
        **{
            "dataset": "pets_val",
            "protocol": "crop 224",
            "resize": 256,
            "interpolation": "bilinear",
        },
        **{"images": 4, "ways": 6, "skipped": ["broken.jpg"]},
        **metrics.as_dict(),
    }
    lines = [" ".join(line.split()) for line in metrics.format_table(per_class=True).splitlines()]
    assert lines[2].startswith("| 4 | 6 | 50.000 | 75.000 | 50.000 | 25.000 |")
    assert lines[-2:] == ["| dog | 1 | 0.000 | 100.000 |", "| cat | 3 | 66.667 | 66.667 |"]
    assert "crane" not in metrics.format_table(per_class=True)
    names = [name.replace("o", "\x1b[31m\n") for name in metrics.class_names]
    named = replace(metrics, class_names=names).format_table(per_class=True)
    assert "| d\\x1b[31m\\ng " in named and "\x1b" not in named
    assert metrics.format_table(per_class=True).startswith(metrics.format_table())
