"""The seam between a job and the engine that does it: a Job goes in, Metrics come out."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.config import load_config
from resnext_det.data.coco import register_coco
from resnext_det.evaluation.coco import CocoMetrics
from resnext_det.training.launch import launch

ENGINES = ("auto", "portable", "detectron2")


@dataclass(frozen=True)
class Job:
    """What is to be trained or evaluated, where, and by how many processes.

    Attributes:
        config_file: a YAML file in detectron2's language.
        output_dir: replaces ``OUTPUT_DIR``.
        overrides: KEY VALUE pairs that follow the file.
        engine: ``portable``, ``detectron2``, or ``auto``.
        num_gpus: processes on this machine; on the CPU, processes too.
        resume: go on from the newest checkpoint in the output folder.
        datasets: (name, annotations, images) of COCO sets to register.
        num_machines, machine_rank, dist_url: as detectron2's flags of these names.
    """

    config_file: str | Path
    output_dir: str | Path | None = None
    overrides: tuple[str, ...] = ()
    engine: str = "auto"
    num_gpus: int = 1
    resume: bool = False
    datasets: tuple[tuple[str, str, str], ...] = ()
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"

    def configuration(self) -> CfgNode:
        """The configuration with every override.

        Raises:
            ValueError, FileNotFoundError: see ``load_config``.
        """
        overrides = list(self.overrides)
        if self.output_dir is not None:
            overrides += ["OUTPUT_DIR", str(self.output_dir)]
        return load_config(self.config_file, overrides)


@dataclass(frozen=True)
class Metrics:
    """What came out: COCO's numbers of every ``DATASETS.TEST``, by name, and the folder with everything else."""

    output_dir: Path
    per_dataset: Mapping[str, CocoMetrics] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n\n".join(f"{name}\n{metrics.table()}" for name, metrics in self.per_dataset.items())


def train(job: Job) -> Metrics:
    """Train a detector and evaluate it on ``DATASETS.TEST``.

    The output folder gets detectron2's files: config.yaml, log.txt, metrics.json, TensorBoard events, checkpoints and
    inference/coco_instances_results.json.

    Raises:
        ValueError, FileNotFoundError: the configuration, the data or the weights are wrong; the text says what to do.
        FloatingPointError: a loss is not finite.
        TrainingInterrupted: Ctrl-C; a checkpoint was left.
    """
    return _run(job, "train")


def evaluate(job: Job) -> Metrics:
    """Evaluate ``MODEL.WEIGHTS``, or with ``job.resume`` the newest checkpoint of the output folder, on ``DATASETS.TEST``."""
    return _run(job, "evaluate")


def _run(job: Job, task: str) -> Metrics:
    engine = _choose_engine(job.engine)
    cfg = job.configuration()
    per_dataset = launch(
        _main,
        num_gpus_per_machine=job.num_gpus,
        num_machines=job.num_machines,
        machine_rank=job.machine_rank,
        dist_url=job.dist_url,
        device=cfg.MODEL.DEVICE,
        args=(job, task, engine),
    )
    return Metrics(Path(cfg.OUTPUT_DIR), per_dataset or {})


def _main(job: Job, task: str, engine: str) -> dict[str, CocoMetrics]:
    """What each process does; registrations and the configuration are made anew in each."""
    for name, annotations_file, image_dir in job.datasets:
        register_coco(name, annotations_file, image_dir)
    module: Any = importlib.import_module(f"resnext_det.engines.{engine}.engine")
    return getattr(module, task)(job.configuration(), resume=job.resume)


def _choose_engine(name: str) -> str:
    if name not in ENGINES:
        raise ValueError(f"engine {name!r} is unknown; choose {', '.join(ENGINES)}")
    if name == "detectron2" and importlib.util.find_spec("resnext_det.engines.detectron2") is None:
        raise ValueError(
            "engine 'detectron2' is not part of this version; write --engine portable, which computes the same numbers"
        )
    return "portable" if name == "auto" else name
