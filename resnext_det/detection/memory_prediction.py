"""Predict the memory of the training step that a configuration describes, however it is computed.

What the configuration says of images, objects and regions goes into it; ``step_memory`` measures.
"""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode

from resnext_det.config.detection import get_own
from resnext_det.config.names import EXACT_HEADS
from resnext_det.config.rules import get_value
from resnext_det.config.values import find_unsupported
from resnext_det.data.coco import list_datasets, load_coco
from resnext_det.data.records import Records, join_records
from resnext_det.detection.batch_parts import get_padding_unit
from resnext_det.detection.memory_saving import MemorySaving, recompute_stages
from resnext_det.detection.own_data import hold_back_warnings
from resnext_det.detection.step_memory import StepMemory, Trial, measure_step
from resnext_det.detection.training import choose_parts

_USUAL_OBJECTS = 100  # COCO's most in an image are 93
_TOUCHING = 1e-5  # the IoU of a region that touches an object
_DETECTORS = ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet")


def check_predictable(cfg: CfgNode) -> None:
    """Refuse a configuration of which ``Prediction`` would be wrong.

    Raises:
        ValueError: of keypoints, deformable convolutions, proposals from files, a model that only
            detectron2 has, or images of unknown size; naming the key and what to write.
    """
    others = [key for key in find_unsupported(cfg) if key.startswith("MODEL.")]
    if cfg.MODEL.META_ARCHITECTURE not in _DETECTORS:
        others.append("MODEL.META_ARCHITECTURE")
    if cfg.MODEL.META_ARCHITECTURE != "RetinaNet" and cfg.MODEL.PROPOSAL_GENERATOR.NAME != "RPN":
        others.append("MODEL.PROPOSAL_GENERATOR.NAME")
    if any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE):
        others.append("MODEL.RESNETS.DEFORM_ON_PER_STAGE")
    if others:
        value = get_value(cfg, others[0])
        raise ValueError(
            f"--fit-memory does not predict the memory of {others[0]} = {value!r}; leave the flag "
            "out, and write --recompute and --accumulate yourself"
        )
    if keeps_shape(cfg) and 0 in cfg.INPUT.MIN_SIZE_TRAIN:
        raise ValueError(
            "--fit-memory has to know how large images are, and INPUT.MIN_SIZE_TRAIN = 0 leaves "
            "them as they are; write the size of their shorter side"
        )


def keeps_shape(cfg: CfgNode) -> bool:
    """Tell whether training images are resized by INPUT.MIN_SIZE_TRAIN, and so keep their shape."""
    return not (get_own(cfg, "INPUT.SCALE_JITTER") or get_own(cfg, "INPUT.STRETCH"))


def find_largest_size(cfg: CfgNode, images: int) -> tuple[int, int]:
    """Find the largest height and width of a configuration's training images, before padding.

    Args:
        images: of a batch. Where tall and wide ones may be in one batch, all are padded to the
            longer side in both directions.

    Returns:
        height and width in pixels.
    """
    if stretched := get_own(cfg, "INPUT.STRETCH"):
        return stretched[0], stretched[1]
    if get_own(cfg, "INPUT.SCALE_JITTER"):
        side = get_own(cfg, "INPUT.SCALE_JITTER_SIZE")
        return side, side
    longer = cfg.INPUT.MAX_SIZE_TRAIN
    shorter = min(max(cfg.INPUT.MIN_SIZE_TRAIN), longer)
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING and not cfg.INPUT.CROP.ENABLED
    return (shorter, longer) if grouped or images == 1 else (longer, longer)


def count_objects(cfg: CfgNode) -> int:
    """Count the objects of the training image that has most.

    Where a training set is not registered here it is 100, a little more than COCO's images have.
    """
    if not set(cfg.DATASETS.TRAIN) <= set(list_datasets()):
        return _USUAL_OBJECTS
    with hold_back_warnings():
        records = join_records([load_coco(name).records for name in cfg.DATASETS.TRAIN])
    assert isinstance(records, Records)
    return max(1, int((records.spans[:, 1] - records.spans[:, 0]).max(initial=0)))


def prepare_trial_config(cfg: CfgNode, *, on_gpu: bool) -> CfgNode:
    """Prepare the configuration of the measured steps.

    Every region that touches an object counts as one, so that a step on small images has as many
    regions, and as many that are objects, as a step on large ones can have.

    Args:
        on_gpu: predict for a GPU, where heads of regions with a faster RoIAlign are plain ones.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.VIS_PERIOD = "cpu", 0
    heads = cfg.MODEL.ROI_HEADS
    heads.IOU_THRESHOLDS, heads.IOU_LABELS = [_TOUCHING], [0, 1]
    cascade = cfg.MODEL.ROI_BOX_CASCADE_HEAD
    cascade.IOUS = (_TOUCHING, *cascade.IOUS[1:])
    if on_gpu:  # where the faster RoIAlign is not used
        heads.NAME = EXACT_HEADS.get(heads.NAME, heads.NAME)
    cfg.freeze()
    return cfg


class Prediction:
    """Predict the memory of one process's training step, for all sizes and ways to compute it.

    Args:
        cfg: the configuration.
        trial: of ``prepare_trial_config``.
        size: height and width of the largest image, in pixels, see ``find_largest_size``.
        objects: of an image, at most.
        processes: that train together.
    """

    def __init__(
        self, cfg: CfgNode, trial: Trial, size: tuple[int, int], objects: int, processes: int
    ) -> None:
        self._cfg, self._trial, self._size, self._objects = cfg, trial, size, objects
        self._unit = get_padding_unit(trial.model.backbone)
        trained = sum(one.nbytes for one in trial.model.parameters() if one.requires_grad)
        self._exchanged = trained * (processes > 1)  # buffers in which gradients are exchanged
        self._found: dict[tuple[tuple[str, ...], bool], StepMemory] = {}

    def predict(self, saving: MemorySaving, images: int, size: tuple[int, int]) -> int:
        """Predict the most bytes of tensors that a step holds.

        Args:
            saving: how the step is computed.
            images: of the batch of this process.
            size: height and width of its images, in pixels, before padding.
        """
        in_parts = saving.accumulate > 1
        key = (saving.recompute, in_parts)
        if key not in self._found:
            self._found[key] = self._measure(saving.recompute, in_parts)
        part = -(-images // saving.accumulate)
        height, width = (-(-side // self._unit) * self._unit for side in size)
        return self._found[key].predict(part, height, width) + self._exchanged

    def _measure(self, stages: tuple[str, ...], in_parts: bool) -> StepMemory:
        cfg, trial = self._cfg, self._trial
        recompute_stages(trial.model, stages)
        parts = 2 if in_parts else 1
        return measure_step(
            trial,
            choose_parts(cfg, trial.model, parts, trial.draw_anchors),
            parts=parts,
            objects=self._objects,
            size=self._size,
            unit=max(self._unit, 32),
            masks=cfg.INPUT.MASK_FORMAT if cfg.MODEL.MASK_ON else "",
            amp_dtype=torch.bfloat16 if cfg.SOLVER.AMP.ENABLED else None,
        )
