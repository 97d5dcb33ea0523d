"""Files of detectron2's model zoo are found by its names for them, and downloaded once."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from resnext_det.data.proposals import read_proposals
from resnext_det.detection.portable.build import build_detector
from resnext_det.weights import load_weights, read_weights
from resnext_det.weights.published import model_zoo
from resnext_det.weights.published.model_zoo import BASE, find_catalog_name, is_in_zoo
from tests.detection.helpers import CASCADE_CHANGES
from tests.detection.portable.test_faster_rcnn import configuration
from tests.weights.file_server import Server

DETECTOR = "Misc/cascade_mask_rcnn_R_50_FPN_1x/138602847/model_final_e9d89b.pkl"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "resnext://msra/R-50"),
        (f"{BASE}ImageNetPretrained/MSRA/R-101.pkl", "resnext://msra/R-101"),
        ("detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl", "resnext://fair/X-101-32x8d"),
        ("catalog://ImageNetPretrained/FAIR/X-101-64x4d", "resnext://detectron1/X-101-64x4d"),
        ("catalog://ImageNetPretrained/FAIR/R-50-GN", "resnext://detectron1/R-50-GN"),
        ("catalog://ImageNetPretrained/FAIR/R-152-GN", None),
        (f"detectron2://{DETECTOR}", None),
        ("R-50.pkl", None),
    ],
)
def test_backbones_are_those_of_the_catalog(name: str, known: str | None) -> None:
    assert find_catalog_name(name) == known


@pytest.mark.parametrize(
    "name",
    [
        *("detectron2://../a.pkl", "detectron2://a/../b.pkl", "detectron2:///etc/a.pkl"),
        *("detectron2://a.pth", "detectron2://", f"{BASE}a.pkl?x=1", "https://host/a.pkl"),
    ],
)
def test_other_names_are_not_looked_for(name: str) -> None:
    assert not is_in_zoo(name)
    with pytest.raises(ValueError, match="names no file of detectron2's model zoo"):
        model_zoo.locate_zoo_file(name)


@pytest.fixture
def zoo(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Serve the zoo from this machine; small files too."""
    monkeypatch.setattr(model_zoo, "BASE", server.url("/"))
    monkeypatch.setattr(model_zoo, "_SMALLEST", 1)
    return server


def test_a_whole_detector_is_downloaded_once_and_loaded(zoo: Server, tmp_path: Path) -> None:
    """Its file has numpy arrays by detectron2's names, and who wrote it."""
    torch.manual_seed(0)
    source = build_detector(configuration(*CASCADE_CHANGES)).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in source.items()}
    constants = {"pixel_mean": np.zeros((3, 1, 1), np.float32)}
    content = pickle.dumps({"model": {**arrays, **constants}, "__author__": "Detectron2 Model Zoo"})
    zoo.add(f"/{DETECTOR}", content)
    model = build_detector(configuration(*CASCADE_CHANGES))
    for _ in range(2):
        report = load_weights(model, f"detectron2://{DETECTOR}")
        assert not report.missing and not report.unused
    assert len(zoo.requests) == 1
    assert all(torch.equal(value, source[name]) for name, value in model.state_dict().items())
    (tmp_path / "local.pkl").write_bytes(content)
    file = read_weights(tmp_path / "local.pkl")
    assert file.kind == "detector" and file.state.keys() == source.keys()


def test_proposals_are_downloaded_too(zoo: Server) -> None:
    boxes, logits = np.array([[1.0, 2.0, 8.0, 9.0]], np.float32), np.ones(1, np.float32)
    content = {"ids": [7], "boxes": [boxes], "objectness_logits": [logits], "bbox_mode": 0}
    zoo.add("/rpn/1/boxes.pkl", pickle.dumps(content))
    found = read_proposals("detectron2://rpn/1/boxes.pkl")
    assert list(found) == [7] and np.array_equal(found[7][0], boxes)
