"""Find the networks among the names of a file, under whatever prefix they stand."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from resnext_det.weights.name_tables import TABLES, TORCHVISION, NameTable

# What torch, Lightning, fairscale and Opacus put before the names of a module that they wrap: the
# whole network, a stage of it or a single layer.
_WRAPPERS = re.compile(
    r"(?<![^.])(?:(?:_?module|_orig_mod|_forward_module|_fsdp_wrapped_module|_fpw_module"
    r"|_checkpoint_wrapped_module)\.)+"
)
# Copies that a training keeps of the network that it trains.
_COPY = re.compile(r"(?:^|[._])(?:ema|swa|averaged|momentum|encoder_k|shadow)(?=[._])", re.I)
# What a detector of detectron2 has, RetinaNet included, and no backbone alone.
_OF_DETECTOR = ("roi_heads.", "proposal_generator.", "backbone.fpn_")
_STAGE = re.compile(
    r"(?:^|[./])((?:[A-Za-z_]{1,24}\.?)?)(\d{1,2})\.\d{1,3}\.conv1\.weight\Z", re.ASCII
)
_NO_STAGE = re.compile(r"res[016-9]\.")
_MOST_ANCESTORS = 4


@dataclass(frozen=True)
class Network:
    """A network among the names of a file.

    Attributes:
        table: of its names.
        prefix: what stands before them.
        places: where its parts do not stand under the table's names: theirs, and the table's.
        detector: the prefix of the detector of detectron2 that it is part of; None: of none.
    """

    table: NameTable
    prefix: str
    places: tuple[tuple[str, str], ...] = ()
    detector: str | None = None

    def rename(self, name: str) -> str | None:
        """Return our name of a weight; None for what is no part of the network or classifier."""
        if not name.startswith(self.prefix):
            return self._rename_head(name)
        bare = self._move(name)
        ours = None if bare is None else self.table.rename(bare)
        return None if ours is None or _NO_STAGE.match(ours) else ours

    def has_inside(self, name: str) -> bool:
        """Tell whether a weight stands inside of the network, and is no head's."""
        bare = self._move(name) if name.startswith(self.prefix) else None
        return bare is not None and re.fullmatch(self.table.own, bare, re.DOTALL) is not None

    def _move(self, name: str) -> str | None:
        """Return the table's name of what stands under the prefix; None for what is elsewhere."""
        bare = name[len(self.prefix) :]
        for theirs, ours in self.places:
            if bare.startswith(theirs):
                return f"{ours}{bare[len(theirs) :]}"
        # Between the parts that are known, or a head.
        moved = self.places and re.fullmatch(self.table.own, bare, re.DOTALL)
        return None if moved else bare

    def _rename_head(self, name: str) -> str | None:
        """Return our name of a classifier's weight that stands above the prefix, else None.

        mmpretrain's ``head.fc.weight`` stands so, beside ``backbone.conv1.weight``.
        """
        ancestor = self.prefix
        for _ in range(_MOST_ANCESTORS):
            ancestor = _cut_last(ancestor)
            if name.startswith(ancestor):
                ours = self.table.rename(name[len(ancestor) :])
                return ours if ours is not None and ours.startswith("linear.") else None
        return None


def strip_wrappers(names: Sequence[str]) -> list[str]:
    """Take the names of wrappers out of names, wherever they stand.

    Names of which two would become one stay as they are: these are two networks.
    """
    stripped = [_WRAPPERS.sub("", name) for name in names]
    return stripped if len(set(stripped)) == len(stripped) else list(names)


def find_networks(state: Mapping[str, Tensor]) -> list[Network]:
    """Find every network whose first convolution and blocks stand under one prefix.

    Args:
        state: weights by name, without wrappers.

    Returns:
        The networks: first those under a table's own names, in the order of their blocks.
    """
    found: dict[tuple[str, str], Network] = {}
    numbered: dict[tuple[str, str], set[int]] = defaultdict(set)
    detectors = _find_detectors(state)
    for name in state:
        for table in TABLES:
            prefix = table.find_prefix(name)
            if prefix is not None and f"{prefix}{table.stem}" in state:
                ours = table.format == "detectron2"
                detector = _find_around(prefix, detectors) if ours else None
                found.setdefault((table.format, prefix), Network(table, prefix, (), detector))
        stage = _STAGE.search(name) if name.endswith(".conv1.weight") else None
        if stage:
            numbered[name[: stage.start(1)], stage[1]].add(int(stage[2]))
    taken = {prefix for _, prefix in found}
    for (prefix, word), stages in numbered.items():
        network = _find_numbered(state, prefix, word, sorted(stages))
        if network and network.prefix not in taken:
            found["numbered", network.prefix] = network
    return list(found.values())


def _find_around(prefix: str, detectors: Container[str]) -> str | None:
    """Return the detector's prefix that stands before a backbone's; None where it is in none."""
    for _ in range(_MOST_ANCESTORS):
        if prefix in detectors:
            return prefix
        if not prefix:
            return None
        prefix = _cut_last(prefix)
    return "" if "" in detectors else None


def _cut_last(prefix: str) -> str:
    """Cut the last part off a prefix: "a.b." becomes "a."."""
    cut = prefix[:-1].rpartition(".")[0]
    return f"{cut}." if cut else ""


def _find_detectors(state: Mapping[str, Tensor]) -> set[str]:
    """Find what stands before the names of every detector of detectron2."""
    prefixes = set()
    for name in state:
        for part in _OF_DETECTOR:
            start = 0 if name.startswith(part) else name.find(f".{part}") + 1
            if start or name.startswith(part):
                prefixes.add(name[:start])
    return prefixes


def _find_numbered(
    state: Mapping[str, Tensor], prefix: str, word: str, stages: Sequence[int]
) -> Network | None:
    """Find torchvision's blocks in stages of other names, such as those of nn.Sequential.

    Args:
        state: weights by name.
        prefix: what stands before the stages' names.
        word: what stands before their numbers: "", "layer", "stages." ...
        stages: their numbers.
    """
    first = stages[0]
    inner = f"{prefix}{word}" if not word or word.endswith(".") else None
    # layer0 = nn.Sequential(conv1, bn1, relu, maxpool), or a module of these
    nests = {f"{word}0.0.": f"{word}0.1.", f"{word}0.conv1.": f"{word}0.bn1."} if first else {}
    stems = [("conv1.", "bn1."), ("stem.0.", "stem.1."), *nests.items()]
    if inner is not None:
        stems += [(f"{word}{n}.", f"{word}{n + 1}.") for n in range(first - 1)]
    for convolution, norm in stems:
        weight, scale = (state.get(f"{prefix}{part}weight") for part in (convolution, norm))
        if weight is None or scale is None or weight.dim() < 3 or scale.dim() != 1:
            continue
        named = word == "layer" and first > 0  # as torchvision's, where one may be missing
        numbers = [n for n in stages if n < 5] if named else stages[:4]
        places = [(convolution, "conv1."), (norm, "bn1.")]
        places += [
            (f"{word}{number}.", f"layer{number if named else index}.")
            for index, number in enumerate(numbers, 1)
        ]
        nested = convolution in nests
        if nested:
            places.append((f"{word}0.", "stem."))
        if inner is not None and convolution.startswith(word):
            begin = 1 if nested else int(convolution[len(word) : -1]) + 2
            between = set(range(begin, numbers[-1])) - set(numbers)
            places += [(f"{word}{number}.", "maxpool.") for number in sorted(between)]
        if all(theirs.startswith(word) for theirs, _ in places) and inner is not None:
            prefix, cut = inner, len(word)
            places = [(theirs[cut:], ours) for theirs, ours in places]
        return Network(TORCHVISION, prefix, tuple(places))
    return None


def drop_copies(networks: Sequence[Network]) -> list[Network]:
    """Leave out averaged copies and their like beside the network that a training trains."""
    return [each for each in networks if not _COPY.search(each.prefix)] or list(networks)


def list_copies(networks: Sequence[Network]) -> tuple[str, ...]:
    """List the prefixes of the copies that ``drop_copies`` leaves out, a detector's own."""
    kept = drop_copies(networks)
    copies = (each for each in networks if each not in kept)
    prefixes = (each.prefix if each.detector is None else each.detector for each in copies)
    return tuple(dict.fromkeys(prefixes))


def select_networks(networks: Sequence[Network], prefix: str) -> list[Network]:
    """Select the networks under a prefix that the user gave; empty where there is none."""
    ended = prefix if not prefix or prefix.endswith((".", "/")) else f"{prefix}."
    for wanted in (ended, *strip_wrappers([ended])):
        named = [each for each in networks if wanted in (each.prefix, each.detector)]
        named = named or [each for each in networks if each.prefix.startswith(wanted)]
        if named:
            return named
    return []
