"""Build the detectors that are timed, of every engine with the same weights, and their images."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnext_det.architecture import Architecture
from resnext_det.benchmark.loading import draw_image
from resnext_det.config.loading import load_config
from resnext_det.config.values import unify_names
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.portable.retinanet import RetinaNet
from resnext_det.instances import Boxes, Instances
from resnext_det.masks import PolygonMasks

DETECTORS: Mapping[str, tuple[str, str, bool]] = {
    "FPN": ("Faster R-CNN FPN", "base/fpn.yaml", False),
    "C4": ("Faster R-CNN C4", "base/c4.yaml", False),
    "DC5": ("Faster R-CNN DC5", "base/dc5.yaml", False),
    "Mask-FPN": ("Mask R-CNN FPN", "base/fpn.yaml", True),
    "Mask-C4": ("Mask R-CNN C4", "base/c4.yaml", True),
    "Mask-DC5": ("Mask R-CNN DC5", "base/dc5.yaml", True),
    "Cascade": ("Cascade R-CNN", "base/cascade.yaml", False),
    "Mask-Cascade": ("Cascade Mask R-CNN", "base/cascade.yaml", True),
    "RetinaNet": ("RetinaNet", "base/retinanet.yaml", False),
}
"""Of each kind its title, its configuration, and whether it has a mask head."""

THEIRS, PLUGIN, PORTABLE = "detectron2", "resnext_det in detectron2", "resnext_det, portable"
_DEPTHS = (50, 101, 152)  # those that detectron2's own backbone has
_SPREAD = 2.0  # of the logits of classes: some hundred boxes pass the threshold of scores
_SPREAD_OF_ANCHORS = 0.6  # of RetinaNet's, around the -4.6 that they begin with: some hundred too
_OBJECTS = 20  # of an image, in training
_CORNERS = 24  # of the polygon of a mask


def list_engines(network: str = "R-50") -> tuple[str, ...]:
    """List the detectors of a network that can be built here; the first is the reference."""
    if importlib.util.find_spec("detectron2") is None:
        return (PORTABLE,)
    theirs = (THEIRS,) if Architecture.parse(network).depth in _DEPTHS else ()
    return (*theirs, PLUGIN, PORTABLE)


def build_detectors(architecture: Architecture, kind: str) -> dict[str, nn.Module]:
    """Build detectors of every engine that is installed, with the same random weights.

    Returns:
        The models by ``list_engines``.
    """
    names = list_engines(str(architecture))
    return {name: build_engine(name, architecture, kind) for name in names}


def build_engine(
    name: str, architecture: Architecture, kind: str, proposals: int | None = None
) -> nn.Module:
    """Build a detector of an engine, with weights that are the same in all of them.

    Blocks add little to their input, as trained ones do, so that maps and boxes stay finite, and
    scores are spread, so that about as many boxes are suppressed as of a trained detector.

    Args:
        name: one of ``list_engines``.
        kind: a key of ``DETECTORS``.
        proposals: regions an image in inference.
    """
    _, file, with_masks = DETECTORS[kind]
    overrides: list[Any] = ["MODEL.RESNETS.DEPTH", architecture.depth]
    overrides += ["MODEL.RESNETS.NUM_GROUPS", architecture.cardinality]
    overrides += ["MODEL.RESNETS.WIDTH_PER_GROUP", architecture.width, "MODEL.DEVICE", "cpu"]
    overrides += ["MODEL.MASK_ON", with_masks]
    if proposals is not None:
        overrides += ["MODEL.RPN.POST_NMS_TOPK_TEST", proposals]
    state = draw_weights(file, tuple(overrides))
    model: nn.Module
    if name == PORTABLE:
        model = build_detector(load_config(file, overrides))
    else:
        from detectron2.modeling import build_model

        from resnext_det.detection.detectron2 import engine

        cfg = engine.load_config(file, overrides)
        if name == THEIRS:
            cfg.defrost()
            backbone = cfg.MODEL.BACKBONE
            backbone.NAME = backbone.NAME.replace("resnext", "resnet")
            cfg.MODEL.RPN.HEAD_NAME = unify_names(cfg.MODEL.RPN.HEAD_NAME)
            cfg.MODEL.ROI_HEADS.NAME = unify_names(cfg.MODEL.ROI_HEADS.NAME)
        model = engine.build_detector(cfg) if name == PLUGIN else build_model(cfg)
    model.load_state_dict(dict(state))
    return model


@lru_cache(maxsize=2)
def draw_weights(file: str, overrides: tuple[Any, ...]) -> Mapping[str, Tensor]:
    """Draw the weights of a configuration, the same in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = build_detector(load_config(file, list(overrides))).eval()
    for name, value in model.state_dict().items():
        if name.endswith("conv3.norm.weight"):
            value.fill_(0.25)
    sample = draw_samples(1, 160, 224)
    for layer, spread in _list_outputs(model):
        _spread_outputs(model, layer, sample, spread)
    return model.state_dict()


def _list_outputs(model: Any) -> Iterator[tuple[Any, float]]:
    """List the layers that give logits, each after those that it depends on, and their spread."""
    if isinstance(model, RetinaNet):
        yield model.head.cls_score, _SPREAD_OF_ANCHORS
        return
    yield model.proposal_generator.rpn_head.objectness_logits, 1.0
    predictor = model.roi_heads.box_predictor
    for each in predictor if isinstance(predictor, nn.ModuleList) else [predictor]:
        yield each.cls_score, _SPREAD
    if model.roi_heads.mask_head is not None:
        yield model.roi_heads.mask_head.predictor, 1.0


@torch.no_grad()
def _spread_outputs(model: nn.Module, layer: Any, samples: Any, spread: float) -> None:
    """Scale a layer's weights so that its outputs have a standard deviation."""
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, inputs, output: outputs.append(output.flatten()))
    model(samples)
    hook.remove()
    layer.weight.mul_(spread / torch.cat(outputs).std())


def draw_samples(batch: int, height: int, width: int) -> list[dict[str, Any]]:
    """Draw images of blobs and noise, with twenty boxes each, and an ellipse in every box."""
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([width, height])
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2 + 0.5
    samples = []
    for number in range(batch):
        corners = torch.rand(_OBJECTS, 2, generator=generator) * size * 0.6
        sides = (0.05 + 0.35 * torch.rand(_OBJECTS, 2, generator=generator)) * size
        outlines = corners.numpy()[:, None] + circle * sides.numpy()[:, None]  # (objects, 24, 2)
        truth = Instances(
            (height, width),
            gt_boxes=Boxes(torch.cat([corners, corners + sides], dim=1)),
            gt_classes=torch.arange(_OBJECTS),
            gt_masks=PolygonMasks([[outline.reshape(-1)] for outline in outlines]),
        )
        image = draw_image(height, width, seed=number).transpose(2, 0, 1).copy()
        samples.append({"image": torch.from_numpy(image), "instances": truth})
    return samples


def load_converter(engine: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Load what converts samples to the engine's own types."""
    if engine == PORTABLE:
        return list
    from resnext_det.detection.detectron2.datasets import convert_sample

    return lambda samples: [convert_sample(sample) for sample in samples]
