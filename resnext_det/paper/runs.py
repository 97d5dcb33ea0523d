"""A run that was evaluated, read from its output folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from resnext_det.architecture import Architecture
from resnext_det.config.backbone import read_architecture
from resnext_det.paper.figures import METRICS, MINIVAL

FINAL = "model_final.pth"
"""The checkpoint of a training that came to its end."""


@dataclass(frozen=True)
class Run:
    """A training that was evaluated.

    Attributes:
        output_dir: its folder, as it was given.
        network: what ``MODEL.RESNETS`` says.
        protocol: "two-step" (Fast R-CNN on the proposals of an RPN trained before it, as in the paper) or "joint".
        test_set: the dataset that ``AP50`` and ``AP``, in percent, are of.
        seed: None where the configuration tells none.
        config: the whole configuration, by dotted key.
        last_checkpoint: the newest checkpoint's name; None where the folder has none.
        recorded_AP: AP of the last evaluation during the training; None where there is no record of it.
    """

    output_dir: Path
    network: Architecture
    protocol: str
    test_set: str
    seed: int | None
    AP50: float
    AP: float
    config: Mapping[str, Any] = field(repr=False)
    last_checkpoint: str | None = FINAL
    recorded_AP: float | None = None


def read_run(output_dir: str | Path, *, dataset: str | None = None) -> Run:
    """Read what a training left in its OUTPUT_DIR: config.yaml, inference/metrics.json and the checkpoint's name.

    Args:
        dataset: which of ``DATASETS.TEST``; needed where there are several.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing from it: it is of no run, or of one without evaluation.
        ValueError: a file is damaged; no network is known by the configuration's numbers; there are proposals and no detections, or
            it is a classifier's; AP is not defined.
    """
    folder = Path(output_dir)
    config = read_config(folder)
    names = config.get("DATASETS.TEST") or []
    if isinstance(names, str):
        raise ValueError(
            f"{folder} is of a classifier; compare those with tools/compare_classifiers.py"
        )
    test_set = _choose(dataset, names, folder)
    several = len(names) > 1
    try:
        network = read_architecture(config, "MODEL.RESNETS.")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'config.yaml'}: MODEL.RESNETS is no network known here: {error}"
        ) from error
    seed = config.get("SEED")
    return Run(
        output_dir=folder,
        network=network,
        protocol="two-step" if config.get("MODEL.LOAD_PROPOSALS") else "joint",
        test_set=test_set,
        seed=seed
        if isinstance(seed, int) and seed >= 0
        else None,  # below 0: drawn, and not on record
        **_read_metrics(folder, folder / "inference" / (test_set if several else "")),
        config=config,
        last_checkpoint=last_checkpoint_of(folder),
        recorded_AP=_recorded_AP(
            folder / "metrics.json", f"{test_set}/bbox/AP" if several else "bbox/AP"
        ),
    )


def _choose(dataset: str | None, names: Sequence[str], folder: Path) -> str:
    """The test set that is asked for, or the only one there is."""
    if not names or (dataset is not None and dataset not in names):
        asked = "any dataset" if dataset is None else dataset
        example = f"('{dataset or MINIVAL[0]}',)"
        raise ValueError(
            f"{folder} was not tested on {asked}: its DATASETS.TEST is {list(names)}; train or evaluate it anew with DATASETS.TEST "
            f'"{example}"'
        )
    if dataset is None and len(names) > 1:
        raise ValueError(
            f"{folder} was tested on {', '.join(names)}; name one of them with --dataset (dataset=)"
        )
    return names[0] if dataset is None else dataset


def read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the OUTPUT_DIR of a training")
    file = folder / "config.yaml"
    if not file.is_file():
        inside = ", ".join(str(found.parent) for found in sorted(folder.glob("*/config.yaml")))
        remedy = f"runs within it are {inside}" if inside else "give the OUTPUT_DIR of a training"
        raise FileNotFoundError(
            f"{folder} holds no config.yaml, so it is no run's OUTPUT_DIR; {remedy}"
        )
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        flat = dict(_flattened(config)) if isinstance(config, dict) else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{file} is not plain YAML: {reason}; it has to be as the training wrote it"
        ) from error
    if "MODEL.RESNETS.DEPTH" not in flat:
        raise ValueError(
            f"{file} has no MODEL.RESNETS.DEPTH, so its network is not known; give a run made with a YAML configuration"
        )
    if flat.get("MODEL.META_ARCHITECTURE") == "ProposalNetwork":
        raise ValueError(
            f"{folder} is the first of two steps (MODEL.META_ARCHITECTURE: ProposalNetwork) and holds proposals, not detections; give "
            "the OUTPUT_DIR of the second step"
        )
    return flat


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_metrics(folder: Path, inference: Path) -> dict[str, float]:
    """AP50 and AP of the evaluation in ``inference``."""
    file = inference / "metrics.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: {_why_unevaluated(folder, inference)}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}); evaluate the run again") from error
    figures = {}
    for metric in METRICS:
        if not isinstance(content, dict) or metric not in content:
            raise ValueError(
                f"{file} has no {metric}: it is no evaluation of detections; give a run that found objects"
            )
        value = content[metric]
        if value is None or value != value:
            raise ValueError(
                f"{file}: {metric} is null, as the test set has no annotated object; test on one that has some"
            )
        if not isinstance(value, (int, float)) or not 0 <= value <= 100:
            raise ValueError(
                f"{file}: {metric} is {value!r}, which is no percentage (0 to 100); evaluate the run again"
            )
        figures[metric] = float(value)
    return figures


def _why_unevaluated(folder: Path, inference: Path) -> str:
    detections = inference / "coco_instances_results.json"
    if detections.is_file():
        command = f"python tools/evaluate_coco.py ANNOTATIONS {detections} --json {inference / 'metrics.json'}"
        return f"there are detections without figures; write {command}"
    if last_checkpoint_of(folder) == FINAL:
        return (
            "the run was not evaluated on detections; repeat its command with --eval-only --resume"
        )
    return "the run has not ended; wait for it, or if it was interrupted repeat its command with --resume"


def last_checkpoint_of(folder: Path) -> str | None:
    pointer = folder / "last_checkpoint"
    return pointer.read_text(errors="replace").strip() if pointer.is_file() else None


def _recorded_AP(file: Path, key: str) -> float | None:
    """The last AP in the lines that the training wrote."""
    recorded = None
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
        try:
            value = json.loads(line)[key]
        except (ValueError, KeyError, TypeError):
            continue  # a line without evaluation, or one that a killed run has cut short
        recorded = value if isinstance(value, (int, float)) else None
    return recorded
