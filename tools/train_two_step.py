"""Train a detector as the paper does: an RPN, its proposals, Fast R-CNN on them, and the evaluation.

    python tools/train_two_step.py --rpn configs/two_step/rpn_X50_32x4d.yaml --fast-rcnn configs/two_step/fast_rcnn_X50_32x4d.yaml
    python tools/train_two_step.py --rpn RPN --fast-rcnn FAST_RCNN --output-dir output/x50 --num-gpus 8 MODEL.WEIGHTS x50.pth
    python tools/train_two_step.py --rpn RPN --fast-rcnn FAST_RCNN --resume

KEY VALUE hold for both steps. ``--output-dir DIR`` makes DIR/rpn and DIR/fast_rcnn the steps' OUTPUT_DIR. ``--resume`` goes on where a
run was: a step that had ended is not repeated. The other flags are those of train_net.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from resnext_det.command_line import add_job_flags, finish, job_of, lines_of
from resnext_det.detection.two_step import train_two_step


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rpn", required=True, metavar="YAML", help="the configuration of step one"
    )
    parser.add_argument(
        "--fast-rcnn", required=True, metavar="YAML", help="the configuration of step two"
    )
    parser.add_argument(
        "--output-dir", metavar="DIR", help="the steps write to DIR/rpn and DIR/fast_rcnn"
    )
    add_job_flags(parser)
    options = parser.parse_args(arguments)
    rpn, fast_rcnn = (
        job_of(
            options,
            config_file,
            None if options.output_dir is None else Path(options.output_dir, step),
        )
        for config_file, step in ((options.rpn, "rpn"), (options.fast_rcnn, "fast_rcnn"))
    )
    return finish(lambda: lines_of(train_two_step(rpn, fast_rcnn)))


if __name__ == "__main__":
    sys.exit(main())
