"""Weights in the paper's forms A and B (figure 3), whose paths are written out, in form C, which everything else reads."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

_PATH = re.compile(r"(.*\bres\d\.\d+)\.paths\.(\d+)\.(conv[123]\..+)")


def in_form_c(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the paths of every block joined, see ``forms.convert``; those of a network in form C as they are.

    Raises:
        ValueError: a path is missing, or the paths of a block are not alike.
    """
    paths: dict[tuple[str, str], dict[int, Tensor]] = defaultdict(dict)
    joined: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found = _PATH.fullmatch(name)
        if found is None:
            joined[name] = tensor
        else:
            paths[found[1], found[3]][int(found[2])] = tensor
    for (block, part), tensors in paths.items():
        joined[f"{block}.{part}"] = _join(f"{block}.paths", part, tensors)
    of_form_a = {f"{block}.norm." for block, part in paths if part == "conv3.weight"}
    return {
        name.replace(".norm.", ".conv3.norm.") if _prefix(name) in of_form_a else name: tensor
        for name, tensor in joined.items()
    }


def _prefix(name: str) -> str:
    """ "res2.0.norm." of "res2.0.norm.weight": the norm after the sum of form A's paths."""
    return name.removesuffix(name.rpartition(".")[2])


def _join(name: str, part: str, tensors: Mapping[int, Tensor]) -> Tensor:
    try:
        ordered = [tensors[index] for index in range(len(tensors))]
        if ordered[0].dim() == 0:  # a counter of batches
            return ordered[0]
        return torch.cat(ordered, dim=1 if part == "conv3.weight" else 0)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"the weights {name} (forms A and B) are incomplete or of different shapes: {error}"
        ) from error
