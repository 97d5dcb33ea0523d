"""Whole detectors: the portable engine's, the plugin's in detectron2, and detectron2's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from resnext_det.architecture import Architecture
from resnext_det.benchmark.cases import (
    CALIBRATED,
    DTYPES,
    Candidate,
    Key,
    NetworkCase,
    hold_precision,
    measure_difference,
    select_names,
)
from resnext_det.benchmark.loading import draw_image
from resnext_det.benchmark.trunks import count_bytes, count_trained_bytes
from resnext_det.config.loading import load_config
from resnext_det.detection.portable.build import build_detector
from resnext_det.instances import Boxes, Instances
from resnext_det.runtimes.optimize import optimize
from resnext_det.training.optimizer import OptimizerSettings, build_optimizer

DETECTORS = {"FPN": "base/fpn.yaml", "C4": "base/c4.yaml", "RetinaNet": "base/retinanet.yaml"}
THEIRS, PLUGIN, PORTABLE = "detectron2", "resnext_det in detectron2", "resnext_det, portable"
_DEPTHS = (50, 101, 152)  # those that detectron2's own backbone has
_SPREAD = 2.0  # of the logits of classes: some hundred boxes pass the threshold of scores
_SPREAD_OF_ANCHORS = 0.6  # of RetinaNet's, around the -4.6 that they begin with: some hundred too
_SAME = 0.8  # IoU of a box and its counterpart


@dataclass(frozen=True)
class DetectorCase(NetworkCase):
    """Compare a whole detector of every engine, with the same weights, on noisy images.

    In training it is the losses, backward and a step of SGD, with FREEZE_AT 2, on eight boxes an
    image.

    Args:
        kind: a key of ``DETECTORS``.
        proposals: regions an image in inference; None leaves the configuration's.
        names: those that take part, of ``list_engines``; all by default.
        others: see ``NetworkCase``.
    """

    kind: str = field(kw_only=True)
    proposals: int | None = None
    names: Sequence[str] = ()

    @property
    def limits(self) -> Mapping[str, float]:  # type: ignore[override]
        """A rounding moves a box over the threshold of NMS now and then, or another is sampled."""
        training = self.mode == "training"
        return {"float32": 0.05, "tf32": 0.2, "bfloat16": 0.2 if training else 0.5, "int8": 0.9}

    @property
    def title(self) -> str:
        parts = [self.kind if self.kind == "RetinaNet" else f"Faster R-CNN {self.kind}"]
        if self.proposals is not None:
            parts.append(f"{self.proposals} regions")
        mode = "training step" if self.mode == "training" else self.mode
        parts += [mode, self.describe_images(), str(self.device)]
        return ", ".join(parts)

    @property
    def reference(self) -> str:
        return (self.names or list_engines())[0]

    def list_keys(self) -> list[Key]:
        keys = []
        for network in self.networks:
            every = self.names or list_engines(network)
            names = list(every)
            if self.mode == "inference":
                ours = [name for name in every if name != THEIRS]
                names += [f"{name}, {backend}" for name in ours for backend in self.backends]
            keys.append(Key(network, every[0], "float32"))
            for dtype in self.dtypes:
                keys += [Key(network, name, dtype) for name in select_names(names, dtype)]
        return list(dict.fromkeys(keys))

    def build(self, key: Key) -> Candidate:
        engine = next(name for name in (PORTABLE, PLUGIN, THEIRS) if key.name.startswith(name))
        backend, training = key.name[len(engine) + 2 :], self.mode == "training"
        model = build_engine(engine, Architecture.parse(key.network), self.kind, self.proposals)
        model.to(self.device).train(training)
        convert = _load_converter(engine)
        samples = convert(draw_samples(self.batch, self.height, self.width))
        dtype = DTYPES[key.dtype]
        if backend:
            calibration = None
            if key.dtype == "int8":
                calibration = convert(draw_samples(CALIBRATED, self.height, self.width))
            model = optimize(model, backend, dtype, example=samples, calibration=calibration)
            dtype = torch.float32
        detect = _make_detection(model, samples, self.device, dtype)
        detect = hold_precision(key.dtype, detect)
        weights = count_bytes(model)
        if not training:
            return Candidate(detect, lambda: _read_detections(detect()), weights=weights)
        compute, step = _make_training(model, samples, self.device, dtype, engine != PORTABLE)
        weights += 2 * count_trained_bytes(model)  # the gradient, and the optimizer's momentum
        return Candidate(hold_precision(key.dtype, step), compute, weights=weights)

    def forget(self) -> None:
        _draw_weights.cache_clear()

    def compare(self, found: Any, expected: Any) -> float:
        """Compare losses, or find the part of the detections that has no counterpart."""
        if self.mode == "training":
            return measure_difference(found, expected)
        return max(
            _measure_strangeness(one, other)
            for pair in zip(found, expected, strict=True)
            for one, other in (pair, pair[::-1])
        )


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
    overrides: list[Any] = ["MODEL.RESNETS.DEPTH", architecture.depth]
    overrides += ["MODEL.RESNETS.NUM_GROUPS", architecture.cardinality]
    overrides += ["MODEL.RESNETS.WIDTH_PER_GROUP", architecture.width, "MODEL.DEVICE", "cpu"]
    if proposals is not None:
        overrides += ["MODEL.RPN.POST_NMS_TOPK_TEST", proposals]
    state = _draw_weights(kind, tuple(overrides))
    model: nn.Module
    if name == PORTABLE:
        model = build_detector(load_config(DETECTORS[kind], overrides))
    else:
        from detectron2.modeling import build_model

        from resnext_det.detection.detectron2 import engine

        cfg = engine.load_config(DETECTORS[kind], overrides)
        if name == THEIRS:
            cfg.defrost()
            backbone = cfg.MODEL.BACKBONE
            backbone.NAME = backbone.NAME.replace("resnext", "resnet")
            cfg.MODEL.RPN.HEAD_NAME = "StandardRPNHead"
            cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads" if kind == "C4" else "StandardROIHeads"
        model = engine.build_detector(cfg) if name == PLUGIN else build_model(cfg)
    model.load_state_dict(dict(state))
    return model


@lru_cache(maxsize=2)
def _draw_weights(kind: str, overrides: tuple[Any, ...]) -> Mapping[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = build_detector(load_config(DETECTORS[kind], list(overrides))).eval()
    for name, value in model.state_dict().items():
        if name.endswith("conv3.norm.weight"):
            value.fill_(0.25)
    sample = draw_samples(1, 160, 224)
    if kind == "RetinaNet":
        _spread_outputs(model, model.head.cls_score, sample, _SPREAD_OF_ANCHORS)
        return model.state_dict()
    head, predictor = model.proposal_generator.rpn_head, model.roi_heads.box_predictor
    for layer, spread in ((head.objectness_logits, 1.0), (predictor.cls_score, _SPREAD)):
        _spread_outputs(model, layer, sample, spread)
    return model.state_dict()


@torch.no_grad()
def _spread_outputs(model: nn.Module, layer: Any, samples: Any, spread: float) -> None:
    """Scale a layer's weights so that its outputs have a standard deviation."""
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, inputs, output: outputs.append(output.flatten()))
    model(samples)
    hook.remove()
    layer.weight.mul_(spread / torch.cat(outputs).std())


def draw_samples(batch: int, height: int, width: int) -> list[dict[str, Any]]:
    """Draw images of blobs and noise, with eight boxes each."""
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([width, height])
    samples = []
    for number in range(batch):
        corners = torch.rand(8, 2, generator=generator) * size * 0.6
        sides = (0.05 + 0.35 * torch.rand(8, 2, generator=generator)) * size
        boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
        truth = Instances((height, width), gt_boxes=boxes, gt_classes=torch.arange(8))
        image = draw_image(height, width, seed=number).transpose(2, 0, 1).copy()
        samples.append({"image": torch.from_numpy(image), "instances": truth})
    return samples


def _load_converter(engine: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Load what converts samples to the engine's own types."""
    if engine == PORTABLE:
        return list
    from resnext_det.detection.detectron2.datasets import convert_sample

    return lambda samples: [convert_sample(sample) for sample in samples]


def _make_detection(
    model: nn.Module, samples: list[dict[str, Any]], device: torch.device, dtype: torch.dtype
) -> Callable[[], list[dict[str, Any]]]:
    def detect() -> list[dict[str, Any]]:
        autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
        with torch.no_grad(), autocast:
            return model(samples)

    return detect


def _make_training(
    model: nn.Module,
    samples: list[dict[str, Any]],
    device: torch.device,
    dtype: torch.dtype,
    theirs: bool,
) -> tuple[Callable[[], dict[str, Tensor]], Callable[[], None]]:
    """Make what computes the losses, by the same draws, and a step of training.

    Args:
        theirs: the model is detectron2's, which stores numbers of its training.
    """
    optimizer = build_optimizer(model, OptimizerSettings(base_lr=1e-6))

    def compute() -> dict[str, Tensor]:
        torch.manual_seed(0)
        autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
        with autocast:
            if not theirs:
                return model(samples)
            from detectron2.utils.events import EventStorage

            with EventStorage():
                return model(samples)

    def step() -> None:
        optimizer.zero_grad()
        sum(compute().values(), torch.zeros((), device=device)).backward()
        optimizer.step()

    return compute, step


def _read_detections(found: list[dict[str, Any]]) -> list[tuple[Tensor, Tensor]]:
    """Read (boxes, classes) of every image."""
    every = [one["instances"].to("cpu") for one in found]
    return [(one.pred_boxes.tensor.float(), one.pred_classes) for one in every]


def _measure_strangeness(detections: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> float:
    """Measure the part of detections that the others lack, in class or in place."""
    if not len(detections[0]):
        return 0.0
    same = detections[1][:, None] == others[1]
    if not same.numel():
        return 1.0
    overlaps = torch.where(same, box_iou(detections[0], others[0]), 0.0)
    return float(np.mean(overlaps.max(dim=1).values.numpy() < _SAME))
