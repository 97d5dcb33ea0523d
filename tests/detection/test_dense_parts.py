"""A batch of RetinaNet in parts gives the whole batch's losses and gradients, in both engines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from resnext_det.detection.dense_parts import DenseBatchParts
from tests.detection.helpers import RETINANET_CHANGES
from tests.detection.test_batch_parts import FROZEN, build, compute, flatten

ENGINES = ["portable", pytest.param("detectron2", marks=pytest.mark.detectron2)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("as_torchvision", [False, True])
def test_parts_add_up_to_the_whole_batch(tmp_path: Path, engine: str, as_torchvision: bool) -> None:
    """The average that divides the losses moves once a batch."""
    if engine == "detectron2":
        pytest.importorskip("detectron2", reason="detectron2 is not installed")
        if as_torchvision:
            pytest.skip("detectron2 has no such losses")
    model, _ = build(engine, tmp_path, [*FROZEN, *RETINANET_CHANGES])
    model.as_torchvision = as_torchvision
    model.loss_normalizer = 100.0
    losses, gradients, _ = compute(engine, model)
    expected, model.loss_normalizer = model.loss_normalizer, 100.0
    assert (expected != 100) != as_torchvision
    for parts in (2, 3):
        model.loss_normalizer = 100.0
        found, added, _ = compute(engine, model, DenseBatchParts(model, parts=parts))
        assert model.loss_normalizer == expected
        assert found == pytest.approx(losses, rel=1e-6)
        assert added.keys() == gradients.keys()
        whole = flatten(gradients)
        assert float((flatten(added) - whole).abs().max()) < 1e-6 * float(whole.abs().max())
    assert torch.isfinite(whole).all()


def test_other_losses_are_refused(tmp_path: Path) -> None:
    model, _ = build("portable", tmp_path, [*FROZEN, *RETINANET_CHANGES])
    split = DenseBatchParts(model, parts=2)
    model.forward = lambda samples: {"loss_centerness": torch.zeros(())}
    with pytest.raises(ValueError, match=r"--accumulate does not know .* loss_centerness"):
        compute("portable", model, split)
