"""The readers that are fuzzed: for each the name of a file, right contents, and how it is read."""

from __future__ import annotations

import io
import json
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask
import safetensors.torch
import torch
from PIL import Image

from resnext_det.config import load_config
from resnext_det.data.annotations.coco_json import read_coco_json
from resnext_det.data.annotations.image_folders import read_size
from resnext_det.data.annotations.other_formats import describe_other_format
from resnext_det.data.annotations.voc import convert_voc, read_voc
from resnext_det.data.annotations.yolo import convert_yolo
from resnext_det.data.images.archive_walk import walk_archive
from resnext_det.data.images.array_files import VERSION, read_arrays
from resnext_det.data.images.imagenet import read_validation_wnids
from resnext_det.data.proposals import read_proposals
from resnext_det.data.reading import read_image
from resnext_det.deploy.metadata import Metadata, parse_metadata
from resnext_det.evaluation.coco_files import GroundTruth, read_ground_truth
from resnext_det.evaluation.matching import match_detections
from resnext_det.evaluation.result_files import read_detections
from resnext_det.masks import rasterize_polygons
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.weights.containers import find_damage, read_container, unpack_weights
from resnext_det.weights.conversion import read_config_images
from resnext_det.weights.published.timm_config import read_config
from resnext_det.weights.torch7_models import convert_torch7_network
from resnext_det.weights.trained_detector import TrainedDetector
from tests.weights.torch7_writer import Module, make_sequential, write_torch7

CORPUS = Path(__file__).parent / "corpus"
"""What once was read wrong, in a folder for each target."""

UNREAD = ("torch7", "devkit")
"""Those whose right files would be too large: theirs are refused at the end."""


class Target(NamedTuple):
    """Hold a reader, the name that its file has, and the contents of right files."""

    file: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], Any]


def is_read(target: Target, path: Path) -> bool:
    """Read a file; False where it is refused, as it may be, in one sentence.

    Raises:
        AssertionError: the refusal is no sentence of ours.
        Exception: the reader fails.
    """
    try:
        target.read(path)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        of_python = isinstance(error, UnicodeError | json.JSONDecodeError)
        assert not of_python and text, f"no sentence: {error!r}"
        # What shows a line of a YAML file keeps its ends of lines and tabs.
        assert re.sub(r"[\n\t]", "", text).isprintable(), f"control characters: {text!r}"
        return False
    return True


def _save(save: Callable[[io.BytesIO], Any]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def _archive(files: dict[str, bytes], mode: str = "w") -> bytes:
    def save(file: io.BytesIO) -> None:
        with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    return _save(save)


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


_COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 9], "area": 81, "iscrowd": 0}
    ],
    "categories": [{"id": 1, "name": "cat"}],
}
_MASKS = (
    [[1, 2, 9, 2, 5.5, 8]],
    {"size": [64, 64], "counts": [9, 4000, 87]},
    {"size": [64, 64], "counts": "9Pm3g2"},
)
_RESULTS = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 9], "score": 0.5}]
_YAML = b"MODEL: {RESNETS: {DEPTH: 50}}\nSOLVER:\n  STEPS: &s [60, 80]\n  MAX_ITER: 90\nSEED: 1\n"
_PROPOSALS = {
    "ids": [1],
    "boxes": [np.zeros((1, 4), np.float32)],
    "objectness_logits": [np.zeros(1, np.float32)],
    "bbox_mode": 0,
}
_WEIGHTS = {"a.weight": torch.ones(4, 4), "a.bias": torch.zeros(4, dtype=torch.float16)}
_STATE = {"model": _WEIGHTS, "iteration": 3, "author": "me"}
_CONVOLUTION = Module("nn.SpatialConvolution", {"weight": torch.ones(2, 2, 1, 1), "groups": 1})
_METADATA = Metadata(
    version="1",
    class_names=("cat",),
    architecture="X-50-32x4d",
    detector="FPN",
    min_size=800,
    max_size=1333,
    score_threshold=0.05,
    max_detections=100,
    content_size=3,
    content_crc32=7,
)
_XML = (
    b"<annotation><filename>a.png</filename><size><width>20</width><height>30</height></size>"
    b"<object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin>"
    b"<xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
_TIMM = {
    "architecture": "resnext50_32x4d",
    "num_classes": 2,
    "pretrained_cfg": {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bicubic",
        "input_size": [3, 224, 224],
        "crop_pct": 0.95,
        "license": "mit",
        "label_names": ["cat", "dog"],
    },
}
_DETECTOR = {
    "config": {"INPUT": {}, "MODEL": {"DEVICE": "cpu"}},
    "class_names": ["cat"],
    "versions": {},
    "metrics": {},
}
_PICTURE = Image.new("RGB", (20, 30))


def _put_image(folder: Path) -> Path:
    image = folder / "images" / "a.png"
    if not image.is_file():
        image.parent.mkdir(exist_ok=True)
        _PICTURE.save(image)
    return image.parent


def _read_masks(path: Path) -> None:
    """Read a set with masks, and draw each, so that pycocotools gets all that is not refused."""
    for record in read_coco_json(path, path.parent, "set", with_masks=True)[1]:
        size = (record["height"], record["width"])
        for annotation in record["annotations"] if max(size) < 9999 else ():
            mask = annotation.get("segmentation")
            if isinstance(mask, dict):
                assert pycocotools.mask.decode(mask).shape == size
            elif mask:
                assert rasterize_polygons(mask, *size).shape == size


def _read_masked_results(path: Path, truth: GroundTruth) -> None:
    """Read results with masks, and compare those, by pycocotools, that are not refused."""
    found = read_detections(path, truth)
    match_detections(truth, found, 100, "bbox" if found.masks is None else "segm")


def _read_voc(path: Path) -> None:
    images, names = read_voc(path.parent)
    convert_voc(images, _put_image(path.parent), sorted(names))


def _read_yolo_names(path: Path) -> None:
    folder = _put_image(path.parent)
    (folder / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    convert_yolo(path, folder)


def _read_yolo_label(path: Path) -> None:
    (path.parent / "classes.txt").write_text("cat\ndog\n")
    folder = _put_image(path.parent.parent)
    convert_yolo(folder, folder)


def _read_weights(path: Path) -> None:
    kind, contents = read_container(path)
    (convert_torch7_network if kind == "torch7" else unpack_weights)(contents)


def _read_mapped(path: Path) -> None:
    _, contents = read_container(path, mapped=True)
    find_damage(path)
    unpack_weights(contents, path)


def _read_checkpoint(path: Path) -> None:
    folder = Checkpointer(path.parent)
    newest = folder.latest()
    if newest:
        folder.load(newest)


def _read_pointer(path: Path) -> None:
    (path.parent / "model_0000002.pth").write_bytes(_CHECKPOINT)
    _read_checkpoint(path)


def _read_json(read: Callable[[Any], Any]) -> Callable[[Path], Any]:
    """Read what stands beside weights, of any kind that JSON can write."""

    def read_beside(path: Path) -> None:
        try:
            values = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return
        read(values)

    return read_beside


_CHECKPOINT = _save(lambda file: torch.save({**_STATE, "optimizer": {"state": {}}}, file))


def _make_images() -> tuple[bytes, ...]:
    kinds = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO")
    deep = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    return (
        *(_save(lambda file, kind=kind: _PICTURE.save(file, kind)) for kind in kinds),
        _save(lambda file: deep.save(file, "PNG")),
        _save(lambda file: _PICTURE.save(file, "JPEG", exif=exif)),
        _save(lambda file: _PICTURE.convert("P").save(file, "PNG", transparency=0)),
    )


def _make_targets() -> dict[str, Target]:
    header = np.frombuffer(_dump({"version": VERSION, "root": "/"}), np.uint8)
    arrays = _save(lambda file: np.savez(file, header=header, sizes=np.arange(3)))
    truth = read_ground_truth(_COCO)
    (entry,) = _COCO["annotations"]
    with_masks = [{**_COCO, "annotations": [{**entry, "segmentation": m}]} for m in _MASKS]
    masked = read_ground_truth(with_masks[0], with_masks=True)
    masked_results = [[{**_RESULTS[0], "segmentation": _MASKS[2]}] * n for n in (1, 2)]
    images = _make_images()
    network = make_sequential(_CONVOLUTION)
    legacy = _save(lambda f: torch.save(_STATE, f, _use_new_zipfile_serialization=False))
    pickles = tuple(
        pickle.dumps({"model": {"a.weight": np.ones((2, 2), np.float32)}, "n": None}, protocol)
        for protocol in (0, 1, 2, 5)
    )
    solution = b"ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\n"
    inner = _archive({"n1/a.png": images[0]})
    kit = "ILSVRC2012_devkit_t12/data"
    devkit = {f"{kit}/meta.mat": b"", f"{kit}/ILSVRC2012_validation_ground_truth.txt": b"1\n"}
    return {
        "yaml": Target("a.yaml", (_YAML,), load_config),
        "coco": Target("a.json", (_dump(_COCO),), lambda p: read_coco_json(p, p.parent, "set")),
        "masks": Target("a.json", tuple(map(_dump, with_masks)), _read_masks),
        "results": Target("a.json", (_dump(_RESULTS),), lambda p: read_detections(p, truth)),
        "masked results": Target(
            "a.json", tuple(map(_dump, masked_results)), lambda p: _read_masked_results(p, masked)
        ),
        "other": Target("a", (_dump([1]), _XML, b"0 0 0 1 1"), describe_other_format),
        "image": Target("a.png", images, lambda p: read_image(p, "BGR")),
        "size": Target("a.png", images, read_size),
        "proposals": Target("a.pkl", (pickle.dumps(_PROPOSALS),), read_proposals),
        "torch": Target("a.pth", (_save(lambda f: torch.save(_STATE, f)),), _read_weights),
        "mapped": Target("a.pth", (_save(lambda f: torch.save(_STATE, f)),), _read_mapped),
        "legacy": Target("a.pth", (legacy,), _read_weights),
        "pickle": Target("a.pkl", pickles, _read_weights),
        "safetensors": Target(
            "a.safetensors", (safetensors.torch.save(_WEIGHTS, {"a": "[1]"}),), _read_weights
        ),
        "torch7": Target("a.t7", (write_torch7(network),), _read_weights),
        "checkpoint": Target("model_0000002.pth", (_CHECKPOINT,), _read_checkpoint),
        "pointer": Target("last_checkpoint", (b"model_0000002.pth",), _read_pointer),
        "metadata": Target(
            "a",
            (_METADATA.to_json().encode(),),
            lambda p: parse_metadata(p.read_bytes().decode(errors="replace")),
        ),
        "detector": Target("a", (_dump(_DETECTOR),), _read_json(TrainedDetector.from_dict)),
        "run_config": Target("a", (b"{}",), _read_json(lambda v: read_config_images(v, {}))),
        "timm": Target("config.json", (_dump(_TIMM),), lambda p: read_config(p.parent)),
        "tar": Target(
            "a.tar",
            (inner, _archive({"n1.tar": inner})),
            lambda p: list(walk_archive(p, progress=lambda size: None)),
        ),
        "npz": Target("a.npz", (arrays,), read_arrays),
        "devkit": Target(
            "ILSVRC2012_devkit_t12.tar.gz",
            (_archive(devkit, "w:gz"), _archive(devkit)),
            lambda p: read_validation_wnids(p.parent),
        ),
        "solution": Target(
            "LOC_val_solution.csv", (solution,), lambda p: read_validation_wnids(p.parent)
        ),
        "voc": Target("a.xml", (_XML,), _read_voc),
        "yolo_names": Target("data.yaml", (b"names: [cat, dog]\nnc: 2\n",), _read_yolo_names),
        "yolo_label": Target(
            "images/a.txt", (b"0 0.5 0.5 0.1 0.1\n1 0.1 0.1 0.2 0.1 0.2 0.2\n",), _read_yolo_label
        ),
    }


TARGETS = _make_targets()
