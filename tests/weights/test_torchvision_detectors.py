"""The weights of torchvision's detectors: a RetinaNet is read whole, of others the backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from resnext_det.weights import KNOWN, read_weights
from tests.weights.helpers import THIN, save, torchvision_retinanet

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return torchvision_retinanet()


def rename_as_before(state: State) -> State:
    """Give the names that torchvision had before 0.13, and that MLPerf's weights have."""
    old = {}
    for name, tensor in state.items():
        if ".inner_blocks." in name or ".layer_blocks." in name:
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        for number in range(4):
            name = name.replace(f"_head.conv.{number}.0.", f"_head.conv.{2 * number}.", 1)
        old[name] = tensor
    assert len(old) == len(state)
    return old


def test_a_retinanet_is_read_whole(model: nn.Module, tmp_path: Path) -> None:
    state = model.state_dict()
    old = rename_as_before(state)
    assert "backbone.fpn.inner_blocks.0.weight" in old
    assert "head.classification_head.conv.6.weight" in old
    for contents in (state, {"model": old, "epoch": 10, "args": {"backbone": "resnext50_32x4d"}}):
        file = read_weights(save(contents, tmp_path))
        assert (file.format, file.architecture, file.left_out) == ("detector", THIN, ())
        assert file.preprocessing == KNOWN["torchvision"]
        assert file.is_usual("mean")
        assert len(file.state) == len(state)
        for ours, theirs in (
            ("backbone.bottom_up.stem.conv1.norm.bias", "backbone.body.bn1.bias"),
            ("backbone.bottom_up.res5.1.conv2.weight", "backbone.body.layer4.1.conv2.weight"),
            ("backbone.fpn_lateral3.weight", "backbone.fpn.inner_blocks.0.0.weight"),
            ("backbone.fpn_output5.bias", "backbone.fpn.layer_blocks.2.0.bias"),
            ("backbone.top_block.p6.weight", "backbone.fpn.extra_blocks.p6.weight"),
            ("head.cls_subnet.2.weight", "head.classification_head.conv.1.0.weight"),
            ("head.bbox_subnet.6.bias", "head.regression_head.conv.3.0.bias"),
            ("head.cls_score.weight", "head.classification_head.cls_logits.weight"),
            ("head.bbox_pred.bias", "head.regression_head.bbox_reg.bias"),
        ):
            assert torch.equal(file.state[ours], state[theirs]), ours


def test_heads_of_other_detectors_are_left_out(model: nn.Module, tmp_path: Path) -> None:
    state = model.state_dict()
    for name in (
        "head.regression_head.bbox_ctrness.weight",
        "head.classification_head.conv.0.1.bias",
    ):
        file = read_weights(save({**state, name: torch.zeros(1)}, tmp_path))
        assert (file.kind, file.architecture) == ("backbone", THIN)
        assert "head.regression_head.bbox_reg.weight" in file.left_out
