"""Convert weights between formats, or tell what a file of weights is.

    resnext-det convert --list
    resnext-det convert --inspect resnext50_32x4d.pth
    resnext-det convert resnext50_32x4d.pth X-50-32x4d.pkl
    resnext-det convert X-50-32x4d.pkl torchvision.pth --format torchvision
    resnext-det convert output/model_final.pth backbone.pkl --backbone-only
    resnext-det convert resnext50_32x4d.pth bgr.pkl --channel-order BGR --pixel-std 1 1 1

INPUT is a name of the catalog (resnext://...) or a file of any format that the project knows; its
contents tell which. --inspect prints YAML: comments, and the settings that fit the file. --prefix
chooses one of several networks in a file.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resnext_det.command_line import add_preprocessing_flag, build_parser, finish
from resnext_det.files import show_log

if TYPE_CHECKING:
    from resnext_det.weights.file import WeightFile


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; flags that do not go together are refused."""
    parser = build_parser("convert", __doc__)
    parser.add_argument(
        "input", metavar="INPUT", nargs="?", help="file of weights, or a name of the catalog"
    )
    parser.add_argument("output", metavar="OUTPUT", type=Path, nargs="?", help="file to write")
    parser.add_argument(
        "--format",
        choices=("detectron2", "native", "safetensors", "torchvision"),
        help="of OUTPUT (default: by its suffix; .pth is native)",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the catalog; nothing is downloaded"
    )
    parser.add_argument(
        "--inspect", action="store_true", help="tell what INPUT is, and write nothing"
    )
    parser.add_argument("--json", action="store_true", help="with --inspect: print JSON")
    parser.add_argument(
        "--backbone-only",
        action="store_true",
        help="leave out the classifier, or the heads of a detector",
    )
    add_preprocessing_flag(parser, "INPUT")
    parser.add_argument(
        "--prefix",
        help="of the network to read, if INPUT has several: what stands before its names",
    )
    parser.add_argument(
        "--channel-order", choices=("RGB", "BGR"), help="change conv1 to take this order"
    )
    parser.add_argument(
        "--pixel-std",
        type=float,
        nargs=3,
        metavar="STD",
        help="change conv1 to take pixels divided by these, in OUTPUT's channel order",
    )
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
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
            "--format torchvision has its own channel order and std; leave --channel-order and "
            "--pixel-std out"
        )
    if options.json and not options.inspect:
        parser.error("--json is for --inspect")
    return options


def run(options: argparse.Namespace) -> Iterator[str]:
    """Do what was asked for; yield what is to be printed."""
    from resnext_det.weights.conversion import (
        add_preprocessing_beside,
        assume_preprocessing,
        extract_backbone,
    )
    from resnext_det.weights.doctor.description import describe, format_description
    from resnext_det.weights.file import read_weights
    from resnext_det.weights.published.catalog import format_catalog
    from resnext_det.weights.writing import write_weights

    if options.list:
        yield format_catalog()
        return
    if options.output and options.output.exists() and not options.force:
        raise ValueError(
            f"{options.output} exists; choose another name, or replace it with --force"
        )
    file = add_preprocessing_beside(
        read_weights(options.input, mapped=options.inspect, prefix=options.prefix)
    )
    file = assume_preprocessing(file, options.preprocessing)
    if options.backbone_only:
        file = extract_backbone(file)
    if options.inspect:
        description = describe(file)
        text = format_description(description).rstrip()
        yield json.dumps(description, indent=1) if options.json else text
        if not description["architecture"]:
            raise ValueError(
                f"{options.input}: no network is recognized, {description['not_recognized']}"
            )
        return
    file.refuse_unusable()
    file = change_images(file, options.channel_order, options.pixel_std)
    write_weights(file, options.output, options.format or choose_format(options.output))
    yield (
        f"{options.output}: {file.architecture or 'a network that is not recognized'} "
        f"from {file.path}"
    )


def change_images(
    file: WeightFile, channel_order: str | None, std: Sequence[float] | None
) -> WeightFile:
    """Change conv1 so that the weights need this channel order and pixel std; None keeps them."""
    from resnext_det.weights.conversion import change_preprocessing

    source = file.preprocessing
    if channel_order is None and std is None:
        return file
    if source is None:
        raise ValueError(
            f"the preprocessing of {file.path} is not known, so it cannot be converted; "
            "say it with --preprocessing"
        )
    target = source
    if channel_order not in (None, source.channel_order):
        target = replace(
            source, channel_order=channel_order, mean=source.mean[::-1], std=source.std[::-1]
        )
    if std is not None:
        target = replace(target, std=(std[0], std[1], std[2]))
    return change_preprocessing(file, target)


def choose_format(path: Path) -> str:
    """Name the format that a suffix stands for; of several the first."""
    from resnext_det.weights.writing import SUFFIXES

    for name, suffixes in SUFFIXES.items():
        if path.suffix in suffixes:
            return name
    known = sorted({suffix for suffixes in SUFFIXES.values() for suffix in suffixes})
    raise ValueError(f"{path} has no suffix of a known format; end it in one of {', '.join(known)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    show_log()
    # The hub may keep one waiting.
    logging.getLogger("resnext_det.weights.published.hub").setLevel(logging.INFO)
    options = parse(arguments)
    return finish(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
