"""Files of networks with deformable stages, and plain ones that are loaded into such networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from resnext_det.architecture import Deformable
from resnext_det.detection.weights import check_frozen_layers_are_loaded
from resnext_det.resnext import ResNeXt, ResNeXtClassifier
from resnext_det.weights import load_weights, read_weights, write_weights
from resnext_det.weights.conversion import extract_backbone
from resnext_det.weights.doctor.description import describe, format_description
from resnext_det.weights.structure import find_deformable_settings
from tests.weights.helpers import (
    FPN,
    SMALL,
    STAGES,
    THIN,
    TORCHVISION,
    detector,
    fill_randomly,
    save,
)

DEFORM: list[Any] = ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, False, True]]
SETTINGS = {
    "DEFORM_ON_PER_STAGE": [False, True, False, True],
    "DEFORM_MODULATED": False,
    "DEFORM_NUM_GROUPS": 1,
}


def backbone(*stages: str, **options: Any) -> Any:
    deformable = Deformable(stages, **options) if stages else None
    return fill_randomly(ResNeXt(SMALL, out_features=STAGES, deformable=deformable)).eval()


def test_plain_weights_are_loaded_and_offsets_begin_at_zero(tmp_path: Path) -> None:
    plain, deformable = backbone(), backbone("res3", "res5")
    report = load_weights(deformable, save(plain.state_dict(), tmp_path))
    offsets = [name for name in deformable.state_dict() if "conv2_offset" in name]
    assert report.zero_offsets == tuple(offsets)
    assert (report.missing, report.unused) == ((), ())
    assert "8 tensors of offsets begin at 0, as the file has no deformable" in str(report)
    assert report.count_by_module()["res3"]["missing"] == 4
    images = torch.randn(1, 3, 64, 64)
    found, expected = deformable(images), plain(images)
    torch.testing.assert_close(found["res5"], expected["res5"], rtol=1e-4, atol=1e-5)


def test_into_a_detector_too(tmp_path: Path) -> None:
    path = save(ResNeXtClassifier(SMALL).state_dict(), tmp_path)
    model = detector(*FPN, *DEFORM)
    report = load_weights(model, path)
    assert len(report.zero_offsets) == 8
    assert all(name.startswith("backbone.bottom_up.res") for name in report.zero_offsets)
    assert not any("bottom_up" in name for name in report.missing)


@pytest.mark.parametrize("suffix", ["pkl", "pth", "safetensors"])
def test_a_deformable_backbone_goes_through_a_file(suffix: str, tmp_path: Path) -> None:
    format = {"pkl": "detectron2", "pth": "native"}.get(suffix, suffix)
    source = backbone("res3", "res5")
    write_weights(source, tmp_path / f"weights.{suffix}", format, preprocessing=TORCHVISION)
    file = read_weights(tmp_path / f"weights.{suffix}")
    assert file.architecture == SMALL
    model = ResNeXt(SMALL, out_features=STAGES, deformable=Deformable(("res3", "res5")))
    report = load_weights(model, file)
    assert (report.zero_offsets, report.missing, report.unused) == ((), (), ())
    expected = source.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    text = format_description(describe(file))
    assert "# deformable convolutions: DEFORM_ON_PER_STAGE [False, True, False, True], " in text
    assert yaml.safe_load(text)["MODEL"]["RESNETS"].items() >= SETTINGS.items()


def test_a_deformable_detector_is_inspected_and_its_backbone_taken_out(tmp_path: Path) -> None:
    path = save(detector(*FPN, *DEFORM).state_dict(), tmp_path)
    file = read_weights(path)
    assert (file.format, file.architecture) == ("detector", SMALL)
    assert describe(file)["deformable"] == SETTINGS
    assert find_deformable_settings(extract_backbone(file).state) == SETTINGS
    assert load_weights(detector(*FPN, *DEFORM), file).zero_offsets == ()
    with pytest.raises(ValueError, match="use the configuration that the file was trained with"):
        load_weights(detector(*FPN), file)
    plain = save(detector(*FPN).state_dict(), tmp_path)
    with pytest.raises(ValueError, match="8 names are missing in the file"):
        load_weights(detector(*FPN, *DEFORM), plain)


@pytest.mark.parametrize(
    "model",
    [
        lambda: backbone(),
        lambda: backbone("res3"),
        lambda: backbone("res3", "res4", "res5"),
        lambda: backbone("res3", "res5", modulated=True),
        lambda: ResNeXtClassifier(SMALL),
    ],
)
def test_other_deformable_stages_are_told(model: Any, tmp_path: Path) -> None:
    path = save(backbone("res3", "res5").state_dict(), tmp_path)
    network = model()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    words = r"set MODEL.RESNETS.DEFORM_ON_PER_STAGE \[False, True, False, True\], DEFORM_MODULATED"
    with pytest.raises(ValueError, match=words + r" False.*a classifier has none"):
        load_weights(network, path)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, {"DEFORM_MODULATED": False, "DEFORM_NUM_GROUPS": 1}),
        ({"groups": 4}, {"DEFORM_MODULATED": False, "DEFORM_NUM_GROUPS": 4}),
        ({"modulated": True}, {"DEFORM_MODULATED": True, "DEFORM_NUM_GROUPS": 1}),
        ({"modulated": True, "groups": 2}, {}),  # or three groups that are not modulated
    ],
)
def test_the_kind_is_told_as_far_as_the_shapes_tell(options: Any, kind: dict[str, Any]) -> None:
    stages = [True, False, False, False]
    found = find_deformable_settings(backbone("res2", **options).state_dict())
    assert found == {"DEFORM_ON_PER_STAGE": stages, **kind}


def test_what_is_no_offset_is_no_network(tmp_path: Path) -> None:
    state: dict[str, Tensor] = backbone("res3").state_dict()
    state["res3.0.conv2_offset.norm.weight"] = torch.zeros(3)
    file = read_weights(save(state, tmp_path))
    assert file.architecture is None
    assert (
        "nothing like 'res3.0.conv2_offset.norm.weight' inside" in describe(file)["not_recognized"]
    )


def test_torchvision_has_none(tmp_path: Path) -> None:
    model = ResNeXt(THIN, out_features=("res5",), deformable=Deformable(("res5",)))
    with pytest.raises(ValueError, match="have deformable convolutions, and torchvision's"):
        write_weights(model, tmp_path / "x.pth", "torchvision", preprocessing=TORCHVISION)


def test_a_stage_that_is_frozen_with_its_offsets_at_zero_is_no_random_one(tmp_path: Path) -> None:
    model = backbone("res2", "res3").freeze(3)
    load_weights(model, save(backbone().state_dict(), tmp_path))
    check_frozen_layers_are_loaded(model)
    with pytest.raises(ValueError, match=r"of 22 convolutions .* are frozen"):
        check_frozen_layers_are_loaded(ResNeXt(SMALL, deformable=Deformable(("res2",))).freeze(3))
