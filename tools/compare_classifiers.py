"""Show the paper's tables of classification errors (3 to 7) beside the errors of your runs.

python tools/compare_classifiers.py output/R50 output/X50
python tools/compare_classifiers.py output/*/ --markdown > tables.md
python tools/compare_classifiers.py output/*/ --json tables.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from resnext_det.paper.comparison import compare_classifiers
from resnext_det.paper.presentation import format_comparison, format_json
from resnext_det.paper.runs import read_classifiers


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "output_dirs", nargs="+", type=Path, metavar="OUTPUT_DIR", help="folder of a training"
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="write the figures as JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 1 for an error that the user can mend."""
    options = parse(arguments)
    try:
        runs, left_out = read_classifiers(options.output_dirs)
        comparison = compare_classifiers(runs, left_out=left_out)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(format_json(comparison) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_comparison(comparison, markdown=options.markdown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
