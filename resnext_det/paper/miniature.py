"""Table 8 of the paper in miniature: pre-train networks on generated shapes, fine-tune, compare.

What takes the paper ImageNet and COCO takes minutes here. The comparison is of the same kind: a
ResNet and a ResNeXt of equal complexity, each with its own pre-training, and one detector, recipe
and test set for both.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from tabulate import tabulate

from resnext_det.classification.jobs import ClassificationJob, Pretrained, pretrain
from resnext_det.classification.weights import FINAL
from resnext_det.detection.jobs import Job, train
from resnext_det.paper.comparison import Comparison, compare_detectors
from resnext_det.paper.presentation import format_comparison
from resnext_det.paper.rows import Difference, Row, estimate_mean
from resnext_det.paper.runs import read_detector
from resnext_det.paper.schedules import ScheduleComparison, compare_schedules, format_schedules
from resnext_det.training import distributed
from resnext_det.training.output_folder import check_output_dir, find_run, remove_run
from resnext_det.training.pool import run_in_pool
from resnext_det.training.setup import setup_logging

logger = logging.getLogger(__name__)

_CLASSIFIER, _DETECTOR = "classifier_", "faster_rcnn_"

AnyJob = TypeVar("AnyJob", ClassificationJob, Job)


@dataclass(frozen=True)
class Settings:
    """Hold the settings of a miniature: networks, seeds and folders.

    Attributes:
        configs: a folder of ``classifier_NAME.yaml`` for each network and ``faster_rcnn_NAME.yaml``
            or, of several heads, ``faster_rcnn_NAME_HEAD.yaml``, such as configs/miniature/cpu.
        output_dir: gets a folder NAME/classifier, and NAME/seed_N for each detector.
        seeds: of the detectors' trainings.
        pretrain_each_seed: each seed has a pre-training of its own too, in NAME/classifier_seed_N;
            otherwise each network is pre-trained once.
        iterations: lengths of the detectors' trainings in place of their SOLVER.MAX_ITER, each in
            folders iterations_N/seed_N.
        from_random: also train the detectors from random weights, in NAME/random_seed_N.
        parallel: trainings at a time.
        resume: go on where an earlier run was; what had ended is only evaluated again.
        overwrite: remove the earlier runs of the output folder, and begin anew.
        engine: of the detectors, see ``Job``.
        device: replaces MODEL.DEVICE.
    """

    configs: Path
    output_dir: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    pretrain_each_seed: bool = False
    iterations: tuple[int, ...] = ()
    from_random: bool = False
    parallel: int = 1
    resume: bool = False
    overwrite: bool = False
    engine: str = "auto"
    device: str | None = None

    @property
    def overrides(self) -> tuple[str, ...]:
        """List the overrides of every configuration."""
        return () if self.device is None else ("MODEL.DEVICE", self.device)

    def name_classifier(self, network: str, seed: int) -> Path:
        """Name the folder of the classifier that the detectors of a seed begin with."""
        suffix = f"_seed_{seed}" if self.pretrain_each_seed else ""
        return self.output_dir / network / f"classifier{suffix}"


@dataclass(frozen=True)
class Miniature:
    """Hold the classifiers and detectors that a miniature has trained, and their comparison.

    Attributes:
        classifiers: of each network, by its name; one, or one for each seed.
        pretrained: the detectors compared, of each head and length.
        from_random: the same from random weights, where that was asked for.
        schedules: how X - R depends on head and length, where there are several.
    """

    classifiers: Mapping[str, Sequence[Pretrained]]
    pretrained: Sequence[Comparison]
    from_random: Sequence[Comparison] = ()
    schedules: ScheduleComparison | None = None

    def format(self) -> str:
        """Format the classifiers' errors, the detectors' table 8, and what pre-training gains.

        Of several heads or lengths there is one table of all.
        """
        parts = ["Pre-training on single shapes", _format_errors(self.classifiers)]
        if self.schedules is not None:
            parts.append(format_schedules(self.schedules))
        else:
            parts += map(format_comparison, self.pretrained)
        if self.from_random:
            metrics = self.pretrained[0].metrics
            headers = ["net", "n"]
            for metric in metrics:
                headers += [f"{metric}, random", f"{metric}, pre-trained", "gain"]
            pairs = [
                (trained, random)
                for comparisons in zip(self.pretrained, self.from_random, strict=True)
                for trained, random in zip(*(each.rows for each in comparisons), strict=True)
            ]
            parts += [
                "The same detectors from random weights",
                tabulate(
                    [_format_gain(trained, random, metrics) for trained, random in pairs],
                    headers,
                    disable_numparse=True,
                ),
                "A mean of n runs ± their sample standard deviation; gain: the difference ± its "
                "standard error.",
            ]
        return "\n\n".join(parts)


def _format_errors(classifiers: Mapping[str, Sequence[Pretrained]]) -> str:
    cells = []
    for name, trained in classifiers.items():
        errors = [100 - metrics.top1 for each in trained for metrics in each.tests[:1]]
        cells.append([name, estimate_mean(errors).format()] if errors else [name])
    return tabulate(cells, ["net", "top-1 error, %"], disable_numparse=True)


def _format_gain(trained: Row, random: Row, metrics: Sequence[str]) -> list[str]:
    cells = [trained.name, str(len(trained.runs))]
    for metric in metrics:
        after, before = trained.estimate(metric), random.estimate(metric)
        gain = Difference(trained, random).estimate(metric)
        assert after is not None and before is not None and gain is not None
        cells += [before.format(), after.format(), gain.format("+")]
    return cells


def list_networks(configs: Path) -> dict[str, list[str]]:
    """List the networks of a folder, and of each its detectors: NAME, or NAME_HEAD for each head.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a network has no classifier or no detector, or there are none; the networks have
            other heads.
    """
    if not configs.is_dir():
        raise FileNotFoundError(
            f"there is no folder {configs}; give one such as configs/miniature/cpu"
        )
    classifiers, detectors = (
        sorted(path.stem.removeprefix(kind) for path in configs.glob(f"{kind}*.yaml"))
        for kind in (_CLASSIFIER, _DETECTOR)
    )
    networks = {
        name: [each for each in detectors if each == name or each.startswith(f"{name}_")]
        for name in classifiers
    }
    single = [name for name, found in networks.items() if not found]
    single += set(detectors).difference(*networks.values())
    if single or not networks:
        missing = f"only one of the two for {', '.join(sorted(single))}" if single else "none"
        raise ValueError(
            f"{configs} needs {_CLASSIFIER}NAME.yaml and {_DETECTOR}NAME.yaml (or "
            f"{_DETECTOR}NAME_HEAD.yaml) for every network, and has {missing}"
        )
    heads = {name: [each[len(name) :] for each in found] for name, found in networks.items()}
    if len(set(map(tuple, heads.values()))) > 1:
        told = "; ".join(f"{name}: {', '.join(found)}" for name, found in networks.items())
        raise ValueError(f"every network of {configs} needs the same heads, and they are {told}")
    return networks


def compares_schedules(settings: Settings) -> bool:
    """Tell whether a miniature has several heads or lengths, whose X - R can be compared.

    Raises:
        FileNotFoundError, ValueError: see ``list_networks``.
    """
    several_heads = any(len(found) > 1 for found in list_networks(settings.configs).values())
    return several_heads or len(settings.iterations) > 1


def run_miniature(settings: Settings) -> Miniature:
    """Pre-train every network, fine-tune it with every seed, and compare.

    Every configuration is read before the first training.

    Raises:
        ValueError: a configuration is wrong, a seed or a length is there twice, or the output
            folder has an earlier miniature; others as ``pretrain`` and ``train``.
    """
    _check_numbers(settings)
    networks = list_networks(settings.configs)
    pretraining = _make_pretraining_jobs(settings, list(networks))
    finetuning = _make_jobs(settings, networks, pretrained=True)
    from_random = _make_jobs(settings, networks, pretrained=False) if settings.from_random else {}
    _check_jobs(settings, [*pretraining.values(), *_chain(finetuning), *_chain(from_random)])
    trained = _run_all(settings, "Pre-training the classifier", pretrain, pretraining.values())
    classifiers: dict[str, list[Pretrained]] = {name: [] for name in networks}
    for (name, _), result in zip(pretraining, trained, strict=True):
        classifiers[name].append(result)
    for jobs in (finetuning, from_random):
        _run_all(settings, "Training the detector", train, _chain(jobs))
    comparisons = [_compare(jobs) for jobs in finetuning.values()]
    schedules = None
    if len(comparisons) > 1:
        schedules = compare_schedules(comparisons)
    return Miniature(
        classifiers, comparisons, [_compare(jobs) for jobs in from_random.values()], schedules
    )


def _check_numbers(settings: Settings) -> None:
    seeds, lengths = settings.seeds, settings.iterations
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"the seeds are {list(seeds)}; write one or more different numbers")
    if len(set(lengths)) < len(lengths) or any(length < 1 for length in lengths):
        raise ValueError(
            f"the numbers of iterations are {list(lengths)}; write different ones above 0"
        )
    if settings.parallel < 1:
        raise ValueError(f"--parallel {settings.parallel}: write 1 training at a time, or more")


def _make_pretraining_jobs(
    settings: Settings, networks: Sequence[str]
) -> dict[tuple[str, int], ClassificationJob]:
    """Make the classifiers' jobs, by network and seed; without seeds of their own by the first."""
    each = settings.pretrain_each_seed
    return {
        (name, seed): ClassificationJob(
            settings.configs / f"{_CLASSIFIER}{name}.yaml",
            settings.name_classifier(name, seed),
            (*settings.overrides, *(("SEED", str(seed)) if each else ())),
            resume=settings.resume,
        )
        for name, seed in itertools.product(
            networks, settings.seeds if each else settings.seeds[:1]
        )
    }


def _make_jobs(
    settings: Settings, networks: Mapping[str, Sequence[str]], *, pretrained: bool
) -> dict[tuple[str, int | None], list[Job]]:
    """Make a job for each network, head, length and seed, by head and length.

    They start from their classifier's weights or from random ones.
    """
    jobs: dict[tuple[str, int | None], list[Job]] = {}
    for name, detectors in networks.items():
        lengths = settings.iterations or (None,)
        for detector, length, seed in itertools.product(detectors, lengths, settings.seeds):
            folder, overrides = settings.output_dir / detector, settings.overrides
            if length is not None:
                folder /= f"iterations_{length}"
                overrides += ("SOLVER.MAX_ITER", str(length))
            start = str(settings.name_classifier(name, seed) / FINAL) if pretrained else ""
            job = Job(
                settings.configs / f"{_DETECTOR}{detector}.yaml",
                folder / f"{'seed' if pretrained else 'random_seed'}_{seed}",
                (*overrides, "MODEL.WEIGHTS", start, "SEED", str(seed)),
                engine=settings.engine,
                resume=settings.resume,
            )
            jobs.setdefault((detector[len(name) :], length), []).append(job)
    return jobs


def _chain(jobs: Mapping[tuple[str, int | None], Sequence[Job]]) -> list[Job]:
    return list(itertools.chain.from_iterable(jobs.values()))


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
        if settings.iterations and isinstance(job, Job):
            name = cfg.SOLVER.LR_SCHEDULER_NAME
            if name != "WarmupCosineLR":
                raise ValueError(
                    f"--iterations would not move the steps of {name} in {job.config_file}; set "
                    "SOLVER.LR_SCHEDULER_NAME to WarmupCosineLR, or leave --iterations out"
                )
    if settings.overwrite:  # all now: a later --resume must not find old runs
        for job in jobs:
            remove_run(str(job.output_dir))


Result = TypeVar("Result")


def _run_all(
    settings: Settings, title: str, run: Callable[[AnyJob], Result], jobs: Iterable[AnyJob]
) -> list[Result]:
    return run_in_pool(partial(_run, settings, title, run), list(jobs), settings.parallel)


def _run(settings: Settings, title: str, run: Callable[[AnyJob], Result], job: AnyJob) -> Result:
    """Say in the output folder's log.txt what comes next; each training sets up its own."""
    setup_logging(settings.output_dir)
    logger.info("%s %s", title, job.output_dir)
    return run(job)


def _compare(jobs: Sequence[Job]) -> Comparison:
    return compare_detectors([read_detector(str(job.output_dir)) for job in jobs])
