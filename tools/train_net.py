"""Train a detector, or evaluate one.

    resnext-det train --train-data cells.json photos/ OUTPUT_DIR output/cells
    resnext-det train --config-file modern/faster_rcnn_X50_32x4d_FPN_1x.yaml
    resnext-det train --config-file CONFIG --num-gpus 8 SOLVER.IMS_PER_BATCH 16
    resnext-det train --config-file CONFIG --eval-only MODEL.WEIGHTS output/x50/model_final.pth
    torchrun --no-python --nproc-per-node 8 resnext-det train --config-file CONFIG

The flags are those of detectron2's train_net.py. Ctrl-C finishes the step and leaves a checkpoint;
--resume goes on from the newest one in OUTPUT_DIR. Without it a folder that holds a run is refused;
--overwrite removes that run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from resnext_det.command_line import (
    add_backend_flags,
    add_config_flag,
    add_fit_memory_flag,
    add_job_flags,
    add_report_flag,
    build_job,
    build_parser,
    finish,
    summarize,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser("train", __doc__, allow_abbrev=False)
    add_config_flag(parser, required=False)
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS; do not train"
    )
    add_backend_flags(parser, " (with --eval-only)")
    add_report_flag(parser)
    add_fit_memory_flag(parser)
    add_job_flags(parser)
    options = parser.parse_args(arguments)
    if options.eval_only and options.overwrite:
        parser.error("--overwrite: of no effect with --eval-only, which removes nothing")
    if not options.eval_only and (options.backend or options.dtype or options.calibration_data):
        parser.error(
            "--backend, --dtype, --calibration-data: they need --eval-only; a training computes "
            "exactly"
        )
    saves = options.accumulate != 1 or options.recompute
    if options.eval_only and (saves or options.fit_memory):
        parser.error("--accumulate, --recompute, --fit-memory: of no effect with --eval-only")
    if options.fit_memory and saves:
        parser.error("--fit-memory: it chooses --accumulate and --recompute; leave these out")
    return finish(lambda: run(options), resumable=not options.eval_only)


def run(options: argparse.Namespace) -> Iterator[str]:
    """Train or evaluate; yield a line for every test set, and one that says where the report is."""
    from resnext_det.detection.jobs import evaluate, train

    job = build_job(options, options.config_file)
    metrics = evaluate(job) if options.eval_only else train(job)
    yield from summarize(metrics)
    if not options.no_report:
        from resnext_det.report.write import report_on

        yield from report_on(metrics)


if __name__ == "__main__":
    sys.exit(main())
