"""Checkpoints that a power cut cannot spoil, in detectron2's names and layout.

A file is written under another name, flushed to the disk and then renamed, so a name never stands
for half a file. Loading takes tensors and plain data only: no file runs code.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnext_det.files import list_first, write_file
from resnext_det.weights.containers import find_damage, read_container
from resnext_det.weights.unpickling.descriptions import describe_object, find_placeholder

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last_checkpoint"
"""The file, in the output folder, that holds the newest checkpoint's bare name."""

BEST = "model_best"
"""The name of the weights whose evaluation was the best."""

SAVING = "Saving checkpoint to %s"
"""What the log says of a checkpoint."""

_SHOWN = 8


class Checkpointer:
    """Write, find, read and remove the checkpoints of one output folder.

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

    def save(self, name: str, state: Mapping[str, Any], told: str = SAVING) -> Path:
        """Write `state` to ``<output_dir>/<name>.pth`` and name that file in ``last_checkpoint``.

        Args:
            told: what the log says, with %s for the path.

        Raises:
            OSError: it could not be written; the checkpoints before it and ``last_checkpoint`` are
                untouched.
        """
        path = self.output_dir / f"{name}.pth"
        logger.info(told, path)
        with _explain_failure(path):
            write_file(path, lambda file: torch.save(dict(state), file))
            write_file(
                self.output_dir / LAST_CHECKPOINT, lambda file: file.write(path.name.encode())
            )
        self.remove_old(path)
        return path

    def save_best(self, state: Mapping[str, Any]) -> None:
        """Write the best weights so far to ``model_best.pth``, from which no training goes on.

        Raises:
            OSError: it could not be written; the file that was there is untouched.
        """
        path = self.output_dir / f"{BEST}.pth"
        logger.info("Saving the best weights so far to %s", path)
        with _explain_failure(path):
            write_file(path, lambda file: torch.save(dict(state), file))

    def load(self, path: str | Path) -> dict[str, Any]:
        """Load the contents of a checkpoint, its tensors on the CPU, without running any code.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged (its checksums are compared) or cut short, holds no
                training state, or something in it is neither a tensor nor plain data.
        """
        path = Path(path)
        if fault := _find_damage(path):
            kind = ValueError if path.is_file() else FileNotFoundError
            raise kind(f"the checkpoint {path} {fault}; take another one of that run")
        _, contents = read_container(path)
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
        """Find the newest whole checkpoint; None in a folder without any.

        It is the one that ``last_checkpoint`` names. Where that file, or the one that it names, is
        missing or damaged, it is the newest whole one to resume from, and ``tell_choice`` says so.

        Raises:
            ValueError: there are checkpoints, and none of them is whole.
        """
        return self._choose()[0]

    def tell_choice(self) -> None:
        """Warn where ``latest`` is not what ``last_checkpoint`` names."""
        if reason := self._choose()[1]:
            logger.warning(reason)

    def _choose(self) -> tuple[Path | None, str]:
        """Choose the newest whole checkpoint; say why it is not the one that is named."""
        pointer = self.output_dir / LAST_CHECKPOINT
        others = list(self.output_dir.glob("model_*.pth"))
        if pointer.is_file():
            name = pointer.read_text(errors="replace").strip()
            named = self.output_dir / name
            if not name or name != named.name:
                fault = f"{pointer} holds {name!r:.80} in place of the bare name of a checkpoint"
            elif damage := _find_damage(named):
                fault = f"{named}, which {LAST_CHECKPOINT} names, {damage}"
                others = [path for path in others if path != named]
            else:
                return named, ""
        else:
            fault = f"{pointer}, which names the newest checkpoint, is not there"
        # By the iterations in them: the times of files are lost where a folder is copied.
        by_age = sorted(((_read_iteration(path), path.name, path) for path in others), reverse=True)
        whole = next((path for age, _, path in by_age if age >= 0 and not _find_damage(path)), None)
        if whole is not None:
            return whole, (
                f"{fault}. The newest whole checkpoint, {whole.name}, is used in its place; what "
                "came after it is computed again."
            )
        if not pointer.is_file():  # weights alone, or nothing
            return None, ""
        raise ValueError(
            f"{fault}, and no whole checkpoint is beside it; begin anew with --overwrite in place "
            "of --resume"
        )

    def remove_old(self, newest: Path) -> None:
        """Remove all but the last ``max_to_keep`` periodic checkpoints, and never ``newest``."""
        if self.max_to_keep is None:
            return
        # By their names, which hold the iteration: the times of files are lost in a copied folder.
        by_age = sorted(self.output_dir.glob("model_" + "[0-9]" * 7 + ".pth"))
        for path in by_age[: -self.max_to_keep]:
            if path != newest:
                path.unlink(missing_ok=True)


@contextmanager
def _explain_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error  # which may name the file, too
        raise OSError(
            f"the checkpoint {path} could not be written ({reason}); make room on that disk or "
            "choose another OUTPUT_DIR, and run the same command with --resume"
        ) from error


def _find_damage(path: Path) -> str | None:
    """Say why a file is not whole, in words that follow its name; None where it is."""
    try:
        if not path.is_file():
            return "is not there"
        damage = find_damage(path)
    except (ValueError, OSError) as error:  # a name may be too long for any file
        return str(error).removeprefix(f"{path} ")
    return f"is {damage}" if damage else None


def _read_iteration(path: Path) -> int:
    """Read which iteration a training goes on after; -1 where a file lacks what that needs."""
    try:
        _, contents = read_container(path, mapped=True)
    except (ValueError, OSError):
        return -1
    resumable = (
        isinstance(contents, dict)
        and "model" in contents
        and type(contents.get("iteration")) is int
        and find_optimizer_state(contents) is not None
        and find_placeholder(contents) is None
    )
    return contents["iteration"] if resumable else -1


def find_optimizer_state(contents: Mapping[str, Any]) -> dict[str, Any] | None:
    """Find the optimizer's state in a checkpoint: at the top, or where detectron2 nests it."""
    if "optimizer" in contents:
        return contents["optimizer"]
    nested: Any = contents
    for name in ("trainer", "_trainer", "optimizer"):
        nested = nested.get(name) if isinstance(nested, Mapping) else None
    return nested


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
