"""Recomputed stages give the same bits, and a training that saves memory goes on as another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnext_det.config import load_config
from resnext_det.detection.jobs import Job, train
from resnext_det.detection.memory_saving import MemorySaving, recompute_stages
from resnext_det.detection.portable import engine as portable
from resnext_det.resnext import Bottleneck
from tests.detection.helpers import STAGES, WIDE, as_overrides, write_config
from tests.detection.test_batch_parts import SETTINGS, build, compute, flatten


@pytest.mark.parametrize("setting", ["FPN", "C4", "shared C4"])
def test_recomputed_stages_keep_little_and_give_the_same_bits(
    tmp_path: Path, engine: str, setting: str
) -> None:
    model, _ = build(engine, tmp_path, SETTINGS[setting])
    results, kept, calls = [], [], Counter[nn.Module]()
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    trained = [block.conv2 for block in blocks if block.conv2.weight.requires_grad]
    for convolution in trained:
        convolution.register_forward_hook(lambda module, *_: calls.update([module]))
    for _ in range(2):
        sizes: dict[int, int] = {}

        def note(value: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[value.data_ptr()] = value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            results.append(compute(engine, model))
        kept.append(sum(sizes.values()))
        recompute_stages(model, STAGES)
    (losses, gradients, _), (again, recomputed, _) = results
    assert again == losses
    assert torch.equal(flatten(recomputed), flatten(gradients))
    assert kept[1] < 0.8 * kept[0]
    assert len(trained) > 1
    assert [calls[convolution] for convolution in trained] == [3] * len(trained)  # 1, and then 2


@pytest.mark.usefixtures("registered")
def test_a_training_in_parts_ends_as_one_without_and_resumes_it(tmp_path: Path) -> None:
    weights = []
    for name, saving in (("whole", MemorySaving()), ("parts", MemorySaving(2, ("res3", "res4")))):
        folder = tmp_path / name
        folder.mkdir()
        for length, resume in ((2, False), (4, True)):
            changes = [*WIDE, "OUTPUT_DIR", folder / "out"]
            changes += ["SOLVER.MAX_ITER", length, "SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 0]
            cfg = load_config(write_config(folder), as_overrides(changes))
            portable.train(cfg, resume=resume, saving=saving if resume else MemorySaving())
        state = torch.load(folder / "out" / "model_final.pth", weights_only=True)["model"]
        weights.append(flatten(state))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-6)
    assert not torch.equal(weights[1], weights[0])


@pytest.mark.parametrize(
    ("saving", "words"),
    [
        ({"accumulate": 0}, "0 parts; write --accumulate 1"),
        ({"accumulate": 3}, "a batch of 2 images in each process has no 3 parts"),
        ({"accumulate": 2}, "--accumulate does not go with the batch norm .*stem"),
        ({"recompute": ("res4",)}, "--recompute does not go with the batch norm .*res4"),
        ({"recompute": ("res6",)}, "no stage 'res6' to recompute; choose of res2"),
    ],
)
@pytest.mark.usefixtures("registered")
def test_savings_that_cannot_hold_are_refused(
    tmp_path: Path, engine: str, saving: dict[str, Any], words: str
) -> None:
    """The network has batch norms, which are trained."""
    with pytest.raises(ValueError, match=words):
        train(Job(write_config(tmp_path), tmp_path / "out", engine=engine, **saving))
    assert not list(tmp_path.glob("out/model*"))
