"""Table 8 of the ResNeXt paper: its figures on COCO minival beside those of runs, and the difference X - R."""

from resnext_det.evaluation.comparison.paper import METRICS, MINIVAL, PAPER_RECIPE, TABLE_8
from resnext_det.evaluation.comparison.presentation import plot_comparison
from resnext_det.evaluation.comparison.runs import Run, read_run
from resnext_det.evaluation.comparison.table import Comparison, Difference, Estimate, Row, compare

__all__ = [
    "METRICS",
    "MINIVAL",
    "PAPER_RECIPE",
    "TABLE_8",
    "Comparison",
    "Difference",
    "Estimate",
    "Row",
    "Run",
    "compare",
    "plot_comparison",
    "read_run",
]
