"""Other libraries' names of a ResNeXt's weights, and ours: a row a layer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class NameTable:
    """One library's names.

    Attributes:
        format: the library.
        rows: a pattern of its names -> ours. ``{stage}`` counts from ``first_stage`` where ours begins at res2, ``{block}`` from
            ``first_block`` where ours begins at 0; ``{tensor}`` is the same in both.
        stem: its name of the first convolution's weight, by which the library is recognised.
        backbone: a pattern of names that are a backbone's, and so must be understood; others are parts of something larger.
    """

    format: str
    rows: tuple[tuple[str, str], ...]
    stem: str
    first_stage: int
    first_block: int = 0
    backbone: str = ".*"

    def renamed(self, name: str) -> str | None:
        """Our name; None for a name that is in no row."""
        for theirs, ours in self.rows:
            found = _pattern(theirs).fullmatch(name)
            if found:
                parts = found.groupdict()
                stage = int(parts.get("stage") or 0) - self.first_stage + 2
                block = int(parts.get("block") or 0) - self.first_block
                return ours.format(stage=stage, block=block, tensor=parts.get("tensor"))
        return None


@cache
def _pattern(row: str) -> re.Pattern[str]:
    text = re.escape(row)
    for part, pattern in (("stage", r"\d"), ("block", r"\d{1,3}"), ("tensor", r"\w+")):
        text = text.replace(rf"\{{{part}\}}", f"(?P<{part}>{pattern})")
    return re.compile(text, re.ASCII)


def _torchvision() -> Iterator[tuple[str, str]]:
    yield "conv1.{tensor}", "stem.conv1.{tensor}"
    yield "bn1.{tensor}", "stem.conv1.norm.{tensor}"
    for number in (1, 2, 3):
        yield (
            f"layer{{stage}}.{{block}}.conv{number}.{{tensor}}",
            f"res{{stage}}.{{block}}.conv{number}.{{tensor}}",
        )
        yield (
            f"layer{{stage}}.{{block}}.bn{number}.{{tensor}}",
            f"res{{stage}}.{{block}}.conv{number}.norm.{{tensor}}",
        )
    yield "layer{stage}.{block}.downsample.0.{tensor}", "res{stage}.{block}.shortcut.{tensor}"
    yield "layer{stage}.{block}.downsample.1.{tensor}", "res{stage}.{block}.shortcut.norm.{tensor}"
    for head in ("fc", "head.fc", "last_linear"):
        yield f"{head}.{{tensor}}", "linear.{tensor}"


def _pycls() -> Iterator[tuple[str, str]]:
    yield "stem.conv.{tensor}", "stem.conv1.{tensor}"
    yield "stem.bn.{tensor}", "stem.conv1.norm.{tensor}"
    for letter, number in zip("abc", (1, 2, 3)):
        yield (
            f"s{{stage}}.b{{block}}.f.{letter}.{{tensor}}",
            f"res{{stage}}.{{block}}.conv{number}.{{tensor}}",
        )
        yield (
            f"s{{stage}}.b{{block}}.f.{letter}_bn.{{tensor}}",
            f"res{{stage}}.{{block}}.conv{number}.norm.{{tensor}}",
        )
    yield "s{stage}.b{block}.proj.{tensor}", "res{stage}.{block}.shortcut.{tensor}"
    yield "s{stage}.b{block}.bn.{tensor}", "res{stage}.{block}.shortcut.norm.{tensor}"
    yield "head.fc.{tensor}", "linear.{tensor}"


def _caffe2() -> Iterator[tuple[str, str]]:
    layers = [("conv1", "res_conv1", "stem.conv1")]
    for branch, layer in (("1", "shortcut"), ("2a", "conv1"), ("2b", "conv2"), ("2c", "conv3")):
        theirs = f"res{{stage}}_{{block}}_branch{branch}"
        layers.append((theirs, theirs, f"res{{stage}}.{{block}}.{layer}"))
    norms = {
        "s": "weight",
        "gamma": "weight",
        "b": "bias",
        "beta": "bias",
        "rm": "running_mean",
        "riv": "running_var",
    }
    norms |= {"running_mean": "running_mean", "running_var": "running_var"}
    for convolution, norm, ours in layers:
        yield f"{convolution}_w", f"{ours}.weight"
        yield f"{convolution}_b", f"{ours}.bias"
        for suffix, tensor in norms.items():
            yield f"{norm}_bn_{suffix}", f"{ours}.norm.{tensor}"
        yield f"{norm}_gn_s", f"{ours}.norm.weight"
        yield f"{norm}_gn_b", f"{ours}.norm.bias"
    for head in ("pred", "fc1000"):
        yield f"{head}_w", "linear.weight"
        yield f"{head}_b", "linear.bias"


def _detectron2() -> Iterator[tuple[str, str]]:
    """They are ours, but for the classifier in what detectron2's convert-torchvision-to-d2.py writes."""
    for layer in (
        "stem.conv1",
        *(f"res{{stage}}.{{block}}.{name}" for name in ("conv1", "conv2", "conv3", "shortcut")),
    ):
        yield f"{layer}.{{tensor}}", f"{layer}.{{tensor}}"
        yield f"{layer}.norm.{{tensor}}", f"{layer}.norm.{{tensor}}"
    for head in ("linear", "stem.fc"):
        yield f"{head}.{{tensor}}", "linear.{tensor}"


TABLES = (
    NameTable("detectron2", tuple(_detectron2()), "stem.conv1.weight", first_stage=2),
    NameTable("torchvision", tuple(_torchvision()), "conv1.weight", first_stage=1),
    NameTable("pycls", tuple(_pycls()), "stem.conv.weight", first_stage=1, first_block=1),
    NameTable(
        "caffe2",
        tuple(_caffe2()),
        "conv1_w",
        first_stage=2,
        backbone=r"(?!.*_momentum)(?:conv1|res_conv1|res\d_\d+_branch).*",
    ),
)
