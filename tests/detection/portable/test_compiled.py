"""Graphs of torch.compile compute the portable detector without a break, to the last bit.

Under the compiler the faster heads are the exact ones, so that they are compared within rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.portable.compiled import compile_step
from resnext_det.detection.portable.faster_rcnn import FasterRCNN
from resnext_det.detection.portable.sampling import RegionSampling, sample_regions
from resnext_det.instances import Boxes, Instances
from tests.detection.detectron2_reference import assert_same_instances, randomize
from tests.detection.helpers import C4_CHANGES, RETINANET_CHANGES, STAGES, draw_sample, override
from tests.detection.portable.test_boxes import random_boxes
from tests.detection.portable.test_faster_rcnn import batch, configuration

DC5_CHANGES = [
    *override("MODEL.BACKBONE", NAME="build_resnext_backbone"),
    *override("MODEL.RESNETS", OUT_FEATURES=["res5"], RES5_DILATION=2),
    *override("MODEL.RPN", IN_FEATURES=["res5"]),
    *override("MODEL.ROI_HEADS", IN_FEATURES=["res5"]),
    *override("MODEL.ANCHOR_GENERATOR", SIZES=[[12, 24, 48]]),
]
VARIANTS: dict[str, list[Any]] = {"FPN": [], "C4": C4_CHANGES, "DC5": DC5_CHANGES}
SPARSE = override("MODEL.RPN", HEAD_NAME="ResNeXtSparseRPNHead")
FAST: dict[str, list[Any]] = {
    "FPN": [*SPARSE, *override("MODEL.ROI_HEADS", NAME="ResNeXtStandardROIHeads")],
    "C4": [*C4_CHANGES, *SPARSE, *override("MODEL.ROI_HEADS", NAME="ResNeXtSharedRes5ROIHeads")],
    "RetinaNet": [
        *RETINANET_CHANGES,
        *override("MODEL.BACKBONE", NAME="build_resnext_fpn_backbone"),
        *override("MODEL.FPN", IN_FEATURES=STAGES),
        *override("MODEL.RETINANET", IN_FEATURES=["p2", "p3"]),
    ],
}
Losses = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def compute_alike(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let eager convolutions be called as a graph calls them, and forget graphs."""
    monkeypatch.setattr("resnext_det.layers._HAS_ONEDNN", False)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def make(name: str, *changes: Any) -> FasterRCNN:
    model = build_detector(configuration(*VARIANTS[name], *changes))
    randomize(model)
    return model.train()


def take_step(
    model: FasterRCNN, compute: Callable[[Any], Losses], samples: Any
) -> tuple[Losses, Losses, torch.Tensor]:
    """Compute losses, gradients, and the state of the generator after the draws."""
    model.zero_grad()
    torch.manual_seed(7)
    losses = compute(samples)
    state = torch.get_rng_state()
    torch.stack(list(losses.values())).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients, state


def test_sampling_is_one_graph() -> None:
    """Regions are labeled and drawn as without a graph; an image has no ground truth."""
    truths = [sample["instances"] for sample in batch()]
    proposals = [
        Instances(one.image_size, proposal_boxes=Boxes(random_boxes(40, seed=seed, size=60)))
        for seed, one in enumerate(truths)
    ]
    settings = RegionSampling(6, (0.3, 0.5), (0, -1, 1), 16, 0.25, True)
    compiled = torch.compile(sample_regions, fullgraph=True, backend="eager")
    results = []
    for compute in (sample_regions, compiled):
        torch.manual_seed(7)
        results.append(compute(proposals, truths, settings))
    expected, found = results
    for name in ("regions", "classes", "truth"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert expected.regions[:, 0].unique().tolist() == [0, 1, 2]
    assert set(expected.classes.tolist()) == {0, 1, 6}


class Patches(nn.Conv2d):
    """Stand in for a backbone, whose graph would take most of the time: two maps of patches."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = super().forward(images)
        return {"res4": fine, "p2": fine, "p3": fine[..., ::2, ::2]}


def make_small(name: str) -> FasterRCNN:
    """Make a detector with the faster heads and nearly no backbone."""
    changes = override("MODEL.RPN", IN_FEATURES=["p2", "p3"]) if name == "FPN" else []
    changes += override("MODEL.ANCHOR_GENERATOR", SIZES=[[12, 24]])
    model = build_detector(configuration(*FAST[name], *changes))
    stride, channels = (16, 64) if name == "C4" else (4, 16)
    model.backbone = Patches(3, channels, stride, stride)
    randomize(model)
    return model.train()


def draw_batches() -> Iterator[list[dict[str, Any]]]:
    """Draw pairs of images of eight sizes with 0, 1, 2 and 5 objects."""
    generator = torch.Generator().manual_seed(0)
    corners = [[5, 9, 21, 30], [10, 12, 40, 44], [3, 3, 30, 20], [20, 8, 44, 40], [1, 1, 33, 40]]
    boxes = [[float(side) for side in box] for box in corners]
    sizes = [(48, 48), (64, 90), (80, 56), (64, 64), (96, 50), (72, 88), (128, 64), (64, 128)]
    counts = [(1, 1), (0, 0), (2, 5), (5, 0), (0, 1), (1, 2), (2, 2), (5, 5)]
    for index, numbers in enumerate(counts):
        shapes = sizes[index], sizes[(3 * index + 1) % 8]
        yield [
            draw_sample(generator, *shape, boxes[:number], 3)
            for shape, number in zip(shapes, numbers)
        ]


@pytest.mark.parametrize(
    "name", ["C4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("FPN", "RetinaNet"))]
)
def test_one_graph_serves_all_sizes_and_numbers_of_objects(name: str) -> None:
    model, counter = make_small(name), CompileCounter()
    step = compile_step(model, counter)
    for samples in draw_batches():
        average: Any = getattr(model, "loss_normalizer", None)  # of RetinaNet, moved by every step
        losses, gradients, state = take_step(model, model, samples)
        moved, model.loss_normalizer = getattr(model, "loss_normalizer", None), average
        mine, my_gradients, my_state = take_step(model, step, samples)
        assert model.loss_normalizer == moved
        torch.testing.assert_close(mine, losses)
        assert torch.equal(my_state, state)
        assert my_gradients.keys() == gradients.keys()
        for key, wanted in gradients.items():
            assert (my_gradients[key] - wanted).norm() <= 1e-4 * wanted.norm() + 1e-7, key
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_training_step_is_one_graph(name: str) -> None:
    """Three images of several sizes, one without an object."""
    model, samples = make(name), batch()
    expected = take_step(model, model, samples)
    found = take_step(model, compile_step(model, "eager"), samples)
    for mine, wanted in zip(found[:2], expected[:2]):
        assert mine.keys() == wanted.keys()  # type: ignore[union-attr]
        assert all(torch.equal(mine[key], wanted[key]) for key in wanted)
    assert torch.equal(found[2], expected[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_inference_is_one_graph(name: str) -> None:
    model, samples = make(name).eval(), batch()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    with torch.no_grad():
        for one, wanted in zip(compiled(samples), model(samples)):
            assert len(wanted["instances"]) > 0
            assert_same_instances(one["instances"], wanted["instances"])


@pytest.mark.slow
def test_a_graph_cannot_raise_and_gives_nan_for_what_has_diverged() -> None:
    model = make("C4")
    with torch.no_grad():
        model.get_submodule("proposal_generator.rpn_head.anchor_deltas").bias[0] = torch.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        model(batch())
    assert all(loss.isnan() for loss in list(compile_step(model, "eager")(batch()).values())[2:])


@pytest.mark.slow
def test_inductor_computes_the_step_within_rounding() -> None:
    model, samples = make("FPN", "MODEL.RESNETS.NORM", "FrozenBN"), batch()
    losses, gradients, state = take_step(model, model, samples)
    mine, my_gradients, my_state = take_step(model, compile_step(model), samples)
    assert torch.equal(my_state, state)
    torch.testing.assert_close(mine, losses, rtol=1e-5, atol=1e-7)
    for key, wanted in gradients.items():
        difference = (my_gradients[key] - wanted).norm() / wanted.norm()
        assert difference < 1e-4, key
