"""The C4 head has detectron2's name or ours, and is one head: in every engine, file and check."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.config import get_cfg
from resnext_det.config.checks import uses_c4_head
from resnext_det.config.values import C4_HEADS
from resnext_det.detection.inference import Predictor
from resnext_det.detection.jobs import Job, evaluate, train
from tests.detection.helpers import C4_CHANGES, as_datasets, as_overrides, write_config

pytestmark = pytest.mark.usefixtures("alone")


def test_a_file_of_one_name_goes_on_under_the_other(
    sets: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    engine: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Resumed it has the weights of a run under one name; nothing is said of the other."""
    names = first, second = C4_HEADS if engine == "portable" else C4_HEADS[::-1]
    config = write_config(tmp_path)

    def make_job(folder: str, name: str, steps: int, **fields: Any) -> Job:
        changes = [*C4_CHANGES, "SOLVER.MAX_ITER", steps, "SOLVER.STEPS", ()]
        given = as_overrides([*changes, "MODEL.ROI_HEADS.NAME", name])
        return Job(config, tmp_path / folder, tuple(given), engine, datasets=sets_of, **fields)

    sets_of = as_datasets(sets)
    whole = train(make_job("whole", first, 2))
    train(make_job("moved", first, 1))
    moved = train(make_job("moved", second, 2, resume=True))
    weights = [tmp_path / folder / "model_final.pth" for folder in ("whole", "moved")]
    states = [torch.load(path, weights_only=True)["model"] for path in weights]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    found = evaluate(make_job("again", second, 2, weights=weights[0]))
    for metrics in (moved, found):
        assert str(metrics) == str(whole)
    image = min(sets["tiny_val"][1].iterdir())
    predicted = [Predictor(weights[0], ["MODEL.ROI_HEADS.NAME", name])(image) for name in names]
    assert len(predicted[0]) > 0 and torch.equal(predicted[0].scores, predicted[1].scores)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING and "HEADS" in r.message]


@pytest.mark.parametrize("name", C4_HEADS)
def test_a_detector_without_regions_has_none_whatever_the_name(name: str) -> None:
    """The default is this head's name, also for RetinaNet: its schedule is chosen without res5."""
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NAME = name
    assert uses_c4_head(cfg)
    for cfg.MODEL.META_ARCHITECTURE in ("ProposalNetwork", "RetinaNet"):
        assert not uses_c4_head(cfg)
