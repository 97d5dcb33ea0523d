"""The paper's protocol trains an RPN, then Fast R-CNN on its proposals, and goes on when broken."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from resnext_det.data import coco
from resnext_det.data.proposals import read_proposals
from resnext_det.detection import two_step
from resnext_det.detection.jobs import Job, Metrics
from resnext_det.detection.two_step import train_two_step
from tests.detection.helpers import FPN, TRAIN_IMAGES, VAL_IMAGES, as_datasets, write_config

pytestmark = pytest.mark.usefixtures("alone")

STEPS = 3
GIVEN = {"LOAD_PROPOSALS": True, "PROPOSAL_GENERATOR": {"NAME": "PrecomputedProposals"}}
NO_FILES = {"PROPOSAL_FILES_TRAIN": ["not used"], "PROPOSAL_FILES_TEST": ["not used"]}
Pair = tuple[Job, Job]


@pytest.fixture
def jobs(sets: dict[str, tuple[Path, Path]], tmp_path: Path) -> Pair:
    """Make an RPN and a Fast R-CNN of three iterations, with folders of their own."""
    return make_jobs(sets, tmp_path)


def make_jobs(sets: dict[str, tuple[Path, Path]], folder: Path, *overrides: str) -> Pair:
    made = []
    for step, model, datasets in (
        ("rpn", {"META_ARCHITECTURE": "ProposalNetwork"}, {}),
        ("fast_rcnn", GIVEN, NO_FILES),
    ):
        (folder / step).mkdir(parents=True, exist_ok=True)
        changes: dict[str, Any] = {
            "MODEL": {**FPN["MODEL"], **model},
            "DATASETS": {**FPN["DATASETS"], **datasets},
        }
        made.append(
            Job(
                write_config(folder / step, changes),
                output_dir=folder / step / "out",
                overrides=("SOLVER.MAX_ITER", str(STEPS), "SOLVER.WARMUP_ITERS", "0", *overrides),
                engine="portable",
                datasets=as_datasets(sets),
            )
        )
    return made[0], made[1]


def set_iterations(job: Job, number: int) -> Job:
    return replace(job, overrides=(*job.overrides, "SOLVER.MAX_ITER", str(number)))


def as_texts(metrics: Metrics) -> dict[str, str]:
    return {name: found.to_json() for name, found in metrics.per_dataset.items()}


def read_weights(job: Job, name: str = "model_final") -> dict[str, torch.Tensor]:
    return torch.load(Path(str(job.output_dir), f"{name}.pth"), weights_only=True)["model"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the jobs that are called: the folder of a training, or the names proposed on."""
    made: list[Any] = []
    train, propose = two_step.train, two_step.propose

    def counted_train(job: Job) -> Metrics:
        made.append(Path(str(job.output_dir)).parent.name)
        return train(job)

    def counted_propose(job: Job, files: dict[str, Path]) -> None:
        made.append(sorted(files))
        propose(job, files)

    monkeypatch.setattr(two_step, "train", counted_train)
    monkeypatch.setattr(two_step, "propose", counted_propose)
    return made


def test_both_steps(jobs: Pair, calls: list[Any], tmp_path: Path) -> None:
    rpn, fast_rcnn = jobs
    metrics = train_two_step(rpn, fast_rcnn)
    assert calls == [
        "rpn",
        ["tiny_train"],
        "fast_rcnn",
    ]  # the test set's were written when the RPN was evaluated
    assert metrics.output_dir == fast_rcnn.output_dir and list(metrics.per_dataset) == ["tiny_val"]
    assert hasattr(metrics.per_dataset["tiny_val"], "AP50")
    folder = tmp_path / "rpn" / "out" / "inference"
    for split, number in (("train", TRAIN_IMAGES), ("val", VAL_IMAGES)):
        assert len(read_proposals(folder / f"proposals_tiny_{split}.pkl")) == number
    config = yaml.safe_load((tmp_path / "fast_rcnn" / "out" / "config.yaml").read_text())
    recorded = config["DATASETS"]
    assert [str(folder / "proposals_tiny_train.pkl")] == list(recorded["PROPOSAL_FILES_TRAIN"])
    assert [str(folder / "proposals_tiny_val.pkl")] == list(recorded["PROPOSAL_FILES_TEST"])
    assert "roi_heads.box_predictor.cls_score.weight" in read_weights(fast_rcnn)

    # Anew: the RPN is trained again, and what the old one proposed is not used.
    calls.clear()
    with pytest.raises(ValueError, match=r"holds a run .*--resume.*--overwrite"):
        train_two_step(replace(rpn, resume=True), fast_rcnn)
    assert calls == []
    anew = [replace(job, overwrite=True) for job in (rpn, fast_rcnn)]
    assert as_texts(train_two_step(*anew)) == as_texts(metrics)
    assert calls == ["rpn", ["tiny_train"], "fast_rcnn"]


@pytest.fixture(scope="module")
def whole(
    sets: dict[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pair, dict[str, str]]:
    """An unbroken run, and its numbers."""
    jobs = make_jobs(sets, tmp_path_factory.mktemp("whole"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as alone:
        alone.setattr(coco, "_registered", {})
        numbers = as_texts(train_two_step(*jobs))
    torch.set_num_threads(threads)
    return jobs, numbers


@pytest.mark.parametrize(
    "where", ["in step one", "before the proposals", "in step two", "after the end"]
)
def test_a_broken_run_goes_on(
    whole: tuple[Pair, dict[str, str]], jobs: Pair, calls: list[Any], tmp_path: Path, where: str
) -> None:
    """A broken run ends with the weights of an unbroken one, and does nothing twice."""
    whole_jobs, expected = whole
    rpn, fast_rcnn = (replace(job, resume=True) for job in jobs)
    if where == "in step one":  # a training of fewer iterations stands for one that was broken off
        two_step.train(set_iterations(rpn, 2))
        due = ["rpn", ["tiny_train"], "fast_rcnn"]
    elif where == "before the proposals":
        two_step.train(rpn)
        (tmp_path / "rpn" / "out" / "inference" / "proposals_tiny_val.pkl").unlink()
        due = [["tiny_train", "tiny_val"], "fast_rcnn"]
    elif where == "in step two":
        train_two_step(rpn, set_iterations(fast_rcnn, 2))
        due = ["fast_rcnn"]
    else:
        train_two_step(rpn, fast_rcnn)
        due = ["fast_rcnn"]
    calls.clear()
    assert as_texts(train_two_step(rpn, fast_rcnn)) == expected
    assert calls == due
    for job, other in zip(whole_jobs, (rpn, fast_rcnn)):
        state, wanted = read_weights(other), read_weights(job)
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)


@pytest.mark.detectron2
def test_both_engines_end_alike(sets: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """One seed gives equal proposals, weights and numbers, also with an engine for each step."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    ends = []
    for engines in (
        ("portable", "portable"),
        ("detectron2", "detectron2"),
        ("detectron2", "portable"),
    ):
        folder = tmp_path / "_".join(engines)
        jobs = [replace(job, engine=name) for job, name in zip(make_jobs(sets, folder), engines)]
        numbers = as_texts(train_two_step(jobs[0], jobs[1]))
        written = read_proposals(folder / "rpn" / "out" / "inference" / "proposals_tiny_train.pkl")
        ends.append((numbers, written, [read_weights(job) for job in jobs]))
    (numbers, written, weights), *others = ends
    for other_numbers, other_written, other_weights in others:
        assert other_numbers == numbers
        for identity, (boxes, logits) in written.items():
            assert np.array_equal(boxes, other_written[identity][0])
            assert np.array_equal(logits, other_written[identity][1])
        for state, other_state in zip(weights, other_weights):
            assert state.keys() == other_state.keys()
            assert all(torch.equal(value, other_state[name]) for name, value in state.items())


def test_old_proposals_are_computed_again(jobs: Pair, calls: list[Any], tmp_path: Path) -> None:
    """Proposals that are older than the checkpoint are of other weights."""
    rpn, fast_rcnn = (replace(job, resume=True) for job in jobs)
    train_two_step(rpn, fast_rcnn)
    file = tmp_path / "rpn" / "out" / "inference" / "proposals_tiny_val.pkl"
    os.utime(file, (1, 1))
    before = file.read_bytes()
    calls.clear()
    train_two_step(rpn, fast_rcnn)
    assert calls == [["tiny_val"], "fast_rcnn"]
    assert file.read_bytes() == before and file.stat().st_mtime > 1


def test_more_iterations_than_the_rpn_had(jobs: Pair, calls: list[Any]) -> None:
    rpn, fast_rcnn = (replace(job, resume=True) for job in jobs)
    train_two_step(rpn, fast_rcnn)
    calls.clear()
    train_two_step(set_iterations(rpn, 4), fast_rcnn)
    assert calls == ["rpn", ["tiny_train"], "fast_rcnn"]


def test_what_is_refused(jobs: Pair, calls: list[Any], tmp_path: Path) -> None:
    rpn, fast_rcnn = jobs
    joint = replace(rpn, config_file=write_config(tmp_path))
    words = "'GeneralizedRCNN' gives no proposals; write ProposalNetwork"
    with pytest.raises(ValueError, match=words):
        train_two_step(joint, fast_rcnn)
    words = r"tiny\.yaml reads no proposals: MODEL\.LOAD_PROPOSALS = False"
    with pytest.raises(ValueError, match=words):
        train_two_step(rpn, replace(fast_rcnn, config_file=joint.config_file))
    with pytest.raises(ValueError, match=r"is that of both steps.*--output-dir"):
        train_two_step(rpn, replace(fast_rcnn, output_dir=rpn.output_dir))
    assert calls == []
