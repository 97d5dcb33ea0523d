"""Save memory in training: compute a batch in parts, and maps again instead of keeping them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnext_det.resnext import Bottleneck

STAGES = ("res2", "res3", "res4", "res5")


@dataclass(frozen=True)
class MemorySaving:
    """Say what a training does to need less memory.

    Attributes:
        accumulate: the parts in which each batch is computed, one after another. Their gradients
            add up to those of the whole batch, within float32's rounding.
        recompute: stages of the network, "res2" to "res5", of whose blocks only the inputs are
            kept; the rest is computed again in the backward pass. It changes no bit.

    Raises:
        ValueError: less than one part, or a name that is no stage.
    """

    accumulate: int = 1
    recompute: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(
                f"a batch cannot be accumulated from {self.accumulate} parts; write --accumulate 1 "
                "for the batch at once, or the number of its parts"
            )
        unknown = [name for name in self.recompute if name not in STAGES]
        if unknown:
            raise ValueError(
                f"there is no stage {unknown[0]!r} to recompute; choose of {', '.join(STAGES)}"
            )

    def check_batch(self, images: int) -> None:
        """Refuse more parts than a process has images of a batch.

        Raises:
            ValueError: see above.
        """
        if self.accumulate > images:
            raise ValueError(
                f"a batch of {images} images in each process has no {self.accumulate} parts; write "
                f"--accumulate {images} or less, or a larger SOLVER.IMS_PER_BATCH"
            )

    def check(self, model: nn.Module, images: int) -> None:
        """Refuse what cannot give the numbers of the whole batch.

        Args:
            model: bare, in training mode.
            images: of a batch, in this process.

        Raises:
            ValueError: more parts than images; batch norms that are trained; in parts, losses
                whose parts do not add up to that of the batch.
        """
        self.check_batch(images)
        if self.accumulate > 1:
            _check_losses(model)
        for name, module in model.named_modules():
            recomputed = set(name.split(".")) & set(self.recompute)
            if isinstance(module, _BatchNorm) and (self.accumulate > 1 or recomputed):
                flag, why = "--recompute", "it would count the statistics of each batch twice"
                if self.accumulate > 1:
                    flag, why = "--accumulate", "its statistics would be those of the parts"
                raise ValueError(
                    f"{flag} does not go with the batch norm {name}, which is trained: {why}; "
                    'choose NORM "FrozenBN" or "GN", or leave the flag out'
                )


NO_SAVING = MemorySaving()


def _check_losses(model: nn.Module) -> None:
    """Refuse losses that depend on the whole batch in more than what divides them."""
    for module in model.modules():
        if getattr(module, "use_fed_loss", False):
            raise ValueError(
                "--accumulate does not go with MODEL.ROI_BOX_HEAD.USE_FED_LOSS = True: the classes "
                "that it samples are those of the whole batch; leave the flag out, or write False"
            )
    if getattr(getattr(model, "roi_heads", None), "keypoint_head", None) is not None:
        raise ValueError(
            "--accumulate does not go with MODEL.KEYPOINT_ON = True: the loss of keypoints is "
            "divided by what the whole batch has; leave the flag out, or write False"
        )


def recompute_stages(model: nn.Module, stages: Sequence[str]) -> None:
    """Let the blocks of the named stages, and no others, keep only inputs for the backward pass.

    Args:
        model: a detector of either engine, or a backbone.
        stages: names among ``STAGES``; in a C4 detector res5 is the head of the regions.

    Raises:
        ValueError: the model has no such stage, or its blocks are not this package's.
    """
    blocks = {
        module: set(name.split("."))
        for name, module in model.named_modules()
        if isinstance(module, Bottleneck)
    }
    for stage in stages:
        if not any(stage in names for names in blocks.values()):
            raise ValueError(
                f"the model has no {stage} of this package's blocks to recompute; leave it out of "
                "--recompute"
            )
    for block, names in blocks.items():
        block.is_recomputed = not names.isdisjoint(stages)
