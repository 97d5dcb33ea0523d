"""Show the images where a detector is worst and best, with the ground truth beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from resnext_det.data.coco import CocoDataset
from resnext_det.data.pixels import to_pixels
from resnext_det.data.records import pack_records
from resnext_det.detection.drawing import LabeledBoxes, draw_truth_beside
from resnext_det.detection.ground_truth import decode_to_draw
from resnext_det.evaluation.analysis import DetectionAnalysis
from resnext_det.evaluation.findings import ImageFindings, MarkedBoxes
from resnext_det.files import shorten_path
from resnext_det.report.page import join, write_heading, write_paragraph
from resnext_det.report.pictures import embed_image, place_pictures

_WORST, _BEST, _WORSE_MASKS = 12, 4, 4  # images that a page shows
_WIDTH = 720  # of two images beside each other, in pixels
_KINDS = {"correct": "", "found": "", "crowd": "ignored"}  # as pictures call them


def show_best_and_worst(analysis: DetectionAnalysis, dataset: CocoDataset) -> Markup:
    """Show the images with the most mistakes and those with the fewest, no image twice.

    What is right goes by the boxes. Where there are masks, images on which these make more mistakes
    than the boxes are shown too, with what is right by the masks.

    Args:
        dataset: that was tested on, which has the images.
    """
    score = analysis.by_score.best_score
    told = "No score is the best, so that no detection is shown on the right."
    if score == score:  # there are objects and detections
        told = f"Detections of score {score:.2f} or more are on the right."
    told = f"Ground truth is on the left. {told} What is wrong has broken lines and says why."
    chosen = {"Most mistakes": [image for image in analysis.choose_worst(_WORST) if image.mistakes]}
    if (masks := analysis.segm) is not None:
        chosen["More mistakes in masks than in boxes"] = _choose_worse_masks(analysis, masks)
        told += " That goes by the boxes, and under the heading of masks by these."
    chosen["Fewest mistakes"] = analysis.choose_best(_BEST)
    parts, shown = [write_paragraph(told)], set()
    for title, images in chosen.items():
        left = [image for image in images if image.image_id not in shown]
        shown |= {image.image_id for image in left}
        parts += [write_heading(title), show_images(left, dataset)] if left else []
    return join(parts)


def _choose_worse_masks(boxes: DetectionAnalysis, masks: DetectionAnalysis) -> list[ImageFindings]:
    """Choose images on which masks make more mistakes than boxes, the most first."""
    more = {
        mask.image_id: mask.mistakes - box.mistakes
        for box, mask in zip(boxes.images, masks.images, strict=True)
    }
    order = sorted(masks.images, key=lambda image: -more[image.image_id])
    return [image for image in order if more[image.image_id] > 0][:_WORSE_MASKS]


def show_images(images: Sequence[ImageFindings], dataset: CocoDataset) -> Markup:
    """Show images with the ground truth on the left, and the detections on the right.

    Images that cannot be read are left out, which is told.

    Args:
        dataset: has the images.
    """
    files, pictures, failures = map_files(dataset), [], []
    for findings in images:
        file = files[findings.image_id]
        try:
            pixels = to_pixels(file, "BGR")
        except (ValueError, OSError) as error:
            failures.append(str(error))
            continue
        size = pixels.shape[:2]
        truth = label_boxes(findings.truth, dataset.class_names, size, scored=False)
        found = label_boxes(findings.found, dataset.class_names, size)
        told = f"{shorten_path(file)}: {describe_findings(findings)}"
        pictures.append(
            embed_image(
                draw_truth_beside(pixels, truth, found, width=_WIDTH),
                f"Ground truth and detections of {told}",
                _WIDTH,
                caption=told,
                max_bytes=60_000,
            )
        )
    shown = [place_pictures(pictures, pairs=True)] if pictures else []
    if failures:
        count = f"{len(failures)} image{'s' * (len(failures) != 1)}"
        shown.append(write_paragraph(f"{count} cannot be shown: {failures[0]}", note=True))
    return join(shown)


def describe_findings(findings: ImageFindings) -> str:
    """Say what a detector did on an image: "5 found, 2 missed, 1 wrong"."""
    return f"{findings.true_positives} found, {findings.missed} missed, {findings.wrong} wrong"


def map_files(dataset: CocoDataset) -> dict[Any, str]:
    """Map the ids of a dataset's images to their files."""
    records = pack_records(dataset.records)
    return {image: str(file) for image, file in zip(records.image_ids, records.file_names)}


def label_boxes(
    marked: MarkedBoxes, class_names: Sequence[str], size: tuple[int, int], *, scored: bool = True
) -> LabeledBoxes:
    """Prepare the boxes and masks of an analysis to be drawn, with what is wrong about each.

    Args:
        class_names: into which the boxes' classes are numbers.
        size: height and width of the image.
        scored: show the scores; those of ground truth say nothing.
    """
    names = [class_names[number] for number in marked.classes.tolist()]
    kinds = [_KINDS.get(kind, kind) for kind in marked.kinds]
    masks = decode_to_draw(marked.masks, size)
    return LabeledBoxes(marked.boxes, names, marked.scores if scored else None, kinds, masks)
