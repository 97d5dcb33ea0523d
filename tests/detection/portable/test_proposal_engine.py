"""The engine trains, evaluates and asks an RPN for proposals, and trains Fast R-CNN on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from resnext_det.config import load_config
from resnext_det.config.loading import drop_idle_overrides
from resnext_det.data import coco
from resnext_det.data.proposals import Proposals, read_proposals
from resnext_det.detection import datasets
from resnext_det.detection.inference import Predictor
from resnext_det.detection.portable import engine
from resnext_det.detection.portable.build import build_detector
from resnext_det.evaluation.coco import CocoMetrics
from resnext_det.evaluation.proposals import ProposalMetrics, evaluate_proposals
from resnext_det.training.processes import Processes, launch
from tests.detection.helpers import (
    C4_CHANGES,
    TRAIN_IMAGES,
    as_overrides,
    json_lines,
    override,
    write_config,
)

pytestmark = pytest.mark.usefixtures("registered")

Sets = dict[str, tuple[Path, Path]]
RPN_ALONE = ["MODEL.META_ARCHITECTURE", "ProposalNetwork"]


def configuration(folder: Path, *changes: Any) -> CfgNode:
    path, overrides = write_config(folder), as_overrides(["OUTPUT_DIR", folder / "out", *changes])
    # Changes to C4 tell of an RPN too, which not every detector here has.
    return load_config(path, drop_idle_overrides(load_config(path), overrides))


def read_from(train: Path, test: Path) -> list[Any]:
    """List the changes that train Fast R-CNN on proposals in these files."""
    return [
        *override("MODEL", LOAD_PROPOSALS=True),
        *override("MODEL.PROPOSAL_GENERATOR", NAME="PrecomputedProposals"),
        *override("DATASETS", PROPOSAL_FILES_TRAIN=(str(train),), PROPOSAL_FILES_TEST=(str(test),)),
    ]


def as_json(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: metrics.to_json() for name, metrics in found.items()}


def assert_same_proposals(found: Proposals, expected: Proposals) -> None:
    assert list(found) == list(expected)
    for identity, (boxes, logits) in expected.items():
        assert np.array_equal(boxes, found[identity][0])
        assert np.array_equal(logits, found[identity][1])


def test_an_rpn_is_trained_evaluated_and_proposes(tmp_path: Path, sets: Sets) -> None:
    cfg = configuration(tmp_path, *RPN_ALONE, "SOLVER.MAX_ITER", 3).clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80  # it has no classes
    cfg.freeze()
    out = tmp_path / "out"
    found = engine.train(cfg)
    assert list(found) == ["tiny_val"] and isinstance(found["tiny_val"], ProposalMetrics)
    state = torch.load(out / "model_final.pth", weights_only=True)["model"]
    assert {name.split(".")[0] for name in state} == {"backbone", "proposal_generator"}
    (line,) = json_lines(out / "metrics.json")
    assert {"loss_rpn_cls", "loss_rpn_loc"} <= line.keys() and "loss_cls" not in line
    numbers = found["tiny_val"].as_dict()
    assert line["box_proposals/AR@100"] == numbers["AR@100"] > 0
    evaluated = json.loads((out / "inference" / "metrics.json").read_text())
    assert evaluated["AR@1000"] == numbers["AR@1000"]

    # The file holds what the model gives, in pixels of the original images.
    written = read_proposals(out / "inference" / "proposals_tiny_val.pkl")
    model = build_detector(cfg).eval()
    model.load_state_dict(state)
    records = coco.load_coco("tiny_val").records
    assert list(written) == [record["image_id"] for record in records]
    for record in records:
        with torch.no_grad():
            proposals = model([datasets.test_mapper(cfg)(record)])[0]["proposals"]
        assert proposals.image_size == (record["height"], record["width"])
        boxes, logits = written[record["image_id"]]
        assert np.array_equal(boxes, proposals.proposal_boxes.tensor.numpy()) and len(boxes) > 5
        assert np.array_equal(logits, proposals.objectness_logits.numpy())
    assert evaluate_proposals(sets["tiny_val"][0], written).to_json() == found["tiny_val"].to_json()

    # The same from the file of weights, and from the newest checkpoint.
    weights = ["MODEL.WEIGHTS", out / "model_final.pth"]
    again = configuration(tmp_path, *RPN_ALONE, *weights, "OUTPUT_DIR", tmp_path / "again")
    resumed = as_json(engine.evaluate(cfg, resume=True))
    assert as_json(engine.evaluate(again)) == resumed == as_json(found)
    train, val = tmp_path / "train.pkl", tmp_path / "new" / "val.pkl"
    engine.propose(again, {"tiny_val": val, "tiny_train": train})
    assert_same_proposals(read_proposals(val), written)
    assert len(read_proposals(train)) == TRAIN_IMAGES


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, sets: Sets) -> tuple[Path, Path]:
    """Write the proposals of an untrained RPN on tiny_train and tiny_val."""
    folder = tmp_path_factory.mktemp("proposals")
    paths, weights = (folder / "train.pkl", folder / "val.pkl"), folder / "weights.pth"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco, "_registered", dict(sets))
        torch.manual_seed(0)
        torch.save(build_detector(configuration(folder, *RPN_ALONE)).state_dict(), weights)
        cfg = configuration(folder, *RPN_ALONE, "MODEL.WEIGHTS", weights)
        engine.propose(cfg, dict(zip(("tiny_train", "tiny_val"), paths)))
    torch.set_num_threads(threads)
    return paths


@pytest.mark.parametrize("head", [[], C4_CHANGES], ids=["FPN", "C4"])
def test_fast_rcnn_is_trained_on_proposals(
    tmp_path: Path, files: tuple[Path, Path], head: list[Any]
) -> None:
    """With loading processes as without; its checkpoint is evaluated to the same numbers."""
    changes = [*head, *read_from(*files), "SOLVER.MAX_ITER", 3]
    ends = []
    for workers in (0, 1):
        folder = tmp_path / str(workers)
        more = ["OUTPUT_DIR", folder, "DATALOADER.NUM_WORKERS", workers]
        cfg = configuration(tmp_path, *changes, *more)
        found = engine.train(cfg)
        assert isinstance(found["tiny_val"], CocoMetrics)
        assert as_json(engine.evaluate(cfg, resume=True)) == as_json(found)
        (line,) = json_lines(folder / "metrics.json")
        assert "loss_cls" in line and "loss_rpn_cls" not in line and "bbox/AP" in line
        ends.append(torch.load(folder / "model_final.pth", weights_only=True)["model"])
    assert {name.split(".")[0] for name in ends[0]} == {"backbone", "roi_heads"}
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_as_many_proposals_as_asked_for(tmp_path: Path, files: tuple[Path, Path]) -> None:
    few = override("DATASETS", PRECOMPUTED_PROPOSAL_TOPK_TRAIN=4, PRECOMPUTED_PROPOSAL_TOPK_TEST=3)
    cfg = configuration(tmp_path, *read_from(*files), *few, "SEED", 1)
    sets = datasets.load_datasets(cfg, "TRAIN")
    batch = next(iter(datasets.build_train_batches(cfg, sets, 0)))
    assert [len(sample["proposals"]) for sample in batch] == [4, 4]
    assert len(datasets.test_mapper(cfg)(sets[0].records[0])["proposals"]) == 3
    record = coco.load_coco("tiny_val").records[0]
    assert "proposals" not in datasets.test_mapper(configuration(tmp_path))(record)


def propose_in_processes(folder: str, sets: dict[str, tuple[str, str]], cfg: CfgNode) -> None:
    torch.set_num_threads(1)
    for name, paths in sets.items():
        coco.register_coco(name, *paths)
    engine.propose(cfg, {"tiny_train": Path(folder, "train.pkl")})
    assert Path(folder, "train.pkl").is_file()  # in every process, as soon as it goes on


@pytest.mark.usefixtures("quick_start")
def test_two_processes_propose_as_one(tmp_path: Path, sets: Sets, files: tuple[Path, Path]) -> None:
    texts = {name: (str(annotations), str(images)) for name, (annotations, images) in sets.items()}
    weights = str(files[0].with_name("weights.pth"))
    cfg = configuration(tmp_path, *RPN_ALONE, "MODEL.WEIGHTS", weights)
    arguments = (str(tmp_path), texts, cfg)
    launch(propose_in_processes, Processes(num_gpus=2), device="cpu", args=arguments)
    assert_same_proposals(read_proposals(tmp_path / "train.pkl"), read_proposals(files[0]))


def test_several_test_sets_have_files_of_their_own(tmp_path: Path) -> None:
    both = ["SOLVER.MAX_ITER", 1, "DATASETS.TEST", ("tiny_val", "tiny_train")]
    found = engine.train(configuration(tmp_path, *RPN_ALONE, *both))
    (line,) = json_lines(tmp_path / "out" / "metrics.json")
    for name in ("tiny_val", "tiny_train"):
        assert (tmp_path / "out" / "inference" / f"proposals_{name}.pkl").is_file()
        assert (tmp_path / "out" / "inference" / name / "metrics.json").is_file()
        assert line[f"{name}/box_proposals/AR@100"] == found[name].as_dict()["AR@100"]


def test_what_is_refused(tmp_path: Path, files: tuple[Path, Path]) -> None:
    train, test = files
    with pytest.raises(
        ValueError,
        match=r"image \d+ .* of dataset 'tiny_train' is not there, and so it is for 7 of 12",
    ):
        engine.train(configuration(tmp_path, *read_from(test, test)))
    with pytest.raises(FileNotFoundError, match=r"none\.pkl are not there"):
        engine.train(configuration(tmp_path, *read_from(train, tmp_path / "none.pkl")))
    words = "'GeneralizedRCNN' gives no proposals; write ProposalNetwork"
    with pytest.raises(ValueError, match=words):
        engine.propose(configuration(tmp_path), {"tiny_val": tmp_path / "val.pkl"})
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is empty"):
        engine.propose(configuration(tmp_path, *RPN_ALONE), {"tiny_val": tmp_path / "val.pkl"})
    for changes in (RPN_ALONE, read_from(*files)):
        with pytest.raises(ValueError, match="half a detector"):
            Predictor(configuration(tmp_path, *changes))
    fast_rcnn = build_detector(configuration(tmp_path, *read_from(*files)))
    (sample,) = [{"file_name": "a.jpg", "image": torch.zeros(3, 64, 64, dtype=torch.uint8)}]
    words = r"needs 'proposals', which a\.jpg lacks; name their file in DATASETS"
    with pytest.raises(ValueError, match=words):
        fast_rcnn.eval()([sample])
