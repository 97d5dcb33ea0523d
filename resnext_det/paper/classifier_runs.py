"""A classifier that was tested, read from its output folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnext_det.config.backbone import read_architecture
from resnext_det.paper.figures import DATASETS, Setting
from resnext_det.paper.runs import FINAL, last_checkpoint_of, read_config

METRICS = ("top1", "top5")


class NotTested(FileNotFoundError):
    """A folder is of a training that has not ended, or was not tested."""


@dataclass(frozen=True)
class ClassificationRun:
    """A test of a classifier.

    Attributes:
        output_dir: its folder, as it was given.
        setting: what it was trained and tested on, the network and the protocol.
        top1, top5: errors in percent.
        num_images, num_skipped: images that these are of, and images left out.
        resize, interpolation: how images came to their size before they were cropped; None where the test does not tell.
        seed: None where the configuration tells none.
        config: the whole configuration, by dotted key.
        last_checkpoint: the newest checkpoint's name, ``FINAL`` of a training that ended; None where the folder has none.
    """

    output_dir: Path
    setting: Setting
    top1: float
    top5: float
    num_images: int
    num_skipped: int
    resize: int | None
    interpolation: str | None
    seed: int | None
    config: Mapping[str, Any] = field(repr=False)
    last_checkpoint: str | None = FINAL


def read_classification_runs(output_dir: str | Path) -> list[ClassificationRun]:
    """Read what a classifier left in its OUTPUT_DIR: config.yaml, every test/*.json, and the checkpoint's name.

    Returns:
        one for each test, such as those of several crop sizes.

    Raises:
        FileNotFoundError: there is no such folder, or config.yaml is missing from it: it is of no run.
        NotTested: it is of a run that was not tested.
        ValueError: it is a detector's; a file is damaged; no network is known by the configuration's numbers; no image was tested.
    """
    folder = Path(output_dir)
    config = read_config(folder)
    if not isinstance(config.get("DATASETS.TEST", ""), str):
        raise ValueError(f"{folder} is of a detector; compare those with tools/compare.py")
    try:
        network = read_architecture(config, "MODEL.RESNETS.")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'config.yaml'}: MODEL.RESNETS is no network known here: {error}"
        ) from error
    seed = config.get("SEED")
    files = sorted((folder / "test").glob("*.json"))
    if not files:
        command = (
            f"python tools/evaluate_classifier.py {folder / FINAL} DATASET --output-dir {folder}"
        )
        ended = (folder / FINAL).is_file()
        raise NotTested(
            f"{folder / 'test'} holds no *.json: "
            + (
                f"the run was not tested; write {command}"
                if ended
                else "the run has not ended; repeat its command with --resume"
            )
        )
    tests = [_read_metrics(file) for file in files]
    return [
        ClassificationRun(
            output_dir=folder,
            setting=Setting(_dataset(config, test), network, test["protocol"], test["ways"]),
            top1=100 - test["top1"],
            top5=100 - test["top5"],
            num_images=test["images"],
            num_skipped=len(test["skipped"]),
            resize=test.get("resize"),
            interpolation=test.get("interpolation"),
            seed=seed
            if isinstance(seed, int) and seed >= 0
            else None,  # below 0: drawn, and not on record
            config=config,
            last_checkpoint=FINAL if (folder / FINAL).is_file() else last_checkpoint_of(folder),
        )
        for test in tests
    ]


def _read_metrics(file: Path) -> dict[str, Any]:
    """What ``ClassificationMetrics.to_json`` wrote."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}); test the run again") from error
    for key in ("protocol", "ways", "images", "skipped", *METRICS):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(
                f"{file} has no {key}: it is no test of a classifier; test the run again"
            )
    for metric in METRICS:
        value = content[metric]
        if value is None:
            raise ValueError(
                f"{file}: {metric} is null, as no image was tested; test on a set that has some"
            )
        if not isinstance(value, (int, float)) or not 0 <= value <= 100:
            raise ValueError(
                f"{file}: {metric} is {value!r}, which is no percentage (0 to 100); test the run again"
            )
    return content


def _dataset(config: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    """A key of ``DATASETS``; of other sets what was tested on, and trained on."""
    trained_on = _text(config.get("DATASETS.TRAIN"))
    tested_on = test.get("dataset") or _text(config.get("DATASETS.TEST"))
    for name, dataset in DATASETS.items():
        if trained_on == dataset.train and tested_on in dataset.tests:
            return name
    return f"{tested_on} (trained on {trained_on})"


def _text(names: str | Sequence[str] | None) -> str:
    return (names if isinstance(names, str) else ", ".join(names or ())) or "nothing"
