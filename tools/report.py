"""Write one HTML page about a run: what is wrong, and what to do.

resnext-det report output/cells
resnext-det report output/cells output/cells_longer --output comparison.html

Every training ends with its report, OUTPUT_DIR/report.html. The page opens without a network, and
prints. What a folder lacks is said there: of a run of an older version, or of detectron2's own
tools, --register-coco says where its sets are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnext_det.command_line import add_dataset_flag, build_parser, finish, read_dataset_flags


def report(options: argparse.Namespace) -> Iterator[str]:
    """Write the page; yield where it is."""
    from resnext_det.files import show_log
    from resnext_det.report.write import write_report

    show_log()
    page = write_report(options.runs, options.output, datasets=read_dataset_flags(options))
    yield f"The report is {page.absolute()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser("report", __doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="OUTPUT_DIR of a training or evaluation"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page (default: report.html in the folder of the run; in this folder for several)",
    )
    add_dataset_flag(parser)
    options = parser.parse_args(arguments)
    return finish(lambda: report(options))


if __name__ == "__main__":
    sys.exit(main())
