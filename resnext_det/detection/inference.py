"""A trained detector for single images."""

from __future__ import annotations

import numpy as np
import torch
from fvcore.common.config import CfgNode

from resnext_det.data.transforms import ResizeShortestEdge, resize_image
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.weights import load_detector
from resnext_det.instances import Instances
from resnext_det.training import distributed


class Predictor:
    """A detector for single images, in the manner of detectron2's DefaultPredictor.

    Args:
        cfg: a configuration whose ``MODEL.WEIGHTS`` names a file of a whole detector.

    Raises:
        ValueError, FileNotFoundError: see ``load_detector``; there is no such ``MODEL.DEVICE``; the model is half a detector.
    """

    def __init__(self, cfg: CfgNode) -> None:
        for key, value in (("META_ARCHITECTURE", "ProposalNetwork"), ("LOAD_PROPOSALS", True)):
            if cfg.MODEL[key] == value:
                raise ValueError(
                    f"MODEL.{key} = {value!r} is half a detector, of the protocol in two steps, and cannot detect on an image alone; give "
                    "a configuration of a whole one"
                )
        device = distributed.resolve_device(cfg.MODEL.DEVICE)
        self.image_format: str = cfg.INPUT.FORMAT
        self.resize = ResizeShortestEdge((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST)
        self.model = build_detector(cfg)
        load_detector(cfg, self.model)
        self.model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Instances:
        """Detect on one image.

        Args:
            image: (H, W, C) uint8, channels in the order of ``INPUT.FORMAT``; ``read_image`` gives such.

        Returns:
            ``pred_boxes`` in the image's pixels, ``scores`` and ``pred_classes``, best first, on the CPU.

        Raises:
            ValueError: the array is another one.
        """
        channels = len(self.model.pixel_mean)
        if image.ndim != 3 or image.shape[2] != channels or image.dtype != np.uint8:
            raise ValueError(
                f"the image is {image.dtype} of the shape {image.shape}; give uint8 of the shape (height, width, {channels}), channels in "
                f"the order {self.image_format}"
            )
        height, width = image.shape[:2]
        size = self.resize.min_sizes[0]
        resized = (
            resize_image(image, *self.resize.output_size(height, width, size)) if size else image
        )
        tensor = torch.from_numpy(np.array(resized.transpose(2, 0, 1), order="C"))
        found: Instances = self.model([{"image": tensor, "height": height, "width": width}])[0][
            "instances"
        ]
        return found.to("cpu")
