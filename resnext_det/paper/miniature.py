"""Table 8 of the paper in miniature: networks are pre-trained and fine-tuned on generated shapes, and compared.

What takes the paper ImageNet and COCO takes minutes here. The comparison is of the same kind: a ResNet and a ResNeXt of equal
complexity, each with its own pre-training, and one detector, recipe and test set for both.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from resnext_det.classification.jobs import ClassificationJob, Pretrained, pretrain
from resnext_det.classification.results import FINAL
from resnext_det.detection.jobs import Job, train
from resnext_det.paper.comparison import compare
from resnext_det.paper.figures import METRICS
from resnext_det.paper.presentation import Comparison
from resnext_det.paper.rows import Estimate, Row
from resnext_det.paper.runs import read_run
from resnext_det.training import distributed
from resnext_det.training.setup import CONFIG_FILE, setup_logging

logger = logging.getLogger(__name__)

_CLASSIFIER, _DETECTOR = "classifier_", "faster_rcnn_"


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        configs: a folder of ``classifier_NAME.yaml`` and ``faster_rcnn_NAME.yaml`` for each network, as configs/miniature/cpu.
        output_dir: gets a folder NAME/classifier, and NAME/seed_N for each detector.
        seeds: of the detectors' trainings; each network is pre-trained once.
        from_random: train the same detectors from random weights too, in NAME/random_seed_N.
        resume: go on where an earlier run was; what had ended is only evaluated again.
        engine: of the detectors, see ``Job``.
        device: replaces MODEL.DEVICE.
    """

    configs: Path
    output_dir: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    from_random: bool = False
    resume: bool = False
    engine: str = "auto"
    device: str | None = None


@dataclass(frozen=True)
class Miniature:
    """What came out.

    Attributes:
        classifiers: what pre-training left, by network.
        pretrained: the detectors that started from it.
        random: the same detectors from random weights; None where they were not asked for.
    """

    classifiers: dict[str, Pretrained]
    pretrained: Comparison
    random: Comparison | None = None

    def table(self) -> str:
        """Top-1 of the classifiers, table 8 of the detectors, and what pre-training gives."""
        rows = [
            [name, *(f"{100 - metrics.top1:.2f}" for metrics in trained.tests[:1])]
            for name, trained in self.classifiers.items()
        ]
        parts = [
            "Pre-training on single shapes",
            tabulate(rows, ["net", "top-1 error, %"], disable_numparse=True),
        ]
        parts.append(self.pretrained.table())
        if self.random is not None:
            gains = [
                _gain(*pair) for pair in zip(self.pretrained.rows, self.random.rows, strict=True)
            ]
            headers = ["net", "n"]
            for metric in METRICS:
                headers += [f"{metric}, random", f"{metric}, pre-trained", "gain"]
            parts += [
                "The same detectors from random weights",
                tabulate(gains, headers, disable_numparse=True),
                "A mean of n runs ± their sample standard deviation; gain: the difference ± its standard error.",
            ]
        return "\n\n".join(parts)


def networks_of(configs: Path) -> list[str]:
    """The names for which a folder has a classifier and a detector.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: one of the two is missing, or there are none.
    """
    if not configs.is_dir():
        raise FileNotFoundError(
            f"there is no folder {configs}; give one such as configs/miniature/cpu"
        )
    found = {
        kind: {path.stem.removeprefix(kind) for path in configs.glob(f"{kind}*.yaml")}
        for kind in (_CLASSIFIER, _DETECTOR)
    }
    single = found[_CLASSIFIER] ^ found[_DETECTOR]
    if single or not found[_CLASSIFIER]:
        missing = f"only one of the two for {', '.join(sorted(single))}" if single else "none"
        raise ValueError(
            f"{configs} needs {_CLASSIFIER}NAME.yaml and {_DETECTOR}NAME.yaml for every network, and has {missing}"
        )
    return sorted(found[_CLASSIFIER])


def run_miniature(settings: Settings) -> Miniature:
    """Pre-train every network, fine-tune it with every seed, and compare; every configuration is read before the first training.

    Raises:
        ValueError, OSError: a configuration is wrong, a seed is there twice; see ``pretrain`` and ``train``.
        FloatingPointError, TrainingInterrupted: as there.
    """
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise ValueError(
            f"the seeds are {list(settings.seeds)}; write one or more different numbers"
        )
    names = networks_of(settings.configs)
    pretraining = {name: _pretraining(settings, name) for name in names}
    finetuning = _detectors(settings, names, pretrained=True)
    from_random = _detectors(settings, names, pretrained=False) if settings.from_random else []
    _check(settings, [*pretraining.values(), *finetuning, *from_random])
    classifiers = {name: _pretrained(settings, job) for name, job in pretraining.items()}
    pretrained = _compared(settings, finetuning)
    return Miniature(
        classifiers, pretrained, _compared(settings, from_random) if from_random else None
    )


def _pretraining(settings: Settings, name: str) -> ClassificationJob:
    return ClassificationJob(
        settings.configs / f"{_CLASSIFIER}{name}.yaml",
        settings.output_dir / name / "classifier",
        _device(settings),
        resume=settings.resume,
    )


def _detectors(settings: Settings, names: Sequence[str], *, pretrained: bool) -> list[Job]:
    """A training for each network and seed, from what ``_pretraining`` leaves or from random weights."""
    jobs = []
    for name, seed in itertools.product(names, settings.seeds):
        folder = settings.output_dir / name
        start = str(folder / "classifier" / FINAL) if pretrained else ""
        job = Job(
            settings.configs / f"{_DETECTOR}{name}.yaml",
            folder / f"{'seed' if pretrained else 'random_seed'}_{seed}",
            (*_device(settings), "MODEL.WEIGHTS", start, "SEED", str(seed)),
            engine=settings.engine,
            resume=settings.resume,
        )
        jobs.append(job)
    return jobs


def _check(settings: Settings, jobs: Sequence[ClassificationJob | Job]) -> None:
    """An earlier miniature is not overwritten by mistake; what is wrong in the last configuration is told before the first training."""
    earlier = [job.output_dir for job in jobs if Path(str(job.output_dir), CONFIG_FILE).is_file()]
    if earlier and not settings.resume:
        raise ValueError(
            f"{settings.output_dir} has {len(earlier)} runs of an earlier miniature ({earlier[0]} ...); add --resume to go on with it, or "
            "choose another --output-dir"
        )
    for job in jobs:
        distributed.resolve_device(job.configuration().MODEL.DEVICE, setting="--device")


def _pretrained(settings: Settings, job: ClassificationJob) -> Pretrained:
    _tell(settings, f"Pre-training the classifier {job.output_dir}")
    return pretrain(job)


def _compared(settings: Settings, jobs: Sequence[Job]) -> Comparison:
    """Detectors are trained, and set beside the paper's."""
    for job in jobs:
        _tell(settings, f"Training the detector {job.output_dir}")
        train(job)
    return compare([read_run(str(job.output_dir)) for job in jobs])


def _tell(settings: Settings, message: str) -> None:
    """Log what comes next; each training has a log.txt of its own, and the output folder one of these lines."""
    setup_logging(settings.output_dir)
    logger.info(message)


def _device(settings: Settings) -> tuple[str, ...]:
    return () if settings.device is None else ("MODEL.DEVICE", settings.device)


def _gain(trained: Row, random: Row) -> list[str]:
    """One network's line: AP from random weights, from pre-trained ones, and the difference."""
    cells = [trained.name, str(len(trained.runs))]
    for metric in METRICS:
        after, before = trained.measured(metric), random.measured(metric)
        assert after is not None and before is not None
        cells += [
            before.text(),
            after.text(),
            _difference(after, before, len(trained.runs)).text("+"),
        ]
    return cells


def _difference(after: Estimate, before: Estimate, runs: int) -> Estimate:
    if after.spread is None or before.spread is None:
        return Estimate(after.mean - before.mean, None)
    return Estimate(
        after.mean - before.mean, math.sqrt((after.spread**2 + before.spread**2) / runs)
    )
