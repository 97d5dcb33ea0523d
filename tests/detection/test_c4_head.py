"""The C4 head has detectron2's name or ours, and is one head: in every engine, file and check.

The one that shares work between regions has its parameters, and its numbers within rounding.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.config import get_cfg, load_config
from resnext_det.config.names import C4_HEADS, SHARED_C4_HEAD
from resnext_det.config.parts import uses_c4_head
from resnext_det.detection.inference import Predictor
from resnext_det.detection.jobs import Job, evaluate, train
from resnext_det.shared_res5 import copy_with_exact_head, exchange_c4_head
from tests.detection.helpers import C4_CHANGES, as_datasets, as_overrides, override, write_config

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


def build(engine: str, path: Path, *changes: Any) -> Any:
    """Build a small C4 detector of random weights in inference."""
    torch.manual_seed(0)
    overrides = as_overrides([*C4_CHANGES, *changes])
    if engine == "portable":
        from resnext_det.detection.portable.build import build_detector

        return build_detector(load_config(path, overrides)).eval()
    from resnext_det.detection.detectron2 import engine as detectron2

    return detectron2.build_detector(detectron2.load_config(path, overrides)).eval()


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_an_exact_head_is_exchanged_for_the_one_that_shares(
    tmp_path: Path, engine: str, norm: str
) -> None:
    """Its results are those of a detector that was built so; nothing else is exchanged."""
    config, norms = write_config(tmp_path), override("MODEL.RESNETS", NORM=norm)
    exact = build(engine, config, *norms, "MODEL.ROI_HEADS.NAME", C4_HEADS[1])
    shared = build(engine, config, *norms, "MODEL.ROI_HEADS.NAME", SHARED_C4_HEAD)
    image = torch.randint(0, 255, (3, 64, 96), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = exact([{"image": image}])[0]["instances"]
        assert exchange_c4_head(exact.train()) and not exchange_c4_head(exact)
        assert all(module.training for module in exact.modules())
        assert type(exact.roi_heads) is type(shared.roi_heads)
        assert list(exact.state_dict()) == list(shared.state_dict())
        after, built = (
            model([{"image": image}])[0]["instances"] for model in (exact.eval(), shared)
        )
        again = copy_with_exact_head(shared)
        restored = again([{"image": image}])[0]["instances"]
    assert torch.equal(restored.scores, before.scores) and again is not shared
    assert len(after) == len(before) > 0
    assert torch.equal(after.scores, built.scores)
    torch.testing.assert_close(after.scores, before.scores)
    torch.testing.assert_close(after.pred_boxes.tensor, before.pred_boxes.tensor)


def test_what_shares_nothing_is_not_exchanged(tmp_path: Path, engine: str) -> None:
    config = write_config(tmp_path)
    for changes in (
        [*override("MODEL.RESNETS", NORM="GN", WIDTH_PER_GROUP=16, RES2_OUT_CHANNELS=32)]
        + override("MODEL.RESNETS", STEM_OUT_CHANNELS=32),
        override("MODEL.ROI_BOX_HEAD", POOLER_TYPE="ROIPool"),
    ):
        detector = build(engine, config, *changes)
        kind = type(detector.roi_heads)
        assert not exchange_c4_head(detector)
        assert type(detector.roi_heads) is kind


def test_files_of_both_heads_serve_each_other(
    sets: dict[str, tuple[Path, Path]], tmp_path: Path, engine: str
) -> None:
    """Trained under one name and evaluated under the other, AP is the same."""
    config, names = write_config(tmp_path), (C4_HEADS[1], SHARED_C4_HEAD)

    def make_job(folder: str, name: str, **fields: Any) -> Job:
        changes = [*C4_CHANGES, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", ()]
        given = as_overrides([*changes, "MODEL.ROI_HEADS.NAME", name])
        return Job(
            *(config, tmp_path / folder, tuple(given), engine),
            datasets=as_datasets(sets),
            **fields,
        )

    states = []
    for name, other in (names, names[::-1]):
        trained = train(make_job(name, name))
        weights = tmp_path / name / "model_final.pth"
        assert str(evaluate(make_job("other", other, weights=weights))) == str(trained)
        states.append(torch.load(weights, weights_only=True)["model"])
    assert list(states[0]) == list(states[1])
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-4, atol=1e-5)
