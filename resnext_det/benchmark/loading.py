"""Timing of what makes a training image of a JPEG file beside torchvision's own pipeline, on one thread."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from resnext_det.benchmark.timing import Timing, take_turns
from resnext_det.data.images.augmentation import PaperAugmentation
from resnext_det.data.reading import decode_rgb
from resnext_det.weights import KNOWN

SIZE = 224


def compare_loading(
    *, height: int = 375, width: int = 500, images: int = 100, repeats: int = 7
) -> list[Timing]:
    """Time decoding, random sized crop, bicubic filter, colour jitter, normalisation and flip of one JPEG.

    Ours adds fb.resnet.torch's lighting, which torchvision lacks. A turn is of ``images`` images.

    Args:
        height, width: of the JPEG, in pixels: ImageNet's usual ones.
        repeats: turns that count, after one that does not.
    """
    array = _jpeg(height, width)
    data = array.tobytes()
    preprocessing = KNOWN["torchvision"]
    ours = PaperAugmentation(SIZE, mean=preprocessing.mean, std=preprocessing.std)
    random_state = np.random.RandomState(0)
    theirs = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, interpolation=InterpolationMode.BICUBIC),
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
    steps: dict[str, Callable[[], object]] = {
        "resnext_det": lambda: ours(decode_rgb(array, "image.jpg", ""), random_state),
        "torchvision": lambda: theirs(Image.open(io.BytesIO(data)).convert("RGB")),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        turns = {name: _repeated(step, images) for name, step in steps.items()}
        return take_turns(turns, torch.device("cpu"), repeats)
    finally:
        torch.set_num_threads(threads)


def _repeated(step: Callable[[], object], times: int) -> Callable[[], None]:
    def turn() -> None:
        for _ in range(times):
            step()

    return turn


def _jpeg(height: int, width: int) -> np.ndarray:
    """Soft blobs with some noise, which compress about as photographs do."""
    random = np.random.RandomState(0)
    blobs = cv2.resize(
        random.randint(0, 256, (12, 16, 3)).astype(np.float32),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    image = np.clip(blobs + random.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
