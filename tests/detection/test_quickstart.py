"""The quickstart starts from the network that travels with the package."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from resnext_det.config import load_config
from resnext_det.detection.inference import Predictor
from resnext_det.detection.jobs import Job, train
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.weights import load_trained_config
from resnext_det.weights import check_configuration, load_weights, read_weights
from resnext_det.weights.published.catalog import advise_shipped
from tests.detection.helpers import as_datasets, as_overrides

NAME = "resnext://shapes/X-26-8x4d"
QUICKSTART = "quickstart/faster_rcnn_X26_8x4d_FPN_shapes.yaml"


def test_the_quickstart_fits_it_and_trains(
    sets: dict[str, tuple[Path, Path]],
    alone: None,
    engine: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cfg, file = load_config(QUICKSTART), read_weights(NAME)
    with caplog.at_level(logging.WARNING):
        check_configuration(cfg, file, training=True)
    assert caplog.records == []
    changes = {"SOLVER.MAX_ITER": 2, "SOLVER.BASE_LR": 1e-9, "DATALOADER.NUM_WORKERS": 0}
    sets_of = {"DATASETS.TRAIN": ("tiny_train",), "DATASETS.TEST": ()}
    words = [word for pair in {**changes, **sets_of}.items() for word in pair]
    job = Job(QUICKSTART, tmp_path / "out", tuple(as_overrides(words)), engine=engine)
    train(replace(job, datasets=as_datasets(sets)))
    trained = read_weights(tmp_path / "out" / "model_final.pth")
    for name, tensor in file.state.items():
        if name.endswith("conv3.weight"):  # hardly changed by so small a learning rate
            found = trained.state[f"backbone.bottom_up.{name}"]
            assert torch.allclose(found, tensor.float(), atol=1e-6)


def test_the_quickstart_and_its_comparison_differ_in_little() -> None:
    start, random = (
        load_config(QUICKSTART.replace(".yaml", end)) for end in (".yaml", "_from_random.yaml")
    )
    assert start.MODEL.WEIGHTS == NAME and random.MODEL.WEIGHTS == ""
    for key in ("RESNETS", "FPN", "RPN", "ROI_HEADS", "ROI_BOX_HEAD", "ANCHOR_GENERATOR"):
        ours, theirs = dict(start.MODEL[key]), dict(random.MODEL[key])
        assert {name for name in ours if ours[name] != theirs[name]} <= {"NORM"}
    assert start.INPUT == random.INPUT and start.DATASETS == random.DATASETS


@pytest.mark.parametrize(
    ("config", "smaller"),
    [
        ("modern/faster_rcnn_X50_32x4d_FPN_1x.yaml", ("MODEL.ROI_BOX_HEAD.FC_DIM", "8")),
        ("faster_rcnn_R50_1x64d.yaml", ()),
    ],
)
def test_any_configuration_is_fitted_to_it(config: str, smaller: tuple[str, ...]) -> None:
    """As the error tells that weights cannot be downloaded."""
    words = advise_shipped("resnext://torchvision/R-50").partition(", ")[2].split()
    assert words == ["MODEL.WEIGHTS", NAME, "--fit-config"]
    assert advise_shipped("hf-hub:timm/x") and not advise_shipped(NAME)
    assert not advise_shipped("model_final.pth")
    given = (*words[:2], *smaller, "MODEL.DEVICE", "cpu")
    cfg = Job(config, overrides=given, fit_config=True, engine="portable").configuration()
    load_weights(build_detector(cfg), NAME)
    check_configuration(cfg, read_weights(NAME), training=True)


def test_it_is_told_to_be_no_detector() -> None:
    words = "is a classifier, from which a detector may be trained, and no detector"
    with pytest.raises(ValueError, match=words):
        load_trained_config(NAME)
    with pytest.raises(ValueError, match=words):
        Job(weights=NAME).configuration()
    with pytest.raises(ValueError, match="holds a classifier and not a whole detector"):
        Predictor(load_config(QUICKSTART))
