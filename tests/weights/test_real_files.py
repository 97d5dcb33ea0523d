"""Files in the forms that libraries write, in all their surroundings, are read to the last bit.

timm's are written by its own code, those of others as their code does it, which was tried out.
"""

from __future__ import annotations

import argparse
import copy
import zipfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torchvision.models.resnet import ResNet
from torchvision.transforms import InterpolationMode

from resnext_det.architecture import Architecture
from resnext_det.classification.weights import load_classifier
from resnext_det.resnext import ResNeXt
from resnext_det.weights import load_weights, read_weights, write_weights
from tests.weights.foreign_names import blocks, detectron2_state, put_under, random_network
from tests.weights.helpers import drop_counters, same_bits

State = dict[str, Tensor]
HEADS = {"block3-1": {"default": {"fc.weight": torch.zeros(5, 2048), "fc.bias": torch.zeros(5)}}}
OPTIMIZER = {"state": {0: {"momentum_buffer": None}}, "param_groups": [{"lr": 0.1}]}


def without_head(network: ResNet) -> State:
    return {n: t for n, t in network.state_dict().items() if not n.startswith("fc.")}


def name_layers(
    network: ResNet,
    stem: tuple[str, str],
    layers: Mapping[str, tuple[str, str]],
    *,
    first_stage: int,
    first_block: int = 0,
) -> State:
    """Name each (convolution, norm), {s} for the stage and {b} for the block."""
    named: dict[str, nn.Module] = dict(zip(stem, (network.conv1, network.bn1)))
    for stage, index, block in blocks(network):
        pairs = {
            f"conv{n}": [getattr(block, f"{kind}{n}") for kind in ("conv", "bn")] for n in (1, 2, 3)
        }
        if block.downsample is not None:
            pairs["shortcut"] = list(block.downsample.children())
        numbers = {"s": stage - 1 + first_stage, "b": index + first_block}
        for layer, modules in pairs.items():
            named |= {name.format(**numbers): m for name, m in zip(layers[layer], modules)}
    return {
        f"{name}.{key}": tensor
        for name, module in named.items()
        for key, tensor in module.state_dict().items()
    }


def name_head(network: ResNet, name: str) -> State:
    return put_under(f"{name}.", network.fc.state_dict())


def mlp(*sizes: int, prefix: str) -> State:
    layers = [nn.Linear(one, two) for one, two in pairwise(sizes)]
    return put_under(prefix, nn.Sequential(*layers, nn.BatchNorm1d(sizes[-1])).state_dict())


def name_as_pytorchcv(network: ResNet) -> State:
    unit = "features.stage{s}.unit{b}"
    layers = {
        f"conv{n}": (f"{unit}.body.conv{n}.conv", f"{unit}.body.conv{n}.bn") for n in (1, 2, 3)
    }
    layers["shortcut"] = (f"{unit}.identity_conv.conv", f"{unit}.identity_conv.bn")
    stem = ("features.init_block.conv.conv", "features.init_block.conv.bn")
    state = name_layers(network, stem, layers, first_stage=1, first_block=1)
    return state | name_head(network, "output")


def name_as_pretrainedmodels(network: ResNet) -> State:
    block = "features.{s}.{b}.0"
    layers = {
        "conv1": (f"{block}.0.0.0", f"{block}.0.0.1"),
        "conv2": (f"{block}.0.0.3", f"{block}.0.0.4"),
        "conv3": (f"{block}.0.1", f"{block}.0.2"),
        "shortcut": (f"{block}.1.0", f"{block}.1.1"),
    }
    state = name_layers(network, ("features.0", "features.1"), layers, first_stage=4)
    return state | name_head(network, "last_linear")


def name_as_classy_vision(network: ResNet) -> State:
    block = "blocks.{s}.block{s}-{b}"
    layers = {
        "conv1": (f"{block}.convolutional_block.0", f"{block}.convolutional_block.1"),
        "conv2": (f"{block}.convolutional_block.3", f"{block}.convolutional_block.4"),
        "conv3": (f"{block}.convolutional_block.6", f"{block}.bn"),
        "shortcut": (f"{block}.downsample.0", f"{block}.downsample.1"),
    }
    stem = ("initial_block._module.0", "initial_block._module.1")
    return name_layers(network, stem, layers, first_stage=0)


def name_as_transformers(network: ResNet) -> State:
    block = "resnet.encoder.stages.{s}.layers.{b}"
    parts = {f"conv{n}": f"{block}.layer.{n - 1}" for n in (1, 2, 3)}
    parts["shortcut"] = f"{block}.shortcut"
    layers = {ours: (f"{n}.convolution", f"{n}.normalization") for ours, n in parts.items()}
    stem = tuple(f"resnet.embedder.embedder.{kind}" for kind in ("convolution", "normalization"))
    state = name_layers(network, (stem[0], stem[1]), layers, first_stage=0)
    return state | name_head(network, "classifier.1")


def name_as_sequential(network: ResNet, *head: nn.Module) -> State:
    """As fastai, lightly and many scripts cut a network of torchvision."""
    return nn.Sequential(*[*network.children()][:-2], *head).state_dict()


# Named by library: what its files hold, of the network and of another one beside it.
FORMS: dict[str, Callable[[ResNet, ResNet], Any]] = {
    "torchvision's references": lambda n, o: {
        **{"model": n.state_dict(), "optimizer": OPTIMIZER, "lr_scheduler": {"last_epoch": 3}},
        **{"epoch": 3, "args": argparse.Namespace(filter=InterpolationMode.BILINEAR)},
    },
    "torchvision's references with an average": lambda n, o: {
        **{"model": o.state_dict(), "optimizer": OPTIMIZER, "epoch": 3},
        "model_ema": torch.optim.swa_utils.AveragedModel(n, use_buffers=True).state_dict(),
    },
    "torch.compile": lambda n, o: put_under("_orig_mod.", n.state_dict()),
    "torch.compile in DistributedDataParallel": lambda n, o: {
        "model": put_under("module._orig_mod.", n.state_dict())
    },
    "checkpointed blocks": lambda n, o: (
        dict(wrap_blocks(n).named_parameters()) | dict(wrap_blocks(n).named_buffers())
    ),
    "Lightning": lambda n, o: {
        **{"epoch": 1, "global_step": 9, "pytorch-lightning_version": "2.6.6", "loops": {}},
        **{"state_dict": put_under("model.", n.state_dict()) | {"loss.weight": torch.ones(5)}},
        **{"callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.5)}}},
        **{"optimizer_states": [OPTIMIZER], "hparams_name": "kwargs", "hyper_parameters": {}},
    },
    "fastai": lambda n, o: {
        "model": put_under("0.", name_as_sequential(n)) | mlp(4096, 512, 6, prefix="1."),
        "opt": {"hypers": [{"lr": 0.1}], "state": []},
    },
    "lightly's SimCLR": lambda n, o: (
        put_under("backbone.", name_as_sequential(n))
        | mlp(2048, 512, prefix="projection_head.layers.")
    ),
    "MoCo, published": lambda n, o: {
        **{"epoch": 200, "arch": "resnet50"},
        "state_dict": put_under("module.encoder_q.", without_head(n), mlp(2048, 128, prefix="fc."))
        | {"module.queue": torch.zeros(128, 64), "module.queue_ptr": torch.zeros(1).long()},
    },
    "MoCo v3": lambda n, o: {
        **{"epoch": 200, "arch": "resnet50", "scaler": {"scale": 1.0}, "optimizer": OPTIMIZER},
        "state_dict": put_under(
            "module.base_encoder.", without_head(n), mlp(2048, 256, prefix="fc.")
        )
        | put_under("module.momentum_encoder.", without_head(o), mlp(2048, 256, prefix="fc."))
        | mlp(256, 256, prefix="module.predictor."),
    },
    "SimSiam": lambda n, o: {
        "state_dict": put_under("module.encoder.", without_head(n), mlp(2048, 2048, prefix="fc."))
        | mlp(2048, 512, prefix="module.predictor.")
    },
    "SwAV": lambda n, o: {
        "state_dict": put_under(
            "module.", without_head(n), mlp(2048, 128, prefix="projection_head.")
        )
        | {"module.prototypes.weight": torch.zeros(300, 128)}
    },
    "Barlow Twins and VICReg": lambda n, o: {
        "model": put_under("module.backbone.", without_head(n))
        | mlp(2048, 512, prefix="module.projector.")
        | put_under("module.bn.", nn.BatchNorm1d(512, affine=False).state_dict())
    },
    "mmpretrain with an average of mmengine": lambda n, o: {
        **{"meta": {"epoch": 1, "mmengine_version": "0.10.7", "cfg": ""}, "message_hub": {}},
        "state_dict": put_under("backbone.", without_head(n)) | name_head(n, "head.fc"),
        "ema_state_dict": put_under("module.backbone.", without_head(o))
        | {"steps": torch.tensor(9)},
    },
    "segmentation_models_pytorch": lambda n, o: (
        put_under("encoder.", without_head(n))
        | {"decoder.blocks.0.conv1.0.weight": torch.zeros(8, 8, 3, 3)}
    ),
    "transformers": lambda n, o: name_as_transformers(n),
    "pytorchcv": lambda n, o: name_as_pytorchcv(n),
    "pretrainedmodels": lambda n, o: name_as_pretrainedmodels(n),
    "Classy Vision": lambda n, o: (
        name_as_classy_vision(n) | {"_heads.block3-1.default.fc.weight": torch.zeros(5, 2048)}
    ),
    "a checkpoint of Classy Vision": lambda n, o: {
        "input_args": {"config": {"name": "resnext"}},
        "classy_state_dict": {
            **{"meters": [], "phase_idx": 1, "optimizer": OPTIMIZER},
            "base_model": {"model": {"trunk": name_as_classy_vision(n), "heads": HEADS}},
        },
    },
}


def wrap_blocks(network: ResNet) -> ResNet:
    wrapped = copy.deepcopy(network)
    for stage in (wrapped.layer1, wrapped.layer2, wrapped.layer3, wrapped.layer4):
        for index, block in enumerate(stage):
            stage[index] = checkpoint_wrapper(block)
    return wrapped


def check(path: Path, network: ResNet, *, convert: bool = False, prefix: str | None = None) -> None:
    """Compare with the network, and read it back from the formats that say everything."""
    file = read_weights(path, prefix=prefix)
    expected = detectron2_state(network)
    if "linear.weight" not in file.state:
        expected = {name: t for name, t in expected.items() if not name.startswith("linear.")}
    assert same_bits(drop_counters(file.state), expected)
    assert str(file.architecture) == "X-26-2x4d"
    for format, suffix in (
        ("native", "pth"),
        ("safetensors", "safetensors"),
        ("detectron2", "pkl"),
    ):
        if convert:
            copied = path.with_name(f"copy.{suffix}")
            write_weights(file, copied, format)
            assert same_bits(read_weights(copied).state, expected)


@pytest.mark.parametrize("form", FORMS)
def test_what_libraries_write_is_read(
    form: str, network: ResNet, other: ResNet, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(FORMS[form](network, other), path)
    check(path, network, convert=form in ("Lightning", "pytorchcv"))


def test_what_timms_training_writes(tmp_path: Path) -> None:
    """By its own code; the average of the weights is taken, as timm's own tools do."""
    torch.manual_seed(0)
    model = timm.create_model(
        "resnext50_32x4d", num_classes=5, layers=[2, 2, 2, 2], cardinality=2
    ).eval()
    average = ModelEmaV3(model)
    nn.init.normal_(model.conv1.weight)
    saver = CheckpointSaver(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        args=argparse.Namespace(model="resnext50_32x4d"),
        model_ema=average,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(0, 50.0)
    file = read_weights(tmp_path / "last.pth.tar")
    assert file.format == "timm"
    assert torch.equal(file.state["stem.conv1.weight"], average.module.conv1.weight)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = average.module(images)
        torch.testing.assert_close(load_classifier(file)(images), expected, rtol=0, atol=1e-5)


def test_networks_of_dino_are_chosen_by_their_prefix(
    network: ResNet, other: ResNet, tmp_path: Path
) -> None:
    """It keeps a student and a teacher, each under a word of its own."""
    states = {
        "student": put_under("module.backbone.", without_head(other)),
        "teacher": put_under("backbone.", without_head(network)),
    }
    torch.save({**states, "optimizer": OPTIMIZER, "epoch": 1}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"several networks .*student.*X-26-4x4d.*teacher.*--pref"):
        read_weights(tmp_path / "weights.pth")
    check(tmp_path / "weights.pth", network, prefix="teacher.")


def test_group_norms_of_mmdetection(tmp_path: Path) -> None:
    """Their names are gn1, gn2 and gn3."""
    torch.manual_seed(0)
    ours = ResNeXt(Architecture(26, 32, 1), norm="GN")
    for name, tensor in ours.state_dict().items():
        if ".norm." in name:
            nn.init.uniform_(tensor, 0.5, 1.5)
    state = {}
    for name, tensor in ours.state_dict().items():
        theirs = name.replace("stem.conv1.norm", "gn1").replace("stem.", "")
        stage, _, rest = theirs.partition(".")
        if stage.startswith("res"):
            for n in (1, 2, 3):
                rest = rest.replace(f"conv{n}.norm", f"gn{n}")
            rest = rest.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
            theirs = f"layer{int(stage[3]) - 1}.{rest}"
        state[f"backbone.{theirs}"] = tensor
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "gn.pth")
    loaded = ResNeXt(Architecture(26, 32, 1), norm="GN")
    load_weights(loaded, read_weights(tmp_path / "gn.pth"))
    assert same_bits(loaded.state_dict(), ours.state_dict())


def test_stride_of_pytorchcv_is_not_claimed(network: ResNet, tmp_path: Path) -> None:
    """Its ResNets have the stride in the 1x1 or the 3x3 under the same names."""
    torch.save(name_as_pytorchcv(network), tmp_path / "x.pth")
    torch.save(name_as_pytorchcv(random_network(26, 1, 4)), tmp_path / "r.pth")
    known, unknown = (read_weights(tmp_path / f"{name}.pth").preprocessing for name in "xr")
    assert known is not None and not known.stride_in_1x1
    assert unknown is None


def test_an_exported_program_is_called_one(tmp_path: Path) -> None:
    """The names are those in a file of torch.export.save."""
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        for name in ("data/weights/weight_0", "archive_format", "models/model.json"):
            archive.writestr(f"m/{name}", "pt2")
    with pytest.raises(ValueError, match=r"an exported program .* torch\.export\.load and save"):
        read_weights(tmp_path / "m.pt2")
