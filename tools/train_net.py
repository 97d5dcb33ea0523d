"""Train or evaluate a detector.

    python tools/train_net.py --config-file configs/faster_rcnn_X50_32x4d.yaml
    python tools/train_net.py --config-file CONFIG --num-gpus 8 SOLVER.IMS_PER_BATCH 16 OUTPUT_DIR output/x50
    python tools/train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS output/x50/model_final.pth
    torchrun --nproc-per-node 8 tools/train_net.py --config-file CONFIG

The flags are those of detectron2's train_net.py. ``--resume`` goes on from the newest checkpoint of OUTPUT_DIR; Ctrl-C leaves one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from resnext_det.command_line import add_job_flags, finish, job_of, lines_of
from resnext_det.detection.jobs import evaluate, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config-file", required=True, metavar="YAML", help="the configuration")
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS; do not train"
    )
    add_job_flags(parser)
    options = parser.parse_args(arguments)
    job = job_of(options, options.config_file)
    return finish(lambda: lines_of(evaluate(job) if options.eval_only else train(job)))


if __name__ == "__main__":
    sys.exit(main())
