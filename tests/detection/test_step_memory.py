"""The predicted memory of a step is what torch's allocator gives a real, larger one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode
from torch.profiler import ProfilerActivity, profile

from resnext_det.detection.jobs import find_engine
from resnext_det.detection.memory_prediction import Prediction, prepare_trial_config
from resnext_det.detection.memory_saving import MemorySaving, recompute_stages
from resnext_det.detection.training import choose_parts
from tests.detection.helpers import (
    C4_CHANGES,
    C4_MASKS,
    CASCADE_CHANGES,
    DC5_CHANGES,
    FROZEN_WIDE,
    MASKS,
    RETINANET_CHANGES,
    add_masks,
    as_overrides,
    draw_sample,
    override,
    write_config,
)

FAMILIES: dict[str, list[Any]] = {
    "FPN": [],
    "FPN, faster heads": override("MODEL.ROI_HEADS", NAME="ResNeXtStandardROIHeads"),
    "C4": C4_CHANGES,
    "C4, shared": [*C4_CHANGES, *override("MODEL.ROI_HEADS", NAME="ResNeXtSharedRes5ROIHeads")],
    "DC5": DC5_CHANGES,
    "RPN alone": override("MODEL", META_ARCHITECTURE="ProposalNetwork"),
    "cascade": CASCADE_CHANGES,
    "masks": MASKS,
    "masks, C4": C4_MASKS,
    "masks, cascade": [*MASKS, *CASCADE_CHANGES],
    "RetinaNet": RETINANET_CHANGES,
    "FPN, Adam": override("SOLVER", OPTIMIZER="Adam", BASE_LR=1e-4),
    "trained norms": override("MODEL.RESNETS", NORM="GN"),
}
SAVINGS = (
    MemorySaving(),
    MemorySaving(recompute=("res2", "res3", "res4")),
    MemorySaving(2, ("res2", "res3", "res4")),
)
IMAGES, SIZE, BOXES = 4, (192, 288), 6
QUICK = ("FPN",)


def measure(
    engine: str,
    cfg: CfgNode,
    saving: MemorySaving,
    images: int = IMAGES,
    size: tuple[int, int] = SIZE,
) -> int:
    """Measure the bytes that torch's allocator gives a step of real images and weights."""
    generator = torch.Generator().manual_seed(0)
    with find_engine(engine).open_trial(cfg) as trial:
        boxes = [[10.0 * i, 5.0 * i, 10.0 * i + 60, 5.0 * i + 50] for i in range(BOXES)]
        batch = [
            trial.convert(add_masks(draw_sample(generator, *size, boxes))) for _ in range(images)
        ]
        model, optimizer = trial.model, trial.optimizer
        recompute_stages(model, saving.recompute)
        split = choose_parts(cfg, model, saving.accumulate, trial.draw_anchors)

        def step() -> None:
            for losses in split(model, batch):
                if losses is None:
                    optimizer.zero_grad()
                else:
                    torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        step()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            step()
        assert profiled.profiler is not None
        events = profiled.profiler.kineto_results.events()
        changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        held = [*model.parameters(), *model.buffers()]
        averages = [value for state in optimizer.state.values() for value in state.values()]
        held += [value for value in averages if isinstance(value, torch.Tensor)]
        alive = most = sum(tensor.nbytes for tensor in held)
        for _, size in changes:
            alive += size
            most = max(most, alive)
        return most


@pytest.mark.parametrize(
    "family",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def test_predicted_memory_is_that_of_a_real_step(tmp_path: Path, engine: str, family: str) -> None:
    """The prediction comes from one and two images of less than half the area."""
    changes = [*FROZEN_WIDE, *FAMILIES[family], "INPUT.MIN_SIZE_TRAIN", (SIZE[0],)]
    config_file = write_config(tmp_path)
    cfg = find_engine(engine).load_config(config_file, as_overrides(changes))
    with find_engine(engine).open_trial(prepare_trial_config(cfg, on_gpu=False)) as trial:
        prediction = Prediction(cfg, trial, SIZE, BOXES, processes=1)
        predicted = [prediction.predict(saving, IMAGES, SIZE) for saving in SAVINGS]
    measured = [measure(engine, cfg, saving) for saving in SAVINGS]
    shares = [one / other for one, other in zip(predicted, measured, strict=True)]
    print(family, engine, [round(share, 3) for share in shares], predicted)
    assert all(0.93 < share < 1.07 for share in shares)
    assert measured[0] > measured[1] > measured[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_rcnn_X50_32x4d_FPN_1x", "mask_rcnn_X50_32x4d_FPN_1x"])
def test_predicted_memory_is_that_of_a_full_sized_step(name: str) -> None:
    """Regions that are objects, and so masks, are fewer here than the most that are predicted."""
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    cfg = find_engine("portable").load_config(f"modern/{name}.yaml", overrides)
    size, saving = (800, 1333), MemorySaving()
    with find_engine("portable").open_trial(prepare_trial_config(cfg, on_gpu=False)) as trial:
        predicted = Prediction(cfg, trial, size, BOXES, processes=1).predict(saving, 1, size)
    share = predicted / measure("portable", cfg, saving, 1, size)
    print(name, predicted, round(share, 3))
    assert 0.95 < share < (1.2 if cfg.MODEL.MASK_ON else 1.05)
