"""The LazyConfig examples are the detectors of the YAML files, or detectron2's own, on our net."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytestmark = pytest.mark.detectron2
detectron2 = pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2 import model_zoo  # noqa: E402
from detectron2.config import LazyCall, LazyConfig, instantiate  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.solver import build_lr_scheduler  # noqa: E402
from detectron2.structures import BitMasks, Boxes, Instances  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

from resnext_det.data.shapes import generate_shapes  # noqa: E402
from resnext_det.detection.detectron2.backbone import (  # noqa: E402
    ResNeXtBackbone,
    make_stage,
)
from resnext_det.detection.detectron2.engine import build_detector, load_config  # noqa: E402
from tests.detection.detectron2_reference import assert_same_instances, randomize  # noqa: E402
from tests.detection.helpers import override  # noqa: E402

CONFIGS = Path(__file__).parents[3] / "configs"
# The examples have detectron2's own heads, which the faster ones of the YAML files equal but for
# rounding.
EXACT_RPN = override("MODEL.RPN", HEAD_NAME="StandardRPNHead")
EXACT = [*EXACT_RPN, *override("MODEL.ROI_HEADS", NAME="StandardROIHeads")]
# Each example with the YAML file that says the same, and what that is to be told.
YAML: dict[str, tuple[str, list[Any]]] = {
    "faster_rcnn_X50_32x4d_FPN_1x": ("faster_rcnn_X50_32x4d_FPN_1x", EXACT),
    "faster_rcnn_X50_32x4d_C4_1x": ("faster_rcnn_X50_32x4d_C4_1x", EXACT_RPN),
    "mask_rcnn_X50_32x4d_FPN_1x": ("mask_rcnn_X50_32x4d_FPN_1x", EXACT),
}
LSJ = "mask_rcnn_X50_32x4d_FPN_100ep_LSJ"
LSJ_OF_DETECTRON2 = "mask_rcnn_R_50_FPN_100ep_LSJ"
FEW_REGIONS: list[Any] = [
    *override("MODEL.ROI_HEADS", SCORE_THRESH_TEST=0.0, BATCH_SIZE_PER_IMAGE=8),
    *override("MODEL.RPN", POST_NMS_TOPK_TRAIN=10, POST_NMS_TOPK_TEST=10),
]
SMALL = "X-26-32x4d"


def load_lazy(name: str, architecture: str = "") -> Any:
    lazy = LazyConfig.load(str(CONFIGS / "lazy" / f"{name}.py"))
    if architecture:
        find_backbone(lazy).architecture = architecture
    return use_few_regions(lazy)


def use_few_regions(lazy: Any) -> Any:
    """Make a training step and a detection quick; ``FEW_REGIONS`` in YAML."""
    lazy.model.roi_heads.box_predictor.test_score_thresh = 0.0
    lazy.model.roi_heads.batch_size_per_image = 8
    lazy.model.proposal_generator.post_nms_topk = (10, 10)
    return lazy


def find_backbone(lazy: Any) -> Any:
    return lazy.model.backbone.get("bottom_up", lazy.model.backbone)


def load_yaml(name: str, *changes: Any) -> Any:
    file, words = YAML[name]
    words = [*words, *changes, *FEW_REGIONS, "MODEL.DEVICE", "cpu"]
    return load_config(CONFIGS / "modern" / f"{file}.yaml", words)


def build_on_meta(config: Any) -> nn.Module:
    with torch.device("meta"):
        return instantiate(config.model)


def describe(model: nn.Module) -> tuple[list[Any], list[str]]:
    """List the state with its shapes, and what is trained."""
    state = [(name, value.shape) for name, value in model.state_dict().items()]
    return state, [name for name, p in model.named_parameters() if p.requires_grad]


def make_samples() -> list[dict[str, Any]]:
    """Make an image with two objects that have masks."""
    image = torch.randint(0, 255, (3, 64, 96), generator=torch.Generator().manual_seed(0))
    objects = Instances((64, 96))
    objects.gt_boxes = Boxes(torch.tensor([[4.0, 8.0, 40.0, 60.0], [30.0, 10.0, 90.0, 60.0]]))
    objects.gt_classes = torch.tensor([0, 17])
    objects.gt_masks = BitMasks(torch.rand(2, 64, 96) > 0.5)
    return [{"image": image, "instances": objects, "height": 64, "width": 96}]


def assert_same_detector(found: nn.Module, expected: nn.Module) -> None:
    """Compare the losses of a training step, their gradients, and detections, to the last bit."""
    randomize(expected, seed=0)
    found.load_state_dict(expected.state_dict())
    samples = make_samples()
    losses = []
    for model in (found, expected):
        torch.manual_seed(0)  # which regions are sampled
        with EventStorage():
            losses.append(model.train()(samples))
        sum(losses[-1].values()).backward()
    assert losses[0] == losses[1] and len(losses[0]) >= 4
    gradients = [{n: p.grad for n, p in model.named_parameters()} for model in (found, expected)]
    for name, gradient in gradients[1].items():
        assert gradient is None or torch.equal(gradients[0][name], gradient), name
    with torch.no_grad():
        instances = [model.eval()(samples)[0]["instances"] for model in (found, expected)]
    assert len(instances[0]) > 0
    assert_same_instances(*instances)


@pytest.mark.parametrize("name", YAML)
def test_an_example_is_the_detector_of_its_yaml_file(name: str) -> None:
    cfg = load_yaml(name).clone()
    cfg.merge_from_list(["MODEL.DEVICE", "meta"])
    assert describe(build_on_meta(load_lazy(name))) == describe(build_model(cfg))


SLOW = pytest.param("faster_rcnn_X50_32x4d_FPN_1x", marks=pytest.mark.slow)  # a part of the mask's


@pytest.mark.parametrize("name", [SLOW, *(name for name in YAML if name not in SLOW.values)])
def test_an_example_computes_what_its_yaml_file_does(name: str) -> None:
    cfg = load_yaml(name, "MODEL.RESNETS.DEPTH", 26)
    assert_same_detector(instantiate(load_lazy(name, SMALL).model), build_detector(cfg))


@pytest.mark.parametrize("name", YAML)
def test_an_example_trains_as_its_yaml_file(name: str) -> None:
    lazy, cfg = load_lazy(name), load_yaml(name)
    mapper, solver = lazy.dataloader.train.mapper, cfg.SOLVER
    assert lazy.model.input_format == mapper.image_format == cfg.INPUT.FORMAT
    assert lazy.model.pixel_mean == cfg.MODEL.PIXEL_MEAN
    assert lazy.model.pixel_std == cfg.MODEL.PIXEL_STD
    assert mapper.augmentations[0].short_edge_length == list(cfg.INPUT.MIN_SIZE_TRAIN)
    assert mapper.augmentations[0].max_size == cfg.INPUT.MAX_SIZE_TRAIN
    assert mapper.use_instance_mask == cfg.MODEL.MASK_ON
    assert lazy.dataloader.train.total_batch_size == solver.IMS_PER_BATCH
    assert [lazy.dataloader.train.dataset.names] == list(cfg.DATASETS.TRAIN)
    assert lazy.train.init_checkpoint == cfg.MODEL.WEIGHTS != ""
    assert lazy.train.max_iter == solver.MAX_ITER
    assert lazy.optimizer.lr == solver.BASE_LR and lazy.optimizer.momentum == solver.MOMENTUM
    assert lazy.optimizer.weight_decay == solver.WEIGHT_DECAY
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    expected = build_lr_scheduler(cfg, optimizer)._multiplier
    schedule = instantiate(lazy.lr_multiplier)
    for where in (0.0, 0.001, 0.01, 0.02, 0.6, 0.7, 0.9, 0.99):
        assert schedule(where) == pytest.approx(expected(where))


@pytest.mark.parametrize("name", [*YAML, LSJ])
def test_an_example_may_be_written_and_read(tmp_path: Path, name: str) -> None:
    """detectron2's tool writes the configuration first."""
    lazy = load_lazy(name)
    LazyConfig.save(lazy, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert sorted(again) == ["dataloader", "lr_multiplier", "model", "optimizer", "train"]
    assert describe(build_on_meta(again)) == describe(build_on_meta(lazy))


def test_large_scale_jitter_is_detectron2s_but_for_the_network() -> None:
    """The rest of the configuration is the same, and so is the detector on one network."""
    ours = load_lazy(LSJ, "R-50")
    theirs = use_few_regions(model_zoo.get_config(f"new_baselines/{LSJ_OF_DETECTRON2}.py"))
    for part in ("lr_multiplier", "optimizer"):
        assert ours[part] == theirs[part]
    assert ours.dataloader.train.mapper.pop("image_format") == "RGB" == ours.model.input_format
    theirs.dataloader.train.mapper.pop("image_format")
    assert ours.dataloader.train == theirs.dataloader.train
    assert ours.train.pop("output_dir") != theirs.train.pop("output_dir")
    assert ours.train == theirs.train
    theirs.model.backbone.bottom_up.stages.stride_in_1x1 = False
    assert describe(build_on_meta(ours)) == describe(build_on_meta(theirs))
    norms = [
        {name: type(m) for name, m in build_on_meta(c).named_modules() if name.endswith("norm")}
        for c in (ours, theirs)
    ]
    assert norms[0] == norms[1]  # SyncBN in the network, detectron2's own in the heads


def swap_c4(architecture: str) -> Any:
    """Put our network into detectron2's own Mask R-CNN on C4, as docs/detectron2.md says."""
    lazy = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py")
    lazy.model.backbone = LazyCall(ResNeXtBackbone)(
        architecture=architecture, out_features=["res4"], freeze_at=2
    )
    lazy.model.roi_heads.res5 = LazyCall(make_stage)(
        architecture=architecture, name="res5", out_channels=2048
    )
    return use_few_regions(lazy)


def test_mask_rcnn_on_c4_with_both_parts_swapped() -> None:
    """It is the detector that detectron2's YAML file is under our names and groups."""
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml")
    cfg.merge_from_list(
        [
            *override("MODEL", DEVICE="cpu"),
            *override("MODEL.BACKBONE", NAME="build_resnext_backbone"),
            *override("MODEL.ROI_HEADS", NAME="ResNeXtRes5ROIHeads"),
            *FEW_REGIONS,
            *override("MODEL.RESNETS", DEPTH=26, NUM_GROUPS=8, WIDTH_PER_GROUP=4),
            *override("MODEL.RESNETS", STRIDE_IN_1X1=False),
        ]
    )
    assert_same_detector(instantiate(swap_c4("X-26-8x4d").model), build_model(cfg))


def test_mask_rcnn_on_c4_has_detectron2s_keys_on_its_own_network() -> None:
    """As a ResNet it is detectron2's file of this name: state, shapes and what is trained."""
    theirs = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py")
    assert describe(build_on_meta(swap_c4("R-50"))) == describe(build_on_meta(theirs))


def test_a_stage_of_other_channels_than_the_heads_is_refused() -> None:
    lazy = swap_c4(SMALL)
    lazy.model.roi_heads.res5.out_channels = 1024
    with pytest.raises(ValueError, match=r"out_channels is 1024, but res5 .* write 2048"):
        build_on_meta(lazy)


@pytest.mark.slow
def test_large_scale_jitter_trains_as_detectron2s_on_one_network() -> None:
    ours = load_lazy(LSJ, "R-50")
    theirs = use_few_regions(model_zoo.get_config(f"new_baselines/{LSJ_OF_DETECTRON2}.py"))
    theirs.model.backbone.bottom_up.stages.stride_in_1x1 = False
    for name in ("input_format", "pixel_mean", "pixel_std"):
        theirs.model[name] = ours.model[name]
    models = [instantiate(config.model).train() for config in (ours, theirs)]
    models[1].load_state_dict(models[0].state_dict())
    losses = []
    for model in models:
        torch.manual_seed(0)  # which regions are sampled
        with EventStorage():
            losses.append(model(make_samples()))
    assert losses[0].keys() == losses[1].keys()
    for loss, value in losses[1].items():
        torch.testing.assert_close(losses[0][loss], value, rtol=1e-4, atol=1e-5)


# What a user writes around an example: a data set, and here sizes for which seconds are enough.
ON_SHAPES = """
from detectron2.config import LazyConfig
from detectron2.data.datasets import register_coco_instances

register_coco_instances("tiny", {{}}, {annotations!r}, {images!r})
_lazy = LazyConfig.load({example!r})
model, dataloader, optimizer, lr_multiplier, train = (
    _lazy[key] for key in ("model", "dataloader", "optimizer", "lr_multiplier", "train")
)
dataloader.train.dataset.names = dataloader.test.dataset.names = "tiny"
dataloader.train.num_workers = dataloader.test.num_workers = 0
dataloader.train.total_batch_size = 2
dataloader.test.mapper.augmentations[0].update(short_edge_length=64, max_size=96)
model.roi_heads.num_classes = 6
model.roi_heads.box_predictor.test_score_thresh = 0.0  # masks are evaluated where there are some
_first, _second, *_ = dataloader.train.mapper.augmentations
if "crop_size" in _second:
    _first.target_height, _first.target_width, _second.crop_size = 64, 64, [64, 64]
else:
    _first.update(short_edge_length=64, max_size=96)
dataloader.train.mapper.instance_mask_format = "bitmask"
train.update(max_iter=1, device="cpu", init_checkpoint="")
train.amp.enabled = False
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*YAML, LSJ])
def test_detectron2s_own_tool_trains_and_evaluates_it(tmp_path: Path, name: str) -> None:
    tool = Path(detectron2.__file__).parents[1] / "tools" / "lazyconfig_train_net.py"
    if not tool.is_file():
        pytest.skip("detectron2 is installed without its tools")
    from pycocotools import mask as coco_mask  # a dependency of detectron2's

    file, images = generate_shapes(tmp_path, split="train", num_images=4, seed=0)
    content = json.loads(file.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for entry in content["annotations"]:
        x, y, width, height = map(int, entry["bbox"])
        mask = np.zeros(sizes[entry["image_id"]], dtype=np.uint8, order="F")
        mask[y : y + height, x : x + width] = 1
        runs = coco_mask.encode(mask)
        entry["segmentation"] = {"size": runs["size"], "counts": runs["counts"].decode()}
    file.write_text(json.dumps(content))
    example = str(CONFIGS / "lazy" / f"{name}.py")
    config = tmp_path / "config.py"
    config.write_text(ON_SHAPES.format(annotations=str(file), images=str(images), example=example))
    net = "model.backbone.bottom_up" if "FPN" in name else "model.backbone"
    words = [f"{net}.architecture=X-26-8x4d", f"train.output_dir={tmp_path / 'output'}"]
    done = subprocess.run(
        [sys.executable, str(tool), "--config-file", str(config), *words],
        env={**os.environ, "PYTHONPATH": str(CONFIGS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = (tmp_path / "output" / "log.txt").read_text()
    assert "total_loss" in (tmp_path / "output" / "metrics.json").read_text()
    assert "copypaste: Task: bbox" in told
    assert ("copypaste: Task: segm" in told) == name.startswith("mask")
    assert LazyConfig.load(str(tmp_path / "output" / "config.yaml")).train.max_iter == 1
    assert (tmp_path / "output" / "model_final.pth").is_file()
