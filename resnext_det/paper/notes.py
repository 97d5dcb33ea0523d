"""Notes on a comparison: where runs are not alike, or the paper's figures do not apply."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resnext_det.config.backbone import ARCHITECTURE_KEYS
from resnext_det.config.values import unify_names
from resnext_det.evaluation.classification import has_top5
from resnext_det.evaluation.coco import describe_limit
from resnext_det.paper.figures import (
    CROP_224,
    CROP_320,
    DATASETS,
    DETECTION_RECIPE,
    MINIVAL,
    RECIPES,
    PaperTable,
)
from resnext_det.paper.rows import Difference, Row
from resnext_det.paper.runs import FINAL, Run

# What a comparison of networks varies on purpose, and where a run's own files lie. The table tells
# the protocols apart.
_MAY_DIFFER = {
    *(f"MODEL.RESNETS.{key}" for key in ARCHITECTURE_KEYS),
    *("OUTPUT_DIR", "SEED", "MODEL.LOAD_PROPOSALS", "MODEL.PROPOSAL_GENERATOR.NAME"),
    *("DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST"),
}


def list_detector_notes(
    runs: Sequence[Run], rows: Sequence[Row], differences: Sequence[Difference]
) -> Iterator[str]:
    """List what makes a comparison of detectors, all tested on one set, less than fair."""
    test_set = runs[0].setting.dataset
    if test_set in MINIVAL:
        if any(run.setting.protocol == "joint" for run in runs):
            yield (
                "joint: RPN and Fast R-CNN were trained together; the paper trains them apart, in "
                "two steps (appendix B)"
            )
        yield from _compare_recipe(test_set, DETECTION_RECIPE, runs)
    else:
        yield _note_other_set("COCO minival", test_set)
    yield from _compare_configurations(runs)
    for run in runs:
        yield from _doubt_checkpoint(run)
        if limit := describe_limit(run.max_detections):
            yield f"{run.output_dir}: AP and AP50 are of {limit}, as the paper does"
        AP = run.figures["AP"]
        if run.recorded_AP is not None and abs(run.recorded_AP - AP) > 0.05:
            yield (
                f"{run.output_dir}: AP is {AP:.2f} in inference and {run.recorded_AP:.2f} at the "
                "end of metrics.json: it was evaluated again, with other weights, settings or "
                "images"
            )
    yield from _find_equal_seeds(rows)
    for pair in differences:
        x, r = pair.x.setting.network, pair.r.setting.network
        ratio = x.multiply_adds() / r.multiply_adds()
        if not 1 / 1.1 < ratio < 1.1:  # the paper's pairs differ by 3.4 % at most
            yield (
                f"{pair.x.name} has {ratio:.2f} times the multiply-adds of {pair.r.name}: their "
                "difference is one of size too, not of cardinality alone"
            )
    if any(1 in (len(pair.x.runs), len(pair.r.runs)) for pair in differences):
        yield (
            "a difference without ± may be chance: train each network with several seeds (SEED) "
            "to see their spread"
        )


def list_classifier_notes(
    runs: Sequence[Run], rows: Sequence[Row], tables: Sequence[PaperTable]
) -> Iterator[str]:
    """List what makes a comparison of classifiers with these tables less than fair."""
    for table in tables:
        yield from table.remarks
    for dataset in dict.fromkeys(run.setting.dataset for run in runs):
        if dataset in DATASETS:
            tested = [run for run in runs if run.setting.dataset == dataset]
            yield from _compare_recipe(dataset, RECIPES[dataset], tested)
        else:
            yield _note_other_set("other sets", dataset)
    for run in runs:
        yield from _doubt_images(run)
        yield from _doubt_checkpoint(run)
    yield from _find_equal_seeds(rows)
    if any(run.setting.ways and not has_top5(run.setting.ways) for run in runs):
        yield "top-5 of five classes or fewer is always right and says nothing, so it is left out"
    if any(len(row.runs) == 1 for row in rows):
        yield "an error without ± is of one run: train with several seeds (SEED) to see its spread"


def _note_other_set(papers: str, measured: str) -> str:
    return (
        f"the paper's figures are of {papers} and cannot be compared with those measured on "
        f"{measured}"
    )


def _compare_recipe(dataset: str, recipe: Mapping[str, Any], runs: Sequence[Run]) -> Iterator[str]:
    """Name the keys of the paper's recipe that runs did not follow."""
    batch, others = recipe["SOLVER.IMS_PER_BATCH"], []
    configs = {run.output_dir: run.config for run in runs}  # a run may have several tests
    for key, paper in recipe.items():
        values = [_read_value(config, key, batch) for config in configs.values()]
        found = [value for value in values if value is not None and value != paper]
        if found:
            rate = f" for {batch} images" if key == "SOLVER.BASE_LR" else ""
            told = " or ".join(sorted({str(value) for value in found}))
            count = f"{len(found)} of {len(configs)}"
            others.append(f"{key} is {told}{rate} in {count}, and in the paper {paper}")
    if others:
        yield (
            f"the recipe of runs on {dataset} is not the paper's, so its figures are no target for "
            f"them: {'; '.join(others)}"
        )


def _read_value(config: Mapping[str, Any], key: str, paper_batch: int) -> Any:
    """Read a key of a run; None where it is not there.

    The learning rate is scaled to the paper's batch, in proportion, as the authors' README says.
    """
    value = config.get(key)
    if key == "SOLVER.WEIGHT_DECAY_NORM" and value is None:
        return config.get("SOLVER.WEIGHT_DECAY")
    batch = config.get("SOLVER.REFERENCE_BATCH") or config.get("SOLVER.IMS_PER_BATCH")
    if key == "SOLVER.BASE_LR" and value is not None and batch:
        return float(f"{value * paper_batch / batch:.6g}")
    return value


def _compare_configurations(runs: Sequence[Run]) -> Iterator[str]:
    """Name every key on which runs differ, other than networks, weights, folders and seeds."""
    for key in sorted(set().union(*(run.config for run in runs)) - _MAY_DIFFER):
        holders: dict[str, list[str]] = defaultdict(list)
        for run in runs:
            if key not in run.config:
                continue  # detectron2's own configurations hold more keys, of parts switched off
            value = unify_names(run.config[key])
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


def _doubt_checkpoint(run: Run) -> Iterator[str]:
    """Say where the weights that were tested are not those of a whole training."""
    if run.last_checkpoint is None:
        yield (
            f"{run.output_dir} has no checkpoint: it is a test of MODEL.WEIGHTS, whose training "
            "may have had another configuration"
        )
    elif run.last_checkpoint != FINAL:
        yield (
            f"{run.output_dir} was interrupted: its last checkpoint is {run.last_checkpoint} and "
            f"not {FINAL}; its figures are those of the last test"
        )


def _doubt_images(run: Run) -> Iterator[str]:
    """Say where images are missing, or were not resized as the paper's (fb.resnet.torch)."""
    name, _, protocol, _ = run.setting
    dataset, images, skipped = DATASETS.get(name), run.test["images"], len(run.test["skipped"])
    if dataset is not None and images != dataset.test_images:
        yield (
            f"{run.output_dir} was tested on {images} images, and {dataset.tests[0]} has "
            f"{dataset.test_images}"
        )
    elif skipped:
        yield f"{run.output_dir} was tested without {skipped} images, which were skipped"
    if name not in ("imagenet", "imagenet5k"):
        return
    resize, interpolation = run.test.get("resize"), run.test.get("interpolation")
    usual = {CROP_224: 256, CROP_320: 320}.get(protocol or "")
    if usual is not None and resize not in (None, usual):
        yield (
            f"{run.output_dir} was tested on images of a shorter side of {resize} pixels, and the "
            f"paper's of {usual}"
        )
    if interpolation not in (None, "", "torch7_bicubic"):
        yield (
            f"{run.output_dir} was tested on images resized by {interpolation}, and the paper's by "
            "torch7_bicubic"
        )


def _find_equal_seeds(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        for seed, times in Counter(run.seed for run in row.runs).items():
            if times > 1 and seed is not None:
                yield (
                    f"{times} runs of {row.name} ({row.protocol}) have SEED {seed}: they are no "
                    "independent runs, and ± is too small"
                )
