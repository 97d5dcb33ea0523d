"""Where each fact about a file is from, and what is only usual for its names."""

from __future__ import annotations

import pickle
from argparse import Namespace
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from resnext_det.weights import read_weights, write_weights
from resnext_det.weights.conversion import add_preprocessing_beside
from resnext_det.weights.preprocessing import (
    KNOWN,
    Preprocessing,
    format_preprocessing,
    list_fields,
)
from resnext_det.weights.published import catalog_entries
from tests.weights.foreign_names import mmpretrain_state, pycls_state
from tests.weights.helpers import SMALL, THIN, fill_randomly, save, torchvision_network
from tests.weights.test_conversion import run_of_ours
from tests.weights.test_file import IMAGENET_RGB, PYCLS_CONFIG, mm_config

IMAGES = ("channel_order", "mean", "std", "stride_in_1x1")


@pytest.fixture(scope="module")
def network() -> Any:
    return fill_randomly(torchvision_network())


@pytest.fixture(scope="module")
def native(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return read_weights(save(network.state_dict(), tmp_path_factory.mktemp("native"))).state


def write_pickle(contents: Any, path: Path) -> Path:
    arrays = {name: tensor.numpy() for name, tensor in contents["model"].items()}
    path.write_bytes(pickle.dumps({**contents, "model": arrays}))
    return path


def test_names_alone_are_usual(network: nn.Module, tmp_path: Path) -> None:
    for contents, name in (
        (network.state_dict(), "torchvision"),
        ({"state_dict_ema": network.state_dict()}, "timm"),
        ({"state_dict": mmpretrain_state(network)}, "mmpretrain"),
        ({"model_state": pycls_state(network)}, "pycls"),
    ):
        file = read_weights(save(contents, tmp_path))
        assert file.preprocessing is not None
        for fact in (*IMAGES, "interpolation", "license"):
            assert file.origins[fact] == f"usual for {name}'s files"
            assert file.is_usual(fact)
        assert (file.origins["batch_norm"], file.is_usual("batch_norm")) == ("the weights", False)
        assert not file.is_usual("no such fact")


def test_what_a_file_tells_is_a_fact(network: nn.Module, tmp_path: Path) -> None:
    config = mm_config("pytorch", IMAGENET_RGB)
    for contents in (
        {"state_dict": mmpretrain_state(network), "meta": {"config": config}},
        {
            "model_state": pycls_state(network),
            "cfg": PYCLS_CONFIG.format(eps="1e-05", type="resnet", stride="true"),
        },
    ):
        file = read_weights(save(contents, tmp_path))
        assert [file.origins[fact] for fact in IMAGES] == ["the configuration in the file"] * 4
        assert not any(map(file.is_usual, list_fields()))
        assert all(map(file.is_usual, file.metadata))  # license and interpolation


def test_the_arguments_of_a_training(network: nn.Module, tmp_path: Path) -> None:
    """timm's script writes mean and std where they were given, torchvision's never."""
    timm = {"mean": [0.5] * 3, "std": [0.5], "interpolation": "bicubic", "crop_pct": 0.95}
    contents = {
        "state_dict": network.state_dict(),
        **{"arch": "resnext50_32x4d", "version": 2, "metric": 77.5},
        "args": Namespace(**timm, img_size=None),
    }
    file = read_weights(save(contents, tmp_path))
    assert file.preprocessing == Preprocessing("RGB", (127.5,) * 3, (127.5,) * 3)
    found = {"interpolation": "bicubic", "size_test": "224", "resize_test": "235"}
    assert found.items() <= file.metadata.items()
    for fact in ("channel_order", "mean", "std", *found):
        assert file.origins[fact] == "the arguments in the file"
    assert file.is_usual("stride_in_1x1") and file.is_usual("license")

    sizes = {"val_resize_size": 232, "val_crop_size": 224}
    args = Namespace(**sizes, interpolation="bilinear", mean="x", std=[1e9], img_size=[3])
    file = read_weights(save({"model": network.state_dict(), "args": args}, tmp_path))
    assert file.preprocessing == KNOWN["torchvision"] and file.is_usual("mean")
    assert (file.metadata["resize_test"], file.is_usual("resize_test")) == ("232", False)
    assert not file.is_usual("interpolation")

    nothing = {"mean": None, "std": None, "interpolation": "", "crop_pct": None}
    for arguments in (Namespace(**nothing), nothing, "--lr 0.1", None):
        contents["args"] = arguments
        file = read_weights(save(contents, tmp_path))
        assert file.is_usual("mean") and file.is_usual("interpolation")
        assert "size_test" not in file.metadata


def test_an_author(native: dict[str, Tensor], tmp_path: Path) -> None:
    """Converters write the names of libraries, whoever trained; the others are publishers."""
    path = write_pickle({"model": native, "__author__": "torchvision"}, tmp_path / "a.pkl")
    file = read_weights(path)
    assert (file.format, file.origins["mean"]) == ("detectron2", "usual for torchvision's files")
    assert file.origins["author"] == "the file"


def test_the_file_of_write_weights(network: nn.Module, tmp_path: Path) -> None:
    """It says what was known as facts, and what was usual as that, in every format."""
    file = read_weights(save(network.state_dict(), tmp_path))
    own = replace(KNOWN["torchvision"], mean=(127.5,) * 3, std=(127.5,) * 3)
    for name, format in (
        ("a.pkl", "detectron2"),
        ("a.native.pth", "native"),
        ("a.safetensors", "safetensors"),
    ):
        write_weights(file, tmp_path / name, format)
        again = read_weights(tmp_path / name)
        assert again.preprocessing == file.preprocessing
        assert [*map(again.is_usual, IMAGES)] == [True] * 4
        assert again.origins["std"] == "usual for torchvision's files"
        write_weights(file, tmp_path / name, format, preprocessing=own)
        stated = read_weights(tmp_path / name)
        assert (stated.preprocessing, stated.origins["std"]) == (own, "the file")
        assert stated.is_usual("license")


@pytest.mark.parametrize("origins", [["x"], {"mean": 3, "std": "the catalog"}, "usual for all"])
def test_a_file_does_not_choose_its_origins(
    origins: Any, native: dict[str, Tensor], tmp_path: Path
) -> None:
    label = {"preprocessing": KNOWN["torchvision"].as_dict(), "origins": origins}
    file = read_weights(save({"model": native, **label}, tmp_path))
    assert {file.origins[fact] for fact in IMAGES} == {"the file"}


def test_the_configuration_beside_a_detector(tmp_path: Path) -> None:
    run_of_ours(tmp_path, "C4")
    file = add_preprocessing_beside(read_weights(tmp_path / "model_final.pth"))
    assert file.architecture == SMALL
    assert {file.origins[fact] for fact in IMAGES} == {"config.yaml"}


def test_weights_of_no_network_here_have_no_preprocessing(
    network: nn.Module, tmp_path: Path
) -> None:
    """A network for volumes or gray images has familiar names, and no publisher's images."""
    state = network.state_dict()
    volumes = {name: t[:, :, None] if t.ndim == 4 else t for name, t in state.items()}
    gray = {**state, "conv1.weight": state["conv1.weight"].sum(1, keepdim=True)}
    for other in (volumes, gray):
        file = read_weights(save(other, tmp_path))
        assert file.preprocessing is None
        assert not file.origins
        assert not file.metadata


def test_a_file_downloaded_by_hand_is_the_catalogs(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name and its checksum tell; one that bears the name alone does not."""
    path = save(network.state_dict(), tmp_path, "thin_bgr-0123abcd.pth")
    entry = catalog_entries.Entry(
        name="resnext://pycls/thin",
        url=f"https://example.org/{path.name}",
        architecture=THIN,
        preprocessing="pycls",
        license="MIT",
        top1=70.5,
        page="https://example.org",
        sha256=sha256(path.read_bytes()).hexdigest()[:8],
        resize=232,
    )
    monkeypatch.setitem(catalog_entries.ENTRIES, entry.name, entry)
    monkeypatch.setenv("RESNEXT_DET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "pycls").mkdir(parents=True)
    entry.path.write_bytes(path.read_bytes())
    for source in (path, entry.name):
        file = read_weights(source)
        assert file.preprocessing == KNOWN["pycls"]
        assert (file.metadata["name"], file.metadata["resize_test"]) == (entry.name, "232")
        facts = (*IMAGES, "interpolation", "license", "top1", "resize_test")
        assert {file.origins[fact] for fact in facts} == {"the catalog"}
    for other in (replace(entry, sha256="00000000"), replace(entry, sha256=None)):
        monkeypatch.setitem(catalog_entries.ENTRIES, entry.name, other)
        assert read_weights(path).is_usual("mean")
    monkeypatch.setitem(catalog_entries.ENTRIES, entry.name, entry)
    assert read_weights(path.rename(tmp_path / "other.pth")).is_usual("mean")


@pytest.mark.parametrize(
    ("arguments", "images"),
    [
        ({"mean": [0.5] * 3, "std": 0.5}, "RGB:127.5:127.5"),
        ({"mean": [127.5] * 3, "std": [127.5] * 3}, "RGB:127.5:127.5"),
        ({"mean": 0, "std": 1}, "RGB:0:255"),
        ({"mean": [103.5, 116.3, 123.7], "std": [0.5] * 3}, None),
        ({"mean": [0.5] * 3, "std": [0.0] * 3}, None),
        ({"mean": [0.5] * 2}, None),
    ],
)
def test_the_arguments_of_ones_own_script(
    network: nn.Module, arguments: dict[str, Any], images: str | None, tmp_path: Path
) -> None:
    """They tell the numbers on either scale; that images were read as RGB is timm's habit alone."""
    contents = {"model": network.state_dict(), "args": Namespace(**arguments)}
    file = read_weights(save(contents, tmp_path))
    assert file.preprocessing is not None
    assert file.is_usual("channel_order") and file.is_usual("mean") == (images is None)
    if images is not None:
        assert format_preprocessing(file.preprocessing) == images


def test_the_size_of_images_of_timms_script(network: nn.Module, tmp_path: Path) -> None:
    arguments = {"crop_pct": 1, "interpolation": "", "input_size": [3, 256, 256]}
    for size, side in (([3, 256, 256], "256"), ([3, 256, 224], None), (None, "224")):
        args = Namespace(**arguments | {"input_size": size})
        file = read_weights(save({"state_dict": network.state_dict(), "args": args}, tmp_path))
        assert file.metadata.get("size_test") == side
        assert file.metadata.get("resize_test") == side


def test_what_a_file_says_of_itself_may_be_anything(network: nn.Module, tmp_path: Path) -> None:
    """Sizes and origins are printed and computed with, so they are taken only as we write them."""
    metadata = {"size_test": "abc", "resize_test": "9" * 9, "interpolation": "random", "top1": "7"}
    origins = {
        "mean": "usual for \x1b[31m",
        "std": "usual for timm's files",
        "channel_order": 5,
        3: "usual for x",
    }
    own = KNOWN["torchvision"].as_dict()
    contents = {"preprocessing": own, "metadata": metadata, "origins": origins}
    file = read_weights(save({"model": network.state_dict(), **contents}, tmp_path))
    assert file.metadata == {"top1": "7"}
    assert file.origins["mean"] == "usual for its publisher's files" and file.is_usual("mean")
    assert file.origins["std"] == origins["std"] and file.origins["channel_order"] == "the file"
