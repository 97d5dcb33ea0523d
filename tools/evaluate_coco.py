"""Evaluate a COCO result file: the 12 numbers, AP per category and the precision-recall curves.

python tools/evaluate_coco.py instances_val2017.json coco_instances_results.json
python tools/evaluate_coco.py ANNOTATIONS RESULTS --per-category --json metrics.json --plot curves.png
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.evaluation.coco_backends import BACKENDS
from resnext_det.report.plots import plot_precision_recall


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("annotations", type=Path, help="file of COCO instance annotations")
    parser.add_argument("results", type=Path, help="COCO result file: a list of boxes with scores")
    parser.add_argument(
        "--backend", choices=BACKENDS, default="auto", help="default: the fastest that fits"
    )
    parser.add_argument(
        "--max-detections", type=int, default=100, help="detections an image and category"
    )
    parser.add_argument(
        "--per-category", action="store_true", help="print the AP of every category too"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers as JSON")
    parser.add_argument(
        "--plot", type=Path, metavar="OUT.png", help="draw the precision-recall curves"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 1 for an error that the user can mend."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = parse(arguments)
    try:
        metrics = evaluate_coco(
            options.annotations,
            options.results,
            backend=options.backend,
            max_detections_per_image=options.max_detections,
        )
        for path in filter(None, (options.json, options.plot)):
            path.parent.mkdir(parents=True, exist_ok=True)
        if options.json:
            options.json.write_text(metrics.to_json() + "\n")
        if options.plot:
            plot_precision_recall(metrics, options.plot, title=options.results.name)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(metrics.table(per_category=options.per_category))
    return 0


if __name__ == "__main__":
    sys.exit(main())
