"""A user's script of detectron2 does on our backbone what it does on detectron2's own.

It has a mapper, a hook and an evaluator of its own, stops and resumes, and predicts from its file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.data import (  # noqa: E402
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.data.datasets import load_coco_json, register_coco_instances  # noqa: E402
from detectron2.engine import DefaultPredictor, DefaultTrainer, HookBase  # noqa: E402
from detectron2.evaluation import COCOEvaluator  # noqa: E402
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model  # noqa: E402

from resnext_det.detection.detectron2.backbone import ResNeXtBackbone  # noqa: E402
from tests.detection.helpers import override, write_config, write_sets  # noqa: E402

BUILDERS = ("build_resnext_fpn_backbone", "build_resnet_fpn_backbone")
ITERATIONS = 4


class Mapper(DatasetMapper):
    """Brighten every image; seed what its step draws, of which detectron2 keeps no state."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        torch.manual_seed(5)
        sample = super().__call__(dataset_dict)
        sample["image"] = (sample["image"].float() * 1.1).clamp(max=255)
        return sample


class Average(HookBase):
    """Keep an exponential moving average of the weights."""

    def before_train(self) -> None:
        self.model = copy.deepcopy(self.trainer.model)

    def after_step(self) -> None:
        with torch.no_grad():
            for mean, value in zip(self.model.parameters(), self.trainer.model.parameters()):
                mean.lerp_(value, 0.5)


class Trainer(DefaultTrainer):
    stop_after: int | None = None

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        return build_detection_train_loader(cfg, mapper=Mapper(cfg, is_train=True))

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> COCOEvaluator:
        return COCOEvaluator(dataset_name, output_dir=str(Path(cfg.OUTPUT_DIR, "inference")))

    def build_hooks(self) -> list[HookBase]:
        self.average = Average()
        return [*super().build_hooks(), self.average]

    def after_step(self) -> None:
        super().after_step()
        if self.iter + 1 == self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def configure(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Any]]:
    """Register one image to train on and five to test on, and give a function that makes a cfg."""
    folder = tmp_path_factory.mktemp("script")
    sets = write_sets(folder)
    register_coco_instances("users_val", {}, *map(str, sets["tiny_val"]))
    annotations, images = map(str, sets["tiny_train"])
    DatasetCatalog.register(
        "users_train", lambda: load_coco_json(annotations, images, "users_train")[:1]
    )

    def make_cfg(builder: str, output: Path, *changes: Any) -> Any:
        cfg = get_cfg()
        cfg.merge_from_file(str(write_config(folder)))
        # One image, never flipped: a resumed run sees what it would have seen, though detectron2
        # does not keep the loader's place.
        cfg.merge_from_list(override("MODEL.RESNETS", DEPTH=50))
        cfg.merge_from_list(override("MODEL.ROI_HEADS", SCORE_THRESH_TEST=0.0))
        cfg.merge_from_list(override("DATASETS", TRAIN=("users_train",), TEST=("users_val",)))
        cfg.merge_from_list(
            override("INPUT", MIN_SIZE_TRAIN=(96,), MAX_SIZE_TRAIN=160, RANDOM_FLIP="none")
        )
        cfg.merge_from_list(
            override("SOLVER", IMS_PER_BATCH=1, MAX_ITER=ITERATIONS, STEPS=(), BASE_LR=1e-5)
        )
        cfg.merge_from_list(override("TEST", DETECTIONS_PER_IMAGE=10))
        cfg.merge_from_list(["MODEL.BACKBONE.NAME", builder, "OUTPUT_DIR", str(output), *changes])
        output.mkdir(exist_ok=True)
        return cfg

    yield make_cfg
    for name in ("users_train", "users_val"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def run(cfg: Any, *, resume: bool = False, stop_after: int | None = None) -> Trainer:
    torch.manual_seed(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.stop_after = stop_after
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def trained(configure: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Train on our backbone and on detectron2's own: (configuration, trainer) of each."""
    pairs = []
    for builder in BUILDERS:
        cfg = configure(builder, tmp_path_factory.mktemp(builder))
        pairs.append((cfg, run(cfg)))
    return pairs


def test_it_ends_as_on_detectron2s_backbone(trained: list[Any]) -> None:
    (_, ours), (_, theirs) = trained
    assert isinstance(ours.model.backbone.bottom_up, ResNeXtBackbone)
    for found, expected in ((ours.model, theirs.model), (ours.average.model, theirs.average.model)):
        assert_close_states(found.state_dict(), expected.state_dict())
    found, expected = (trainer._last_eval_results["bbox"] for _, trainer in trained)
    assert found.keys() == expected.keys()
    losses = [{k: v for k, (v, _) in t.storage.latest().items() if "loss" in k} for _, t in trained]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and len(losses[0]) == 5


def test_it_stops_and_resumes(
    trained: list[Any], configure: Callable[..., Any], tmp_path: Path
) -> None:
    """It ends with the weights and momenta of a run that was not stopped."""
    cfg = configure(BUILDERS[0], tmp_path, "SOLVER.CHECKPOINT_PERIOD", 2)
    with pytest.raises(KeyboardInterrupt):
        run(cfg, stop_after=3)
    resumed, whole = run(cfg, resume=True), trained[0][1]
    assert resumed.start_iter == 2 and resumed.iter == whole.iter == ITERATIONS
    for found, expected in (
        (resumed.model.state_dict(), whole.model.state_dict()),
        *zip(momenta(resumed), momenta(whole)),
    ):
        assert list(found) == list(expected)
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


def momenta(trainer: Trainer) -> list[dict[str, torch.Tensor]]:
    return [
        {"momentum": state["momentum_buffer"]}
        for state in trainer.optimizer.state_dict()["state"].values()
    ]


def test_its_file_predicts_alike_on_either_backbone(trained: list[Any]) -> None:
    """DefaultPredictor, also with test-time augmentation, from the file that our backbone wrote."""
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    found = []
    for cfg, _ in trained:
        cfg = cfg.clone()
        cfg.MODEL.WEIGHTS = str(Path(trained[0][0].OUTPUT_DIR, "model_final.pth"))
        cfg.TEST.AUG.MIN_SIZES = (48, 64)
        predictor = DefaultPredictor(cfg)
        sample = {"image": torch.from_numpy(image).permute(2, 0, 1), "height": 60, "width": 80}
        with torch.no_grad():
            augmented = GeneralizedRCNNWithTTA(cfg, predictor.model)([sample])[0]
        found.append((predictor(image)["instances"], augmented["instances"]))
    for ours, theirs in zip(*found):
        assert len(ours) == len(theirs) > 0
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=1e-3, atol=1e-2
        )
        assert torch.equal(ours.pred_classes, theirs.pred_classes)


def test_its_file_goes_into_either_backbone_and_back(trained: list[Any], tmp_path: Path) -> None:
    """detectron2's checkpointer finds every key, in both directions."""
    for (cfg, _), (_, other) in zip(trained, reversed(trained)):
        model = build_model(cfg)
        checkpointer = DetectionCheckpointer(model)
        incompatible: list[Any] = []
        checkpointer._log_incompatible_keys = incompatible.append
        checkpointer.load(str(Path(other.cfg.OUTPUT_DIR, "model_final.pth")), checkpointables=[])
        for found in incompatible:
            missed = (found.missing_keys, found.unexpected_keys, found.incorrect_shapes)
            assert missed == ([], [], [])
        expected = other.model.state_dict()
        assert list(model.state_dict()) == list(expected)
        assert all(torch.equal(value, expected[k]) for k, value in model.state_dict().items())


def assert_close_states(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        difference = float((found[name].double() - value.double()).abs().max())
        assert difference <= 5e-3 * (1 + float(value.abs().max())), name
