"""What a reader of the table has to know: where runs are not alike, or the paper's figures do not apply."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from resnext_det.config.backbone import ARCHITECTURE_KEYS
from resnext_det.paper.figures import MINIVAL, PAPER_RECIPE
from resnext_det.paper.runs import FINAL, Run

if TYPE_CHECKING:
    from resnext_det.paper.rows import Difference, Row

# What a comparison of networks varies on purpose, and where a run's own files lie. The table tells the protocols apart.
_MAY_DIFFER = {
    *(f"MODEL.RESNETS.{key}" for key in ARCHITECTURE_KEYS),
    *("OUTPUT_DIR", "SEED", "MODEL.LOAD_PROPOSALS", "MODEL.PROPOSAL_GENERATOR.NAME"),
    *("DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST"),
}


def notes(
    runs: Sequence[Run], rows: Sequence[Row], differences: Sequence[Difference]
) -> Iterator[str]:
    if runs[0].test_set in MINIVAL:
        yield from _departures_from_paper(runs)
    else:
        yield f"the paper's figures are of COCO minival and cannot be compared with those measured on {runs[0].test_set}"
    yield from _disagreements(runs)
    for run in runs:
        yield from _doubts(run)
    for row in rows:
        seeds = Counter(run.seed for run in row.runs if run.seed is not None)
        for seed, times in seeds.items():
            if times > 1:
                yield f"{times} runs of {row.name} ({row.protocol}) have SEED {seed}: they are no independent runs, and ± is too small"
    for pair in differences:
        ratio = pair.x.network.multiply_adds() / pair.r.network.multiply_adds()
        if not 1 / 1.1 < ratio < 1.1:  # the paper's pairs differ by 3.4 % at most
            yield (
                f"{pair.x.name} has {ratio:.2f} times the multiply-adds of {pair.r.name}: their difference is one of size too, not of "
                "cardinality alone"
            )
    if any(
        pair.x.runs and (len(pair.x.runs) == 1 or len(pair.r.runs) == 1) for pair in differences
    ):
        yield "a difference without ± may be chance: train each network with several seeds (SEED) to see their spread"


def _departures_from_paper(runs: Sequence[Run]) -> Iterator[str]:
    """What the paper did otherwise, where its figures stand beside those of the runs."""
    if any(run.protocol == "joint" for run in runs):
        yield "joint: RPN and Fast R-CNN were trained together; the paper trains them apart, in two steps (appendix B)"
    others = []
    for key, value in PAPER_RECIPE.items():
        found = [str(run.config[key]) for run in runs if run.config.get(key, value) != value]
        if found:
            values = " or ".join(sorted(set(found)))
            others.append(
                f"{key} is {values} in {len(found)} of {len(runs)}, and in the paper {value}"
            )
    if others:
        yield f"the recipe of some runs is not the paper's, so its figures are no target for them: {'; '.join(others)}"


def _disagreements(runs: Sequence[Run]) -> Iterator[str]:
    """Every key, other than those of networks, weights, folders and seeds, on which configurations differ."""
    for key in sorted(set().union(*(run.config for run in runs)) - _MAY_DIFFER):
        holders: dict[str, list[str]] = defaultdict(list)
        for run in runs:
            if (
                key not in run.config
            ):  # detectron2's own configurations hold more keys, of parts switched off
                continue
            value = run.config[key]
            if key == "MODEL.WEIGHTS":
                value = "a file" if value else "empty"
            holders[str(value) or "''"].append(str(run.output_dir))
        if len(holders) > 1:
            rare_first = sorted(holders.items(), key=lambda item: len(item[1]))
            found = [f"{value} in {', '.join(names)}" for value, names in rare_first]
            value, names = rare_first[-1]
            if len(names) > 2:
                found[-1] = f"{value} in the {len(names)} others"
            yield f"these runs differ in {key}: {'; '.join(found)}"


def _doubts(run: Run) -> Iterator[str]:
    """What may be wrong with the figures of one run."""
    if run.last_checkpoint is None:
        yield (
            f"{run.output_dir} has no checkpoint: it is an evaluation of MODEL.WEIGHTS, whose training may have had another configuration"
        )
    elif run.last_checkpoint != FINAL:
        yield (
            f"{run.output_dir} was interrupted: its last checkpoint is {run.last_checkpoint} and not {FINAL}; its figures are those of "
            "the last evaluation"
        )
    if run.recorded_AP is not None and abs(run.recorded_AP - run.AP) > 0.05:
        yield (
            f"{run.output_dir}: AP is {run.AP:.2f} in inference and {run.recorded_AP:.2f} at the end of metrics.json: it was evaluated "
            "again, with other weights, settings or images"
        )
