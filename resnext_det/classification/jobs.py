"""Train and test classifiers, each by the processes of a job."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from resnext_det.classification import training
from resnext_det.classification.datasets import open_once
from resnext_det.classification.evaluation import evaluate_on
from resnext_det.classification.protocols import BATCH_SIZES, protocol_of
from resnext_det.classification.weights import FINAL, load_classifier
from resnext_det.config.classification import get_classifier_cfg, load_classifier_config
from resnext_det.data.images.image_set import ImageSet
from resnext_det.evaluation.classification import ClassificationMetrics
from resnext_det.training import distributed
from resnext_det.training.output_folder import (
    check_output_dir,
    check_settings,
    hold_output_dir,
    remove_run,
)
from resnext_det.training.precision import tell_speed_of_precision
from resnext_det.training.processes import TESTING, Processes, check_restarts, launch
from resnext_det.training.setup import list_common_settings
from resnext_det.weights import WeightFile, read_weights
from resnext_det.weights.conversion import assume_preprocessing
from resnext_det.weights.preprocessing import parse_preprocessing
from resnext_det.weights.requirements import read_needed_overrides

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassificationJob(Processes):
    """Say which classifier to train, where, and by how many processes.

    Attributes:
        config_file: a YAML file in the language of ``resnext_det.config.classification``.
        output_dir: replaces ``OUTPUT_DIR``.
        overrides: KEY VALUE pairs that follow the file.
        resume: go on from the newest checkpoint in the output folder.
        resume_anyway: also under settings that change the numbers, or on other images, with a
            warning.
        overwrite: train anew in a folder with a run, which is removed; otherwise it is refused.
        fit_config: take the network (DEPTH ... of MODEL.RESNETS), channel order, pixel mean and std
            and STRIDE_IN_1X1 from what ``MODEL.WEIGHTS`` needs.
        preprocessing: what is true of ``MODEL.WEIGHTS``, where the file does not tell: a publisher
            or numbers, see ``parse_preprocessing``.
        deterministic: compute by deterministic algorithms alone, see ``launch``.
    """

    config_file: str | Path
    output_dir: str | Path | None = None
    overrides: tuple[str, ...] = ()
    resume: bool = False
    resume_anyway: bool = False
    overwrite: bool = False
    fit_config: bool = False
    preprocessing: str | None = None
    deterministic: bool = False

    def configuration(self) -> CfgNode:
        """Load the configuration with every override.

        Raises:
            ValueError, FileNotFoundError: see ``load_classifier_config``.
        """
        if self.preprocessing is not None:
            parse_preprocessing(self.preprocessing)  # an error comes before any work
        overrides = list(self.overrides)
        if self.output_dir is not None:
            overrides += ["OUTPUT_DIR", str(self.output_dir)]
        cfg = load_classifier_config(self.config_file, overrides)
        if self.fit_config and cfg.MODEL.WEIGHTS:
            needed = read_needed_overrides(
                cfg,
                cfg.MODEL.WEIGHTS,
                overridden=self.overrides[::2],
                preprocessing=self.preprocessing,
                defaults=get_classifier_cfg(),
            )
            cfg = load_classifier_config(self.config_file, [*overrides, *needed])
        return cfg


@dataclass(frozen=True)
class Pretrained:
    """Hold the results of training a classifier.

    Attributes:
        output_dir: the folder of everything.
        weights: the file for ``MODEL.WEIGHTS`` of a detector.
        tests: top-1 and the rest; two where the test set has some of the classes only, none without
            a test set.
    """

    output_dir: Path
    weights: Path
    tests: Sequence[ClassificationMetrics] = field(default=())


def pretrain(job: ClassificationJob) -> Pretrained:
    """Train a classifier and test it on ``DATASETS.TEST``.

    The output folder gets config.yaml, log.txt, metrics.json, TensorBoard events, checkpoints to
    resume from, model_best.pth and model_final.pth (weights alone, with preprocessing,
    architecture, classes and top-1), and test/*.json.

    Raises:
        ValueError, OSError: the configuration, the data or the weights are wrong, the GPU's memory
            is full, a checkpoint cannot be written, a process was killed; the text says what to do.
        FloatingPointError: a loss is not finite.
        TrainingInterrupted: Ctrl-C or SIGTERM came, and a checkpoint was left. Outside of a step it
            is a plain KeyboardInterrupt.
    """
    cfg = job.configuration()
    distributed.resolve_device(cfg.MODEL.DEVICE)
    check_restarts(resume=job.resume)
    check_output_dir(cfg, resume=job.resume, overwrite=job.overwrite)
    for sentence in check_settings(cfg, anyway=job.resume_anyway) if job.resume else ():
        logger.warning(sentence)
    if job.world_size > 1:  # an error here comes before any process is started
        distributed.divide_batch(cfg.SOLVER.IMS_PER_BATCH, job.world_size)
    names = ("resume", "overwrite", "deterministic")
    flags = {f"--{name}": getattr(job, name) for name in names}
    settings = {**list_common_settings(cfg), **flags}
    tests = launch(
        _train,
        job,
        device=cfg.MODEL.DEVICE,
        args=(job,),
        settings=settings,
        deterministic=job.deterministic,
    )
    folder = Path(cfg.OUTPUT_DIR)
    return Pretrained(folder, folder / FINAL, tuple(tests or ()))


def pretrain_seeds(job: ClassificationJob, seeds: Sequence[int]) -> list[Pretrained]:
    """Train once for each seed, in the folder ``seed_N`` of the output folder.

    Table 7 of the paper is of ten such trainings.

    Raises:
        ValueError: a seed is given twice or negative; and as ``pretrain``.
        OSError, FloatingPointError, TrainingInterrupted: as ``pretrain``.
    """
    if len(set(seeds)) < len(seeds) or min(seeds, default=0) < 0:
        raise ValueError(f"the seeds are {list(seeds)}; write different numbers from 0 on")
    folder = Path(job.configuration().OUTPUT_DIR)
    jobs = [
        replace(
            job,
            output_dir=folder / f"seed_{seed}",
            overrides=(*job.overrides, "SEED", str(seed)),
        )
        for seed in seeds
    ]
    for one in jobs:
        cfg = one.configuration()
        check_output_dir(cfg, resume=job.resume, overwrite=job.overwrite)
    if job.overwrite:  # all now: a later --resume must not find old runs of other seeds
        for one in jobs:
            remove_run(one.configuration().OUTPUT_DIR)
    return [pretrain(one) for one in jobs]


def _train(job: ClassificationJob) -> list[ClassificationMetrics]:
    cfg = job.configuration()
    with hold_output_dir(cfg.OUTPUT_DIR):
        return training.train(
            cfg,
            resume=job.resume,
            resume_anyway=job.resume_anyway,
            overwrite=job.overwrite,
            overridden=job.overrides[::2],
            preprocessing=job.preprocessing,
        )


@dataclass(frozen=True)
class EvaluationJob(Processes):
    """Say which weights to test, on which images, and how.

    None stands for what the weights were tested with in training, or else for the usual.

    Attributes:
        weights: a file, or a name of the catalog.
        dataset: a name or a path, see ``open_image_set``.
        protocol, size, resize, scales, interpolation: see ``protocol_of``.
        preprocessing: a publisher or numbers, where the weights do not say what they need; see
            ``parse_preprocessing``.
        amp: compute in bfloat16.
        device: "cuda" or "cpu"; None or "auto" for cuda where there is a GPU, else cpu.
        batch_size: images of a process at once; None for ``BATCH_SIZES``.
        num_workers, skip_broken: of a process.
    """

    weights: str
    dataset: str
    protocol: str = "center"
    size: int | None = None
    resize: int | None = None
    scales: Sequence[int] | None = None
    interpolation: str | None = None
    preprocessing: str | None = None
    amp: bool = False
    device: str | None = None
    batch_size: int | None = None
    num_workers: int = 4
    skip_broken: bool = False


def evaluate_weights(job: EvaluationJob) -> list[ClassificationMetrics]:
    """Test a file of weights.

    Returns:
        The metrics over all outputs, then those of the set's classes among themselves where these
        are fewer.

    Raises:
        ValueError, FileNotFoundError: weights, set or settings are wrong, or an image is broken.
    """
    if job.preprocessing is not None:
        parse_preprocessing(job.preprocessing)  # an error comes before any process is started
    device = distributed.choose_device(job.device or distributed.AUTO)
    distributed.resolve_device(device, setting="--device")
    own = {field.name for field in fields(Processes)} | {"num_workers"}
    settings = {name: value for name, value in vars(job).items() if name not in own}
    tests = launch(_test, job, device=device, args=(job,), advice=TESTING, settings=settings)
    return list(tests or ())


def _test(job: EvaluationJob) -> list[ClassificationMetrics]:
    file = assume_preprocessing(read_weights(job.weights, mapped=True), job.preprocessing)
    protocol = protocol_of(
        file,
        job.protocol,
        size=job.size,
        resize=job.resize,
        scales=job.scales,
        interpolation=job.interpolation,
    )
    device = distributed.resolve_device(job.device or distributed.AUTO)
    network = load_classifier(file).to(device)
    images = open_once(job.dataset)
    amp_dtype = torch.bfloat16 if job.amp else None
    tell_speed_of_precision(device, amp_dtype, "--amp")
    return evaluate_on(
        network,
        images,
        protocol,
        outputs=_name_outputs(file, images),
        batch_size=BATCH_SIZES[job.protocol] if job.batch_size is None else job.batch_size,
        num_workers=job.num_workers,
        skip_broken=job.skip_broken,
        amp_dtype=amp_dtype,
    )


def _name_outputs(file: WeightFile, images: ImageSet) -> Sequence[str]:
    """Name the classes of the outputs, by the file or else by the set."""
    if file.class_names is not None:
        return file.class_names
    count = len(file.state["linear.bias"])
    if count != len(images.class_names):
        raise ValueError(
            f"{file.path} has {count} outputs and does not name their classes, and {images.name!r} "
            f"has {len(images.class_names)} classes; give a set of as many classes, whose names in "
            "ascending order are those of the outputs"
        )
    return images.class_names
