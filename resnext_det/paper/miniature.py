"""Table 8 of the paper in miniature: pre-train networks on generated shapes, fine-tune, compare.

What takes the paper ImageNet and COCO takes minutes here. The comparison is of the same kind: a
ResNet and a ResNeXt of equal complexity, each with its own pre-training, and one detector, recipe
and test set for both.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from resnext_det.classification.jobs import ClassificationJob, Pretrained, pretrain
from resnext_det.classification.weights import FINAL
from resnext_det.detection.jobs import Job, train
from resnext_det.paper.comparison import Comparison, compare_detectors
from resnext_det.paper.presentation import format_comparison
from resnext_det.paper.rows import Difference, Row
from resnext_det.paper.runs import read_detector
from resnext_det.training import distributed
from resnext_det.training.output_folder import check_output_dir, find_run, remove_run
from resnext_det.training.setup import setup_logging

logger = logging.getLogger(__name__)

_CLASSIFIER, _DETECTOR = "classifier_", "faster_rcnn_"


@dataclass(frozen=True)
class Settings:
    """Settings of the miniature: networks, seeds and folders.

    Attributes:
        configs: a folder of ``classifier_NAME.yaml`` and ``faster_rcnn_NAME.yaml`` for each
            network, such as configs/miniature/cpu.
        output_dir: gets a folder NAME/classifier, and NAME/seed_N for each detector.
        seeds: of the detectors' trainings; each network is pre-trained once.
        from_random: also train the detectors from random weights, in NAME/random_seed_N.
        resume: go on where an earlier run was; what had ended is only evaluated again.
        overwrite: remove the earlier runs of the output folder, and begin anew.
        engine: of the detectors, see ``Job``.
        device: replaces MODEL.DEVICE.
    """

    configs: Path
    output_dir: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    from_random: bool = False
    resume: bool = False
    overwrite: bool = False
    engine: str = "auto"
    device: str | None = None

    @property
    def overrides(self) -> tuple[str, ...]:
        """List the overrides of every configuration."""
        return () if self.device is None else ("MODEL.DEVICE", self.device)


@dataclass(frozen=True)
class Miniature:
    """The classifiers by network, and the detectors compared; from random weights if asked for."""

    classifiers: dict[str, Pretrained]
    pretrained: Comparison
    from_random: Comparison | None = None

    def format(self) -> str:
        """Format the classifiers' errors, the detectors' table 8, and what pre-training gains."""
        errors = [
            [name, *(f"{100 - metrics.top1:.2f}" for metrics in trained.tests[:1])]
            for name, trained in self.classifiers.items()
        ]
        parts = [
            "Pre-training on single shapes",
            tabulate(errors, ["net", "top-1 error, %"], disable_numparse=True),
            format_comparison(self.pretrained),
        ]
        if self.from_random is not None:
            headers = ["net", "n"]
            for metric in self.pretrained.metrics:
                headers += [f"{metric}, random", f"{metric}, pre-trained", "gain"]
            pairs = zip(self.pretrained.rows, self.from_random.rows, strict=True)
            cells = [_format_gain(*pair, self.pretrained.metrics) for pair in pairs]
            parts += [
                "The same detectors from random weights",
                tabulate(cells, headers, disable_numparse=True),
                "A mean of n runs ± their sample standard deviation; gain: the difference ± its "
                "standard error.",
            ]
        return "\n\n".join(parts)


def _format_gain(trained: Row, random: Row, metrics: Sequence[str]) -> list[str]:
    cells = [trained.name, str(len(trained.runs))]
    for metric in metrics:
        after, before = trained.estimate(metric), random.estimate(metric)
        gain = Difference(trained, random).estimate(metric)
        assert after is not None and before is not None and gain is not None
        cells += [before.format(), after.format(), gain.format("+")]
    return cells


def list_networks(configs: Path) -> list[str]:
    """List the names for which a folder has a classifier and a detector.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: one of the two is missing, or there are none.
    """
    if not configs.is_dir():
        raise FileNotFoundError(
            f"there is no folder {configs}; give one such as configs/miniature/cpu"
        )
    classifiers, detectors = (
        {path.stem.removeprefix(kind) for path in configs.glob(f"{kind}*.yaml")}
        for kind in (_CLASSIFIER, _DETECTOR)
    )
    single = classifiers ^ detectors
    if single or not classifiers:
        missing = f"only one of the two for {', '.join(sorted(single))}" if single else "none"
        raise ValueError(
            f"{configs} needs {_CLASSIFIER}NAME.yaml and {_DETECTOR}NAME.yaml for every network, "
            f"and has {missing}"
        )
    return sorted(classifiers)


def run_miniature(settings: Settings) -> Miniature:
    """Pre-train every network, fine-tune it with every seed, and compare.

    Every configuration is read before the first training.

    Raises:
        ValueError: a configuration is wrong, a seed is there twice, or the output folder has an
            earlier miniature; others as ``pretrain`` and ``train``.
    """
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise ValueError(
            f"the seeds are {list(settings.seeds)}; write one or more different numbers"
        )
    names = list_networks(settings.configs)
    pretraining = {
        name: ClassificationJob(
            settings.configs / f"{_CLASSIFIER}{name}.yaml",
            settings.output_dir / name / "classifier",
            settings.overrides,
            resume=settings.resume,
        )
        for name in names
    }
    finetuning = _make_jobs(settings, names, pretrained=True)
    from_random = _make_jobs(settings, names, pretrained=False) if settings.from_random else []
    _check_jobs(settings, [*pretraining.values(), *finetuning, *from_random])
    classifiers = {}
    for name, job in pretraining.items():
        _log(settings, f"Pre-training the classifier {job.output_dir}")
        classifiers[name] = pretrain(job)
    return Miniature(
        classifiers,
        _train_and_compare(settings, finetuning),
        _train_and_compare(settings, from_random) if from_random else None,
    )


def _make_jobs(settings: Settings, names: Sequence[str], *, pretrained: bool) -> list[Job]:
    """Make a job for each network and seed, from its classifier's weights or from random ones."""
    jobs = []
    for name, seed in itertools.product(names, settings.seeds):
        folder = settings.output_dir / name
        start = str(folder / "classifier" / FINAL) if pretrained else ""
        job = Job(
            settings.configs / f"{_DETECTOR}{name}.yaml",
            folder / f"{'seed' if pretrained else 'random_seed'}_{seed}",
            (*settings.overrides, "MODEL.WEIGHTS", start, "SEED", str(seed)),
            engine=settings.engine,
            resume=settings.resume,
        )
        jobs.append(job)
    return jobs


def _check_jobs(settings: Settings, jobs: Sequence[ClassificationJob | Job]) -> None:
    """Refuse to overwrite an earlier miniature, and read every configuration."""
    earlier = [job.output_dir for job in jobs if find_run(str(job.output_dir))]
    if earlier and not settings.resume and not settings.overwrite:
        raise ValueError(
            f"{settings.output_dir} has {len(earlier)} runs of an earlier miniature ({earlier[0]} "
            "...); add --resume to go on with it, choose another --output-dir, or add --overwrite "
            "to remove them and begin anew"
        )
    for job in jobs:
        cfg = job.configuration()
        distributed.resolve_device(cfg.MODEL.DEVICE, setting="--device")
        check_output_dir(cfg, resume=settings.resume, overwrite=settings.overwrite)
    if settings.overwrite:  # all now: a later --resume must not find old runs
        for job in jobs:
            remove_run(str(job.output_dir))


def _train_and_compare(settings: Settings, jobs: Sequence[Job]) -> Comparison:
    for job in jobs:
        _log(settings, f"Training the detector {job.output_dir}")
        train(job)
    return compare_detectors([read_detector(str(job.output_dir)) for job in jobs])


def _log(settings: Settings, message: str) -> None:
    """Log what comes next in the output folder's log.txt; each training sets up its own."""
    setup_logging(settings.output_dir)
    logger.info(message)
