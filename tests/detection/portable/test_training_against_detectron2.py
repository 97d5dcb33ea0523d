"""Our loop, optimizer and schedule train our detector to the weights of detectron2's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from resnext_det.config.rules import read_settings
from resnext_det.detection.portable.build import build_detector
from resnext_det.training.loop import train_loop
from resnext_det.training.optimizer import ClippingSettings, OptimizerSettings, build_clipper
from resnext_det.training.optimizer import build_optimizer as build_own_optimizer
from resnext_det.training.schedule import ScheduleSettings, build_schedule
from tests.detection.detectron2_reference import (
    build_detectron2_detector,
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
    RETINANET_CHANGES,
    add_masks,
    override,
)
from tests.detection.portable.test_faster_rcnn import batch, configuration

pytestmark = pytest.mark.detectron2

STEPS = 12
SOLVER: list[Any] = [
    *override("SOLVER", MAX_ITER=STEPS, STEPS=(7, 10), WARMUP_ITERS=4, BASE_LR=0.01),
    *override("SOLVER", WEIGHT_DECAY=0.01, BIAS_LR_FACTOR=2.0, WEIGHT_DECAY_BIAS=0.0),
    *override("SOLVER.CLIP_GRADIENTS", ENABLED=True, CLIP_TYPE="norm"),
]
VARIANTS: dict[str, list[Any]] = {
    "FPN": [],
    "C4": C4_CHANGES,
    "C4, frozen below res3": [
        *C4_CHANGES,
        *override("MODEL.RESNETS", NORM="FrozenBN"),
        *override("MODEL.BACKBONE", FREEZE_AT=2),
    ],
    "cascade": CASCADE_CHANGES,
    "cascade with masks": [*CASCADE_CHANGES, *MASKS],
    "deformable": override(
        "MODEL.RESNETS", DEFORM_ON_PER_STAGE=[False, True, False, True], DEFORM_MODULATED=True
    ),
    "masks, FPN": MASKS,
    "masks, C4": C4_MASKS,
    "masks, DC5": [*DC5_CHANGES, *MASKS],
    "RetinaNet": RETINANET_CHANGES,
    "cosine": ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.NESTEROV", True],
}


# Of these heads the quick tests train one with masks, and compare one step of every other.
SLOW = {"masks, C4", "masks, DC5", "cascade", "cascade with masks"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in VARIANTS],
)
def test_trainings_end_in_equal_weights(name: str) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.engine import SimpleTrainer
    from detectron2.engine.hooks import LRScheduler
    from detectron2.solver import build_lr_scheduler, build_optimizer

    from resnext_det.detection.detectron2.engine import compile_focal_loss

    compile_focal_loss()
    cfg = configuration(*SOLVER, *VARIANTS[name])
    ours = build_detector(cfg)
    randomize(ours)
    theirs = build_detectron2_detector(cfg).train()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    batches = [batch(seed=step) for step in range(STEPS)]
    if cfg.MODEL.MASK_ON:
        batches = [[add_masks(sample) for sample in samples] for samples in batches]
    start = {key: value.clone() for key, value in ours.state_dict().items()}

    torch.manual_seed(11)
    losses: list[float] = []
    train_loop(
        model=ours,
        optimizer=build_own_optimizer(ours, read_settings(OptimizerSettings, cfg.SOLVER)),
        schedule=build_schedule(read_settings(ScheduleSettings, cfg.SOLVER)),
        batches=batches,
        start=0,
        stop=STEPS,
        device=torch.device("cpu"),
        clip=build_clipper(read_settings(ClippingSettings, cfg.SOLVER.CLIP_GRADIENTS)),
        after_step=[lambda step: losses.append(float(sum(step.losses.values())))],
    )

    their_cfg = copy_cfg_to_detectron2(cfg)
    optimizer = build_optimizer(their_cfg, theirs)
    trainer = SimpleTrainer(
        theirs, [copy_samples_to_detectron2(samples) for samples in batches], optimizer
    )
    trainer.register_hooks([LRScheduler(optimizer, build_lr_scheduler(their_cfg, optimizer))])
    torch.manual_seed(11)
    trainer.train(0, STEPS)

    found, expected = ours.state_dict(), theirs.state_dict()
    assert found.keys() == expected.keys()
    differing = {key for key in found if not torch.equal(found[key], expected[key])}
    assert differing == set()
    trained = [key for key, parameter in ours.named_parameters() if parameter.requires_grad]
    assert not any(torch.equal(found[key], start[key]) for key in trained)
    assert losses[-1] == pytest.approx(trainer.storage.history("total_loss").latest(), rel=1e-6)
