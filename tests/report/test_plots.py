"""Precision-recall curves: what is drawn is what the precision array says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.report.plots import plot_precision_recall
from tests.evaluation.helpers import keep_own_fonts, random_set


@pytest.fixture
def alone_with_own_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave matplotlib the fonts that come with it, as on a machine without Chinese ones."""
    keep_own_fonts(monkeypatch)


def test_the_curves_are_those_of_the_precision_array(tmp_path: Path, figures: list[Figure]) -> None:
    annotations, results = random_set(0)
    metrics = evaluate_coco(annotations, results)
    plot_precision_recall(metrics, tmp_path / "curves.png", title="a run")
    assert Image.open(tmp_path / "curves.png").size[0] > 1000
    left, right = figures[0].axes
    means = metrics.precision[:, :, :, 0, -1].mean(axis=2)
    assert len(left.lines) == 10
    for line, mean in zip(left.lines, means):
        np.testing.assert_allclose(line.get_ydata(), mean)
        np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, 101))
    best = int(np.argmax(metrics.precision[0, :, :, 0, -1].mean(axis=0)))
    assert right.lines[0].get_label().startswith(metrics.class_names[best])
    np.testing.assert_allclose(right.lines[0].get_ydata(), metrics.precision[0, :, best, 0, -1])
    assert right.lines[-1].get_label() == f"mean: {metrics.AP50:.1f}"


NAMES = ["$x^2$", "_hidden", "line\nbreak", "a name " + 20 * "so " + "long", "100 %", "a_b^c", "红"]


def test_names_are_written_as_they_are(
    tmp_path: Path, figures: list[Figure], alone_with_own_fonts: None
) -> None:
    """Write $ and a leading _ as they are, and the legend beside the curves."""
    annotations, results = random_set(1, categories=len(NAMES), images=40)
    for entry, name in zip(annotations["categories"], NAMES, strict=True):
        entry["name"] = name
    metrics = evaluate_coco(annotations, results, max_detections_per_image=300)
    plot_precision_recall(metrics, tmp_path / "curves.png", title="$1_$2.json")
    left, right = figures[0].axes
    legend = right.get_legend()
    shown = {text.get_text().rpartition(":")[0] for text in legend.get_texts()}
    assert shown == {
        *("$x^2$", "_hidden", "line break", "100 %", "a_b^c", "mean", r"\u7ea2"),
        "a name so so so... so so so long",
    }
    assert not any(text.get_parse_math() for text in legend.get_texts())
    assert legend.get_window_extent().x0 >= right.get_window_extent().x1
    between = left.get_legend().get_window_extent()
    assert left.get_window_extent().x1 <= between.x0 < between.x1 <= right.get_window_extent().x0
    assert figures[0].get_suptitle() == (
        "$1_$2.json; at most 300 detections an image, where COCO counts 100"
    )


def test_categories_without_objects_are_counted(tmp_path: Path, figures: list[Figure]) -> None:
    annotations, results = random_set(0)
    annotations["categories"] += [{"id": 90 + k, "name": f"none {k}"} for k in range(2)]
    plot_precision_recall(evaluate_coco(annotations, results), tmp_path / "curves.png")
    title = figures[0].axes[1].get_title()
    assert title == "4 categories at IoU 0.50 (2 without objects left out)"


def test_many_categories_and_none_at_all_can_be_drawn(
    tmp_path: Path, figures: list[Figure]
) -> None:
    annotations, results = random_set(1, categories=40, images=30)
    plot_precision_recall(evaluate_coco(annotations, results), tmp_path / "many.pdf")
    assert [text.get_text()[:4] for text in figures[0].axes[1].get_legend().get_texts()] == ["mean"]
    plot_precision_recall(
        evaluate_coco({**annotations, "annotations": []}, results), tmp_path / "none.png"
    )
    assert [len(axes.lines) for axes in figures[1].axes] == [0, 0]
