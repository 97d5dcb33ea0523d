"""Other libraries' names of weights, and ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor
from torchvision.models.resnet import ResNet

from resnext_det.weights.formats import convert_to_native
from tests.weights.foreign_names import (
    caffe2_arrays,
    detectron2_state,
    mmpretrain_state,
    pycls_state,
    random_network,
)

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def network() -> ResNet:
    return random_network(26, 4, 8)


def caffe2_state(network: ResNet, norms: str, **options: Any) -> State:
    return {
        name: torch.from_numpy(array)
        for name, array in caffe2_arrays(network, norms, **options).items()
    }


FORMATS: dict[str, tuple[str, Callable[[ResNet], State]]] = {
    "torchvision": ("torchvision", lambda network: network.state_dict()),
    "mmpretrain": ("torchvision", mmpretrain_state),
    "pycls": ("pycls", pycls_state),
    "detectron2": ("detectron2", detectron2_state),
    "Caffe2, gamma and beta": ("caffe2", lambda network: caffe2_state(network, "beta")),
    "Caffe2, rm and riv": ("caffe2", lambda network: caffe2_state(network, "riv", head="fc1000")),
    "Caffe2, zero biases": (
        "caffe2",
        lambda network: caffe2_state(network, "riv", zero_biases=True),
    ),
}


def bare(state: State) -> State:
    return {
        name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")
    }


def same(found: State, wanted: State) -> None:
    assert sorted(found) == sorted(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("name", FORMATS)
def test_every_name_finds_its_place(network: ResNet, name: str) -> None:
    format, make = FORMATS[name]
    found = convert_to_native(make(network))
    assert (found.format, found.left_out) == (format, ())
    same(bare(found.state), detectron2_state(network))


def test_counters_are_kept(network: ResNet) -> None:
    for state in (network.state_dict(), pycls_state(network)):
        assert convert_to_native(state).state["res4.1.conv2.norm.num_batches_tracked"] == 7
        assert len(convert_to_native(state).state) == len(network.state_dict())


PREFIXES = [
    "module.",
    "backbone.",
    "backbone.bottom_up.",
    "bottom_up.",
    "model.",
    "module.model.",
    "_orig_mod.",
]
PREFIXES += [
    "encoder.",
    "module.encoder_q.",
    "model.backbone.",
    "_orig_mod.module.",
    "network.",
    "module.resnet.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["torchvision", "pycls", "detectron2"])
def test_prefixes_are_taken_off(network: ResNet, name: str, prefix: str) -> None:
    format, make = FORMATS[name]
    found = convert_to_native({f"{prefix}{key}": tensor for key, tensor in make(network).items()})
    assert found.format == format
    same(bare(found.state), detectron2_state(network))


def test_averaged_copies_count_their_steps(network: ResNet) -> None:
    """torch.optim.swa_utils.AveragedModel, as torchvision's training saves it."""
    averaged = torch.optim.swa_utils.AveragedModel(network)
    found = convert_to_native(averaged.state_dict())
    assert found.left_out == ("n_averaged",)
    same(bare(found.state), detectron2_state(network))


def test_other_libraries_detectors_give_their_backbone(network: ResNet) -> None:
    """mmdetection's and torchvision's parts beside the backbone are left out, and named."""
    own = {f"backbone.{n}": t for n, t in network.state_dict().items() if not n.startswith("fc.")}
    heads = {
        "neck.lateral_convs.0.conv.weight": torch.ones(1),
        "rpn_head.rpn_conv.weight": torch.ones(1),
    }
    found = convert_to_native({**own, **heads})
    assert (found.format, found.left_out, found.prefix) == (
        "torchvision",
        tuple(heads),
        "backbone.",
    )
    same(
        bare(found.state), {n: t for n, t in detectron2_state(network).items() if "linear" not in n}
    )

    detector: Any = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None
    )
    state = detector.state_dict()
    found = convert_to_native(state)
    assert found.prefix == "backbone.body."
    assert {name.split(".")[0] for name in found.left_out} == {"backbone", "rpn", "roi_heads"}
    assert len(found.left_out) + len(found.state) == len(state)
    assert torch.equal(
        found.state["res5.2.conv3.weight"], state["backbone.body.layer4.2.conv3.weight"]
    )


def test_a_retinanet_of_detectron2_is_a_detector(network: ResNet) -> None:
    """It is evaluated as one; resnext-det convert --backbone-only takes the backbone out."""
    own = {
        f"backbone.bottom_up.{name}": tensor for name, tensor in detectron2_state(network).items()
    }
    heads = {"backbone.fpn_lateral3.weight": torch.ones(1), "head.cls_score.weight": torch.ones(1)}
    found = convert_to_native({**own, **heads})
    assert (found.format, found.left_out) == ("detector", ())
    assert set(found.state) == {*own, *heads}


def test_detectrons_heads_and_momenta_are_left_out(network: ResNet) -> None:
    beside = {
        name: torch.ones(1)
        for name in ("conv1_w_momentum", "res2_0_branch2a_w_momentum", "fc6_w", "conv_rpn_w")
    }
    found = convert_to_native({**caffe2_state(network, "riv"), **beside})
    assert found.left_out == tuple(beside)
    same(found.state, detectron2_state(network))


def test_what_detectron2s_script_makes_of_torchvisions(network: ResNet) -> None:
    """tools/convert-torchvision-to-d2.py puts "stem." before whatever is in no layer."""
    state = detectron2_state(network)
    for key in ("weight", "bias"):
        state[f"stem.fc.{key}"] = state.pop(f"linear.{key}")
    same(convert_to_native(state).state, detectron2_state(network))


# --- what Caffe2's lack


def test_folded_norms_become_exactly_scale_and_bias(network: ResNet) -> None:
    arrays = caffe2_arrays(network, "folded")
    found = convert_to_native(
        {name: torch.from_numpy(array) for name, array in arrays.items()}
    ).state
    assert sorted(found) == sorted(detectron2_state(network))
    norm = {
        key: found[f"res3.0.shortcut.norm.{key}"]
        for key in ("weight", "bias", "running_mean", "running_var")
    }
    x = torch.randn(2, 512, 3, 3, dtype=torch.float64)
    scale, bias = (torch.from_numpy(arrays[f"res3_0_branch1_bn_{key}"]).double() for key in "sb")
    wanted = x * scale[:, None, None] + bias[:, None, None]
    values = {key: tensor.double() for key, tensor in norm.items()}
    computed = torch.nn.functional.batch_norm(
        x, values["running_mean"], values["running_var"], values["weight"], values["bias"]
    )
    torch.testing.assert_close(computed, wanted, rtol=1e-7, atol=1e-7)


def test_group_norms_get_no_statistics(network: ResNet) -> None:
    state = {name.replace("_bn_", "_gn_"): t for name, t in caffe2_state(network, "folded").items()}
    found = convert_to_native(state).state
    assert not any("running" in name for name in found)
    assert torch.equal(found["res2.0.conv1.norm.weight"], state["res2_0_branch2a_gn_s"])


@pytest.mark.detectron2
def test_group_norms_of_detectron_are_read_as_by_detectron2(network: ResNet) -> None:
    """R-50-GN.pkl names the stem's conv1_gn_s, where batch norms have res_conv1_bn_s."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names

    state = {
        name.replace("res_conv1_bn_", "conv1_gn_").replace("_bn_", "_gn_"): tensor
        for name, tensor in caffe2_state(network, "folded").items()
    }
    theirs, _ = convert_c2_detectron_names(state)
    found = convert_to_native(state).state
    assert "stem.conv1.norm.weight" in found and "res5.1.conv3.norm.bias" in found
    same(found, theirs)


@pytest.mark.parametrize("norms", ["beta", "folded"])
def test_a_convolutions_bias_goes_into_its_norm(network: ResNet, norms: str) -> None:
    """MSRA's ResNet-50 has one in conv1."""
    state = caffe2_state(network, norms)
    bias = torch.linspace(-1, 1, 64)
    found = convert_to_native({**state, "conv1_b": bias}).state
    assert "stem.conv1.bias" not in found
    plain = convert_to_native(state).state
    x = torch.randn(4, 64, 2, 2, dtype=torch.float64)

    def normed(x: Tensor, weights: State) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return torch.nn.functional.batch_norm(
            x, *(weights[f"stem.conv1.norm.{key}"].double() for key in keys)
        )

    torch.testing.assert_close(
        normed(x, found), normed(x + bias[:, None, None].double(), plain), rtol=1e-5, atol=1e-5
    )
    assert found["stem.conv1.norm.running_mean"].any() == (
        norms == "beta"
    )  # else it were folded no more


def test_a_bias_of_another_length_is_refused(network: ResNet) -> None:
    with pytest.raises(
        ValueError, match=r"stem.conv1.bias is \(1,\), and the norm behind it \(64,\)"
    ):
        convert_to_native({**caffe2_state(network, "beta"), "conv1_b": torch.ones(1)})


# --- what is refused


def catch_error(state: State) -> str:
    with pytest.raises(ValueError) as caught:
        convert_to_native(state)
    return str(caught.value)


@pytest.mark.parametrize(
    ("format", "name", "words"),
    [
        (
            "torchvision",
            "layer1.0.se.fc1.weight",
            "is no name of torchvision's ResNeXt: the weights are of a network with squeeze-and-",
        ),
        ("torchvision", "layer1.0.downsample.2.weight", "shortcuts with pooling (ResNet-D)"),
        ("torchvision", "layer1.0.conv4.weight", "has nothing like 'layer1.0.conv4.weight' inside"),
        ("mmpretrain", "backbone.layer1.0.x.weight", "'layer1.0.x.weight' is no name"),
        ("pycls", "s1.b1.f.se.f_ex.0.weight", "is no name of pycls's ResNeXt"),
        ("Caffe2, rm and riv", "res2_0_branch3_w", "is no name of caffe2's ResNeXt"),
        ("Caffe2, rm and riv", "conv1_in_s", "is no name of caffe2's"),
    ],
)
def test_strange_names_are_refused(network: ResNet, format: str, name: str, words: str) -> None:
    text = catch_error({**FORMATS[format][1](network), name: torch.zeros(1)})
    assert words in text and repr(name.removeprefix("backbone.")) in text


def test_several_networks_are_refused(network: ResNet) -> None:
    pair = {f"b.{name}": t for name, t in pycls_state(random_network(26, 2, 4)).items()}
    assert catch_error({**network.state_dict(), **pair}) == (
        "there are several networks among the weights: '' (X-26-4x8d), 'b.' (X-26-2x4d); choose "
        "one: --prefix '', or read_weights(path, prefix=...)"
    )


@pytest.mark.parametrize("name", ["resnet50d", "resnet50c", "resnet50s"])
def test_deep_stems_are_refused_as_such(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    assert "have a stem of several convolutions (ResNet-C, -D and their like)" in catch_error(state)
    assert "have a stem of several" in catch_error(
        {"backbone.stem.0.weight": torch.ones(1), "backbone.layer1.0.conv1.weight": torch.ones(1)}
    )


@pytest.mark.parametrize("name", ["seresnext50_32x4d", "ecaresnet50t", "skresnext50_32x4d"])
def test_timms_other_networks_are_refused(name: str) -> None:
    with torch.device("meta"):
        catch_error(timm.create_model(name).state_dict())


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["a"],
        ["conv2.weight"],
        ["student.conv1.weight"],
        ["xbackbone.conv1.weight"],
    ],
)
def test_other_names_are_of_no_known_format(names: list[str]) -> None:
    assert "are of no known format; give a ResNet or ResNeXt of" in catch_error(
        {name: torch.ones(1) for name in names}
    )


def test_long_names_take_no_time_and_no_page() -> None:
    names = [
        "module." * 100_000 + "conv1.weight",
        "model." * 100_000,
        "layer1." * 100_000,
        "\x1b[31m\n" * 1000,
    ]
    text = catch_error({name: torch.ones(1) for name in names})
    assert len(text) < 1000
    assert "\x1b" not in text
