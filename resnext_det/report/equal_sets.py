"""Tell whether the name of a set stands for the same annotations in several runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from resnext_det.data.coco import locate_dataset
from resnext_det.data.inspection.copied_images import find_copied_images
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
    texts = _unify_files(file for of_run in files for file in of_run.values() if file is not None)
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


def list_unequal_sets(runs: Sequence[RunFolder]) -> list[tuple[str, list[str | None]]]:
    """List the names that stand for several annotations, with the file of each run.

    The file is None where the run has no set of the name, or does not tell where it is.
    """
    found = identify_sets(runs)
    names = sorted({name for of_run in found for name in of_run})
    unequal = [
        name for name in names if len({of_run[name] for of_run in found if name in of_run}) > 1
    ]
    return [
        (name, [str(file) if (file := locate_annotations(run, name)) else None for run in runs])
        for name in unequal
    ]


def locate_annotations(run: RunFolder, name: str) -> Path | None:
    """Find the annotations of a set, without making one that is generated; None where unknown."""
    known = run.sets.get(name) or locate_dataset(name)
    return None if known is None else known[0].resolve()


def _unify_files(files: Iterable[Path]) -> dict[Path, str]:
    """Give every file that is there a text: its path, or that of an earlier file equal to it."""
    paths = [str(file) for file in dict.fromkeys(files) if file.is_file()]
    texts = {Path(path): path for path in paths}
    for first, *others in find_copied_images(paths)[0]:
        texts.update({Path(paths[index]): paths[first] for index in others})
    return texts
