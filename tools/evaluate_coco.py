"""Evaluate a COCO result file.

resnext-det evaluate instances_val2017.json coco_instances_results.json
resnext-det evaluate ANNOTATIONS RESULTS --per-category --json metrics.json --plot curves.png

The twelve numbers are those of pycocotools, to the last bit. Where the results have masks
("segmentation", run-length encoded), the twelve numbers of masks follow those of boxes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnext_det.command_line import build_parser, finish
from resnext_det.files import show_log


def evaluate(options: argparse.Namespace) -> Iterator[str]:
    """Evaluate and write what was asked for; yield the table."""
    from resnext_det.evaluation.coco import evaluate_coco
    from resnext_det.files import write_text
    from resnext_det.report.plots import plot_precision_recall

    metrics = evaluate_coco(
        options.annotations,
        options.results,
        backend=options.backend,
        max_detections_per_image=options.max_detections,
    )
    yield metrics.format_table(per_category=options.per_category)
    if options.json:
        write_text(options.json, metrics.to_json() + "\n")
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        plot_precision_recall(metrics, options.plot, title=options.results.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser("evaluate", __doc__)
    parser.add_argument("annotations", type=Path, help="COCO file of instance annotations")
    parser.add_argument(
        "results", type=Path, help="COCO result file: a list of scored boxes or masks"
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "pycocotools", "numpy", "hotcoco"),
        default="auto",
        help="what computes (default: auto, the fastest that gives pycocotools' numbers)",
    )
    parser.add_argument(
        "--max-detections",
        type=int,
        default=100,
        metavar="N",
        help="detections that count per image and category (default: 100)",
    )
    parser.add_argument("--per-category", action="store_true", help="print AP per category too")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers as JSON")
    parser.add_argument(
        "--plot", type=Path, metavar="OUT.png", help="draw the precision-recall curves"
    )
    show_log()
    options = parser.parse_args(arguments)
    return finish(lambda: evaluate(options))


if __name__ == "__main__":
    sys.exit(main())
