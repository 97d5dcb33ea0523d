"""A job and a predictor compute by the backend that they are told, on either engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.detection.inference import Predictor
from resnext_det.detection.jobs import Job, evaluate, find_engine
from resnext_det.detection.portable.build import build_detector
from tests.detection.helpers import as_datasets, write_config

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Write a configuration and the weights of a detector that finds things everywhere."""
    config = write_config(tmp_path)
    torch.manual_seed(0)
    model: Any = build_detector(find_engine("portable").load_config(config))
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    return config, tmp_path / "weights.pth"


def read_scores(folder: Path) -> torch.Tensor:
    rows = json.loads((folder / "inference" / "coco_instances_results.json").read_text())
    return torch.tensor([row["score"] for row in rows])


def test_an_evaluation_by_a_backend(
    sets: dict[str, tuple[Path, Path]], files: tuple[Path, Path], tmp_path: Path, engine: str
) -> None:
    config, weights = files
    found = {}
    for name, options in {"exact": {}, "fast": {"backend": "folded"}}.items():
        job = Job(
            config,
            tmp_path / name,
            engine=engine,
            datasets=as_datasets(sets),
            weights=weights,
            **options,  # type: ignore[arg-type]
        )
        evaluate(job)
        found[name] = read_scores(tmp_path / name)
    assert len(found["exact"]) == len(found["fast"]) > 0
    assert torch.allclose(found["exact"], found["fast"], atol=1e-5)


def test_a_predictor_with_a_backend(
    sets: dict[str, tuple[Path, Path]], files: tuple[Path, Path]
) -> None:
    config, weights = files
    cfg = find_engine("portable").load_config(config, ["MODEL.WEIGHTS", str(weights)])
    image = min(sets["tiny_val"][1].iterdir())
    exact, fast = Predictor(cfg)(image), Predictor(cfg, backend="folded")(image)
    assert len(exact) == len(fast) > 0
    assert torch.allclose(exact.scores, fast.scores, atol=1e-5)
    assert torch.allclose(exact.pred_boxes.tensor, fast.pred_boxes.tensor, atol=1e-2)


def test_what_is_refused(files: tuple[Path, Path]) -> None:
    config, weights = files
    with pytest.raises(ValueError, match="backend 'tensorrt' is unknown; choose one of auto"):
        Predictor("nowhere.pth", backend="tensorrt")
    with pytest.raises(ValueError, match="backend 'tensorrt' is unknown; choose one of auto"):
        evaluate(Job("nowhere.yaml", weights=weights, backend="tensorrt"))
    load_config = find_engine("portable").load_config
    cfg = load_config(config, ["MODEL.WEIGHTS", str(weights)])
    with pytest.raises(ValueError, match="dtype 'float8' is not supported; choose one of float32"):
        Predictor(cfg, backend="folded", dtype="float8")
    with pytest.raises(ValueError, match=r"give --dtype int8 and --calibration-data .* together"):
        Predictor(cfg, dtype="int8")


@pytest.mark.slow
def test_an_evaluation_in_int8(
    sets: dict[str, tuple[Path, Path]], files: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("nncf")
    config, weights = files
    shared: dict[str, Any] = {"datasets": as_datasets(sets), "weights": weights}
    evaluate(Job(config, tmp_path / "exact", engine="portable", **shared))
    int8 = {"backend": "openvino", "dtype": "int8", "calibration_data": sets["tiny_val"]}
    evaluate(Job(config, tmp_path / "int8", engine="portable", **shared, **int8))
    exact, found = (read_scores(tmp_path / name) for name in ("exact", "int8"))
    assert len(found) > 0
    assert abs(float(found.mean() - exact.mean())) < 0.1 * float(exact.mean())
