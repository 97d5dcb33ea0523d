"""A batch in parts gives the whole batch's losses and gradients, in both engines."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnext_det.config import load_config
from resnext_det.detection.batch_parts import BatchParts
from resnext_det.detection.memory_saving import MemorySaving
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.portable.rpn import draw_anchors
from resnext_det.training import distributed
from resnext_det.training.loop import compute_whole, train_loop
from resnext_det.training.processes import Processes, launch
from tests.detection.detectron2_reference import (
    copy_cfg_to_detectron2,
    copy_samples_to_detectron2,
    randomize,
)
from tests.detection.helpers import (
    C4_CHANGES,
    C4_MASKS,
    CASCADE_CHANGES,
    DC5_CHANGES,
    MASKS,
    add_masks,
    as_overrides,
    draw_sample,
    override,
    write_config,
)

FROZEN = override("MODEL.RESNETS", NORM="FrozenBN")
SETTINGS: dict[str, list[Any]] = {
    "FPN": FROZEN,
    "C4": [*FROZEN, *C4_CHANGES],
    "shared C4": [*FROZEN, *C4_CHANGES, "MODEL.ROI_HEADS.NAME", "ResNeXtSharedRes5ROIHeads"],
    "cascade": [*FROZEN, *CASCADE_CHANGES],
    "masks": [*FROZEN, *MASKS],
    "C4 masks": [*FROZEN, *C4_MASKS],
    "shared C4 masks": [
        *FROZEN,
        *C4_MASKS,
        *override("MODEL.ROI_HEADS", NAME="ResNeXtSharedRes5ROIHeads"),
    ],
    "DC5 masks": [*FROZEN, *DC5_CHANGES, *MASKS],
    "cascade masks": [*FROZEN, *CASCADE_CHANGES, *MASKS],
    "RPN alone": [*FROZEN, "MODEL.META_ARCHITECTURE", "ProposalNetwork"],
}
Computed = tuple[dict[str, float], dict[str, Tensor], Tensor]


def build(engine: str, folder: Path, changes: Sequence[Any]) -> tuple[Any, Any]:
    """Build a detector of either engine in training mode; return it and what draws its anchors."""
    cfg = load_config(write_config(folder), as_overrides(changes))
    draw: Callable[..., Any] = draw_anchors
    model: Any = build_detector(cfg)
    randomize(model)
    if engine == "detectron2":
        from resnext_det.detection.detectron2 import engine as theirs

        state, draw = model.state_dict(), theirs._draw_anchors
        named = copy_cfg_to_detectron2(cfg)
        model = theirs.build_detector(named)
        model.load_state_dict(state)
    return model.train(), draw


def make_samples(engine: str) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    samples = [
        draw_sample(generator, 64, 96, [[10.0, 12.0, 60.0, 40.0], [50.0, 20.0, 70.0, 60.0]]),
        draw_sample(generator, 80, 70, [[5.0, 30.0, 40.0, 70.0]]),
        draw_sample(generator, 48, 64, []),
    ]
    samples = [add_masks(sample) for sample in samples]
    return samples if engine == "portable" else copy_samples_to_detectron2(samples)


def compute(engine: str, model: nn.Module, split: Any = None) -> Computed:
    """Compute losses and gradients of one batch; return them and the state of torch's generator."""
    torch.manual_seed(7)
    model.zero_grad()
    sums: dict[str, float] = {}

    def run() -> None:
        batch = make_samples(engine)
        for losses in [model(batch)] if split is None else split(model, batch):
            if losses is None:
                model.zero_grad()
                sums.clear()
                continue
            sum(losses.values()).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float(loss.detach())

    if engine == "portable":
        run()
    else:
        from detectron2.utils.events import EventStorage

        with EventStorage():
            run()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return sums, gradients, torch.get_rng_state()


def flatten(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


@pytest.mark.parametrize("setting", SETTINGS)
def test_parts_add_up_to_the_whole_batch(tmp_path: Path, engine: str, setting: str) -> None:
    """They draw what the batch draws; 17 regions an image is more than there are."""
    model, draw = build(engine, tmp_path, SETTINGS[setting])
    losses, gradients, state = compute(engine, model)
    whole = flatten(gradients)
    for parts, regions in ((2, 16), (3, 17)):
        split = BatchParts(model, parts=parts, regions_per_image=regions, draw_anchors=draw)
        found, added, state_then = compute(engine, model, split)
        assert found == pytest.approx(losses, rel=1e-6)
        assert torch.equal(state_then, state)
        difference = torch.linalg.vector_norm(flatten(added) - whole)
        assert difference <= 1e-6 * torch.linalg.vector_norm(whole)
        assert not model.backbone._forward_pre_hooks


def test_objects_are_counted_without_spoiling_mixed_precision(tmp_path: Path) -> None:
    """Older versions of torch keep the weights that autocast casts in a pass without gradients."""
    model, draw = build("portable", tmp_path, SETTINGS["masks"])
    gradients = []
    for split in (None, BatchParts(model, parts=2, regions_per_image=16, draw_anchors=draw)):
        torch.manual_seed(7)
        model.zero_grad()
        losses = iter([model]) if split is None else split(model, make_samples("portable"))
        while True:
            with torch.autocast("cpu", dtype=torch.bfloat16):  # as in the training loop
                found = next(losses, None)
                if found is model:
                    found = model(make_samples("portable"))
            if found is None:
                break
            sum(found.values()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    whole, added = map(flatten, gradients)
    assert torch.linalg.vector_norm(added - whole) < 0.05 * torch.linalg.vector_norm(whole)


@pytest.mark.parametrize("setting", ["FPN", "C4"])
def test_nothing_is_left_of_a_part_when_the_next_begins(
    tmp_path: Path, engine: str, setting: str
) -> None:
    model, draw = build(engine, tmp_path, SETTINGS[setting])
    maps: list[weakref.ref[Tensor]] = []  # of the part before, of which its graph keeps some
    losses: list[weakref.ref[Tensor]] = []
    kept, left = [], []

    def count(values: list[weakref.ref[Tensor]]) -> int:
        return sum(value() is not None for value in values)

    def begin(*_: Any) -> None:
        left.append(count(maps) + count(losses))
        maps.clear()
        losses.clear()

    def note_maps(module: nn.Module, arguments: Any, output: dict[str, Tensor]) -> None:
        maps.extend(weakref.ref(value) for value in output.values())

    def note_losses(module: nn.Module, arguments: Any, output: dict[str, Tensor]) -> None:
        losses.extend(weakref.ref(value) for value in output.values())
        kept.append(count(maps))

    model.register_forward_pre_hook(begin)
    model.backbone.register_forward_hook(note_maps)
    model.register_forward_hook(note_losses)
    with ExitStack() as stack:
        if engine == "detectron2":
            from detectron2.utils.events import EventStorage

            stack.enter_context(EventStorage())
        train_loop(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=1e-6),
            schedule=lambda iteration: 1.0,
            batches=[make_samples(engine)] * 2,
            start=0,
            stop=2,
            device=torch.device("cpu"),
            split=BatchParts(model, parts=3, regions_per_image=16, draw_anchors=draw),
        )
    assert len(kept) == len(left) == 6
    assert all(kept) and not any(left)


def test_losses_that_know_the_whole_batch_are_refused() -> None:
    model: Any = nn.Module()
    model.roi_heads = nn.Module()
    model.roi_heads.keypoint_head = nn.Identity()
    with pytest.raises(ValueError, match=r"--accumulate does not go with MODEL.KEYPOINT_ON"):
        MemorySaving(accumulate=2).check(model, 4)
    model.roi_heads.box_predictor = nn.Module()
    model.roi_heads.box_predictor.use_fed_loss = True
    with pytest.raises(ValueError, match=r"--accumulate does not go with .*USE_FED_LOSS"):
        MemorySaving(accumulate=2).check(model, 4)
    MemorySaving(recompute=("res4",)).check(model, 4)


def add_up_in_two_processes(folder: str) -> list[tuple[int, Tensor, Tensor]]:
    """Compute the averaged gradients of both processes' batches, each at once and in two parts.

    Returns:
        of each process, how often it began again, and the gradients at once and in parts.
    """
    torch.set_num_threads(1)
    rank = distributed.get_rank()
    model, draw = build("portable", Path(folder) / str(rank), FROZEN)
    wrapped = distributed.distribute(model, torch.device("cpu"))
    assert wrapped is not model
    batch = make_samples("portable")[rank : rank + 2]
    # 17 is more than there are, so that process 1 computes its batch again, and process 0 does not.
    split = BatchParts(model, parts=2, regions_per_image=16 + rank, draw_anchors=draw)
    results, again = [], 0
    for compute_losses in (compute_whole, split):
        torch.manual_seed(7 + rank)
        model.zero_grad()
        for losses in compute_losses(wrapped, batch):
            if losses is None:
                again += 1
                model.zero_grad()
            else:
                sum(losses.values()).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append(flatten(gradients))
    return distributed.gather_objects((again, *results))


@pytest.mark.slow
def test_two_processes_in_parts_average_what_two_at_once_do(tmp_path: Path) -> None:
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    first, second = launch(
        add_up_in_two_processes, Processes(num_gpus=2), device="cpu", args=(str(tmp_path),)
    )
    assert (first[0], second[0]) == (0, 1)
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[2], second[2])
    difference = torch.linalg.vector_norm(first[2] - first[1])
    assert difference <= 1e-6 * torch.linalg.vector_norm(first[1])
