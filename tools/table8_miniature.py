"""Run table 8 of the paper in miniature: pre-train, fine-tune with several seeds, compare.

    python tools/table8_miniature.py                         # two networks, on two CPU cores
    python tools/table8_miniature.py --from-random           # also detectors from random weights
    python tools/table8_miniature.py --size gpu --seeds 0 1  # the paper's four networks, on a GPU
    python tools/table8_miniature.py --resume                # go on where it was stopped

``--configs`` takes a folder of your own, with classifier_NAME.yaml and faster_rcnn_NAME.yaml for
every network; copied ones need a _BASE_ that is right from where they are, such as an absolute
path. The runs are in output/miniature/SIZE; tools/compare.py reads those of the detectors too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from resnext_det.command_line import finish
from resnext_det.detection.jobs import ENGINES
from resnext_det.paper.miniature import Settings, run_miniature

CONFIGS = Path(__file__).parents[1] / "configs" / "miniature"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--size", choices=("cpu", "gpu"), default="cpu", help="default: cpu")
    parser.add_argument("--configs", type=Path, metavar="FOLDER", help="in place of --size")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2), help="default: 0 1 2")
    parser.add_argument("--from-random", action="store_true", help="train from random weights too")
    parser.add_argument("--output-dir", type=Path, help="default: output/miniature/SIZE")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run was")
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto", help="of the detectors (default: auto)"
    )
    parser.add_argument("--device", help="cuda or cpu, in place of the configurations'")
    options = parser.parse_args(arguments)
    settings = Settings(
        configs=options.configs or CONFIGS / options.size,
        output_dir=options.output_dir or Path("output", "miniature", options.size),
        seeds=tuple(options.seeds),
        from_random=options.from_random,
        resume=options.resume,
        engine=options.engine,
        device=options.device,
    )
    return finish(lambda: [run_miniature(settings).format()])


if __name__ == "__main__":
    sys.exit(main())
