"""DistributedDataParallel trains on our backbone: gradients are the mean of the processes'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

pytestmark = [pytest.mark.detectron2, pytest.mark.slow]
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from tests import fork_server  # noqa: E402
from tests.detection.helpers import override  # noqa: E402

SIZE = [
    *override("MODEL.RESNETS", STEM_OUT_CHANNELS=32, RES2_OUT_CHANNELS=64, OUT_FEATURES=["res4"]),
    *override("MODEL.RESNETS", NUM_GROUPS=2, WIDTH_PER_GROUP=16, NORM="GN"),
]


def build(name: str) -> nn.Module:
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_backbone

    import resnext_det  # noqa: F401

    cfg = get_cfg()
    cfg.merge_from_list([*SIZE, "MODEL.BACKBONE.NAME", name])
    torch.manual_seed(0)
    return build_backbone(cfg, ShapeSpec(channels=3)).double()


def compute_gradients(model: nn.Module, rank: int) -> dict[str, torch.Tensor]:
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(rank))
    model(images.double())["res4"].mean().backward()
    named = getattr(model, "module", model).named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def run_process(rank: int, name: str, folder: str) -> None:
    from detectron2.engine import create_ddp_model

    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    model = create_ddp_model(build(name), broadcast_buffers=False, device_ids=None)
    assert isinstance(model, nn.parallel.DistributedDataParallel)
    torch.save(compute_gradients(model, rank), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["build_resnext_backbone", "build_resnet_backbone"])
def test_gradients_are_the_mean_of_both_processes(name: str, tmp_path: Path) -> None:
    fork_server.start_processes(run_process, args=(name, str(tmp_path)), nprocs=2)
    alone: list[Any] = [compute_gradients(build("build_resnet_backbone"), rank) for rank in (0, 1)]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert list(found) == list(alone[0]) and len(found) > 0
        for key, value in found.items():
            torch.testing.assert_close(value, (alone[0][key] + alone[1][key]) / 2)
