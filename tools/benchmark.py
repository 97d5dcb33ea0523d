"""Time the network beside torchvision's and detectron2's.

    resnext-det benchmark
    resnext-det benchmark --networks R-50 --mode training --batch 2 --height 480 --width 640
    resnext-det benchmark --device cuda --dtype bfloat16 --batch 2 --height 800 --width 1333
    resnext-det benchmark --mode loading     # a training image of a JPEG file, beside torchvision

detectron2 takes part where it is installed. The networks take turns; the median and the spread of
the turns are printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from resnext_det.command_line import build_parser, finish


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; flags of no effect are refused."""
    parser = build_parser("benchmark", __doc__)
    parser.add_argument(
        "--networks",
        nargs="+",
        default=["R-50", "X-50-32x4d"],
        metavar="NAME",
        help="default: R-50 X-50-32x4d",
    )
    parser.add_argument(
        "--mode",
        choices=("inference", "training", "loading"),
        default="inference",
        help="default: inference",
    )
    for flag, number in (("--batch", 1), ("--height", 800), ("--width", 1088), ("--repeats", 7)):
        parser.add_argument(flag, type=int, default=number, metavar="N", help=f"default: {number}")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="default: float32"
    )
    parser.add_argument("--device", default="cpu", help="auto, cuda or cpu (default: cpu)")
    options = parser.parse_args(arguments)
    others = ("networks", "batch", "height", "width", "dtype", "device")
    given = [f"--{name}" for name in others if getattr(options, name) != parser.get_default(name)]
    if options.mode == "loading" and given:
        parser.error(f"{', '.join(given)}: of no effect with --mode loading")
    return options


def benchmark(options: argparse.Namespace) -> Iterator[str]:
    """Yield a table for every network, or one for loading."""
    import torch

    from resnext_det.architecture import Architecture
    from resnext_det.benchmark import format_timings, time_loading, time_trunks
    from resnext_det.training.distributed import resolve_device

    if options.mode == "loading":
        timings = time_loading(repeats=options.repeats)
        yield "100 training images of a JPEG file of 500x375, one thread"
        yield f"\n{format_timings(timings)}"
        return
    device = resolve_device(options.device, setting="--device")
    shape = f"{options.batch}x3x{options.height}x{options.width}"
    for name in options.networks:
        timings = time_trunks(
            Architecture.parse(name),
            mode=options.mode,
            batch=options.batch,
            height=options.height,
            width=options.width,
            device=device,
            dtype=getattr(torch, options.dtype),
            repeats=options.repeats,
        )
        yield f"\n{name}, {options.mode}, {shape}, {options.dtype}, {options.device}"
        yield f"\n{format_timings(timings)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse(arguments)
    return finish(lambda: benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
