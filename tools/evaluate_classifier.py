"""Evaluate a classifier: top-1 and top-5 accuracy.

    resnext-det evaluate-classifier output/classification/imagenet/X50_32x4d/model_final.pth \\
        imagenet_val
    resnext-det evaluate-classifier resnext://torchvision/X-50-32x4d imagenet/val --size 320
    resnext-det evaluate-classifier weights.pth imagenet_val --protocol ten-crop --num-gpus 8
    resnext-det evaluate-classifier weights.pth imagenet_val --protocol dense --output-dir RUN

The protocols are one crop, ten crops, and whole images at several scales (dense). Images are
prepared as the weights need it. If the set has only some of the network's classes, such as
ImageNet-1K for a network of 5000 classes, there are two results: over all outputs, and over the
classes of the set. --output-dir writes RUN/test/, which "resnext-det compare-classifiers" reads.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnext_det.command_line import (
    add_preprocessing_flag,
    add_process_flags,
    build_parser,
    finish,
    read_process_flags,
)
from resnext_det.files import show_log

# The flags that are fields of EvaluationJob.
_FIELDS = (
    *("weights", "dataset", "protocol", "size", "resize", "scales", "interpolation"),
    *("preprocessing", "amp", "device", "batch_size", "num_workers", "skip_broken"),
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = build_parser("evaluate-classifier", __doc__, allow_abbrev=False)
    parser.add_argument("weights", help="a file, or a name of the catalog")
    parser.add_argument(
        "dataset", help="the name of a set, such as imagenet_val, or a folder of class folders"
    )
    parser.add_argument(
        "--protocol",
        choices=("center", "ten-crop", "dense"),
        default="center",
        help="default: center",
    )
    parser.add_argument(
        "--size", type=int, help="of the crop, in pixels (default: as in training, or 224)"
    )
    parser.add_argument(
        "--resize",
        type=int,
        help="shorter side before cropping (default: as in training, or 256 for a crop of 224)",
    )
    parser.add_argument(
        "--scales",
        type=int,
        nargs="+",
        metavar="SIDE",
        help="shorter sides for --protocol dense (default: 224 256 384 480 640)",
    )
    parser.add_argument(
        "--interpolation",
        choices=("torch7_bicubic", "bicubic", "bilinear"),
        help="default: as in training",
    )
    add_preprocessing_flag(parser, "the file")
    parser.add_argument(
        "--per-class", action="store_true", help="print every class too, the worst first"
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="RUN", help="write the metrics as RUN/test/*.json"
    )
    parser.add_argument("--device", help="auto, cuda or cpu (default: auto)")
    parser.add_argument("--amp", action="store_true", help="compute in bfloat16")
    parser.add_argument(
        "--batch-size",
        type=int,
        help="images of a process at once (default: 64 center, 16 ten-crop, 2 dense)",
    )
    workers = min(4, os.cpu_count() or 1)
    parser.add_argument(
        "--num-workers", type=int, default=workers, help="loading processes (default: up to 4)"
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out broken images, and name them"
    )
    add_process_flags(parser)
    return parser.parse_args(arguments)


def evaluate(options: argparse.Namespace) -> Iterator[str]:
    """Evaluate and write the metrics; yield the results."""
    from resnext_det.classification.evaluation import write_metrics
    from resnext_det.classification.jobs import EvaluationJob, evaluate_weights

    fields = {name: getattr(options, name) for name in _FIELDS}
    found = evaluate_weights(EvaluationJob(**fields, **read_process_flags(options)))
    for metrics in found:
        yield f"{metrics.describe_test()}: {metrics.summarize()}"
        yield metrics.format_table(per_class=options.per_class)
    for file in write_metrics(options.output_dir, found) if options.output_dir else ():
        yield f"written: {file}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    show_log()
    options = parse(arguments)
    return finish(lambda: evaluate(options))


if __name__ == "__main__":
    sys.exit(main())
