"""Save all that a training needs to go on, in detectron2's layout, and restore it bit for bit."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resnext_det.files import list_first, show
from resnext_det.training import distributed, normalizer
from resnext_det.training.checkpoint import (
    SAVING,
    Checkpointer,
    find_optimizer_state,
    load_model_state,
)
from resnext_det.training.loop import Step
from resnext_det.training.normalizer import collect_normalizers, restore_normalizer

logger = logging.getLogger(__name__)

FINAL = "model_final"
"""The name of the last checkpoint of a training."""

_CONTENTS = "training_sets"
_SETTINGS = ("initial_lr", "weight_decay", "momentum", "nesterov")


class Stateful(Protocol):
    """Name what ``TrainingState`` needs of an object whose state checkpoints hold."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass
class TrainingState:
    """Save and restore model, optimizer and random numbers in the checkpoints of a folder.

    A checkpoint holds ``model``, ``optimizer``, ``scheduler`` (LRMultiplier's), ``iteration`` (the
    last finished one), ``random_state`` (torch's generators of every process) and, of a RetinaNet,
    ``loss_normalizer`` (of every process); and the same once more under ``trainer``, as
    detectron2's DefaultTrainer wants it (tensors are not stored twice).
    A checkpoint of either layout resumes.

    Args:
        model: bare or wrapped by ``distribute``; parameters are saved under the bare model's names.
        checkpointer: of the output folder.
        facts: further plain data that every checkpoint holds, under names of their own.
        parts: objects whose state is saved too, by name, such as an average of the weights.
        contents: what the training sets hold, by name, as counts and digests; a checkpoint that
            tells of others is not resumed.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    checkpointer: Checkpointer
    facts: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Stateful] = field(default_factory=dict)
    contents: Mapping[str, Mapping[str, int | str]] = field(default_factory=dict)
    _saved: tuple[int, Path] | None = field(default=None, init=False, repr=False)

    def save(self, name: str, iteration: int, told: str = SAVING) -> Path:
        """Write ``<name>.pth`` after ``iteration``; every process calls it, the main one writes.

        Args:
            told: what the log says, with %s for the path.

        Raises:
            FloatingPointError: weights or momentum are not finite; nothing is written.
            OSError: it could not be written.
        """
        with distributed.fail_together():
            self._check_finite(iteration)
        random_states = distributed.gather_objects(_get_random_state())
        normalizers = collect_normalizers(distributed.unwrap(self.model))
        path = self.checkpointer.output_dir / f"{name}.pth"
        if distributed.is_main_process():
            contents = {**self.facts, **self._collect(iteration), "random_state": random_states}
            contents |= normalizers
            contents[_CONTENTS] = {name: dict(facts) for name, facts in self.contents.items()}
            contents |= {part: self.parts[part].state_dict() for part in self.parts}
        with distributed.fail_together():
            if distributed.is_main_process():
                self.checkpointer.save(name, contents, told)
        self._saved = (iteration, path)
        return path

    def save_final(self, iteration: int) -> None:
        """Write ``model_final.pth`` after the last iteration, if that is not saved or restored.

        A training that was killed while it wrote that file has its last checkpoint alone.
        """
        if self._saved != (iteration, self.checkpointer.output_dir / f"{FINAL}.pth"):
            self.save(FINAL, iteration)

    def save_best(self, iteration: int, facts: Mapping[str, Any]) -> None:
        """Write the weights after ``iteration`` with facts to ``model_best.pth``; in every process.

        Raises:
            FloatingPointError: weights or momentum are not finite; nothing is written.
            OSError: it could not be written.
        """
        with distributed.fail_together():
            self._check_finite(iteration)
            if distributed.is_main_process():
                weights = distributed.unwrap(self.model).state_dict()
                self.checkpointer.save_best({**facts, "model": weights, "iteration": iteration})

    def add_facts(self, name: str) -> None:
        """Write ``<name>.pth``, which was saved last, again with other facts, as old as it is.

        Raises:
            OSError: it could not be written; the file that was there is untouched.
        """
        assert self._saved is not None, "nothing is saved"
        path = self.checkpointer.output_dir / f"{name}.pth"
        written = path.stat()
        self.save(name, self._saved[0], told="Adding its numbers to %s")
        if distributed.is_main_process():
            os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))

    def save_every(self, period: int) -> Callable[[Step], None]:
        """Make a callable for ``after_step`` that saves every ``period`` iterations and at the end.

        The files are ``model_0000999.pth`` and so on, and ``model_final.pth``.
        """
        if period < 1:
            raise ValueError(f"SOLVER.CHECKPOINT_PERIOD is {period}; write 1 or more iterations")

        def save_when_due(step: Step) -> None:
            if (step.iteration + 1) % period == 0:
                self.save_after(step)
            if step.iteration == step.stop - 1:
                with distributed.fail_together():
                    step.check_losses()
                self.save(FINAL, step.iteration)

        return save_when_due

    def save_after(self, step: Step) -> Path:
        """Save the state after ``step`` under its number, unless it is saved already."""
        if self._saved is not None and self._saved[0] == step.iteration:
            return self._saved[1]
        with distributed.fail_together():
            step.check_losses()
        return self.save(f"model_{step.iteration:07d}", step.iteration)

    def resume(self, *, anyway: bool = False) -> int:
        """Restore the newest checkpoint of the folder, where there is one.

        Call it last before the loop, in every process.

        Args:
            anyway: warn, in place of the error, where the training sets held something else.

        Returns:
            the iteration to start with, 0 without a checkpoint.

        Raises:
            ValueError, FileNotFoundError: the checkpoint is damaged, lacks a part, or is of another
                model or optimizer, or of training sets that held something else.
        """
        path = self.checkpointer.latest()
        if path is None:
            logger.info(
                "No checkpoint in %s; starting from the beginning.", self.checkpointer.output_dir
            )
            return 0
        self.checkpointer.tell_choice()
        contents = self.checkpointer.load(path)
        optimizer_state = find_optimizer_state(contents)
        if optimizer_state is None or "iteration" not in contents:
            raise ValueError(
                f"{path} holds weights, but no optimizer and iteration to resume; to start from "
                "these weights, set MODEL.WEIGHTS to that file and leave --resume out"
            )
        iteration = contents["iteration"]
        if not isinstance(iteration, int) or iteration < 0:
            raise ValueError(
                f"{path} is after the iteration {show(iteration)}, which is no number from 0 up; "
                "take another checkpoint of that run"
            )
        absent = [name for name in self.parts if name not in contents]
        if absent:
            raise ValueError(
                f"{path} holds no {', '.join(absent)}: it is of a training with other settings; "
                "resume with its config.yaml"
            )
        for name, part in self.parts.items():
            part.load_state_dict(contents[name])
        self._check_contents(contents.get(_CONTENTS), path, anyway=anyway)
        load_model_state(distributed.unwrap(self.model), contents["model"])
        self._load_optimizer(optimizer_state, path)
        _restore_random_state(contents.get("random_state"), path)
        restore_normalizer(distributed.unwrap(self.model), contents.get(normalizer.KEY))
        self._saved = (iteration, path)
        if distributed.is_main_process():
            self.checkpointer.remove_old(path)  # a killed run may not have come to it
        logger.info("Resuming from %s, after iteration %d.", path, iteration)
        return iteration + 1

    def _check_finite(self, iteration: int) -> None:
        """Refuse weights and momentum that a training cannot go on from."""
        model = distributed.unwrap(self.model)
        numbers = list(model.state_dict().items())
        for state in self.optimizer.state.values():
            numbers += [(f"the optimizer's {name}", value) for name, value in state.items()]
        endless = [name for name, value in numbers if not _is_finite(value)]
        if not endless:
            return
        newest = self.checkpointer.latest()
        kept = "no checkpoint was written before" if newest is None else f"{newest} is from before"
        raise FloatingPointError(
            f"the training diverged at or before iteration {iteration}: {len(endless)} of "
            f"{len(numbers)} tensors of weights and momentum hold NaN or infinite numbers "
            f"({list_first(dict.fromkeys(endless), 3, of=len(endless))}), which are not saved; "
            f"{kept}. Lower SOLVER.BASE_LR or SOLVER.WEIGHT_DECAY, lengthen the warm-up, or clip "
            "gradients (SOLVER.CLIP_GRADIENTS.ENABLED True), and begin anew"
        )

    def _check_contents(self, recorded: Any, path: Path, *, anyway: bool) -> None:
        """Refuse, or warn of, training sets that have changed since a checkpoint was written."""
        changes = list_first(_find_changes(recorded, self.contents), 4)
        if not changes:
            return
        told = f"the training sets are not as they were when {path} was written: {changes}"
        if not anyway:
            raise ValueError(
                f"{told}; resume with the data of that run, choose another OUTPUT_DIR, or go on "
                "all the same with --resume-anyway"
            )
        logger.warning("%s. The run goes on with them, as --resume-anyway says.", told)

    def _collect(self, iteration: int) -> dict[str, Any]:
        optimizer = self.optimizer.state_dict()
        base_lrs = [group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups]
        scheduler = {"base_lrs": base_lrs, "last_epoch": iteration + 1}
        # detectron2 asks for a scale when it resumes in mixed precision; bfloat16 has none.
        scale = torch.amp.GradScaler("cpu").state_dict()
        inner = {"iteration": iteration, "optimizer": optimizer, "grad_scaler": scale}
        hooks = {"LRScheduler": scheduler}
        return {
            "model": distributed.unwrap(self.model).state_dict(),
            "optimizer": optimizer,
            "scheduler": scheduler,
            "iteration": iteration,
            "trainer": {"iteration": iteration, "hooks": hooks, "_trainer": inner},
        }

    def _load_optimizer(self, state: dict[str, Any], path: Path) -> None:
        configured = [_get_settings(group) for group in self.optimizer.param_groups]
        self._check_kind(state, path)
        try:
            self.optimizer.load_state_dict(state)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"the optimizer in {path} does not fit ({error}); resume with the configuration of "
                "that run (its config.yaml): FREEZE_AT, norms and SOLVER's keys for biases and "
                "norms decide on the groups"
            ) from error
        self._check_momentum(path)
        restored = [_get_settings(group) for group in self.optimizer.param_groups]
        if restored != configured:
            logger.warning(
                "The checkpoint's optimizer settings are used, as in detectron2, and not the "
                "configured ones, which differ: %s instead of %s. Without --resume the configured "
                "ones hold.",
                restored,
                configured,
            )

    def _check_kind(self, state: dict[str, Any], path: Path) -> None:
        """Refuse the state of SGD for Adam, and the other way round."""
        groups = state.get("param_groups")
        if not isinstance(groups, list) or not all(isinstance(each, dict) for each in groups):
            return  # which is refused when it is loaded
        adaptive = any("betas" in group for group in groups)
        if adaptive != ("betas" in self.optimizer.param_groups[0]):
            theirs = "Adam or AdamW" if adaptive else "SGD"
            raise ValueError(
                f"the optimizer in {path} is {theirs}, and that of this training is "
                f"{type(self.optimizer).__name__}; resume with SOLVER.OPTIMIZER {theirs}, as in "
                "the config.yaml of that run"
            )

    def _check_momentum(self, path: Path) -> None:
        """Refuse restored momentum of another type or shape; warn where there is none."""
        parameters = [
            (parameter, name)
            for group in self.optimizer.param_groups
            for parameter in group["params"]
            for name in _list_averages(group)
        ]
        missing = 0
        for parameter, name in parameters:
            value = self.optimizer.state.get(parameter, {}).get(name)
            missing += value is None
            fits = isinstance(value, torch.Tensor) and value.is_floating_point()
            if value is not None and not (fits and value.shape == parameter.shape):
                raise ValueError(
                    f"the momentum in {path} is no tensor of the shape {tuple(parameter.shape)} of "
                    "its parameter; take another checkpoint of that run"
                )
            if fits and not _is_finite(value):
                raise ValueError(
                    f"the momentum in {path} holds NaN or infinite numbers; remove that file, and "
                    "--resume goes on from the checkpoint before it"
                )
        if missing:
            logger.warning(
                "%s holds no momentum of %d of %d parameters; theirs begins at 0.",
                *(path, missing, len(parameters)),
            )


class MovingAverage:
    """Keep an exponential moving average of a model's weights; call it after each ``Step``.

    Call it before anything that saves or tests the average: average = decay * average + (1 - decay)
    * weights, and likewise for the batch norms' statistics. At iteration t the decay is at most
    (1 + t) / (10 + t), so that a short training does not average the random start (as in TensorFlow
    and timm).

    Args:
        model: bare, without ``distribute``'s wrapping.
        decay: above 0 and below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._averaged = AveragedModel(model, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """Return the model with the averaged weights."""
        return self._averaged.module

    def __call__(self, step: Step) -> None:
        decay = min(self._decay, (1 + step.iteration) / (10 + step.iteration))
        self._averaged.multi_avg_fn = get_ema_multi_avg_fn(decay)
        self._averaged.update_parameters(self._model)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, in a form that ``read_weights`` reads too."""
        return self._averaged.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        load_model_state(self._averaged, state_dict)


def _find_changes(recorded: Any, contents: Mapping[str, Mapping[str, int | str]]) -> list[str]:
    """Find what sets hold now and did not; facts that are not recorded are passed over."""
    found = []
    for name, facts in contents.items():
        before = recorded.get(name) if isinstance(recorded, dict) else None
        before = before if isinstance(before, dict) else {}
        for fact, now in facts.items():
            was = before.get(fact)
            if type(was) is type(now) and was != now:
                counts = isinstance(now, int)
                changed = f"{now} {fact} in place of {show(was)}" if counts else f"other {fact}"
                found.append(f"{name!r} has {changed}")
    return found


def _is_finite(value: Any) -> bool:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return not floating or bool(value.isfinite().all())


def _get_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    with_first = {"initial_lr": group["lr"], **group}
    return {name: with_first.get(name) for name in _SETTINGS}


def _list_averages(group: Mapping[str, Any]) -> tuple[str, ...]:
    """List the names of the averages of gradients that the optimizer keeps of each parameter."""
    if "betas" in group:
        return "exp_avg", "exp_avg_sq"
    return ("momentum_buffer",) if group.get("momentum") else ()


def _get_random_state() -> dict[str, torch.Tensor | None]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _restore_random_state(states: Any, path: Path) -> None:
    count = len(states) if isinstance(states, list | tuple) else 0
    if count != distributed.get_world_size():
        logger.warning(
            "%s is of a training by %d processes, and there are %d. Each step takes the images "
            "that it would have taken, augmented alike, unless they are grouped by orientation "
            "(DATALOADER.ASPECT_RATIO_GROUPING) within each process, or mixed. What the model "
            "draws at random (anchors, regions, dropout) differs, and so do the statistics of "
            "batch norms that are trained in each process; without these the weights become those "
            "of that many processes, but for rounding.",
            path,
            count,
            distributed.get_world_size(),
        )
        return
    state = states[distributed.get_rank()]
    try:
        torch.set_rng_state(state["cpu"])
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"the state of the random numbers in {path} is none of torch's ({error}); take another "
            "checkpoint of that run"
        ) from error
