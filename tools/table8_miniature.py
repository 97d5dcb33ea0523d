"""Repeat table 8 of the paper in miniature, on generated shapes.

    resnext-det miniature                            # two networks of 26 layers, on two CPU cores
    resnext-det miniature --from-random              # the same detectors from random weights too
    resnext-det miniature --size gpu --seeds 0 1     # the paper's four networks, on one GPU
    resnext-det miniature --resume                   # go on where an earlier run stopped

How the difference X - R depends on the head (C4, DC5, FPN) and on the length of the training, with
intervals over seeds that each have a pre-training of their own:

    resnext-det miniature --size heads --iterations 150 450 --seeds 0 1 2 3 4 \\
        --pretrain-each-seed --parallel 2 --png x_minus_r.png

The runs are in output/miniature/SIZE, and "resnext-det compare" reads them. --configs takes a
folder of your own, with classifier_NAME.yaml and faster_rcnn_NAME.yaml (or faster_rcnn_NAME_HEAD
.yaml) for every network; if they are copies, correct the path in _BASE_.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnext_det.command_line import ENGINES, add_run_flags, build_parser, finish
from resnext_det.files import shipped_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser("miniature", __doc__, allow_abbrev=False)
    parser.add_argument(
        "--size",
        choices=("cpu", "heads", "gpu"),
        default="cpu",
        help="networks, heads and sets (default: cpu)",
    )
    parser.add_argument(
        "--configs", type=Path, metavar="FOLDER", help="configurations in place of those of --size"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=(0, 1, 2),
        metavar="SEED",
        help="a training of every detector for each (default: 0 1 2)",
    )
    parser.add_argument(
        "--pretrain-each-seed",
        action="store_true",
        help="pre-train a network for each seed; else one serves all its detectors",
    )
    parser.add_argument(
        "--iterations",
        type=int,
        nargs="+",
        default=(),
        metavar="N",
        help="train every detector for each of these lengths, in place of SOLVER.MAX_ITER",
    )
    parser.add_argument("--from-random", action="store_true", help="train from random weights too")
    parser.add_argument(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="trainings at a time, which share the machine's processors (default: 1)",
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="default: output/miniature/SIZE"
    )
    parser.add_argument(
        "--png",
        type=Path,
        metavar="OUT.png",
        help="draw X - R against the length, of several heads or lengths",
    )
    add_run_flags(parser)
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto", help="what trains detectors (default: auto)"
    )
    parser.add_argument("--device", help="auto, cuda or cpu, in place of the configurations'")
    options = parser.parse_args(arguments)
    return finish(lambda: run(options), resumable=True)


def run(options: argparse.Namespace) -> Iterator[str]:
    """Train everything; yield the tables."""
    from resnext_det.paper.miniature import Settings, compares_schedules, run_miniature
    from resnext_det.paper.schedules import plot_schedules

    settings = Settings(
        configs=options.configs or shipped_folder("configs") / "miniature" / options.size,
        output_dir=options.output_dir or Path("output", "miniature", options.size),
        seeds=tuple(options.seeds),
        pretrain_each_seed=options.pretrain_each_seed,
        iterations=tuple(options.iterations),
        from_random=options.from_random,
        parallel=options.parallel,
        resume=options.resume,
        overwrite=options.overwrite,
        engine=options.engine,
        device=options.device,
    )
    if options.png and not compares_schedules(settings):
        raise ValueError(
            f"--png draws X - R of several heads or lengths, and {settings.configs} has one head, "
            "trained for one length; add --iterations with several numbers, or leave --png out"
        )
    miniature = run_miniature(settings)
    yield miniature.format()
    if options.png and miniature.schedules is not None:
        plot_schedules(miniature.schedules, options.png)
        yield f"X - R against the length: {options.png}"


if __name__ == "__main__":
    sys.exit(main())
