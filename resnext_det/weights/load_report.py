"""Report what came of loading weights: which of a model's tensors have a file's values."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from resnext_det.files import list_first

_LONGEST = 140
_KINDS = ("loaded", "missing", "unexpected", "wrong shape")
_MODULE = re.compile(r"(?:.*\.)?(?:stem|res[2-5]|linear)(?=\.)|[^.]+(?:\.[^.]+)?(?=\.)")


@dataclass(frozen=True)
class LoadReport:
    """Report the outcome of loading weights, by names of the model's state.

    Attributes:
        format: of the file, see ``WeightFile``.
        loaded: have the file's values.
        missing: are not in the file, and keep their random start.
        unused: are in the file (under our names) and have no place in the model.
        new_classes: outputs for classes that start at random: the file has other classes.
        new_masks: a mask head that starts at random: the file has no masks.
        no_masks: a mask head of the file that is left out: the model has no masks.
        wrong_shape: are in the file in another shape; then nothing is loaded.
        left_out: names in the file of what no network here has; see ``WeightFile``.
        zero_offsets: offsets of deformable convolutions that are set to 0: the file has plain ones.
    """

    format: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    new_classes: tuple[str, ...] = ()
    new_masks: tuple[str, ...] = ()
    no_masks: tuple[str, ...] = ()
    wrong_shape: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    zero_offsets: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = count_names(
            (self.new_classes, "the file has other classes, so {} start at random"),
            (self.new_masks, "the file has no masks, so {} of the mask head start at random"),
            (self.no_masks, "the model has no masks, so {} of the file's mask head are left out"),
            (self.missing, "{} keep their random start"),
            (
                self.zero_offsets,
                "{} tensors of offsets begin at 0, as the file has no deformable convolutions",
            ),
            (self.unused, "{} of the file have no place here"),
            (self.left_out, "{} of the file are no part of a backbone"),
        )
        return "; ".join([f"{self.format} weights: {len(self.loaded)} tensors loaded", *told])

    def count_by_module(self) -> dict[str, Counter[str]]:
        """Count by module: stem, res2 ..., in a detector ``backbone.res2``, ``roi_heads.res5``."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        kinds = (
            self.loaded,
            (*self.missing, *self.new_classes, *self.new_masks, *self.zero_offsets),
            (*self.unused, *self.no_masks),
            self.wrong_shape,
        )
        for kind, names in zip(_KINDS, kinds):
            for name in names:
                module = _MODULE.match(name)
                counts[_shorten(module[0] if module else name)][kind] += 1
        return {module: counts[module] for module in sorted(counts, key=_rank_module)}

    def table(self) -> str:
        """Write the counts by module, a line each."""
        rows = [(n, *(of[kind] for kind in _KINDS)) for n, of in self.count_by_module().items()]
        return tabulate(rows, ("module", *_KINDS), tablefmt="plain", disable_numparse=[0])


def _rank_module(module: str) -> tuple[bool, int, int, str]:
    """Make a sorting key: the backbone first, from the stem to the classifier."""
    in_backbone = module.startswith("backbone") or "." not in module
    part = module.rpartition(".")[2]
    return not in_backbone, -module.count("."), {"stem": 0, "linear": 2}.get(part, 1), module


def count_names(*kinds: tuple[Sequence[str], str]) -> list[str]:
    """Write each text with the number of its names, and the first of them; none without names.

    Args:
        kinds: names, and a text with a place ``{}`` for their number.
    """
    return [
        f"{text.format(len(names))} ({list_first(map(_shorten, names))})"
        for names, text in kinds
        if names
    ]


def _shorten(name: str) -> str:
    """Make a name safe to print: a file may have names of any length, with anything in them."""
    plain = name.isascii() and name.isprintable() and len(name) <= _LONGEST
    return name if plain else ascii(name)[1:_LONGEST]
