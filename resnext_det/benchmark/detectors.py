"""Compare whole detectors: the portable engine's, the plugin's in detectron2, and detectron2's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from resnext_det.benchmark.engines import (
    DETECTORS,
    PLUGIN,
    PORTABLE,
    THEIRS,
    build_engine,
    draw_samples,
    draw_weights,
    list_engines,
    load_converter,
)
from resnext_det.benchmark.trunks import count_bytes, count_trained_bytes
from resnext_det.instances import Boxes, Instances
from resnext_det.runtimes.optimize import optimize
from resnext_det.training.optimizer import OptimizerSettings, build_optimizer

_SAME = 0.8  # IoU of a box and its counterpart, and of their masks
_MASK_STEP = 4  # pixels of masks between those that are compared, along each axis


@dataclass(frozen=True)
class DetectorCase(NetworkCase):
    """Compare a whole detector of every engine, with the same weights, on noisy images.

    In training it is the losses, backward and a step of SGD, with FREEZE_AT 2, on twenty objects an
    image. In inference masks are pasted into the image.

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
        parts = [DETECTORS[self.kind][0]]
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
        convert = load_converter(engine)
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
        draw_weights.cache_clear()

    def compare(self, found: Any, expected: Any) -> float:
        """Compare losses, or find the part of the detections that has no counterpart."""
        if self.mode == "training":
            return measure_difference(found, expected)
        return max(
            _measure_strangeness(one, other)
            for pair in zip(found, expected, strict=True)
            for one, other in (pair, pair[::-1])
        )


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


def _read_detections(found: list[dict[str, Any]]) -> list[Instances]:
    """Read boxes and classes of every image, and every fourth pixel of masks along each axis."""
    read = []
    for one in (each["instances"].to("cpu") for each in found):
        boxes = Boxes(one.pred_boxes.tensor.float())
        instances = Instances(one.image_size, pred_boxes=boxes, pred_classes=one.pred_classes)
        if one.has("pred_masks"):
            instances.pred_masks = one.pred_masks[:, ::_MASK_STEP, ::_MASK_STEP].clone()
        read.append(instances)
    return read


def _measure_strangeness(detections: Instances, others: Instances) -> float:
    """Measure the part of detections that the others lack, in class, place or mask."""
    if not len(detections):
        return 0.0
    same = detections.pred_classes[:, None] == others.pred_classes
    if not same.numel():
        return 1.0
    same &= box_iou(detections.pred_boxes.tensor, others.pred_boxes.tensor) >= _SAME
    if detections.has("pred_masks"):
        same &= _measure_mask_ious(detections.pred_masks, others.pred_masks) >= _SAME
    return float(1 - same.any(dim=1).float().mean())


def _measure_mask_ious(masks: Tensor, others: Tensor) -> Tensor:
    """Measure the IoU of masks, bool (N, H, W) and (M, H, W): (N, M); 1 of two that are empty."""
    ours, theirs = masks.flatten(1).float(), others.flatten(1).float()
    common = ours @ theirs.T
    union = ours.sum(dim=1)[:, None] + theirs.sum(dim=1) - common
    return torch.where(union > 0, common / union, 1.0)
