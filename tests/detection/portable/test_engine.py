"""The engine reads every key, trains in processes as in one, and evaluates as Predictor detects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from yacs.config import CfgNode as YacsNode

from resnext_det.config import load_config
from resnext_det.config.rules import list_keys, read_settings
from resnext_det.config.switches import find_switched_off
from resnext_det.config.values import SUPPORTED_VALUES
from resnext_det.data import coco
from resnext_det.data.reading import read_image
from resnext_det.detection.inference import Predictor
from resnext_det.detection.portable import engine
from resnext_det.detection.portable.build import build_detector
from resnext_det.evaluation.coco import make_coco_results
from resnext_det.training import distributed
from resnext_det.training.distributed import share_buffers
from resnext_det.training.loop import Step, train_loop
from resnext_det.training.optimizer import OptimizerSettings, build_optimizer
from resnext_det.training.processes import Processes, launch
from resnext_det.training.schedule import ScheduleSettings, build_schedule
from tests.detection.helpers import EXHAUSTIVE, as_overrides, draw_sample, json_lines, write_config
from tests.detection.portable.test_faster_rcnn import GN, GRAY, configuration

pytestmark = pytest.mark.usefixtures("registered")

IMAGES = 4


def first_step() -> dict[str, Any]:
    """Train a step on this process's share of four images; give gradients, weights and buffers."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cfg = configuration(*GN, *EXHAUSTIVE, "SOLVER.WARMUP_ITERS", 0)
    model = build_detector(cfg)
    optimizer = build_optimizer(model, read_settings(OptimizerSettings, cfg.SOLVER))
    generator = torch.Generator().manual_seed(1)
    samples = [
        draw_sample(generator, 64, 64, [[10.0, 12.0, 40.0, 50.0], [30.0 + i, 5.0, 62.0, 30.0]])
        for i in range(IMAGES)
    ]
    share = distributed.divide_batch(IMAGES, distributed.get_world_size())
    mine = samples[distributed.get_rank() * share :][:share]
    losses: list[dict[str, float]] = []

    def keep_losses(step: Step) -> None:
        values = {name: float(value) for name, value in step.losses.items()}
        losses.append(distributed.all_reduce_mean(values))

    train_loop(
        model=distributed.distribute(model, torch.device("cpu")),
        optimizer=optimizer,
        schedule=build_schedule(read_settings(ScheduleSettings, cfg.SOLVER)),
        batches=[mine],
        start=0,
        stop=1,
        device=torch.device("cpu"),
        after_step=[keep_losses],
    )
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.register_buffer("count", torch.tensor([distributed.get_rank() + 5]))
    share_buffers(model)
    return {
        "losses": losses[0],
        "gradients": gradients,
        "weights": weights,
        "counts": distributed.gather_objects(int(model.count)),
    }


@pytest.mark.usefixtures("quick_start")
def test_two_processes_train_as_one() -> None:
    """All regions are trained on, equally many in every image: two halves make the whole."""
    alone = first_step()
    together = launch(first_step, Processes(num_gpus=2), device="cpu")
    assert alone["losses"].keys() == together["losses"].keys()
    assert min(alone["losses"].values()) > 1e-3
    assert together["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in alone["gradients"].values())
    for kind in ("gradients", "weights"):
        assert alone[kind].keys() == together[kind].keys()
        torch.testing.assert_close(together[kind], alone[kind], rtol=1e-4, atol=1e-6 * largest)
    assert alone["counts"] == [5] and together["counts"] == [5, 5]


class _Reads:
    """Record which keys of a configuration are read, other than by its checks."""

    def __init__(self, cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: set[str] = set()
        paths: dict[int, str] = {}

        def note_places(node: Any, prefix: str) -> None:
            paths[id(node)] = prefix
            for name, value in node.items():
                if isinstance(value, YacsNode):
                    note_places(value, f"{prefix}{name}.")

        def recording(node: Any, name: str) -> Any:
            if id(node) in paths:
                self.read.add(f"{paths[id(node)]}{name}")
            return dict.__getitem__(node, name)

        def recording_get(node: Any, name: str, default: Any = None) -> Any:
            return recording(node, name) if name in node else default

        note_places(cfg, "")
        # Attributes are read through this too.
        monkeypatch.setattr(YacsNode, "__getitem__", recording, raising=False)
        monkeypatch.setattr(YacsNode, "get", recording_get, raising=False)
        monkeypatch.setattr("resnext_det.detection.portable.build.check", lambda given: None)

        def set_seed(given: CfgNode, resume: bool) -> CfgNode:
            torch.manual_seed(given.SEED)
            return given  # a copy would be another object

        monkeypatch.setattr(engine, "set_seed", set_seed)


def configure(folder: Path, *changes: Any) -> CfgNode:
    """Load the tiny configuration with a training of one iteration."""
    given = ["SOLVER.MAX_ITER", 1, "OUTPUT_DIR", folder, *changes]
    return load_config(write_config(folder), as_overrides(given))


def test_every_key_is_honored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is not read has one supported value, and others are refused: none is ignored."""
    cfg = configure(tmp_path, "SOLVER.CLIP_GRADIENTS.ENABLED", True)
    keys = set(list_keys(cfg))
    switched_off = find_switched_off(cfg)
    reads = _Reads(cfg, monkeypatch)
    engine.train(cfg)
    fixed = {key for key, values in SUPPORTED_VALUES.items() if len(values) == 1}
    # The checks tie these to MODEL.ROI_HEADS.NAME and MODEL.LOAD_PROPOSALS.
    tied = {"MODEL.ROI_BOX_HEAD.NAME"}
    tied |= {key for key in keys if "PROPOSAL_FILES" in key}
    assert keys - reads.read - fixed - switched_off == tied
    assert "MODEL.KEYPOINT_ON" not in reads.read


@pytest.mark.parametrize("changes", [[], GRAY])
def test_the_predictor_gives_what_the_evaluation_gives(
    tmp_path: Path, sets: dict[str, tuple[Path, Path]], changes: list[Any]
) -> None:
    given = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05, *changes]
    engine.train(configure(tmp_path, *given))
    predict = Predictor(configure(tmp_path, *given, "MODEL.WEIGHTS", tmp_path / "model_final.pth"))
    expected = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    assert expected
    dataset = coco.load_coco("tiny_val")
    rows = []
    for record in dataset.records:
        found = predict(read_image(record["file_name"], predict.image_format))
        rows += make_coco_results(record["image_id"], found, dataset.category_ids)
    assert rows == expected

    image = np.zeros((20, 30, 3), dtype=np.uint8)
    for wrong in (image[:, :, :2], image.astype(np.float32)):
        with pytest.raises(ValueError, match=r"give uint8 of the shape \(height, width"):
            predict(wrong)


def test_the_predictor_needs_a_detector(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is empty"):
        Predictor(load_config(write_config(tmp_path)))


def test_several_test_sets_have_folders_and_names_of_their_own(tmp_path: Path) -> None:
    found = engine.train(configure(tmp_path, "DATASETS.TEST", ("tiny_val", "tiny_train")))
    assert list(found) == ["tiny_val", "tiny_train"]
    (line,) = json_lines(tmp_path / "metrics.json")
    for name in found:
        assert (tmp_path / "inference" / name / "coco_instances_results.json").is_file()
        assert line[f"{name}/bbox/AP"] == found[name].AP


def test_a_schedule_for_another_number_of_processes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Made for two processes and run by one: half the batch, twice the iterations."""
    cfg = configure(tmp_path, "SOLVER.MAX_ITER", 2, "SOLVER.REFERENCE_WORLD_SIZE", 2)
    engine.train(cfg)
    assert (tmp_path / "model_0000003.pth").is_file()
    assert load_config(tmp_path / "config.yaml") == cfg
    assert "scaled to 1 processes" in (tmp_path / "log.txt").read_text()


def test_images_without_objects_are_trained_on_where_that_is_asked_for(
    tmp_path: Path, sets: dict[str, tuple[Path, Path]]
) -> None:
    content = json.loads(sets["tiny_train"][0].read_text())
    content["annotations"] = []
    (tmp_path / "empty.json").write_text(json.dumps(content))
    coco.register_coco("empty", tmp_path / "empty.json", sets["tiny_train"][1])
    changes = ["SOLVER.MAX_ITER", 2, "DATASETS.TRAIN", ("empty",)]
    with pytest.raises(ValueError, match="FILTER_EMPTY_ANNOTATIONS to False"):
        engine.train(configure(tmp_path, *changes))
    engine.train(configure(tmp_path, *changes, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False))
    (line,) = json_lines(tmp_path / "metrics.json")
    assert line["loss_box_reg"] == line["loss_rpn_loc"] == 0.0 and line["loss_cls"] > 0
