"""Show table 8 of the paper beside your runs, with the difference between ResNeXt and ResNet.

python tools/compare.py output/R50 output/X50 output/R101 output/X101
python tools/compare.py output/*/ --markdown table8.md --png table8.png --json table8.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from resnext_det.paper.comparison import compare_detectors
from resnext_det.paper.presentation import format_comparison, format_json, plot_comparison
from resnext_det.paper.runs import read_detector


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "output_dirs", nargs="+", type=Path, metavar="OUTPUT_DIR", help="folder of a training"
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="which of DATASETS.TEST, where there are several"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="OUT.md", help="write the table as Markdown"
    )
    parser.add_argument("--png", type=Path, metavar="OUT.png", help="draw the figures")
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="write the figures as JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 1 for an error that the user can mend."""
    options = parse(arguments)
    try:
        comparison = compare_detectors(
            [read_detector(folder, dataset=options.dataset) for folder in options.output_dirs]
        )
        for path in filter(None, (options.markdown, options.png, options.json)):
            path.parent.mkdir(parents=True, exist_ok=True)
        if options.markdown:
            options.markdown.write_text(
                format_comparison(comparison, markdown=True) + "\n", encoding="utf-8"
            )
        if options.json:
            options.json.write_text(format_json(comparison) + "\n", encoding="utf-8")
        if options.png:
            plot_comparison(comparison, options.png)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_comparison(comparison))
    return 0


if __name__ == "__main__":
    sys.exit(main())
