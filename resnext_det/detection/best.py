"""Check what a detector's training measures and keeps as its best, and when it ends early."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from resnext_det.config.detection import get_own
from resnext_det.detection.evaluation import choose_limit
from resnext_det.evaluation.coco import name_task
from resnext_det.evaluation.proposals import LIMITS

_PRECISIONS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_OF_KEYPOINTS = ("AP", "AP50", "AP75", "APm", "APl")


def check_best(cfg: CfgNode) -> None:
    """Refuse ``TEST.BEST_METRIC``, ``PATIENCE`` and ``LOSS_PERIOD`` that no training can follow.

    Raises:
        ValueError: there is no such number, nothing to compute it on, or no evaluation to wait for.
    """
    if (period := get_own(cfg, "TEST.LOSS_PERIOD")) and not cfg.DATASETS.TEST:
        raise ValueError(
            f"TEST.LOSS_PERIOD = {period} measures losses on DATASETS.TEST, which is empty; name a "
            "set there, or write TEST.LOSS_PERIOD 0"
        )
    metric, patience = get_own(cfg, "TEST.BEST_METRIC"), get_own(cfg, "TEST.PATIENCE")
    if patience and not metric:
        raise ValueError(
            f"TEST.PATIENCE = {patience} waits for a better evaluation, and TEST.BEST_METRIC is "
            "empty; write there what is to grow, such as bbox/AP, or TEST.PATIENCE 0"
        )
    if patience and not cfg.TEST.EVAL_PERIOD:
        raise ValueError(
            f"TEST.PATIENCE = {patience} waits for a better evaluation, and TEST.EVAL_PERIOD = 0 "
            "evaluates at the end alone; write the iterations between two, or TEST.PATIENCE 0"
        )
    if not metric:
        return
    if not cfg.DATASETS.TEST:
        raise ValueError(
            f"TEST.BEST_METRIC = {metric!r} is computed on DATASETS.TEST, which is empty; name a "
            "set there, or write TEST.BEST_METRIC ''"
        )
    if choose_limit(cfg) is None and cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
        raise ValueError(
            f"TEST.BEST_METRIC = {metric!r} has no fixed meaning where TEST.DETECTIONS_PER_IMAGE = "
            f"{cfg.TEST.DETECTIONS_PER_IMAGE} sets no limit; write 100 there"
        )
    if metric not in (known := _list_metrics(cfg)):
        raise ValueError(
            f"TEST.BEST_METRIC = {metric!r} is no number of this model's evaluations; choose one "
            f"of {', '.join(known)}"
        )


def _list_metrics(cfg: CfgNode) -> list[str]:
    """List the numbers of an evaluation that metrics.json has of any set, by their names there."""
    if cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork":
        sizes = [f"AR{size}@{limit}" for limit in LIMITS for size in ("", "s", "m", "l")]
        names = [f"box_proposals/{name}" for name in sizes]
    else:
        tasks: dict[str, tuple[str, ...]] = {"bbox": _PRECISIONS}
        tasks |= {"segm": _PRECISIONS} if cfg.MODEL.MASK_ON else {}
        tasks |= {"keypoints": _OF_KEYPOINTS} if cfg.MODEL.KEYPOINT_ON else {}
        limit = choose_limit(cfg) or 0
        names = [f"{name_task(limit, t)}/{name}" for t, each in tasks.items() for name in each]
    several = len(cfg.DATASETS.TEST) > 1
    sets = [f"{name}/" if several else "" for name in cfg.DATASETS.TEST]
    return [f"{before}{name}" for before in sets for name in names]
