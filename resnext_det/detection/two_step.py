"""Train RPN and Fast R-CNN apart, without shared features, as the paper does (appendix B).

Step one trains an RPN and writes its proposals; step two trains Fast R-CNN on them and evaluates
it. Each starts from the pretrained backbone, as py-faster-rcnn's alternating training begins.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

from fvcore.common.config import CfgNode

from resnext_det.config.detection import scale_to_processes
from resnext_det.config.switches import compile_unused
from resnext_det.data.coco import load_coco
from resnext_det.detection.datasets import look_at_data
from resnext_det.detection.evaluation import check_proposes, locate_proposals
from resnext_det.detection.jobs import Job, Metrics, propose, train
from resnext_det.training import distributed
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.output_folder import check_output_dir, remove_run
from resnext_det.training.processes import launch

logger = logging.getLogger(__name__)

_NO_FILES = ("DATASETS.PROPOSAL_FILES_TRAIN", "()", "DATASETS.PROPOSAL_FILES_TEST", "()")
_NO_SETS = ("DATASETS.TRAIN", "()", "DATASETS.TEST", "()")
# Keys of overrides, which hold for both steps, that have an effect in the other one alone.
_OF_FAST_RCNN = compile_unused(
    {"MODEL.META_ARCHITECTURE": "ProposalNetwork", "MODEL.LOAD_PROPOSALS": False}
)
_OF_RPN = compile_unused({"MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"})
_OF_GIVEN_PROPOSALS = compile_unused({"MODEL.LOAD_PROPOSALS": False})
_NO_PROPOSALS = ("MODEL.LOAD_PROPOSALS", "False", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN")


def train_two_step(rpn: Job, fast_rcnn: Job) -> Metrics:
    """Train an RPN, write its proposals for Fast R-CNN's sets, train Fast R-CNN, and evaluate it.

    The proposals are in the RPN's output folder, one file per set, whatever
    ``DATASETS.PROPOSAL_FILES_*`` say. Files that are newer than the RPN's newest checkpoint are not
    computed again; so with ``resume`` in both jobs a run goes on where it was, and a step that had
    ended is not repeated. Folders that hold runs are refused otherwise, unless the jobs
    ``overwrite`` them.

    Args:
        rpn: has the configuration of a ``ProposalNetwork``.
        fast_rcnn: has a configuration that reads proposals (``MODEL.LOAD_PROPOSALS``), and another
            output folder.

    Returns:
        Fast R-CNN's numbers.

    Raises:
        ValueError: one of the jobs is not of its step, or both have one output folder; and as
            ``train``.
        OSError, FloatingPointError, TrainingInterrupted: as ``train``.
    """
    rpn = _leave_out(rpn, _OF_FAST_RCNN)
    # It runs here, unless torchrun has started processes: these can meet only once, so they do it
    # around both steps.
    device = rpn.configuration().MODEL.DEVICE
    distributed.resolve_device(device)
    return launch(_train_both, device=device, args=(rpn, fast_rcnn))


def _train_both(rpn: Job, fast_rcnn: Job) -> Metrics:
    first = rpn.configuration()
    check_proposes(first)
    train_sets, test_sets = _read_sets(fast_rcnn)
    fast_rcnn = _leave_out(fast_rcnn, _OF_RPN)
    files = {name: locate_proposals(first.OUTPUT_DIR, name) for name in (*train_sets, *test_sets)}
    for split, names in (("TRAIN", train_sets), ("TEST", test_sets)):
        chosen = repr(tuple(str(files[name]) for name in names))
        fast_rcnn = _override(fast_rcnn, f"DATASETS.PROPOSAL_FILES_{split}", chosen)
    folder = fast_rcnn.configuration().OUTPUT_DIR
    if Path(folder).resolve() == Path(first.OUTPUT_DIR).resolve():
        raise ValueError(
            f"OUTPUT_DIR = {folder!r} is that of both steps, whose files have the same names; give "
            "each its own, or write --output-dir, which makes a folder for each"
        )
    jobs = ((rpn, first), (fast_rcnn, fast_rcnn.configuration()))
    for job, cfg in jobs:
        check_output_dir(cfg, resume=job.resume, overwrite=job.overwrite)
    _look_at_later_data(first, train_sets, test_sets)
    for job, cfg in jobs:
        # Both now: a later --resume must not find the old run of the second step.
        if job.overwrite:
            remove_run(cfg.OUTPUT_DIR)
    if not (rpn.resume and _has_ended(rpn, first)):
        train(rpn)
    due = {name: path for name, path in files.items() if not _is_newer(path, first)}
    if due:
        propose(replace(rpn, resume=True), due)
    return train(fast_rcnn)


def _look_at_later_data(
    first: CfgNode, train_sets: tuple[str, ...], test_sets: tuple[str, ...]
) -> None:
    """Look, before the first step, at the sets of Fast R-CNN that the RPN's job does not load."""
    seen = {*first.DATASETS.TRAIN, *first.DATASETS.TEST}
    look_at_data(
        [load_coco(name) for name in train_sets if name not in seen],
        [load_coco(name) for name in test_sets if name not in seen],
    )


def _leave_out(job: Job, keys: re.Pattern[str]) -> Job:
    """Leave out a job's overrides of keys that match."""
    if len(job.overrides) % 2:  # which is refused where they are read
        return job
    pairs = zip(job.overrides[::2], job.overrides[1::2])
    kept = [word for key, value in pairs if not keys.fullmatch(key) for word in (key, value)]
    return replace(job, overrides=tuple(kept))


def _override(job: Job, *overrides: str) -> Job:
    return replace(job, overrides=(*job.overrides, *overrides))


def _read_sets(fast_rcnn: Job) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the sets that Fast R-CNN is trained and evaluated on, whatever files stand for them."""
    given = _override(_leave_out(fast_rcnn, _OF_RPN), *_NO_SETS, *_NO_FILES)
    if not given.configuration().MODEL.LOAD_PROPOSALS:
        raise ValueError(
            f"{fast_rcnn.config_file} reads no proposals: MODEL.LOAD_PROPOSALS = False; give a "
            "configuration of Fast R-CNN, over configs/base/fast_rcnn.yaml"
        )
    without = _leave_out(fast_rcnn, _OF_GIVEN_PROPOSALS)
    datasets = _override(without, *_NO_PROPOSALS, *_NO_FILES).configuration().DATASETS
    return datasets.TRAIN, datasets.TEST


def _has_ended(rpn: Job, cfg: CfgNode) -> bool:
    """Tell whether the newest checkpoint is that of the last iteration."""
    checkpointer = Checkpointer(cfg.OUTPUT_DIR)
    newest = checkpointer.latest()
    if newest is None:
        return False
    solver = scale_to_processes(cfg, rpn.world_size).SOLVER
    ended = checkpointer.load(newest).get("iteration", -1) + 1 >= solver.MAX_ITER
    if ended:
        logger.info("The RPN in %s is trained.", cfg.OUTPUT_DIR)
    return ended


def _is_newer(path: Path, cfg: CfgNode) -> bool:
    """Tell whether a file of proposals was written after the newest checkpoint."""
    newest = Checkpointer(cfg.OUTPUT_DIR).latest()
    return (
        newest is not None
        and path.is_file()
        and path.stat().st_mtime_ns >= newest.stat().st_mtime_ns
    )
