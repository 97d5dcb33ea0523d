"""Time detectors, and networks alone, beside detectron2's and torchvision's.

    resnext-det benchmark
    resnext-det benchmark --detectors FPN C4 --mode training --batch 2 --height 320 --width 480
    resnext-det benchmark --networks R-50 --mode training --batch 2 --height 480 --width 640
    resnext-det benchmark --device cuda --dtype bfloat16 --batch 2 --height 800 --width 1333
    resnext-det benchmark --mode loading     # a training image of a JPEG file, beside torchvision

detectron2 takes part where it is installed, and "resnext_det" is then the plugin in it; without it
detectors are those of the portable engine. All take turns; median and spread are printed.
OMP_NUM_THREADS sets the threads.
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
    parser.add_argument(
        "--detectors",
        nargs="+",
        choices=("FPN", "C4"),
        default=[],
        help="whole Faster R-CNNs instead of the network alone, in float32",
    )
    for flag, number in (("--batch", 1), ("--height", 800), ("--width", 1088), ("--repeats", 7)):
        parser.add_argument(flag, type=int, default=number, metavar="N", help=f"default: {number}")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="default: float32"
    )
    parser.add_argument("--device", default="cpu", help="auto, cuda or cpu (default: cpu)")
    options = parser.parse_args(arguments)
    for name in ("batch", "height", "width", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: write 1 or more")
    others = ("networks", "detectors", "batch", "height", "width", "dtype", "device")
    given = [f"--{name}" for name in others if getattr(options, name) != parser.get_default(name)]
    if options.mode == "loading" and given:
        parser.error(f"{', '.join(given)}: of no effect with --mode loading")
    if options.detectors and options.dtype != "float32":
        parser.error("--dtype: of no effect with --detectors")
    return options


def benchmark(options: argparse.Namespace) -> Iterator[str]:
    """Yield a table for every network, or one for loading."""
    import torch

    from resnext_det.architecture import Architecture
    from resnext_det.benchmark import (
        format_timings,
        time_detectors,
        time_loading,
        time_trunks,
    )
    from resnext_det.training.distributed import resolve_device

    if options.mode == "loading":
        timings = time_loading(repeats=options.repeats)
        yield "100 training images of a JPEG file of 500x375, one thread"
        yield f"\n{format_timings(timings)}"
        return
    device = resolve_device(options.device, setting="--device")
    shape = f"{options.batch}x3x{options.height}x{options.width}"
    names = ("mode", "batch", "height", "width", "repeats")
    shared = {name: getattr(options, name) for name in names}
    for name in options.networks:
        architecture = Architecture.parse(name)
        for kind in options.detectors or [""]:
            if kind:
                timings = time_detectors(architecture, kind, device=device, **shared)
            else:
                dtype = getattr(torch, options.dtype)
                timings = time_trunks(architecture, device=device, dtype=dtype, **shared)
            title = f"{name} {kind}".strip()
            yield f"\n{title}, {options.mode}, {shape}, {options.dtype}, {options.device}"
            yield f"\n{format_timings(timings)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse(arguments)
    return finish(lambda: benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
