"""Run the commands of tools/: ``resnext-det COMMAND``, and the flags and endings that they share.

No library is imported before a command line is understood, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext_det.files import (
    escape_beside_colors,
    escape_lines,
    escape_unknown_letters,
    shipped_folder,
)
from resnext_det.runtimes import BACKENDS, DTYPES
from resnext_det.signals import handle_stop, interrupt

if TYPE_CHECKING:
    from resnext_det.detection.jobs import Job, Metrics

# What the commands are called, and their files in tools/, whose names are understood too.
COMMANDS = {
    "train": "train_net",
    "two-step": "train_two_step",
    "show-data": "show_data",
    "predict": "predict",
    "export": "export",
    "evaluate": "evaluate_coco",
    "pretrain": "pretrain",
    "evaluate-classifier": "evaluate_classifier",
    "inspect": "inspect_weights",
    "convert": "convert_weights",
    "report": "report",
    "compare": "compare",
    "compare-classifiers": "compare_classifiers",
    "miniature": "table8_miniature",
    "analyze": "analyze",
    "benchmark": "benchmark",
    "imagenet5k": "make_imagenet5k",
}

# What flags take that several commands have; a test compares it with the library's.
ENGINES = ("auto", "portable", "detectron2")
CONFIG_NODES = (
    *("CUDNN_BENCHMARK", "DATALOADER", "DATASETS", "FLOAT32_PRECISION", "INPUT", "MODEL"),
    *("OUTPUT_DIR", "SEED", "SOLVER", "TEST", "VERSION", "VIS_PERIOD"),
)
PREPROCESSINGS = ("torchvision", "mmpretrain", "msra", "fair", "detectron1", "pycls", "paper")
STAGES = ("res2", "res3", "res4", "res5")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``resnext-det COMMAND ...``: the file of that command in tools/.

    Returns:
        The exit status of the command.
    """
    folder = shipped_folder("tools")
    lines = ["Train, evaluate and use ResNeXt detectors and classifiers.", "", "commands:"]
    for word, name in COMMANDS.items():
        with (folder / f"{name}.py").open(encoding="utf-8") as file:
            lines.append(f"  {word:<20} {file.readline().strip().strip(chr(34))}")
    parser = build_parser("", "\n".join(lines))
    version = f"resnext-det {sys.modules['resnext_det'].__version__}"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("command", metavar="COMMAND", help="COMMAND --help tells its flags")
    parser.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="its flags")
    options = parser.parse_args(arguments)
    name = COMMANDS.get(options.command, options.command.replace("-", "_"))
    if name not in COMMANDS.values():
        parser.error(f"there is no command {options.command}; choose {', '.join(COMMANDS)}")
    return runpy.run_path(str(folder / f"{name}.py"))["main"](options.arguments)


def build_parser(
    command: str, description: str, *, allow_abbrev: bool = True
) -> argparse.ArgumentParser:
    """Build the parser of a command, whose help is the docstring of its file in tools/.

    Every command begins with it, so it also lets the console show letters that it does not know.
    """
    escape_unknown_letters()
    return argparse.ArgumentParser(
        prog=f"resnext-det {command}".strip(),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=allow_abbrev,
    )


def add_config_flag(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add ``--config-file``, and ``--weights`` where it may stand in its place."""
    if not required:
        parser.add_argument(
            "--weights",
            metavar="FILE",
            help="MODEL.WEIGHTS: the file of a trained detector, which holds its own "
            "configuration, or weights to start from",
        )
    parser.add_argument(
        "--config-file",
        required=required,
        metavar="YAML",
        help="a file, or a configuration of the package such as "
        "modern/faster_rcnn_X50_32x4d_FPN_1x.yaml",
    )


def add_dataset_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--register-coco NAME ANNOTATIONS IMAGES``, ``--register-voc`` and ``--register-yolo``.

    Each may be given several times.
    """
    kinds = {
        "coco": ("ANNOTATIONS", "a COCO file and its image folder, for DATASETS.TRAIN and .TEST"),
        "voc": ("FOLDER", "a folder of Pascal VOC's XML files, or a list of ImageSets/Main"),
        "yolo": ("LABELS", "YOLO's data.yaml, or a folder of labels, and the image folder"),
    }
    for kind, (what, text) in kinds.items():
        parser.add_argument(
            f"--register-{kind}",
            nargs=3,
            action="append",
            default=[],
            metavar=("NAME", what, "IMAGES"),
            help=f"name {text}; may be given several times",
        )


def read_dataset_flags(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Return (name, COCO file, images) of the flags of ``add_dataset_flag``.

    Sets of VOC and YOLO are converted once, and the user is told where the COCO files are.

    Raises:
        ValueError, FileNotFoundError: see ``convert_datasets``.
    """
    if options.register_voc or options.register_yolo:
        from resnext_det.data.annotations.converted import convert_datasets

        for name, file, images in convert_datasets(options.register_voc, options.register_yolo):
            sys.stderr.write(f"{name} is now a COCO file: {file}\n")
            options.register_coco.append((name, file, images))
        options.register_voc, options.register_yolo = [], []  # for a second job
    return [(name, file, images) for name, file, images in options.register_coco]


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a ``Job``, and the KEY VALUE pairs at the end."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="what computes (default: auto, which is detectron2 where that is installed)",
    )
    add_fit_config_flag(parser)
    add_dataset_flag(parser)
    add_data_flags(parser)
    parser.add_argument(
        "--check-data",
        action="store_true",
        help="decode every image before the first step; else the headers of some are read",
    )
    add_memory_flags(parser)
    add_training_flags(parser)


def add_report_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-report``, without which a training and a test end with an HTML page."""
    parser.add_argument(
        "--no-report",
        action="store_true",
        help="write no report.html into OUTPUT_DIR at the end, see resnext-det report",
    )


def add_memory_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--accumulate`` and ``--recompute``, with which a training needs less memory."""
    parser.add_argument(
        "--accumulate",
        type=_read_parts,
        default=1,
        metavar="PARTS",
        help="compute each batch in so many parts, one after another, whose gradients add up to "
        "those of the batch; SOLVER.IMS_PER_BATCH and the schedule stay (default: 1)",
    )
    parser.add_argument(
        "--recompute",
        type=_read_stages,
        default=(),
        metavar="STAGES",
        help="keep only the inputs of the blocks of these stages, such as res3,res4,res5, and "
        "compute the rest again for the gradients, which stay the same",
    )


def add_fit_memory_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--fit-memory``, which chooses what the flags of ``add_memory_flags`` say."""
    parser.add_argument(
        "--fit-memory",
        type=_read_bytes,
        metavar="SIZE",
        help="choose --recompute and --accumulate so that a step needs no more memory of each GPU "
        "(on a CPU: in tensors) than this, such as 6GB or 5.5GiB, and where they do not suffice, "
        "fewer or smaller images",
    )


def _read_bytes(word: str) -> int:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kMGT]i?)?B", word)
    size = 0
    if found:
        number, unit = found.groups(default="")
        base = 1024 if unit.endswith("i") else 1000
        size = round(float(number) * base ** " kMGT".index(unit[:1] or " "))
    if size <= 0:
        raise argparse.ArgumentTypeError(
            f"{word} is no size of a memory; write a number and its unit, such as 6GB or 5.5GiB"
        )
    return size


def _read_parts(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(
            f"a batch has no {word} parts; write 1 for the batch at once, or the number of its "
            "parts"
        )
    return int(word)


def _read_stages(word: str) -> tuple[str, ...]:
    names = tuple(word.split(","))
    if unknown := [name for name in names if name not in STAGES]:
        raise argparse.ArgumentTypeError(
            f"there is no stage {unknown[0]!r}; choose of {', '.join(STAGES)}, with commas between"
        )
    return names


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--train-data``, ``--test-data`` and ``--schedule``."""
    for flag, split, more in (
        ("--train-data", "DATASETS.TRAIN", "; without --test-data a fifth is held out for that"),
        ("--test-data", "DATASETS.TEST", ""),
    ):
        add_set_flag(parser, flag, f"which become {split}{more}")
    parser.add_argument(
        "--schedule",
        choices=("auto", "config"),
        help="auto chooses iterations, batch, learning rate and image sizes from the data and the "
        "machine; settings at the end of the command hold (default: that of the configuration, "
        "or auto where none is given)",
    )


def add_fit_config_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--fit-config``, with which the configuration follows the weights."""
    parser.add_argument(
        "--fit-config",
        action="store_true",
        help="set network and preprocessing to those that MODEL.WEIGHTS needs",
    )
    add_preprocessing_flag(parser)


def add_preprocessing_flag(parser: argparse.ArgumentParser, what: str = "MODEL.WEIGHTS") -> None:
    """Add ``--preprocessing``, which says what a file of weights needs and does not tell."""
    parser.add_argument(
        "--preprocessing",
        metavar="PUBLISHER|NUMBERS",
        help=f"what {what} needs, if it does not say it: {', '.join(PREPROCESSINGS)}, or channel "
        "order, mean and std on the scale 0-255, such as RGB:123.7,116.3,103.5:58.4,57.1,57.4 or "
        "RGB:127.5:127.5 (:stride_in_1x1 or _3x3 may follow)",
    )


def add_backend_flags(parser: argparse.ArgumentParser, when: str = "") -> None:
    """Add ``--backend``, ``--dtype`` and ``--calibration-data``: what computes in inference.

    Args:
        when: to be told, such as " (with --eval-only)".
    """
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help=f"compute by it, which rounds differently{when}; auto is the fastest of those "
        "installed that start in seconds, timed here once (default: none, exact)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help=f"the type in which the backend computes{when}; without --backend, auto is meant "
        "(default: float32)",
    )
    add_set_flag(
        parser,
        "--calibration-data",
        "with images like those to come, on which --dtype int8 is calibrated",
    )


def add_set_flag(parser: argparse.ArgumentParser, flag: str, purpose: str) -> None:
    """Add a flag that takes a COCO file and its image folder, and say what they are for."""
    parser.add_argument(
        flag,
        nargs=2,
        metavar=("ANNOTATIONS", "IMAGES"),
        help=f"a COCO file and its image folder, {purpose}",
    )


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a run and of its processes, and the KEY VALUE pairs at the end."""
    add_run_flags(parser)
    parser.add_argument(
        "--resume-anyway",
        action="store_true",
        help="as --resume, also where settings differ that change the run's numbers",
    )
    add_process_flags(parser)
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="let torch use deterministic algorithms alone, so that the same command on the same "
        "kind of machine gives the same weights again, to the last bit; slower on a GPU",
    )
    parser.add_argument(
        "overrides",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="settings that replace those of the file, such as SOLVER.IMS_PER_BATCH 8",
    )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume`` and ``--overwrite``: what becomes of a run in the output folder."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in OUTPUT_DIR"
    )
    group.add_argument(
        "--overwrite", action="store_true", help="remove the run in OUTPUT_DIR and begin anew"
    )


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Add detectron2's flags for several processes and machines."""
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="processes on this machine (default: 1)"
    )
    parser.add_argument("--num-machines", type=int, default=1, help="machines (default: 1)")
    parser.add_argument(
        "--machine-rank", type=int, default=0, help="the number of this machine, from 0"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="tcp://HOST:PORT of the machine of rank 0 (default: a free port of this machine)",
    )


def load_portable_config(
    options: argparse.Namespace, datasets: tuple[tuple[str, str, str], ...] = ()
) -> Any:
    """Load the configuration of a detector that the portable engine shall run, and register sets.

    Args:
        options: of ``add_config_flag`` and ``add_fit_config_flag``, with ``overrides``.
        datasets: as ``read_dataset_flags`` gives them.
    """
    from resnext_det.detection.jobs import Job

    job = Job(
        options.config_file,
        overrides=tuple(options.overrides),
        engine="portable",
        fit_config=options.fit_config,
        preprocessing=options.preprocessing,
        datasets=datasets,
        weights=options.weights,
    )
    return job.configuration(training=False)


def build_job(
    options: argparse.Namespace, config_file: str | None, output_dir: Path | None = None
) -> Job:
    """Build the job that the flags of ``add_job_flags`` describe.

    Raises:
        ValueError: a set is named twice, or its image folder is missing.
    """
    from resnext_det.detection.jobs import Job

    for split, given in (("TRAIN", options.train_data), ("TEST", options.test_data)):
        if given and f"DATASETS.{split}" in options.overrides[::2]:
            raise ValueError(
                f"--{split.lower()}-data and DATASETS.{split} both name a set; write one of them"
            )
        key = given and re.fullmatch(r"[A-Z0-9_]+(\.[A-Z0-9_]+)*", given[1])
        if key and len(options.overrides) % 2:
            raise ValueError(
                f"--{split.lower()}-data {given[0]}: the folder of its images is missing; write it "
                f"before {given[1]}"
            )
    return Job(
        config_file=config_file,
        output_dir=output_dir,
        overrides=tuple(options.overrides),
        engine=options.engine,
        resume=options.resume or options.resume_anyway,
        resume_anyway=options.resume_anyway,
        overwrite=options.overwrite,
        fit_config=options.fit_config,
        preprocessing=options.preprocessing,
        weights=getattr(options, "weights", None),
        datasets=tuple(read_dataset_flags(options)),
        check_data=options.check_data,
        backend=getattr(options, "backend", None),
        dtype=getattr(options, "dtype", None),
        calibration_data=getattr(options, "calibration_data", None),
        schedule=options.schedule,
        accumulate=options.accumulate,
        recompute=options.recompute,
        fit_memory=getattr(options, "fit_memory", None),
        deterministic=options.deterministic,
        train_data=options.train_data and tuple(options.train_data),
        test_data=options.test_data and tuple(options.test_data),
        **read_process_flags(options),
    )


def read_process_flags(options: argparse.Namespace) -> dict[str, Any]:
    """Return the flags of ``add_process_flags`` as arguments of a job."""
    from resnext_det.training.processes import Processes

    return {field.name: getattr(options, field.name) for field in fields(Processes)}


def finish(work: Callable[[], Iterable[str]], *, resumable: bool = False) -> int:
    """Do a command's work and print the lines that it gives, or say what went wrong.

    Args:
        work: called without arguments.
        resumable: say after Ctrl-C that --resume goes on.

    Returns:
        The exit status: 0; 1 for an error that the user can mend; 130 after Ctrl-C, SIGTERM or
        SIGHUP.
    """
    try:
        with handle_stop(interrupt):
            for line in work():
                _show(line)
    except KeyboardInterrupt as stop:  # a training that was stopped in order says more
        goes_on = "; --resume goes on from the newest checkpoint in OUTPUT_DIR, if there is one"
        _complain(str(stop) or "stopped" + goes_on * resumable)
        return 130
    except ModuleNotFoundError as error:  # of a package that was installed without what it needs
        missing = error.name or ""
        if missing.startswith("resnext_det"):
            raise
        _complain(
            f"error: the package {missing} is not installed, and this command needs it; install "
            "it, or all that the commands need, by pip install -e . in the clone of this package"
        )
        return 1
    except (ImportError, RuntimeError) as error:
        if not _shows_unfit_torchvision(error):
            raise
        _complain(
            "error: the torchvision that is installed does not fit the torch beside it "
            f"({str(error).strip().splitlines()[0]}); install two that "
            "https://github.com/pytorch/vision#installation names together, or the newest by pip "
            "install --upgrade torch torchvision"
        )
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        _complain(f"error: {error}")
        return 1
    return 0


def _shows_unfit_torchvision(error: Exception) -> bool:
    """Tell what torchvision raises where it was built for another torch, when it is imported."""
    text = str(error)
    if isinstance(error, ImportError):
        return "torchvision" in f"{error.name} {error.path} {text}"
    return "custom C++ ops" in text or re.search(r"operator torchvision::\w+ ", text) is not None


def _complain(text: str) -> None:
    """Write a line to stderr, where the terminal is still open."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{escape_lines(text)}\n")
        sys.stderr.flush()


def _show(line: str) -> None:
    """Write a line to stdout; where nobody reads on, as after ``| head``, go on in silence."""
    try:
        sys.stdout.write(f"{escape_beside_colors(line)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def summarize(metrics: Metrics) -> list[str]:
    """Return one line for every test set of a detector."""
    return [
        f"{name}: {found.summarize()}; everything is in {metrics.output_dir}"
        for name, found in metrics.per_dataset.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
