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
from resnext_det.evaluation.findings import ImageFindings, MarkedBoxes
from resnext_det.files import shorten_path
from resnext_det.report.page import join, write_paragraph
from resnext_det.report.pictures import embed_image, place_pictures

_WIDTH = 720  # of two images beside each other, in pixels
_KINDS = {"correct": "", "found": "", "crowd": "ignored"}  # as pictures call them


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
