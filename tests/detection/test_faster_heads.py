"""Compare heads that are faster to train with the exact ones: equal, within rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.config import load_config
from tests.detection.helpers import CASCADE_CHANGES, WIDE, as_overrides, override, write_config
from tests.detection.test_batch_parts import build, compute, flatten

FASTER = [
    *override("MODEL.RPN", HEAD_NAME="ResNeXtSparseRPNHead"),
    *override("MODEL.ROI_HEADS", NAME="ResNeXtStandardROIHeads"),
]
FASTER_CASCADE = [*FASTER, *override("MODEL.ROI_HEADS", NAME="ResNeXtCascadeROIHeads")]


@pytest.mark.parametrize(
    ("exact", "faster"),
    [([], FASTER), (CASCADE_CHANGES, FASTER_CASCADE)],
    ids=["FPN", "cascade"],
)
def test_losses_and_gradients_are_those_of_the_exact_heads(
    exact: list[Any], faster: list[Any], tmp_path: Path, engine: str
) -> None:
    results: list[Any] = []
    for changes in (exact, [*exact, *faster]):
        torch.manual_seed(0)
        model, _ = build(engine, tmp_path, [*WIDE, *changes])
        results.append(compute(engine, model))
    (losses, gradients, state), (faster_losses, faster_gradients, faster_state) = results
    kind = "CascadeROIHeads" if exact else "StandardROIHeads"
    assert type(model.roi_heads).__name__.endswith(kind)
    assert faster_losses == pytest.approx(losses, rel=1e-5)
    whole, difference = flatten(gradients), flatten(faster_gradients) - flatten(gradients)
    assert 0 < torch.linalg.vector_norm(difference) < 1e-5 * torch.linalg.vector_norm(whole)
    assert torch.equal(state, faster_state)


@pytest.mark.parametrize("faster", [FASTER, [*CASCADE_CHANGES, *FASTER_CASCADE]])
def test_roi_pool_is_refused(faster: list[Any], tmp_path: Path) -> None:
    changes = [*faster, "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"]
    with pytest.raises(ValueError, match=r"computes RoIAlign alone; write ROIAlignV2, or MODEL"):
        load_config(write_config(tmp_path), as_overrides(changes))
