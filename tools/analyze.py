"""Show the complexity of ResNeXts by stage, the paper's tables 1 and 2, and its figure 4.

python tools/analyze.py R-50 X-50-32x4d
python tools/analyze.py X-101-32x4d --height 800 --width 1216 --num-classes 0
python tools/analyze.py R-26-1x16d X-26-32x1d --stem-channels 16 --res2-channels 64
python tools/analyze.py --table 1
python tools/analyze.py --figure 4
python tools/analyze.py --width-for 16
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from resnext_det.architecture import Architecture
from resnext_det.paper.complexity import format_by_stage, format_table_1, format_widths


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="an architecture, as X-101-32x4d or R-50"
    )
    parser.add_argument(
        "--stem-channels", type=int, help="MODEL.RESNETS.STEM_OUT_CHANNELS (default: the usual)"
    )
    parser.add_argument(
        "--res2-channels", type=int, help="MODEL.RESNETS.RES2_OUT_CHANNELS (default: the usual)"
    )
    parser.add_argument(
        "--height", type=int, default=224, help="of the image, in pixels (default: 224)"
    )
    parser.add_argument(
        "--width", type=int, default=224, help="of the image, in pixels (default: 224)"
    )
    parser.add_argument(
        "--num-classes", type=int, default=1000, help="0 for no classifier (default: 1000)"
    )
    parser.add_argument(
        "--table", type=int, choices=(1, 2), action="append", default=[], help="of the paper"
    )
    parser.add_argument(
        "--figure", type=int, choices=(4,), action="append", default=[], help="of the paper"
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


def report(options: argparse.Namespace) -> str:
    """The tables that were asked for, one below the other.

    Raises:
        ValueError: nothing was asked for, or something that does not exist.
    """
    channels = {"stem_channels": options.stem_channels, "res2_channels": options.res2_channels}
    changes = {name: value for name, value in channels.items() if value is not None}
    if changes and not options.names:
        raise ValueError(
            "--stem-channels and --res2-channels are of an architecture; give its NAME, as "
            "R-26-1x16d"
        )
    nets = [replace(Architecture.parse(name), **changes) for name in options.names]
    parts = [
        format_by_stage(net, options.height, options.width, options.num_classes) for net in nets
    ]
    parts += [{1: format_table_1, 2: format_widths}[number]() for number in options.table]
    if options.figure:
        from resnext_det.paper.figure_4 import format_figure_4

        parts.append(format_figure_4())
    if options.width_for:
        parts.append(format_widths(options.width_for))
    if not parts:
        raise ValueError(
            "there is nothing to analyze; give a NAME, as X-101-32x4d, --table, --figure or "
            "--width-for"
        )
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 1 for an error that the user can mend."""
    options = parse(arguments)
    try:
        text = report(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
