"""The seam between a job and the engine that does it: a Job goes in, Metrics come out."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.config.detection import scale_to_processes
from resnext_det.data.coco import register_coco
from resnext_det.training import distributed
from resnext_det.training.processes import explain_small_machines, launch_job
from resnext_det.weights.agreement import needed_by_weights

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
        fit_config: take channel order, pixel mean and std, STRIDE_IN_1X1 and NORM from what ``MODEL.WEIGHTS`` needs.
        datasets: (name, annotations, images) of COCO sets to register.
        num_machines, machine_rank, dist_url: as detectron2's flags of these names.
    """

    config_file: str | Path
    output_dir: str | Path | None = None
    overrides: tuple[str, ...] = ()
    engine: str = "auto"
    num_gpus: int = 1
    resume: bool = False
    fit_config: bool = False
    datasets: tuple[tuple[str, str, str], ...] = ()
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"

    def configuration(self) -> CfgNode:
        """The configuration with every override, in the language of the engine.

        Raises:
            ValueError, FileNotFoundError: see ``load_config``.
        """
        load_config = _engine(self.engine).load_config
        overrides = list(self.overrides)
        if self.output_dir is not None:
            overrides += ["OUTPUT_DIR", str(self.output_dir)]
        cfg = load_config(self.config_file, overrides)
        if self.fit_config and cfg.MODEL.WEIGHTS:
            overrides += needed_by_weights(cfg)
            cfg = load_config(self.config_file, overrides)
        return cfg


@dataclass(frozen=True)
class Metrics:
    """What came out: the numbers of every ``DATASETS.TEST``, by name, and the folder with everything else.

    They are ``CocoMetrics``, a ProposalNetwork's ``ProposalMetrics``, or with masks and keypoints what detectron2 computes; all have
    ``as_dict``, ``table``, ``summary`` and ``to_json``.
    """

    output_dir: Path
    per_dataset: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n\n".join(
            f"{name}\n{metrics.table()}" for name, metrics in self.per_dataset.items()
        )


def train(job: Job) -> Metrics:
    """Train a detector and evaluate it on ``DATASETS.TEST``.

    The output folder gets detectron2's files: config.yaml, log.txt, metrics.json, TensorBoard events, checkpoints and
    inference/coco_instances_results.json.

    Raises:
        ValueError, OSError: the configuration, the data or the weights are wrong, the GPU's memory is full, a checkpoint cannot be
            written, a process was killed; the text says what to do.
        FloatingPointError: a loss is not finite.
        TrainingInterrupted: Ctrl-C or SIGTERM; a checkpoint was left. Outside of a step it is a plain KeyboardInterrupt.
    """
    return _run(job, "train")


def evaluate(job: Job) -> Metrics:
    """Evaluate ``MODEL.WEIGHTS``, or with ``job.resume`` the newest checkpoint of the output folder, on ``DATASETS.TEST``.

    Raises:
        ValueError, OSError: as ``train``; the weights are not those of a whole detector.
    """
    return _run(job, "evaluate")


def propose(job: Job, files: Mapping[str, Path]) -> None:
    """Write the proposals of a trained ProposalNetwork for datasets by name; its weights are those that ``evaluate`` would take.

    Args:
        files: name of a dataset -> file to write, in detectron2's form.

    Raises:
        ValueError, OSError: as ``evaluate``; the model gives no proposals.
    """
    _run(job, "propose", files)


def _run(job: Job, task: str, *arguments: Any) -> Metrics:
    cfg = job.configuration()
    _check_before_launch(cfg, task, job.num_gpus * job.num_machines)
    per_dataset = launch_job(_main, job, device=cfg.MODEL.DEVICE, args=(job, task, *arguments))
    return Metrics(Path(cfg.OUTPUT_DIR), per_dataset or {})


def _check_before_launch(cfg: CfgNode, task: str, processes: int) -> None:
    """What would fail in every process, told before any is started."""
    distributed.resolve_device(cfg.MODEL.DEVICE)
    if task == "train" and processes > 1:
        batch = scale_to_processes(cfg, processes).SOLVER.IMS_PER_BATCH
        distributed.divide_batch(batch, processes)


def _main(job: Job, task: str, *arguments: Any) -> dict[str, Any]:
    """What each process does; registrations and the configuration are made anew in each."""
    for name, annotations_file, image_dir in job.datasets:
        register_coco(name, annotations_file, image_dir)
    with explain_small_machines():
        return getattr(_engine(job.engine), task)(
            job.configuration(), *arguments, resume=job.resume
        )


def _engine(name: str) -> Any:
    """The engine's module: ``load_config``, ``train`` and ``evaluate``; ``auto`` is detectron2 where that is installed."""
    if name not in ENGINES:
        raise ValueError(f"engine {name!r} is unknown; choose {', '.join(ENGINES)}")
    chosen = name
    if name == "auto":
        chosen = "portable" if importlib.util.find_spec("detectron2") is None else "detectron2"
    try:
        return importlib.import_module(f"resnext_det.detection.{chosen}.engine")
    except ImportError as error:
        if chosen == "portable":
            raise
        raise ValueError(
            f"engine 'detectron2' cannot be used here ({error}); install detectron2 as its own installation page says, or write --engine "
            "portable, which computes the same numbers"
        ) from error
