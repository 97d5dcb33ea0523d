"""Test a classifier's weights: top-1 and top-5 with one crop, ten crops, or whole images at several scales.

    python tools/evaluate_classifier.py output/classification/imagenet/X50_32x4d/model_final.pth imagenet_val
    python tools/evaluate_classifier.py resnext://torchvision/X-50-32x4d datasets/imagenet/val --size 320 --per-class
    python tools/evaluate_classifier.py weights.pth imagenet_val --protocol ten-crop --num-gpus 8
    python tools/evaluate_classifier.py weights.pth imagenet_val --protocol dense --output-dir RUN

Any weights that the project can read are tested, under the preprocessing that they carry. Where the set has some of their classes only,
as ImageNet-1K for a network of 5000 classes, these compete with all outputs and among themselves. ``--output-dir`` writes into
RUN/test/, where tools/compare_classifiers.py finds it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnext_det.classification.jobs import EvaluationJob, evaluate_weights
from resnext_det.classification.protocols import BATCH_SIZES, DENSE_SCALES, PROTOCOLS
from resnext_det.classification.results import write_metrics
from resnext_det.command_line import add_process_flags, finish, processes_of
from resnext_det.weights import KNOWN


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("weights", help="a file, or a name of the catalog")
    parser.add_argument(
        "dataset", help="a set's name, such as imagenet_val, or a folder of class folders"
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, default="center", help="default: center")
    parser.add_argument(
        "--size", type=int, help="of the crop, in pixels (default: as trained, or 224)"
    )
    parser.add_argument(
        "--resize",
        type=int,
        help="shorter side before cropping (default: as trained, or 256 for 224)",
    )
    parser.add_argument(
        "--scales", type=int, nargs="+", help=f"of --protocol dense (default: {DENSE_SCALES})"
    )
    parser.add_argument("--interpolation", choices=("torch7_bicubic", "bicubic", "bilinear"))
    parser.add_argument(
        "--preprocessing", choices=KNOWN, help="where the weights do not say what they need"
    )
    parser.add_argument(
        "--per-class", action="store_true", help="print every class too, the worst first"
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="RUN", help="write the metrics as RUN/test/*.json"
    )
    parser.add_argument("--device", help="cuda or cpu (default: cuda where there is a GPU)")
    parser.add_argument("--amp", action="store_true", help="compute in bfloat16")
    parser.add_argument("--batch-size", type=int, help=f"images of a process (default: {_sizes()})")
    workers = min(4, os.cpu_count() or 1)
    parser.add_argument(
        "--num-workers", type=int, default=workers, help=f"loading processes (default: {workers})"
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out broken images, and name them"
    )
    add_process_flags(parser)
    return parser.parse_args(arguments)


def _sizes() -> str:
    return ", ".join(f"{size} of {protocol}" for protocol, size in BATCH_SIZES.items())


def report(options: argparse.Namespace) -> Iterator[str]:
    """Test, write, and tell."""
    job = EvaluationJob(
        weights=options.weights,
        dataset=options.dataset,
        protocol=options.protocol,
        size=options.size,
        resize=options.resize,
        scales=options.scales,
        interpolation=options.interpolation,
        preprocessing=options.preprocessing,
        amp=options.amp,
        device=options.device,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        skip_broken=options.skip_broken,
        **processes_of(options),
    )
    found = evaluate_weights(job)
    for metrics in found:
        yield f"{metrics.test()}: {metrics.summary()}"
        yield metrics.table(per_class=options.per_class)
    for file in write_metrics(options.output_dir, found) if options.output_dir else ():
        yield f"written: {file}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = parse(arguments)
    return finish(lambda: report(options), stopped="stopped; nothing was written")


if __name__ == "__main__":
    sys.exit(main())
