"""Timings beside other implementations: detectors, the network up to res5, loading of images.

Machines are noisy, so implementations take turns, and a ratio compares turns of the same seconds.
"""

from __future__ import annotations

import importlib.util
import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.transforms import InterpolationMode, v2

from resnext_det.architecture import BLOCKS_PER_STAGE, Architecture
from resnext_det.config.loading import load_config
from resnext_det.data.images.augmentation import PaperAugmentation
from resnext_det.data.images.decoding import decode_rgb
from resnext_det.detection.portable.build import build_detector
from resnext_det.instances import Boxes, Instances
from resnext_det.resnext import ResNeXt
from resnext_det.training.optimizer import OptimizerSettings, build_optimizer
from resnext_det.weights import KNOWN

FEATURES = ("res2", "res3", "res4", "res5")
MODES = ("inference", "training")
DETECTORS = {"FPN": "base/fpn.yaml", "C4": "base/c4.yaml"}
_SIZE = 224


@dataclass(frozen=True)
class Timing:
    """Seconds of each turn of one implementation, and on a GPU the largest memory in bytes."""

    name: str
    seconds: tuple[float, ...]
    peak_memory: int | None = None


def take_turns(
    steps: Mapping[str, Callable[[], None]], device: torch.device, repeats: int
) -> list[Timing]:
    """Call each implementation's step in turn, ``repeats`` times, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    memory: dict[str, int | None] = {}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            taken, memory[name] = _measure(step, device)
            if turn:
                seconds[name].append(taken)
    return [Timing(name, tuple(taken), memory[name]) for name, taken in seconds.items()]


def _measure(step: Callable[[], None], device: torch.device) -> tuple[float, int | None]:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    step()
    if on_gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    return seconds, torch.cuda.max_memory_allocated(device) if on_gpu else None


def format_timings(timings: Sequence[Timing]) -> str:
    """Format milliseconds, the median ratio to the first, turn by turn, and memory."""
    first = timings[0].seconds
    rows = []
    for timing in timings:
        milliseconds = [1000 * value for value in timing.seconds]
        middle = statistics.median(milliseconds)
        ratio = statistics.median(other / own for other, own in zip(timing.seconds, first))
        memory = "" if timing.peak_memory is None else f"{timing.peak_memory / 2**20:.0f} MiB"
        rows.append([timing.name, min(milliseconds), middle, max(milliseconds), ratio, memory])
    headers = ["implementation", "min ms", "median ms", "max ms"]
    headers += [f"ratio to {timings[0].name}", "memory"]
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=("", ".0f", ".0f", ".0f", ".2f", ""))


def time_trunks(
    architecture: Architecture,
    *,
    mode: str,
    batch: int,
    height: int,
    width: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    repeats: int = 7,
) -> list[Timing]:
    """Time the stem to res5 of every implementation on one batch of random images.

    Args:
        mode: ``inference``, or ``training``: forward and backward, with FREEZE_AT 2.
        dtype: float32, or bfloat16: autocast.
        repeats: turns that count, after one that does not.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown; choose {' or '.join(MODES)}")
    training = mode == "training"
    images = torch.randn(batch, 3, height, width, device=device)
    steps: dict[str, Callable[[], None]] = {}
    for name, trunk in build_trunks(architecture, freeze_at=2 if training else 0).items():
        steps[name] = _make_step(trunk.to(device).train(training), images, dtype)
    return take_turns(steps, device, repeats)


def _make_step(trunk: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    def step() -> None:
        with (
            torch.set_grad_enabled(trunk.training),
            torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32),
        ):
            features: Mapping[str, Tensor] = trunk(images)
        if trunk.training:
            trunk.zero_grad()
            features["res5"].float().square().mean().backward()

    return step


def build_trunks(architecture: Architecture, *, freeze_at: int = 0) -> dict[str, nn.Module]:
    """Build the stem to res5 with frozen batch norms: ours, torchvision's, detectron2's.

    Args:
        freeze_at: the first so many of stem, res2 ... get no gradient.

    Returns:
        The networks by implementation; detectron2's where it is installed.
    """
    theirs = _TorchvisionTrunk(architecture)
    stages = ([theirs.conv1], theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)
    for stage in stages[:freeze_at]:
        for module in stage:
            module.requires_grad_(False)
    ours = ResNeXt(architecture, norm="FrozenBN", out_features=FEATURES).freeze(freeze_at)
    trunks: dict[str, nn.Module] = {"resnext_det": ours, "torchvision": theirs}
    if importlib.util.find_spec("detectron2") is not None:
        trunks["detectron2"] = _build_detectron2_trunk(architecture, freeze_at)
    return trunks


class _TorchvisionTrunk(ResNet):
    """torchvision's ResNet up to layer4, with its frozen batch norm."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(
            Bottleneck,
            list(BLOCKS_PER_STAGE[architecture.depth]),
            groups=architecture.cardinality,
            width_per_group=architecture.width,
            norm_layer=FrozenBatchNorm2d,
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = {}
        for name, layer in zip(FEATURES, (self.layer1, self.layer2, self.layer3, self.layer4)):
            features[name] = x = layer(x)
        return features


def _build_detectron2_trunk(architecture: Architecture, freeze_at: int) -> nn.Module:
    """Build what ``build_resnet_backbone`` builds with the stride in the 3x3 convolution."""
    from detectron2.modeling.backbone import resnet

    stages = [
        resnet.ResNet.make_stage(
            resnet.BottleneckBlock,
            stage.blocks,
            stride_per_block=[stage.stride] + [1] * (stage.blocks - 1),
            in_channels=stage.in_channels,
            out_channels=stage.out_channels,
            bottleneck_channels=stage.bottleneck_channels,
            num_groups=stage.cardinality,
            norm="FrozenBN",
            stride_in_1x1=False,
        )
        for stage in architecture.stages()
    ]
    stem = resnet.BasicStem(3, architecture.stem_channels, norm="FrozenBN")
    return resnet.ResNet(stem, stages, out_features=list(FEATURES), freeze_at=freeze_at)


def time_detectors(
    architecture: Architecture,
    kind: str,
    *,
    mode: str,
    batch: int,
    height: int,
    width: int,
    device: torch.device,
    repeats: int = 7,
) -> list[Timing]:
    """Time a whole Faster R-CNN of every implementation, in float32, on a batch of random images.

    Args:
        kind: a key of ``DETECTORS``.
        mode: ``inference``, or ``training``: losses, backward and a step of SGD, with FREEZE_AT 2,
            on eight boxes an image.
        repeats: turns that count, after one that does not.

    Returns:
        The timings of the plugin in detectron2 ("resnext_det"), of detectron2's own and of the
        portable engine; the last alone where detectron2 is not installed.
    """
    samples = _make_samples(batch, height, width)
    steps: dict[str, Callable[[], None]] = {}
    for name, model in build_detectors(architecture, kind).items():
        model.to(device).train(mode == "training")
        steps[name] = _make_detector_step(model, samples, theirs=name != "portable")
    return take_turns(steps, device, repeats)


def build_detectors(architecture: Architecture, kind: str) -> dict[str, nn.Module]:
    """Build Faster R-CNNs with the same random weights: the plugin's, detectron2's, the portable.

    Blocks add little to their input, as trained ones do, so that maps and boxes stay finite.
    """
    overrides: list[Any] = ["MODEL.RESNETS.DEPTH", architecture.depth]
    overrides += ["MODEL.RESNETS.NUM_GROUPS", architecture.cardinality]
    overrides += ["MODEL.RESNETS.WIDTH_PER_GROUP", architecture.width, "MODEL.DEVICE", "cpu"]
    portable = build_detector(load_config(DETECTORS[kind], overrides))
    for name, value in portable.named_buffers():
        if name.endswith("conv3.norm.weight"):
            value.fill_(0.25)
    if importlib.util.find_spec("detectron2") is None:
        return {"portable": portable}
    from detectron2.modeling import build_model

    from resnext_det.detection.detectron2 import engine

    cfg = engine.load_config(DETECTORS[kind], overrides)
    models: dict[str, nn.Module] = {"resnext_det": engine.build_detector(cfg)}
    cfg.defrost()
    for node in (cfg.MODEL.BACKBONE, cfg.MODEL.ROI_HEADS):
        node.NAME = node.NAME.replace("resnext", "resnet").replace("ResNeXt", "")
    if architecture.depth in (50, 101, 152):  # those that detectron2 has
        models["detectron2"] = build_model(cfg)
    for model in models.values():
        model.load_state_dict(portable.state_dict())
    return {**models, "portable": portable}


def _make_samples(batch: int, height: int, width: int) -> list[dict[str, Any]]:
    size = torch.tensor([width, height])
    samples = []
    for _ in range(batch):
        corners = torch.rand(8, 2) * size * 0.6
        boxes = torch.cat([corners, corners + (0.05 + 0.35 * torch.rand(8, 2)) * size], dim=1)
        truth = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=torch.arange(8))
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        samples.append({"image": image, "instances": truth})
    return samples


def _make_detector_step(
    model: nn.Module, samples: list[dict[str, Any]], *, theirs: bool
) -> Callable[[], None]:
    """Make the step of a detector; ``theirs`` are detectron2's, which take its own types."""
    if theirs:
        from detectron2.utils.events import EventStorage

        from resnext_det.detection.detectron2.datasets import convert_sample

        samples = [convert_sample(sample) for sample in samples]
    optimizer = build_optimizer(model, OptimizerSettings(base_lr=1e-6))

    def train() -> None:
        optimizer.zero_grad()
        sum(model(samples).values()).backward()
        optimizer.step()

    def step() -> None:
        if not model.training:
            with torch.no_grad():
                model(samples)
        elif theirs:
            with EventStorage():
                train()
        else:
            train()

    return step


def time_loading(
    *, height: int = 375, width: int = 500, images: int = 100, repeats: int = 7
) -> list[Timing]:
    """Time making a training image from a JPEG file beside torchvision's pipeline, on one thread.

    Both decode, crop at random, resize by a bicubic filter, jitter colors, normalize and flip. Ours
    adds fb.resnet.torch's lighting, which torchvision lacks. A turn is of ``images`` images.

    Args:
        height, width: of the JPEG, in pixels: ImageNet's usual ones.
        repeats: turns that count, after one that does not.
    """
    array = _make_jpeg(height, width)
    data, preprocessing = array.tobytes(), KNOWN["torchvision"]
    ours = PaperAugmentation(_SIZE, mean=preprocessing.mean, std=preprocessing.std)
    random_state = np.random.RandomState(0)
    theirs = v2.Compose(
        [
            v2.RandomResizedCrop(_SIZE, interpolation=InterpolationMode.BICUBIC),
            v2.ColorJitter(0.4, 0.4, 0.4),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(
                [value / 255 for value in preprocessing.mean],
                [value / 255 for value in preprocessing.std],
            ),
            v2.RandomHorizontalFlip(),
        ]
    )

    def load_ours() -> None:
        for _ in range(images):
            ours(decode_rgb(array, "image.jpg", ""), random_state)

    def load_theirs() -> None:
        for _ in range(images):
            theirs(Image.open(io.BytesIO(data)).convert("RGB"))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = {"resnext_det": load_ours, "torchvision": load_theirs}
        return take_turns(steps, torch.device("cpu"), repeats)
    finally:
        torch.set_num_threads(threads)


def _make_jpeg(height: int, width: int) -> np.ndarray:
    """Draw soft blobs with some noise, which compress about as photographs do."""
    random = np.random.RandomState(0)
    blobs = cv2.resize(
        random.randint(0, 256, (12, 16, 3)).astype(np.float32),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    image = np.clip(blobs + random.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
