"""Read what the folder of a run holds for its report; what is missing is told, and no error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from resnext_det.config.detection import get_cfg
from resnext_det.config.rules import collect_values
from resnext_det.config.yaml_files import parse_yaml
from resnext_det.data.annotations.coco_json import read_coco_json
from resnext_det.data.coco import CocoDataset, find_dataset
from resnext_det.evaluation.coco_checks import COCO_LIMIT
from resnext_det.files import shorten_path
from resnext_det.training.checkpoint import LAST_CHECKPOINT
from resnext_det.training.environment import Environment, read_environment
from resnext_det.training.metrics import read_series
from resnext_det.training.setup import CONFIG_FILE, find_recorded

DETECTIONS_FILE = "coco_instances_results.json"


@dataclass(frozen=True)
class Series:
    """Hold a scalar over a training: ``iterations`` and ``values`` of the same length.

    A value that was not finite is nan.
    """

    iterations: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class TestFolder:
    """Hold what a run left of one of ``DATASETS.TEST``.

    Attributes:
        name: of the set.
        detections: a COCO result file; None without one.
        metrics: the numbers that were written, in percent; empty without them.
        max_detections: how many detections of an image and category counted.
    """

    __test__ = False  # it is no test of pytest

    name: str
    detections: Path | None
    metrics: Mapping[str, float]
    max_detections: int = COCO_LIMIT


@dataclass(frozen=True)
class RunFolder:
    """Hold what the folder of a run has: of a training, or of an evaluation alone.

    Attributes:
        path: of the folder, as it was given.
        cfg: the configuration; None where the folder has none.
        config: the same by dotted key; empty without one.
        series: the scalars of metrics.json by name; empty for an evaluation alone.
        tests: of each of ``DATASETS.TEST``, in that order.
        environment: what computed; None in a run of an older version or of detectron2's tools.
        checkpoints: the sizes in bytes of the files of weights, by name.
        last_checkpoint: the name of the newest one; None without one.
        sets: the annotations file and the image folder of datasets that were given by their files.
    """

    path: Path
    cfg: CfgNode | None
    config: Mapping[str, Any]
    series: Mapping[str, Series]
    tests: tuple[TestFolder, ...]
    environment: Environment | None
    checkpoints: Mapping[str, int]
    last_checkpoint: str | None
    sets: Mapping[str, tuple[Path, Path]]

    @property
    def name(self) -> str:
        """Name the run by the last two parts of its folder's path."""
        return shorten_path(self.path.absolute().as_posix())

    @property
    def was_trained(self) -> bool:
        """Tell whether the folder is of a training, and not of an evaluation alone."""
        return any(name in self.series for name in ("total_loss", "lr"))

    @property
    def proposes(self) -> bool:
        """Tell whether its model gives proposals, whose recall is measured, and no detections."""
        return self.get("MODEL.META_ARCHITECTURE") == "ProposalNetwork"

    @property
    def iterations(self) -> int:
        """Count the iterations that were done, as far as metrics.json tells; 0 without it."""
        ends = [series.iterations[-1] for series in self.series.values() if len(series.iterations)]
        done, total = int(max(ends, default=-1)) + 1, self.get("SOLVER.MAX_ITER")
        # The evaluation of a training that was resumed at its end is written as one more.
        return min(done, total) if isinstance(total, int) else done

    def get(self, key: str, default: Any = None) -> Any:
        """Get a setting by its dotted key."""
        return self.config.get(key, default)

    def list_sets(self, split: str) -> tuple[str, ...]:
        """List the names of ``DATASETS.TRAIN`` or ``DATASETS.TEST``; ``split`` is TRAIN or TEST."""
        return tuple(map(str, self.get(f"DATASETS.{split}") or ()))

    def locate_set(self, name: str) -> tuple[Path, Path]:
        """Find the annotations file and the image folder of one of its datasets.

        A generated set is made, where it is missing.

        Raises:
            ValueError: nothing tells where it is.
            FileNotFoundError: the annotations are not there any more.
        """
        known = self.sets.get(name)
        if known is None:
            try:
                known = find_dataset(name)
            except ValueError as error:
                raise ValueError(
                    f"{self.path} does not tell where the set {name} is; say it with "
                    f"--register-coco {name} ANNOTATIONS IMAGES"
                ) from error
        if not known[0].is_file():
            raise FileNotFoundError(
                f"the annotations {known[0]} of the set {name} do not exist any more; say where "
                f"they are with --register-coco {name} ANNOTATIONS IMAGES"
            )
        return known

    def load_set(self, name: str) -> CocoDataset:
        """Load one of its datasets; its images need not be there.

        Raises:
            ValueError, FileNotFoundError: as ``locate_set``; the annotations are not COCO's.
        """
        annotations, images = self.locate_set(name)
        names, records = read_coco_json(annotations, images, name)
        return CocoDataset(name, annotations, images, tuple(names.values()), tuple(names), records)


def read_run(folder: str | Path, *, datasets: Iterable[tuple[str, str, str]] = ()) -> RunFolder:
    """Read the folder of a run of either engine, or of detectron2's own tools.

    Args:
        folder: ``OUTPUT_DIR`` of a training, or of an evaluation alone.
        datasets: (name, annotations, images) of sets whose place the folder does not tell.

    Raises:
        FileNotFoundError: the folder does not exist, or holds no run.
        ValueError: its configuration is damaged, or is that of a classifier.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}; give the OUTPUT_DIR of a training")
    cfg = _read_config(path)
    config = collect_values(cfg) if cfg else {}
    if isinstance(config.get("DATASETS.TEST", ()), str):
        raise ValueError(
            f"{folder} is of a classifier; reports are of detectors: compare classifiers with "
            "resnext-det compare-classifiers"
        )
    series = {
        name: Series(np.array(sorted(pairs)), np.array([pairs[i] for i in sorted(pairs)]))
        for name, pairs in read_series(path / "metrics.json").items()
    }
    tests = tuple(_read_tests(path, config))
    if not series and not any(test.detections or test.metrics for test in tests):
        inside = ", ".join(str(found.parent) for found in sorted(path.glob(f"*/{CONFIG_FILE}")))
        remedy = f"runs within it are {inside}" if inside else "give the OUTPUT_DIR of a training"
        raise FileNotFoundError(
            f"{path} holds neither metrics.json nor detections in inference/, so there is nothing "
            f"to report; {remedy}"
        )
    environment = read_environment(path)
    recorded = environment.sets if environment else {}
    pointer = path / LAST_CHECKPOINT
    return RunFolder(
        path=path,
        cfg=cfg,
        config=config,
        series=series,
        tests=tests,
        environment=environment,
        checkpoints={file.name: file.stat().st_size for file in sorted(path.glob("model_*.pth"))},
        last_checkpoint=pointer.read_text(errors="replace").strip() if pointer.is_file() else None,
        sets={
            **{name: (Path(a), Path(b)) for name, (a, b) in recorded.items()},
            **{name: (Path(a).expanduser(), Path(b).expanduser()) for name, a, b in datasets},
        },
    )


def _read_config(folder: Path) -> CfgNode | None:
    """Read the settings of config.yaml, or else of the newest checkpoint."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        return find_recorded(folder)[1]
    try:
        values = parse_yaml(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            return None
        cfg = CfgNode(values)
        _add_missing(cfg, get_cfg())  # keys that are newer than the run
        return cfg
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} is damaged ({error}); it has to be as it was written") from None


def _add_missing(cfg: CfgNode, defaults: CfgNode) -> None:
    """Add the keys that a configuration lacks, with their defaults."""
    for key, value in defaults.items():
        if key not in cfg:
            cfg[key] = value
        elif isinstance(value, CfgNode) and isinstance(cfg[key], CfgNode):
            _add_missing(cfg[key], value)
        elif isinstance(value, CfgNode):
            raise ValueError(f"{key} has no keys")


def _read_tests(folder: Path, config: Mapping[str, Any]) -> Iterator[TestFolder]:
    names = list(map(str, config.get("DATASETS.TEST") or ()))
    for name in names:
        inference = folder / "inference" / (name if len(names) > 1 else "")
        detections, numbers = inference / DETECTIONS_FILE, _read_numbers(inference / "metrics.json")
        limit = numbers.pop("max_detections", COCO_LIMIT)
        limit = int(limit) if 1 <= limit < math.inf else COCO_LIMIT  # it is damaged
        yield TestFolder(name, detections if detections.is_file() else None, numbers, limit)


def _read_numbers(file: Path) -> dict[str, float]:
    """Read the numbers of a test, null as nan; none where the file is missing or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    pairs = content.items() if isinstance(content, dict) else ()
    return {
        str(name): math.nan if value is None else float(value)
        for name, value in pairs
        if value is None or isinstance(value, int | float)
    }
