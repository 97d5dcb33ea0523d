"""Test --fit-memory: its choice fits, changes little, and is refused where nothing is known."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from resnext_det.config import load_config
from resnext_det.detection import jobs
from resnext_det.detection.jobs import Job, train
from resnext_det.detection.memory_prediction import find_largest_size
from resnext_det.detection.memory_saving import MemorySaving
from resnext_det.training import distributed
from tests.detection.helpers import FPN, FROZEN_WIDE, as_overrides, override, write_config

LARGE = {"MIN_SIZE_TRAIN": [480], "MAX_SIZE_TRAIN": 720, "MIN_SIZE_TEST": 480, "MAX_SIZE_TEST": 720}
SOLVER = {**FPN["SOLVER"], "IMS_PER_BATCH": 4}
TRAINED_NORMS = override("MODEL.RESNETS", NORM="BN")


def describe(folder: Path, limit: int, *changes: Any, **others: Any) -> Job:
    """Describe the training of a detector in so many megabytes, whose other 10 % are spare."""
    overrides = tuple(as_overrides([*FROZEN_WIDE, "MODEL.BACKBONE.FREEZE_AT", 2, *changes]))
    options: dict[str, Any] = {"engine": "portable", **others}
    config = write_config(folder, {"INPUT": LARGE, "SOLVER": SOLVER})
    return Job(config, overrides=overrides, fit_memory=limit * 11 * 10**5, **options)


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_what_changes_no_number_comes_first(tmp_path: Path) -> None:
    chosen = []
    for limit in (250, 145, 105, 55):
        cfg, fitted = describe(tmp_path, limit).fit()
        chosen.append(fitted.saving)
        lines = [line for line in fitted.told if line.startswith("    ")]
        predicted = [float(line.rpartition(": ")[2].split()[0]) * 1000 for line in lines]
        assert all(one > limit for one in predicted[:-1]) and predicted[-1] <= limit
        assert lines[-1].endswith("chosen")
        assert not fitted.warnings and not fitted.overrides and cfg.SOLVER.IMS_PER_BATCH == 4
    assert chosen[0] == MemorySaving()
    assert chosen[1].accumulate == 1 and chosen[1].recompute
    assert [saving.accumulate for saving in chosen[2:]] == [2, 4]


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_a_smaller_batch_and_smaller_images_are_told_and_recorded(tmp_path: Path) -> None:
    """Batch norms see the whole batch, so that it cannot be computed in parts."""
    out = tmp_path / "out"
    job = describe(tmp_path, 70, *TRAINED_NORMS, "SOLVER.MAX_ITER", 4, output_dir=out)
    with pytest.raises(ValueError, match=r"nothing fits; .* 4 images of .* needs 0\.\d+ GB"):
        job.fit()  # an override of what goes with the batch holds
    job = describe(tmp_path, 70, *TRAINED_NORMS, "TEST.EVAL_PERIOD", 0, output_dir=out)
    cfg, fitted = job.fit()
    images = cfg.SOLVER.IMS_PER_BATCH
    assert 1 <= images < 4 and fitted.saving == MemorySaving()
    assert pytest.approx(FPN["SOLVER"]["BASE_LR"] * images / 4) == cfg.SOLVER.BASE_LR
    assert round(FPN["SOLVER"]["MAX_ITER"] * 4 / images) == cfg.SOLVER.MAX_ITER
    assert f"SOLVER.IMS_PER_BATCH {images}" in fitted.warnings[0]
    cfg, fitted = describe(tmp_path, 50, *TRAINED_NORMS).fit()
    assert cfg.SOLVER.IMS_PER_BATCH == 1
    (side,) = cfg.INPUT.MIN_SIZE_TRAIN
    assert 320 <= side < 480 and side == cfg.INPUT.MIN_SIZE_TEST
    assert round(side * 1.5) == cfg.INPUT.MAX_SIZE_TRAIN
    assert "INPUT.MIN_SIZE_TRAIN" in fitted.warnings[0]


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_a_training_that_fits_by_recomputing_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    small = ["INPUT.MIN_SIZE_TRAIN", (128,), "INPUT.MAX_SIZE_TRAIN", 192]
    random = [*override("MODEL.RESNETS", NORM="GN"), "MODEL.BACKBONE.FREEZE_AT", 0]
    short = ["SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 0]
    weights, limit = [], 1000
    for _ in range(2):
        out = tmp_path / str(limit)
        train(describe(tmp_path, limit, *small, *random, *short, output_dir=out))
        log = (out / "log.txt").read_text()
        assert ("The maps within" in log) == (limit < 1000)
        assert "in parts" not in log and log.count(", chosen") == 1
        weights.append(torch.load(out / "model_final.pth", weights_only=True)["model"])
        needed = re.search(r"as it is: (0\.\d+) GB", log)
        assert needed is not None
        limit = int(float(needed[1]) * 980)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("changes", "images", "size"),
    [
        ([], 2, (480, 720)),
        (["INPUT.MIN_SIZE_TRAIN", (100, 900)], 2, (720, 720)),
        (["DATALOADER.ASPECT_RATIO_GROUPING", False], 2, (720, 720)),
        (["DATALOADER.ASPECT_RATIO_GROUPING", False], 1, (480, 720)),
        (["INPUT.CROP.ENABLED", True], 2, (720, 720)),
        (["INPUT.SCALE_JITTER", (0.1, 2.0)], 2, (1024, 1024)),
    ],
)
def test_the_largest_images_of_a_configuration_are_found(
    tmp_path: Path, changes: list[Any], images: int, size: tuple[int, int]
) -> None:
    cfg = load_config(write_config(tmp_path, {"INPUT": LARGE}), as_overrides(changes))
    assert find_largest_size(cfg, images) == size


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["INPUT.MIN_SIZE_TRAIN", (0,)], "INPUT.MIN_SIZE_TRAIN = 0 leaves them as they are"),
        (
            [
                "MODEL.PROPOSAL_GENERATOR.NAME",
                "PrecomputedProposals",
                "MODEL.LOAD_PROPOSALS",
                True,
                "DATASETS.PROPOSAL_FILES_TRAIN",
                ("a",),
                "DATASETS.PROPOSAL_FILES_TEST",
                ("b",),
            ],
            "does not predict the memory of MODEL.PROPOSAL_GENERATOR.NAME",
        ),
        (
            ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, True, True]],
            "does not predict the memory of MODEL.RESNETS.DEFORM_ON_PER_STAGE",
        ),
    ],
)
@pytest.mark.usefixtures("registered")
def test_what_is_not_predicted_is_refused(tmp_path: Path, changes: list[Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        describe(tmp_path, 100, *changes).fit()


@pytest.mark.usefixtures("registered")
def test_cuda_takes_its_share_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as fits on a CPU does not fit beside CUDA itself."""
    gpu = lambda name: SimpleNamespace(type="cuda")  # noqa: E731
    monkeypatch.setattr(distributed, "resolve_device", gpu)
    small = ["INPUT.MIN_SIZE_TRAIN", (32,), "INPUT.MAX_SIZE_TRAIN", 64, "SOLVER.IMS_PER_BATCH", 1]
    with pytest.raises(ValueError, match="nothing fits"):
        describe(tmp_path, 545, *small).fit()
    _, fitted = describe(tmp_path, 800, *small).fit()
    assert fitted.told[0].startswith("--fit-memory: 0.255 GB of 0.88 GB are for tensors, the rest")


@pytest.mark.usefixtures("registered")
def test_what_cannot_begin_is_refused_before_anything_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "fit_memory", lambda *_, **__: pytest.fail("it was predicted"))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(FileNotFoundError, match=r"none\.pth is not there"):
        train(describe(tmp_path, 250, "MODEL.WEIGHTS", "none.pth", output_dir=out))
    (out / "model_final.pth").touch()
    with pytest.raises(ValueError, match="holds a run"):
        train(describe(tmp_path, 250, output_dir=out))
