"""Keys of parts that are left out: overrides of them are refused, and they change nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.config import load_config
from resnext_det.config.loading import drop_idle_overrides, override_config
from resnext_det.config.rules import get_value
from resnext_det.config.switches import find_switched_off
from resnext_det.detection.portable import engine
from tests.config.helpers import read_table
from tests.detection.helpers import (
    C4_CHANGES,
    CASCADE_CHANGES,
    MASKS,
    RETINANET_CHANGES,
    as_overrides,
    write_config,
)

FASTER = "modern/faster_rcnn_X50_32x4d_FPN_1x.yaml"
FILES = {
    "faster": FASTER,
    "c4": "modern/faster_rcnn_X50_32x4d_C4_1x.yaml",
    "mask_c4": "modern/mask_rcnn_X50_32x4d_C4_1x.yaml",
    "retinanet": "modern/retinanet_R50_1x64d_FPN_1x.yaml",
    "cascade": "modern/cascade_rcnn_X50_32x4d_FPN_1x.yaml",
    "rpn": "two_step/rpn_X50_32x4d.yaml",
    "fast": "two_step/fast_rcnn_X50_32x4d.yaml",
    "mlperf": "mlperf/retinanet_X50_32x4d_FPN.yaml",
    "jitter": "new_baselines/mask_rcnn_R50_1x64d_FPN_100ep_LSJ.yaml",
}

# A file, an override that would change nothing there, and words of the refusal.
IDLE = """
retinanet MODEL.ROI_HEADS.NUM_CLASSES 4 | 'RetinaNet'; write MODEL.RETINANET.NUM_CLASSES
retinanet MODEL.RPN.IOU_THRESHOLDS [0.2,0.5] | 'RetinaNet'; write MODEL.RETINANET.IOU_THRESHOLDS
retinanet MODEL.RPN.NMS_THRESH 0.5 | as MODEL.META_ARCHITECTURE = 'RetinaNet'; leave it out
retinanet MODEL.ROI_BOX_HEAD.NUM_FC 1 | as MODEL.META_ARCHITECTURE = 'RetinaNet'; leave it out
retinanet MODEL.ROI_MASK_HEAD.NUM_CONV 2 | as MODEL.META_ARCHITECTURE = 'RetinaNet'
retinanet MODEL.PROPOSAL_GENERATOR.MIN_SIZE 2 | as MODEL.META_ARCHITECTURE = 'RetinaNet'
retinanet MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS ((9.0,9.0,9.0,9.0),) | leave it out
retinanet INPUT.MASK_FORMAT bitmask | as MODEL.META_ARCHITECTURE = 'RetinaNet'; leave it out
faster MODEL.RETINANET.NUM_CLASSES 4 | 'GeneralizedRCNN'; write MODEL.ROI_HEADS.NUM_CLASSES, or
faster MODEL.RETINANET.NUM_CONVS 2 | begin with a configuration of a RetinaNet
faster MODEL.ROI_MASK_HEAD.NUM_CONV 2 | as MODEL.MASK_ON = False; write MODEL.MASK_ON True too
faster MODEL.ROI_BOX_CASCADE_HEAD.IOUS (0.5,) | CascadeROIHeads and MODEL.ROI_BOX_HEAD.CLS_
c4 MODEL.ROI_BOX_CASCADE_HEAD.IOUS (0.5,) | leave it out, or begin with a configuration of another
faster MODEL.ROI_BOX_HEAD.NORM GN | NUM_CONV = 0; write MODEL.ROI_BOX_HEAD.NUM_CONV 4 too
faster MODEL.RESNETS.DEFORM_NUM_GROUPS 2 | write MODEL.RESNETS.DEFORM_ON_PER_STAGE [False, True
faster DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST 9 | as MODEL.LOAD_PROPOSALS = False
faster DATALOADER.REPEAT_THRESHOLD 0.1 | SAMPLER_TRAIN RepeatFactorTrainingSampler too
faster SOLVER.BASE_LR_END 0.001 | write SOLVER.LR_SCHEDULER_NAME WarmupCosineLR too
faster SOLVER.NUM_DECAYS 4 | write SOLVER.LR_SCHEDULER_NAME WarmupStepWithFixedGammaLR too
faster SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.STEPS (5,) | SOLVER.STEPS = '(5,)' would
faster SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.GAMMA 0.2 | 'WarmupCosineLR'; leave it out
faster SOLVER.WARMUP_ITERS 0 SOLVER.WARMUP_FACTOR 0.1 | write SOLVER.WARMUP_ITERS 1000 too
faster SOLVER.OPTIMIZER Adam SOLVER.MOMENTUM 0.8 | 'Adam'; write SOLVER.OPTIMIZER SGD too
faster SOLVER.OPTIMIZER AdamW SOLVER.NESTEROV True | 'AdamW'; write SOLVER.OPTIMIZER SGD too
faster SOLVER.CLIP_GRADIENTS.CLIP_VALUE 2.0 | write SOLVER.CLIP_GRADIENTS.ENABLED True too
faster SOLVER.CLIP_GRADIENTS.ENABLED True SOLVER.CLIP_GRADIENTS.NORM_TYPE 1.0 | CLIP_TYPE norm too
faster MODEL.RPN.BBOX_REG_LOSS_TYPE giou MODEL.RPN.SMOOTH_L1_BETA 0.1 | LOSS_TYPE smooth_l1 too
faster MODEL.ROI_BOX_HEAD.POOLER_TYPE ROIPool MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO 2
  MODEL.ROI_HEADS.NAME StandardROIHeads | write MODEL.ROI_BOX_HEAD.POOLER_TYPE ROIAlignV2 too
c4 MODEL.FPN.OUT_CHANNELS 64 | leave it out, or begin with a configuration of a pyramid
c4 MODEL.ROI_BOX_HEAD.FC_DIM 64 | ROIHeads'; leave it out, or begin
mask_c4 MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION 14 | write MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
mask_c4 MODEL.ROI_MASK_HEAD.NORM GN | write MODEL.ROI_MASK_HEAD.NUM_CONV 4 too
cascade MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS (1.0,1.0,1.0,1.0)
  | write those of each stage, MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS
rpn MODEL.ROI_HEADS.NUM_CLASSES 4 | as MODEL.META_ARCHITECTURE = 'ProposalNetwork'
rpn TEST.DETECTIONS_PER_IMAGE 4 | as MODEL.META_ARCHITECTURE = 'ProposalNetwork'
fast MODEL.RPN.NMS_THRESH 0.5 | as MODEL.PROPOSAL_GENERATOR.NAME = 'PrecomputedProposals'
fast MODEL.ANCHOR_GENERATOR.SIZES [[32]] | as MODEL.PROPOSAL_GENERATOR.NAME
faster INPUT.MIN_SIZE_TEST 0 INPUT.MAX_SIZE_TEST 400 | as INPUT.MIN_SIZE_TEST = 0; leave it out
faster INPUT.MIN_SIZE_TRAIN (0,) INPUT.MAX_SIZE_TRAIN 400 | as INPUT.MIN_SIZE_TRAIN = (0,)
mlperf INPUT.MIN_SIZE_TEST 400 | write the size in INPUT.STRETCH, or leave it out
jitter INPUT.MIN_SIZE_TRAIN (400,) | (0.1, 2.0); write INPUT.SCALE_JITTER_SIZE, or leave it out
"""


def get_refusal(load: Callable[..., Any], case: str) -> tuple[str, list[str]]:
    given, *words = case.split(" | ")
    name, *overrides = given.split()
    with pytest.raises(ValueError, match=r" would change nothing, as ") as caught:
        load(FILES[name], overrides)
    return str(caught.value), words


@pytest.mark.parametrize("case", read_table(IDLE))
def test_an_override_that_changes_nothing_is_refused(case: str) -> None:
    text, words = get_refusal(load_config, case)
    assert [word for word in words if word not in text] == [], text


@pytest.mark.detectron2
@pytest.mark.parametrize("case", read_table(IDLE)[::6])
def test_detectron2s_engine_refuses_such_overrides_too(case: str) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from resnext_det.detection.detectron2 import engine as detectron2

    text, words = get_refusal(detectron2.load_config, case)
    assert [word for word in words if word not in text] == [], text


# A file, and overrides that hold: the key that is read instead has the same value.
TWINS = """
retinanet MODEL.ROI_HEADS.NUM_CLASSES 3 MODEL.RETINANET.NUM_CLASSES 3
faster MODEL.ROI_HEADS.NUM_CLASSES 3 MODEL.RETINANET.NUM_CLASSES 3
retinanet MODEL.RETINANET.SCORE_THRESH_TEST 0.3 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.3
"""


@pytest.mark.parametrize("case", read_table(TWINS))
def test_a_script_may_set_a_value_for_several_kinds_of_detector(case: str) -> None:
    name, *overrides = case.split()
    load_config(FILES[name], overrides)
    with pytest.raises(ValueError, match=r" would change nothing, as "):
        load_config(FILES[name], [*overrides[:3], "5" if overrides[1] == "3" else "0.1"])


def test_a_file_may_set_what_has_no_effect(tmp_path: Path) -> None:
    """detectron2's own files do."""
    path = write_config(tmp_path)
    path.write_text(path.read_text() + "TEST: {AUG: {MIN_SIZES: [400]}}\n")
    cfg = load_config(path, as_overrides(RETINANET_CHANGES))
    assert "MODEL.ROI_HEADS.NUM_CLASSES" in find_switched_off(cfg)
    with pytest.raises(ValueError, match=r"write MODEL.RETINANET.NUM_CLASSES"):
        override_config(cfg, ["MODEL.ROI_HEADS.NUM_CLASSES", "9"])


def test_further_overrides_lose_those_that_change_nothing() -> None:
    chosen = ["SOLVER.STEPS", "(5,)", "SOLVER.MAX_ITER", "9", "INPUT.MIN_SIZE_TEST", "400"]
    assert drop_idle_overrides(load_config(FASTER), chosen) == chosen
    cosine = ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"]
    assert drop_idle_overrides(load_config(FASTER), [*chosen, *cosine]) == [*chosen[2:], *cosine]
    assert drop_idle_overrides(load_config(FASTER, cosine), chosen) == chosen[2:]
    assert drop_idle_overrides(load_config(FILES["mlperf"]), chosen) == chosen[:4]


def change(value: Any) -> Any:
    """Give another value of the same type, whatever it means."""
    if isinstance(value, list | tuple):
        return type(value)([*map(change, value)] or ["other"])
    if isinstance(value, bool):
        return not value
    if value == "choice":  # which is read, and refused if unknown, though nothing is drawn
        return "range"
    return value + (1 if isinstance(value, int) else 0.5 if isinstance(value, float) else "_other")


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    "changes",
    [
        *([], MASKS, C4_CHANGES, CASCADE_CHANGES, RETINANET_CHANGES),
        ["INPUT.STRETCH", (64, 64)],
        ["INPUT.MIN_SIZE_TEST", 0, "INPUT.MIN_SIZE_TRAIN", (0,)],
    ],
    ids=["faster", "masks", "c4", "cascade", "retinanet", "stretched", "not resized"],
)
def test_what_has_no_effect_changes_no_number(tmp_path: Path, changes: list[Any]) -> None:
    """Weights and detections stay the same, to the last bit, whatever the keys say."""
    ends = []
    for name in ("given", "changed"):
        overrides = [*changes, "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", tmp_path / name]
        cfg = load_config(write_config(tmp_path), as_overrides(overrides)).clone()
        cfg.defrost()
        if name == "changed":
            for key in find_switched_off(cfg):
                node, _, leaf = key.rpartition(".")
                get_value(cfg, node)[leaf] = change(get_value(cfg, key))
        cfg.freeze()
        engine.train(cfg)
        rows = (tmp_path / name / "inference" / "coco_instances_results.json").read_text()
        ends.append((torch.load(tmp_path / name / "model_final.pth")["model"], rows))
    (given, rows), (changed, other_rows) = ends
    assert rows == other_rows
    assert given.keys() == changed.keys()
    assert all(torch.equal(given[name], changed[name]) for name in given)
