"""Export a trained detector into one file, and check it.

    resnext-det export --weights model_final.pth --output model.onnx
    resnext-det export --weights model_final.pth --output model.onnx --test-data val.json images/
    resnext-det predict model.onnx photos/

The file takes an image of any size, as uint8 RGB (height, width, 3), and gives boxes in its pixels,
scores and classes; resizing, normalization and suppression are inside, and the names of the classes
stand in its metadata. Its suffix says what it is: .onnx, .xml (OpenVINO's own format), or .pt2
(torch.export). Before it gets its name it is run on images of several sizes, and has to find what
the detector finds in torch: the same classes, and boxes within 0.01 pixels. With --test-data AP has
to be the same too. From the first KEY of the configuration on, the words are KEY VALUE pairs, such
as MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.3, which the file then has for good.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnext_det.command_line import (
    add_config_flag,
    add_fit_config_flag,
    build_parser,
    finish,
)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = build_parser("export", __doc__, allow_abbrev=False)
    add_config_flag(parser, required=False)
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="ends in .onnx, .xml (OpenVINO) or .pt2 (torch.export)",
    )
    parser.add_argument(
        "--test-data",
        nargs=2,
        metavar=("ANNOTATIONS", "IMAGES"),
        help="a COCO file and its image folder, on which AP has to be the same",
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    add_fit_config_flag(parser)
    parser.add_argument(
        "overrides",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="settings that replace those of the detector",
    )
    return parser.parse_args(arguments)


def export(options: argparse.Namespace) -> Iterator[str]:
    """Export the detector; yield a line for what was written, and one for every check."""
    from resnext_det.deploy.export import export_detector
    from resnext_det.detection.inference import Predictor
    from resnext_det.detection.jobs import Job

    if options.output.exists() and not options.force:
        raise ValueError(
            f"{options.output} exists; choose another name, or replace it with --force"
        )
    job = Job(
        options.config_file,
        overrides=tuple(options.overrides),
        engine="portable",
        fit_config=options.fit_config,
        preprocessing=options.preprocessing,
        weights=options.weights,
    )
    cfg = job.configuration(training=False)
    predictor = Predictor(cfg, options.overrides, preprocessing=options.preprocessing)
    report = export_detector(predictor, options.output, test_data=options.test_data)
    yield f"{report.path}: {report.size / 2**20:.1f} MiB"
    for agreement in report.agreements:
        yield (
            f"{agreement.runtime}: {agreement.detections} detections on {agreement.images} images "
            f"are those of torch; boxes differ by {agreement.distance:.5f} pixels at most, scores "
            f"by {agreement.score_difference:.1e}"
        )
    if report.ap:
        told = ", ".join(f"{value:.2f} in {name}" for name, value in report.ap.items())
        yield f"AP on {options.test_data[0]}: {told}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = parse(arguments)
    return finish(lambda: export(options))


if __name__ == "__main__":
    sys.exit(main())
