"""Export a trained detector into one file, and check it.

    resnext-det export --weights model_final.pth --output model.onnx
    resnext-det export --weights model_final.pth --output model.onnx --test-data val.json images/
    resnext-det predict model.onnx photos/

The file takes an image of any size, as uint8 RGB (height, width, 3), and gives boxes in its pixels,
scores and classes, and of a detector of masks the probabilities of the cells of each box, which
docs/deployment.md shows how to paste; resizing, normalization and suppression are inside, and the
names of the classes stand in its metadata. Its suffix says what it is: .onnx, .xml (OpenVINO's own
format), or .pt2 (torch.export). Before it gets its name it is run on images of several sizes, and
has to find what the detector finds in torch: the same classes, and boxes within 0.01 pixels. With
--test-data AP has to be the same too. From the first KEY of the configuration on, the words are KEY
VALUE pairs, such as MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.3 (of RetinaNet
MODEL.RETINANET.SCORE_THRESH_TEST), which the file then has for good.

With --int8 the checked .onnx file is quantized on images like those to come; the loss of AP on
--test-data is told, and no file is left where it is more than --max-loss:

    resnext-det export --weights model_final.pth --output int8.onnx --int8 \\
        --calibration-data train.json images/ --test-data val.json images/ --max-loss 1.0
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnext_det.command_line import (
    add_config_flag,
    add_fit_config_flag,
    add_set_flag,
    build_parser,
    finish,
    load_portable_config,
)
from resnext_det.files import show_log

if TYPE_CHECKING:
    from resnext_det.detection.inference import Predictor


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
    add_set_flag(parser, "--test-data", "on which AP has to be the same")
    parser.add_argument(
        "--int8", action="store_true", help="quantize the file, on images of --calibration-data"
    )
    add_set_flag(parser, "--calibration-data", "with images like those to come, for --int8")
    parser.add_argument(
        "--max-loss",
        type=float,
        metavar="AP",
        help="refuse an --int8 file whose AP on --test-data, in percent, is less by more",
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    add_fit_config_flag(parser)
    parser.add_argument(
        "overrides",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="settings that replace those of the detector",
    )
    options = parser.parse_args(arguments)
    if options.int8 != (options.calibration_data is not None):
        parser.error("--int8 and --calibration-data need each other")
    if options.int8 and options.output.suffix.lower() != ".onnx":
        parser.error(
            "--int8: it is for .onnx files, which OpenVINO runs too; end --output in .onnx"
        )
    if options.max_loss is not None and not (options.int8 and options.test_data):
        parser.error("--max-loss: it needs --int8, and --test-data to measure AP on")
    return options


def export(options: argparse.Namespace) -> Iterator[str]:
    """Export the detector; yield a line for what was written, and one for every check."""
    from resnext_det.deploy.export import check_format
    from resnext_det.detection.inference import Predictor

    check_format(options.output)
    if options.output.exists() and not options.force:
        raise ValueError(
            f"{options.output} exists; choose another name, or replace it with --force"
        )
    cfg = load_portable_config(options)
    predictor = Predictor(cfg, options.overrides, preprocessing=options.preprocessing)
    if options.int8:
        yield from _export_int8(options, predictor)
    else:
        yield from _export_exact(predictor, options.output, options.test_data)
    files = [options.output]
    if options.output.suffix.lower() == ".xml":
        files.append(options.output.with_suffix(".bin"))
    size = sum(file.stat().st_size for file in files)
    yield f"{' and '.join(map(str, files))}: {size / 2**20:.1f} MiB"


def _export_exact(
    predictor: Predictor, path: Path, test_data: tuple[str, str] | None
) -> Iterator[str]:
    from resnext_det.deploy.export import export_detector

    report = export_detector(predictor, path, test_data=test_data)
    for agreement in report.agreements:
        yield (
            f"{agreement.runtime}: {agreement.detections} detections on {agreement.images} images "
            f"are those of torch; boxes differ by {agreement.distance:.5f} pixels at most, scores "
            f"by {agreement.score_difference:.1e}{_tell_masks(agreement.mask_difference)}"
        )
    for name, ap in (("AP", report.ap), ("segm AP", report.segm_ap)):
        if ap:
            told = ", ".join(f"{value:.2f} in {runtime}" for runtime, value in ap.items())
            yield f"{name} on {test_data[0] if test_data else ''}: {told}"


def _tell_masks(difference: float | None) -> str:
    return "" if difference is None else f", probabilities of masks by {difference:.1e}"


def _export_int8(options: argparse.Namespace, predictor: Predictor) -> Iterator[str]:
    from resnext_det.deploy.int8 import quantize_exported

    path: Path = options.output
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        exact = Path(folder, path.name)
        yield from _export_exact(predictor, exact, options.test_data)
        found = quantize_exported(
            exact,
            path,
            options.calibration_data,
            test_data=options.test_data,
            max_loss=options.max_loss,
        )
    for name, (before, after) in found.items():
        told = f"{before:.2f} in float32, {after:.2f} in int8: a loss of {before - after:.2f}"
        yield f"{name.replace('-', ' ')} {told}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    show_log()
    options = parse(arguments)
    return finish(lambda: export(options))


if __name__ == "__main__":
    sys.exit(main())
