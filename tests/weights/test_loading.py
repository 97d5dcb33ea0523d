"""Weights into networks: whose they are, where they go, and what is refused."""

from __future__ import annotations

import logging
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from resnext_det.architecture import Architecture
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.weights import load_detector
from resnext_det.resnext import ResNeXt, ResNeXtClassifier
from resnext_det.weights import load_weights, read_weights
from tests.weights.helpers import (
    FPN,
    HEADS,
    SMALL,
    STAGES,
    configuration,
    detector,
    fill_randomly,
    list_keys,
    save,
)
from tests.weights.hostile import Call

ONE = torch.ones(1)


def catch_error(model: nn.Module, path: Path | str, **options: Any) -> str:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_weights(model, path, **options)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items()), (
        "half a file was loaded"
    )
    return str(caught.value)


# --- what is loaded


@pytest.fixture(scope="module", params=["resnext50_32x4d", "resnet50"])
def foreign(request: pytest.FixtureRequest) -> tuple[nn.Module, Architecture]:
    """torchvision's network with random numbers, and its architecture."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(request.param, weights=None)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(*((0.5, 1.5) if name.endswith("var") else (-0.2, 0.2)))
    return model.eval().double(), Architecture.parse(
        "X-50-32x4d" if "next" in request.param else "R-50"
    )


@torch.no_grad()
def test_torchvisions_weights_give_torchvisions_features(
    foreign: tuple[nn.Module, Architecture], tmp_path: Path
) -> None:
    theirs, architecture = foreign
    path = save(theirs.state_dict(), tmp_path)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    res4 = theirs.layer3(theirs.layer2(theirs.layer1(stem)))
    res5 = theirs.layer4(res4)

    backbone = ResNeXt(architecture, out_features=("res4", "res5")).double()
    report = load_weights(backbone, path)
    assert (report.format, report.missing, report.unused) == (
        "torchvision",
        (),
        ("linear.weight", "linear.bias"),
    )
    features = backbone(images)
    torch.testing.assert_close(features["res4"], res4)
    torch.testing.assert_close(features["res5"], res5)

    classifier = ResNeXtClassifier(architecture).eval().double()
    report = load_weights(classifier, path)
    assert (report.missing, report.unused, len(report.loaded)) == ((), (), len(theirs.state_dict()))
    torch.testing.assert_close(classifier(images), theirs(images))

    keys = list_keys(architecture)
    c4: Any = detector(*keys).eval().double()
    report = load_weights(c4, path)
    assert {name.split(".")[0] for name in report.missing} == {"proposal_generator", "roi_heads"}
    assert all("rpn_head" in name or "box_predictor" in name for name in report.missing)
    torch.testing.assert_close(c4.backbone(images)["res4"], res4)
    torch.testing.assert_close(c4.roi_heads.res5(res4), res5)

    fpn: Any = detector(*keys, *FPN).eval().double()
    report = load_weights(fpn, path)
    assert not any("bottom_up" in name for name in report.missing)
    assert any("fpn_lateral5" in name for name in report.missing)
    torch.testing.assert_close(fpn.backbone.bottom_up(images)["res5"], res5)


def test_mmpretrains_names_are_torchvisions_with_prefixes(
    foreign: tuple[nn.Module, Architecture], tmp_path: Path
) -> None:
    theirs, architecture = foreign
    state = {
        f"head.{name}" if name.startswith("fc.") else f"backbone.{name}": tensor
        for name, tensor in theirs.state_dict().items()
    }
    classifier = ResNeXtClassifier(architecture)
    report = load_weights(classifier, save({"state_dict": state}, tmp_path))
    assert (report.format, report.missing, report.unused) == ("mmpretrain", (), ())
    torch.testing.assert_close(
        classifier.linear.weight.double(), state["head.fc.weight"], rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "SyncBN", "FrozenStatisticsBN"])
@pytest.mark.parametrize("source_norm", ["FrozenBN", "BN", "SyncBN"])
def test_batch_norms_of_every_kind_take_each_others_weights(
    source_norm: str, norm: str, tmp_path: Path
) -> None:
    """They differ in whether they count their batches."""
    source = fill_randomly(ResNeXt(SMALL, norm=source_norm, out_features=STAGES))
    path = save({"model": source.state_dict()}, tmp_path)
    model = ResNeXt(SMALL, norm=norm, out_features=STAGES).freeze(2)
    report = load_weights(model, path)
    assert (report.missing, report.unused) == ((), ())
    images = torch.randn(1, 3, 32, 32)
    for name, feature in model.eval()(images).items():
        torch.testing.assert_close(feature, source.eval()(images)[name])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "envelope", ["bare", "model", "state_dict", "model_state", "of several processes", "checkpoint"]
)
def test_a_detector_is_loaded_whole(head: str, envelope: str, tmp_path: Path) -> None:
    source = fill_randomly(detector(*HEADS[head]))
    content: dict[str, Any] = dict(source.state_dict())
    if envelope == "of several processes":
        content = {f"module.{name}": tensor for name, tensor in content.items()}
    elif envelope == "checkpoint":
        content = {
            "model": content,
            "optimizer": {"state": {}},
            "scheduler": {"last_epoch": 1},
            "iteration": 1,
        }
    elif envelope != "bare":
        content = {envelope: content}
    model = fill_randomly(detector(*HEADS[head]), seed=1)
    report = load_weights(model, save(content, tmp_path))
    assert (report.format, report.missing, report.unused, report.new_classes) == (
        "detector",
        (),
        (),
        (),
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name


@pytest.mark.parametrize(
    "prefix", ["", "backbone.", "backbone.bottom_up.", "bottom_up.", "module.backbone."]
)
@pytest.mark.parametrize("head", HEADS)
def test_a_backbone_finds_its_place(head: str, prefix: str, tmp_path: Path) -> None:
    source = fill_randomly(ResNeXtClassifier(SMALL, num_classes=7, norm="BN")).state_dict()
    path = save({f"{prefix}{name}": tensor for name, tensor in source.items()}, tmp_path)
    model = detector(*HEADS[head])
    report = load_weights(model, path)
    assert report.format == "detectron2"
    own = model.state_dict()
    for name, tensor in source.items():
        if name.startswith("linear.") or "num_batches" in name:
            continue
        place = {"FPN": "backbone.bottom_up.", "DC5": "backbone.", "C4": "backbone."}[head] + name
        place = f"roi_heads.{name}" if head == "C4" and name.startswith("res5.") else place
        assert torch.equal(own[place], tensor), name
    assert "keep their random start (" in str(report)
    assert "2 of the file have no place here (" in str(report)


@pytest.mark.detectron2
def test_what_detectron2_has_saved_is_loaded(tmp_path: Path) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.checkpoint import DetectionCheckpointer

    from tests.detection.detectron2_reference import build_detectron2_detector

    cfg = configuration(*FPN, "MODEL.DEVICE", "cpu")
    theirs = fill_randomly(build_detectron2_detector(cfg))
    DetectionCheckpointer(theirs, str(tmp_path)).save("model_final", iteration=9)
    model = build_detector(cfg)
    report = load_weights(model, tmp_path / "model_final.pth")
    assert (report.missing, report.unused) == ((), ())
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_constants_that_old_detectors_have_saved_are_left_out(tmp_path: Path) -> None:
    source = detector(*FPN)
    old = {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    old["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    report = load_weights(detector(*FPN), save({**source.state_dict(), **old}, tmp_path))
    assert report.unused == ()


def test_half_precision_is_loaded_into_float32(tmp_path: Path) -> None:
    source = fill_randomly(ResNeXt(SMALL, out_features=STAGES))
    model = ResNeXt(SMALL, out_features=STAGES)
    load_weights(model, save({name: t.half() for name, t in source.state_dict().items()}, tmp_path))
    assert model.stem.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(
        model.stem.conv1.weight, source.state_dict()["stem.conv1.weight"], atol=1e-3, rtol=0
    )


# --- training on other classes


@pytest.mark.parametrize("absent", [False, True], ids=["other classes", "predictor absent"])
@pytest.mark.parametrize("head", HEADS)
def test_a_detector_of_other_classes_is_a_start_for_training(
    head: str, absent: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = fill_randomly(detector(*HEADS[head], "MODEL.ROI_HEADS.NUM_CLASSES", 9)).state_dict()
    predictor = {name for name in source if "box_predictor" in name}
    path = save(
        {name: t for name, t in source.items() if not absent or name not in predictor}, tmp_path
    )
    model = detector(*HEADS[head])
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        report = load_weights(model, path, allow_new_heads=True)
    assert set(report.new_classes) == predictor
    assert len(predictor) == 4
    assert (report.missing, report.unused) == ((), ())
    assert (
        "the file has other classes, so 4 start at random (roi_heads.box_predictor" in caplog.text
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, start[name] if name in predictor else source[name]), name


def test_class_agnostic_boxes_are_kept(tmp_path: Path) -> None:
    keys = ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
    path = save(detector(*keys, "MODEL.ROI_HEADS.NUM_CLASSES", 9).state_dict(), tmp_path)
    report = load_weights(detector(*keys), path, allow_new_heads=True)
    assert [name.split(".", 2)[2] for name in report.new_classes] == [
        "cls_score.weight",
        "cls_score.bias",
    ]


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_as_many_classes_of_other_names_start_anew(
    count: int, agnostic: bool, tmp_path: Path
) -> None:
    keys = [
        "MODEL.ROI_HEADS.NUM_CLASSES",
        count,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
        agnostic,
    ]
    names = tuple(f"class {number}" for number in range(count))
    file = read_weights(save(fill_randomly(detector(*FPN, *keys)).state_dict(), tmp_path))
    file = replace(file, class_names=names)
    other = (*names[:-1], "another")
    report = load_weights(detector(*FPN, *keys), file, class_names=other, allow_new_heads=True)
    restarted = {name.split(".")[2] for name in report.new_classes}
    assert restarted == ({"cls_score"} if agnostic else {"cls_score", "bbox_pred"})
    same = load_weights(detector(*FPN, *keys), file, class_names=names, allow_new_heads=True)
    assert same.new_classes == ()


MASKS = ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8]


@pytest.mark.parametrize("head", HEADS)
def test_a_training_gets_a_mask_head_that_the_file_lacks(
    head: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = fill_randomly(detector(*HEADS[head])).state_dict()
    model, path = detector(*HEADS[head], *MASKS), save(source, tmp_path)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        report = load_weights(model, path, allow_new_heads=True)
    assert set(report.new_masks) == start.keys() - source.keys()
    assert all(name.startswith("roi_heads.mask_head.") for name in report.new_masks)
    assert (report.missing, report.unused, report.new_classes) == ((), (), ())
    told = f"the file has no masks, so {len(report.new_masks)} of the mask head start at random"
    assert [told in record.getMessage() for record in caplog.records] == [True]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.get(name, start[name])), name
    text = catch_error(detector(*HEADS[head], *MASKS), path)
    assert "the file has no masks: write MODEL.MASK_ON False. (A training takes it" in text


@pytest.mark.parametrize("head", HEADS)
def test_a_training_leaves_out_a_mask_head_that_the_model_lacks(
    head: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = fill_randomly(detector(*HEADS[head], *MASKS)).state_dict()
    model, path = detector(*HEADS[head]), save(source, tmp_path)
    with caplog.at_level(logging.WARNING):
        report = load_weights(model, path, allow_new_heads=True)
    own = model.state_dict()
    assert set(report.no_masks) == source.keys() - own.keys()
    told = f"so {len(report.no_masks)} of the file's mask head are left out"
    assert [told in record.getMessage() for record in caplog.records] == [True]
    assert all(torch.equal(tensor, source[name]) for name, tensor in own.items())
    text = catch_error(detector(*HEADS[head]), path)
    assert "the file has masks: write MODEL.MASK_ON True. (A training takes it" in text


def test_half_a_mask_head_is_no_start(tmp_path: Path) -> None:
    source = detector(*FPN, *MASKS).state_dict()
    del source["roi_heads.mask_head.deconv.weight"]
    text = catch_error(detector(*FPN, *MASKS), save(source, tmp_path), allow_new_heads=True)
    assert "1 names are missing in the file (roi_heads.mask_head.deconv.weight)" in text


@pytest.mark.detectron2
@pytest.mark.parametrize("masks", [True, False], ids=["to masks", "from masks"])
def test_other_masks_are_started_as_by_detectron2(masks: bool, tmp_path: Path) -> None:
    """From one seed both begin with the same numbers, those of the random mask head too."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.checkpoint import DetectionCheckpointer

    from resnext_det.detection.detectron2.engine import build_detector as build_theirs
    from resnext_det.detection.detectron2.engine import load_config as load_their_config

    given, wanted = ([], MASKS) if masks else (MASKS, [])
    path = save(fill_randomly(detector(*FPN, *given)).state_dict(), tmp_path)
    (tmp_path / "small.yaml").write_text(configuration(*FPN, *wanted).dump())
    torch.manual_seed(0)
    theirs = build_theirs(load_their_config(tmp_path / "small.yaml", ["MODEL.DEVICE", "cpu"]))
    torch.manual_seed(0)
    ours = detector(*FPN, *wanted)
    DetectionCheckpointer(theirs).load(str(path))
    load_weights(ours, path, allow_new_heads=True)
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("masks", [5, 1])
def test_masks_and_retinanet_have_outputs_for_classes_too(masks: int, tmp_path: Path) -> None:
    """The layers have detectron2's names. One mask a region, of any class, is kept."""

    def build() -> Any:
        model = detector(*FPN)
        model.roi_heads.mask_head = nn.ModuleDict(
            {"mask_fcn1": nn.Conv2d(2, 2, 1), "predictor": nn.Conv2d(2, masks, 1)}
        )
        model.head = nn.ModuleDict(
            {"cls_score": nn.Conv2d(2, 5, 1), "bbox_pred": nn.Conv2d(2, 4, 1)}
        )
        return model

    names = tuple("abcde")
    file = replace(read_weights(save(build().state_dict(), tmp_path)), class_names=names)
    report = load_weights(build(), file, class_names=tuple("abcdx"), allow_new_heads=True)
    expected = {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "head.cls_score",
    }
    expected |= {"roi_heads.mask_head.predictor"} if masks == 5 else set()
    assert {name.rpartition(".")[0] for name in report.new_classes} == expected


def test_the_same_classes_are_all_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(detector(*FPN).state_dict(), tmp_path)
    with caplog.at_level(logging.WARNING):
        report = load_weights(detector(*FPN), path, allow_new_heads=True)
    assert report.new_classes == ()
    assert caplog.text == ""


def test_other_classes_are_refused_where_nothing_is_trained(tmp_path: Path) -> None:
    path = save(detector(*FPN, "MODEL.ROI_HEADS.NUM_CLASSES", 9).state_dict(), tmp_path)
    text = catch_error(detector(*FPN), path)
    assert "it has 9 classes, and the model 5; write MODEL.ROI_HEADS.NUM_CLASSES 9" in text
    with pytest.raises(ValueError, match="it has 9 classes, and the model 5"):
        load_detector(detector(*FPN), read_weights(path))


def test_nothing_but_the_predictor_may_differ(tmp_path: Path) -> None:
    """Not its features, and no other part."""
    wider = detector(*FPN, "MODEL.ROI_BOX_HEAD.FC_DIM", 24, "MODEL.ROI_HEADS.NUM_CLASSES", 9)
    text = catch_error(detector(*FPN), save(wider.state_dict(), tmp_path), allow_new_heads=True)
    assert "roi_heads.box_head.fc1.weight is (24, 144), not (16, 144)" in text
    assert "use the configuration that the file was trained with (config.yaml beside it)" in text
    text = catch_error(
        detector(*FPN), save(detector().state_dict(), tmp_path), allow_new_heads=True
    )
    assert "names are missing in the file (backbone." in text
    assert "of the file have no place in the model (backbone.stem.conv1.weight" in text


def test_a_predictor_on_other_features_is_refused(tmp_path: Path) -> None:
    source = dict(detector(*FPN).state_dict())
    source["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(10, 17)
    text = catch_error(detector(*FPN), save(source, tmp_path), allow_new_heads=True)
    assert "roi_heads.box_predictor.cls_score.weight is (10, 17), not (6, 16)" in text


# --- what is refused


def drop_names(state: dict[str, Tensor], pattern: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not re.search(pattern, name)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda state: drop_names(state, r"^res4\.1\.conv2\.weight"),
            ["1 names are missing in the file (res4.1.conv2.weight)", "DEPTH"],
        ),
        (
            lambda state: drop_names(state, r"^res5\."),
            ["names are missing in the file (res5.0.", "give all the weights"],
        ),
        (
            lambda state: drop_names(state, "running_"),
            ["names are missing", "set MODEL.RESNETS.NORM to the file's, FrozenBN"],
        ),
        (
            lambda state: {**state, "res2.5.conv1.weight": torch.zeros(1)},
            ["1 of the file have no place in the model (res2.5."],
        ),
        (
            lambda state: {**state, "stem.conv1.weight": torch.zeros(8, 1, 7, 7)},
            ["stem.conv1.weight is (8, 1, 7, 7), not (8, 3, 7, 7)", "inflate_input=True"],
        ),
    ],
    ids=["a tensor lacks", "a stage lacks", "no statistics", "a block too many", "another shape"],
)
def test_less_than_the_backbone_or_another_is_refused(
    tmp_path: Path, change: Any, words: list[str]
) -> None:
    path = save(change(dict(fill_randomly(ResNeXtClassifier(SMALL, 7)).state_dict())), tmp_path)
    for model in (ResNeXt(SMALL, out_features=STAGES), ResNeXtClassifier(SMALL, 7)):
        text = catch_error(model, path)
        assert text.startswith(f"{path} does not fit the model: ")
        assert [word for word in words if word not in text] == [], text


def test_a_deeper_net_is_refused_either_way(tmp_path: Path) -> None:
    shallow, deep = (
        ResNeXt(Architecture(depth, 4, 8, 8, 32), out_features=STAGES) for depth in (26, 50)
    )
    assert "have no place in the model" in catch_error(shallow, save(deep.state_dict(), tmp_path))
    assert "are missing in the file" in catch_error(deep, save(shallow.state_dict(), tmp_path))


def test_a_detector_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    path = save(drop_names(dict(detector(*FPN).state_dict()), r"rpn_head\.conv\.bias"), tmp_path)
    assert "1 names are missing in the file (proposal_generator.rpn_head.conv.bias)" in catch_error(
        detector(*FPN), path
    )


def test_a_backbone_alone_is_no_detector_to_predict_with(tmp_path: Path) -> None:
    path = save(ResNeXt(SMALL, out_features=STAGES).state_dict(), tmp_path)
    with pytest.raises(ValueError, match="holds a backbone and not a whole detector"):
        load_detector(detector(*FPN), read_weights(path))


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_file_that_asks_for_code_is_refused_and_runs_none(how: str, tmp_path: Path) -> None:
    path, trap = tmp_path / "weights.pth", tmp_path / "hacked"
    content = {"model": {"stem.conv1.weight": Call(os.mkdir, str(trap))}}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    text = catch_error(ResNeXt(SMALL), path)
    assert "weights_only" not in text  # torch's own text recommends to run it
    assert "model['stem.conv1.weight'] is a call of posix.mkdir (which could run code" in text
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.zeros(3), "there is a Tensor, where tensors by name are needed; save a model"),
        ({}, "there is nothing, where tensors by name are needed"),
        ({"model": {}}, "'model' is a dict, where a tensor is needed"),
        ({"epoch": 5, "state": {"a": ONE}}, "'epoch' is an int, where a tensor is needed"),
        ({"a": ONE, "weight": [1]}, "'weight' is a list, where a tensor is needed"),
        ({1: ONE}, "1 is a Tensor, where a tensor is needed"),
        ({"encoder.weight": ONE}, "weights named encoder.weight are of no known format"),
        (
            dict.fromkeys(("conv1.weight", "layer1.0.conv1.weight", "layer1.0.x"), ONE),
            "'layer1.0.x' is no name of torchvision's ResNeXt: the weights are of another network",
        ),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    assert words in catch_error(ResNeXt(SMALL), save(content, tmp_path))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("https://host/x.pth", "MODEL.WEIGHTS = https://host/x.pth is an address"),
        ("detectron2://a/../b.pkl", "nothing is downloaded from there; download it yourself"),
        ("nowhere/weights.pth", "nowhere/weights.pth is not there; give the path of a file"),
        (".", "is a folder without model.safetensors and pytorch_model.bin, which the hub"),
    ],
)
def test_an_address_and_a_missing_file_are_refused(path: str, words: str) -> None:
    assert words in catch_error(ResNeXt(SMALL), path)


def test_a_model_without_a_stem_is_refused(tmp_path: Path) -> None:
    path = save(ResNeXt(SMALL).state_dict(), tmp_path)
    assert "the model has no stem" in catch_error(nn.Linear(1, 1), path)


# --- the report


def test_the_report_counts_by_module(tmp_path: Path) -> None:
    source = dict(fill_randomly(ResNeXtClassifier(SMALL, 7, norm="BN")).state_dict())
    modules = load_weights(detector(*FPN), save(source, tmp_path)).count_by_module()
    assert list(modules)[:6] == [
        f"backbone.bottom_up.{name}" for name in ("stem", *STAGES, "linear")
    ]
    assert {name: counts["loaded"] for name, counts in modules.items() if counts["loaded"]} == {
        "backbone.bottom_up.stem": 5,
        **{
            f"backbone.bottom_up.{stage}": 35 for stage in STAGES
        },  # 2 blocks, 7 convolutions of 5 tensors
    }
    assert modules["backbone.bottom_up.linear"]["unexpected"] == 2
    assert modules["backbone.fpn_lateral4"]["missing"] == 2
    assert modules["roi_heads.box_predictor"]["missing"] == 4
    c4 = load_weights(detector(), save(source, tmp_path)).count_by_module()
    assert c4["roi_heads.res5"]["loaded"] == 35
    assert "backbone.res5" not in c4


def test_an_error_shows_the_report(tmp_path: Path) -> None:
    source = dict(fill_randomly(ResNeXtClassifier(SMALL, 7)).state_dict())
    source = drop_names(source, r"res4\.")
    source["res3.0.conv1.weight"] = torch.zeros(1)
    source["res2.9.conv1.weight"] = torch.zeros(1)
    text = catch_error(ResNeXtClassifier(SMALL, 7), save(source, tmp_path))
    lines = [line.split() for line in text.partition("by module:\n")[2].splitlines()]
    assert lines[0] == ["module", "loaded", "missing", "unexpected", "wrong", "shape"]
    assert lines[1:] == [
        ["stem", "6", "0", "0", "0"],  # a weight, and a norm's five
        ["res2", "42", "0", "1", "0"],
        ["res3", "41", "0", "0", "1"],
        ["res4", "0", "35", "0", "0"],
        ["res5", "42", "0", "0", "0"],
        ["linear", "2", "0", "0", "0"],
    ]


def test_an_error_names_the_net_of_the_file(tmp_path: Path) -> None:
    path = save(ResNeXtClassifier(Architecture(50, 32, 4)).state_dict(), tmp_path)
    text = catch_error(ResNeXt(Architecture(101, 1, 64), out_features=STAGES), path)
    assert (
        "the file is X-50-32x4d: set MODEL.RESNETS.DEPTH 50, NUM_GROUPS 32, WIDTH_PER_GROUP 4, "
        in text
    )


def test_names_of_a_hostile_file_stay_short_in_the_report(tmp_path: Path) -> None:
    source = dict(fill_randomly(ResNeXtClassifier(SMALL, 7)).state_dict())
    source |= {"res9.\x1b[2J" + "x" * 60_000: torch.ones(1), "y" * 60_000: torch.ones(1)}
    report = load_weights(ResNeXt(SMALL, out_features=STAGES), save(source, tmp_path))
    assert (len(report.unused), len(report.left_out)) == (2, 2)
    assert len(str(report)) + len(report.table()) < 3000
    assert "\x1b" not in str(report) + report.table()


def test_what_was_read_is_loaded_without_reading_it_again(tmp_path: Path) -> None:
    source = fill_randomly(ResNeXt(SMALL, out_features=STAGES))
    path = save(source.state_dict(), tmp_path)
    file = read_weights(path)
    path.unlink()
    model = ResNeXt(SMALL, out_features=STAGES)
    assert load_weights(model, file).missing == ()
    assert all(
        torch.equal(tensor, source.state_dict()[name])
        for name, tensor in model.state_dict().items()
    )


def test_a_loaded_model_does_not_depend_on_the_file(tmp_path: Path) -> None:
    """Its tensors are copies, though the file is mapped while it is read."""
    source = fill_randomly(ResNeXt(SMALL, out_features=STAGES))
    path = save(source.state_dict(), tmp_path)
    model = ResNeXt(SMALL, out_features=STAGES)
    load_weights(model, path)
    path.write_bytes(b"")
    assert all(
        torch.equal(tensor, source.state_dict()[name])
        for name, tensor in model.state_dict().items()
    )


# --- images of other channels


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_conv1_is_inflated_as_timm_does(channels: int, tmp_path: Path) -> None:
    from timm.models._manipulate import adapt_input_conv

    source = fill_randomly(ResNeXtClassifier(SMALL, 7)).state_dict()
    path = save(source, tmp_path)
    model = ResNeXt(SMALL, out_features=STAGES, in_channels=channels)
    assert "load these with inflate_input=True" in catch_error(model, path)
    report = load_weights(model, path, inflate_input=True)
    assert (report.missing, report.wrong_shape) == ((), ())
    expected = adapt_input_conv(channels, source["stem.conv1.weight"])
    torch.testing.assert_close(model.state_dict()["stem.conv1.weight"], expected)


@torch.no_grad()
def test_gray_images_give_the_features_that_they_had_in_three_channels(tmp_path: Path) -> None:
    source: Any = fill_randomly(ResNeXt(SMALL, out_features=STAGES))
    model = ResNeXt(SMALL, out_features=STAGES, in_channels=1)
    load_weights(model, save(source.state_dict(), tmp_path), inflate_input=True)
    gray = torch.randn(1, 1, 40, 40)
    wanted = source(gray.expand(1, 3, 40, 40))
    for name, feature in model(gray).items():
        torch.testing.assert_close(feature, wanted[name], rtol=1e-4, atol=1e-5)


def test_three_channels_stay_as_they_are(tmp_path: Path) -> None:
    path = save(fill_randomly(ResNeXt(SMALL)).state_dict(), tmp_path)
    models = [ResNeXt(SMALL), ResNeXt(SMALL)]
    for model, inflate in zip(models, (False, True)):
        load_weights(model, path, inflate_input=inflate)
    assert torch.equal(models[0].stem.conv1.weight, models[1].stem.conv1.weight)


# --- folded batch norms


def save_folded(path: Path) -> Path:
    """As Detectron 1 has them."""
    state = fill_randomly(ResNeXtClassifier(SMALL, 7)).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.zero_()
        elif name.endswith("running_var"):
            tensor.fill_(1)
    return save(state, path)


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN", "FrozenStatisticsBN"])
def test_folded_norms_are_not_trained_as_batch_norms(norm: str, tmp_path: Path) -> None:
    path = save_folded(tmp_path)
    model = ResNeXt(SMALL, norm=norm, out_features=STAGES).freeze(2)
    if norm.startswith("Frozen"):
        assert load_weights(model, path).missing == ()
    else:
        text = catch_error(model, path)
        assert (
            "has its batch norms folded into scale and bias, and the model would train 21 of them"
            in text
        )
        assert "write MODEL.RESNETS.NORM FrozenBN" in text
    load_weights(model.freeze(5), path)  # frozen they are right


def test_an_untrained_network_is_not_taken_for_a_folded_one(tmp_path: Path) -> None:
    source = ResNeXt(SMALL, norm="BN", out_features=STAGES)
    load_weights(
        ResNeXt(SMALL, norm="BN", out_features=STAGES), save(source.state_dict(), tmp_path)
    )
