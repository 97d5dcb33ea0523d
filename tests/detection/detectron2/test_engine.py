"""The engine over the real detectron2 equals the portable one in weights, files and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.detection.portable import engine as portable
from resnext_det.training.interruption import StopRequest, TrainingInterrupted
from tests.detection.helpers import (
    C4_CHANGES,
    C4_MASKS,
    MASKS,
    RETINANET_CHANGES,
    as_overrides,
    json_lines,
    override,
    write_config,
)

pytestmark = [pytest.mark.detectron2, pytest.mark.usefixtures("registered")]
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from resnext_det.detection.detectron2 import engine as detectron2  # noqa: E402

ENGINES: dict[str, Any] = {"portable": portable, "detectron2": detectron2}


def run(engine: str, folder: Path, *changes: Any, resume: bool = False, task: str = "train") -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    module = ENGINES[engine]
    overrides = as_overrides(["OUTPUT_DIR", folder / "out", *changes])
    return getattr(module, task)(module.load_config(write_config(folder), overrides), resume=resume)


def read_checkpoint(folder: Path, name: str = "model_final.pth") -> dict[str, Any]:
    return torch.load(folder / "out" / name, weights_only=True)


def assert_equal(ours: Any, theirs: Any, where: str = "") -> None:
    """Compare every tensor and number, to the last bit."""
    if isinstance(ours, dict):
        assert set(ours) == set(theirs), where
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for index, pair in enumerate(zip(ours, theirs)):
            assert_equal(*pair, f"{where}[{index}]")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), f"{where}: {(ours - theirs).abs().max()}"
    else:
        assert ours == theirs, where


ADAM: list[Any] = override("SOLVER", OPTIMIZER="Adam", BASE_LR=0.002, WEIGHT_DECAY=0.01)
SETTINGS: dict[str, list[Any]] = {
    "FPN": [],
    "FPN, GN": override("MODEL.FPN", NORM="GN", OUT_CHANNELS=32),
    "C4": C4_CHANGES,
    "RetinaNet": RETINANET_CHANGES,
    "Adam, clipping": [*ADAM, "SOLVER.CLIP_GRADIENTS.ENABLED", True],
    "masks": MASKS,
    "masks as bitmaps, C4": [*C4_MASKS, "INPUT.MASK_FORMAT", "bitmask"],
    "cosine, clipping, convolutions in the head": [
        *override("SOLVER", LR_SCHEDULER_NAME="WarmupCosineLR", NESTEROV=True),
        *override("SOLVER.CLIP_GRADIENTS", ENABLED=True),
        *override("MODEL.ROI_BOX_HEAD", NUM_CONV=2, CONV_DIM=16),
    ],
}


@pytest.mark.parametrize(
    "setting",
    [pytest.param(name, marks=pytest.mark.slow if "bitmaps" in name else ()) for name in SETTINGS],
)
def test_one_seed_gives_one_training(tmp_path: Path, setting: str) -> None:
    changes = [*SETTINGS[setting], "TEST.EVAL_PERIOD", 5, "SOLVER.CHECKPOINT_PERIOD", 5]
    found = {name: run(name, tmp_path / name, *changes) for name in ENGINES}
    ours, theirs = (read_checkpoint(tmp_path / name) for name in ENGINES)
    for key in ("model", "optimizer", "random_state", "trainer"):
        assert_equal(ours[key], theirs[key], key)
    ours, theirs = (found[name]["tiny_val"].as_dict(recalls=True) for name in ENGINES)
    assert json.dumps(ours) == json.dumps(theirs)
    folders = [tmp_path / name / "out" for name in ENGINES]
    rows = [(out / "inference/coco_instances_results.json").read_text() for out in folders]
    assert rows[0] == rows[1] != "[]"
    assert ("segmentation" in rows[0]) == ("masks" in setting) == ("segm-AP" in ours)
    ours, theirs = ({path.name for path in out.glob("model_*")} for out in folders)
    assert ours == theirs


@pytest.mark.parametrize("order", [("portable", "detectron2"), ("detectron2", "portable")])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([], id="FPN"),
        pytest.param(C4_CHANGES, id="C4"),
        pytest.param(RETINANET_CHANGES, id="RetinaNet"),
        pytest.param(ADAM, id="Adam"),
        pytest.param(MASKS, id="masks", marks=pytest.mark.slow),
    ],
)
def test_a_run_moves_between_the_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[str, str], changes: list[Any]
) -> None:
    """Stopped after 5 of 10 iterations and resumed by the other engine, it ends as if unbroken."""
    first, second = order
    run(second, tmp_path / "whole", *changes)
    made = iter([False] * 4 + [True] + [False] * 10)
    with monkeypatch.context() as patched:
        patched.setattr(StopRequest, "is_made", lambda self: next(made))
        words = r"after iteration 4 and left .*model_0000004\.pth"
        with pytest.raises(TrainingInterrupted, match=words):
            run(first, tmp_path / "moved", *changes)
    found = run(second, tmp_path / "moved", *changes, resume=True)
    assert set(found) == {"tiny_val"}
    for key in ("model", "optimizer", "random_state", "trainer", "scheduler", "iteration"):
        whole, moved = (read_checkpoint(tmp_path / name)[key] for name in ("whole", "moved"))
        assert_equal(whole, moved, key)
    normalizers = [
        read_checkpoint(tmp_path / name).get("loss_normalizer") for name in ("whole", "moved")
    ]
    assert normalizers[0] == normalizers[1] and (normalizers[0] is None) != ("RetinaNet" in changes)
    lines = json_lines(tmp_path / "moved/out/metrics.json")
    iterations = [line["iteration"] for line in lines]
    assert iterations == sorted(set(iterations))
    assert lines[-1]["bbox/AP"] == found["tiny_val"].AP


def test_detectron2_itself_resumes_what_we_saved(tmp_path: Path) -> None:
    """Its own checkpointer takes our checkpoint: everything is found, and nothing is left over."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    run("detectron2", tmp_path)
    cfg = detectron2.load_config(tmp_path / "tiny.yaml")
    model = build_model(cfg)
    incompatible: list[Any] = []
    checkpointer = DetectionCheckpointer(model)
    checkpointer._log_incompatible_keys = incompatible.append
    checkpointer.load(str(tmp_path / "out/model_final.pth"), checkpointables=[])
    for found in incompatible:
        assert (found.missing_keys, found.unexpected_keys, found.incorrect_shapes) == ([], [], [])
    assert len(incompatible) <= 1
    assert_equal(dict(model.state_dict()), dict(read_checkpoint(tmp_path)["model"]))


def test_a_finished_training_is_evaluated_and_so_are_weights(tmp_path: Path) -> None:
    trained = run("detectron2", tmp_path)["tiny_val"].to_json()
    assert run("detectron2", tmp_path, resume=True)["tiny_val"].to_json() == trained
    weights = tmp_path / "out/model_final.pth"
    for engine in ENGINES:
        found = run(engine, tmp_path / engine, "MODEL.WEIGHTS", weights, task="evaluate")
        assert found["tiny_val"].to_json() == trained
        assert run(engine, tmp_path, resume=True, task="evaluate")["tiny_val"].to_json() == trained


def test_bfloat16_trains_in_it(tmp_path: Path) -> None:
    """Not equal to the portable engine's, whose regions keep float32 boxes, and near to float32."""
    losses = {}
    for name, changes in {"float32": [], "bfloat16": ["SOLVER.AMP.ENABLED", True]}.items():
        short = ["SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "MODEL.DEVICE", "auto"]
        run("detectron2", tmp_path / name, *changes, *short)
        # detectron2 knows no "auto", and config.yaml is for it too.
        recorded = portable.load_config(tmp_path / name / "out" / "config.yaml")
        assert ("cuda" if torch.cuda.is_available() else "cpu") == recorded.MODEL.DEVICE
        losses[name] = json_lines(tmp_path / name / "out/metrics.json")[-1]["total_loss"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
    assert losses["bfloat16"] != losses["float32"]


def test_a_loss_that_is_not_finite_changes_nothing_and_names_the_images(tmp_path: Path) -> None:
    run("detectron2", tmp_path / "sound", "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ())
    words = r"diverged at iteration \d+: .*The images: .*jpg.*BASE_LR"
    with pytest.raises(FloatingPointError, match=words):
        run("detectron2", tmp_path, "SOLVER.BASE_LR", 1e9, "SOLVER.WARMUP_ITERS", 0)


def test_mixed_precision_that_torchvision_lacks_is_refused(tmp_path: Path) -> None:
    changes = [*C4_CHANGES, "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool", "SOLVER.AMP.ENABLED", True]
    words = "'ROIPool' does not run .* on the CPU.*--engine portable"
    with pytest.raises(ValueError, match=words):
        run("detectron2", tmp_path, *changes)
    assert run("portable", tmp_path, *changes, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", ())


@pytest.mark.parametrize("node", ["RESNETS", "FPN"])
def test_synchronized_norms_in_processes_on_the_cpu_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    """Before the first step, and not by an error of torch within it."""
    cfg = detectron2.load_config(write_config(tmp_path), [f"MODEL.{node}.NORM", "SyncBN"])
    model = detectron2.build_detector(cfg)
    detectron2._check_synchronized_norms(model)  # one process takes them for batch norms
    monkeypatch.setattr("resnext_det.training.distributed.get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"torch synchronizes only GPUs.*or train on GPUs"):
        detectron2._check_synchronized_norms(model)
