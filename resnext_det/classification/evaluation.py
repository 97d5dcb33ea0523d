"""Test a classifier on a set of images, by all processes together, and write what was found."""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from resnext_det.classification.protocols import EvaluationProtocol
from resnext_det.data.images.catalog import name_image_set
from resnext_det.data.images.image_set import ImageSet, relabel
from resnext_det.data.images.loaders import build_image_test_loader
from resnext_det.evaluation.classification import ClassificationMetrics, Tally
from resnext_det.files import list_first, shorten_path, write_text
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.training import distributed
from resnext_det.training.interruption import leave_if_asked

logger = logging.getLogger(__name__)

_LONGEST_NAME = 80  # of a set, whose name may be a path, in the name of a file


def evaluate_on(
    network: ResNeXtClassifier,
    images: ImageSet,
    protocol: EvaluationProtocol,
    *,
    outputs: Sequence[str],
    batch_size: int,
    num_workers: int,
    skip_broken: bool = False,
    amp_dtype: torch.dtype | None = None,
) -> list[ClassificationMetrics]:
    """Score every image of a set and compare with its label; each process takes its share.

    The network's mode is left as it was. Where only some of the network's classes have images,
    these compete twice: with all outputs, and among themselves (section 5.2 of the paper: 5000-way
    and 1000-way).

    Args:
        outputs: the class of each of the network's outputs.
        batch_size, num_workers: of one process.
        skip_broken: leave broken images out; the metrics name them.
        amp_dtype: of mixed precision; None for full precision.

    Returns:
        The metrics over all outputs, then those of the set's classes among themselves where these
        are fewer; an empty list in other processes than the first.

    Raises:
        ValueError: an image is broken; a class of the set is no output of the network.
    """
    began = time.perf_counter()
    distributed.share_buffers(network)
    counts = _Counts(images.list_classes_with_images(), outputs)
    device = next(network.parameters()).device
    loader = build_image_test_loader(
        relabel(images, outputs),
        views=protocol.views,
        batch_size=batch_size,
        num_workers=num_workers,
        rank=distributed.get_rank(),
        world_size=distributed.get_world_size(),
        skip_broken=skip_broken,
        pin_memory=device.type == "cuda",
    )
    # On a terminal the main process shows a bar, which goes when it is done: a training may go on.
    hidden = None if distributed.is_main_process() else True
    bar = tqdm(loader, f"testing, {protocol.name}", unit="batch", disable=hidden, leave=False)
    was_training = network.training
    network.eval()
    mixed = torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None)
    with distributed.fail_together(), torch.inference_mode(), mixed:
        for batch in leave_if_asked(bar):
            counts.skip(batch["broken"])
            if len(batch["labels"]):
                counts.add(protocol.score(network, batch["views"], device).cpu(), batch["labels"])
    network.train(was_training)
    found = [
        replace(
            tally.compute_metrics(protocol.name, name_image_set(images.name)),
            resize=protocol.resize,
            interpolation=protocol.interpolation,
            usual=protocol.usual,
        )
        for tally in counts.gather()
    ]
    seconds = time.perf_counter() - began
    for metrics in found:
        logger.info(
            "%s, %s: %s; %.1f s", images.name, metrics.describe_test(), metrics.summarize(), seconds
        )
    return found


class _Counts:
    """The tallies of one test: over all outputs, and over the classes with images if fewer."""

    def __init__(self, class_names: Sequence[str], outputs: Sequence[str]) -> None:
        self._columns = find_columns(class_names, outputs)
        self._tallies = [Tally(outputs)]
        if len(class_names) < len(outputs):
            self._tallies.append(Tally(class_names))
        self._positions = torch.full((len(outputs),), -1)
        self._positions[self._columns] = torch.arange(len(class_names))

    def add(self, scores: Tensor, labels: Tensor) -> None:
        self._tallies[0].add(scores, labels)
        for among in self._tallies[1:]:
            # The softmax of these columns is the softmax over these outputs alone.
            among.add(scores[:, self._columns], self._positions[labels])

    def skip(self, broken: Sequence[tuple[str, str]]) -> None:
        for name, reason in broken:
            logger.warning("An image is left out: %s", reason)
            for tally in self._tallies:
                tally.skip(name)

    def gather(self) -> list[Tally]:
        """Merge the tallies of all processes; an empty list in other processes than the first."""
        gathered = distributed.gather_objects(self._tallies)
        for others in gathered[1:]:
            for tally, other in zip(self._tallies, others):
                tally.merge(other)
        return self._tallies if gathered else []


def find_columns(class_names: Sequence[str], outputs: Sequence[str]) -> Tensor:
    """Find the output column of every class, as int64 (len(class_names),).

    Args:
        class_names: the classes to find, such as the 1000 of ImageNet-1K.
        outputs: the class of each output of a network, such as the 5000 of ImageNet-5K.

    Raises:
        ValueError: a class is none of the outputs, or several outputs have its name.
    """
    times = Counter(outputs)
    missing = [name for name in class_names if name not in times]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(class_names)} classes are none of the network's "
            f"{len(outputs)} outputs: {list_first(map(repr, missing))}; "
            "test on classes that it was trained on, under the same names"
        )
    ambiguous = [name for name in class_names if times[name] > 1]
    if ambiguous:
        raise ValueError(
            f"several outputs have one name: {list_first(map(repr, ambiguous))}; "
            "give every class a name of its own"
        )
    columns = {name: column for column, name in enumerate(outputs)}
    return torch.tensor([columns[name] for name in class_names], dtype=torch.int64)


def write_metrics(folder: Path, found: Sequence[ClassificationMetrics]) -> list[Path]:
    """Write each test into ``folder/test``, under a name that no other test has.

    Such as ``imagenet_val_crop_224_of_shorter_side_256_bilinear_1000_way.json``. The same test on
    the same set is replaced, also where an older version wrote it under the path of the set.
    """
    written = []
    for metrics in found:
        name = f"{metrics.dataset[-_LONGEST_NAME:]} {metrics.describe_test()} {metrics.ways} way"
        name = re.sub("[^A-Za-z0-9.-]+", "_", name).strip("._")
        text = metrics.to_json()
        tests = {file: _identify_test(file.read_bytes()) for file in folder.glob("test/*.json")}
        same = [file for file, test in tests.items() if test == _identify_test(text.encode())]
        names = (f"{name}{f'_{number}' if number > 1 else ''}.json" for number in count(1))
        places = (folder / "test" / each for each in names)
        place = next(place for place in places if place in same or place not in tests)
        write_text(place, text)
        for file in same:
            if file != place:
                file.unlink()
        written.append(place)
    return written


def _identify_test(text: bytes) -> tuple[Any, ...] | None:
    """Tell a test by the set and how its images were scored; None for another file."""
    try:
        test = json.loads(text)
        images = test["images"] + len(test["skipped"])
        classes = [each["name"] for each in test["classes"]]
        set_name = shorten_path(test["dataset"])
        scored = test["protocol"], test["resize"], test["interpolation"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return set_name, images, classes, *scored


def flatten_metrics(found: Sequence[ClassificationMetrics]) -> dict[str, float]:
    """Name the metrics for metrics.json, as test/top1.

    A test of fewer classes than outputs has names such as test_1000_way/top1.
    """
    return {
        f"test{f'_{metrics.ways}_way' if number else ''}/{name}": value
        for number, metrics in enumerate(found)
        for name, value in metrics.as_dict().items()
    }
