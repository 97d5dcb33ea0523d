"""Repeat table 8 of the paper in miniature, on generated shapes.

    resnext-det miniature                            # two networks of 26 layers, on two CPU cores
    resnext-det miniature --from-random              # the same detectors from random weights too
    resnext-det miniature --size gpu --seeds 0 1     # the paper's four networks, on one GPU
    resnext-det miniature --resume                   # go on where an earlier run stopped

The runs are in output/miniature/SIZE, and "resnext-det compare" reads them. --configs takes a
folder of your own, with classifier_NAME.yaml and faster_rcnn_NAME.yaml for every network; if they
are copies, correct the path in _BASE_.
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
        "--size", choices=("cpu", "gpu"), default="cpu", help="networks and sets (default: cpu)"
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
    parser.add_argument("--from-random", action="store_true", help="train from random weights too")
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="default: output/miniature/SIZE"
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
    from resnext_det.paper.miniature import Settings, run_miniature

    settings = Settings(
        configs=options.configs or shipped_folder("configs") / "miniature" / options.size,
        output_dir=options.output_dir or Path("output", "miniature", options.size),
        seeds=tuple(options.seeds),
        from_random=options.from_random,
        resume=options.resume,
        overwrite=options.overwrite,
        engine=options.engine,
        device=options.device,
    )
    yield run_miniature(settings).format()


if __name__ == "__main__":
    sys.exit(main())
