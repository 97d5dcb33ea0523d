"""Networks that are no ResNeXt, told by their cause; and names of two more libraries."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import deform_conv2d

from resnext_det.architecture import Deformable
from resnext_det.resnext import ResNeXt
from resnext_det.weights import load_weights, read_weights
from resnext_det.weights.formats import convert_to_native
from resnext_det.weights.structure import find_architecture, find_deformable_settings
from tests.weights.foreign_names import blocks, detectron2_state, features, random_network
from tests.weights.helpers import STAGES, THIN, drop_counters, same_bits, save

State = dict[str, Tensor]


def catch_cause(state: State) -> str:
    """Read and recognize; return the error of the one or the other."""
    with pytest.raises(ValueError) as caught:
        find_architecture(convert_to_native(state).state)
    assert "no ResNeXt-" not in str(caught.value)
    return str(caught.value)


CAUSES = {
    "resnet18": "basic blocks of two convolutions (ResNet-18)",
    "resnet34": "basic blocks of two convolutions (ResNet-34)",
    "legacy_seresnet18": "basic blocks of two convolutions (ResNet-18)",
    "resnet50d": "have a stem of several convolutions (ResNet-C, -D and their like)",
    "resnext50d_32x4d": "have a stem of several convolutions",
    "senet154": "have a stem of several convolutions",
    "resnest50d": "have a stem of several convolutions",
    "hrnet_w18": "with a stem of several convolutions (ResNet-C, -D): it has 'conv2.weight'",
    "seresnext50_32x4d": "with squeeze-and-excitation (SE): it has 'layer1.0.se.fc1.weight'",
    "legacy_seresnext50_32x4d": "with squeeze-and-excitation (SE): it has 'layer1.0.se_module.",
    "res2net50_26w_4s": "with convolutions over parts of the channels (Res2Net)",
    "skresnext50_32x4d": "look like those of an SKNet",
    "resnetv2_50": "look like those of a ResNet v2, with pre-activation",
    "regnetx_032": "look like those of a RegNet",
    "densenet121": "look like those of a DenseNet",
    "convnext_tiny": "look like those of a ConvNeXt",
    "efficientnet_b0": "look like those of an EfficientNet or MobileNet",
    "vit_tiny_patch16_224": "look like those of a vision transformer",
    "dla60x": "are of no known format",
}


@pytest.mark.parametrize("name", CAUSES)
def test_timms_networks(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    assert CAUSES[name] in catch_cause(state)
    assert CAUSES[name] in catch_cause({f"student.backbone.{n}": t for n, t in state.items()})


class Blurred(nn.Module):
    """A filter against aliasing, as antialiased-cnns puts it before a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filt", torch.ones(1))


def change(alter: Callable[[Any], Any]) -> State:
    with torch.device("meta"):
        network = ResNet(Bottleneck, [2, 2, 2, 2], num_classes=5, groups=2, width_per_group=4)
        return dict((alter(network) or network).state_dict())


def make_preactivated(network: Any) -> None:
    del network.bn1
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in stage:
            for number in (1, 2, 3):
                channels = getattr(block, f"conv{number}").in_channels
                setattr(block, f"bn{number}", nn.BatchNorm2d(channels))


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "CIFAR's": (
        lambda n: ResNet(BasicBlock, [3, 3, 3, 3], num_classes=10),
        "basic blocks of two convolutions (as those of ResNet-18 and -34)",
    ),
    "a PReLU": (lambda n: setattr(n, "relu", nn.PReLU()), "activations with weights (PReLU)"),
    "a PReLU in blocks": (
        lambda n: setattr(n.layer2[0], "relu", nn.PReLU()),
        "activations with weights (PReLU)",
    ),
    "blurred shortcuts": (
        lambda n: setattr(n.layer2[0], "conv3", nn.Sequential(Blurred(), nn.Conv2d(16, 512, 1))),
        "filters against aliasing (blur pooling)",
    ),
    "blurred pooling": (
        lambda n: setattr(n, "maxpool", nn.Sequential(nn.MaxPool2d(2), Blurred())),
        "filters against aliasing (blur pooling)",
    ),
    "ResNet-D's shortcuts": (
        lambda n: n.layer2[0].downsample.insert(0, nn.AvgPool2d(2)) and None,
        "shortcuts with pooling (ResNet-D)",
    ),
    "attention": (
        lambda n: setattr(n.layer3[1], "cbam", nn.ModuleDict({"mlp": nn.Linear(2, 2)})),
        "attention in its blocks",
    ),
    "another convolution": (
        lambda n: setattr(n.layer3[1], "conv4", nn.Conv2d(2, 2, 1)),
        "nothing like 'layer3.1.conv4.weight' inside",
    ),
    "pre-activation": (make_preactivated, "pre-activation (ResNet v2"),
    "for small images": (
        lambda n: setattr(n, "conv1", nn.Conv2d(3, 64, 3, bias=False)),
        "whose first convolution is 3x3, where that of a ResNeXt-26 is 7x7",
    ),
    "CLIP's stem": (
        lambda n: (
            (
                setattr(n, "conv1", nn.Conv2d(3, 64, 3, bias=False)),
                setattr(n, "conv2", nn.Conv2d(64, 64, 3, bias=False)),
            )[2:]
            or None
        ),
        "a stem of several convolutions (ResNet-C, -D): it has 'conv2.weight'",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_torchvisions_network_with_other_parts(name: str) -> None:
    alter, words = CHANGES[name]
    assert words in catch_cause(change(alter))


@pytest.mark.parametrize("model", ["r3d_18", "r2plus1d_18", "s3d"])
def test_videos(model: str) -> None:
    with torch.device("meta"):
        state = torchvision.models.get_model(model).state_dict()
    assert "a network of 3D convolutions" in catch_cause(state)


@pytest.mark.parametrize(("extra", "kind"), [(1, "3D"), (-1, "1D")])
def test_convolutions_of_other_dimensions(extra: int, kind: str, tmp_path: Path) -> None:
    state = random_network(26, 2, 4).state_dict()
    for name, tensor in state.items():
        if tensor.dim() == 4:
            state[name] = tensor[:, :, None] if extra == 1 else tensor[..., 0]
    words = f"a network of {kind} convolutions \\(stem.conv1.weight is \\(64, 3, .*not supported"
    path = save(state, tmp_path)
    assert read_weights(path).architecture is None
    with pytest.raises(ValueError, match=rf"does not fit the model: .*{words}"):
        load_weights(ResNeXt(THIN, out_features=STAGES), path)


def test_basic_blocks_are_told_before_names_are_counted(tmp_path: Path) -> None:
    from resnext_det.classification.weights import load_classifier

    network = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=3)
    path = save({f"model.{n}": t for n, t in network.state_dict().items()}, tmp_path)
    with pytest.raises(ValueError) as caught:
        load_weights(ResNeXt(THIN, out_features=STAGES), path)
    assert str(caught.value) == (
        f"{path} does not fit the model: the weights are of a network of basic blocks of two "
        "convolutions (ResNet-18), which is not supported; give those of a plain ResNeXt or ResNet "
        "with bottleneck blocks, such as ResNeXt-50. Nothing was loaded"
    )
    with pytest.raises(ValueError, match=r"is no classifier: .* basic blocks"):
        load_classifier(path)


def test_one_stage_is_no_network() -> None:
    state = {n: t for n, t in change(lambda n: None).items() if "layer" not in n or "layer1" in n}
    assert "have 2 blocks in the stages from res2 on" in catch_cause(state)


# --- what was done to the weights


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda n: prune.identity(n.conv1, "weight"), "weights in parts (pruned, or with weight"),
        (lambda n: prune.identity(n.layer1[0].conv2, "weight"), "('layer1.0.conv2.weight_orig')"),
        (lambda n: parametrizations.weight_norm(n.layer2[0].conv1), "remove_parametrizations"),
        (lambda n: parametrizations.orthogonal(n.conv1), "remove the parametrization"),
    ],
)
def test_weights_in_parts(alter: Callable[[Any], Any], words: str) -> None:
    network = random_network(26, 2, 4)
    alter(network)
    assert words in catch_cause(network.state_dict())


def test_adapters_and_quantized_names() -> None:
    one = torch.ones(2, 2, 1, 1)
    state = random_network(26, 2, 4).state_dict()
    adapter = {f"base_model.model.layer1.0.conv1.lora_{part}.weight": one for part in "AB"}
    assert "is adapted by LoRA ('base_model.model.layer1.0.conv1.lora_A" in catch_cause(adapter)
    adapted = {f"base_model.model.{name}": tensor for name, tensor in state.items()} | adapter
    assert "merge the adapter into the whole network's weights" in catch_cause(adapted)
    quantized = {**state, "layer1.0.conv1.zero_point": torch.tensor(3)}
    assert "the network is quantized ('layer1.0.conv1.zero_point')" in catch_cause(quantized)
    assert "in shards of FSDP" in catch_cause({"_fsdp_wrapped_module._flat_param": one})


def test_an_optimizer_alone(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 4, 3)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    for content in (state, {"optimizer": state, "epoch": 3}):
        with pytest.raises(ValueError, match="there is an optimizer's state and no network's; sav"):
            read_weights(save(content, tmp_path))
    trunk = random_network(26, 2, 4).state_dict()
    file = read_weights(save({"optimizer": state, "net": trunk}, tmp_path))
    assert file.architecture == THIN


# --- Hugging Face's transformers


def make_transformers_state(network: ResNet) -> State:
    """By walking the modules; the names are those of ResNetForImageClassification."""
    state: State = {}

    def add(name: str, convolution: Any, norm: Any) -> None:
        state[f"{name}.convolution.weight"] = convolution.weight.detach()
        state.update({f"{name}.normalization.{n}": t for n, t in norm.state_dict().items()})

    add("resnet.embedder.embedder", network.conv1, network.bn1)
    for stage, index, block in blocks(network):
        name = f"resnet.encoder.stages.{stage - 1}.layers.{index}"
        if block.downsample is not None:
            add(f"{name}.shortcut", *block.downsample)
        for number in (1, 2, 3):
            layer = f"{name}.layer.{number - 1}"
            add(layer, getattr(block, f"conv{number}"), getattr(block, f"bn{number}"))
    state["classifier.1.weight"] = network.fc.weight.detach()
    state["classifier.1.bias"] = network.fc.bias.detach()
    return state


def test_transformers_names(tmp_path: Path) -> None:
    network = random_network(26, 2, 4)
    file = read_weights(save(make_transformers_state(network), tmp_path))
    assert (file.format, file.architecture, file.prefix) == ("transformers", THIN, "resnet.")
    assert file.left_out == () and file.preprocessing is None
    assert same_bits(drop_counters(file.state), detectron2_state(network))
    images = torch.randn(1, 3, 64, 64)
    model = ResNeXt(THIN, out_features=STAGES).eval()
    load_weights(model, file)
    with torch.no_grad():
        found = model(images)
        for stage, wanted in features(network, images).items():
            torch.testing.assert_close(found[stage], wanted, rtol=1e-4, atol=1e-5)


def test_transformers_basic_blocks() -> None:
    state = make_transformers_state(random_network(26, 2, 4))
    basic = {name: tensor for name, tensor in state.items() if ".layer.2." not in name}
    assert "basic blocks of two convolutions (ResNet-18)" in catch_cause(basic)


# --- mmcv's deformable convolutions


class Deformed(nn.Module):
    """mmcv's (Modulated)DeformConv2dPack, by its documentation: the offsets y, x of every point
    come first, then the masks before the sigmoid."""

    def __init__(self, plain: nn.Conv2d, groups: int, modulated: bool) -> None:
        super().__init__()
        self.weight, self.modulated = plain.weight, modulated
        self.stride: Any = plain.stride
        channels = groups * (27 if modulated else 18)
        self.conv_offset = nn.Conv2d(plain.in_channels, channels, 3, plain.stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.conv_offset(x), None
        if self.modulated:
            first, second, weights = offset.chunk(3, dim=1)
            offset, mask = torch.cat((first, second), dim=1), weights.sigmoid()
        return deform_conv2d(x, offset, self.weight, None, self.stride, (1, 1), mask=mask)


@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize(("groups", "modulated"), [(1, False), (1, True), (4, False)])
def test_mmdetections_deformable_stages(
    groups: int, modulated: bool, old_names: bool, tmp_path: Path
) -> None:
    network = random_network(26, 2, 4)
    for block in (*network.layer3, *network.layer4):
        block.conv2 = Deformed(block.conv2, groups, modulated)
        nn.init.normal_(block.conv2.conv_offset.weight, std=0.1)
    state = {f"backbone.{n}": t for n, t in network.state_dict().items() if n[:3] != "fc."}
    if old_names:  # of mmcv before 1.0
        state = {n.replace("conv2.conv_offset", "conv2_offset"): t for n, t in state.items()}
    state["neck.lateral_convs.0.conv.weight"] = torch.ones(1)
    file = read_weights(save({"state_dict": state}, tmp_path))
    assert (file.format, file.architecture) == ("mmdetection", THIN)
    assert find_deformable_settings(file.state) == {
        "DEFORM_ON_PER_STAGE": [False, False, True, True],
        "DEFORM_MODULATED": modulated,
        "DEFORM_NUM_GROUPS": groups,
    }
    deformable = Deformable(("res4", "res5"), modulated=modulated, groups=groups)
    model = ResNeXt(THIN, out_features=STAGES, deformable=deformable).eval()
    report = load_weights(model, file)
    assert report.zero_offsets == () and report.missing == ()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = model(images)
        for stage, wanted in features(network, images).items():
            torch.testing.assert_close(found[stage], wanted, rtol=1e-3, atol=1e-4)


def test_strange_names_of_any_length_take_no_time() -> None:
    state = change(lambda n: None)
    strange = {f"layer1.0.{'attention' * 20_000}{n}": torch.ones(1) for n in range(20)}
    odd = {f"{'stages.0.blocks.' * 10_000}{n}": torch.ones(1) for n in range(20)}
    begin = time.process_time()
    assert len(catch_cause(state | strange)) < 700
    assert len(catch_cause(odd)) < 700
    assert time.process_time() - begin < 10
