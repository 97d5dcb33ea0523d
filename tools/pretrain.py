"""Train a classifier, from whose weights a detector can start.

    resnext-det pretrain --config-file miniature/cpu/classifier_X26_32x1d.yaml
    resnext-det pretrain --config-file classification/imagenet/X50_32x4d.yaml --num-gpus 8
    resnext-det pretrain --config-file classification/finetune/X50_32x4d.yaml \\
        DATASETS.TRAIN photos/train DATASETS.TEST photos/val
    resnext-det pretrain --config-file classification/cifar10/X29_8x64d.yaml --seeds 0 1 2 3 4
    torchrun --no-python --nproc-per-node 8 resnext-det pretrain --config-file CONFIG

OUTPUT_DIR/model_final.pth is a value for MODEL.WEIGHTS of a detector; model_best.pth has the best
top-1 accuracy of the training. Ctrl-C finishes the step and leaves a checkpoint; --resume goes on
from the newest one in OUTPUT_DIR.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile

from resnext_det.command_line import (
    add_config_flag,
    add_fit_config_flag,
    add_training_flags,
    build_parser,
    finish,
    read_process_flags,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser("pretrain", __doc__, allow_abbrev=False)
    add_config_flag(parser)
    parser.add_argument(
        "--seeds", nargs="+", metavar="SEED", help="a training, and a folder of it, for each"
    )
    add_fit_config_flag(parser)
    add_training_flags(parser)
    options = parser.parse_args(arguments)
    # argparse counts the KEY VALUE pairs that follow among the seeds.
    seeds = [int(word) for word in takewhile(str.isdecimal, options.seeds or ())]
    options.overrides = [*(options.seeds or ())[len(seeds) :], *options.overrides]
    if options.seeds and not seeds:
        parser.error(f"argument --seeds: {options.seeds[0]!r} is no seed; write numbers from 0 on")
    return finish(lambda: run(options, seeds), resumable=True)


def run(options: argparse.Namespace, seeds: Sequence[int]) -> Iterator[str]:
    """Train; yield a line for every test, and the mean and deviation of several trainings."""
    from resnext_det.classification.jobs import ClassificationJob, pretrain, pretrain_seeds

    job = ClassificationJob(
        options.config_file,
        overrides=tuple(options.overrides),
        resume=options.resume or options.resume_anyway,
        resume_anyway=options.resume_anyway,
        overwrite=options.overwrite,
        fit_config=options.fit_config,
        preprocessing=options.preprocessing,
        deterministic=options.deterministic,
        **read_process_flags(options),
    )
    trained = pretrain_seeds(job, seeds) if seeds else [pretrain(job)]
    for one in trained:
        for metrics in one.tests:
            yield f"{metrics.describe_test()}: {metrics.summarize()}; the weights are {one.weights}"
    for same in zip(*(one.tests for one in trained)) if len(trained) > 1 else ():
        errors = [100 - metrics.top1 for metrics in same]
        mean, spread = statistics.fmean(errors), statistics.stdev(errors)
        yield (
            f"{same[0].ways}-way top-1 error of {len(errors)} trainings: "
            f"{mean:.2f} \u00b1 {spread:.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
