"""The doctor: what it finds in files of every kind, and the commands that it writes."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resnext_det.architecture import Architecture
from resnext_det.config import config_file, load_config
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.weights import load_trained_config
from resnext_det.resnext import ResNeXt
from resnext_det.weights import KNOWN, load_weights, read_weights
from resnext_det.weights.doctor.description import KEYS
from resnext_det.weights.doctor.diagnosis import compare, diagnose, list_files
from resnext_det.weights.health import check_numbers
from resnext_det.weights.requirements import check_configuration
from resnext_det.weights.trained_detector import describe_training
from resnext_det.weights.writing import write_weights
from tests.tools.helpers import load_tool
from tests.weights.helpers import (
    HEADS,
    SMALL,
    THIN,
    classifier,
    configuration,
    detector,
    fill_randomly,
    list_keys,
    save,
    torchvision_network,
    torchvision_retinanet,
)
from tests.weights.test_conversion import run_of_ours
from tests.weights.test_health import QUICKSTART

OWN = {"file", "usable", "error", "lacks", "faults", "warnings", "config_file", "overrides"}


def backbone(norm: str = "BN") -> dict[str, Tensor]:
    model = ResNeXt(QUICKSTART, norm=norm, out_features=("res5",))
    return fill_randomly(model).state_dict()


def diagnose_state(state: object, folder: Path, **options: Any) -> dict[str, Any]:
    return diagnose(str(save(state, folder)), **options)


def test_a_file_of_torchvision(tmp_path: Path) -> None:
    """Its names tell the network; what they suggest of the training is usual, and not known."""
    found = diagnose_state(fill_randomly(torchvision_network()).state_dict(), tmp_path)
    assert set(found) == {*KEYS, *OWN, "commands"}
    assert (found["usable"], found["error"], found["faults"]) == (True, None, [])
    assert (found["architecture"], found["kind"], found["classes"]) == (str(THIN), "classifier", 7)
    assert (found["dtype"], found["batch_norm"], found["lacks"]) == ("float32", "statistics", [])
    assert {"channel_order", "mean", "std", "stride_in_1x1"} <= set(found["usual"])
    assert found["origins"]["batch_norm"] == "the weights"
    assert found["config_file"].startswith("modern/") and "classify" in found["commands"]


def test_what_a_file_says_is_known(tmp_path: Path) -> None:
    write_weights(classifier(), tmp_path / "w.pkl", preprocessing=KNOWN["msra"])
    found = diagnose(str(tmp_path / "w.pkl"))
    assert "mean" not in found["usual"] and found["origins"]["mean"] == "the file"
    assert found["overrides"].keys() >= {"INPUT.FORMAT", "MODEL.RESNETS.STRIDE_IN_1X1"}


def test_half_precision(tmp_path: Path) -> None:
    state = {name: t.half() if t.ndim > 1 else t for name, t in backbone().items()}
    assert diagnose_state(state, tmp_path)["dtype"] == "float16, float32"


@pytest.mark.parametrize(
    ("dropped", "lacks", "fault"),
    [
        ("res5", ["res5", "preprocessing"], None),
        ("running_", ["preprocessing"], None),
        ("norm", ["preprocessing"], "29 of 29 norms are missing"),
        ("res3.0.conv1.norm.running_var", ["preprocessing"], "1 of 29 statistics of norms"),
        ("res3.0.conv1.norm.weight", ["preprocessing"], "1 of 29 norms are missing"),
        ("res3.0.conv1.weight", ["network"], "the weights lack res3.0.conv1.weight"),
    ],
)
def test_what_is_lacking(dropped: str, lacks: list[str], fault: str | None, tmp_path: Path) -> None:
    """Load every file that the doctor calls whole; every other is refused."""
    state = {name: tensor for name, tensor in backbone().items() if dropped not in name}
    found = diagnose_state(state, tmp_path)
    assert (found["lacks"], found["usable"]) == (lacks, fault is None)
    assert fault is None or found["faults"][0].startswith(fault)
    norm = "GN" if dropped == "running_" else "BN"
    features = ("res4",) if dropped == "res5" else ("res5",)
    model = ResNeXt(QUICKSTART, norm=norm, out_features=features)
    if fault is None:
        assert not load_weights(model, found["path"]).missing
    else:
        with pytest.raises(ValueError):
            load_weights(model, found["path"])


def test_group_norms_get_their_configuration(tmp_path: Path) -> None:
    found = diagnose_state(backbone("GN"), tmp_path)
    assert found["batch_norm"] == "none" and found["overrides"]["MODEL.RESNETS.NORM"] == "GN"
    assert any("group norms" in warning for warning in found["warnings"])


def test_a_network_without_shortcuts_is_no_backbone(tmp_path: Path) -> None:
    model = ResNeXt(replace(QUICKSTART, shortcuts=False), norm="BN", out_features=("res5",))
    (fault,) = diagnose_state(fill_randomly(model).state_dict(), tmp_path)["faults"]
    assert "no shortcuts" in fault


def test_an_rpn_needs_no_res5(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in backbone().items() if "res5" not in name}
    found = diagnose_state(state, tmp_path)
    assert found["config_file"].startswith("two_step/rpn_")
    pairs = [word for pair in found["overrides"].items() for word in pair]
    cfg = load_config(config_file(found["config_file"]), [*pairs, "MODEL.DEVICE", "cpu"])
    assert load_weights(build_detector(cfg), found["path"]).loaded


def test_folded_norms_stay_frozen(tmp_path: Path) -> None:
    state = backbone()
    for name, tensor in state.items():
        if "running" in name:
            tensor.fill_(float("var" in name))
    found = diagnose_state(state, tmp_path)
    assert found["usable"] and any("FrozenBN" in warning for warning in found["warnings"])


@pytest.mark.parametrize("head", HEADS)
def test_a_detector_of_another_program(head: str, tmp_path: Path) -> None:
    """Its names tell its kind; config.yaml beside it is its configuration."""
    run_of_ours(tmp_path, head)
    path = str(tmp_path / "model_final.pth")
    found = diagnose(path)
    assert (found["kind"], found["classes"]) == ("detector", 5)
    assert found["config_file"] == str(tmp_path / "config.yaml") and found["lacks"] == []
    assert found["origins"]["mean"] == "config.yaml"
    (tmp_path / "config.yaml").unlink()
    found = diagnose(path)
    assert found["lacks"] == ["preprocessing", "configuration"]
    assert head in found["config_file"]
    assert found["overrides"]["MODEL.ROI_HEADS.NUM_CLASSES"] == 5


@pytest.mark.detectron2
@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x", "FPN"),
        ("COCO-Detection/faster_rcnn_R_50_C4_1x", "C4"),
        ("COCO-Detection/faster_rcnn_R_50_DC5_1x", "DC5"),
        ("COCO-Detection/rpn_R_50_C4_1x", "rpn_"),
        ("COCO-Detection/rpn_R_50_FPN_1x", None),
        ("COCO-Detection/retinanet_R_50_FPN_1x", "retinanet_R50_1x64d_FPN_1x"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x", "mask_rcnn_R50_1x64d_C4_1x"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", "mask_rcnn_R50_1x64d_FPN_1x"),
        ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x", None),
        ("Misc/cascade_mask_rcnn_R_50_FPN_1x", "cascade_mask_rcnn_R50_1x64d_FPN_1x"),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x", None),
    ],
)
def test_detectors_of_detectron2s_zoo(config: str, kind: str | None, tmp_path: Path) -> None:
    """Recommend the backbone of a detector for whose kind no configuration is shipped."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.model_zoo import get_config_file
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(f"{config}.yaml"))
    small = Architecture(50, 4, 8, stem_channels=8, res2_channels=32)
    heads = ["MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.FPN.OUT_CHANNELS", 32]
    cfg.merge_from_list([*list_keys(small), "MODEL.DEVICE", "cpu", *heads])
    found = diagnose_state({"model": fill_randomly(build_model(cfg)).state_dict()}, tmp_path)
    assert found["architecture"] == str(small) and "configuration" in found["lacks"]
    if "rcnn" in config:
        assert found["classes"] == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if "retinanet" in config:
        assert found["classes"] == cfg.MODEL.RETINANET.NUM_CLASSES
    if kind is None:
        assert any("no shipped configuration" in warning for warning in found["warnings"])
        assert "--backbone-only" in found["commands"]["convert"]
        assert "--weights backbone.safetensors" in found["commands"]["train"]
    else:
        assert kind in found["config_file"] and "convert" not in found["commands"]


# Of detectors that are small enough for a test, which no file tells.
SMALL_HEADS = {
    "retinanet": ["MODEL.FPN.OUT_CHANNELS", 16],
    "cascade_rcnn": ["MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 8],
    "cascade_mask_rcnn": ["MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 8],
}


@pytest.mark.parametrize("kind", SMALL_HEADS)
def test_what_is_advised_for_a_detector_loads_it(kind: str, tmp_path: Path) -> None:
    advised = f"modern/{kind}_X50_32x4d_FPN_1x.yaml"
    thin = ["MODEL.RESNETS.DEPTH", 26, "MODEL.RESNETS.WIDTH_PER_GROUP", 2]
    model = build_detector(load_config(advised, [*thin, *SMALL_HEADS[kind]]))
    found = diagnose_state(fill_randomly(model).state_dict(), tmp_path)
    assert found["config_file"] == advised and found["classes"] == 80
    check_advice_loads(found, *SMALL_HEADS[kind])


def test_a_retinanet_of_torchvision_or_mlperf_is_named(tmp_path: Path) -> None:
    """Of other classes than MLPerf's images are not stretched."""
    for classes, changed in ((264, False), (3, True)):
        model = fill_randomly(torchvision_retinanet(classes))
        found = diagnose_state(model.state_dict(), tmp_path)
        assert found["config_file"] == "mlperf/retinanet_X50_32x4d_FPN.yaml"
        assert found["classes"] == classes
        assert ("MODEL.RETINANET.NUM_CLASSES" in found["overrides"]) == changed
        assert ("INPUT.STRETCH" in found["overrides"]) == changed
        check_advice_loads(found, *SMALL_HEADS["retinanet"])


def check_advice_loads(found: dict[str, Any], *small: Any) -> None:
    """Check that the shipped configuration, with what is to change in it, takes the file."""
    pairs = [str(word) for pair in found["overrides"].items() for word in pair]
    model = build_detector(load_config(config_file(found["config_file"]), [*pairs, *small]))
    report = load_weights(model, found["file"])
    assert (report.missing, report.unused) == ((), ())


def save_detector(path: Path, *changes: object) -> dict[str, Any]:
    """Save a detector that knows its configuration, as a training does; returns its diagnosis."""
    cfg = configuration(*changes)
    metrics = {"cells_val": {"AP": 42.125, "AP50": 60.0, "AP-cell": 42.125}}
    content = {
        "model": fill_randomly(build_detector(cfg)).state_dict(),
        "detector": describe_training(cfg, list("abcde"), metrics).as_dict(),
    }
    torch.save(content, path)
    return diagnose(str(path))


def test_a_detector_that_knows_itself(tmp_path: Path) -> None:
    found = save_detector(tmp_path / "model_final.pth")
    assert (found["config_file"], found["overrides"], found["lacks"]) == (None, {}, [])
    assert found["metrics"]["cells_val"]["AP"] == 42.125
    assert found["class_names"] == list("abcde") and found["classes"] == 5
    assert "--config-file" not in found["commands"]["predict"]
    assert load_trained_config(found["file"]).MODEL.ROI_HEADS.NUM_CLASSES == 5


def test_a_detector_of_gray_images_has_one_mean(tmp_path: Path) -> None:
    gray = ["INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [97.5], "MODEL.PIXEL_STD", [31.25]]
    found = save_detector(tmp_path / "gray.pth", *gray)
    assert found["preprocessing"]["channel_order"] == "L"
    assert (found["preprocessing"]["mean"], found["preprocessing"]["std"]) == ([97.5], [31.25])
    assert found["origins"]["mean"] == "the file" and found["lacks"] == []


def test_numbers_that_are_broken_make_a_file_unusable(tmp_path: Path) -> None:
    state = backbone()
    state["res2.0.conv2.weight"][0] = torch.nan
    found = diagnose_state(state, tmp_path)
    assert not found["usable"] and found["error"] is None and found["architecture"]
    assert found["config_file"] is None and found["commands"] == {}
    with pytest.raises(ValueError, match=re.escape(f": {found['faults'][0]}. Nothing was")):
        load_weights(ResNeXt(QUICKSTART, out_features=("res5",)), found["path"])


@pytest.mark.parametrize("crc", [True, False])
def test_checksums_tell_damage(crc: bool, tmp_path: Path) -> None:
    """A bit that makes no number strange; a file that was saved without checksums has none."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(crc)
    try:
        path = save(backbone(), tmp_path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert diagnose(str(path))["usable"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = diagnose(str(path))
    assert found["usable"] != crc and found["error"] is None
    if crc:
        (fault,) = found["faults"]
        assert fault.startswith("damaged: 1 entries are not what their checksums say (")
        assert fault.endswith("; copy or download the file again")


def test_a_classifier_without_res5_is_not_tested(tmp_path: Path) -> None:
    state = fill_randomly(torchvision_network()).state_dict()
    found = diagnose_state({n: t for n, t in state.items() if "layer4" not in n}, tmp_path)
    assert found["usable"] and found["lacks"] == ["res5"] and found["kind"] == "classifier"
    assert "classify" not in found["commands"]


def test_a_whole_model_is_told_how_to_save_itself(tmp_path: Path) -> None:
    path = tmp_path / "two words.pth"
    torch.save(torchvision_network(), path)
    told = diagnose(str(path))["error"]
    program, _, code, file = shlex.split(told[told.index("python -c") :])[:4]
    assert program == "python" and file == str(path)
    compile(code, "advice", "exec")


def test_a_network_that_was_never_trained_is_not_usable(tmp_path: Path) -> None:
    found = diagnose_state(torchvision_network().state_dict(), tmp_path)
    assert not found["usable"] and found["commands"] == {} and found["warnings"] == []
    assert found["faults"][0].startswith("never trained: ")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"", "is empty"),
        (None, "is not there"),
    ],
)
def test_what_is_not_read_says_why(content: bytes | None, cause: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "w.pth").write_bytes(content)
    found = diagnose(str(tmp_path / "w.pth"))
    assert cause in found["error"] and not found["usable"]
    assert found["faults"] == [found["error"]]
    assert set(found) == {*KEYS, *OWN, "commands"}
    assert all(found[key] is None for key in KEYS)


def test_folders_and_names(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    for name in ("b.pth", "a.safetensors", "notes.txt", "hub/config.json", "hub/model.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "c.pkl").mkdir()
    (tmp_path / "empty").mkdir()
    names = ["resnext://torchvision/X-50-32x4d", "none.pth", str(tmp_path / "empty"), str(hub)]
    first = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.pth")]
    assert list_files([str(tmp_path), *names]) == [*first, *names]
    assert "is a folder without files" in diagnose(str(tmp_path / "empty"))["error"]


def read_pairs(command: str) -> list[str]:
    """Return the KEY VALUE pairs at the end of a command."""
    words = shlex.split(command)
    return words[words.index("OUTPUT_DIR") :]


@pytest.mark.parametrize("publisher", ["torchvision", "msra", "detectron1"])
def test_the_commands_can_be_run(publisher: str, tmp_path: Path) -> None:
    """Their flags are the tools', and under their settings the weights are taken."""
    path = tmp_path / "two words.pkl"
    write_weights(classifier(), path, preprocessing=KNOWN[publisher])
    found = diagnose(str(path))
    assert set(found["commands"]) == {"train", "evaluate", "classify"}
    for command in found["commands"].values():
        program, *words = shlex.split(command)
        tool = {"train": "train_net", "evaluate-classifier": "evaluate_classifier"}[words[0]]
        source = (
            Path(load_tool(tool)["__file__"]).read_text()
            + Path(load_tool(tool)["build_parser"].__code__.co_filename).read_text()
        )
        flags = [word for word in words if word.startswith("--")]
        assert program == "resnext-det" and all(f'"{flag}"' in source for flag in flags)
        assert words[0] == "train" or str(path) in words
        assert "--config-file" not in words or words[-2:] == ["MODEL.DEVICE", "auto"]  # no GPU
    train = shlex.split(found["commands"]["train"])
    assert train[train.index("--weights") + 1] == str(path)
    cfg = load_config(config_file(found["config_file"]), read_pairs(found["commands"]["train"]))
    check_configuration(cfg, read_weights(path))


def test_a_prefix_is_taken_out_first(tmp_path: Path) -> None:
    state = {
        f"{who}.{name}": tensor
        for seed, who in enumerate(("student", "teacher"))
        for name, tensor in fill_randomly(torchvision_network(), seed).state_dict().items()
    }
    assert diagnose_state(state, tmp_path)["error"]
    found = diagnose_state(state, tmp_path, prefix="student.")
    assert found["architecture"] == str(THIN)
    assert "--prefix student." in found["commands"]["convert"]
    assert "--prefix" not in found["commands"]["train"]
    assert "--weights backbone.safetensors" in found["commands"]["train"]


def test_what_the_user_says_is_known(tmp_path: Path) -> None:
    found = diagnose_state(backbone(), tmp_path, preprocessing="fair")
    assert found["preprocessing"]["channel_order"] == "BGR" and found["lacks"] == []
    assert found["origins"]["mean"] == "--preprocessing" and "mean" not in found["usual"]
    assert "--preprocessing fair" in found["commands"]["train"]
    assert found["config_file"].startswith("modern/")
    found = diagnose_state(backbone(), tmp_path, preprocessing="torchvision")
    assert found["config_file"].startswith("quickstart/") and found["overrides"] == {}
    numbers = "RGB:127.5:127.5"
    found = diagnose_state(backbone(), tmp_path, preprocessing=numbers)
    assert found["overrides"]["MODEL.PIXEL_MEAN"] == [127.5] * 3
    assert f"--preprocessing {numbers}" in found["commands"]["train"]


def test_files_of_one_network_are_compared(tmp_path: Path) -> None:
    for name, publisher in (("a", "torchvision"), ("b", "paper"), ("c", "msra"), ("d", None)):
        known = publisher and KNOWN[publisher]
        write_weights(classifier(), tmp_path / f"{name}.pth", "native", preprocessing=known)
    found = [diagnose(str(tmp_path / f"{name}.pth")) for name in "abcd"]
    broken = diagnose(str(tmp_path / "none.pth"))
    other = diagnose_state(backbone(), tmp_path)
    ((network, kinds),) = compare([*found, broken, other]).items()
    assert network == str(THIN)
    names = {images: [Path(file).stem for file in files] for images, files in kinds.items()}
    assert list(names.values()) == [["a", "b"], ["c"], ["d"]]
    assert next(iter(names)).startswith("RGB, mean 123.7 116.3 103.5, std ")
    assert (
        compare(found[:1]) == compare([found[3], {**found[3]}]) == {}
        and len(compare(found[:2])[network]) == 1
    )


def test_a_mapped_file_takes_no_memory(tmp_path: Path) -> None:
    """The pass over the numbers makes no copy: what it reads is the file's own memory."""
    path = save(detector().state_dict(), tmp_path)
    file = read_weights(path, mapped=True)
    assert file.architecture == SMALL
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        check_numbers(file.state)
    assert max((event.cpu_memory_usage for event in profile.function_events), default=0) < 4096
