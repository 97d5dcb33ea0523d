"""Any classifier's weights over any set of images: the tests of the paper's tables 3 to 7."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from resnext_det.classification import protocols
from resnext_det.classification.evaluation import evaluate_on
from resnext_det.classification.protocols import Protocol
from resnext_det.classification.sets import open_once
from resnext_det.classification.weights import load_classifier
from resnext_det.data.images.cropping import CenterCrop, DenseScales, TenCrop
from resnext_det.data.images.image_set import ImageSet
from resnext_det.evaluation.classification import ClassificationMetrics
from resnext_det.training import distributed
from resnext_det.training.jobs import explaining_small_machines, launch_job
from resnext_det.weights import KNOWN, WeightFile, read_weights
from resnext_det.weights.agreement import stated

PROTOCOLS = ("center", "ten-crop", "dense")


@dataclass(frozen=True)
class EvaluationJob:
    """Which weights are to be tested, on what, and how. None takes what the weights were tested with in training, or is usual.

    Attributes:
        weights: a file, or a name of the catalog.
        dataset: a name or a path, see ``open_image_set``.
        protocol: "center", "ten-crop" (four corners, centre, mirrored) or "dense" (the fully convolutional form, at several scales).
        size: of the crop: 224, or 320 in table 5.
        resize: the shorter side before cropping: 256 for 224, else the crop's.
        scales: shorter sides of dense testing: 224, 256, 384, 480, 640.
        interpolation: "torch7_bicubic" (fb.resnet.torch), "bicubic" or "bilinear" (Pillow).
        preprocessing: a name in ``KNOWN``, where the weights do not say what they need.
        amp: compute in bfloat16.
        device: None for cuda where there is a GPU, else cpu.
        batch_size, num_workers, skip_broken: of a process.
        num_gpus, num_machines, machine_rank, dist_url: see ``launch``.
    """

    weights: str
    dataset: str
    protocol: str = "center"
    size: int | None = None
    resize: int | None = None
    scales: Sequence[int] | None = None
    interpolation: str | None = None
    preprocessing: str | None = None
    amp: bool = False
    device: str | None = None
    batch_size: int = 64
    num_workers: int = 4
    skip_broken: bool = False
    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"


def evaluate_weights(job: EvaluationJob) -> list[ClassificationMetrics]:
    """Test a file of weights.

    Returns:
        the metrics over all the network's outputs, and where the set has some of its classes only, those among them alone.

    Raises:
        ValueError, FileNotFoundError: weights, set or settings are wrong, or an image is broken.
    """
    device = job.device or ("cuda" if torch.cuda.is_available() else "cpu")
    distributed.resolve_device(device, setting="--device")
    _check(job)
    return list(launch_job(_test, job, device=device, args=(replace(job, device=device),)) or ())


def _check(job: EvaluationJob) -> None:
    """Refuse what would not be honoured."""
    if job.protocol not in PROTOCOLS:
        raise ValueError(f"protocol {job.protocol!r} is not known; choose one of {', '.join(PROTOCOLS)}")
    unused = ("size", "resize") if job.protocol == "dense" else ("scales",)
    for name in ("size", "resize", "scales"):
        value = getattr(job, name)
        if value is None:
            continue
        if name in unused:
            others = "center or ten-crop" if job.protocol == "dense" else "dense"
            raise ValueError(
                f"{name} = {value} has no effect in the protocol {job.protocol!r}; leave it out, or choose {others}"
            )
        if min([value] if isinstance(value, int) else value, default=0) < 1:
            raise ValueError(f"{name} = {value}: write pixels, 1 or more")


def _test(job: EvaluationJob) -> list[ClassificationMetrics]:
    file = read_weights(job.weights, mapped=True)
    if job.preprocessing is not None:
        file = stated(file, job.preprocessing)
    network = load_classifier(file).to(distributed.resolve_device(job.device or "cpu"))
    images = open_once(job.dataset)
    with explaining_small_machines():
        return evaluate_on(
            network,
            images,
            protocol_of(job, file),
            outputs=_outputs(file, images),
            batch_size=job.batch_size,
            num_workers=job.num_workers,
            skip_broken=job.skip_broken,
            amp_dtype=torch.bfloat16 if job.amp else None,
        )


def _outputs(file: WeightFile, images: ImageSet) -> Sequence[str]:
    """The classes of the network's outputs."""
    if file.class_names is not None:
        return file.class_names
    count = len(file.state["linear.bias"])
    if count != len(images.class_names):
        raise ValueError(
            f"{file.path} has {count} outputs and does not name their classes, and {images.name!r} has {len(images.class_names)} "
            "classes; give a set of as many classes, whose names in ascending order are those of the outputs"
        )
    return images.class_names


def protocol_of(job: EvaluationJob, file: WeightFile) -> Protocol:
    """The protocol of a job, for these weights.

    Raises:
        ValueError: the weights do not say which preprocessing they need; sizes do not go together.
    """
    preprocessing = file.preprocessing
    if preprocessing is None:
        raise ValueError(
            f"{file.path} does not say which preprocessing its weights need; name it with --preprocessing: {', '.join(KNOWN)}"
        )
    trained = file.metadata
    small = file.architecture is not None and file.architecture.for_small_images
    own = file.format in ("native", "torch7")
    interpolation = (
        job.interpolation or trained.get("interpolation") or ("torch7_bicubic" if own else "bilinear")
    )
    common: dict[str, Any] = {
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "channel_order": preprocessing.channel_order,
        "interpolation": interpolation,
    }
    if job.protocol == "dense":
        return protocols.dense(
            DenseScales(tuple(job.scales or protocols.DENSE_SCALES), **common), window=8 if small else 7
        )
    usual = int(trained.get("size_test", 32 if small else 224))
    size = job.size or usual
    resize = job.resize or (
        int(trained.get("resize_test", 256 if size == 224 else size)) if size == usual else size
    )
    if job.protocol == "ten-crop":
        return protocols.ten_crop(TenCrop(size, resize, **common))
    rounding = "up" if interpolation == "torch7_bicubic" else "half_even"
    return protocols.center(CenterCrop(size, resize, rounding=rounding, **common))
