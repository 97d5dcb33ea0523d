"""A backbone taken out of a run of either engine, and weights converted exactly to another
preprocessing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resnext_det.architecture import Architecture
from resnext_det.detection.portable.build import build_detector
from resnext_det.resnext import ResNeXt
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.weights import KNOWN, Preprocessing, load_weights, read_weights
from resnext_det.weights.conversion import (
    change_preprocessing,
    convert_preprocessing,
    extract_backbone,
)
from resnext_det.weights.structure import extract_detector_backbone
from resnext_det.weights.writing import write_weights
from tests.weights.foreign_names import detectron2_state, random_network
from tests.weights.helpers import (
    DETECTRON2_FPN,
    HEADS,
    NARROW50,
    SMALL,
    configuration,
    configure_detectron2,
    fill_randomly,
    same_bits,
    save,
    torchvision_network,
)

Trained = tuple[dict[str, Any], Preprocessing]


def run_of_ours(folder: Path, head: str) -> Trained:
    """Write what a training of the portable engine leaves: config.yaml and model_final.pth."""
    pixels = ["MODEL.PIXEL_MEAN", [120.0, 110.0, 100.0], "MODEL.PIXEL_STD", [57.0, 58.0, 59.0]]
    cfg = configuration(*HEADS[head], "INPUT.FORMAT", "RGB", *pixels)
    model = fill_randomly(build_detector(cfg))
    Checkpointer(folder).save("model_final", {"model": model.state_dict(), "iteration": 7})
    (folder / "config.yaml").write_text(cfg.dump())
    return model.state_dict(), Preprocessing("RGB", (120.0, 110.0, 100.0), (57.0, 58.0, 59.0))


def run_of_detectron2(folder: Path, head: str) -> Trained:
    """The same of detectron2's."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    stride = ["MODEL.RESNETS.STRIDE_IN_1X1", True]
    cfg = configure_detectron2(*(DETECTRON2_FPN if head == "FPN" else []), *stride)
    model = fill_randomly(build_model(cfg))
    DetectionCheckpointer(model, str(folder)).save("model_final", iteration=7)
    (folder / "config.yaml").write_text(cfg.dump())
    return model.state_dict(), KNOWN["msra"]


@pytest.mark.parametrize(
    ("trained", "head"),
    [
        *((run_of_ours, head) for head in HEADS),
        *(
            pytest.param(run_of_detectron2, head, marks=pytest.mark.detectron2)
            for head in ("C4", "FPN")
        ),
    ],
)
def test_a_backbone_is_taken_out_of_a_run(trained: Any, head: str, tmp_path: Path) -> None:
    state, preprocessing = trained(tmp_path, head)
    file = extract_backbone(read_weights(tmp_path / "model_final.pth"))
    assert (file.format, file.preprocessing) == ("native", preprocessing)
    assert file.architecture == (SMALL if trained is run_of_ours else NARROW50)
    assert same_bits(file.state, extract_detector_backbone(state))
    write_weights(file, tmp_path / "backbone.pkl")
    model = ResNeXt(file.architecture, out_features=("res5",))
    assert len(load_weights(model, tmp_path / "backbone.pkl").loaded) == len(model.state_dict())
    assert same_bits(model.state_dict(), file.state)


def test_a_label_in_the_checkpoint_goes_before_the_configuration_beside_it(tmp_path: Path) -> None:
    state, _ = run_of_ours(tmp_path, "C4")
    torch.save(
        {"model": state, "preprocessing": KNOWN["fair"].as_dict()}, tmp_path / "model_final.pth"
    )
    assert (
        extract_backbone(read_weights(tmp_path / "model_final.pth")).preprocessing == KNOWN["fair"]
    )


def without_configuration(folder: Path, text: str) -> Path:
    run_of_ours(folder, "C4")
    (folder / "config.yaml").write_text(text)
    return folder / "model_final.pth"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "INPUT: {FORMAT: RGB}",
        "INPUT: {FORMAT: L}\n"
        "MODEL: {PIXEL_MEAN: [1], PIXEL_STD: [1], RESNETS: {STRIDE_IN_1X1: false}}",
        "INPUT: {FORMAT: RGB}\n"
        "MODEL: {PIXEL_MEAN: 1, PIXEL_STD: 2, RESNETS: {STRIDE_IN_1X1: false}}",
    ],
)
def test_a_configuration_that_does_not_say_it(text: str, tmp_path: Path) -> None:
    file = extract_backbone(read_weights(without_configuration(tmp_path, text)))
    assert (file.architecture, file.preprocessing) == (SMALL, None)


@pytest.mark.parametrize(
    "text", ["INPUT: {FORMAT", "!!python/object/apply:os.abort []", "\x00", "[" * 5000]
)
def test_a_damaged_configuration_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.yaml is damaged, so the preprocessing of"):
        extract_backbone(read_weights(without_configuration(tmp_path, text)))


# --- conversion


def images_for(preprocessing: Preprocessing, rgb: Tensor) -> Tensor:
    """uint8 (3, H, W) in RGB -> what a network is given, in float64."""
    image = rgb.double() if preprocessing.channel_order == "RGB" else rgb.double().flip(0)
    mean, std = (
        torch.tensor(numbers, dtype=torch.float64)
        for numbers in (preprocessing.mean, preprocessing.std)
    )
    return ((image - mean[:, None, None]) / std[:, None, None])[None]


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize(
    "std", [(1.0, 1.0, 1.0), (57.375, 57.12, 58.395), (58.395, 57.12, 57.375), (50.0, 60.0, 70.0)]
)
@torch.no_grad()
def test_conversion_keeps_the_features(order: str, std: tuple[float, float, float]) -> None:
    source = KNOWN["torchvision"]
    mean = source.mean if order == "RGB" else source.mean[::-1]
    target = replace(source, channel_order=order, mean=mean, std=std)
    rgb = torch.randint(0, 256, (3, 33, 40), dtype=torch.uint8)
    state = {name: tensor.double() for name, tensor in detectron2_state(random_network(26)).items()}
    model = ResNeXt(Architecture(26, 32, 4)).double()
    outputs = []
    for weights, preprocessing in (
        (state, source),
        (convert_preprocessing(state, source, target), target),
    ):
        model.load_state_dict(
            {name: t for name, t in weights.items() if name in model.state_dict()}
        )
        outputs.append(model(images_for(preprocessing, rgb))["res4"])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_swap_alone_is_exact_to_the_last_bit(dtype: torch.dtype) -> None:
    state = {
        "stem.conv1.weight": torch.randn(8, 3, 7, 7).to(dtype),
        "stem.conv1.norm.bias": torch.ones(8),
    }
    there = convert_preprocessing(state, KNOWN["torchvision"], KNOWN["pycls"])
    assert torch.equal(there["stem.conv1.weight"], state["stem.conv1.weight"][:, [2, 1, 0]])
    assert there["stem.conv1.norm.bias"] is state["stem.conv1.norm.bias"]
    back = convert_preprocessing(there, KNOWN["pycls"], KNOWN["torchvision"])
    assert torch.equal(back["stem.conv1.weight"], state["stem.conv1.weight"])
    same = convert_preprocessing(state, KNOWN["paper"], KNOWN["mmpretrain"])
    assert torch.equal(same["stem.conv1.weight"], state["stem.conv1.weight"])
    assert (
        convert_preprocessing(state, KNOWN["torchvision"], KNOWN["pycls"])[
            "stem.conv1.weight"
        ].dtype
        == dtype
    )


def test_a_detectors_conv1_is_converted_too() -> None:
    state = {
        "backbone.bottom_up.stem.conv1.weight": torch.randn(8, 3, 7, 7),
        "roi_heads.x": torch.ones(1),
    }
    found = convert_preprocessing(state, KNOWN["torchvision"], KNOWN["pycls"])
    assert not torch.equal(
        *(each["backbone.bottom_up.stem.conv1.weight"] for each in (state, found))
    )


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("torchvision", "msra", "the weights have stride_in_1x1 False, not True"),
        ("torchvision", "detectron1", "the weights have batch_norm statistics, not folded"),
        ("detectron1", "fair", "batch_norm folded"),
    ],
)
def test_what_no_algebra_converts_is_refused(source: str, target: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        convert_preprocessing(
            {"stem.conv1.weight": torch.zeros(8, 3, 7, 7)}, KNOWN[source], KNOWN[target]
        )


def test_another_mean_is_refused() -> None:
    """It would be right inside the image and wrong along its border."""
    source = replace(KNOWN["detectron1"], batch_norm="statistics")
    with pytest.raises(ValueError, match="a convolution pads with zeros"):
        convert_preprocessing({"stem.conv1.weight": torch.zeros(8, 3, 7, 7)}, source, KNOWN["fair"])
    rounded = replace(KNOWN["torchvision"], mean=(123.68, 116.28, 103.53))
    convert_preprocessing(
        {"stem.conv1.weight": torch.zeros(8, 3, 7, 7)}, rounded, KNOWN["torchvision"]
    )


@pytest.mark.parametrize(
    "state",
    [{}, {"stem.conv1.weight": torch.zeros(8, 1, 7, 7)}, {"stem.conv1.weight": torch.zeros(3)}],
    ids=["none", "one channel", "a vector"],
)
def test_without_a_conv1_of_three_channels_there_is_no_conversion(state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"have no stem.conv1.weight for three channels"):
        convert_preprocessing(state, KNOWN["torchvision"], KNOWN["pycls"])


def test_what_was_usual_stays_so_by_another_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """BGR is usual for none of torchvision's files, and is no fact of a converted one."""
    file = read_weights(save(torchvision_network().state_dict(), tmp_path))
    source = KNOWN["torchvision"]
    target = replace(source, channel_order="BGR", mean=source.mean[::-1], std=(1.0, 1.0, 1.0))
    converted = change_preprocessing(file, target)
    assert "are usual for torchvision's files and not known of it" in caplog.text
    write_weights(converted, tmp_path / "model.safetensors", "safetensors")
    config = {"architecture": "resnext50_32x4d", "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    again = read_weights(tmp_path / "model.safetensors")  # the config.json is another file's
    assert again.preprocessing == target
    assert again.origins["std"] == "usual for torchvision's converted files"
    assert again.is_usual("channel_order") and again.is_usual("mean")
