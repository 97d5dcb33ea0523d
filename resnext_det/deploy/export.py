"""Export a trained detector into one file, from an image's pixels to named detections."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch.export import Dim, ExportedProgram

from resnext_det.config.backbone import read_architecture
from resnext_det.config.detection import get_own
from resnext_det.config.parts import list_parts_in_use, uses_c4_head, uses_fpn
from resnext_det.deploy.agreement import Agreement
from resnext_det.deploy.evaluation import Files
from resnext_det.deploy.formats import write_onnx, write_openvino, write_program
from resnext_det.deploy.graph import DetectorGraph
from resnext_det.deploy.metadata import INPUT, Metadata
from resnext_det.deploy.verification import open_in_runtimes, verify_agreement, verify_ap
from resnext_det.detection.inference import Predictor
from resnext_det.detection.portable.detector import Detector
from resnext_det.runtimes.packages import describe_missing

SUFFIXES = (".onnx", ".xml", ".pt2")
"""Of the files that can be written: ONNX, OpenVINO's own format, and torch's."""

# What writes and checks the files of a suffix, and the extra of pip that brings it.
_PACKAGES = {
    ".onnx": (("onnx", "onnxscript", "onnxruntime"), "onnx"),
    ".xml": (("onnx", "onnxscript", "openvino"), "onnx,openvino"),
    ".pt2": ((), ""),
}


@dataclass(frozen=True)
class ExportReport:
    """Say what was written, and how it was checked.

    Attributes:
        path: of the file.
        size: of it, in bytes.
        agreements: with the detector in torch, one for each runtime that was installed.
        ap: on the set given, COCO's AP of boxes in percent by what ran the detector: "torch" and
            the runtimes; empty without a set.
        segm_ap: that of masks; empty without a set, or without masks.
    """

    path: Path
    size: int
    agreements: tuple[Agreement, ...]
    ap: dict[str, float]
    segm_ap: dict[str, float]


def export_detector(
    detector: Predictor | CfgNode | str | Path,
    path: str | Path,
    *,
    test_data: Files | None = None,
) -> ExportReport:
    """Export a trained detector into one file, and check it before it gets its name.

    The file takes an image of any size, uint8 RGB (H, W, 3), and gives boxes in the image's
    pixels, scores, classes and, of a detector of masks, the probabilities of the cells of each box,
    see ``paste_masks``: resizing, normalization and suppression are inside, and the names of the
    classes stand in its metadata. It is run on images of several sizes by every runtime
    that is installed, and what it finds is compared with what the detector finds in torch.

    Args:
        detector: a predictor, or what one is made of: the file of a trained detector, or a
            configuration.
        path: ends in .onnx, .xml (OpenVINO's own format, with a file .bin beside it), or .pt2
            (``torch.export.load`` reads it, after ``import torchvision``).
        test_data: a COCO file and its image folder, on which AP has to be the same too.

    Returns:
        what was written, and how it was checked.

    Raises:
        ValueError: the suffix is of no format that can be written, the detector cannot be
            exported, a package is missing, or the file finds other objects than the detector: then
            no file is left.
        OSError: the file could not be written.
    """
    path = Path(path).expanduser()
    check_format(path)
    predictor = detector if isinstance(detector, Predictor) else Predictor(detector)
    metadata = describe(predictor)
    program = trace(predictor)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        partial = Path(folder, path.name)
        try:
            _write(program, partial, metadata)
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"this torch cannot write the detector as {path.suffix} ({type(error).__name__}: "
                f"{reason}), so there is no file; try another torch, or the suffix .pt2"
            ) from error
        detectors = open_in_runtimes(partial)
        agreements = verify_agreement(predictor, detectors)
        ap = {} if test_data is None else verify_ap(predictor, detectors, test_data)
        files = sorted(Path(folder).glob(f"{partial.stem}.*"))  # .bin comes before .xml
        size = sum(file.stat().st_size for file in files)
        for file in files:
            os.replace(file, path.with_suffix(file.suffix))
    by_measure = (
        {name: one[measure] for name, one in ap.items() if measure in one}
        for measure in ("AP", "segm-AP")
    )
    return ExportReport(path, size, agreements, *by_measure)


def _write(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    suffix = path.suffix.lower()
    if suffix == ".pt2":
        write_program(program, path, metadata)
    elif suffix == ".onnx":
        write_onnx(program, path, metadata, _make_example())
    else:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            between = Path(folder, "model.onnx")
            write_onnx(program, between, metadata, _make_example())
            write_openvino(between, path, metadata)


def describe(predictor: Predictor) -> Metadata:
    """Describe a detector for the metadata of its file.

    Raises:
        ValueError: it takes gray images, or stretches images.
    """
    cfg = predictor.cfg
    if stretch := get_own(cfg, "INPUT.STRETCH"):
        raise ValueError(
            f"INPUT.STRETCH is {stretch}, and no detector with it is exported, as every runtime "
            "interpolates with rounding of its own; use the detector itself (resnext-det predict)"
        )
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ValueError(
            f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}, and exported detectors take color images; "
            "train the detector on RGB or BGR"
        )
    limit, regions = cfg.TEST.DETECTIONS_PER_IMAGE, cfg.MODEL.RPN.POST_NMS_TOPK_TEST
    return Metadata(
        version=sys.modules["resnext_det"].__version__,
        class_names=predictor.class_names,
        architecture=str(read_architecture(cfg.MODEL.RESNETS)),
        detector=_name_kind(cfg),
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        score_threshold=predictor.lowest_score,
        max_detections=limit if limit >= 0 else regions * len(predictor.class_names),
        mask_size=_find_mask_size(cfg),
    )


def _find_mask_size(cfg: CfgNode) -> int:
    """Find how many cells a side of a mask has; 0 of a detector of boxes alone."""
    if not cfg.MODEL.MASK_ON:
        return 0
    cut = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
    if uses_c4_head(cfg):  # whose masks are of what res5 gives, at a stride of 2
        cut = -(-cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION // 2)
    return 2 * cut  # the head doubles the sides


def _name_kind(cfg: CfgNode) -> str:
    if "RETINANET" in list_parts_in_use(cfg):
        return "RetinaNet"
    return "FPN" if uses_fpn(cfg) else "C4" if uses_c4_head(cfg) else "DC5"


def trace(predictor: Predictor) -> ExportedProgram:
    """Trace a detector into a program for images of all sizes.

    Raises:
        ValueError: the predictor's detector was optimized for a backend.
    """
    cfg, model = predictor.cfg, predictor.model
    if not isinstance(model, Detector):
        raise ValueError(
            "the predictor's detector was optimized for a backend, and the exact one is exported; "
            "make the predictor without a backend"
        )
    graph = DetectorGraph(
        model,
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        image_format=cfg.INPUT.FORMAT,
    )
    sides = {INPUT: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}}
    with torch.no_grad():
        return torch.export.export(graph, (_make_example(),), dynamic_shapes=sides, strict=False)


def _make_example() -> torch.Tensor:
    return torch.zeros(150, 170, 3, dtype=torch.uint8)


def check_format(path: Path) -> None:
    """Refuse a suffix that is unknown, or whose files cannot be written here.

    Raises:
        ValueError: see above.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: the suffix says what is written; end it in one of {', '.join(SUFFIXES)}"
        )
    if missing := describe_missing(*_PACKAGES[suffix]):
        raise ValueError(f"{suffix} files are written and checked by {missing}")
