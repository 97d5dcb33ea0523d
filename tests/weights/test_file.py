"""Files of every format, made with other libraries' code, give the features of their networks.

The image is given to the original as its library does it (channel order, mean and std are written
here, not taken from the package), and to a detector of either engine by a configuration that was
fitted to the file.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
from resnext_det.config import get_cfg, load_config
from resnext_det.data.reading import read_image
from resnext_det.detection.portable.build import build_detector
from resnext_det.weights import (
    WeightFile,
    check_configuration,
    check_preprocessing,
    list_overrides,
    load_weights,
    read_weights,
)
from resnext_det.weights.preprocessing import KNOWN
from resnext_det.weights.published.catalog_entries import ENTRIES
from resnext_det.weights.trained_detector import TrainedDetector
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
from tests.weights.helpers import drop_counters, list_keys
from tests.weights.torch7_writer import build_torch7_network, write_torch7

# How each library makes a network's input of an image: channel order, mean and std in 0-255.
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
train_pipeline = [dict(magnitude_std=0.5, type='A'), dict(fill_std=[1.0, 1.0, 1.0], type='B')]
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


def make_safetensors(state: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
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


def make_arrays(state: dict[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in state.items()}


def make_script_contents(network: Any) -> dict[str, Any]:
    """Make what detectron2's convert-torchvision-to-d2.py writes."""
    arrays = make_arrays(detectron2_state(network))
    arrays = {name.replace("linear", "stem.fc"): array for name, array in arrays.items()}
    return {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}


@dataclass(frozen=True)
class Case:
    """A file, the network that it is from, and what that library does to an image.

    Attributes:
        format: as it is found.
        network: depth, groups, width and stride in the 1x1; empty for timm's.
        input: of the network.
        dump: contents -> the bytes of a file.
        contents: of a file with the network.
    """

    format: str
    network: tuple[Any, ...]
    input: Input
    dump: Callable[[Any], bytes]
    contents: Callable[[Any], Any]


def make_timm_network() -> Any:
    network = timm.create_model("resnext50_32x4d", num_classes=5)
    randomize(network)
    assert network.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    return network.eval()


def make_pycls_checkpoint(network: Any, type: str) -> dict[str, Any]:
    cfg = PYCLS_CONFIG.format(type=type, stride="true", eps="1.0e-05")
    return {"epoch": 99, "model_state": pycls_state(network), "cfg": cfg}


PLAIN, IN_1X1 = (26,), (50, 1, 64, True)
dump_legacy = partial(torch_bytes, _use_new_zipfile_serialization=False)
dump_pickle = partial(pickle.dumps, protocol=2)
CASES = {
    "torchvision": Case("torchvision", PLAIN, IMAGENET_RGB, torch_bytes, lambda n: n.state_dict()),
    "torchvision, legacy, trained in parallel": Case(
        *("torchvision", (26, 64, 4), IMAGENET_RGB, dump_legacy),
        lambda n: {"model": {f"module.{k}": v for k, v in n.state_dict().items()}, "epoch": 3},
    ),
    "timm, safetensors": Case("timm", (), IMAGENET_RGB, make_safetensors, lambda n: n.state_dict()),
    "mmpretrain": Case(
        *("mmpretrain", (26, 32, 4), IMAGENET_RGB, torch_bytes),
        lambda n: {"state_dict": mmpretrain_state(n), "meta": {}},
    ),
    "mmdetection, of Caffe's style": Case(
        *("mmdetection", IN_1X1, MSRA, torch_bytes),
        lambda n: {
            "state_dict": {**mmpretrain_state(n), "rpn_head.rpn_cls.weight": torch.ones(1)},
            "meta": {"mmdet_version": "2.28.0", "config": mm_config("caffe", MSRA)},
        },
    ),
    "pycls": Case(
        *("pycls", PLAIN, IMAGENET_BGR, torch_bytes),
        lambda n: make_pycls_checkpoint(n, "anynet"),
    ),
    "pycls, stride in the 1x1": Case(
        *("pycls", (26, 1, 64, True), IMAGENET_BGR, torch_bytes),
        lambda n: make_pycls_checkpoint(n, "resnet"),
    ),
    "detectron2, MSRA": Case(
        *("caffe2", IN_1X1, MSRA, dump_pickle),
        lambda n: caffe2_arrays(n, "beta", head="fc1000"),
    ),
    "detectron2, FAIR": Case(
        *("caffe2", (101, 32, 8), IMAGENET_BGR, dump_pickle), lambda n: caffe2_arrays(n, "riv")
    ),
    "Detectron 1, ResNeXt": Case(
        *("caffe2", (26, 64, 4), DETECTRON, dump_pickle),
        lambda n: {"blobs": caffe2_arrays(n, "folded"), "cfg": "MODEL: {}"},
    ),
    "Detectron 1, ResNet": Case(
        *("caffe2", (26, 1, 64, True), DETECTRON, dump_pickle),
        lambda n: caffe2_arrays(n, "folded", head="fc1000", zero_biases=True),
    ),
    "detectron2, torchvision's": Case(
        *("detectron2", (26, 1, 64), IMAGENET_RGB, dump_pickle), make_script_contents
    ),
    "the paper's, form C": Case("torch7", PLAIN, IMAGENET_RGB, write_torch7, build_torch7_network),
    "the paper's, form B, from a GPU": Case(
        *("torch7", (26, 32, 8), IMAGENET_RGB, partial(write_torch7, cuda=True)),
        lambda n: {"model": build_torch7_network(n, form="B")},
    ),
}


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
    normalized = (pixels - np.array(mean)) / np.array(std)
    return torch.from_numpy(np.ascontiguousarray(normalized.transpose(2, 0, 1)))[None]


def configuration(architecture: Architecture, *changes: Any) -> CfgNode:
    cfg = get_cfg()
    fixed = ["MODEL.BACKBONE.NAME", "build_resnext_backbone", "MODEL.DEVICE", "cpu"]
    head = ["MODEL.ROI_HEADS.NAME", "ResNeXtRes5ROIHeads"]
    cfg.merge_from_list([*fixed, *head, *list_keys(architecture), *changes])
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


def write_case(name: str, folder: Path) -> tuple[Path, Any]:
    case = CASES[name]
    network = random_network(*case.network) if case.network else make_timm_network()
    path = folder / "weights"  # without a suffix: the contents tell
    path.write_bytes(case.dump(case.contents(network)))
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
    path, network = write_case(case, tmp_path)
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
    """Measure what the error prevents: other features under another preprocessing."""
    path, network = write_case("torchvision, legacy, trained in parallel", tmp_path)
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
    """But for the variance of folded norms: it takes 1, where 1 - 1e-5 keeps the scale as it is."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.checkpoint import DetectionCheckpointer

    path, _ = write_case(case, tmp_path)
    path = path.rename(path.with_name("weights.pkl"))
    file = read_weights(path)
    assert file.architecture is not None
    cfg = configuration(file.architecture)
    ours, theirs = build_detector(cfg), build("detectron2", cfg)
    load_weights(ours, file)
    DetectionCheckpointer(theirs).load(str(path))
    found, wanted = ours.state_dict(), theirs.state_dict()
    backbone = [name for name in found if name.startswith(("backbone.", "roi_heads.res5."))]
    assert len(backbone) > 100
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


def describe_input(file: WeightFile) -> Input | None:
    known = file.preprocessing
    return known and (known.channel_order, known.mean, known.std)


def mm(meta: Any, *, backbone_alone: bool = False, **heads: Tensor) -> Callable[[Any], Any]:
    """Make a function of a network that makes what OpenMMLab saves of it."""

    def make(network: Any) -> dict[str, Any]:
        state = network.state_dict() if backbone_alone else mmpretrain_state(network)
        return {"meta": meta, "state_dict": {**state, **heads}}

    return make


def fold_norms(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Set means to 0 and variances to 1, as mmdetection's converter of Caffe's ResNets does."""
    return {
        name: torch.full_like(t, float(name.endswith("var"))) if "running_" in name else t
        for name, t in state.items()
    }


HEAD = {"bbox_head.retina_cls.weight": torch.ones(1)}
CFG = mm_config("pytorch", IMAGENET_RGB)
MSRA_LABEL = {"preprocessing": KNOWN["msra"].as_dict()}
BGR_CFG = mm_config("pytorch", IMAGENET_BGR)


def make_labeled(network: Any, author: str, **label: Any) -> dict[str, Any]:
    return {"model": make_arrays(detectron2_state(network)), "__author__": author, **label}


# What stands in a file -> its format, its input (None: not known), and the contents.
SOURCES: dict[str, tuple[str, Input | None, Callable[[Any], Any]]] = {
    "bare": ("torchvision", IMAGENET_RGB, lambda n: n.state_dict()),
    "before counters": ("torchvision", IMAGENET_RGB, lambda n: drop_counters(n.state_dict())),
    "PyTorch's example": (
        *("torchvision", IMAGENET_RGB),
        lambda n: {"epoch": 1, "arch": "resnet50", "state_dict": n.state_dict()},
    ),
    "no counters, in an envelope": (
        *("torchvision", None),
        lambda n: {"state_dict": drop_counters(n.state_dict())},
    ),
    "mmdetection's converter": (
        *("torchvision", None),
        lambda n: {"state_dict": fold_norms(drop_counters(n.state_dict()))},
    ),
    "timm's training": (
        *("timm", IMAGENET_RGB),
        lambda n: {
            **{"arch": "resnext50_32x4d", "version": 2, "metric": 77.0},
            "state_dict": n.state_dict(),
        },
    ),
    "mmcls with its configuration": (
        *("mmpretrain", IMAGENET_RGB),
        mm({"mmcls_version": "0.1", "config": CFG}),
    ),
    "mmpretrain, of another": (
        *("mmpretrain", IMAGENET_BGR),
        mm({"mmengine_version": "0.7", "cfg": BGR_CFG}),
    ),
    "mmpretrain, backbone alone": (
        *("mmpretrain", IMAGENET_RGB),
        mm({"mmpretrain_version": "1"}, backbone_alone=True),
    ),
    "mmpretrain, of two": ("mmpretrain", None, mm({"cfg": CFG + "mean=[1.0, 2.0, 3.0]"})),
    "mmpretrain, saying nothing": ("mmpretrain", None, mm({"cfg": "model = dict()"})),
    "mmpretrain, no text": ("mmpretrain", IMAGENET_RGB, mm({"cfg": {"model": 1}})),
    "mmdetection": ("mmdetection", IMAGENET_RGB, mm({"mmdet_version": "3", "cfg": CFG}, **HEAD)),
    "mmdetection, style unknown": ("mmdetection", None, mm({"mmdet_version": "3"}, **HEAD)),
    "pycls without configuration": (
        *("pycls", IMAGENET_BGR),
        lambda n: {"model_state": pycls_state(n)},
    ),
    "detectron2, unlabeled": ("detectron2", None, detectron2_state),
    "our own": ("native", MSRA, lambda n: {"model": detectron2_state(n), **MSRA_LABEL}),
    "another one's word": (
        *("detectron2", None),
        lambda n: {"model": detectron2_state(n), "preprocessing": {"resize": 224}},
    ),
}
PICKLED_SOURCES: dict[str, tuple[str, Input | None, Callable[[Any], Any]]] = {
    "Caffe2 of an unknown net": ("caffe2", None, lambda n: caffe2_arrays(n, "beta")),
    "Caffe2 with group norms": (
        *("caffe2", None),
        lambda n: {k.replace("_bn_", "_gn_"): a for k, a in caffe2_arrays(n, "folded").items()},
    ),
    "detectron2, of an unknown author": ("detectron2", None, lambda n: make_labeled(n, "me")),
    "detectron2, of pycls": ("detectron2", IMAGENET_BGR, lambda n: make_labeled(n, "pycls")),
    "our own, for detectron2": (
        *("detectron2", IMAGENET_BGR),
        lambda n: make_labeled(n, "x", preprocessing=KNOWN["fair"].as_dict()),
    ),
}


@pytest.mark.parametrize("name", [*SOURCES, *PICKLED_SOURCES])
def test_whose_weights_they_are(name: str, small: Any, tmp_path: Path) -> None:
    format, channels, contents = {**SOURCES, **PICKLED_SOURCES}[name]
    dump = torch_bytes if name in SOURCES else pickle.dumps
    file = read(tmp_path, dump(contents(small)))
    assert (file.format, describe_input(file), file.architecture) == (format, channels, SMALL)
    if file.preprocessing is not None:
        assert file.preprocessing.stride_in_1x1 == (channels == MSRA)


def test_our_own_safetensors_carry_their_preprocessing(small: Any, tmp_path: Path) -> None:
    label = {name: json.dumps(value) for name, value in MSRA_LABEL.items()}
    file = read(tmp_path, make_safetensors(detectron2_state(small), label))
    assert (file.format, file.preprocessing) == ("native", KNOWN["msra"])


@pytest.mark.parametrize(
    ("groups", "width", "known"), [(1, 64, False), (32, 8, False), (32, 4, True), (64, 4, True)]
)
def test_mmdetections_nets_of_several_kinds_are_not_guessed(
    groups: int, width: int, known: bool, tmp_path: Path
) -> None:
    """Its ResNets and its ResNeXt 32x8d may be Caffe's; the others are PyTorch's."""
    file = read(
        tmp_path, torch_bytes(mm({"mmdet_version": "2"}, **HEAD)(random_network(26, groups, width)))
    )
    assert describe_input(file) == (IMAGENET_RGB if known else None)


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
    state = make_arrays(detectron2_state(random_network(depth, groups, width)))
    file = read(
        tmp_path, pickle.dumps({"model": state, "__author__": author, "matching_heuristics": True})
    )
    assert describe_input(file) == channels
    assert file.metadata["author"] == author
    assert file.preprocessing is None or file.preprocessing.stride_in_1x1


def test_folded_norms_are_said(small: Any, tmp_path: Path) -> None:
    found = read(tmp_path, pickle.dumps(caffe2_arrays(small, "folded"))).preprocessing
    assert found == KNOWN["detectron1"]
    found = read(tmp_path, torch_bytes(fold_norms(small.state_dict()))).preprocessing
    assert found is not None and found.batch_norm == "folded"


@pytest.mark.detectron2
@pytest.mark.parametrize("depth", [50, 101])
def test_detectrons_group_norms_fit_detectron2s_configuration(depth: int, tmp_path: Path) -> None:
    model_zoo = pytest.importorskip("detectron2.model_zoo", reason="detectron2 is not installed")
    arrays = {
        name.replace("res_conv1_bn_", "conv1_gn_").replace("_bn_", "_gn_"): array
        for name, array in caffe2_arrays(random_network(depth, 1, 64), "folded").items()
    }
    file = read(tmp_path, pickle.dumps({"blobs": arrays}))
    name = model_zoo.get_config_file("Misc/mask_rcnn_R_50_FPN_3x_gn.yaml")
    cfg = load_config(name, ["MODEL.RESNETS.DEPTH", str(depth)])
    assert file.preprocessing is not None and file.preprocessing.batch_norm == "none"
    check_configuration(cfg, file, training=True)
    assert str(file.architecture) == f"R-{depth}"


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
        "model": make_arrays(detectron2_state(small)),
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
        "safetensors": make_safetensors,
        "pickle": lambda s: pickle.dumps(make_arrays(s)),
    }[how](state)
    (tmp_path / "weights").write_bytes(data)
    found = read_weights(tmp_path / "weights", mapped=mapped).state
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_numbers_of_numpy_are_read(small: Any, tmp_path: Path) -> None:
    """A .pkl may have scalars, arrays without dimensions, big-endian and Fortran-ordered ones."""
    arrays = make_arrays(small.state_dict())
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
    path.write_bytes(torch_bytes({"state_dict": drop_counters(network.state_dict())}))
    entry = ENTRIES["resnext://gluon/X-50-32x4d"]
    monkeypatch.setattr("resnext_det.weights.published.catalog.locate", lambda name: (path, entry))
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
    with pytest.raises(ValueError, match=r"weights .*weights: .* is (an? |None)"):
        read(tmp_path, torch_bytes({name: value}))


def test_envelopes_within_envelopes_end(tmp_path: Path) -> None:
    contents: Any = {"a": torch.ones(1)}
    for _ in range(10):
        contents = {"model": contents}
    with pytest.raises(ValueError, match=r"model\['model'\] is a dict, where a tensor is needed"):
        read(tmp_path, torch_bytes(contents))


def test_a_long_text_as_configuration_takes_no_time(small: Any, tmp_path: Path) -> None:
    text = "MODEL:\n" * 50_000 + "  mean=[1," * 50_000 + "style='" * 50_000
    start = time.process_time()
    read(tmp_path, torch_bytes(mm({"cfg": text})(small)))
    read(
        tmp_path,
        torch_bytes(
            {"model_state": pycls_state(small), "cfg": "MODEL:\n" + "  a: b\n" * 100_000 + text}
        ),
    )
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("config", None),
        ("config", {1: 2}),
        ("config", {"MODEL": {"PIXEL_MEAN": torch.ones(3)}, "INPUT": {}}),
        ("config", {"MODEL": 5, "INPUT": {}}),
        ("config", {"MODEL": {}, "INPUT": {}, "A": [[[[[[[[[[1]]]]]]]]]]}),
        ("class_names", "cat"),
        ("class_names", ["cat", 1]),
        ("versions", {"torch": 2}),
        ("metrics", {"set": 3}),
        ("metrics", {"set": {"AP": "high"}}),
        (None, []),
    ],
)
def test_a_damaged_description_of_a_detector_is_refused(entry: str | None, value: Any) -> None:
    config: Any = {"MODEL": {}, "INPUT": {}}
    whole = {"config": config, "class_names": ["cat"], "versions": {}}
    whole["metrics"] = {"set": {"AP": 1.0}}
    assert TrainedDetector.from_dict(whole).class_names == ("cat",)
    with pytest.raises(ValueError, match=f"damaged, at '{entry or 'config'}'; copy or download"):
        TrainedDetector.from_dict(value if entry is None else {**whole, entry: value})
