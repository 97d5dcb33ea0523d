"""Record what a run was computed with: command, machine, versions, and where its sets are."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from resnext_det.files import format_json, write_text
from resnext_det.training.machine import Machine, describe_machine

logger = logging.getLogger(__name__)

ENVIRONMENT_FILE = "environment.json"


@dataclass(frozen=True)
class Environment:
    """Hold what a run was computed with.

    Attributes:
        began: date and time of its last start.
        command: as a shell takes it.
        processes: that trained together.
        machine: of the first process.
        sets: the annotations file and the image folder of every dataset, by name.
    """

    began: str
    command: str
    processes: int
    machine: Machine
    sets: Mapping[str, tuple[str, str]]


def record_environment(
    output_dir: str | Path,
    sets: Mapping[str, tuple[Path, Path]],
    *,
    device: torch.device,
    processes: int,
    command: Sequence[str] | None = None,
) -> None:
    """Write ``environment.json`` into an output folder.

    Args:
        sets: the annotations file and the image folder of every dataset, by name.
        processes: that compute together.
        command: words of the command line; None: those of this process.

    Raises:
        OSError: the folder cannot be written to.
    """
    words = list(command) if command is not None else [Path(sys.argv[0]).name, *sys.argv[1:]]
    content = Environment(
        began=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        command=shlex.join(words),
        processes=processes,
        machine=describe_machine(device),
        sets={name: (str(a.absolute()), str(b.absolute())) for name, (a, b) in sets.items()},
    )
    write_text(Path(output_dir, ENVIRONMENT_FILE), format_json(asdict(content)) + "\n")


def read_environment(output_dir: str | Path) -> Environment | None:
    """Read ``environment.json``; None where it is not there or damaged, which the log tells."""
    file = Path(output_dir, ENVIRONMENT_FILE)
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        machine = Machine(**content.pop("machine"))
        sets = {str(name): (str(a), str(b)) for name, (a, b) in content.pop("sets").items()}
        content["processes"] = int(content["processes"])
        return Environment(**content, machine=machine, sets=sets)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        logger.warning("%s is damaged (%s) and passed over", file, error)
        return None
