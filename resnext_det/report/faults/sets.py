"""Find faults of the sets: images in both, classes without objects, other images in the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnext_det.data.inspection.copied_images import MANY_COPIES
from resnext_det.files import escape_controls, list_first
from resnext_det.report.faults.cause import Cause
from resnext_det.report.faults.measurements import Measurements

_BEHIND = 15.0  # points of AP of a rare class behind the others
_FAR = 1.0  # standard deviations between the two sets' images
_OTHER_SIZE = 1.6
_OTHER_SHARES = 0.3
_FEWEST = 100  # objects of a set, from which shares and medians are compared

UNEQUAL = 20
"""Times as many objects of one class as of another, which is rare beside it."""


def find_shared_images(measured: Measurements) -> Cause | None:
    """Find test images that were trained on."""
    if not measured.shared or measured.test is None:
        return None
    share = len(measured.shared) / max(measured.test.num_images, 1)
    test, train = (escape_controls(Path(name).name) for name in measured.shared[0])
    return Cause(
        "The numbers are too good: test images were trained on",
        f"{len(measured.shared)} of {measured.test.num_images} test images ({share:.0%}) are "
        f"images of the training set too, byte for byte, such as {test} ({train} there).",
        "Take these images out of one of the sets and evaluate again; until then no number of this "
        "page says how well the detector does on new images.",
        100 * share,
    )


def find_copies(measured: Measurements) -> Cause | None:
    """Find a training set that holds images several times."""
    if measured.train is None:
        return None
    share = len(measured.copies) / max(measured.train.num_images, 1)
    if share < MANY_COPIES:
        return None
    copy, first = (escape_controls(Path(name).name) for name in measured.copies[0])
    return Cause(
        "Training images are there several times",
        f"{len(measured.copies)} of {measured.train.num_images} training images ({share:.0%}) "
        f"repeat another one byte for byte, such as {copy} ({first}).",
        "Remove the copies: the set is smaller than it seems, and what it repeats is learned by "
        "heart.",
        10 * share,
    )


def find_absent_classes(measured: Measurements) -> Cause | None:
    """Find classes of the test set of which the training set has no object."""
    train, test = (measured.count_by_name(each) for each in (measured.train, measured.test))
    if train is None or test is None:
        return None
    absent = np.flatnonzero((train == 0) & (test > 0))
    if not len(absent):
        return None
    names = list_first([measured.class_names[k] for k in absent], 6)
    return Cause(
        f"Never in training: {names}",
        f"The training set has no box of {len(absent)} of the {np.count_nonzero(test)} classes "
        f"that are tested; the test set has {int(test[absent].sum())}.",
        f"Annotate {names} in the training images, or correct the category ids there; or leave "
        "the class out of both sets.",
        _lose_classes(measured, absent),
    )


def find_rare_classes(measured: Measurements) -> Cause | None:
    """Find classes that are much rarer in training than others, and found much worse."""
    counts = measured.count_by_name(measured.train)
    ap = np.array(measured.category_ap, np.float64)
    if counts is None or not len(counts) or len(ap) != len(counts):
        return None
    rare = (counts > 0) & (counts * UNEQUAL <= counts.max())
    if not rare.any() or rare.all() or np.isnan(ap[~rare]).all():
        return None
    rare &= np.nan_to_num(ap, nan=100.0) < np.nanmean(ap[~rare]) - _BEHIND
    chosen = np.flatnonzero(rare)
    if not len(chosen):
        return None
    most = int(counts.argmax())
    parts = [f"{escape_controls(measured.class_names[k])} {counts[k]}" for k in chosen[:6]]
    return Cause(
        f"Rare in training: {list_first([measured.class_names[k] for k in chosen], 6)}",
        f"Boxes in training: {', '.join(parts)}, and {counts[most]:,} of "
        f"{escape_controls(measured.class_names[most])}. AP of the rare ones is "
        f"{np.nanmean(ap[chosen]):.1f}, of the others {np.nanmean(ap[~rare]):.1f}.",
        f"Add images of them{_advise_repeating(measured, chosen)}.",
        _lose_classes(measured, chosen),
    )


def _advise_repeating(measured: Measurements, chosen: np.ndarray) -> str:
    """Advise to show images of the rare classes more often, unless they are already."""
    threshold = f"{_choose_threshold(measured, chosen):.2g}"
    sampler = "DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler "
    if measured.get("DATALOADER.SAMPLER_TRAIN") == "RepeatFactorTrainingSampler":
        if (measured.get("DATALOADER.REPEAT_THRESHOLD") or 0.0) >= float(threshold):
            return ""
        sampler = ""
    return f", or show theirs more often: {sampler}DATALOADER.REPEAT_THRESHOLD {threshold}"


def _choose_threshold(measured: Measurements, chosen: np.ndarray) -> float:
    """Choose a threshold by which images of the rare classes are shown about three times.

    The repeat factor of an image is sqrt(threshold / share of images with its rarest class).
    """
    assert measured.train is not None
    names = list(measured.train.class_names)
    images = measured.train.count_images()
    shares = [images[names.index(measured.class_names[k])] for k in chosen]
    return min(1.0, 9 * min(shares) / max(measured.train.num_images, 1))


def _lose_classes(measured: Measurements, chosen: np.ndarray) -> float:
    """Compute by how much AP would rise if some classes had the mean AP of the others."""
    ap = np.array(measured.category_ap, np.float64)
    if len(ap) != len(measured.class_names) or np.isnan(ap).all():
        return 100 * len(chosen) / max(len(measured.class_names), 1)
    others = np.delete(ap, chosen)
    usual = float(np.nanmean(others)) if not np.isnan(others).all() else 50.0
    return float(np.nansum(np.maximum(usual - ap[chosen], 0)) / np.count_nonzero(~np.isnan(ap)))


def find_other_images(measured: Measurements) -> Cause | None:
    """Find test images that look unlike those of the training."""
    far = [each for each in measured.appearance if each.distance > _FAR]
    if not far:
        return None
    far.sort(key=lambda each: -each.distance)
    parts = [f"{each.name} {each.train:.2f} and {each.test:.2f}" for each in far[:3]]
    return Cause(
        "Test images look unlike the training images",
        f"On average of the training and the test images: {'; '.join(parts)}. These are "
        f"{far[0].distance:.1f} standard deviations of an image apart.",
        "Add images of the test's kind to the training set, or draw both sets from the same images "
        "at random (train with --train-data alone holds a fifth out).",
        min(1.0, far[0].distance / 3) * measured.lacking,
    )


def find_other_shares(measured: Measurements) -> Cause | None:
    """Find classes whose shares of the objects differ between the sets."""
    train, test = (measured.count_by_name(each) for each in (measured.train, measured.test))
    if train is None or test is None or min(train.sum(), test.sum()) < _FEWEST:
        return None
    shares = [counts / counts.sum() for counts in (train, test)]
    distance = np.abs(shares[0] - shares[1]).sum() / 2
    if distance < _OTHER_SHARES:
        return None
    k = int(np.abs(shares[0] - shares[1]).argmax())
    return Cause(
        "Classes are of other shares in the test set than in training",
        f"{escape_controls(measured.class_names[k])} is {shares[0][k]:.0%} of the boxes in "
        f"training and {shares[1][k]:.0%} in the test; {distance:.0%} of all boxes would have to "
        "be of another class to agree.",
        "Draw both sets from the same images at random (train with --train-data alone holds a "
        "fifth out).",
        10 * float(distance),
    )


def find_other_sizes(measured: Measurements) -> Cause | None:
    """Find objects that the detector sees in another size in tests than in training."""
    train, test = measured.train, measured.test
    if train is None or test is None or min(train.num_objects, test.num_objects) < _FEWEST:
        return None
    factor = _compare_settings(measured)
    seen = float(np.median(train.measure_sizes())) * factor
    tested = float(np.median(test.measure_sizes()))
    ratio = tested / max(seen, 1e-9)
    if 1 / _OTHER_SIZE < ratio < _OTHER_SIZE:
        return None
    by_settings = not 1 / 1.3 < factor < 1.3
    advice = "Draw both sets from the same images, or scale the test images: INPUT.MIN_SIZE_TEST "
    if by_settings:
        advice, ratio = "Test at the size of the training: INPUT.MIN_SIZE_TEST ", 1 / factor
    now = measured.get("INPUT.MIN_SIZE_TEST")
    return Cause(
        "Objects have another size in tests than in training",
        f"By the median an object has {seen:.0f} pixels a side in training and {tested:.0f} in "
        f"tests, as the detector sees them (INPUT.MIN_SIZE_TEST {now}, INPUT.MIN_SIZE_TRAIN "
        f"{measured.get('INPUT.MIN_SIZE_TRAIN')}).",
        f"{advice}{round((now or 800) / ratio)}, and INPUT.MAX_SIZE_TEST in proportion.",
        min(0.8, abs(float(np.log(ratio)))) * measured.lacking,
    )


def _compare_settings(measured: Measurements) -> float:
    """Compute how many times as large images are in training as in tests, by the settings."""
    train, test = measured.get("INPUT.MIN_SIZE_TRAIN"), measured.get("INPUT.MIN_SIZE_TEST")
    others = ("INPUT.SCALE_JITTER", "INPUT.STRETCH")
    if not train or not test or any(measured.get(key) for key in others):
        return 1.0
    return float(np.mean(train)) / test
