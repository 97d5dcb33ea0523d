"""The names of weights in other libraries beside ours, which are detectron2's: a row a layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NameTable:
    """The names of one library.

    Attributes:
        format: the library.
        rows: a pattern of its names -> ours. ``{stage}`` counts from ``first_stage`` where ours
            begins at res2, ``{block}`` from ``first_block`` where ours begins at 0.
        stem: its name of the first convolution's weight.
        own: a pattern of names that stand inside of the network, and so must be understood; others
            are heads and parts of something larger.
    """

    format: str
    rows: Rows
    stem: str
    first_stage: int
    own: str
    first_block: int = 0

    def rename(self, name: str) -> str | None:
        """Return our name; None for a name that is in no row."""
        for theirs, ours in self.rows:
            found = _compile_row(theirs).fullmatch(name)
            if found:
                parts = found.groupdict()
                stage = int(parts.get("stage") or 0) - self.first_stage + 2
                block = int(parts.get("block") or 0) - self.first_block
                return ours.format(stage=stage, block=block, tensor=parts.get("tensor"))
        return None

    @cached_property
    def block(self) -> str:
        """The row of the first convolution's weight of every block."""
        ours = ("res{stage}.{block}.conv1.{tensor}", "res{stage}.{block}.conv1.weight")
        row = next(theirs for theirs, name in self.rows if name in ours)
        return row.replace("{tensor}", "weight")

    def find_prefix(self, name: str) -> str | None:
        """Return what stands before the first convolution's weight of a block; None elsewhere."""
        if not name.endswith(self.block.rpartition("}")[2]):
            return None
        found = _compile_row(self.block, before=r"(?:^|[./])", after=r"\Z").search(name)
        return None if found is None else name[: found.start("row")]


_TENSORS = "weight|bias|running_mean|running_var|num_batches_tracked"


@cache
def _compile_row(row: str, *, before: str = "", after: str = "") -> re.Pattern[str]:
    text = re.escape(row)
    for part, pattern in (("stage", r"\d"), ("block", r"\d{1,3}"), ("tensor", _TENSORS)):
        text = text.replace(rf"\{{{part}\}}", f"(?P<{part}>{pattern})", 1)
        text = text.replace(rf"\{{{part}\}}", f"(?P={part})")
    return re.compile(f"{before}(?P<row>{text}){after}", re.ASCII)


_BLOCK_LAYERS = ("conv1", "conv2", "conv3", "shortcut")
_LAYERS = ("stem.conv1", *(f"res{{stage}}.{{block}}.{layer}" for layer in _BLOCK_LAYERS))


def _make_rows(layers: Iterable[tuple[str, str]], heads: Iterable[str]) -> Rows:
    """Make a library's rows of its (convolution, norm) in the order of ``_LAYERS``, and heads."""
    rows = [(f"{head}.{{tensor}}", "linear.{tensor}") for head in heads]
    for (convolution, norm), ours in zip(layers, _LAYERS):
        rows.append((f"{convolution}.{{tensor}}", f"{ours}.{{tensor}}"))
        rows.append((f"{norm}.{{tensor}}", f"{ours}.norm.{{tensor}}"))
    return tuple(rows)


_CAFFE2_NORMS = {
    "weight": ("bn_s", "bn_gamma", "gn_s"),
    "bias": ("bn_b", "bn_beta", "gn_b"),
    "running_mean": ("bn_rm", "bn_running_mean"),
    "running_var": ("bn_riv", "bn_running_var"),
}


def _make_caffe2_rows() -> Iterator[tuple[str, str]]:
    branches = [f"res{{stage}}_{{block}}_branch{branch}" for branch in ("2a", "2b", "2c", "1")]
    layers = list(zip(("conv1", *branches), _LAYERS))
    for theirs, ours in [*layers, ("pred", "linear"), ("fc1000", "linear")]:
        yield f"{theirs}_w", f"{ours}.weight"
        yield f"{theirs}_b", f"{ours}.bias"
    for theirs, ours in layers:
        for norm in ("res_conv1", "conv1") if theirs == "conv1" else (theirs,):
            for tensor, suffixes in _CAFFE2_NORMS.items():
                for suffix in suffixes:
                    yield f"{norm}_{suffix}", f"{ours}.norm.{tensor}"


_TORCHVISION_LAYERS = (
    ("conv1", "bn1"),
    ("layer{stage}.{block}.conv1", "layer{stage}.{block}.bn1"),
    ("layer{stage}.{block}.conv2", "layer{stage}.{block}.bn2"),
    ("layer{stage}.{block}.conv3", "layer{stage}.{block}.bn3"),
    ("layer{stage}.{block}.downsample.0", "layer{stage}.{block}.downsample.1"),
)
_PYCLS_LAYERS = (
    ("stem.conv", "stem.bn"),
    ("s{stage}.b{block}.f.a", "s{stage}.b{block}.f.a_bn"),
    ("s{stage}.b{block}.f.b", "s{stage}.b{block}.f.b_bn"),
    ("s{stage}.b{block}.f.c", "s{stage}.b{block}.f.c_bn"),
    ("s{stage}.b{block}.proj", "s{stage}.b{block}.bn"),
)
_OF_TRANSFORMERS = "encoder.stages.{stage}.layers.{block}"
_TRANSFORMERS_LAYERS = (
    ("embedder.embedder.convolution", "embedder.embedder.normalization"),
    *(
        (f"{_OF_TRANSFORMERS}.{layer}.convolution", f"{_OF_TRANSFORMERS}.{layer}.normalization")
        for layer in ("layer.0", "layer.1", "layer.2", "shortcut")
    ),
)
_OF_PYTORCHCV = "stage{stage}.unit{block}"
_PYTORCHCV_LAYERS = tuple(
    (f"{layer}.conv", f"{layer}.bn")
    for layer in (
        "init_block.conv",
        *(f"{_OF_PYTORCHCV}.body.conv{number}" for number in (1, 2, 3)),
        f"{_OF_PYTORCHCV}.identity_conv",
    )
)
# nn.Sequential in nn.Sequential, as a converter made them of the paper's own files of Torch 7.
_PRETRAINEDMODELS_LAYERS = (
    ("0", "1"),
    ("{stage}.{block}.0.0.0.0", "{stage}.{block}.0.0.0.1"),
    ("{stage}.{block}.0.0.0.3", "{stage}.{block}.0.0.0.4"),
    ("{stage}.{block}.0.0.1", "{stage}.{block}.0.0.2"),
    ("{stage}.{block}.0.1.0", "{stage}.{block}.0.1.1"),
)
_OF_CLASSY = "blocks.{stage}.block{stage}-{block}"
_CLASSY_LAYERS = (
    ("initial_block.0", "initial_block.1"),
    (f"{_OF_CLASSY}.convolutional_block.0", f"{_OF_CLASSY}.convolutional_block.1"),
    (f"{_OF_CLASSY}.convolutional_block.3", f"{_OF_CLASSY}.convolutional_block.4"),
    (f"{_OF_CLASSY}.convolutional_block.6", f"{_OF_CLASSY}.bn"),
    (f"{_OF_CLASSY}.downsample.0", f"{_OF_CLASSY}.downsample.1"),
)
_OUR_LAYERS = tuple((layer, f"{layer}.norm") for layer in _LAYERS)
_OUR_OFFSETS = "res{stage}.{block}.conv2_offset.{tensor}"

TORCHVISION = NameTable(
    "torchvision",
    (
        *_make_rows(_TORCHVISION_LAYERS, ("fc", "head.fc", "last_linear")),
        # mmcv's deformable convolutions, whose offsets and masks are in detectron2's order; the
        # second name is that of its versions before 1.0.
        ("layer{stage}.{block}.conv2.conv_offset.{tensor}", _OUR_OFFSETS),
        ("layer{stage}.{block}.conv2_offset.{tensor}", _OUR_OFFSETS),
        # mmdetection's group norms
        ("gn1.{tensor}", "stem.conv1.norm.{tensor}"),
        *(
            (f"layer{{stage}}.{{block}}.gn{n}.{{tensor}}", f"{_LAYERS[n]}.norm.{{tensor}}")
            for n in (1, 2, 3)
        ),
    ),
    "conv1.weight",
    first_stage=1,
    own=r"(?:conv1|[bg]n1|layer[1-4]|stem|norm1|maxpool|relu|prelu|act1?)\..*",
)
TABLES = (
    # detectron2's convert-torchvision-to-d2.py writes the classifier as stem.fc.
    NameTable(
        "detectron2",
        (*_make_rows(_OUR_LAYERS, ("linear", "stem.fc")), (_OUR_OFFSETS, _OUR_OFFSETS)),
        "stem.conv1.weight",
        first_stage=2,
        own=r"(?:stem|res[2-5])\..*",
    ),
    TORCHVISION,
    NameTable(
        "pycls",
        _make_rows(_PYCLS_LAYERS, ("head.fc",)),
        "stem.conv.weight",
        first_stage=1,
        own=r"(?:stem|s[1-4])\..*",
        first_block=1,
    ),
    NameTable(
        "caffe2",
        tuple(_make_caffe2_rows()),
        "conv1_w",
        first_stage=2,
        own=r"(?!.*_momentum)(?:conv1|res_conv1|res\d_\d+_branch).*",
    ),
    # Hugging Face's, whose stride is in the 3x3 unless config.json says downsample_in_bottleneck.
    NameTable(
        "transformers",
        _make_rows(_TRANSFORMERS_LAYERS, ("classifier.1",)),
        "embedder.embedder.convolution.weight",
        first_stage=0,
        own=r"(?:embedder|encoder)\..*",
    ),
    # pytorchcv's, whose ResNets have the stride in the 1x1, and its variants "b" in the 3x3.
    NameTable(
        "pytorchcv",
        _make_rows(_PYTORCHCV_LAYERS, ("output",)),
        "init_block.conv.conv.weight",
        first_stage=1,
        own=r"(?:init_block|stage[1-4])\..*",
        first_block=1,
    ),
    NameTable(
        "pretrainedmodels",
        _make_rows(_PRETRAINEDMODELS_LAYERS, ("last_linear",)),
        "0.weight",
        first_stage=4,
        own=r"[014-7]\..*",
    ),
    # Classy Vision's; the parts of "_module.0" in its names are taken for a wrapper's.
    NameTable(
        "classy_vision",
        _make_rows(_CLASSY_LAYERS, ()),
        "initial_block.0.weight",
        first_stage=0,
        own=r"(?:initial_block|blocks)\..*",
    ),
)


def _make_retinanet_rows() -> Iterator[tuple[str, str]]:
    for theirs, ours in TORCHVISION.rows:
        if not ours.startswith("linear."):
            yield f"backbone.body.{theirs}", f"backbone.bottom_up.{ours}"
    # Before torchvision 0.13 layers had their weights directly, as in its published files and in
    # MLPerf's, and towers counted their activations; now a layer's first part is the convolution.
    for number, level in enumerate((3, 4, 5)):
        for theirs, ours in (("inner_blocks", "fpn_lateral"), ("layer_blocks", "fpn_output")):
            for part in ("", ".0"):
                yield (
                    f"backbone.fpn.{theirs}.{number}{part}.{{tensor}}",
                    f"backbone.{ours}{level}.{{tensor}}",
                )
    for block in ("p6", "p7"):
        yield (
            f"backbone.fpn.extra_blocks.{block}.{{tensor}}",
            f"backbone.top_block.{block}.{{tensor}}",
        )
    for theirs, tower in (
        ("classification_head", "cls_subnet"),
        ("regression_head", "bbox_subnet"),
    ):
        for number in range(4):
            for name in (f"conv.{2 * number}", f"conv.{number}.0"):
                yield f"head.{theirs}.{name}.{{tensor}}", f"head.{tower}.{2 * number}.{{tensor}}"
    yield "head.classification_head.cls_logits.{tensor}", "head.cls_score.{tensor}"
    yield "head.regression_head.bbox_reg.{tensor}", "head.bbox_pred.{tensor}"


RETINANET_BODY = "backbone.body."
"""What stands before the backbone's names in torchvision's RetinaNet."""

TORCHVISION_RETINANET = NameTable(
    "torchvision",
    tuple(_make_retinanet_rows()),
    f"{RETINANET_BODY}{TORCHVISION.stem}",
    first_stage=TORCHVISION.first_stage,
    own=r"(?:backbone|head)\..*",
)
"""The names of torchvision's RetinaNet with a pyramid of three stages and no norms in its heads,
which MLPerf's has too: a whole detector, where ``TABLES`` are of backbones and classifiers."""
