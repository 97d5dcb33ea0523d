"""Convert weights between detectron2's .pkl, our .pth, safetensors and torchvision's .pth, or say what a file is.

    python tools/convert_weights.py --list
    python tools/convert_weights.py --inspect resnext50_32x4d.pth
    python tools/convert_weights.py resnext50_32x4d.pth X-50-32x4d.pkl
    python tools/convert_weights.py X-50-32x4d.pkl torchvision.pth --format torchvision
    python tools/convert_weights.py output/model_final.pth backbone.pkl --backbone-only
    python tools/convert_weights.py resnext50_32x4d.pth bgr.pkl --channel-order BGR --pixel-std 1 1 1

INPUT is a file of any known format, told by its contents, or a name of the catalog (resnext://...). What --inspect prints is YAML:
comments, and the lines of a configuration that fits the file.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from resnext_det.weights.agreement import stated
from resnext_det.weights.backbones import backbone_of, with_preprocessing_beside
from resnext_det.weights.catalog import catalog_table
from resnext_det.weights.description import describe, description_text
from resnext_det.weights.file import WeightFile, read_weights
from resnext_det.weights.preprocessing import KNOWN, Preprocessing, converted
from resnext_det.weights.writing import SUFFIXES, write_weights


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "input", metavar="INPUT", nargs="?", help="file of weights, or a name of the catalog"
    )
    parser.add_argument("output", metavar="OUTPUT", type=Path, nargs="?", help="file to write")
    parser.add_argument(
        "--format", choices=SUFFIXES, help="default: by OUTPUT's suffix, .pth is native"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the catalog; nothing is downloaded"
    )
    parser.add_argument(
        "--inspect", action="store_true", help="say what INPUT is, and write nothing"
    )
    parser.add_argument("--json", action="store_true", help="with --inspect: print JSON")
    parser.add_argument(
        "--backbone-only",
        action="store_true",
        help="leave out the classifier, or a detector's heads",
    )
    parser.add_argument(
        "--preprocessing", choices=KNOWN, help="what INPUT needs, where it is of another source"
    )
    parser.add_argument(
        "--channel-order", choices=("RGB", "BGR"), help="convert conv1 to this order"
    )
    parser.add_argument(
        "--pixel-std",
        type=float,
        nargs=3,
        metavar="STD",
        help="convert conv1 to these, in OUTPUT's channel order",
    )
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it is there")
    options = parser.parse_args(arguments)
    if options.list:
        return options
    if options.input is None or options.inspect == (options.output is not None):
        parser.error("give INPUT and OUTPUT, --inspect INPUT, or --list")
    of_output = (options.format, options.channel_order, options.pixel_std, options.force or None)
    if options.inspect and any(given is not None for given in of_output):
        parser.error(
            "--inspect writes nothing; leave --format, --channel-order, --pixel-std and --force out"
        )
    if options.format == "torchvision" and (options.channel_order or options.pixel_std):
        parser.error(
            "torchvision's format is of its own channel order and std, and is converted to them anyway"
        )
    if options.json and not options.inspect:
        parser.error("--json is for --inspect")
    return options


def read(options: argparse.Namespace) -> WeightFile:
    file = with_preprocessing_beside(read_weights(options.input, mapped=options.inspect))
    if options.preprocessing:
        file = stated(file, options.preprocessing)
    return backbone_of(file) if options.backbone_only else file


def convert(file: WeightFile, options: argparse.Namespace) -> WeightFile:
    if options.channel_order is None and options.pixel_std is None:
        return file
    if file.preprocessing is None:
        raise ValueError(
            f"the preprocessing of {file.path} is not known, so it cannot be converted; say it with --preprocessing"
        )
    target = in_order(file.preprocessing, options.channel_order or file.preprocessing.channel_order)
    if options.pixel_std is not None:
        target = replace(target, std=tuple(options.pixel_std))
    return replace(
        file, state=converted(file.state, file.preprocessing, target), preprocessing=target
    )


def in_order(preprocessing: Preprocessing, channel_order: str) -> Preprocessing:
    if preprocessing.channel_order == channel_order:
        return preprocessing
    mean, std = preprocessing.mean[::-1], preprocessing.std[::-1]
    return replace(preprocessing, channel_order=channel_order, mean=mean, std=std)


def format_of(path: Path) -> str:
    """The format that a suffix stands for: the first one that has it."""
    for name, suffixes in SUFFIXES.items():
        if path.suffix in suffixes:
            return name
    known = sorted({suffix for suffixes in SUFFIXES.values() for suffix in suffixes})
    raise ValueError(f"{path} has no suffix of a known format; end it in one of {', '.join(known)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 1 for an error that the user can mend."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = parse(arguments)
    if options.list:
        print(catalog_table())
        return 0
    try:
        if options.output and options.output.exists() and not options.force:
            raise ValueError(
                f"{options.output} is there already; choose another name, or replace it with --force"
            )
        file = read(options)
        if options.output:
            file = convert(file, options)
            write_weights(file, options.output, options.format or format_of(options.output))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.inspect:
        description = describe(file)
        print(
            json.dumps(description, indent=1)
            if options.json
            else description_text(description).rstrip()
        )
    else:
        print(
            f"{options.output}: {file.architecture or 'a network that is not recognised'} from {file.path}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
