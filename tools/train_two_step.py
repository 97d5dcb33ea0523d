"""Train a detector in the paper's two steps: an RPN, then Fast R-CNN.

    resnext-det two-step --rpn two_step/rpn_X50_32x4d.yaml \\
        --fast-rcnn two_step/fast_rcnn_X50_32x4d.yaml --output-dir output/x50
    resnext-det two-step --rpn RPN --fast-rcnn FAST_RCNN --num-gpus 8 MODEL.WEIGHTS x50.pth

KEY VALUE pairs hold for both steps. --resume goes on where an earlier run stopped; a step that has
ended is not repeated. --overwrite removes the runs of both steps. The other flags are those of
"resnext-det train".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnext_det.command_line import (
    add_job_flags,
    add_report_flag,
    build_job,
    build_parser,
    finish,
    summarize,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser("two-step", __doc__, allow_abbrev=False)
    parser.add_argument(
        "--rpn", required=True, metavar="YAML", help="configuration of the first step"
    )
    parser.add_argument(
        "--fast-rcnn", required=True, metavar="YAML", help="configuration of the second step"
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="write to DIR/rpn and DIR/fast_rcnn"
    )
    add_report_flag(parser)
    add_job_flags(parser)
    options = parser.parse_args(arguments)
    return finish(lambda: run(options), resumable=True)


def run(options: argparse.Namespace) -> Iterator[str]:
    """Train both steps; yield a line for every test set, and where the report is."""
    from resnext_det.detection.two_step import train_two_step

    if options.train_data and not options.test_data:
        raise ValueError(
            "--train-data needs --test-data in two steps, which have to share one test set; give "
            "it, or hold images out by resnext-det train"
        )
    folder = options.output_dir
    rpn = build_job(options, options.rpn, folder and folder / "rpn")
    fast_rcnn = build_job(options, options.fast_rcnn, folder and folder / "fast_rcnn")
    metrics = train_two_step(rpn, fast_rcnn)
    yield from summarize(metrics)
    if not options.no_report:
        from resnext_det.report.write import report_on

        yield from report_on(metrics)


if __name__ == "__main__":
    sys.exit(main())
