"""Any classifier's weights over any set of images: the tests of the paper's tables 3 to 7."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from resnext_det.classification.evaluation import evaluate_on
from resnext_det.classification.protocols import BATCH_SIZES, protocol_of
from resnext_det.classification.sets import open_once
from resnext_det.classification.weights import load_classifier
from resnext_det.data.images.image_set import ImageSet
from resnext_det.evaluation.classification import ClassificationMetrics
from resnext_det.training import distributed
from resnext_det.training.jobs import TESTING, explaining_small_machines, launch_job
from resnext_det.weights import WeightFile, read_weights
from resnext_det.weights.agreement import stated


@dataclass(frozen=True)
class EvaluationJob:
    """Which weights are to be tested, on what, and how. None takes what the weights were tested with in training, or is usual.

    Attributes:
        weights: a file, or a name of the catalog.
        dataset: a name or a path, see ``open_image_set``.
        protocol: "center", "ten-crop" (four corners, centre, mirrored) or "dense" (the fully convolutional form, at several scales).
        size: of the crop: 224, or 320 in table 5.
        resize: the shorter side before cropping: as in training, else 256 for 224 and the crop's for other sizes.
        scales: shorter sides of dense testing: 224, 256, 384, 480, 640.
        interpolation: "torch7_bicubic" (fb.resnet.torch), "bicubic" or "bilinear" (Pillow).
        preprocessing: a name in ``KNOWN``, where the weights do not say what they need.
        amp: compute in bfloat16.
        device: None for cuda where there is a GPU, else cpu.
        batch_size: images of a process at once; None for ``BATCH_SIZES``.
        num_workers, skip_broken: of a process.
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
    batch_size: int | None = None
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
    device = job.device or distributed.usual_device()
    distributed.resolve_device(device, setting="--device")
    return list(launch_job(_test, job, device=device, args=(job,), advice=TESTING) or ())


def _test(job: EvaluationJob) -> list[ClassificationMetrics]:
    file = read_weights(job.weights, mapped=True)
    if job.preprocessing is not None:
        file = stated(file, job.preprocessing)
    protocol = protocol_of(
        file,
        job.protocol,
        size=job.size,
        resize=job.resize,
        scales=job.scales,
        interpolation=job.interpolation,
    )
    network = load_classifier(file).to(distributed.resolve_device(job.device or distributed.usual_device()))
    images = open_once(job.dataset)
    with explaining_small_machines(TESTING):
        return evaluate_on(
            network,
            images,
            protocol,
            outputs=_outputs(file, images),
            batch_size=BATCH_SIZES[job.protocol] if job.batch_size is None else job.batch_size,
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
