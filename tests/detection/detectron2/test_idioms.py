"""Run what users write for detectron2's ResNet on it and on our backbone: both give the same."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._pytree import tree_flatten
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2 import model_zoo  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec  # noqa: E402
from detectron2.modeling.backbone import build_backbone  # noqa: E402
from detectron2.solver.build import get_default_optimizer_params  # noqa: E402
from detectron2.utils.analysis import parameter_count  # noqa: E402
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from resnext_det.detection.detectron2.backbone import ResNeXtBackbone  # noqa: E402
from tests.detection.detectron2_reference import randomize  # noqa: E402
from tests.detection.helpers import STAGES, override  # noqa: E402

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(3)).double()


@cache
def build_once(name: str, norm: str, freeze_at: int) -> nn.Module:
    cfg = get_cfg()
    size = override("MODEL.RESNETS", STEM_OUT_CHANNELS=8, RES2_OUT_CHANNELS=16, NORM=norm)
    groups = override("MODEL.RESNETS", NUM_GROUPS=2, WIDTH_PER_GROUP=4, OUT_FEATURES=STAGES)
    names = override("MODEL.BACKBONE", NAME=name, FREEZE_AT=freeze_at)
    cfg.merge_from_list([*size, *groups, *names])
    torch.manual_seed(0)
    backbone = build_backbone(cfg, ShapeSpec(channels=3))
    randomize(backbone)
    return backbone.double()


def build(name: str, norm: str = "FrozenBN", freeze_at: int = 0) -> Any:
    return copy.deepcopy(build_once(name, norm, freeze_at))


IDIOMS: list[Callable[[Callable[..., Any]], Any]] = []


def idiom(function: Callable[[Callable[..., Any]], Any]) -> Callable[[Callable[..., Any]], Any]:
    """List a function that is given one of the two builders and returns what has to be equal."""
    IDIOMS.append(function)
    return function


@idiom
def freeze_stages_by_hand(build: Callable[..., Any]) -> Any:
    model = build("BN")
    model.stem.freeze()
    for block in model.res3:
        block.freeze()
    frozen = [name for name, m in model.named_modules() if isinstance(m, FrozenBatchNorm2d)]
    return frozen, [name for name, p in model.named_parameters() if p.requires_grad], model(IMAGES)


@idiom
def synchronize_norms(build: Callable[..., Any]) -> Any:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(build("BN", 2))
    count = sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    return count, model.eval()(IMAGES)


@idiom
def run_part_by_part(build: Callable[..., Any]) -> Any:
    model = build()
    x, found = model.stem(IMAGES), []
    for name, stage in zip(model.stage_names, model.stages):
        x = stage(x)
        found.append((name, x.clone()))
    return found


@idiom
def checkpoint_stages(build: Callable[..., Any]) -> Any:
    model = build()
    x = model.stem(IMAGES)
    for stage in model.stages:
        x = checkpoint(stage, x, use_reentrant=False)
    x.mean().backward()
    return model.res2[0].conv1.weight.grad


@idiom
def give_a_fourth_channel(build: Callable[..., Any]) -> Any:
    model = build()
    weight = model.stem.conv1.weight.detach()
    model.stem.conv1.weight = nn.Parameter(torch.cat([weight, weight[:, :1]], dim=1))
    return model(torch.cat([IMAGES, IMAGES[:, 2:]], dim=1))


@idiom
def exchange_the_stem(build: Callable[..., Any]) -> Any:
    torch.manual_seed(1)
    model = build()
    model.stem = nn.Sequential(nn.Conv2d(5, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2)).double()
    return model(torch.cat([IMAGES, IMAGES[:, :2]], dim=1))


@idiom
def exchange_parts(build: Callable[..., Any]) -> Any:
    model = build()
    model.res5[1] = nn.Identity()
    model.res4[0].conv2.norm = nn.BatchNorm2d(model.res4[0].conv2.out_channels).double()
    model.res3[0].conv1.norm = nn.Identity()
    model.res3[1].conv1.norm = None
    model.res2[0].conv1.activation = torch.tanh
    return model(IMAGES)


@idiom
def change_numbers_of_norms(build: Callable[..., Any]) -> Any:
    model = build()
    norm = model.res2[0].conv1.norm
    norm.weight, norm.eps = norm.weight * 2, 0.5
    model.res2[1].conv1.norm.running_mean.add_(0.1)
    return model(IMAGES)


@idiom
def hook_into_it(build: Callable[..., Any]) -> Any:
    model, seen = build(), []
    for module in (model.res3, model.res3[1], model.res3[1].conv2):
        module.register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    model.res4.register_full_backward_hook(lambda _m, _i, outputs: seen.append(outputs[0]))
    model(IMAGES)["res5"].mean().backward()
    return seen


@idiom
def write_and_read(build: Callable[..., Any]) -> Any:
    model = pickle.loads(pickle.dumps(build()))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)(IMAGES)


@idiom
def average_weights(build: Callable[..., Any]) -> Any:
    model = build("BN")
    average = get_ema_multi_avg_fn(0.9)
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    averaged.update_parameters(model)
    return averaged.eval()(IMAGES)


@idiom
def compute_precise_statistics(build: Callable[..., Any]) -> Any:
    model = build("BN", 2).train()
    update_bn_stats(model, [IMAGES, IMAGES + 1], 2)
    return len(get_bn_modules(model)), model.eval()(IMAGES)


@idiom
def constrain_weights(build: Callable[..., Any]) -> Any:
    model = build()
    prune.l1_unstructured(model.res2[0].conv1, "weight", 0.5)
    parametrizations.weight_norm(model.res2[0].conv2)
    return model(IMAGES)


@idiom
def choose_rates_and_decays(build: Callable[..., Any]) -> Any:
    """By name and by type, as detectron2's optimizer and ViTDet's layer-wise rates do."""
    groups = get_default_optimizer_params(
        build("BN", 2),
        base_lr=0.1,
        weight_decay=1e-4,
        weight_decay_norm=0.0,
        lr_factor_func=lambda name: 0.5 if "res4" in name else 1.0,
    )
    return [(len(g["params"]), g["weight_decay"], g["lr"]) for g in groups]


@idiom
def count_parameters(build: Callable[..., Any]) -> Any:
    return dict(parameter_count(build()))


@idiom
def run_on_odd_and_empty_images(build: Callable[..., Any]) -> Any:
    model = build()
    return model(IMAGES[:, :, :61, :67]), model(IMAGES[:0]), model(IMAGES.transpose(2, 3))


@idiom
def compute_gradients_by_function(build: Callable[..., Any]) -> Any:
    model = build()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def compute(values: Any) -> Any:
        return torch.func.functional_call(model, values, (IMAGES,))["res5"].mean()

    return torch.func.grad(compute)(parameters)["res2.0.conv1.weight"]


@idiom
def flatten_gradients(build: Callable[..., Any]) -> Any:
    """As penalties, influence functions and meta-learning do with what was not accumulated."""
    found = []
    for norm in ("FrozenBN", "BN"):
        model = build(norm).eval()
        loss = model(IMAGES)["res5"].square().mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        found.append(torch.cat([gradient.view(-1) for gradient in gradients]))
        found[-1].square().sum().backward()
        found.append(nn.utils.parameters_to_vector(p.grad for p in model.parameters()))
    return found


@pytest.mark.parametrize("function", IDIOMS, ids=lambda function: function.__name__)
def test_it_gives_the_same(function: Callable[..., Any]) -> None:
    found = function(partial(build, "build_resnext_backbone"))
    expected = function(partial(build, "build_resnet_backbone"))
    (values, form), (wanted, wanted_form) = tree_flatten(found), tree_flatten(expected)
    assert form == wanted_form
    for value, right in zip(values, wanted):
        if isinstance(right, torch.Tensor):
            torch.testing.assert_close(value, right)
        else:
            assert value == right


def test_it_is_built_from_omegaconf() -> None:
    """detectron2 takes such a configuration too; its lists are no lists."""
    file = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    cfg = OmegaConf.create(model_zoo.get_config(file).dump())
    cfg.MODEL.BACKBONE.NAME = "build_resnext_fpn_backbone"
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    assert isinstance(backbone.bottom_up, ResNeXtBackbone)
    cfg.MODEL.RESNETS.DEPTH = 34
    with pytest.raises(ValueError, match="DEPTH = 34 is not supported"):
        build_backbone(cfg)
