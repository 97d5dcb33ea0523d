"""Files of every format, made with other libraries' code: read, loaded, and the features those of the network they are from.

The image is given to the original as its library does it (channel order, mean and std are written here, not taken from the package), and
to a detector of either engine by a configuration that was fitted to the file.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor

from resnext_det.architecture import Architecture
from resnext_det.config import get_cfg
from resnext_det.config.backbone import write_architecture
from resnext_det.data.reading import read_image
from resnext_det.detection.portable.build import build_detector
from resnext_det.weights import (
    WeightFile,
    check_preprocessing,
    list_overrides,
    load_weights,
    read_weights,
)
from resnext_det.weights.catalog_entries import ENTRIES
from resnext_det.weights.preprocessing import KNOWN
from tests.detection.detectron2_reference import copy_cfg_to_detectron2
from tests.weights.foreign_names import (
    caffe2_arrays,
    detectron2_state,
    features,
    mmpretrain_state,
    pycls_state,
    random_network,
    randomize,
)
from tests.weights.torch7_writer import build_torch7_network, write_torch7

# How each library makes a network's input of an image, on the scale 0-255: channel order, mean, std.
IMAGENET_RGB = ("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
IMAGENET_BGR = ("BGR", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
MSRA = ("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
DETECTRON = ("BGR", (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))
Input = tuple[str, tuple[float, float, float], tuple[float, float, float]]

MM_CONFIG = """model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=50, num_stages=4, out_indices=(3, ), style='{style}'))
data_preprocessor = dict(
    mean=[
        {mean},
    ],
    num_classes=1000,
    std=[
        {std},
    ],
    to_rgb={to_rgb})
train_pipeline = [dict(magnitude_std=0.5, type='RandAugment'), dict(fill_std=[1.0, 1.0, 1.0], type='RandomErasing')]
"""


def mm_config(style: str, channels: Input) -> str:
    mean, std = (",\n        ".join(map(str, numbers)) for numbers in channels[1:])
    return MM_CONFIG.format(style=style, mean=mean, std=std, to_rgb=channels[0] == "RGB")


PYCLS_CONFIG = """BN:
  EPS: {eps}
  MOM: 0.1
MODEL:
  ACTIVATION_FUN: relu
  NUM_CLASSES: 1000
  TYPE: {type}
RESNET:
  NUM_GROUPS: 1
  STRIDE_1X1: {stride}
  TRANS_FUN: bottleneck_transform
"""


def torch_bytes(contents: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(contents, file, **options)
    return file.getvalue()


def safetensors_of(state: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata or {"format": "pt"}}
    values = b""
    for name, tensor in state.items():
        begin, values = len(values), values + tensor.contiguous().numpy().tobytes()
        code = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        header[name] = {
            "dtype": code,
            "shape": list(tensor.shape),
            "data_offsets": [begin, len(values)],
        }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def arrays_of(state: dict[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in state.items()}


def of_the_script(network: Any) -> dict[str, Any]:
    """What detectron2's convert-torchvision-to-d2.py writes."""
    state = arrays_of(detectron2_state(network))
    return {
        f"stem.{name.replace('linear', 'fc')}" if "linear" in name else name: a
        for name, a in state.items()
    }


@dataclass(frozen=True)
class Case:
    """A file, the network that it is from, and what that library does to an image."""

    format: str
    network: Callable[[], Any]
    data: Callable[[Any], bytes]
    input: Input


def timm_network() -> Any:
    network = timm.create_model("resnext50_32x4d", num_classes=5)
    randomize(network)
    assert network.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    return network.eval()


CASES = {
    "torchvision": Case("torchvision", lambda: random_network(50), lambda n: torch_bytes(n.state_dict()), IMAGENET_RGB),
    "torchvision, legacy, trained in parallel": Case(
        "torchvision",
        lambda: random_network(26, 64, 4),
        lambda n: torch_bytes(
            {"model": {f"module.{k}": v for k, v in n.state_dict().items()}, "epoch": 3}, _use_new_zipfile_serialization=False
        ),
        IMAGENET_RGB,
    ),
    "timm, safetensors": Case("timm", timm_network, lambda n: safetensors_of(n.state_dict()), IMAGENET_RGB),
    "mmpretrain": Case(
        "mmpretrain", lambda: random_network(101), lambda n: torch_bytes({"state_dict": mmpretrain_state(n), "meta": {}}), IMAGENET_RGB
    ),
    "mmdetection, of Caffe's style": Case(
        "mmdetection",
        lambda: random_network(50, 1, 64, stride_in_1x1=True),
        lambda n: torch_bytes(
            {
                "state_dict": {**mmpretrain_state(n), "rpn_head.rpn_cls.weight": torch.ones(1)},
                "meta": {"mmdet_version": "2.28.0", "config": mm_config("caffe", MSRA)},
            }
        ),
        MSRA,
    ),
    "pycls": Case(
        "pycls",
        lambda: random_network(50),
        lambda n: torch_bytes(
            {"epoch": 99, "model_state": pycls_state(n), "cfg": PYCLS_CONFIG.format(type="anynet", stride="true", eps="1.0e-05")}
        ),
        IMAGENET_BGR,
    ),
    "pycls, stride in the 1x1": Case(
        "pycls",
        lambda: random_network(26, 1, 64, stride_in_1x1=True),
        lambda n: torch_bytes({"model_state": pycls_state(n), "cfg": PYCLS_CONFIG.format(type="resnet", stride="true", eps="1.0e-05")}),
        IMAGENET_BGR,
    ),
    "detectron2, MSRA": Case(
        "caffe2",
        lambda: random_network(50, 1, 64, stride_in_1x1=True),
        lambda n: pickle.dumps(caffe2_arrays(n, "beta", head="fc1000"), protocol=2),
        MSRA,
    ),
    "detectron2, FAIR": Case(
        "caffe2", lambda: random_network(101, 32, 8), lambda n: pickle.dumps(caffe2_arrays(n, "riv"), protocol=2), IMAGENET_BGR
    ),
    "Detectron 1, ResNeXt": Case(
        "caffe2",
        lambda: random_network(50, 64, 4),
        lambda n: pickle.dumps({"blobs": caffe2_arrays(n, "folded"), "cfg": "MODEL: {}"}, protocol=2),
        DETECTRON,
    ),
    "Detectron 1, ResNet": Case(
        "caffe2",
        lambda: random_network(50, 1, 64, stride_in_1x1=True),
        lambda n: pickle.dumps(caffe2_arrays(n, "folded", head="fc1000", zero_biases=True), protocol=2),
        DETECTRON,
    ),
    "detectron2, torchvision's": Case(
        "detectron2",
        lambda: random_network(50, 1, 64),
        lambda n: pickle.dumps({"model": of_the_script(n), "__author__": "torchvision", "matching_heuristics": True}),
        IMAGENET_RGB,
    ),
    "the paper's, form C": Case("torch7", lambda: random_network(50), lambda n: write_torch7(build_torch7_network(n)), IMAGENET_RGB),
    "the paper's, form B, from a GPU": Case(
        "torch7",
        lambda: random_network(26, 32, 8),
        lambda n: write_torch7({"model": build_torch7_network(n, form="B")}, cuda=True),
        IMAGENET_RGB,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of an image whose channels differ, of odd sizes."""
    pixels = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    pixels[:, :, 0] //= 2
    path = tmp_path_factory.mktemp("images") / "a.png"
    Image.fromarray(pixels).save(path)
    return path


def original_input(picture: Path, channels: Input) -> Tensor:
    """(1, 3, H, W) as the original's library makes it."""
    order, mean, std = channels
    pixels = np.asarray(Image.open(picture)).astype(np.float64)
    pixels = pixels if order == "RGB" else pixels[:, :, ::-1]
    normalised = (pixels - np.array(mean)) / np.array(std)
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)))[None]


def configuration(architecture: Architecture, *changes: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", "build_resnext_backbone", "MODEL.DEVICE", "cpu"),
            *chain(*write_architecture(architecture, "MODEL.RESNETS.").items()),
            *changes,
        ]
    )
    return cfg


def build(engine: str, cfg: CfgNode) -> Any:
    if engine == "portable":
        return build_detector(cfg)
    from detectron2.modeling import build_model

    return build_model(copy_cfg_to_detectron2(cfg))


@torch.no_grad()
def detector_features(model: Any, engine: str, image: Tensor) -> dict[str, Tensor]:
    """res4 and res5 of a C4 detector, from an image as the data mapper gives it."""
    samples = [{"image": image}]
    images = (
        model.preprocess(samples)[0]
        if engine == "portable"
        else model.preprocess_image(samples).tensor
    )
    res4 = model.backbone(images)["res4"]
    return {"res4": res4, "res5": model.roi_heads.res5(res4)}


def written(case: str, folder: Path) -> tuple[Path, Any]:
    network = CASES[case].network()
    path = folder / "weights"  # without a suffix: the contents tell
    path.write_bytes(CASES[case].data(network))
    return path, network


# One of each preprocessing.
IN_DETECTRON2 = (
    "torchvision",
    "detectron2, MSRA",
    "Detectron 1, ResNeXt",
    "pycls",
    "the paper's, form C",
)
BOTH = [pytest.param("portable", case) for case in CASES]
BOTH += [pytest.param("detectron2", case, marks=pytest.mark.detectron2) for case in IN_DETECTRON2]


@pytest.mark.parametrize(("engine", "case"), BOTH)
def test_features_are_the_original_networks(
    engine: str, case: str, tmp_path: Path, picture: Path
) -> None:
    if engine == "detectron2":
        pytest.importorskip("detectron2", reason="detectron2 is not installed")
    path, network = written(case, tmp_path)
    wanted = features(network.double(), original_input(picture, CASES[case].input))
    file = read_weights(path)
    assert file.format == CASES[case].format
    assert file.architecture is not None and file.preprocessing is not None
    cfg = configuration(file.architecture)
    cfg.merge_from_list(list_overrides(cfg, file.preprocessing))
    check_preprocessing(cfg, file)
    model = build(engine, cfg)
    load_weights(model, file)
    image = torch.from_numpy(
        np.ascontiguousarray(read_image(picture, cfg.INPUT.FORMAT).transpose(2, 0, 1))
    )
    found = detector_features(model.double(), engine, image)
    for name in ("res4", "res5"):
        error = (found[name] - wanted[name]).abs().max() / wanted[name].abs().max()
        assert error < 1e-5, f"{name}: {error:.1e}"


def test_another_preprocessing_gives_other_features(tmp_path: Path, picture: Path) -> None:
    """What the error prevents: the first trap, of the size that it has."""
    path, network = written("torchvision, legacy, trained in parallel", tmp_path)
    wanted = features(network.double(), original_input(picture, IMAGENET_RGB))["res4"]
    file = read_weights(path)
    assert file.architecture is not None
    cfg = configuration(file.architecture, "MODEL.RESNETS.STRIDE_IN_1X1", False)
    model = build_detector(cfg)
    load_weights(model, file)
    image = torch.from_numpy(np.ascontiguousarray(read_image(picture, "BGR").transpose(2, 0, 1)))
    found = detector_features(model.double(), "portable", image)["res4"]
    assert (found - wanted).abs().max() / wanted.abs().max() > 0.1
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT is BGR"):
        check_preprocessing(cfg, file)


@pytest.mark.detectron2
@pytest.mark.parametrize(
    "case", ["detectron2, MSRA", "Detectron 1, ResNet", "detectron2, torchvision's"]
)
def test_detectron2s_own_loader_agrees(case: str, tmp_path: Path) -> None:
    """Every tensor, but for the variance of folded norms: it takes 1 there, where 1 - 1e-5 leaves the scale as it is."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.checkpoint import DetectionCheckpointer

    path, _ = written(case, tmp_path)
    path = path.rename(path.with_name("weights.pkl"))
    file = read_weights(path)
    assert file.architecture is not None
    cfg = configuration(file.architecture)
    ours, theirs = build_detector(cfg), build("detectron2", cfg)
    load_weights(ours, file)
    DetectionCheckpointer(theirs).load(str(path))
    found, wanted = ours.state_dict(), theirs.state_dict()
    backbone = [name for name in found if name.startswith(("backbone.", "roi_heads.res5."))]
    assert len(backbone) > 200
    for name in backbone:
        if "Detectron 1" in case and name.endswith("running_var"):
            assert torch.equal(wanted[name], torch.ones_like(wanted[name]))
            torch.testing.assert_close(found[name] + 1e-5, wanted[name], rtol=0, atol=1e-7)
        else:
            assert torch.equal(found[name], wanted[name]), name


# --- whose weights they are


SMALL = Architecture(26, 4, 8)


@pytest.fixture(scope="module")
def small() -> Any:
    return random_network(26, 4, 8)


def read(folder: Path, data: bytes) -> WeightFile:
    (folder / "weights").write_bytes(data)
    return read_weights(folder / "weights")


def preprocessing_of(file: WeightFile) -> Input | None:
    known = file.preprocessing
    return known and (known.channel_order, known.mean, known.std)


def mm(meta: Any, *, backbone_alone: bool = False, **heads: Tensor) -> Callable[[Any], bytes]:
    def data(network: Any) -> bytes:
        state = network.state_dict() if backbone_alone else mmpretrain_state(network)
        return torch_bytes({"meta": meta, "state_dict": {**state, **heads}})

    return data


def folded_torchvision(network: Any, *, counters: bool) -> dict[str, Tensor]:
    """As mmdetection's converter of Caffe's ResNets writes it (without counters)."""
    state = dict(network.state_dict())
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            state[name] = torch.full_like(tensor, float(name.endswith("var")))
        elif name.endswith("num_batches_tracked") and not counters:
            del state[name]
    return state


def without_counters(network: Any) -> dict[str, Tensor]:
    return {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}


HEAD = {"bbox_head.retina_cls.weight": torch.ones(1)}
CFG = mm_config("pytorch", IMAGENET_RGB)
# What stands in a file -> its format, its input (None: not known), the stride in the 1x1.
SOURCES: dict[str, tuple[Callable[[Any], bytes], str, Input | None, bool]] = {
    "bare": (lambda n: torch_bytes(n.state_dict()), "torchvision", IMAGENET_RGB, False),
    "before counters": (lambda n: torch_bytes(without_counters(n)), "torchvision", IMAGENET_RGB, False),
    "PyTorch's example": (
        lambda n: torch_bytes({"epoch": 1, "arch": "resnet50", "state_dict": n.state_dict()}), "torchvision", IMAGENET_RGB, False
    ),
    "no counters, in an envelope": (lambda n: torch_bytes({"state_dict": without_counters(n)}), "torchvision", None, False),
    "mmdetection's converter": (
        lambda n: torch_bytes({"state_dict": folded_torchvision(n, counters=False)}), "torchvision", None, False
    ),
    "timm's training": (
        lambda n: torch_bytes({"arch": "resnext50_32x4d", "version": 2, "metric": 77.0, "state_dict": n.state_dict()}),
        "timm", IMAGENET_RGB, False,
    ),
    "mmcls with its configuration": (mm({"mmcls_version": "0.1", "config": CFG}), "mmpretrain", IMAGENET_RGB, False),
    "mmpretrain, of another": (
        mm({"mmengine_version": "0.7", "cfg": mm_config("pytorch", IMAGENET_BGR)}), "mmpretrain", IMAGENET_BGR, False
    ),
    "mmpretrain, backbone alone": (mm({"mmpretrain_version": "1"}, backbone_alone=True), "mmpretrain", IMAGENET_RGB, False),
    "mmpretrain, of two": (mm({"cfg": CFG + "mean=[1.0, 2.0, 3.0]"}), "mmpretrain", None, False),
    "mmpretrain, saying nothing": (mm({"cfg": "model = dict()"}), "mmpretrain", None, False),
    "mmpretrain, no text": (mm({"cfg": {"model": 1}}), "mmpretrain", IMAGENET_RGB, False),
    "mmdetection": (mm({"mmdet_version": "3", "cfg": CFG}, **HEAD), "mmdetection", IMAGENET_RGB, False),
    "mmdetection, style unknown": (mm({"mmdet_version": "3"}, **HEAD), "mmdetection", None, False),
    "pycls without configuration": (lambda n: torch_bytes({"model_state": pycls_state(n)}), "pycls", IMAGENET_BGR, False),
    "Caffe2 of an unknown net": (lambda n: pickle.dumps(caffe2_arrays(n, "beta")), "caffe2", None, False),
    "Caffe2 with group norms": (
        lambda n: pickle.dumps({k.replace("_bn_", "_gn_"): a for k, a in caffe2_arrays(n, "folded").items()}), "caffe2", None, False
    ),
    "detectron2, unlabelled": (lambda n: torch_bytes(detectron2_state(n)), "detectron2", None, False),
    "detectron2, of an unknown author": (
        lambda n: pickle.dumps({"model": arrays_of(detectron2_state(n)), "__author__": "me"}), "detectron2", None, False
    ),
    "detectron2, of pycls": (
        lambda n: pickle.dumps({"model": arrays_of(detectron2_state(n)), "__author__": "pycls"}), "detectron2", IMAGENET_BGR, False
    ),
    "our own": (
        lambda n: torch_bytes({"model": detectron2_state(n), "preprocessing": KNOWN["msra"].as_dict()}), "native", MSRA, True
    ),
    "our own, in safetensors": (
        lambda n: safetensors_of(detectron2_state(n), {"preprocessing": json.dumps(KNOWN["msra"].as_dict())}), "native", MSRA, True
    ),
    "our own, for detectron2": (
        lambda n: pickle.dumps(
            {"model": arrays_of(detectron2_state(n)), "__author__": "x", "preprocessing": KNOWN["fair"].as_dict()}
        ),
        "detectron2", IMAGENET_BGR, False,
    ),
    "another one's word": (
        lambda n: torch_bytes({"model": detectron2_state(n), "preprocessing": {"resize": 224}}), "detectron2", None, False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_whose_weights_they_are(name: str, small: Any, tmp_path: Path) -> None:
    data, format, channels, stride = SOURCES[name]
    file = read(tmp_path, data(small))
    assert (file.format, preprocessing_of(file), file.architecture) == (format, channels, SMALL)
    if file.preprocessing is not None:
        assert file.preprocessing.stride_in_1x1 == stride


@pytest.mark.parametrize(
    ("groups", "width", "known"), [(1, 64, False), (32, 8, False), (32, 4, True), (64, 4, True)]
)
def test_mmdetections_nets_of_several_kinds_are_not_guessed(
    groups: int, width: int, known: bool, tmp_path: Path
) -> None:
    """Its ResNets and its ResNeXt 32x8d may be Caffe's; the others are PyTorch's."""
    file = read(tmp_path, mm({"mmdet_version": "2"}, **HEAD)(random_network(26, groups, width)))
    assert preprocessing_of(file) == (IMAGENET_RGB if known else None)


@pytest.mark.parametrize(
    ("author", "depth", "groups", "width", "channels"),
    [
        ("MSRA", 50, 1, 64, MSRA),
        ("Caffe2", 50, 1, 64, MSRA),
        ("Detectron2 Model Zoo", 50, 32, 4, None),
    ],
)
def test_an_author_and_a_net_tell_detectron2s_own(
    author: str, depth: int, groups: int, width: int, channels: Input | None, tmp_path: Path
) -> None:
    state = arrays_of(detectron2_state(random_network(depth, groups, width)))
    file = read(
        tmp_path, pickle.dumps({"model": state, "__author__": author, "matching_heuristics": True})
    )
    assert preprocessing_of(file) == channels
    assert file.metadata["author"] == author
    assert file.preprocessing is None or file.preprocessing.stride_in_1x1


def test_folded_norms_are_said(small: Any, tmp_path: Path) -> None:
    found = read(tmp_path, pickle.dumps(caffe2_arrays(small, "folded"))).preprocessing
    assert found == KNOWN["detectron1"]
    found = read(tmp_path, torch_bytes(folded_torchvision(small, counters=True))).preprocessing
    assert found is not None and found.batch_norm == "folded"


@pytest.mark.parametrize(
    ("test_err", "ema_err", "averaged"),
    [(20.0, 21.0, False), (21.0, 20.0, True), (None, None, False)],
)
def test_of_pycls_two_sets_the_better_is_taken(
    test_err: Any, ema_err: Any, averaged: bool, small: Any, tmp_path: Path
) -> None:
    state = pycls_state(small)
    contents = {
        "model_state": state,
        "ema_state": {n: t + 1 for n, t in state.items()},
        "test_err": test_err,
        "ema_err": ema_err,
    }
    file = read(tmp_path, torch_bytes({k: v for k, v in contents.items() if v is not None}))
    assert torch.equal(file.state["stem.conv1.weight"], state["stem.conv.weight"] + averaged)


@pytest.mark.parametrize("envelope", ["state_dict_ema", "model_ema"])
def test_averaged_weights_come_before_the_last_ones(
    envelope: str, small: Any, tmp_path: Path
) -> None:
    """As timm and torchvision evaluate."""
    own = small.state_dict()
    averaged = {"n_averaged": torch.tensor(3), **{f"module.{n}": t + 1 for n, t in own.items()}}
    last = "state_dict" if envelope == "state_dict_ema" else "model"
    file = read(tmp_path, torch_bytes({last: own, envelope: averaged, "epoch": 1}))
    assert torch.equal(file.state["stem.conv1.weight"], own["conv1.weight"] + 1)
    assert file.left_out == ("n_averaged",)


def test_openmmlabs_state_dict_is_the_averaged_one(small: Any, tmp_path: Path) -> None:
    """Its hook swaps the two before it saves."""
    state = mmpretrain_state(small)
    ema = {
        "steps": torch.tensor(3),
        **{f"module.{name}": tensor + 1 for name, tensor in state.items()},
    }
    file = read(tmp_path, torch_bytes({"meta": {}, "state_dict": state, "ema_state_dict": ema}))
    assert torch.equal(file.state["stem.conv1.weight"], state["backbone.conv1.weight"])


def test_a_training_of_ours_may_carry_its_preprocessing(tmp_path: Path) -> None:
    model = build_detector(configuration(SMALL))
    contents = {"model": model.state_dict(), "iteration": 3, "optimizer": {"state": {}}}
    file = read(tmp_path, torch_bytes(contents))
    assert (file.format, file.architecture, file.preprocessing) == ("detector", SMALL, None)
    file = read(tmp_path, torch_bytes({**contents, "preprocessing": KNOWN["paper"].as_dict()}))
    assert (file.format, file.preprocessing) == ("detector", KNOWN["paper"])


def test_what_is_said_of_the_weights(small: Any, tmp_path: Path) -> None:
    license = read(tmp_path, torch_bytes(small.state_dict())).metadata["license"]
    assert (
        "non-commercial" in license
    )  # trap 7: the names are those of WSL, SSL and SWSL weights too
    assert "MIT" in read(tmp_path, torch_bytes(pycls_state(small))).metadata["license"]
    own = {"license": "mine", "author": "me", "top1": 3, "page": "x" * 1000}
    contents = {
        "model": arrays_of(detectron2_state(small)),
        "__author__": "someone",
        "metadata": own,
    }
    assert read(tmp_path, pickle.dumps(contents)).metadata == {
        "license": "mine",
        "author": "me",
        "page": "x" * 500,
    }
    assert "tensor" not in repr(read(tmp_path, torch_bytes(small.state_dict())))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("how", ["torch", "safetensors", "pickle"])
def test_every_value_is_as_in_the_file(how: str, mapped: bool, small: Any, tmp_path: Path) -> None:
    state = {
        name: t.half() if "linear" in name and how != "safetensors" else t
        for name, t in detectron2_state(small).items()
    }
    data = {
        "torch": torch_bytes,
        "safetensors": safetensors_of,
        "pickle": lambda s: pickle.dumps(arrays_of(s)),
    }[how](state)
    (tmp_path / "weights").write_bytes(data)
    found = read_weights(tmp_path / "weights", mapped=mapped).state
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_numbers_of_numpy_are_read(small: Any, tmp_path: Path) -> None:
    """As counters in a .pkl: arrays without dimensions, scalars, big-endian and Fortran-ordered arrays."""
    arrays = arrays_of(small.state_dict())
    arrays["bn1.num_batches_tracked"] = np.int64(5)
    arrays["fc.weight"] = np.asfortranarray(arrays["fc.weight"].astype(">f4"))
    file = read(tmp_path, pickle.dumps(arrays))
    assert file.state["stem.conv1.norm.num_batches_tracked"] == 5
    assert torch.equal(file.state["linear.weight"], small.state_dict()["fc.weight"])


# --- the catalog


def test_a_name_of_the_catalog(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog's word goes before what the names suggest."""
    network = random_network(50)
    path = tmp_path / "weights.pth"
    path.write_bytes(torch_bytes({"state_dict": without_counters(network)}))
    entry = ENTRIES["resnext://gluon/X-50-32x4d"]
    monkeypatch.setattr("resnext_det.weights.catalog.locate", lambda name: (path, entry))
    assert read_weights(path).preprocessing is None
    file = read_weights("resnext://gluon/X-50-32x4d")
    assert (file.path, file.preprocessing) == (str(path), KNOWN["torchvision"])
    assert (file.metadata["license"], file.metadata["top1"], file.metadata["url"]) == (
        "Apache-2.0",
        "79.354",
        entry.url,
    )
    path.write_bytes(torch_bytes(small.state_dict()))
    with pytest.raises(
        ValueError,
        match=r"holds X-26-4x8d, and resnext://gluon/X-50-32x4d is X-50-32x4d; remove the file",
    ):
        read_weights("resnext://gluon/X-50-32x4d")


# --- what is refused


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (
            {
                "model_state": {},
                "cfg": PYCLS_CONFIG.format(type="resnet", stride="false", eps="0.001"),
            },
            "the epsilon 0.001",
        ),
        ({"model": {}, "preprocessing": {**KNOWN["msra"].as_dict(), "std": [1]}}, "std is (1.0,)"),
        (
            {"model": {}, "preprocessing": {"channel_order": "RGB"}},
            "a preprocessing has batch_norm",
        ),
    ],
)
def test_broken_words_beside_the_weights_are_refused(
    contents: Any, words: str, small: Any, tmp_path: Path
) -> None:
    envelope = next(iter(contents))
    state = pycls_state(small) if envelope == "model_state" else detectron2_state(small)
    with pytest.raises(ValueError) as caught:
        read(tmp_path, torch_bytes({**contents, envelope: state}))
    assert str(caught.value).startswith(f"weights {tmp_path / 'weights'}: ")
    assert words in str(caught.value)


def test_a_torch7_file_of_no_resnext_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"weights .*weights: the Torch 7 network is no ResNet or ResNeXt"
    ):
        read(tmp_path, write_torch7({"a": 1}))


@pytest.mark.parametrize("name", ["state_dict", "model", "blobs", "__metadata__", "meta"])
@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"a": {}}, {1: 2}, {"a": None}], ids=repr)
def test_odd_envelopes_are_refused(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights .*weights: there is "):
        read(tmp_path, torch_bytes({name: value}))


def test_envelopes_within_envelopes_end(tmp_path: Path) -> None:
    contents: Any = {"a": torch.ones(1)}
    for _ in range(10):
        contents = {"model": contents}
    with pytest.raises(ValueError, match="there is a dict under 'model', where a tensor is needed"):
        read(tmp_path, torch_bytes(contents))


def test_a_long_text_as_configuration_takes_no_time(small: Any, tmp_path: Path) -> None:
    text = "MODEL:\n" * 50_000 + "  mean=[1," * 50_000 + "style='" * 50_000
    start = time.perf_counter()
    read(tmp_path, mm({"cfg": text})(small))
    read(
        tmp_path,
        torch_bytes(
            {"model_state": pycls_state(small), "cfg": "MODEL:\n" + "  a: b\n" * 100_000 + text}
        ),
    )
    assert time.perf_counter() - start < 5
