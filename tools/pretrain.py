"""Train a classifier, whose weights a detector then starts from.

    python tools/pretrain.py --config-file configs/miniature/cpu/classifier_X26_32x1d.yaml
    python tools/pretrain.py --config-file configs/classification/imagenet/X50_32x4d.yaml --num-gpus 8
    python tools/pretrain.py --config-file configs/classification/finetune/X50_32x4d.yaml \\
        DATASETS.TRAIN photos/train DATASETS.TEST photos/val
    python tools/pretrain.py --config-file configs/classification/cifar10/X29_8x64d.yaml --seeds 0 1 2 3 4 5 6 7 8 9
    torchrun --nproc-per-node 8 tools/pretrain.py --config-file CONFIG

OUTPUT_DIR/model_final.pth is for MODEL.WEIGHTS of a detector; model_best.pth had the best top-1. ``--resume`` goes on from the newest
checkpoint of OUTPUT_DIR; Ctrl-C leaves one. With ``--seeds`` there is a training and a folder for each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile

from resnext_det.classification.jobs import ClassificationJob, Pretrained, pretrain, pretrain_seeds
from resnext_det.command_line import add_fit_config_flag, add_training_flags, finish, processes_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config-file", required=True, metavar="YAML", help="the configuration")
    parser.add_argument("--seeds", nargs="+", metavar="SEED", help="a training for each")
    add_fit_config_flag(parser)
    add_training_flags(parser)
    options = parser.parse_args(arguments)
    # argparse counts the KEY VALUE pairs that follow among the seeds.
    seeds = [int(word) for word in takewhile(str.isdecimal, options.seeds or ())]
    options.overrides = [*(options.seeds or ())[len(seeds) :], *options.overrides]
    if options.seeds and not seeds:
        parser.error(f"argument --seeds: {options.seeds[0]!r} is no seed; write numbers from 0 on")
    job = ClassificationJob(
        options.config_file,
        overrides=tuple(options.overrides),
        resume=options.resume,
        fit_config=options.fit_config,
        **processes_of(options),
    )
    return finish(lambda: report(pretrain_seeds(job, seeds) if seeds else [pretrain(job)]))


def report(trained: Sequence[Pretrained]) -> Iterator[str]:
    """A line for every test, and the mean and the sample standard deviation over several trainings."""
    for run in trained:
        for metrics in run.tests:
            yield f"{metrics.test()}: {metrics.summary()}; the weights are {run.weights}"
    for same in zip(*(run.tests for run in trained)) if len(trained) > 1 else ():
        errors = [100 - metrics.top1 for metrics in same]
        mean, spread = statistics.fmean(errors), statistics.stdev(errors)
        yield f"{same[0].ways}-way top-1 error of {len(errors)} trainings: {mean:.2f} \u00b1 {spread:.2f}"


if __name__ == "__main__":
    sys.exit(main())
