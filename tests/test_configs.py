"""Test the files of configs/: they build the networks they are called, as the paper says."""

from __future__ import annotations

import math
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.architecture import Architecture
from resnext_det.config import load_config
from resnext_det.config.backbone import read_architecture
from resnext_det.config.classification import load_classifier_config
from resnext_det.config.detection import get_own
from resnext_det.config.loading import drop_idle_overrides
from resnext_det.config.rules import collect_values, get_value, list_keys, read_settings
from resnext_det.detection.evaluation import locate_proposals
from resnext_det.detection.portable.build import build_detector
from resnext_det.instances import Boxes, Instances
from resnext_det.resnext import make_stage
from resnext_det.training.optimizer import (
    ClippingSettings,
    OptimizerSettings,
    build_clipper,
    build_optimizer,
)
from resnext_det.weights import KNOWN, Preprocessing, find_differences
from resnext_det.weights.published import catalog
from tests.detection.detectron2_reference import randomize
from tests.detection.helpers import add_masks, as_overrides, draw_sample, override

CONFIGS = Path(__file__).parents[1] / "configs"
DETECTORS = ("rpn_", "fast_rcnn_", "faster_rcnn_", "cascade_", "mask_rcnn_", "retinanet_")
LEAVES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.stem.startswith(DETECTORS))
BASELINES = sorted((CONFIGS / "new_baselines").glob("*.yaml"))
PRETRAINED = sorted((CONFIGS / "pretrained").glob("*.yaml"))
SHAPES = {"quickstart", "miniature"}
"""Folders whose networks learn generated shapes, from random weights or a classifier's."""
STARTED = [path for path in LEAVES if not (SHAPES | {"new_baselines"}) & set(path.parts)]
"""Those that start from published weights."""
STARTED += [CONFIGS / "quickstart" / "faster_rcnn_X26_8x4d_FPN_shapes.yaml"]
MODERN = sorted((CONFIGS / "modern").glob("*.yaml"))
NET = {f"MODEL.RESNETS.{key}" for key in ("DEPTH", "NUM_GROUPS", "WIDTH_PER_GROUP")}
LONGER = {"_3x": "_1x", "_200ep": "_100ep", "_400ep": "_100ep"}
LONG = [path for path in LEAVES if any(length in path.stem for length in LONGER)]
_ALIKE = (
    r"new_baselines/(faster|\w+_(R|X101_))|/cascade_mask_"
    r"|/(cascade_rcnn|mask_rcnn|retinanet)_(R|X101_)"
)
DISTINCT = [path for path in LEAVES if path not in LONG + PRETRAINED]
DISTINCT = [path for path in DISTINCT if not re.search(_ALIKE, path.as_posix())]
"""Those that differ in more than the weights or the length, of some families one network's."""
STEPPED = [
    pytest.param(path, marks=pytest.mark.slow) if re.search("R50_|[RX]101_", path.stem) else path
    for path in DISTINCT
]
"""The same, of which those of R50 and of 101 layers differ from those of X50 in the net alone."""

# Table 8 of the paper: AP, AP50 on COCO minival; published parameters with 1000 classes.
TABLE_8 = {
    "R50_1x64d": (26.5, 47.6, 25_557_032),
    "X50_32x4d": (27.5, 49.7, 25_028_904),
    "R101_1x64d": (29.8, 51.1, 44_549_160),
    "X101_32x4d": (30.0, 51.9, 44_177_704),
}


def get_name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def get_net(path: Path) -> str:
    """``X50_32x4d`` of ``faster_rcnn_X50_32x4d_FPN_1x.yaml`` and of ``rpn_X50_32x4d.yaml``."""
    kinds = "faster_rcnn|cascade_rcnn|cascade_mask_rcnn|mask_rcnn|fast_rcnn|rpn|retinanet"
    match = re.match(rf"(?:{kinds})_([RX]\d+_\d+x\d+d)", path.stem)
    assert match is not None
    return match[1]


def test_the_quartet_and_its_modern_kin_are_all_there() -> None:
    kinds = [(kind, head) for kind in ("faster_rcnn", "mask_rcnn") for head in ("C4", "DC5", "FPN")]
    kinds += [("cascade_rcnn", "FPN"), ("retinanet", "FPN")]
    kin = {
        f"{kind}_{net}_{head}_{length}"
        for kind, head in kinds
        for net in TABLE_8
        for length in ("1x", "3x")
    }
    assert {path.stem.removeprefix("faster_rcnn_") for path in CONFIGS.glob("*.yaml")} == set(
        TABLE_8
    )
    kin |= {
        f"cascade_mask_rcnn_{net}_FPN_{length}"
        for net in ("R50_1x64d", "X50_32x4d")
        for length in ("1x", "3x")
    }
    assert {path.stem for path in MODERN} == kin


@pytest.mark.parametrize("path", LONG, ids=get_name)
def test_a_longer_training_differs_in_its_length_alone(path: Path) -> None:
    (length,) = [length for length in LONGER if length in path.stem]
    shorter, longer = (
        load_config(path.with_stem(path.stem.replace(length, LONGER[length]))),
        load_config(path),
    )
    different = {
        key for key in list_keys(longer) if get_value(longer, key) != get_value(shorter, key)
    }
    warmup = {"SOLVER.WARMUP_ITERS"} if path in BASELINES else set()
    assert different == {"OUTPUT_DIR", "SOLVER.MAX_ITER", "SOLVER.STEPS"} | warmup


@pytest.mark.parametrize(
    "path", [path for path in LEAVES if path not in LONG + PRETRAINED], ids=get_name
)
def test_it_builds_the_net_of_its_name(path: Path) -> None:
    cfg = load_config(path)
    with torch.device("meta"):
        model = build_detector(cfg)
    backbone = [
        tensor.numel()
        for name, tensor in model.state_dict().items()
        if re.search(r"\.(stem|res[2-5])\.", name) and not re.search(r"running_|num_batches", name)
    ]
    resnets = cfg.MODEL.RESNETS
    architecture = read_architecture(resnets)
    if path.stem.startswith("rpn"):  # which on C4 features ends at res4
        res5 = make_stage(architecture, "res5", norm=resnets.NORM, stride_in_1x1=False).state_dict()
        backbone += [tensor.numel() for key, tensor in res5.items() if "running_" not in key]
    assert sum(backbone) == architecture.num_parameters(None)
    net = get_net(path) if not SHAPES & set(path.parts) else None
    if net is not None:
        assert architecture == Architecture.parse(re.sub(r"([RX])(\d+)_", r"\1-\2-", net))
        assert sum(backbone) + 2049 * 1000 == TABLE_8[net][2]
        assert path.stem in cfg.OUTPUT_DIR


def list_small_step(path: Path) -> list[str]:
    """List overrides that leave a net as deep but narrow, and regions enough for a step."""
    cfg = load_config(path)
    width = 64 // cfg.MODEL.RESNETS.NUM_GROUPS
    changes = [
        *override("MODEL.RESNETS", WIDTH_PER_GROUP=width, STEM_OUT_CHANNELS=64),
        *override("MODEL.RESNETS", RES2_OUT_CHANNELS=64),
        *("MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", 64, "MODEL.ROI_BOX_HEAD.FC_DIM", 32),
        *override("MODEL.RPN", POST_NMS_TOPK_TRAIN=20, POST_NMS_TOPK_TEST=6),
        *override("MODEL.ROI_HEADS", BATCH_SIZE_PER_IMAGE=6),
        *override("SOLVER", WARMUP_ITERS=0, BASE_LR=0.0001),
    ]
    return drop_idle_overrides(cfg, as_overrides(changes))


def step_sample(cfg: CfgNode) -> dict[str, Any]:
    """One image with two objects, and proposals where they are read."""
    boxes = [[4.0, 6.0, 40.0, 50.0], [30.0, 10.0, 90.0, 60.0]]
    sample = draw_sample(torch.Generator().manual_seed(0), 64, 96, boxes)
    if cfg.MODEL.LOAD_PROPOSALS:
        near = Boxes(torch.tensor(boxes + [[2.0, 8.0, 44.0, 55.0], [50.0, 1.0, 70.0, 20.0]]))
        logits = torch.tensor([4.0, 3.0, 2.0, 1.0])
        sample["proposals"] = Instances((64, 96), proposal_boxes=near, objectness_logits=logits)
    return add_masks(sample) if cfg.MODEL.MASK_ON else sample


def train_one_step(cfg: CfgNode) -> tuple[nn.Module, dict[str, Any], dict[str, float]]:
    """Train the portable detector for one step; return it, its output and its losses."""
    torch.manual_seed(1)
    model = build_detector(cfg)
    randomize(model, seed=0)
    sample = step_sample(cfg)
    clipping = read_settings(ClippingSettings, cfg.SOLVER.CLIP_GRADIENTS)
    optimizer = build_optimizer(model, read_settings(OptimizerSettings, cfg.SOLVER))
    torch.manual_seed(0)
    losses = model.train()([sample])
    sum(losses.values()).backward()
    if (clip := build_clipper(clipping)) is not None:
        clip(optimizer)
    optimizer.step()
    with torch.inference_mode():
        output = model.eval()([sample])[0]
    return model, output, {name: float(value.detach()) for name, value in losses.items()}


@pytest.mark.parametrize("path", STEPPED, ids=get_name)
def test_it_makes_a_step_and_an_inference(path: Path) -> None:
    if find_spec("detectron2") is not None and "mlperf" not in path.parts:
        pytest.skip("the comparison with detectron2 in tests/detection/detectron2 makes this step")
    check_step(*train_one_step(load_config(path, list_small_step(path))))


def check_step(model: nn.Module, output: dict[str, Any], losses: dict[str, float]) -> None:
    """Check what ``train_one_step`` returns."""
    assert losses and all(math.isfinite(loss) for loss in losses.values())
    (found,) = output.values()
    assert all(torch.isfinite(getattr(v, "tensor", v)).all() for v in found.get_fields().values())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=get_name)
def test_a_leaf_is_short_and_repeats_nothing(path: Path, tmp_path: Path) -> None:
    """A file over a base has a dozen lines at most, and no value that its base has already."""
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    if "_BASE_" not in content:
        return
    if path in LEAVES:
        assert len(text.splitlines()) <= 12
    bases = content["_BASE_"] if isinstance(content["_BASE_"], list) else [content["_BASE_"]]
    below = tmp_path / "below.yaml"
    below.write_text(
        yaml.safe_dump({"_BASE_": [str((path.parent / base).resolve()) for base in bases]})
    )
    of_classifier = "classification" in path.parts or path.stem.startswith("classifier")
    load = load_classifier_config if of_classifier else load_config
    merged, alone = load(below), load(path)
    below_it = collect_values(merged)
    own = {key for key, value in collect_values(alone).items() if below_it.get(key) != value}
    flat = {key for key in list_keys(alone) if _says(content, key)}
    defaults = {"MODEL.RPN.POST_NMS_TOPK_TEST", "MODEL.BACKBONE.NAME", "MODEL.ROI_HEADS.NAME"}
    if path.name == "new_baseline.yaml":  # in place of those of the net beside it
        defaults |= {"MODEL.WEIGHTS"}
    assert flat - own <= defaults | NET, "the base has these values already"


def _says(content: object, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(content, dict) or name not in content:
            return False
        content = content[name]
    return True


@pytest.mark.parametrize("path", STARTED, ids=get_name)
def test_it_starts_from_weights_of_its_net_and_preprocessing(path: Path) -> None:
    cfg = load_config(path)
    if cfg.MODEL.WEIGHTS.startswith("hf-hub:timm/"):
        timm = pytest.importorskip("timm")
        name = cfg.MODEL.WEIGHTS.removeprefix("hf-hub:timm/")
        told = timm.models.get_pretrained_cfg(name)
        assert told is not None and name in timm.list_pretrained()
        network = Architecture.parse(re.sub(r"resnext(\d+)_", r"X-\1-", name.split(".")[0]))
        mean, std = (tuple(255 * x for x in values) for values in (told.mean, told.std))
        wanted = Preprocessing("RGB", mean, std)
    else:
        weights = catalog.find_entry(cfg.MODEL.WEIGHTS)
        network, wanted = weights.architecture, KNOWN[weights.preprocessing]
    assert network == read_architecture(cfg.MODEL.RESNETS)
    assert find_differences(wanted, cfg) == []


@pytest.mark.parametrize("net", TABLE_8)
def test_the_quartet_has_the_settings_of_the_paper(net: str) -> None:
    path = CONFIGS / f"faster_rcnn_{net}.yaml"
    ap, ap50, _ = TABLE_8[net]
    assert (
        f"AP {ap}, AP50 {ap50} on COCO minival" in path.read_text(encoding="utf-8").splitlines()[0]
    )
    cfg = load_config(path)
    model, solver = cfg.MODEL, cfg.SOLVER
    # Appendix B
    assert (model.RESNETS.OUT_FEATURES, model.ROI_HEADS.NAME) == (["res4"], "ResNeXtRes5ROIHeads")
    assert (model.RESNETS.NORM, model.RESNETS.STRIDE_IN_1X1) == ("FrozenBN", False)
    assert (model.ROI_BOX_HEAD.POOLER_TYPE, model.ROI_BOX_HEAD.POOLER_RESOLUTION) == ("ROIPool", 14)
    assert (model.RPN.BATCH_SIZE_PER_IMAGE, model.ROI_HEADS.BATCH_SIZE_PER_IMAGE) == (256, 64)
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.STEPS, solver.MAX_ITER) == (
        8,
        0.005,
        (120000,),
        180000,
    )
    assert math.isclose(solver.BASE_LR * solver.GAMMA, 0.0005)
    assert (solver.WEIGHT_DECAY, solver.MOMENTUM) == (1e-4, 0.9)
    # py-faster-rcnn
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((600,), 1000)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (600, 1000)
    assert model.ANCHOR_GENERATOR.SIZES == [[64, 128, 256, 512]]
    assert model.ANCHOR_GENERATOR.ASPECT_RATIOS == [[0.5, 1.0, 2.0]]
    assert math.isclose(model.RPN.SMOOTH_L1_BETA, 1 / 9, rel_tol=1e-3)
    assert model.ROI_BOX_HEAD.SMOOTH_L1_BETA == 1.0
    assert (model.RPN.BOUNDARY_THRESH, model.RPN.POST_NMS_TOPK_TEST) == (0, 300)
    assert (model.ROI_HEADS.NMS_THRESH_TEST, model.ROI_HEADS.SCORE_THRESH_TEST) == (0.3, 0.05)
    # fb.resnet.torch, there on the scale 0-1
    assert cfg.INPUT.FORMAT == "RGB"
    assert [round(value / 255, 6) for value in model.PIXEL_MEAN] == [0.485, 0.456, 0.406]
    assert [round(value / 255, 6) for value in model.PIXEL_STD] == [0.229, 0.224, 0.225]


@pytest.mark.parametrize("net", TABLE_8)
def test_the_two_steps_have_the_settings_of_the_paper(net: str) -> None:
    """The two steps are those of appendix B; all else is as in joint training."""
    joint = load_config(CONFIGS / f"faster_rcnn_{net}.yaml")
    rpn, fast_rcnn = (
        load_config(CONFIGS / "two_step" / f"{step}_{net}.yaml") for step in ("rpn", "fast_rcnn")
    )
    different = [
        {key for key in list_keys(joint) if get_value(joint, key) != get_value(cfg, key)}
        for cfg in (rpn, fast_rcnn)
    ]
    assert different[0] == {
        *("MODEL.META_ARCHITECTURE", "SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "OUTPUT_DIR"),
        *("MODEL.RPN.PRE_NMS_TOPK_TEST", "MODEL.RPN.POST_NMS_TOPK_TEST"),
    }
    assert different[1] == {
        *(
            "MODEL.LOAD_PROPOSALS",
            "MODEL.PROPOSAL_GENERATOR.NAME",
            "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST",
        ),
        *("DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST", "OUTPUT_DIR"),
    }
    solvers = [
        (s.IMS_PER_BATCH, s.BASE_LR, s.STEPS, s.MAX_ITER) for s in (rpn.SOLVER, fast_rcnn.SOLVER)
    ]
    assert solvers == [(16, 0.02, (120000,), 180000), (8, 0.005, (120000,), 180000)]
    assert (rpn.MODEL.RPN.BATCH_SIZE_PER_IMAGE, fast_rcnn.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE) == (
        256,
        64,
    )
    most_anchors = math.ceil(1000 / 16) ** 2 * 12
    assert (
        most_anchors < rpn.MODEL.RPN.PRE_NMS_TOPK_TEST and rpn.MODEL.RPN.POST_NMS_TOPK_TEST == 2000
    )
    datasets = fast_rcnn.DATASETS
    assert (datasets.PRECOMPUTED_PROPOSAL_TOPK_TRAIN, datasets.PRECOMPUTED_PROPOSAL_TOPK_TEST) == (
        2000,
        300,
    )


@pytest.mark.parametrize(
    "path", [path for path in LEAVES if path.stem.startswith("fast_rcnn")], ids=get_name
)
def test_step_two_reads_what_step_one_writes(path: Path) -> None:
    rpn = load_config(path.with_stem(path.stem.replace("fast_rcnn", "rpn")))
    datasets = load_config(path).DATASETS
    assert (rpn.DATASETS.TRAIN, rpn.DATASETS.TEST) == (datasets.TRAIN, datasets.TEST)
    for names, files in (
        (datasets.TRAIN, datasets.PROPOSAL_FILES_TRAIN),
        (datasets.TEST, datasets.PROPOSAL_FILES_TEST),
    ):
        assert files == tuple(str(locate_proposals(rpn.OUTPUT_DIR, name)) for name in names)


@pytest.mark.parametrize("kind", ["faster_rcnn", "two_step/rpn", "two_step/fast_rcnn"])
def test_the_quartet_differs_in_the_net_alone(kind: str) -> None:
    nets = NET | {"OUTPUT_DIR", "MODEL.WEIGHTS"}
    nets |= {"DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST"}
    first, *others = [load_config(CONFIGS / f"{kind}_{net}.yaml") for net in TABLE_8]
    for other in others:
        assert {
            key for key in list_keys(first) if get_value(first, key) != get_value(other, key)
        } <= nets


@pytest.mark.detectron2
@pytest.mark.parametrize(
    "path", [path for path in MODERN if "R50_1x64d" in path.stem], ids=get_name
)
def test_the_modern_ones_have_the_settings_of_the_model_zoo(path: Path) -> None:
    """Only torchvision's weights and faster heads differ from detectron2's file of that head."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg as get_detectron2_cfg
    from detectron2.model_zoo import get_config_file

    ours, theirs = load_config(path), get_detectron2_cfg()
    kind, head_and_length = path.stem.split("_R50_1x64d_")
    folder = "COCO-InstanceSegmentation" if kind == "mask_rcnn" else "COCO-Detection"
    name = f"{folder}/{kind}_R_50_{head_and_length}.yaml"
    if "cascade" in kind:  # of which it has those with masks alone
        name = f"Misc/cascade_mask_rcnn_R_50_{head_and_length}.yaml"
    # RetinaNet's anchors are computed in its file.
    theirs.merge_from_file(get_config_file(name), allow_unsafe=True)
    if kind == "cascade_rcnn":
        theirs.MODEL.MASK_ON = False
    different = {key for key in list_keys(ours) if get_value(ours, key) != get_value(theirs, key)}
    weights = {
        "MODEL.WEIGHTS",
        "MODEL.RESNETS.STRIDE_IN_1X1",
        "MODEL.PIXEL_MEAN",
        "MODEL.PIXEL_STD",
        "INPUT.FORMAT",
    }
    heads = {"MODEL.RPN.HEAD_NAME"}  # the same, faster; RetinaNet has none
    if kind != "retinanet":
        heads.add("MODEL.ROI_HEADS.NAME")
    assert different == weights | heads | {"MODEL.BACKBONE.NAME", "OUTPUT_DIR"}


@pytest.mark.detectron2
@pytest.mark.parametrize(
    "name",
    [
        "COCO-Detection/faster_rcnn_R_50_C4_1x",
        "COCO-Detection/faster_rcnn_R_101_DC5_3x",
        "COCO-Detection/faster_rcnn_R_50_FPN_1x",
        "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x",
        "COCO-Detection/rpn_R_50_C4_1x",
        "COCO-Detection/rpn_R_50_FPN_1x",
        "COCO-Detection/fast_rcnn_R_50_FPN_1x",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x",
        "COCO-InstanceSegmentation/mask_rcnn_R_101_DC5_3x",
        "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x",
    ],
)
def test_files_of_the_model_zoo_build(name: str) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.model_zoo import get_config_file

    with torch.device("meta"):
        build_detector(load_config(get_config_file(f"{name}.yaml")))


@pytest.mark.detectron2
@pytest.mark.parametrize("epochs", [100, 200, 400])
def test_the_new_baselines_have_the_settings_of_detectron2(epochs: int) -> None:
    """Those of its LazyConfig that YAML can say; nets and preprocessing are those of modern/."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2 import model_zoo

    theirs = model_zoo.get_config(f"new_baselines/mask_rcnn_R_50_FPN_{epochs}ep_LSJ.py")
    ours = load_config(CONFIGS / f"new_baselines/mask_rcnn_R50_1x64d_FPN_{epochs}ep_LSJ.yaml")
    model, solver, box = ours.MODEL, ours.SOLVER, ours.MODEL.ROI_BOX_HEAD
    side, mask = get_own(ours, "INPUT.SCALE_JITTER_SIZE"), ours.MODEL.ROI_MASK_HEAD
    found = [
        *(model.WEIGHTS, solver.AMP.ENABLED, solver.MAX_ITER, model.BACKBONE.FREEZE_AT),
        *(model.RPN.CONV_DIMS, [box.CONV_DIM] * box.NUM_CONV, [box.FC_DIM] * box.NUM_FC),
        *([mask.CONV_DIM] * (mask.NUM_CONV + 1), ours.INPUT.MASK_FORMAT, mask.NORM),
        *(model.RESNETS.NORM, model.FPN.NORM),
        *(*get_own(ours, "INPUT.SCALE_JITTER"), side, side, (side, side)),
        *(ours.INPUT.RANDOM_FLIP == "horizontal", solver.IMS_PER_BATCH, solver.BASE_LR),
        *(solver.MOMENTUM, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM, [*solver.STEPS]),
        *(solver.WARMUP_FACTOR, round(solver.WARMUP_ITERS / solver.MAX_ITER, 9)),
    ]
    train, network, optimizer = theirs.train, theirs.model, theirs.optimizer
    bottom_up, head = network.backbone.bottom_up, network.roi_heads.box_head
    resize, crop, flip = theirs.dataloader.train.mapper.augmentations
    schedule = theirs.lr_multiplier
    expected = [
        *(train.init_checkpoint, train.amp.enabled, train.max_iter, bottom_up.freeze_at),
        *(network.proposal_generator.head.conv_dims, head.conv_dims, head.fc_dims),
        *(network.roi_heads.mask_head.conv_dims, "polygon", "SyncBN"),
        *(bottom_up.stages.norm, network.backbone.norm),
        *(resize.min_scale, resize.max_scale, resize.target_height, resize.target_width),
        *(tuple(crop.crop_size), flip.horizontal, theirs.dataloader.train.total_batch_size),
        *(optimizer.lr, optimizer.momentum, optimizer.weight_decay),
        *(optimizer.params.weight_decay_norm, schedule.scheduler.milestones),
        *(schedule.warmup_factor, round(schedule.warmup_length, 9)),
    ]
    assert found == expected
