"""The paper's tables of classification errors (3 to 7) beside the errors of your runs.

python tools/compare_classifiers.py output/R50 output/X50
python tools/compare_classifiers.py output/*/ --markdown > tables.md
python tools/compare_classifiers.py output/*/ --json tables.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from resnext_det.paper.classifier_comparison import ClassificationComparison, compare_classifiers
from resnext_det.paper.classifier_runs import ClassificationRun, NotTested, read_classification_runs


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


def compared(folders: Sequence[Path]) -> ClassificationComparison:
    """The comparison of those that were tested, if it is not none of them."""
    runs: list[ClassificationRun] = []
    untested: list[NotTested] = []
    for folder in folders:
        try:
            runs += read_classification_runs(folder)
        except NotTested as error:
            untested.append(error)
    if not runs and untested:
        raise untested[0]
    return compare_classifiers(runs, left_out=[str(error) for error in untested])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 1 for an error that the user can mend."""
    options = parse(arguments)
    try:
        comparison = compared(options.output_dirs)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(comparison.to_json() + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(comparison.table(markdown=options.markdown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
