"""Checkpoints that a power cut cannot spoil, in detectron2's names and layout.

A file is written under another name, flushed to the disk and then renamed, so a name never stands
for half a file. Loading takes tensors and plain data only: no file runs code.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnext_det.files import list_first, write_file
from resnext_det.weights.containers import read_container
from resnext_det.weights.unpickling.descriptions import describe_object, find_placeholder

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last_checkpoint"
"""The file, in the output folder, that holds the newest checkpoint's bare name."""

_SHOWN = 8


class Checkpointer:
    """The checkpoints of one output folder.

    Args:
        output_dir: created when something is saved.
        max_to_keep: how many periodic checkpoints stay on the disk; None: all, as detectron2 by
            default.
    """

    def __init__(self, output_dir: str | Path, *, max_to_keep: int | None = None) -> None:
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(
                f"max_to_keep is {max_to_keep}; keep at least 1 checkpoint, or None for all"
            )
        self.output_dir = Path(output_dir)
        self.max_to_keep = max_to_keep

    def save(self, name: str, state: Mapping[str, Any]) -> Path:
        """Write `state` to ``<output_dir>/<name>.pth`` and name that file in ``last_checkpoint``.

        Raises:
            OSError: it could not be written; the checkpoints before it and ``last_checkpoint`` are
                untouched.
        """
        path = self.output_dir / f"{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        try:
            write_file(path, lambda file: torch.save(dict(state), file))
            write_file(
                self.output_dir / LAST_CHECKPOINT, lambda file: file.write(path.name.encode())
            )
        except OSError as error:
            raise OSError(
                f"the checkpoint {path} could not be written ({error}); make room on that disk or "
                "choose another OUTPUT_DIR, and run the same command with --resume"
            ) from error
        self._remove_old(path)
        return path

    def load(self, path: str | Path) -> dict[str, Any]:
        """Load the contents of a checkpoint, its tensors on the CPU, without running any code.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or cut short, holds no training state, or something in
                it is neither a tensor nor plain data.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint {path}; {self._suggest_other(path)}")
        try:
            _, contents = read_container(path)
        except ValueError as error:
            raise ValueError(f"{error}; {self._suggest_other(path)}") from error
        if not isinstance(contents, dict) or "model" not in contents:
            raise ValueError(
                f"{path} holds no training state: it has no key 'model'; to start from weights "
                "alone, set MODEL.WEIGHTS to that file and leave --resume out"
            )
        foreign = find_placeholder(contents)
        if foreign is not None:
            where, what = foreign
            raise ValueError(
                f"{path} cannot be resumed: its {where} is {describe_object(what)}, and only "
                "tensors and plain data are read; leave it out where the checkpoint is saved, or "
                "set MODEL.WEIGHTS to that file and leave --resume out"
            )
        return contents

    def latest(self) -> Path | None:
        """Find the file that ``last_checkpoint`` names; None in a folder without one.

        Raises:
            ValueError: ``last_checkpoint`` is empty or names something other than a file of this
                folder.
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
                f"{self._suggest_other(path)}"
            )
        if not path.is_file():
            raise FileNotFoundError(
                f"{pointer} names {name}, which is not there; {self._suggest_other(path)}"
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

    def _suggest_other(self, path: Path) -> str:
        """Say what to do instead of reading `path`: take the newest complete one beside it."""
        whole = [
            other
            for other in path.parent.glob("*.pth")
            if other != path and zipfile.is_zipfile(other)
        ]
        if not whole:
            return "no other checkpoint is beside it, so start anew, without --resume"
        newest = max(whole, key=lambda other: other.stat().st_mtime_ns)
        return (
            f"the newest complete checkpoint beside it is {newest.name}: to resume from that, "
            f"write its name into {path.parent / LAST_CHECKPOINT}"
        )


def load_model_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load `state` into `model`, all of it or nothing.

    Raises:
        ValueError: parameters or buffers are missing, unexpected or of another shape; it lists
            them.
    """
    own = model.state_dict()
    others = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(
            f"the checkpoint does not fit the model: there are no tensors under "
            f"{list_first(others, _SHOWN)}; take another checkpoint of that run"
        )
    problems = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} is {tuple(state[name].shape)} in the checkpoint and {tuple(own[name].shape)} "
            "in the model"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    if any(problems.values()):
        found = "; ".join(
            f"{len(names)} {kind}: {list_first(names, _SHOWN)}"
            for kind, names in problems.items()
            if names
        )
        raise ValueError(
            f"the checkpoint does not fit the model. {found}. "
            "Use the configuration that the checkpoint was trained with (config.yaml in its folder)"
        )
    model.load_state_dict(state)
