"""Loading of training images: of a classifier beside torchvision, of a detector beside detectron2.

It is timed on one thread, as a loading process has.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from resnext_det.benchmark.cases import Candidate, Case, Key
from resnext_det.data.images.augmentation import PaperAugmentation
from resnext_det.data.images.decoding import decode_rgb
from resnext_det.data.transforms import DetectionMapper
from resnext_det.weights import KNOWN

_SIZE = 224
_MIN_SIZES, _MAX_SIZE = (640, 672, 704, 736, 768, 800), 1333


def draw_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw soft blobs with some noise, which compress about as photographs do.

    Returns:
        uint8 (H, W, 3).
    """
    random = np.random.RandomState(seed)
    blobs = cv2.resize(
        random.randint(0, 256, (12, 16, 3)).astype(np.float32),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    noisy = blobs + random.normal(0, 12, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class LoadingCase(Case):
    """Compare making training images from JPEG files: decode, augment, normalize.

    Args:
        kind: "classifier": decode, crop at random, resize by a bicubic filter, jitter colors,
            normalize and flip, beside torchvision; ours adds fb.resnet.torch's lighting.
            "detector": decode, resize and flip with eight boxes, beside detectron2, by the same
            draws.
        height, width: of the JPEG, in pixels.
        images: made in a turn.
    """

    kind: str = "classifier"
    height: int = 375
    width: int = 500
    images: int = 100
    device = torch.device("cpu")
    threads = 1

    @property
    def limits(self) -> Mapping[str, float]:  # type: ignore[override]
        """Decoders of JPEG may round otherwise; samples of a detector are equal in every bit."""
        return {"float32": 0.02 if self.kind == "classifier" else 0.0}

    @property
    def title(self) -> str:
        return (
            f"loading: {self.images} training images of a {self.kind} from JPEG files of "
            f"{self.width}x{self.height}, one thread"
        )

    @property
    def reference(self) -> str:
        if self.kind == "classifier":
            return "torchvision"
        return "detectron2" if importlib.util.find_spec("detectron2") else "resnext_det"

    def list_keys(self) -> list[Key]:
        return [Key("", name, "float32") for name in dict.fromkeys((self.reference, "resnext_det"))]

    def build(self, key: Key) -> Candidate:
        folder: TemporaryDirectory[str] | None = None
        jpeg = cv2.imencode(
            ".jpg", draw_image(self.height, self.width), [cv2.IMWRITE_JPEG_QUALITY, 90]
        )[1]
        if self.kind == "classifier":
            make, decode = _CLASSIFIER_LOADERS[key.name](jpeg)
            compute = lambda: {"decoded": np.asarray(decode())}  # noqa: E731
        else:
            folder = TemporaryDirectory()
            path = Path(folder.name, "image.jpg")
            path.write_bytes(jpeg.tobytes())
            make, state = self._build_mapper(key.name, _make_record(path, self.height, self.width))
            compute = lambda: _read_sample(make, state)  # noqa: E731

        def step() -> None:
            for _ in range(self.images):
                make()

        return Candidate(step, compute, keeps=folder)

    def _build_mapper(
        self, name: str, record: dict[str, Any]
    ) -> tuple[Callable[[], dict[str, Any]], np.random.RandomState]:
        """Build what makes a sample, and the state of its draws."""
        if name == "resnext_det":
            mapper = DetectionMapper(
                True, min_sizes=_MIN_SIZES, max_size=_MAX_SIZE, image_format="BGR"
            )
            state = np.random.RandomState(0)
            return lambda: mapper(record, state), state
        from detectron2.data import DatasetMapper
        from detectron2.data import transforms as T

        augmentations = [
            T.ResizeShortestEdge(_MIN_SIZES, _MAX_SIZE, "choice"),
            T.RandomFlip(horizontal=True),
        ]
        theirs = DatasetMapper(True, augmentations=augmentations, image_format="BGR")
        return lambda: theirs(record), np.random.mtrand._rand


def _read_sample(
    make: Callable[[], dict[str, Any]], state: np.random.RandomState
) -> dict[str, Any]:
    """Make a sample by the draws of seed 0."""
    state.seed(0)
    sample = make()
    instances = sample["instances"]
    return {
        "image": sample["image"],
        "boxes": instances.gt_boxes.tensor,
        "classes": instances.gt_classes,
    }


def _make_record(path: Path, height: int, width: int) -> dict[str, Any]:
    random = np.random.RandomState(0)
    boxes = random.uniform(0.05, 0.45, (8, 4)) * [width, height, width, height]
    annotations = [
        {"bbox": box, "bbox_mode": 1, "category_id": index, "iscrowd": 0}
        for index, box in enumerate(boxes.tolist())
    ]
    size = {"height": height, "width": width}
    return {"file_name": str(path), "image_id": 1, **size, "annotations": annotations}


def _load_ours(jpeg: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any]]:
    preprocessing, random_state = KNOWN["torchvision"], np.random.RandomState(0)
    augment = PaperAugmentation(_SIZE, mean=preprocessing.mean, std=preprocessing.std)
    return (
        lambda: augment(decode_rgb(jpeg, "image.jpg", ""), random_state),
        lambda: decode_rgb(jpeg, "image.jpg", ""),
    )


def _load_theirs(jpeg: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any]]:
    preprocessing, data = KNOWN["torchvision"], jpeg.tobytes()
    augment = v2.Compose(
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

    def decode() -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")

    return lambda: augment(decode()), decode


_CLASSIFIER_LOADERS = {"resnext_det": _load_ours, "torchvision": _load_theirs}
