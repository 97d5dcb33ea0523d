"""A trained classifier for single images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resnext_det.classification.protocols import protocol_of
from resnext_det.classification.weights import load_classifier
from resnext_det.data.reading import decode_rgb, read_range
from resnext_det.instances import name_classes
from resnext_det.training import distributed
from resnext_det.weights import WeightFile, read_weights
from resnext_det.weights.conversion import assume_preprocessing


class Classifier:
    """Classify single images, under the preprocessing that the weights need.

    Args:
        weights: a file of any source, or a name of the catalog.
        class_names: of the outputs, in their order; by default those in the file, or "class 0" ...
        preprocessing: a name in ``KNOWN``, where the weights do not say what they need.
        device: "cuda" or "cpu"; by default cuda where there is a GPU.

    Raises:
        ValueError, FileNotFoundError: see ``read_weights``, ``load_classifier`` and
            ``protocol_of``; there is no such device; there are more or fewer names than outputs.
    """

    def __init__(
        self,
        weights: str | Path | WeightFile,
        *,
        class_names: Sequence[str] | None = None,
        preprocessing: str | None = None,
        device: str | None = None,
    ) -> None:
        device = device or distributed.choose_device()
        self.device = distributed.resolve_device(device, setting="device")
        file = weights if isinstance(weights, WeightFile) else read_weights(weights, mapped=True)
        if preprocessing is not None:
            file = assume_preprocessing(file, preprocessing)
        self.protocol = protocol_of(file)
        self.network = load_classifier(file).to(self.device).eval()
        names = class_names or file.class_names or ()
        self.class_names = name_classes(self.network.num_classes, names)

    @torch.inference_mode()
    def __call__(
        self, image: np.ndarray | Image.Image | str | Path, top: int = 5
    ) -> list[tuple[str, float]]:
        """Classify the center of one image.

        Args:
            image: (H, W, 3) uint8, RGB; an image of Pillow; or the path of a file, which is read as
                in training and testing.
            top: how many classes to return.

        Returns:
            (class, probability), the most probable first.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated or no image; the array is of another shape or type.
        """
        pixels = _read_pixels(image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(
                f"the image is {pixels.dtype} of the shape {pixels.shape}; give uint8 of the shape "
                "(height, width, 3), channels in the order RGB, or the path of a file"
            )
        views = torch.as_tensor(self.protocol.views(pixels))[None]
        probabilities = self.protocol.score(self.network, views, self.device)[0].softmax(0)
        values, indices = probabilities.topk(min(top, len(self.class_names)))
        names = [self.class_names[index] for index in indices.tolist()]
        return list(zip(names, values.tolist()))


def _read_pixels(image: np.ndarray | Image.Image | str | Path) -> np.ndarray:
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        return image
    path = Path(image)
    if not path.is_file():
        raise FileNotFoundError(f"there is no image {path}; give the path of a file")
    return decode_rgb(read_range(str(path)), str(path), "give another one")
