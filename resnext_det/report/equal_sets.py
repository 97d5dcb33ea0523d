"""Tell whether the name of a set stands for the same annotations in several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from resnext_det.data.coco import locate_dataset
from resnext_det.data.inspection.copied_images import unify_files
from resnext_det.report.runs import RunFolder


def identify_sets(runs: Sequence[RunFolder]) -> list[dict[str, str]]:
    """Identify the sets of every run by the bytes of their annotations.

    Returns:
        of every run the names of its sets with texts, which are equal for equal files. Annotations
        that are not there any more count as those of the other runs where these have one file
        alone of the name; else their text is empty.
    """
    files = [
        {
            name: locate_annotations(run, name)
            for name in (
                *(run.list_sets("TRAIN") if run.was_trained else ()),
                *run.list_sets("TEST"),
            )
        }
        for run in runs
    ]
    texts = unify_files(file for of_run in files for file in of_run.values() if file is not None)
    found = [
        {name: texts.get(file, "") if file is not None else "" for name, file in of_run.items()}
        for of_run in files
    ]
    for name in {name for of_run in found for name in of_run}:
        known = {of_run[name] for of_run in found if of_run.get(name)}
        if len(known) == 1:
            for of_run in found:
                of_run.update({name: min(known)} if name in of_run else {})
    return found


def list_unequal_sets(sets: Sequence[Mapping[str, str]]) -> list[str]:
    """List the names that stand for several annotations.

    Args:
        sets: of every run, as ``identify_sets`` gives them.
    """
    names = sorted({name for of_run in sets for name in of_run})
    return [name for name in names if len({each[name] for each in sets if name in each}) > 1]


def locate_annotations(run: RunFolder, name: str) -> Path | None:
    """Find the annotations of a set, without making one that is generated; None where unknown."""
    known = run.sets.get(name) or locate_dataset(name)
    return None if known is None else known[0].resolve()
