"""A detector's backbone as weights to start another from: of either engine, with the preprocessing of its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.architecture import Architecture
from resnext_det.detection.portable.build import build_detector
from resnext_det.resnext import ResNeXt
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.weights import KNOWN, Preprocessing, load_weights, read_weights
from resnext_det.weights.backbones import backbone_of
from resnext_det.weights.recognition import backbone_of_detector
from resnext_det.weights.writing import write_weights
from tests.weights.test_loading import HEADS, SMALL, configuration, randomized
from tests.weights.test_writing import same_bits

Trained = tuple[dict[str, Any], Preprocessing]


def run_of_ours(folder: Path, head: str) -> Trained:
    """What a training of the portable engine leaves: config.yaml and model_final.pth; its weights and their preprocessing."""
    pixels = ["MODEL.PIXEL_MEAN", [120.0, 110.0, 100.0], "MODEL.PIXEL_STD", [57.0, 58.0, 59.0]]
    cfg = configuration(*HEADS[head], "INPUT.FORMAT", "RGB", *pixels)
    model = randomized(build_detector(cfg))
    Checkpointer(folder).save("model_final", {"model": model.state_dict(), "iteration": 7})
    (folder / "config.yaml").write_text(cfg.dump())
    return model.state_dict(), Preprocessing("RGB", (120.0, 110.0, 100.0), (57.0, 58.0, 59.0))


def run_of_detectron2(folder: Path, head: str) -> Trained:
    """The same of detectron2's."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg as their_cfg
    from detectron2.modeling import build_model

    cfg = their_cfg()
    stages = ["res2", "res3", "res4", "res5"]
    changes = ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.IN_FEATURES", stages]
    changes += ["MODEL.RESNETS.OUT_FEATURES", stages, "MODEL.RPN.IN_FEATURES", ["p2", "p3"]]
    changes += [
        "MODEL.ROI_HEADS.NAME",
        "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES",
        ["p2", "p3"],
    ]
    changes += ["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 1]
    cfg.merge_from_list([*(changes if head == "FPN" else []), "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(["MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4])
    model = randomized(build_model(cfg))
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
    file = backbone_of(read_weights(tmp_path / "model_final.pth"))
    assert (file.format, file.preprocessing) == ("native", preprocessing)
    assert file.architecture == (SMALL if trained is run_of_ours else Architecture(50, 32, 4))
    assert same_bits(file.state, backbone_of_detector(state))
    write_weights(file, tmp_path / "backbone.pkl")
    model = ResNeXt(file.architecture, out_features=("res5",))
    assert len(load_weights(model, tmp_path / "backbone.pkl").loaded) == len(model.state_dict())
    assert same_bits(model.state_dict(), file.state)


def test_a_label_in_the_checkpoint_goes_before_the_configuration_beside_it(tmp_path: Path) -> None:
    state, _ = run_of_ours(tmp_path, "C4")
    torch.save(
        {"model": state, "preprocessing": KNOWN["fair"].as_dict()}, tmp_path / "model_final.pth"
    )
    assert backbone_of(read_weights(tmp_path / "model_final.pth")).preprocessing == KNOWN["fair"]


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
        "INPUT: {FORMAT: L}\nMODEL: {PIXEL_MEAN: [1], PIXEL_STD: [1], RESNETS: {STRIDE_IN_1X1: false}}",
        "INPUT: {FORMAT: RGB}\nMODEL: {PIXEL_MEAN: 1, PIXEL_STD: 2, RESNETS: {STRIDE_IN_1X1: false}}",
    ],
)
def test_a_configuration_that_does_not_say_it(text: str, tmp_path: Path) -> None:
    file = backbone_of(read_weights(without_configuration(tmp_path, text)))
    assert (file.architecture, file.preprocessing) == (SMALL, None)


@pytest.mark.parametrize(
    "text", ["INPUT: {FORMAT", "!!python/object/apply:os.abort []", "\x00", "[" * 5000]
)
def test_a_damaged_configuration_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.yaml is damaged, so the preprocessing of"):
        backbone_of(read_weights(without_configuration(tmp_path, text)))
