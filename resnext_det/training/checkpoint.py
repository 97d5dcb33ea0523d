"""Checkpoints that a power cut cannot spoil, in detectron2's names and layout.

A file is written under another name, flushed to the disk and then renamed, so a name never stands for half a
file. Loading admits tensors and plain data only: no file runs code.
"""

from __future__ import annotations

import logging
import pickle
import pickletools
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnext_det.files import write_file

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last_checkpoint"
"""The file, in the output folder, that holds the newest checkpoint's bare name."""

_SHOWN = 8


class Checkpointer:
    """The checkpoints of one output folder.

    Args:
        output_dir: created when something is saved.
        max_to_keep: how many periodic checkpoints stay on the disk; None: all, as detectron2 by default.
    """

    def __init__(self, output_dir: str | Path, *, max_to_keep: int | None = None) -> None:
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(
                f"max_to_keep is {max_to_keep}; keep at least 1 checkpoint, or None for all"
            )
        self.output_dir = Path(output_dir)
        self.max_to_keep = max_to_keep

    def save(self, name: str, state: Mapping[str, Any]) -> Path:
        """Write ``state`` to ``<output_dir>/<name>.pth`` and then name that file in ``last_checkpoint``.

        Raises:
            OSError: it could not be written; the checkpoints before it and ``last_checkpoint`` are untouched.
        """
        self.output_dir.mkdir(parents=True, exist_ok=True)
        path = self.output_dir / f"{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        try:
            write_file(path, lambda file: torch.save(dict(state), file))
            write_file(
                self.output_dir / LAST_CHECKPOINT, lambda file: file.write(path.name.encode())
            )
        except OSError as error:
            raise OSError(
                f"the checkpoint {path} could not be written ({error}); make room on that disk or choose "
                "another "
                "OUTPUT_DIR, and run the same command with --resume"
            ) from error
        self._remove_old(path)
        return path

    def load(self, path: str | Path) -> dict[str, Any]:
        """The contents of a checkpoint, its tensors on the CPU.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is cut short, is no checkpoint, or would run code.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint {path}; {self._others(path)}")
        try:
            contents = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises some six kinds, KeyError among them
            raise ValueError(self._why_unreadable(path, error)) from error
        if not isinstance(contents, dict) or "model" not in contents:
            raise ValueError(
                f"{path} holds no training state: it has no key 'model'; to start from weights alone, set "
                "MODEL.WEIGHTS "
                "to that file and leave --resume out"
            )
        return contents

    def latest(self) -> Path | None:
        """The file that ``last_checkpoint`` names; None in a folder without one.

        Raises:
            ValueError: ``last_checkpoint`` is empty or names something other than a file of this folder.
            FileNotFoundError: the file that it names is gone.
        """
        pointer = self.output_dir / LAST_CHECKPOINT
        if not pointer.is_file():
            return None
        name = pointer.read_text(errors="replace").strip()
        path = self.output_dir / name
        if not name or name != path.name:
            raise ValueError(
                f"{pointer} should hold the bare name of a checkpoint, but holds {name!r}; "
                f"{self._others(path)}"
            )
        if not path.is_file():
            raise FileNotFoundError(
                f"{pointer} names {name}, which is not there; {self._others(path)}"
            )
        return path

    def _remove_old(self, newest: Path) -> None:
        if self.max_to_keep is None:
            return
        periodic = self.output_dir.glob("model_" + "[0-9]" * 7 + ".pth")
        by_age = sorted(periodic, key=lambda path: (path.stat().st_mtime_ns, path.name))
        for path in by_age[: -self.max_to_keep]:
            if path != newest:
                path.unlink(missing_ok=True)

    def _why_unreadable(self, path: Path, error: Exception) -> str:
        requested = _forbidden_names(path)
        if requested:
            return (
                f"{path} is refused: it asks for {_some(requested)}, and a checkpoint holds tensors and "
                "plain data only. "
                "Code could run while it is read; do not use it unless you know where it comes from"
            )
        with path.open("rb") as file:
            begins_as_checkpoint = file.read(4) == b"PK\x03\x04"
        if begins_as_checkpoint or path.stat().st_size == 0:
            return (
                f"{path} is damaged or cut short (a power cut, a full disk?); {self._others(path)}"
            )
        return f"{path} is not a checkpoint that torch.save wrote ({type(error).__name__}); {self._others(path)}"

    def _others(self, path: Path) -> str:
        """What to do instead of reading ``path``: the newest complete checkpoint beside it, by time."""
        whole = [
            other
            for other in path.parent.glob("*.pth")
            if other != path and zipfile.is_zipfile(other)
        ]
        if not whole:
            return "no other checkpoint is beside it, so start anew, without --resume"
        newest = max(whole, key=lambda other: other.stat().st_mtime_ns)
        return (
            f"the newest complete one beside it is {newest.name}: to resume from that, "
            f"write its name into {path.parent / LAST_CHECKPOINT}"
        )


def load_model_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load ``state`` into ``model``, all of it or nothing.

    Raises:
        ValueError: parameters or buffers are missing, unexpected or of another shape; it lists them.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the checkpoint and {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(problems.values()):
        found = "; ".join(
            f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items() if names
        )
        raise ValueError(
            f"the checkpoint does not fit the model. {found}. "
            "Use the configuration that the checkpoint was trained with (config.yaml in its folder)"
        )
    model.load_state_dict(state)


def _forbidden_names(path: Path) -> list[str]:
    """The functions and classes, beyond torch's safe ones, that a pickle asks for."""
    try:
        if zipfile.is_zipfile(path):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        names = set(_globals_of_pickle(path.read_bytes()))
        return sorted(name for name in names if not name.startswith(("torch.", "collections.")))
    except Exception:
        return []


def _globals_of_pickle(data: bytes) -> Iterable[str]:
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("GLOBAL", "INST"):
                yield str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)
    except (ValueError, pickle.UnpicklingError):
        return


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
