"""config.json beside weights: facts, refusals and defaults, compared with timm itself."""

from __future__ import annotations

import copy
import json
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision

from resnext_det.architecture import Architecture
from resnext_det.weights import KNOWN, Preprocessing, read_weights, write_weights
from resnext_det.weights.published.timm_config import _parse_architecture, read_config, read_facts
from tests.weights.foreign_names import randomize
from tests.weights.helpers import classifier, torchvision_network

timm = pytest.importorskip("timm")

# What timm writes of a network of torchvision's template, X-26-2x4d, fine-tuned by a user.
CONFIG: dict[str, Any] = {
    "architecture": "resnext26_2x4d",
    "num_classes": 7,
    "num_features": 2048,
    "global_pool": "avg",
    "model_args": {"num_classes": 7, "in_chans": 3, "global_pool": "avg"},
    "pretrained_cfg": {
        "tag": "a1h_in1k",
        "custom_load": False,
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.25, 0.2, 0.1],
        "num_classes": 7,
        "pool_size": [7, 7],
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
    },
}
MEAN, STD = (127.5, 102.0, 76.5), (63.75, 51.0, 25.5)
# timm's networks that are read here, with others of its names before 0.9.
PLAIN = {
    **{f"resnet{depth}": Architecture(depth) for depth in (26, 50, 101, 152, 200)},
    "resnet50_gn": Architecture(50),
    "resnext50_32x4d": Architecture(50, 32, 4),
    **{f"resnext101_32x{width}d": Architecture(101, 32, width) for width in (4, 8, 16, 32)},
    "resnext101_64x4d": Architecture(101, 64, 4),
    **{f"wide_resnet{depth}_2": Architecture(depth, 1, 128) for depth in (50, 101)},
}
OLD = {
    "tv_resnext50_32x4d": Architecture(50, 32, 4),
    "gluon_resnet50_v1b": Architecture(50),
    "swsl_resnext101_32x8d": Architecture(101, 32, 8),
    "ig_resnext101_32x16d": Architecture(101, 32, 16),
}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return torchvision_network().state_dict()


@pytest.fixture
def folder(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def write_config(folder: Path, values: object) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def change(**changes: Any) -> dict[str, Any]:
    """Change CONFIG at the top, and its ``pretrained_cfg`` where that has the key."""
    values = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        of = values if key not in values["pretrained_cfg"] else values["pretrained_cfg"]
        of[key] = value
    return values


def make_legacy(values: Mapping[str, Any]) -> dict[str, Any]:
    """As timm wrote them until 0.6: everything side by side."""
    top = {"architecture", "num_classes", "num_features"}
    return {**{key: values[key] for key in top}, **values["pretrained_cfg"]}


@pytest.mark.parametrize("layout", [copy.deepcopy, make_legacy], ids=["pretrained_cfg", "legacy"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", ""])
def test_it_tells_facts(layout: Any, name: str, folder: Path, state: Any) -> None:
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / name)
    write_config(folder, layout(CONFIG))
    file = read_weights(folder / name)
    assert (file.format, file.architecture) == ("timm", Architecture(26, 2, 4))
    assert file.preprocessing == Preprocessing("RGB", MEAN, STD)
    facts = {"size_test": "288", "resize_test": "288", "interpolation": "bicubic"}
    assert file.metadata == {**facts, "license": "apache-2.0"}
    origins = dict.fromkeys((*facts, "license", "mean", "std"), "config.json")
    origins |= dict.fromkeys(("channel_order", "stride_in_1x1"), "usual for timm's files")
    assert origins.items() <= file.origins.items()
    assert file.origins["batch_norm"] == "the weights"


def test_what_it_does_not_tell_is_timms_default_and_marked(folder: Path) -> None:
    values = change()
    for key in ("mean", "interpolation", "test_input_size", "input_size", "license"):
        del values["pretrained_cfg"][key]
    file = read_weights(write_config(folder, values))
    assert file.preprocessing == Preprocessing("RGB", KNOWN["torchvision"].mean, STD)
    assert [file.is_usual(fact) for fact in ("mean", "std", "channel_order")] == [
        True,
        False,
        True,
    ]
    assert file.metadata["interpolation"] == "bicubic" and file.is_usual("interpolation")
    assert file.metadata["size_test"] == "224" and file.is_usual("size_test")
    assert file.is_usual("license") and file.metadata["license"].startswith("the file does not say")


def test_what_the_file_itself_states_goes_first(tmp_path: Path) -> None:
    own = KNOWN["pycls"]
    write_weights(
        *(classifier(), tmp_path / "model.safetensors", "safetensors"),
        preprocessing=own,
        metadata={"license": "MIT"},
        class_names=list("abcdefg"),
    )
    file = read_weights(write_config(tmp_path, change(label_names=list("gfedcba"))))
    assert (file.format, file.preprocessing) == ("native", own)
    assert file.class_names == tuple("abcdefg")
    found = {key: (file.metadata[key], file.origins[key]) for key in ("license", "size_test")}
    assert found == {"license": ("MIT", "the file"), "size_test": ("288", "config.json")}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (list("abcdefg"), tuple("abcdefg")),
        ({str(index): name for index, name in enumerate("abcdefg")}, tuple("abcdefg")),
        (list("abc"), None),
        ({"a": 1}, None),
        ([1] * 7, None),
        ("abcdefg", None),
    ],
)
def test_names_of_classes(names: Any, found: Any, folder: Path) -> None:
    for values in (change(label_names=names), make_legacy(change()) | {"labels": names}):
        assert read_weights(write_config(folder, values)).class_names == found


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("x26.safetensors", True),
        ("model.pth", True),
        ("x26.pth", False),
        ("model_final.pth", False),
    ],
)
def test_beside_which_files_it_is_read(name: str, read: bool, folder: Path, state: Any) -> None:
    (folder / "model.safetensors").rename(folder / name)
    if name.endswith("pth"):
        torch.save(state, folder / name)
    write_config(folder, CONFIG)
    assert read_weights(folder / name).is_usual("mean") == (not read)


@pytest.mark.parametrize(
    "values",
    [
        {"MODEL": {"META_ARCHITECTURE": "GeneralizedRCNN"}},
        {"model_type": "vit", "architectures": ["ViTModel"]},  # of another model in the folder
        {"encoder_name": "resnet50", "classes": 7},  # segmentation_models_pytorch
        {"architecture": {"mean": 1}},
        {"architecture": "unet", "lr": 0.1},
        {"hidden": 3, "mean": [9, 9, 9]},  # PyTorchModelHubMixin
        [1, 2],
        "text",
        None,
    ],
)
def test_another_programs_is_passed_over(values: Any, folder: Path) -> None:
    file = read_weights(write_config(folder, values))
    assert file.is_usual("mean") and file.is_usual("interpolation")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (change(architecture="resnetaa50"), "'resnetaa50', which is anti-aliased: it blurs"),
        (change(architecture="resnetblur50"), "'resnetblur50', which is anti-aliased"),
        (change(architecture="seresnetaa50d"), "which is anti-aliased"),
        (change(architecture="seresnext50_32x4d"), "has attention modules"),
        (change(architecture="ecaresnetlight"), "has attention modules"),
        (change(architecture="resnet50d"), "has a stem of several convolutions"),
        (change(architecture="resnext26ts"), "has a stem of several convolutions"),
        (change(architecture="resnet18"), "has basic blocks of two convolutions"),
        (change(architecture="resnest50d"), "is no plain ResNet or ResNeXt, as far as its name"),
        (change(architecture="x" * 10**5), "is no plain ResNet or ResNeXt"),
        (change(architecture="resnext50_0x4d"), "is no plain ResNet or ResNeXt"),
        (
            change(model_args={"act_layer": "silu"}),
            "built with 'act_layer' = 'silu', which changes",
        ),
        (change(model_args={"output_stride": 16}), "built with 'output_stride' = 16"),
        (change(model_args={"aa_layer": "avg"}), "built with 'aa_layer' = 'avg'"),
        (change(model_args={"block_args": {"attn_layer": "se"}}), "built with 'block_args'"),
        (change(model_args=[1]), r"has the model_args \[1\]"),
        (change(global_pool="max"), "classifier has the global_pool 'max'"),
        (
            change(input_size=[1, 224, 224]),
            r"input_size \[1, 224, 224\], and the weights .* of 3 channels",
        ),
        (change(mean=[123.7, 116.3, 103.5]), r"has the mean \[123.7, .* three numbers from 0 to 1"),
        (change(mean=[0.5, 0.5]), "has the mean"),
        (change(mean="0.5"), "has the mean '0.5'"),
        (change(mean=[True, 0, 0]), "has the mean"),
        (change(mean=[float("nan")] * 3), "has the mean"),
        (change(std=[0.2, 0.2, 0]), "has the std"),
        (change(std=[-0.2, 0.2, 0.2]), "has the std"),
        (change(std=[58.4, 57.1, 57.4]), "has the std"),
        (change(test_input_size=[3, 10**9, 10**9]), "has the test_input_size"),
        (change(input_size=[3, 224]), "has the input_size"),
        (change(input_size=224), "has the input_size 224"),
        (change(input_size=[3, 224.0, 224]), "has the input_size"),
        (change(test_crop_pct=1e-9), "has the crop_pct 1e-09, where timm has a number"),
        (change(test_crop_pct="0.9"), "has the crop_pct '0.9'"),
        (change(interpolation=3), "has the interpolation 3, where timm has a word"),
        (
            {
                "model_type": "resnet",
                "architectures": ["ResNetForImageClassification"],
                "downsample_in_bottleneck": True,
            },
            "is of transformers' 'ResNetForImageClassification' .* hf-hub:timm/resnet50.a1_in1k",
        ),
        ({"model_type": "resnet", "hidden_act": "gelu"}, "transformers' 'resnet' .* activation"),
    ],
)
def test_what_contradicts_or_cannot_be_is_refused(values: Any, words: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        read_weights(write_config(folder, values))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            change(architecture="resnet50"),
            "is resnet50 of 7 classes, and the weights .* X-26-2x4d, 7",
        ),
        (
            change(num_classes=5) | {"num_classes": 5},
            "of 5 classes, and the .* X-26-2x4d, 7 classes",
        ),
        (
            change(num_classes=None) | {"num_classes": None, "architecture": "resnet50"},
            "is resnet50, and the .* X-26-2x4d, 7 classes",
        ),
        (change(num_classes=[5]) | {"num_classes": [5]}, r"of \[5\] classes, and the"),
        (change(model_args={"cardinality": 2, "base_width": 4, "layers": [2, 2, 2, 2]}), None),
    ],
)
def test_the_shapes_tell_the_network_and_a_name_that_differs_is_told(
    values: Any, words: str | None, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as a network of one's own, built from timm's, or a new head under the old file."""
    file = read_weights(write_config(folder, values))
    assert file.architecture == Architecture(26, 2, 4)
    assert file.preprocessing == Preprocessing("RGB", MEAN, STD)
    assert (words is None) == (not caplog.messages)
    assert words is None or re.search(words, caplog.messages[0])


def test_weights_of_no_network_here_are_refused(folder: Path, state: Any) -> None:
    basic = torchvision.models.resnet18(num_classes=7).state_dict()
    safetensors.torch.save_file(basic, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"basic blocks|are of another one"):
        read_weights(write_config(folder, CONFIG))


@pytest.mark.parametrize("text", ["{", "", "[" * 10**5, '{"a": 1' + "0" * 5000 + "}", "\xff"])
def test_a_damaged_one_is_an_error(text: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config.json is damaged, .* correct it, or move it away"):
        read_weights(folder)


def test_a_large_one_is_not_read(folder: Path) -> None:
    with (folder / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match=r"damaged, .*\(it has more than 16 MB\)"):
        read_weights(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (change(crop_mode="squash"), "288x288 by 'bicubic', crop_mode 'squash'"),
        (change(test_input_size=[3, 224, 320]), "224x320 by 'bicubic'"),
        (change(interpolation="lanczos"), "288x288 by 'lanczos', crop_mode 'center'"),
    ],
)
def test_a_test_that_is_not_done_here_is_told(
    values: Any, words: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = read_weights(write_config(folder, values))
    assert file.preprocessing == Preprocessing("RGB", MEAN, STD)
    assert file.is_usual("interpolation") and "size_test" not in file.metadata
    assert f"its test of images of {words}" in caplog.messages[-1]


# --- timm itself


def list_published() -> list[str]:
    """timm's published weights of the networks that are read here."""
    names = timm.list_pretrained()
    return [name for name in names if name.partition(".")[0] in PLAIN]


def test_every_published_file_is_tested_as_timm_does(tmp_path: Path) -> None:
    from timm.data import create_transform, resolve_data_config

    published = list_published()
    assert len(published) >= 60
    for name in published:
        known = timm.get_pretrained_cfg(name)
        config = resolve_data_config(pretrained_cfg=known.to_dict(), use_test_size=True)
        resize, crop, *_, normalize = create_transform(**config).transforms
        network = name.partition(".")[0]
        values = json.loads(json.dumps({"architecture": network, "pretrained_cfg": vars(known)}))
        facts = read_facts(tmp_path, values, {}, PLAIN[network])
        assert facts.metadata["size_test"] == str(crop.size[0]), name
        assert facts.metadata["resize_test"] == str(resize.size), name
        assert facts.metadata["interpolation"] == resize.interpolation.value, name
        assert facts.metadata.get("license") == known.license, name
        for numbers, theirs in (("mean", normalize.mean), ("std", normalize.std)):
            ours = torch.tensor(getattr(facts.preprocessing, numbers)) / 255
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
        assert facts.stated >= {"mean", "std", "size_test", "resize_test", "interpolation"}


def test_of_timms_networks_the_plain_ones_are_known_by_name() -> None:
    found = {name: _parse_architecture(name) for name in timm.list_models()}
    assert {name: network for name, network in found.items() if network is not None} == PLAIN
    assert {name: _parse_architecture(name) for name in OLD} == OLD


@pytest.mark.parametrize("name", ["resnet26", "wide_resnet50_2"])
def test_what_timm_saves_is_what_it_tested(name: str, tmp_path: Path) -> None:
    from timm.models._hub import save_config_for_hf

    with torch.device("meta"):
        network = timm.create_model(name, num_classes=3, drop_rate=0.1, drop_path_rate=0.1)
    save_config_for_hf(network, str(tmp_path / "config.json"))
    values = read_config(tmp_path)
    assert values is not None and values["num_classes"] == 3
    facts = read_facts(tmp_path, values, {}, PLAIN[name])
    assert facts.preprocessing == replace(KNOWN["torchvision"], batch_norm="none")


def list_other_resnets() -> list[str]:
    modules = ("resnet", "sknet", "resnest", "res2net", "resnetv2", "byobnet", "senet")
    names = {name for module in modules for name in timm.list_models(module=module)}
    return sorted(name for name in names - set(PLAIN) if re.search("resne|res2n|senet", name))


@pytest.mark.slow
def test_every_other_resnet_of_timm_is_refused_by_its_name(tmp_path: Path) -> None:
    from timm.models._hub import save_config_for_hf

    names = list_other_resnets()
    assert len(names) > 130
    for name in names:
        with torch.device("meta"):
            network = timm.create_model(name, num_classes=5)
        save_config_for_hf(network, str(tmp_path / "config.json"))
        with pytest.raises(ValueError, match=re.escape(f"network is {name!r}, which")):
            read_config(tmp_path)


def make_random(name: str) -> Any:
    """Build a network of timm's with random weights and statistics."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5)
    randomize(network)
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
@torch.no_grad()
def test_what_timm_saves_gives_its_features(name: str, tmp_path: Path) -> None:
    from timm.models import save_for_hf

    from resnext_det.classification.weights import load_classifier

    network = make_random(name)
    save_for_hf(network, str(tmp_path), safe_serialization=True)
    ours = load_classifier(read_weights(tmp_path, mapped=True))
    images = torch.randn(1, 3, 64, 96)
    for found, wanted in (
        (ours.forward_features(images), network.forward_features(images)),
        (ours(images), network(images)),
    ):
        scale = wanted.abs().max()
        assert 0 < scale < float("inf")
        torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        (
            {"arch": "resnetaa50"},
            "^weights .*: arch beside the weights says .*'resnetaa50', which is anti",
        ),
        (
            {"args": Namespace(model="timm/resnetblur50.bt_in1k")},
            "args.model beside .*anti-aliased",
        ),
        ({"args": Namespace(model_kwargs={"act_layer": "silu"})}, "act_layer = 'silu', which cha"),
        ({"args": Namespace(model="resnet50", model_kwargs={"output_stride": 32})}, ""),
        ({"arch": "aa50"}, ""),
        ({"arch": ["resnetaa50"], "args": "resnetaa50"}, ""),
    ],
)
def test_what_a_training_tells_of_the_network(
    beside: Any, words: str, state: Any, tmp_path: Path
) -> None:
    """Names and shapes of weights are a plain ResNet's."""
    path = tmp_path / "model_best.pth.tar"
    torch.save({"state_dict": state, **beside}, path)
    if words:
        with pytest.raises(ValueError, match=words):
            read_weights(path)
    else:
        read_weights(path)


def test_the_name_of_a_published_file_tells_the_network(state: Any, tmp_path: Path) -> None:
    path = tmp_path / "resnetaa50_a1h-4cf422b3.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match="by the file's name the network is anti-aliased"):
        read_weights(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnetaa50", "resnetblur50"])
@torch.no_grad()
def test_what_only_its_name_tells_from_a_resnet_50(name: str, tmp_path: Path) -> None:
    """Without config.json the weights are a ResNet-50's, and give other features."""
    from timm.models import save_for_hf

    from resnext_det.classification.weights import load_classifier

    network = make_random(name)
    save_for_hf(network, str(tmp_path), safe_serialization=True)
    with pytest.raises(ValueError, match="which is anti-aliased"):
        read_weights(tmp_path)
    (tmp_path / "config.json").unlink()
    file = read_weights(tmp_path)
    assert file.architecture == Architecture(50)
    images = torch.randn(1, 3, 64, 64)
    found, wanted = load_classifier(file).forward_features(images), network.forward_features(images)
    assert (found - wanted).abs().max() > 0.01 * wanted.abs().max()
