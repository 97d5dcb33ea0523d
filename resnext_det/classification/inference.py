"""A trained classifier for images of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch

from resnext_det.classification.protocols import protocol_of
from resnext_det.classification.weights import load_classifier
from resnext_det.data.pixels import AnyImage, apply_to_each, to_pixels
from resnext_det.instances import name_classes
from resnext_det.training import distributed
from resnext_det.weights import WeightFile, read_weights
from resnext_det.weights.conversion import assume_preprocessing


class Classifier:
    """Classify single images, under the preprocessing that the weights need.

    Args:
        weights: a file of any source, or a name of the catalog.
        class_names: of the outputs, in their order; by default those in the file, or "class 0" ...
        preprocessing: a publisher or numbers, where the weights do not say what they need; see
            ``parse_preprocessing``.
        device: "auto" (cuda where there is a GPU, else cpu), "cuda" or "cpu".

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
        self.device = distributed.resolve_device(device or distributed.AUTO, setting="device")
        file = weights if isinstance(weights, WeightFile) else read_weights(weights, mapped=True)
        file = assume_preprocessing(file, preprocessing)
        self.protocol = protocol_of(file)
        self.network = load_classifier(file).to(self.device).eval()
        names = class_names or file.class_names or ()
        self.class_names = name_classes(self.network.num_classes, names)

    @overload
    def __call__(self, image: AnyImage, top: int = 5) -> list[tuple[str, float]]: ...

    @overload
    def __call__(
        self, image: list[AnyImage] | tuple[AnyImage, ...], top: int = 5
    ) -> list[list[tuple[str, float]]]: ...

    def __call__(self, image: Any, top: int = 5) -> Any:
        """Classify the center of one image, or of each image of a list.

        Args:
            image: the path of a file, which is read as in training and testing; an image of Pillow,
                of any mode; (H, W, 3) uint8, RGB, or gray, (H, W); or a list of such.
            top: how many classes to return.

        Returns:
            (class, probability), the most probable first; of a list, such a list for each image.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is broken, or no image; the array is of another shape or type; see
                ``to_pixels``.
        """
        return apply_to_each(image, "RGB", lambda one: self._classify(one, top))

    @torch.inference_mode()
    def _classify(self, image: AnyImage, top: int) -> list[tuple[str, float]]:
        pixels = to_pixels(image, "RGB", upright=False)
        views = torch.as_tensor(self.protocol.views(pixels))[None]
        probabilities = self.protocol.score(self.network, views, self.device)[0].softmax(0)
        values, indices = probabilities.topk(min(top, len(self.class_names)))
        names = [self.class_names[index] for index in indices.tolist()]
        return list(zip(names, values.tolist()))
