"""The miniature with several heads, lengths and pre-trainings, without training anything."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from resnext_det.classification.jobs import ClassificationJob, Pretrained
from resnext_det.config import load_config
from resnext_det.detection.jobs import Job, Metrics
from resnext_det.paper import miniature
from tests.tools.helpers import run_tool

load_once = cache(load_config)


def read_configuration(job: Job | ClassificationJob) -> CfgNode:
    """Read the configuration of a job in a fraction of the time."""
    cfg = load_once(Path(str(job.config_file)).with_name("faster_rcnn_R26_1x16d_FPN.yaml")).clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(job.output_dir)
    return cfg


def train_nothing(job: Job) -> Metrics:
    """Leave what a training leaves, with an AP that tells length, network and seed."""
    given, folder = dict(zip(job.overrides[::2], job.overrides[1::2])), Path(str(job.output_dir))
    seed, length = int(given["SEED"]), int(given["SOLVER.MAX_ITER"])
    assert Path(given["MODEL.WEIGHTS"]).parent.name == f"classifier_seed_{seed}"
    cfg = load_once(job.config_file).clone()
    cfg.defrost()
    cfg.SEED, cfg.SOLVER.MAX_ITER = seed, length
    (folder / "inference").mkdir(parents=True)
    (folder / "config.yaml").write_text(cfg.dump())
    advantage = (cfg.MODEL.RESNETS.NUM_GROUPS > 1) * (6 - length / 100 + seed)
    numbers = {"AP": 40 + length / 100 + advantage, "AP50": 70.0}
    (folder / "inference" / "metrics.json").write_text(json.dumps(numbers))
    return Metrics(folder)


def test_heads_lengths_and_seeds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrained: list[Path] = []

    def pretrain_nothing(job: ClassificationJob) -> Pretrained:
        folder = Path(str(job.output_dir))
        assert job.overrides == ("SEED", folder.name[-1])
        pretrained.append(folder)
        return Pretrained(folder, folder / "model_final.pth")

    for kind in (Job, ClassificationJob):
        monkeypatch.setattr(kind, "configuration", read_configuration)
    monkeypatch.setattr(miniature, "pretrain", pretrain_nothing)
    monkeypatch.setattr(miniature, "train", train_nothing)
    out, picture = tmp_path / "out", tmp_path / "x_minus_r.png"
    options = ("--size", "heads", "--iterations", 100, 300, "--seeds", 4, 6, "--pretrain-each-seed")
    assert run_tool("table8_miniature", *options, "--output-dir", out, "--png", picture) == 0
    networks = ("R26_1x16d", "X26_32x1d")
    assert pretrained == [
        out / name / f"classifier_seed_{seed}" for name in networks for seed in (4, 6)
    ]
    assert {path.parent for path in out.rglob("config.yaml")} == {
        out / f"{name}_{head}" / f"iterations_{length}" / f"seed_{seed}"
        for name in networks
        for head in ("C4", "DC5", "FPN")
        for length in (100, 300)
        for seed in (4, 6)
    }
    text = capsys.readouterr().out
    lines = [re.sub(" +", " ", line).strip() for line in text.splitlines()]
    # X - R is 9 and 11 after 100 iterations, and 7 and 9 after 300; t of 1 is 12.706.
    for head in ("C4", "DC5", "FPN"):
        assert f"{head} 100 41.00 ± 0.00 51.00 ± 1.41 +10.00 -2.71 to +22.71 2" in lines
    assert "mean of all 100 to 300 -2.00 -2.00 to -2.00 2" in lines
    assert picture.stat().st_size > 10_000
