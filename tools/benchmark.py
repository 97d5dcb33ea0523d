"""Time networks and detectors beside other implementations of the same.

    resnext-det benchmark                                   # R-50 and X-50-32x4d, some minutes
    resnext-det benchmark --detectors FPN C4 --networks X-50-32x4d --dtype float32 bfloat16
    resnext-det benchmark --detectors C4 --proposals 300 1000 --backends auto
    resnext-det benchmark --mode training --batch 2 --height 480 --width 640 --memory
    resnext-det benchmark --mode loading          # also evaluation, startup
    resnext-det benchmark --mode gpu-table        # eight minutes on a GPU, a table at the end
    resnext-det benchmark --json times.json --png times.png

Who takes part: ours as it is and in every backend of --backends; detectron2, torchvision and timm,
and torchvision's network in ONNX Runtime and OpenVINO, those that are installed. All have the same
weights. What computes something else is told and not timed; the others take turns, so that the
machine's moods meet them all. OMP_NUM_THREADS sets the threads. Close other programs. How far it is
stands on stderr.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnext_det.command_line import build_parser, finish
from resnext_det.files import show_log
from resnext_det.runtimes import BACKENDS, DTYPES

if TYPE_CHECKING:
    import torch

    from resnext_det.benchmark.cases import Case
    from resnext_det.benchmark.comparison import Comparison

MODES = ("inference", "training", "loading", "evaluation", "startup", "gpu-table")
MASKS, CASCADES = ("Mask-FPN", "Mask-C4", "Mask-DC5"), ("Cascade", "Mask-Cascade")
DETECTORS = ("FPN", "C4", "DC5", *MASKS, *CASCADES, "RetinaNet")
SUFFIXES = (".png", ".pdf", ".svg")

# Which flags the modes do without.
_SIZES = ("batch", "height", "width", "device")
_NETWORK = ("detectors", "proposals", "backends", "dtype", "memory", "minutes", "cudnn_benchmark")
_NO_EFFECT = {
    "inference": ("minutes", "cudnn_benchmark"),
    "training": ("minutes", "cudnn_benchmark", "backends", "proposals"),
    "loading": ("networks", *_SIZES, *_NETWORK),
    "evaluation": ("networks", *_SIZES, *_NETWORK),
    "startup": (*_SIZES, *_NETWORK),
    "gpu-table": ("detectors", "proposals", "backends", "dtype", "memory", "png"),
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; flags of no effect are refused."""
    parser = build_parser("benchmark", __doc__)
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="inference",
        help="what is timed (default: inference); training: a step forward and backward",
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        metavar="NAME",
        help="default: R-50 X-50-32x4d; a ResNeXt beside the ResNet of its depth gives their ratio",
    )
    parser.add_argument(
        "--detectors",
        nargs="+",
        choices=DETECTORS,
        default=[],
        help="whole detectors instead of the networks alone; FPN, C4 and DC5 are Faster R-CNN's",
    )
    parser.add_argument(
        "--proposals",
        nargs="+",
        type=int,
        default=[],
        metavar="N",
        help="regions an image of the detectors, in inference (default: 1000)",
    )
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=(*BACKENDS, "none"),
        default=[],
        help="of resnext_det.optimize, in inference (default: all that are installed)",
    )
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        default=["float32"],
        help="default: float32; int8 is calibrated on noise, and in inference alone",
    )
    for flag, number in (("--batch", 1), ("--height", 800), ("--width", 1088), ("--repeats", 7)):
        for_gpu = {"--width": ", or 1333 for gpu-table", "--repeats": ", or 3 to 15 for gpu-table"}
        parser.add_argument(
            flag, type=int, metavar="N", help=f"default: {number}{for_gpu.get(flag, '')}"
        )
    parser.add_argument("--device", help="auto, cuda or cpu (default: cpu; cuda for gpu-table)")
    parser.add_argument(
        "--memory", action="store_true", help="also on the CPU, in processes of their own"
    )
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="that gpu-table may take (default: 8)"
    )
    parser.add_argument(
        "--cudnn-benchmark",
        action="store_true",
        help="gpu-table: let cuDNN try its kernels first, as CUDNN_BENCHMARK True does in training",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every turn into it")
    parser.add_argument(
        "--png", type=Path, metavar="FILE", help="draw bars into it (.pdf and .svg are fine too)"
    )
    options = parser.parse_args(arguments)
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    unused = _NO_EFFECT[options.mode]
    if not options.detectors:
        unused += ("proposals",)
    given = [name for name in vars(options) if getattr(options, name) != parser.get_default(name)]
    if wrong := [f"--{name.replace('_', '-')}" for name in given if name in unused]:
        where = f"--mode {options.mode}"
        if options.mode == "inference" and wrong == ["--proposals"]:
            where = "networks alone; add --detectors C4"
        parser.error(f"{', '.join(wrong)}: of no effect with {where}")
    for name in ("batch", "height", "width", "repeats", "minutes", "proposals"):
        value = getattr(options, name)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not number >= (0.01 if name == "minutes" else 1):
                parser.error(f"--{name} {number}: write 1 or more")
    if options.mode == "training" and "int8" in options.dtype:
        parser.error("--dtype int8: in inference alone")
    if "none" in options.backends and len(options.backends) > 1:
        parser.error("--backends none stands alone")
    if options.png is not None and options.png.suffix not in SUFFIXES:
        parser.error(f"--png {options.png}: the name ends in {', '.join(SUFFIXES)}")


def benchmark(options: argparse.Namespace) -> Iterator[str]:
    """Yield the tables, and write the files that are asked for."""

    from resnext_det.benchmark.comparison import run_case
    from resnext_det.benchmark.others import OthersWatch
    from resnext_det.benchmark.presentation import LEGEND, format_comparison, format_report
    from resnext_det.files import write_text
    from resnext_det.training.distributed import resolve_device
    from resnext_det.training.machine import describe_machine

    check_files(options)
    on_gpu = options.mode == "gpu-table"
    asked = options.device or ("cuda" if on_gpu else "cpu")
    device: torch.device = resolve_device(asked, setting="--device")
    machine, others = describe_machine(device), OthersWatch()
    yield machine.describe()
    comparisons: list[Comparison] = []
    if on_gpu:
        yield from time_on_gpu(options, device, comparisons)
    else:
        repeats = options.repeats or 7
        for case in list_cases(options, device):
            comparison = run_case(case, repeats=repeats, memory=options.memory)
            comparisons.append(comparison)
            yield f"\n{format_comparison(comparison)}"
        yield f"\n{LEGEND.format(reference=comparisons[0].reference)}"
    yield f"\n{others.describe()}"
    if options.json is not None:
        write_text(options.json, format_report(machine, others.describe(), comparisons))
        yield f"Every turn is in {options.json}"
    if options.png is not None:
        from resnext_det.benchmark.chart import draw_chart

        draw_chart(options.png, machine, comparisons)
        yield f"The bars are in {options.png}"


def check_files(options: argparse.Namespace) -> None:
    """Refuse, before anything is timed, files that could not be written after it.

    Raises:
        ValueError: a path is a folder, or its folder is missing.
    """

    for flag in ("json", "png"):
        path = getattr(options, flag)
        if path is None:
            continue
        if path.is_dir():
            raise ValueError(f"--{flag} {path} is a folder; write the name of a file")
        if not path.absolute().parent.is_dir():
            raise ValueError(f"--{flag} {path}: there is no folder {path.parent}; make it first")


def list_cases(options: argparse.Namespace, device: torch.device) -> Iterator[Case]:
    """List what the flags ask for, each with the networks that are timed in the same turns."""
    from resnext_det import benchmark as package
    from resnext_det.architecture import Architecture
    from resnext_det.runtimes.backends import list_backends

    networks = [
        str(Architecture.parse(name)) for name in options.networks or ("R-50", "X-50-32x4d")
    ]
    if options.mode == "loading":
        yield from (package.LoadingCase(kind) for kind in ("classifier", "detector"))
    elif options.mode == "evaluation":
        yield package.EvaluationCase()
    elif options.mode == "startup":
        yield from (package.StartupCase(part, networks[-1]) for part in package.STARTUP_PARTS)
    if options.mode not in package.MODES:
        return
    backends = options.backends or list_backends(device=device)
    sizes = (options.batch or 1, options.height or 800, options.width or 1088)
    dtypes, backends = options.dtype, [one for one in backends if one != "none"]
    for together in package.group_networks(networks):
        shared = (together, options.mode, *sizes, device, dtypes, backends)
        if not options.detectors:
            yield package.TrunkCase(*shared, peers=package.list_peers(options.mode, device))
        for kind in options.detectors:
            for proposals in options.proposals or [None]:
                yield package.DetectorCase(*shared, kind=kind, proposals=proposals)


def time_on_gpu(
    options: argparse.Namespace, device: torch.device, comparisons: list[Comparison]
) -> Iterator[str]:
    """Yield lines while trunks are timed within a budget of time, and the table at the end."""
    import torch

    from resnext_det.benchmark.gpu_table import (
        GPU_NETWORKS,
        MINUTES,
        REPEATS,
        RUNS,
        GpuTable,
        format_gpu_table,
    )

    runs: Sequence[tuple[str, int]] = RUNS
    if options.batch:
        runs = (("training", options.batch), ("inference", options.batch))
    table = GpuTable(
        device,
        networks=options.networks or GPU_NETWORKS,
        runs=runs,
        height=options.height or 800,
        width=options.width or 1333,
        minutes=options.minutes or MINUTES,
        repeats=options.repeats or REPEATS,
        comparisons=comparisons,
    )
    cudnn = torch.backends.cudnn
    yield f"cuDNN {'tries' if options.cudnn_benchmark else 'guesses'} its fastest kernels"
    before, cudnn.benchmark = cudnn.benchmark, options.cudnn_benchmark
    try:
        yield from table.run()
    finally:
        cudnn.benchmark = before
    yield f"\n{format_gpu_table(comparisons)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    show_log("%(message)s")
    for name in ("benchmark", "runtimes"):  # how far it is, and which backend auto takes
        logging.getLogger(f"resnext_det.{name}").setLevel(logging.INFO)
    options = parse(arguments)
    return finish(lambda: benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
