"""Compare detectors with each other and with table 8 of the paper.

resnext-det compare output/R50 output/X50 output/R101 output/X101
resnext-det compare output/*/ --markdown table8.md --png table8.png --json table8.json

Several seeds of a network give a mean and a spread. Each ResNeXt is compared with the ResNet of the
same depth, and notes tell where runs were not trained or tested alike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnext_det.command_line import build_parser, finish


def compare_runs(options: argparse.Namespace) -> Iterator[str]:
    """Compare and write what was asked for; yield the table."""
    from resnext_det.files import write_text
    from resnext_det.paper.comparison import compare_detectors
    from resnext_det.paper.presentation import convert_to_json, format_comparison, plot_comparison
    from resnext_det.paper.runs import read_detector

    comparison = compare_detectors(
        [read_detector(folder, dataset=options.dataset) for folder in options.output_dirs]
    )
    if options.markdown:
        write_text(options.markdown, format_comparison(comparison, markdown=True) + "\n")
    if options.json:
        write_text(options.json, convert_to_json(comparison) + "\n")
    if options.png:
        options.png.parent.mkdir(parents=True, exist_ok=True)
        plot_comparison(comparison, options.png)
    yield format_comparison(comparison)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser("compare", __doc__)
    parser.add_argument(
        "output_dirs", nargs="+", type=Path, metavar="OUTPUT_DIR", help="folder of a training"
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="one of DATASETS.TEST, where there are several"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="OUT.md", help="write the table as Markdown"
    )
    parser.add_argument("--png", type=Path, metavar="OUT.png", help="draw the figures")
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="write the figures as JSON")
    options = parser.parse_args(arguments)
    return finish(lambda: compare_runs(options))


if __name__ == "__main__":
    sys.exit(main())
