"""Say in words what each kind of error is, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorKind:
    """Describe a kind of error.

    Attributes:
        words: what it is, in a few words.
        title: the same of a detector that mostly errs so, as a heading.
        advice: what to look at, and what to change.
    """

    words: str
    title: str
    advice: str


DESCRIPTIONS: Mapping[str, ErrorKind] = {
    "localization": ErrorKind(
        "right class, not near enough: IoU 0.1 to 0.5",
        "Boxes are not tight",
        "Look at the labels first: are they drawn the same way everywhere? Then train longer, or "
        "with larger images (INPUT.MIN_SIZE_TRAIN, INPUT.MIN_SIZE_TEST).",
    ),
    "classification": ErrorKind(
        "right place, wrong class",
        "Objects are found under wrong classes",
        "Look at the confusions: are those labels right? Then add images of these classes, or "
        "train longer.",
    ),
    "both": ErrorKind(
        "wrong class, and not near enough",
        "Boxes are not tight and of wrong classes",
        "Look at the images with the most mistakes, and at the confusions; train longer, or with "
        "more images.",
    ),
    "duplicate": ErrorKind(
        "object found already, found again",
        "Objects are detected several times",
        "Lower MODEL.ROI_HEADS.NMS_THRESH_TEST, for RetinaNet MODEL.RETINANET.NMS_THRESH_TEST (0.5 "
        "is usual), and evaluate again; where the boxes of one object differ much, train longer.",
    ),
    "background": ErrorKind(
        "nothing there",
        "Background is taken for objects",
        "Look at the images with the most mistakes: are these objects that nobody labeled? Then "
        "label them; else add images of such things without boxes and write "
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS False, or use the detector with a higher score.",
    ),
    "missed": ErrorKind(
        "object not found",
        "Objects are missed",
        "Look at the images with the most mistakes for what the objects have in common (size, "
        "light, pose), and add such images; small ones need larger images (INPUT.MIN_SIZE_TRAIN, "
        "INPUT.MIN_SIZE_TEST). Or train longer.",
    ),
}
"""By the names of ``resnext_det.evaluation.findings.ERROR_KINDS``."""
