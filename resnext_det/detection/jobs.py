"""Give a job to the engine that does it: a ``Job`` goes in, ``Metrics`` come out."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from fvcore.common.config import CfgNode

from resnext_det.config.detection import scale_to_processes
from resnext_det.config.loading import drop_idle_overrides, list_set_keys
from resnext_det.data.coco import register_coco
from resnext_det.detection.advice import find_rate_mistake
from resnext_det.detection.backends import CalibrationData, check_optimization
from resnext_det.detection.best import check_best
from resnext_det.detection.datasets import CLASS_KEYS, check_named, find_class_key
from resnext_det.detection.evaluation import DatasetMetrics
from resnext_det.detection.fit_memory import fit_memory
from resnext_det.detection.memory_saving import NO_SAVING, MemorySaving
from resnext_det.detection.own_data import Fitted, fit_to_data, take_classes
from resnext_det.detection.step_memory import Trial
from resnext_det.detection.weights import (
    explain_no_config,
    locate_weights,
    read_start,
    read_trained_config,
)
from resnext_det.runtimes.backends import check_backend
from resnext_det.training import distributed
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.output_folder import (
    check_output_dir,
    check_settings,
    hold_output_dir,
)
from resnext_det.training.processes import Processes, check_restarts, count_processes, launch
from resnext_det.training.setup import CONFIG_FILE, list_common_settings, setup_logging
from resnext_det.weights.preprocessing import parse_preprocessing
from resnext_det.weights.requirements import read_needed_overrides

logger = logging.getLogger(__name__)

ENGINES = ("auto", "portable", "detectron2")

DEFAULT_CONFIG = "modern/faster_rcnn_X50_32x4d_FPN_1x.yaml"
"""What a detector of one's own data is trained with where no configuration is given."""


class Engine(Protocol):
    """Read configurations, and train and evaluate what they describe, in every process of a job.

    The modules ``portable.engine`` and ``detectron2.engine`` are the two engines.
    """

    def load_config(
        self, path: str | Path | Mapping[str, Any], overrides: Sequence[Any] = ()
    ) -> CfgNode: ...

    def train(
        self,
        cfg: CfgNode,
        *,
        resume: bool = False,
        resume_anyway: bool = False,
        overwrite: bool = False,
        overridden: Collection[str] = (),
        preprocessing: str | None = None,
        check_data: bool = False,
        saving: MemorySaving = NO_SAVING,
    ) -> Mapping[str, DatasetMetrics]: ...

    def evaluate(
        self,
        cfg: CfgNode,
        *,
        resume: bool = False,
        overridden: Collection[str] = (),
        preprocessing: str | None = None,
        check_data: bool = False,
        backend: str | None = None,
        dtype: str | None = None,
        calibration_data: CalibrationData = None,
    ) -> Mapping[str, DatasetMetrics]: ...

    def open_trial(self, cfg: CfgNode) -> AbstractContextManager[Trial]: ...

    def propose(
        self,
        cfg: CfgNode,
        files: Mapping[str, str | Path],
        *,
        resume: bool = False,
        overridden: Collection[str] = (),
        preprocessing: str | None = None,
    ) -> None: ...


def find_engine(name: str) -> Engine:
    """Import an engine by name; ``auto`` is detectron2 where that is installed, else portable.

    Raises:
        ValueError: the name is unknown, or detectron2 cannot be imported.
    """
    if name not in ENGINES:
        raise ValueError(f"engine {name!r} is unknown; choose {', '.join(ENGINES)}")
    installed = importlib.util.find_spec("detectron2") is not None
    if name == "portable" or (name == "auto" and not installed):
        import resnext_det.detection.portable.engine as portable

        return portable
    try:
        import resnext_det.detection.detectron2.engine as detectron2
    except ImportError as error:
        raise ValueError(
            f"engine 'detectron2' cannot be used here ({error}); install detectron2 as its own "
            "installation page says, or write --engine portable, which computes the same numbers"
        ) from error
    return detectron2


@dataclass(frozen=True)
class Job(Processes):
    """Describe what is to be trained or evaluated, where, and by how many processes.

    Attributes:
        config_file: a YAML file in detectron2's language; None: the configuration in the file of a
            trained detector, the weights, and else with ``train_data`` that of ``DEFAULT_CONFIG``.
        output_dir: replaces ``OUTPUT_DIR``.
        overrides: KEY VALUE pairs that follow the file; they hold against what the file of a
            trained detector says, aloud.
        weights: replaces ``MODEL.WEIGHTS``.
        engine: ``portable``, ``detectron2``, or ``auto``.
        resume: go on from the newest checkpoint in the output folder.
        resume_anyway: also under settings that change the numbers, or on other contents of the
            training sets, with a warning.
        overwrite: train anew in a folder with a run, which is removed; otherwise it is refused.
        fit_config: take the network (DEPTH ... of MODEL.RESNETS), channel order, pixel mean and
            std, STRIDE_IN_1X1 and NORM from what the weights need, and all that decides its numbers
            from a trained detector's; ``overrides`` hold against the latter.
        preprocessing: what is true of the weights, where their file does not tell: a publisher or
            numbers, see ``parse_preprocessing``.
        datasets: (name, annotations, images) of COCO sets to register; ``train`` and ``evaluate``
            refuse them where ``DATASETS.TRAIN`` and ``DATASETS.TEST`` name none of them.
        train_data, test_data: (annotations, images) of COCO sets that become ``DATASETS.TRAIN`` and
            ``DATASETS.TEST``. Without the second a fifth of the first is held out for it.
        schedule: "auto" chooses the schedule and the image sizes from the data and the machine, see
            ``choose_schedule``; "config" keeps those of the configuration. None is "auto" where
            ``train_data`` stands without ``config_file``.
        check_data: decode every image before the first step, and not a sample's headers alone.
        backend, dtype, calibration_data: what ``evaluate`` computes by, see ``optimize_detector``;
            None is exact.
        accumulate, recompute: see ``MemorySaving``. Batch, schedule and random draws are those of
            a training without, so that a run may be resumed with other values.
        fit_memory: bytes into which a step of each process shall fit; how, ``fit_memory`` chooses
            in place of ``accumulate`` and ``recompute``.
        deterministic: compute by deterministic algorithms alone, see ``launch``.
    """

    config_file: str | Path | None = None
    output_dir: str | Path | None = None
    overrides: tuple[str, ...] = ()
    engine: str = "auto"
    resume: bool = False
    resume_anyway: bool = False
    overwrite: bool = False
    fit_config: bool = False
    preprocessing: str | None = None
    datasets: tuple[tuple[str, str, str], ...] = ()
    train_data: tuple[str, str] | None = None
    test_data: tuple[str, str] | None = None
    schedule: Literal["auto", "config"] | None = None
    weights: str | Path | None = None
    check_data: bool = False
    backend: str | None = None
    dtype: str | None = None
    calibration_data: CalibrationData = None
    accumulate: int = 1
    recompute: tuple[str, ...] = ()
    fit_memory: int | None = None
    deterministic: bool = False

    def configuration(self, *, training: bool = True) -> CfgNode:
        """Load the configuration with every override, in the language of the engine.

        What the configuration leaves to the data is taken from there: the number of classes and,
        where the job says so, the schedule.

        Args:
            training: the weights are trained on. Else nothing is chosen for a training, and
                ``fit_config`` fits the settings of tests and the classes too.

        Raises:
            ValueError, FileNotFoundError: see ``load_config`` and ``fit_to_data``; there is no
                configuration.
        """
        return self.fit(training=training)[0]

    def fit(self, *, training: bool = True) -> tuple[CfgNode, Fitted]:
        """Load the configuration; return it, and what was decided for it."""
        for name, annotations_file, image_dir in self.datasets:
            register_coco(name, annotations_file, image_dir)
        if self.preprocessing is not None:
            parse_preprocessing(self.preprocessing)  # an error comes before any work
        load_config = find_engine(self.engine).load_config
        overrides = self._list_overrides()
        source = self._choose_source(overrides, training=training)
        fitted = Fitted(saving=MemorySaving(self.accumulate, self.recompute))
        own = self.config_file is None and self.train_data is not None
        if self.config_file is None:
            fitted.set("MODEL.DEVICE", "auto")
            of = "that in the weights' file" if isinstance(source, Mapping) else source
            fitted.told.append(f"No configuration is given; {of} is taken.")
        schedule = self.schedule or ("auto" if own else "config")

        def load(decided: Sequence[str]) -> CfgNode:
            cfg = load_config(source, [*decided, *overrides])
            # Before weights are looked for, which may have to be downloaded.
            check_optimization(cfg, self.backend, self.dtype, self.calibration_data)
            return cfg

        set_keys = self._list_set_keys(source, overrides, training=training)
        fit_to_data(
            fitted,
            load,
            train_data=self.train_data,
            test_data=self.test_data,
            set_keys=set_keys,
            given=overrides[::2],
            schedule=training and schedule == "auto",
            training=training,
            resume=self.resume,
            overwrite=self.overwrite,
            processes=count_processes(self),
        )
        cfg = load_config(source, [*fitted.overrides, *overrides])
        weights = locate_weights(cfg, resume=self.resume)
        if self.fit_config and weights:
            overrides += self._fit_to_weights(fitted, cfg, weights, training=training)
            kind, cfg = find_class_key(cfg), load_config(source, [*fitted.overrides, *overrides])
            if find_class_key(cfg) != kind:
                said = overrides[::2] if training and self.train_data else set_keys
                take_classes(fitted, cfg, said, training=training, resume=self.resume)
                cfg = load_config(source, [*fitted.overrides, *overrides])
        overrides = [*fitted.overrides, *overrides]
        if chosen := self._fit_to_memory(fitted, cfg) if training else []:
            overrides += chosen
            cfg = load_config(source, overrides)
        if training:
            fitted.warnings += _check_rate(cfg, overrides, lambda words: load_config(source, words))
        return cfg, fitted

    def _fit_to_weights(
        self, fitted: Fitted, cfg: CfgNode, weights: Path | str, *, training: bool
    ) -> list[str]:
        """List the settings that weights need; drop those decided before that they leave idle."""
        needed = read_needed_overrides(
            cfg,
            weights,
            overridden=self.overrides[::2],
            training=training and isinstance(weights, str),
            preprocessing=self.preprocessing,
        )
        needed = drop_idle_overrides(cfg, needed)
        if needed:
            pairs = map(" ".join, zip(needed[::2], needed[1::2]))
            fitted.told.append(f"Fitted to {weights}: {', '.join(pairs)}.")
        # A detector of another kind reads other keys than those that were chosen before.
        kept = drop_idle_overrides(cfg, [*fitted.overrides, *needed])
        fitted.overrides = kept[: len(kept) - len(needed)]
        return needed

    def _fit_to_memory(self, fitted: Fitted, cfg: CfgNode) -> list[str]:
        """Choose how a step fits into ``fit_memory``; list the settings that change for it."""
        if self.fit_memory is None:
            return []
        # What takes a minute comes after what is refused at once.
        self.check_start(cfg)
        read_start(
            cfg,
            resume=self.resume,
            overridden=self.overrides[::2],
            preprocessing=self.preprocessing,
        )
        done = len(fitted.overrides)
        fit_memory(
            fitted,
            cfg,
            limit=self.fit_memory,
            given=self.overrides[::2],
            processes=count_processes(self),
            open_trial=find_engine(self.engine).open_trial,
        )
        return fitted.overrides[done:]

    def check_start(self, cfg: CfgNode) -> None:
        """Refuse a training that cannot begin: its device, sets, environment or folder.

        Raises:
            ValueError: naming what is wrong and what to write.
        """
        distributed.resolve_device(cfg.MODEL.DEVICE)
        check_registered([name for name, *_ in self.datasets], cfg)
        check_best(cfg)
        check_restarts(resume=self.resume)
        check_output_dir(cfg, resume=self.resume, overwrite=self.overwrite)

    def _list_overrides(self) -> list[str]:
        """List the KEY VALUE pairs, with those that fields of their own stand for."""
        overrides = list(self.overrides)
        if self.weights is not None:
            other = dict(zip(overrides[::2], overrides[1::2])).get("MODEL.WEIGHTS")
            if other not in (None, str(self.weights)):
                raise ValueError(
                    f"--weights {self.weights} and MODEL.WEIGHTS {other} are two files; give one"
                )
            overrides += ["MODEL.WEIGHTS", str(self.weights)]
        if self.output_dir is not None:
            overrides += ["OUTPUT_DIR", str(self.output_dir)]
        return overrides

    def _choose_source(
        self, overrides: Sequence[str], *, training: bool
    ) -> str | Path | Mapping[str, Any]:
        """Choose the configuration: the file's, that of a trained detector, or the default one.

        With ``resume`` the trained detector is the newest checkpoint of ``OUTPUT_DIR``.
        """
        if self.config_file is not None:
            return self.config_file
        given = dict(zip(overrides[::2], overrides[1::2]))
        weights: str | Path | None = given.get("MODEL.WEIGHTS")
        if self.resume and "OUTPUT_DIR" in given:
            weights = Checkpointer(given["OUTPUT_DIR"]).latest() or weights
        values = read_trained_config(weights) if weights else None
        if values is not None:
            return values
        if self.train_data is not None:
            return DEFAULT_CONFIG
        missing = explain_no_config(weights) if weights else "there is none"
        beside = Path(weights).with_name(CONFIG_FILE) if weights else None
        example = f", such as {beside}," if beside is not None and beside.is_file() else ","
        raise ValueError(
            f"a configuration is needed, and {missing}; give one with --config-file{example} or "
            "the file of a detector that was trained here, which holds its own, with --weights"
            + "; to train on your own images --train-data is enough"
            * training
        )

    def _list_set_keys(
        self,
        source: str | Path | Mapping[str, Any],
        overrides: Sequence[str],
        *,
        training: bool,
    ) -> set[str]:
        """List the keys that it says; a training on other data may change the classes."""
        if not isinstance(source, Mapping):
            return list_set_keys(source, overrides)
        said = set(overrides[::2])
        return said if training and not self.resume else said | set(CLASS_KEYS)


def check_registered(names: Sequence[str], cfg: CfgNode) -> None:
    """Refuse sets that were registered by name where the configuration names none of them."""
    used = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    if names and used.isdisjoint(names):
        raise ValueError(
            f"the registered sets {', '.join(names)} are not used: DATASETS.TRAIN is "
            f"{tuple(cfg.DATASETS.TRAIN)} and DATASETS.TEST {tuple(cfg.DATASETS.TEST)}; name them "
            f"there, such as DATASETS.TRAIN '(\"{names[0]}\",)'"
        )


def _check_rate(
    cfg: CfgNode, overrides: Sequence[str], load: Callable[[Sequence[str]], CfgNode]
) -> list[str]:
    """Find a batch that overrides change without its learning rate.

    Args:
        load: loads the configuration with overrides.

    Returns:
        sentences, see ``find_rate_mistake``.
    """
    keys = overrides[::2]
    if "SOLVER.IMS_PER_BATCH" not in keys or "SOLVER.BASE_LR" in keys:
        return []
    pairs = zip(keys, overrides[1::2])
    others = [word for pair in pairs if pair[0] != "SOLVER.IMS_PER_BATCH" for word in pair]
    return list(find_rate_mistake(cfg, load(others)))


@dataclass(frozen=True)
class Metrics:
    """Hold the numbers of every ``DATASETS.TEST``, by name, and the folder with everything else.

    The numbers are ``CocoMetrics``, a ProposalNetwork's ``ProposalMetrics``, or with masks and
    keypoints what detectron2 computes; all have the methods of ``DatasetMetrics``. Without a test
    set there are none, nor in other processes than the first.

    Attributes:
        of_first_process: whether this is of the process that writes the folder's files.
    """

    output_dir: Path
    per_dataset: Mapping[str, Any] = field(default_factory=dict)
    of_first_process: bool = True

    def __str__(self) -> str:
        return "\n\n".join(
            f"{name}\n{metrics.format_table()}" for name, metrics in self.per_dataset.items()
        )


def train(job: Job) -> Metrics:
    """Train a detector and evaluate it on ``DATASETS.TEST``.

    The output folder gets detectron2's files: config.yaml, log.txt, metrics.json, TensorBoard
    events, checkpoints and inference/coco_instances_results.json.

    Raises:
        ValueError, OSError: the configuration, the data or the weights are wrong, the GPU's memory
            is full, a checkpoint cannot be written, a process was killed; the text says what to do.
        FloatingPointError: a loss is not finite.
        TrainingInterrupted: Ctrl-C or SIGTERM; a checkpoint was left. Outside of a step it is a
            plain KeyboardInterrupt.
    """
    return _run(job, "train")


def evaluate(job: Job) -> Metrics:
    """Evaluate a trained detector on ``DATASETS.TEST``.

    The weights are ``MODEL.WEIGHTS``, or with ``job.resume`` the newest checkpoint of the output
    folder.

    Raises:
        ValueError, OSError: as ``train``; the weights are not those of a whole detector.
    """
    return _run(job, "evaluate")


def propose(job: Job, files: Mapping[str, Path]) -> None:
    """Write the proposals of a trained ProposalNetwork, with the weights that ``evaluate`` takes.

    Args:
        files: name of a dataset -> file to write, in detectron2's form.

    Raises:
        ValueError, OSError: as ``evaluate``; the model gives no proposals.
    """
    _run(job, "propose", files)


_Task = Literal["train", "evaluate", "propose"]


def _run(job: Job, task: _Task, files: Mapping[str, Path] | None = None) -> Metrics:
    if job.backend is not None:
        check_backend(job.backend)
    cfg, fitted = job.fit(training=task == "train")
    # What would fail in every process is told before any is started.
    distributed.resolve_device(cfg.MODEL.DEVICE)
    if task == "evaluate":
        check_registered([name for name, *_ in job.datasets], cfg)
        check_named(cfg, "TEST")
    if task == "train":
        job.check_start(cfg)
        if job.resume:
            fitted.warnings += check_settings(cfg, anyway=job.resume_anyway)
        batch = cfg.SOLVER.IMS_PER_BATCH
        if job.world_size > 1:
            batch = scale_to_processes(cfg, job.world_size).SOLVER.IMS_PER_BATCH
            batch = distributed.divide_batch(batch, job.world_size)
        fitted.saving.check_batch(batch)
    arguments = (job, cfg, fitted, task, files)
    flags = {
        "the command": task,
        **{f"--{name}": getattr(job, name) for name in ("engine", "resume", "overwrite")},
        **{f"--{name}": getattr(job, name) for name in ("accumulate", "recompute", "backend")},
        "--fit-memory": job.fit_memory,
        "--deterministic": job.deterministic,
    }
    settings = {**list_common_settings(cfg), **flags}
    per_dataset = launch(
        _run_task,
        job,
        device=cfg.MODEL.DEVICE,
        args=arguments,
        settings=settings,
        deterministic=job.deterministic,
    )
    return Metrics(Path(cfg.OUTPUT_DIR), per_dataset or {}, per_dataset is not None)


def _run_task(
    job: Job, cfg: CfgNode, fitted: Fitted, task: _Task, files: Mapping[str, Path] | None
) -> Mapping[str, DatasetMetrics] | None:
    """Do a job's task in one process, which for a training holds the output folder.

    Returns:
        the numbers by name of the test set; None in other processes than the first.
    """
    with hold_output_dir(cfg.OUTPUT_DIR) if task == "train" else contextlib.nullcontext():
        found = _start_task(job, cfg, fitted, task, files)
        return found if distributed.is_main_process() else None


def _start_task(
    job: Job, cfg: CfgNode, fitted: Fitted, task: _Task, files: Mapping[str, Path] | None
) -> Mapping[str, DatasetMetrics] | None:
    """Register the datasets, tell what was decided for the job, and let the engine do its task."""
    for dataset in (*job.datasets, *fitted.datasets):
        register_coco(*dataset)
    engine = find_engine(job.engine)
    by_hand: dict[str, Any] = {
        "resume": job.resume,
        "overridden": job.overrides[::2],
        "preprocessing": job.preprocessing,
    }
    if fitted.told or fitted.warnings:
        with contextlib.suppress(OSError, ValueError):  # of the folder, which the engine explains
            setup_logging(cfg.OUTPUT_DIR)
    for sentence in fitted.told:
        logger.info(sentence)
    for sentence in fitted.warnings:
        logger.warning(sentence)
    if files is not None:
        engine.propose(cfg, files, **by_hand)
        return None
    by_hand["check_data"] = job.check_data
    if task == "train":
        how: dict[str, Any] = {"resume_anyway": job.resume_anyway, "overwrite": job.overwrite}
        return engine.train(cfg, saving=fitted.saving, **how, **by_hand)
    return engine.evaluate(
        cfg, backend=job.backend, dtype=job.dtype, calibration_data=job.calibration_data, **by_hand
    )
