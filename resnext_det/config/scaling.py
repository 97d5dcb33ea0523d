"""SOLVER.REFERENCE_WORLD_SIZE: a schedule that was made for some number of processes, run by another."""

from __future__ import annotations

import logging

from fvcore.common.config import CfgNode

logger = logging.getLogger(__name__)


def scaled_to_processes(cfg: CfgNode, processes: int) -> CfgNode:
    """The configuration for this many processes, as detectron2's ``auto_scale_workers``.

    Where ``SOLVER.REFERENCE_WORLD_SIZE`` is not 0, the images of a process stay what they were: batch and learning rate grow in
    proportion to the processes, iterations shrink. A period stays at 1 or more, where detectron2's may become 0.

    Raises:
        ValueError: the batch cannot be shared out evenly among the reference processes.
    """
    solver = cfg.SOLVER
    reference = solver.REFERENCE_WORLD_SIZE
    if reference in (0, processes):
        return cfg
    if solver.IMS_PER_BATCH % reference:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH = {solver.IMS_PER_BATCH} is no multiple of SOLVER.REFERENCE_WORLD_SIZE = {reference}; write one, or 0 "
            "for no scaling"
        )
    scale = processes / reference
    scaled = cfg.clone()
    scaled.defrost()
    solver = scaled.SOLVER
    solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * scale)
    solver.BASE_LR *= scale
    solver.MAX_ITER = max(1, round(solver.MAX_ITER / scale))
    solver.WARMUP_ITERS = round(solver.WARMUP_ITERS / scale)
    solver.STEPS = tuple(round(step / scale) for step in solver.STEPS)
    solver.CHECKPOINT_PERIOD = max(1, round(solver.CHECKPOINT_PERIOD / scale))
    solver.REFERENCE_WORLD_SIZE = processes
    if scaled.TEST.EVAL_PERIOD:  # 0 evaluates at the end only
        scaled.TEST.EVAL_PERIOD = max(1, round(scaled.TEST.EVAL_PERIOD / scale))
    scaled.freeze()
    logger.info(
        "scaled to %d processes (SOLVER.REFERENCE_WORLD_SIZE = %d): batch %d, learning rate %g, %d iterations",
        processes,
        reference,
        solver.IMS_PER_BATCH,
        solver.BASE_LR,
        solver.MAX_ITER,
    )
    return scaled
