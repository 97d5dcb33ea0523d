"""Compile a training step of the portable detector into one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental import _config

from resnext_det.detection.portable.detector import Detector
from resnext_det.detection.portable.faster_rcnn import FasterRCNN
from resnext_det.detection.portable.retinanet import RetinaNet
from resnext_det.instances import Boxes, Instances

TrainingStep = Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]


def compile_step(model: Detector, backend: str | Callable[..., Any] = "inductor") -> TrainingStep:
    """Compile what a detector computes in training, from samples to losses, and their gradients.

    All from the padded images to the losses is one graph; another number of images makes another.
    torch's compiler takes the sizes of images and numbers of objects as unknown, but its backend
    inductor makes another for each size (see docs/deployment.md). The first call takes minutes.
    Losses and gradients are the model's within rounding, with the same random draws; of the faster
    heads, which no graph holds, the exact ones are computed. Where the RPN predicts what is not
    finite, the losses are NaN.

    Args:
        model: in training mode; its parameters get the gradients.
        backend: of ``torch.compile``; "eager" computes the graph with the model's own operators.

    Returns:
        takes the samples of ``model`` and gives its losses.

    Raises:
        ValueError: the model has a mask head.

    Example:
        >>> step = compile_step(build_detector(cfg).train())
        >>> sum(step(samples).values()).backward()
    """
    if isinstance(model, FasterRCNN):
        if model.roi_heads is not None and model.roi_heads.mask_head is not None:
            raise ValueError(
                "no graph of torch.compile holds the ground truth of masks, whose polygons "
                "pycocotools fills, so that the training step of a mask head cannot be compiled; "
                "train the model as it is, or with MODEL.MASK_ON False"
            )
    elif not isinstance(model, RetinaNet):
        raise ValueError(
            f"compile_step compiles Faster R-CNN and RetinaNet, and was given a "
            f"{type(model).__name__}; train it as it is"
        )
    # To save memory inductor would let one image draw its regions before another.
    options: Any = {"reorder_for_peak_memory": False} if backend == "inductor" else None
    compiled = torch.compile(
        _compute_losses, fullgraph=True, dynamic=True, backend=backend, options=options
    )

    def step(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        images, sizes = model.preprocess(samples)
        objects = [_join(one, "gt_boxes", "gt_classes") for one in model.get_targets(samples)]
        regions: list[Tensor] = []
        if isinstance(model, FasterRCNN) and model.proposal_generator is None:
            regions = [_join(one, "proposal_boxes") for one in model.get_proposals(samples)]
        # A graph must not be one of images that happen to be as high as wide.
        with _config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
            found = compiled(model, images, torch.tensor(sizes), objects, regions)
        # The average that divides RetinaNet's losses follows the training, outside of the graph.
        return model.divide(*found) if isinstance(model, RetinaNet) else found

    return step


def _compute_losses(
    model: Detector,
    images: Tensor,
    sizes: Tensor,
    objects: Sequence[Tensor],
    regions: Sequence[Tensor],
) -> Any:
    """Compute the losses of images; all other arguments are tensors, whose values no graph knows.

    Args:
        sizes: (N, 2), on the CPU: height and width of every image.
        objects: per image (G, 5): boxes and classes.
        regions: per image (R, 4), where no RPN proposes them.

    Returns:
        the losses; of RetinaNet what its ``sum_losses`` gives.
    """
    image_sizes = [(height, width) for height, width in sizes.tolist()]
    targets = [
        Instances(size, gt_boxes=Boxes(one[:, :4]), gt_classes=one[:, 4].long())
        for size, one in zip(image_sizes, objects)
    ]
    if isinstance(model, RetinaNet):
        return model.sum_losses(*model.predict_all(images), targets)
    assert isinstance(model, FasterRCNN)
    proposals = [
        Instances(size, proposal_boxes=Boxes(one)) for size, one in zip(image_sizes, regions)
    ]
    return model.compute(images, image_sizes, targets, proposals)[1]


def _join(instances: Instances, boxes: str, *others: str) -> Tensor:
    """Join the fields to a tensor (N, 4 or 5), whose length no graph knows: it may be 0 or 1."""
    columns = [instances.get(boxes).tensor, *(instances.get(name)[:, None] for name in others)]
    joined = torch.cat([column.to(torch.float32) for column in columns], dim=1)
    torch._dynamo.decorators.mark_unbacked(joined, 0)
    return joined
