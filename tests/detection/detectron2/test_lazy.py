"""The LazyConfig example is the detector of the YAML file of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import LazyConfig, instantiate  # noqa: E402

from resnext_det.detection.detectron2.engine import build_detector, load_config  # noqa: E402
from tests.detection.detectron2_reference import assert_same_instances, randomize  # noqa: E402

CONFIGS = Path(__file__).parents[3] / "configs"
ANY_SCORE = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
NAME = "faster_rcnn_X50_32x4d_FPN_1x"


def test_it_is_the_detector_of_the_yaml_file(tmp_path: Path) -> None:
    lazy = LazyConfig.load(str(CONFIGS / "lazy" / f"{NAME}.py"))
    LazyConfig.save(lazy, str(tmp_path / "config.yaml"))  # as detectron2's tool does first
    lazy.model.roi_heads.box_predictor.test_score_thresh = 0.0
    model = instantiate(lazy.model)
    cfg = load_config(CONFIGS / "modern" / f"{NAME}.yaml", ["MODEL.DEVICE", "cpu", *ANY_SCORE])
    expected = build_detector(cfg)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        name for name, p in expected.named_parameters() if p.requires_grad
    ]
    randomize(expected, seed=0)
    model.load_state_dict(expected.state_dict())
    image = torch.randint(0, 255, (3, 96, 128), generator=torch.Generator().manual_seed(0))
    models = (model.eval(), expected.eval())
    with torch.inference_mode():
        found, wanted = (detector([{"image": image}])[0]["instances"] for detector in models)
    assert len(found) > 0
    assert_same_instances(found, wanted)
    assert lazy.dataloader.train.mapper.image_format == cfg.INPUT.FORMAT == lazy.model.input_format
    assert lazy.optimizer.lr == cfg.SOLVER.BASE_LR and lazy.train.max_iter == cfg.SOLVER.MAX_ITER
