"""A classifier over a set of images, by all processes together: top-1, top-5 and the rest."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from resnext_det.classification.protocols import Protocol
from resnext_det.classification.scoring import columns_of, restricted
from resnext_det.data.images.image_set import ImageSet, relabel
from resnext_det.data.images.loaders import build_image_test_loader
from resnext_det.evaluation.classification import ClassificationMetrics, Tally
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.training import distributed

logger = logging.getLogger(__name__)


def evaluate_on(
    network: ResNeXtClassifier,
    images: ImageSet,
    protocol: Protocol,
    *,
    outputs: Sequence[str],
    batch_size: int,
    num_workers: int,
    skip_broken: bool = False,
    amp_dtype: torch.dtype | None = None,
) -> list[ClassificationMetrics]:
    """Score every image and compare with its label; every process takes its share.

    The network's mode is left as it was. Where the set has images of some of the network's classes only, these compete twice: with all
    outputs, and among themselves (section 5.2: 5000-way and 1000-way).

    Args:
        outputs: the class of each of the network's outputs.
        batch_size: images of a process at once.
        skip_broken: leave broken images out; the metrics name them.
        amp_dtype: of mixed precision; None for full precision.

    Returns:
        the metrics over all outputs, and those of the set's classes among themselves where these are fewer; nothing in other
        processes than the first.

    Raises:
        ValueError: an image is broken; a class of the set is no output of the network.
    """
    began = time.perf_counter()
    distributed.share_buffers(network)
    counting = _Counting(images.list_classes_with_images(), outputs)
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
    was_training = network.training
    network.eval()
    # On a terminal a bar, in the main process alone; it goes when it is done, as a training may go on.
    hidden = None if distributed.is_main_process() else True
    mixed = torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None)
    with torch.inference_mode(), mixed:
        for batch in tqdm(
            loader, f"testing, {protocol.name}", unit="batch", disable=hidden, leave=False
        ):
            counting.skip(batch["broken"])
            if len(batch["labels"]):
                counting.add(protocol.score(network, batch["views"], device).cpu(), batch["labels"])
    network.train(was_training)
    found = counting.metrics(protocol, images.name)
    for metrics in found:
        seconds = time.perf_counter() - began
        logger.info("%s, %s: %s; %.1f s", images.name, metrics.test(), metrics.summary(), seconds)
    return found


class _Counting:
    """The tallies of one test: over all outputs, and over those of the classes that have images where they are fewer."""

    def __init__(self, class_names: Sequence[str], outputs: Sequence[str]) -> None:
        self._columns = columns_of(class_names, outputs)
        self._tallies = [Tally(outputs)]  # the second one over the classes that have images
        if len(class_names) < len(outputs):
            self._tallies.append(Tally(class_names))
        self._positions = torch.full((len(outputs),), -1)
        self._positions[self._columns] = torch.arange(len(class_names))

    def add(self, scores: Tensor, labels: Tensor) -> None:
        self._tallies[0].add(scores, labels)
        for among in self._tallies[1:]:
            among.add(restricted(scores, self._columns), self._positions[labels])

    def skip(self, broken: Sequence[tuple[str, str]]) -> None:
        for name, reason in broken:
            logger.warning("An image is left out: %s", reason)
            for tally in self._tallies:
                tally.skip(name)

    def metrics(self, protocol: Protocol, dataset: str) -> list[ClassificationMetrics]:
        """Those of all processes, in the first one."""
        gathered = distributed.gather_objects(self._tallies)
        for others in gathered[1:]:
            for tally, other in zip(self._tallies, others):
                tally.merge(other)
        if not gathered:
            return []
        return [
            replace(
                tally.metrics(protocol.name, dataset),
                resize=protocol.resize,
                interpolation=protocol.interpolation,
            )
            for tally in self._tallies
        ]
