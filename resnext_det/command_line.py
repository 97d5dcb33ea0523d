"""What the commands that train have in common: their flags, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from resnext_det.detection.jobs import ENGINES, Job, Metrics
from resnext_det.training.interruption import TrainingInterrupted


def add_dataset_flag(parser: argparse.ArgumentParser) -> None:
    """``--register-coco NAME ANNOTATIONS IMAGES``, any number of times."""
    parser.add_argument(
        "--register-coco",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "ANNOTATIONS", "IMAGES"),
        help="a COCO file and its image folder, for use in DATASETS.TRAIN and DATASETS.TEST; repeatable",
    )


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of a ``Job``, and KEY VALUE at the end."""
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto", help="what computes (default: auto)"
    )
    add_fit_config_flag(parser)
    add_dataset_flag(parser)
    add_training_flags(parser)


def add_fit_config_flag(parser: argparse.ArgumentParser) -> None:
    """``--fit-config``: the configuration follows the weights."""
    parser.add_argument(
        "--fit-config",
        action="store_true",
        help="take from MODEL.WEIGHTS the preprocessing that it needs",
    )


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """``--resume``, the flags of the processes, and KEY VALUE at the end."""
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    add_process_flags(parser)
    parser.add_argument(
        "overrides",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="changes to the configuration",
    )


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """How many processes, and where: detectron2's flags."""
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's number, from 0")
    parser.add_argument(
        "--dist-url", default="auto", help="tcp://HOST:PORT of the machine of rank 0"
    )


def job_of(options: argparse.Namespace, config_file: str, output_dir: Path | None = None) -> Job:
    """The job that the flags describe."""
    return Job(
        config_file=config_file,
        output_dir=output_dir,
        overrides=tuple(options.overrides),
        engine=options.engine,
        resume=options.resume,
        fit_config=options.fit_config,
        datasets=tuple(tuple(dataset) for dataset in options.register_coco),
        **processes_of(options),
    )


def processes_of(options: argparse.Namespace) -> dict[str, Any]:
    """What ``add_process_flags`` read, as arguments of a job."""
    return {
        name: getattr(options, name)
        for name in ("num_gpus", "num_machines", "machine_rank", "dist_url")
    }


_STOPPED = (
    "stopped at once; --resume goes on from the newest checkpoint of OUTPUT_DIR, if there is one"
)


def finish(run: Callable[[], Iterable[str]], *, stopped: str = _STOPPED) -> int:
    """Run, and print the lines that it gives, or what went wrong.

    Args:
        stopped: what Ctrl-C says outside of a training's step.

    Returns:
        the exit status: 0; 1 for an error that the user can mend; 130 where Ctrl-C or SIGTERM stopped it.
    """
    try:
        lines = list(run())
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"{stop if isinstance(stop, TrainingInterrupted) else stopped}\n")
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for line in lines:
        sys.stdout.write(f"{line}\n")
    return 0


def lines_of(metrics: Metrics) -> list[str]:
    """A line for every test set."""
    return [
        f"{name}: {found.summary()}; everything is in {metrics.output_dir}"
        for name, found in metrics.per_dataset.items()
    ]
