"""A fact holds against the configuration; what is only usual gives way to what it states."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode

from resnext_det.architecture import Architecture, Deformable
from resnext_det.config import get_cfg
from resnext_det.config.backbone import read_backbone_arguments
from resnext_det.config.classification import get_classifier_cfg
from resnext_det.resnext import ResNeXt, ResNeXtClassifier
from resnext_det.weights import KNOWN, WeightFile, read_weights, write_weights
from resnext_det.weights.conversion import assume_preprocessing
from resnext_det.weights.preprocessing import (
    Preprocessing,
    format_preprocessing,
    list_fields,
    parse_preprocessing,
)
from resnext_det.weights.requirements import (
    check_configuration,
    find_network_differences,
    read_needed_overrides,
)
from tests.weights.helpers import SMALL, THIN, detector, fill_randomly, save, torchvision_network

IMAGENET = KNOWN["torchvision"]
USUAL = "usual for torchvision's files"
RGB = ("INPUT.FORMAT", "RGB")
OURS = ("MODEL.RESNETS.STRIDE_IN_1X1", False)
MEAN, STD = "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"
# What someone may have trained with, and what our YAML files then say.
STATED: dict[str, tuple[Any, ...]] = {
    "RGB:127.5:127.5": (*RGB, MEAN, [127.5] * 3, STD, [127.5] * 3),
    "RGB:0:255": (*RGB, MEAN, [0.0] * 3, STD, [255.0] * 3),
    "RGB:0:1": (*RGB, MEAN, [0.0] * 3, STD, [1.0] * 3),
    "BGR:100,110,120:1": (MEAN, [100.0, 110.0, 120.0]),
    "BGR:103.53,116.28,123.675:57.375,57.12,58.395": (STD, [57.375, 57.12, 58.395]),
}


def make_cfg(*changes: Any, language: str = "detector") -> CfgNode:
    cfg = get_cfg() if language == "detector" else get_classifier_cfg()
    cfg.merge_from_list([*OURS, *changes])
    return cfg


def make_file(*, usual: bool, preprocessing: Preprocessing = IMAGENET) -> WeightFile:
    origins = dict.fromkeys(list_fields(), USUAL if usual else "the catalog")
    origins["batch_norm"] = "the weights"
    return WeightFile("w.pth", "torchvision", {}, preprocessing=preprocessing, origins=origins)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = fill_randomly(torchvision_network()).state_dict()
    return save(state, tmp_path_factory.mktemp("bare"))


# --- what is stated


@pytest.mark.parametrize("words", STATED)
def test_numbers_are_read_and_written(words: str) -> None:
    found = parse_preprocessing(words)
    cfg = make_cfg(*STATED[words])
    assert found == Preprocessing(
        cfg.INPUT.FORMAT, tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)
    )
    assert format_preprocessing(found) == words
    assert parse_preprocessing(f"{words}:stride_in_1x1") == replace(found, stride_in_1x1=True)


@pytest.mark.parametrize("name", KNOWN)
def test_a_publisher_is_its_numbers(name: str) -> None:
    assert parse_preprocessing(name) == KNOWN[name]
    again = parse_preprocessing(format_preprocessing(KNOWN[name]))
    assert replace(again, batch_norm=KNOWN[name].batch_norm) == KNOWN[name]


def test_a_statement_is_a_text() -> None:
    with pytest.raises(ValueError, match="and no text; write it as 'RGB:123"):
        parse_preprocessing(IMAGENET)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        (" TorchVision ", "torchvision"),
        ("timm", "torchvision"),
        ("rgb: 127.5, 127.5, 127.5 : 58", "RGB:127.5:58"),
        ("RGB:1.2e2:1:Stride_In_1x1", "RGB:120:1:stride_in_1x1"),
        ("RGB:0:1", "RGB:0:1"),
    ],
)
def test_a_statement_may_be_spelled_otherwise(words: str, plain: str) -> None:
    assert parse_preprocessing(words) == parse_preprocessing(plain)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "is no publisher (torchvision, mmpretrain"),
        ("torchvison", "--preprocessing 'torchvison' is no publisher"),
        ("RGB", "channel order, mean and std, on the scale 0-255"),
        ("RGB:1", "one number stands for three"),
        ("RGB:1:2:3", ":stride_in_1x1 or :stride_in_3x3 may follow"),
        ("RGB:1:2:stride_in_1x1:4", "no numbers"),
        ("RGB:a:b", "no numbers"),
        ("GRB:1:2", "channel_order is 'GRB'; write 'RGB' or 'BGR'"),
        ("RGB:1,2:3", "mean is (1.0, 2.0); write three numbers"),
        ("RGB:1:nan", "std is (nan, nan, nan); write three numbers"),
        ("RGB:1:0", "pixels are divided by it; write numbers above 0"),
        ("RGB:0.5:0.5", "write all on the scale 0-255, RGB:127.5:127.5"),
        ("RGB:0.5:1", "write all on the scale 0-255, RGB:127.5:255"),
        ("RGB:0.485,0.456,0.406:58", "write all on the scale 0-255, RGB:123.675,116.28,103.53:58"),
        ("RGB:127.5:0.5:stride_in_1x1", "0-255, RGB:127.5:127.5:stride_in_1x1"),
        ("RGB:-1:1", "mean is (-1.0, -1.0, -1.0), and no pixel is; write numbers from 0 to 255"),
        ("RGB:256:1", "and no pixel is"),
        ("RGB:\x1b[31m", "'RGB:\\x1b[31m' is no publisher"),
    ],
)
def test_what_is_no_statement_is_refused(words: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        parse_preprocessing(words)


# --- a file and a configuration


@pytest.mark.parametrize("language", ["detector", "classifier"])
@pytest.mark.parametrize("words", STATED)
def test_a_stated_configuration_overrules_what_is_usual(
    words: str, language: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, with both values, and how to say it for good."""
    cfg = make_cfg("INPUT.FORMAT", words[:3], *STATED[words], language=language)
    defaults = get_classifier_cfg() if language == "classifier" else None
    if language == "classifier" and words.startswith("BGR:103"):  # its mean is RGB's by default
        cfg.MODEL.PIXEL_MEAN = [103.53, 116.28, 123.675]
    if language == "classifier" and words == "BGR:100,110,120:1":
        cfg.MODEL.PIXEL_STD = [1.0] * 3
    with caplog.at_level(logging.INFO):
        check_configuration(cfg, make_file(usual=True), defaults=defaults)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    text = record.getMessage()
    assert f"--preprocessing {words}," in text
    assert f"{USUAL} would be" in text
    assert "123.675" in text
    with pytest.raises(ValueError, match="needs another configuration"):
        check_configuration(cfg, make_file(usual=False), defaults=defaults)
    caplog.clear()
    stated = assume_preprocessing(make_file(usual=True), words)
    check_configuration(cfg, stated, defaults=defaults)
    assert all("does not tell its stride_in_1x1;" in each for each in caplog.messages)


def test_defaults_state_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """detectron2's defaults under an RGB file are the mistake that stays an error."""
    for changes in ((), RGB, (*RGB, MEAN, list(IMAGENET.mean))):  # the last leaves std at 1
        cfg = make_cfg(*changes)
        with pytest.raises(ValueError) as caught:
            check_configuration(cfg, make_file(usual=True))
        text = str(caught.value)
        assert "add --fit-config, which does" in text
        assert f"That is {USUAL}" in text
        mean = ",".join(f"{number:g}" for number in cfg.MODEL.PIXEL_MEAN)
        said = f"{cfg.INPUT.FORMAT}:{mean}:1"
        assert f"add --preprocessing {said}." in text
        check_configuration(cfg, assume_preprocessing(make_file(usual=True), said))
    cfg = get_cfg()  # STRIDE_IN_1X1 True by default
    cfg.merge_from_list([*RGB, MEAN, list(IMAGENET.mean), STD, list(IMAGENET.std)])
    with pytest.raises(ValueError, match=r"STRIDE_IN_1X1 is True(?s:.*):stride_in_1x1\."):
        check_configuration(cfg, make_file(usual=True))
    assert not caplog.records


def test_what_was_given_by_hand_is_stated(caplog: pytest.LogCaptureFixture) -> None:
    """Even where it is the default."""
    check_configuration(make_cfg(), make_file(usual=True), overridden=[STD])
    assert "--preprocessing BGR:103.53,116.28,123.675:1," in caplog.text
    caplog.clear()
    cfg = make_cfg(*RGB, MEAN, [123.7, 116.3, 103.5], STD, [58.4, 57.1, 57.4])
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = True
    check_configuration(
        cfg, make_file(usual=True), overridden=["MODEL.RESNETS.STRIDE_IN_1X1", "SOLVER.BASE_LR"]
    )
    assert "MODEL.RESNETS.STRIDE_IN_1X1 False, and the file itself does not" in caplog.text
    with pytest.raises(ValueError, match="STRIDE_IN_1X1 is True"):
        check_configuration(cfg, make_file(usual=False), overridden=["MODEL.PIXEL_MEAN"])


def test_one_fact_among_what_is_usual_holds() -> None:
    file = make_file(usual=True)
    file = replace(file, origins={**file.origins, "mean": "config.json", "std": "config.json"})
    cfg = make_cfg(*RGB, MEAN, [127.5] * 3, STD, [127.5] * 3)
    with pytest.raises(ValueError, match=r"needs another configuration(?s:.*)PIXEL_MEAN"):
        check_configuration(cfg, file)
    cfg.merge_from_list([MEAN, list(IMAGENET.mean[::-1]), STD, list(IMAGENET.std[::-1])])
    with pytest.raises(ValueError, match="needs another configuration"):
        check_configuration(cfg, file)


def test_agreeing_with_what_is_usual_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    cfg = make_cfg(*RGB, MEAN, list(IMAGENET.mean), STD, list(IMAGENET.std))
    with caplog.at_level(logging.INFO):
        check_configuration(cfg, make_file(usual=False))
        assert not caplog.records
        check_configuration(cfg, make_file(usual=True))
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert f"{USUAL}, and not known to be this file's" in caplog.text


# --- statements about a file


def test_a_statement_holds_against_what_is_usual_and_not_against_facts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        file = assume_preprocessing(make_file(usual=True), "RGB:127.5:127.5")
    assert len(caplog.records) == 1
    assert file.preprocessing == Preprocessing("RGB", (127.5,) * 3, (127.5,) * 3)
    assert (file.origins["std"], file.is_usual("std")) == ("--preprocessing", False)
    with pytest.raises(
        ValueError,
        match=r"needs RGB:123.675,116.28,103.53:58.395,57.12,57.375, as the catalog says, and "
        r"--preprocessing RGB:127.5:127.5 contradicts that; leave it out",
    ):
        assume_preprocessing(make_file(usual=False), "RGB:127.5:127.5")
    fact = make_file(usual=False)
    rounded = "RGB:123.7,116.3,103.5:58.4,57.1,57.4"
    assert assume_preprocessing(fact, rounded).preprocessing == fact.preprocessing
    unknown = replace(make_file(usual=True), preprocessing=None, origins={})
    stated = assume_preprocessing(unknown, rounded)
    assert stated.preprocessing is not None
    assert stated.preprocessing.mean == (123.7, 116.3, 103.5)
    assert [*filter(stated.is_usual, list_fields())] == ["stride_in_1x1"]


@pytest.mark.parametrize(
    ("words", "stride", "origin"),
    [
        ("BGR:103.5,116.3,123.7:1", True, USUAL),
        ("BGR:103.5,116.3,123.7:1:stride_in_3x3", False, "--preprocessing"),
        ("BGR:103.5,116.3,123.7:1:stride_in_1x1", True, "--preprocessing"),
        ("torchvision", False, "--preprocessing"),
    ],
)
def test_numbers_of_images_leave_the_stride_as_it_was(
    words: str, stride: bool, origin: str
) -> None:
    file = make_file(usual=True, preprocessing=replace(IMAGENET, stride_in_1x1=True))
    stated = assume_preprocessing(file, words)
    assert stated.preprocessing is not None and stated.preprocessing.stride_in_1x1 == stride
    assert stated.origins["stride_in_1x1"] == origin
    fact = replace(file, origins={**file.origins, "stride_in_1x1": "the catalog"})
    if not stride:
        with pytest.raises(ValueError, match="as the catalog says"):
            assume_preprocessing(fact, words)


def test_a_statement_holds_against_a_config_json(caplog: pytest.LogCaptureFixture) -> None:
    """timm copies the pretrained model's beside what was trained on from it."""
    file = make_file(usual=True)
    file = replace(file, origins={**file.origins, "mean": "config.json", "std": "config.json"})
    stated = assume_preprocessing(file, "RGB:127.5:127.5")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert (
        "as --preprocessing RGB:127.5:127.5 says; the config.json beside it says "
        "RGB:123.675,116.28,103.53:58.395,57.12,57.375."
    ) in record.getMessage()
    assert stated.preprocessing is not None and stated.preprocessing.mean == (127.5,) * 3
    assert stated.origins["mean"] == stated.origins["std"] == "--preprocessing"
    cfg = make_cfg(*RGB, MEAN, [127.5] * 3, STD, [127.5] * 3)
    check_configuration(cfg, stated)
    with pytest.raises(ValueError, match=r"from the config\.json beside it(?s:.*)RGB:127\.5:127"):
        check_configuration(cfg, file)


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.pkl", "detectron2"), ("a.pth", "native"), ("a.safetensors", "safetensors")],
)
def test_a_statement_is_written_into_the_file(
    name: str, format: str, bare: Path, tmp_path: Path
) -> None:
    stated = assume_preprocessing(read_weights(bare), "RGB:127.5:127.5:stride_in_1x1")
    write_weights(stated, tmp_path / name, format)
    file = read_weights(tmp_path / name)
    assert file.preprocessing == stated.preprocessing
    assert {file.origins[fact] for fact in list_fields()} == {"the file"}


# --- fitting


def test_fitting_takes_what_is_usual_where_nothing_was_stated(bare: Path) -> None:
    cfg = make_cfg()
    needed = read_needed_overrides(cfg, bare)
    cfg.merge_from_list(needed)
    assert (cfg.INPUT.FORMAT, tuple(cfg.MODEL.PIXEL_STD)) == ("RGB", IMAGENET.std)
    assert "MODEL.RESNETS.STRIDE_IN_1X1" not in needed
    check_configuration(cfg, read_weights(bare))
    stated = make_cfg(*STATED["RGB:127.5:127.5"])
    needed = read_needed_overrides(stated, bare)
    assert {MEAN, STD}.isdisjoint(needed)
    stated.merge_from_list(read_needed_overrides(stated, bare, preprocessing="pycls"))
    assert (stated.INPUT.FORMAT, tuple(stated.MODEL.PIXEL_STD)) == ("BGR", KNOWN["pycls"].std)


def test_fitting_what_is_not_known_names_the_flag(tmp_path: Path) -> None:
    state = {"model": ResNeXt(SMALL, out_features=("res5",)).state_dict()}
    path = save(state, tmp_path)
    with pytest.raises(ValueError, match="nothing can be fitted to it; say it with --preproc"):
        read_needed_overrides(make_cfg(), path)
    cfg = make_cfg()
    cfg.merge_from_list(read_needed_overrides(cfg, path, preprocessing="RGB:0:255"))
    assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_STD) == ("RGB", [255.0] * 3)
    assert SMALL.stem_channels == cfg.MODEL.RESNETS.STEM_OUT_CHANNELS


NETWORKS: dict[str, dict[str, Any]] = {
    "small": {"architecture": SMALL},
    "R-50": {"architecture": Architecture(50)},
    "GN": {"architecture": Architecture(26, 32, 4), "norm": "GN"},
    "deformable": {
        "architecture": THIN,
        "deformable": Deformable(("res4", "res5"), modulated=True),
    },
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("prefix", ["", "backbone.bottom_up."])
def test_the_network_is_fitted_too(name: str, prefix: str) -> None:
    """A backbone's, and that of plain detectron2's detectors."""
    with torch.device("meta"):
        network = ResNeXt(**NETWORKS[name], out_features=("res5",))
        state = {
            f"{prefix}{key}": torch.ones(tensor.shape, device="cpu").expand(tensor.shape)
            for key, tensor in network.state_dict().items()
        }
    file = WeightFile("w.pth", "detectron2", state, architecture=network.architecture)
    cfg = make_cfg("MODEL.RESNETS.DEPTH", 152)
    for key, have, needed in find_network_differences(cfg, file):
        assert have != needed
        cfg.merge_from_list([key, needed])
    arguments = read_backbone_arguments(cfg)
    with torch.device("meta"):
        fitted = ResNeXt(**{**arguments, "out_features": ("res5",)}).state_dict()
    theirs = {key.removeprefix(prefix): tensor.shape for key, tensor in state.items()}
    assert {key: tensor.shape for key, tensor in fitted.items()} == theirs
    assert find_network_differences(cfg, file) == []


def test_a_classifiers_network_is_fitted() -> None:
    plain = Architecture(26, 32, 4, shortcuts=False)
    network = ResNeXtClassifier(plain, 3, "GN")
    file = WeightFile("w.pth", "native", network.state_dict(), architecture=plain)
    cfg = make_cfg(language="classifier")
    found = {key: needed for key, _, needed in find_network_differences(cfg, file)}
    assert found == {
        "MODEL.RESNETS.DEPTH": 26,
        "MODEL.RESNETS.NUM_GROUPS": 32,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
        "MODEL.RESNETS.SHORTCUTS": False,
        "MODEL.RESNETS.NORM": "GN",
    }


def test_batch_norms_are_fitted_to_what_a_task_has(bare: Path) -> None:
    """A classifier trains its own, and a detector's are frozen."""
    for language, norm in (("detector", "FrozenBN"), ("classifier", "BN")):
        cfg = make_cfg("MODEL.RESNETS.NORM", "GN", language=language)
        defaults = get_classifier_cfg() if language == "classifier" else None
        needed = read_needed_overrides(cfg, bare, defaults=defaults)
        assert dict(zip(needed[::2], needed[1::2]))["MODEL.RESNETS.NORM"] == norm


def test_a_detectors_own_file_is_fitted_as_before(tmp_path: Path) -> None:
    """A plain one, of which nothing is known, needs a statement."""
    path = save({"model": detector().state_dict()}, tmp_path)
    needed = read_needed_overrides(make_cfg(), path, preprocessing="RGB:0:255")
    found = dict(zip(needed[::2], needed[1::2]))
    assert found["MODEL.RESNETS.DEPTH"] == "26"
    assert found["MODEL.PIXEL_STD"] == "[255.0, 255.0, 255.0]"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ((*RGB, MEAN, [0.485, 0.456, 0.406], STD, [0.229, 0.224, 0.225]), "are on the scale 0-1"),
        ((*RGB, MEAN, [0.5] * 3, STD, [1.0] * 3), "are on the scale 0-1, and pixels here 0-255"),
        ((*RGB, STD, [57.375, 57.12, 58.395]), "mean is not in the order RGB"),
        ((MEAN, [123.675, 116.28, 103.53], STD, [58.4, 57.1, 57.4]), "is not in the order BGR"),
    ],
)
def test_a_mistake_is_no_statement(changes: tuple[Any, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_configuration(make_cfg(*changes), make_file(usual=True))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("MODEL.RESNETS.DEPTH", 101, "MODEL.RESNETS.DEPTH 101 is given by hand, and .*DEPTH 26"),
        (MEAN, [1.0, 2.0, 3.0], r"PIXEL_MEAN \[1.0, 2.0, 3.0\] is given by hand, and .*123.675"),
    ],
)
def test_what_is_given_by_hand_is_not_fitted(
    key: str, value: object, told: str, tmp_path: Path
) -> None:
    write_weights(ResNeXtClassifier(THIN, 3), tmp_path / "w.pth", "native", preprocessing=IMAGENET)
    cfg = make_cfg(key, value)
    with pytest.raises(ValueError, match=told):
        read_needed_overrides(cfg, tmp_path / "w.pth", overridden=[key])
    assert key in read_needed_overrides(cfg, tmp_path / "w.pth")


def test_a_mean_less_than_a_level_away_holds_for_a_training() -> None:
    """detectron2's configurations have its own mean for Detectron's backbones."""
    file = make_file(usual=False, preprocessing=KNOWN["detectron1"])
    check_configuration(make_cfg(), file, training=True)
    near = ["MODEL.PIXEL_MEAN", [103.99, 116.28, 123.675]]
    for changes, training in ((near, True), ([], False)):
        with pytest.raises(ValueError, match="PIXEL_MEAN"):
            check_configuration(make_cfg(*changes), file, training=training)
