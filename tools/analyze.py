"""Count the parameters and multiply-adds of networks.

    resnext-det analyze R-50 X-50-32x4d
    resnext-det analyze X-101-32x4d --height 800 --width 1216 --num-classes 0
    resnext-det analyze R-26-1x16d X-26-32x1d --stem-channels 16 --res2-channels 64
    resnext-det analyze --table 1 --table 2
    resnext-det analyze --figure 4
    resnext-det analyze --width-for 16

A NAME gives a table by stage; --table and --figure give the paper's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from resnext_det.command_line import build_parser, finish


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = build_parser("analyze", __doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="an architecture, such as X-101-32x4d or R-50"
    )
    for flag, key in (("--stem-channels", "STEM"), ("--res2-channels", "RES2")):
        parser.add_argument(
            flag, type=int, metavar="N", help=f"MODEL.RESNETS.{key}_OUT_CHANNELS of the names"
        )
    for flag in ("--height", "--width"):
        parser.add_argument(
            flag, type=int, default=224, metavar="N", help="of the image, in pixels (default: 224)"
        )
    parser.add_argument(
        "--num-classes",
        type=int,
        default=1000,
        metavar="N",
        help="classes of the classifier, 0 for none (default: 1000)",
    )
    for flag, numbers in (("--table", (1, 2)), ("--figure", (4,))):
        parser.add_argument(
            flag, type=int, choices=numbers, action="append", default=[], help="of the paper"
        )
    parser.add_argument(
        "--width-for",
        type=int,
        metavar="CARDINALITY",
        action="append",
        default=[],
        help="the bottleneck width with which so many paths cost what 1x64d costs",
    )
    return parser.parse_args(arguments)


def analyze(options: argparse.Namespace) -> Iterator[str]:
    """Yield the tables that were asked for, one below the other."""
    from resnext_det.architecture import Architecture
    from resnext_det.paper.complexity import format_by_stage, format_table_1, format_widths
    from resnext_det.paper.figure_4 import format_figure_4

    channels = {"stem_channels": options.stem_channels, "res2_channels": options.res2_channels}
    changes = {name: value for name, value in channels.items() if value is not None}
    if changes and not options.names:
        raise ValueError(
            "--stem-channels and --res2-channels change an architecture; "
            "give its NAME, such as R-26-1x16d"
        )
    nets = [replace(Architecture.parse(name), **changes) for name in options.names]
    parts = [
        format_by_stage(net, options.height, options.width, options.num_classes) for net in nets
    ]
    parts += [{1: format_table_1, 2: format_widths}[number]() for number in options.table]
    if options.figure:
        parts.append(format_figure_4())
    if options.width_for:
        parts.append(format_widths(options.width_for))
    if not parts:
        raise ValueError(
            "there is nothing to analyze; give a NAME, such as X-101-32x4d, --table, --figure or "
            "--width-for"
        )
    yield "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse(arguments)
    return finish(lambda: analyze(options))


if __name__ == "__main__":
    sys.exit(main())
