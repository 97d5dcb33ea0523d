"""Time the trunk beside torchvision's, and detectron2's where that is installed: interleaved turns, median and spread.

python tools/benchmark.py
python tools/benchmark.py --networks R-50 X-50-32x4d R-101 X-101-32x4d --mode training --batch 2 --height 480 --width 640
python tools/benchmark.py --device cuda --dtype bfloat16 --batch 2 --height 800 --width 1333
python tools/benchmark.py --mode loading        # a training image of a JPEG file, beside torchvision's pipeline
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from resnext_det.architecture import Architecture
from resnext_det.benchmark.loading import compare_loading
from resnext_det.benchmark.timing import table
from resnext_det.benchmark.trunk import MODES, compare
from resnext_det.training.distributed import resolve_device


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["R-50", "X-50-32x4d"], metavar="NAME")
    parser.add_argument("--mode", choices=(*MODES, "loading"), default="inference")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1088)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    if options.mode == "loading":
        others = ("networks", "batch", "height", "width", "dtype", "device")
        given = [
            f"--{name}" for name in others if getattr(options, name) != parser.get_default(name)
        ]
        if given:
            parser.error(f"{', '.join(given)}: of no effect with --mode loading")
        timings = compare_loading(repeats=options.repeats)
        print(f"100 training images of a JPEG file of 500x375, one thread\n\n{table(timings)}")
        return 0
    try:
        device = resolve_device(options.device)
        for name in options.networks:
            timings = compare(
                Architecture.parse(name),
                mode=options.mode,
                batch=options.batch,
                height=options.height,
                width=options.width,
                device=device,
                dtype=getattr(torch, options.dtype),
                repeats=options.repeats,
            )
            shape = f"{options.batch}x3x{options.height}x{options.width}"
            print(
                f"\n{name}, {options.mode}, {shape}, {options.dtype}, {options.device}\n\n{table(timings)}"
            )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
