"""Compare classifiers with tables 3 to 7 of the paper.

resnext-det compare-classifiers output/R50 output/X50
resnext-det compare-classifiers output/*/ --markdown > tables.md
resnext-det compare-classifiers output/*/ --json tables.json

Several seeds of a network give a mean and a spread. A folder that was not tested is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnext_det.command_line import build_parser, finish


def compare_runs(options: argparse.Namespace) -> Iterator[str]:
    """Compare and write what was asked for; yield the tables."""
    from resnext_det.files import write_text
    from resnext_det.paper.comparison import compare_classifiers
    from resnext_det.paper.presentation import convert_to_json, format_comparison
    from resnext_det.paper.runs import read_classifiers

    runs, left_out = read_classifiers(options.output_dirs)
    comparison = compare_classifiers(runs, left_out=left_out)
    if options.json:
        write_text(options.json, convert_to_json(comparison) + "\n")
    yield format_comparison(comparison, markdown=options.markdown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser("compare-classifiers", __doc__)
    parser.add_argument(
        "output_dirs", nargs="+", type=Path, metavar="OUTPUT_DIR", help="folder of a training"
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="write the figures as JSON")
    options = parser.parse_args(arguments)
    return finish(lambda: compare_runs(options))


if __name__ == "__main__":
    sys.exit(main())
