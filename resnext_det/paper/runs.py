"""Runs: trainings of detectors and classifiers that were tested, read from their output folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnext_det.architecture import Architecture
from resnext_det.config.backbone import read_architecture
from resnext_det.config.yaml_files import parse_yaml
from resnext_det.data.coco import locate_dataset
from resnext_det.evaluation.classification import has_top5
from resnext_det.evaluation.coco import name_task
from resnext_det.evaluation.coco_checks import COCO_LIMIT
from resnext_det.files import shorten_path
from resnext_det.paper.figures import AVERAGE_PRECISIONS, DATASETS, ERRORS, MINIVAL, Setting
from resnext_det.training.environment import read_environment

FINAL = "model_final.pth"
"""The checkpoint of a training that came to its end."""


class NotTested(FileNotFoundError):
    """The training in a folder has not ended, or was not tested."""


@dataclass(frozen=True)
class Run:
    """A training that was tested.

    Attributes:
        output_dir: its folder, as it was given.
        setting: what it was trained and tested on, the network and the protocol.
        figures: what was measured, in percent: AP50 and AP, or the errors top1 and top5, which is
            not there where no more than five classes competed.
        seed: None where the configuration names none, or a new one was drawn.
        config: the whole configuration, by dotted key.
        last_checkpoint: the newest checkpoint's name, ``FINAL`` after a whole training; or None.
        test: of a classifier, the whole file of its test; see ``ClassificationMetrics.to_json``.
        recorded_AP: of a detector, AP in the last evaluation during training; None without record.
        max_detections: of a detector, how many detections of an image and category count in AP.
        annotations: of a detector's test set; None where nothing tells where they are.
    """

    output_dir: Path
    setting: Setting
    figures: Mapping[str, float]
    seed: int | None
    config: Mapping[str, Any] = field(repr=False)
    last_checkpoint: str | None = FINAL
    test: Mapping[str, Any] = field(default_factory=dict, repr=False)
    recorded_AP: float | None = None
    max_detections: int = COCO_LIMIT
    annotations: Path | None = None


def read_detector(output_dir: str | Path, *, dataset: str | None = None) -> Run:
    """Read a detector's config.yaml, inference/metrics.json, metrics.json and last_checkpoint.

    Args:
        dataset: which of ``DATASETS.TEST``; needed where there are several.

    Raises:
        FileNotFoundError: it is not the folder of a run; ``NotTested``: it was not evaluated.
        ValueError: a file is damaged; the network is unknown; the folder holds a classifier, or
            proposals in place of detections; AP is not defined.
    """
    folder = Path(output_dir)
    config = _read_config(folder)
    names = config.get("DATASETS.TEST", [])
    if isinstance(names, str):
        raise ValueError(
            f"{folder} is of a classifier; compare those with resnext-det compare-classifiers"
        )
    test_set = _choose_test_set(dataset, names, folder)
    network = _read_network(config, folder)
    several = len(names) > 1
    inference = folder / "inference" / (test_set if several else "")
    file = inference / "metrics.json"
    if not file.is_file():
        raise NotTested(f"{file} does not exist: {_explain_no_evaluation(folder, inference)}")
    other = "it is no evaluation of detections; give a run that found objects"
    content = _read_test(file, other=other)
    empty = "the test set has no annotated object; test on one that has some"
    _check_metrics(file, content, AVERAGE_PRECISIONS, other=other, empty=empty)
    limit = content.get("max_detections", COCO_LIMIT)
    key = f"{name_task(limit)}/AP"
    protocol = "two-step" if config.get("MODEL.LOAD_PROPOSALS") else "joint"
    return Run(
        output_dir=folder,
        setting=Setting(test_set, network, protocol),
        figures={metric: float(content[metric]) for metric in AVERAGE_PRECISIONS},
        seed=_read_seed(config),
        config=config,
        last_checkpoint=_read_last_checkpoint(folder),
        recorded_AP=_read_recorded_AP(folder, f"{test_set}/{key}" if several else key),
        max_detections=limit,
        annotations=_locate_annotations(folder, test_set),
    )


def _locate_annotations(folder: Path, test_set: str) -> Path | None:
    """Find the annotations of a test set, without making one that is generated."""
    environment = read_environment(folder)
    known = environment.sets.get(test_set) if environment else None
    found = known or locate_dataset(test_set)
    return None if found is None else Path(found[0]).resolve()


def read_classifier(output_dir: str | Path) -> list[Run]:
    """Read a classifier's config.yaml, every test/*.json, and the names of its checkpoints.

    Returns:
        One run for each test, such as those with several crop sizes.

    Raises:
        FileNotFoundError: it is not the folder of a run; ``NotTested``: it was not tested.
        ValueError: a file is damaged; the network is unknown; it is a detector's; no image was
            tested.
    """
    folder = Path(output_dir)
    config = _read_config(folder)
    if not isinstance(config.get("DATASETS.TEST", ""), str):
        raise ValueError(f"{folder} is of a detector; compare those with resnext-det compare")
    network = _read_network(config, folder)
    ended = (folder / FINAL).is_file()
    files = sorted((folder / "test").glob("*.json"))
    if not files:
        command = f"resnext-det evaluate-classifier {folder / FINAL} DATASET"
        raise NotTested(
            f"{folder / 'test'} holds no *.json: the run "
            + (f"was not tested; write {command} --output-dir {folder}" if ended else _NOT_ENDED)
        )
    tests = [_read_classification(file) for file in files]
    return [
        Run(
            output_dir=folder,
            setting=Setting(_name_dataset(config, test), network, test["protocol"], test["ways"]),
            figures={metric: 100 - test[metric] for metric in _list_errors(test["ways"])},
            seed=_read_seed(config),
            config=config,
            last_checkpoint=FINAL if ended else _read_last_checkpoint(folder),
            test=test,
        )
        for test in tests
    ]


def _read_classification(file: Path) -> dict[str, Any]:
    """Read the file of a classifier's test, of which older ones have a top-5 of any classes."""
    other = "it is no test of a classifier; test the run again"
    content = _read_test(file, ("protocol", "ways", "images", "skipped"), other=other)
    ways = content["ways"]
    if not isinstance(ways, int):
        raise ValueError(
            f"{file}: ways is {ways!r}, which is no number of classes; test the run again"
        )
    empty = "no image was tested; test on a set that has some"
    _check_metrics(file, content, _list_errors(ways), other=other, empty=empty)
    return content


def _list_errors(ways: int) -> tuple[str, ...]:
    """Name the errors that say something of a test of so many classes."""
    return tuple(name for name in ERRORS if name != "top5" or has_top5(ways))


def read_classifiers(output_dirs: Iterable[str | Path]) -> tuple[list[Run], list[str]]:
    """Read the runs of several classifiers, and for each that was not tested the reason.

    Raises:
        NotTested: none of them was tested.
        FileNotFoundError, ValueError: see ``read_classifier``.
    """
    runs: list[Run] = []
    untested: list[NotTested] = []
    for folder in output_dirs:
        try:
            runs += read_classifier(folder)
        except NotTested as error:
            untested.append(error)
    if untested and not runs:
        raise untested[0]
    return runs, [str(error) for error in untested]


def _read_config(folder: Path) -> dict[str, Any]:
    """Read config.yaml into a dict by dotted key."""
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
        config = parse_yaml(file.read_text(encoding="utf-8"))
        flat = dict(_flatten(config)) if isinstance(config, dict) else {}
    except ValueError as error:
        raise ValueError(
            f"{file} is not plain YAML: {error}; it has to be as the training wrote it"
        ) from error
    if "MODEL.RESNETS.DEPTH" not in flat:
        raise ValueError(
            f"{file} has no MODEL.RESNETS.DEPTH; give a run made with a YAML configuration"
        )
    if flat.get("MODEL.META_ARCHITECTURE") == "ProposalNetwork":
        raise ValueError(
            f"{folder} is the first of two steps (MODEL.META_ARCHITECTURE: ProposalNetwork) and "
            "holds proposals, not detections; give the OUTPUT_DIR of the second step"
        )
    return flat


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_network(config: Mapping[str, Any], folder: Path) -> Architecture:
    try:
        return read_architecture(config, "MODEL.RESNETS.")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'config.yaml'}: MODEL.RESNETS is no network known here: {error}"
        ) from error


def _read_seed(config: Mapping[str, Any]) -> int | None:
    seed = config.get("SEED")  # below 0 one is drawn, and not recorded
    return seed if isinstance(seed, int) and seed >= 0 else None


def _read_test(file: Path, keys: Sequence[str] = (), *, other: str) -> dict[str, Any]:
    """Read the file of a test and check that it has the keys.

    Args:
        other: what an error says of a file without a key, after its name.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}); test the run again") from error
    _check_keys(file, content, keys, other)
    return content


def _check_keys(file: Path, content: Any, keys: Sequence[str], other: str) -> None:
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{file} has no {key}: {other}")


def _check_metrics(
    file: Path, content: Mapping[str, Any], metrics: Sequence[str], *, other: str, empty: str
) -> None:
    """Check that a test has the metrics in percent.

    Args:
        content: of the file.
        other: see ``_read_test``.
        empty: what an error gives as the reason for a metric that is null.
    """
    _check_keys(file, content, metrics, other)
    for metric in metrics:
        value = content[metric]
        if value is None or value != value:
            raise ValueError(f"{file}: {metric} is null, as {empty}")
        if not isinstance(value, (int, float)) or not 0 <= value <= 100:
            raise ValueError(
                f"{file}: {metric} is {value!r}, which is no percentage (0 to 100); test the run "
                "again"
            )


def _choose_test_set(dataset: str | None, names: Sequence[str], folder: Path) -> str:
    """Choose the test set that is asked for, or the only one."""
    if not names or (dataset is not None and dataset not in names):
        raise ValueError(
            f"{folder} was not tested on {dataset or 'any dataset'}: its DATASETS.TEST is {names}; "
            f"train or evaluate it anew with DATASETS.TEST \"('{dataset or MINIVAL[0]}',)\""
        )
    if dataset is None and len(names) > 1:
        raise ValueError(
            f"{folder} was tested on {', '.join(names)}; name one of them with --dataset (dataset=)"
        )
    return dataset or names[0]


_NOT_ENDED = "has not ended; wait for it, or if it was interrupted repeat its command with --resume"


def _explain_no_evaluation(folder: Path, inference: Path) -> str:
    detections, metrics = inference / "coco_instances_results.json", inference / "metrics.json"
    if detections.is_file():
        command = f"resnext-det evaluate ANNOTATIONS {detections} --json {metrics}"
        return f"there are detections without figures; write {command}"
    if _read_last_checkpoint(folder) == FINAL:
        return (
            "the run was not evaluated on detections; repeat its command with --eval-only --resume"
        )
    return f"the run {_NOT_ENDED}"


def _read_last_checkpoint(folder: Path) -> str | None:
    pointer = folder / "last_checkpoint"
    return pointer.read_text(errors="replace").strip() if pointer.is_file() else None


def _read_recorded_AP(folder: Path, key: str) -> float | None:
    """Read the last AP in the metrics.json of a training, which has an object on every line."""
    recorded, file = None, folder / "metrics.json"
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
        try:
            value = json.loads(line)[key]
        except (ValueError, KeyError, TypeError):
            continue  # a line without evaluation, or one that a killed run has cut short
        recorded = value if isinstance(value, (int, float)) else None
    return recorded


def _name_dataset(config: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    """Name the key of ``DATASETS``, or where none fits the sets tested on and trained on."""
    trained_on, tested_on = (
        names if isinstance(names, str) else ", ".join(names or ())
        for names in (config.get("DATASETS.TRAIN"), config.get("DATASETS.TEST"))
    )
    trained_on, tested_on = (
        shorten_path(name or "")  # older versions wrote whole paths
        for name in (trained_on, test.get("dataset") or tested_on)
    )
    for name, dataset in DATASETS.items():
        if trained_on == dataset.train and tested_on in dataset.tests:
            return name
    return f"{tested_on or 'nothing'} (trained on {trained_on or 'nothing'})"
