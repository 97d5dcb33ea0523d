"""Say what weights are of, where they are of no ResNeXt or ResNet with bottleneck blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from torch import Tensor

from resnext_det.architecture import BLOCKS_PER_STAGE, DETECTION_DEPTHS
from resnext_det.files import list_first
from resnext_det.weights.name_tables import TABLES, TORCHVISION

_REMEDY = "give those of a plain ResNeXt or ResNet with bottleneck blocks, such as ResNeXt-50"
_BASIC: dict[tuple[int, ...], str] = {(2, 2, 2, 2): "ResNet-18", (3, 4, 6, 3): "ResNet-34"}
_FOLDED = re.compile(r"res[2-5]\.\d{1,4}\.(?:conv[123]|shortcut)\.bias")
_BLOCK = re.compile(r"(res[2-5])\.(\d{1,4})\.")

# Parts inside of a network of this family that change what it computes.
_PARTS = (
    (r"\.(?:se|se_module|se_layer|f\.se|attention)\.|\.fc[12]\.", "squeeze-and-excitation (SE)"),
    (r"\.(?:convs|bns)\.\d", "convolutions over parts of the channels (Res2Net)"),
    (r"\.conv2\.(?:conv|bn\d|fc\d|rsoftmax|attn|paths)\b", "split attention (ResNeSt, SKNet)"),
    (r"\.filt\Z", "filters against aliasing (blur pooling)"),
    (r"\.(?:ca|sa|cbam|eca|attn|gc|context_block\w*|\w*attention\w*)\.", "attention in its blocks"),
    (r"\.downsample\.[2-9]\.|\.downsample\.1\.weight\Z", "shortcuts with pooling (ResNet-D)"),
    (r"(?:^|\.)(?:prelu|relu|act\d?)\.", "activations with weights (PReLU)"),
    (r"^(?:stem|conv[123]|bn[23]|maxpool)\.", "a stem of several convolutions (ResNet-C, -D)"),
)
# Names that tell what was done to the weights of any network, and what to do.
_FORMS = (
    (
        r"\.(?:zero_point|_packed_params\w*|\w*fake_quant\w*|activation_post_process)\b",
        "is quantized",
        "give the weights in floating point that it was made from",
    ),
    (
        r"\b(?:lora_\w+|hada_w\d\w*)\b|\.base_layer\.(?:weight|bias)\Z",
        "is adapted by LoRA",
        "merge the adapter into the whole network's weights (merge_and_unload) and save those",
    ),
    (
        r"\.parametrizations\.|\.weight_(?:orig|mask|[guv])\Z",
        "has weights in parts (pruned, or with weight or spectral norm)",
        "remove the parametrization (torch.nn.utils.prune.remove, parametrize."
        "remove_parametrizations) and save it anew",
    ),
    (
        r"\b_?flat_param\w*\b",
        "is saved in shards of FSDP",
        "save it with StateDictType.FULL_STATE_DICT",
    ),
)
# Names of other networks, of which any one tells.
_FAMILIES = (
    (r"\bpatch_embed\.|\bcls_token\b|\bclass_embedding\b|\bconv_proj\.", "a vision transformer"),
    (r"\brelative_position_bias_table\b", "a Swin Transformer"),
    (r"\bblocks\.\d+\.gamma\Z|\bdwconv\.|\bdownsample_layers\.", "a ConvNeXt"),
    (r"\bconv_dw\.|\bconv_pwl?\.|\bdepthwise", "an EfficientNet or MobileNet"),
    (r"\bdenseblock\d", "a DenseNet"),
    (r"\b(?:Mixed_\d\w|Conv2d_\d\w_\dx\d|inception\d\w)\.", "an Inception network"),
    (r"\btransition\d|\bstage[2-4]\.\d+\.branches\.", "an HRNet"),
    (r"\btrunk_output\.|\bs\d\.b\d+\.conv\d\.", "a RegNet"),
    (r"\bstages\.\d\.blocks\.\d+\.norm1\.", "a ResNet v2, with pre-activation"),
    (r"\bpatch_embeddings\.|\battention\.|\battn\.qkv\b|\bself_attn\.", "a transformer"),
    (r"\bpaths\.\d|\.attn\.fc_reduce\b", "an SKNet"),
)
_DEEP_STEM = re.compile(
    r"(?:.*[./])?(?:(?:conv1|stem)\.[01]\.(?:[01]\.|conv\.)?|init_block\.conv1\.conv\.)weight",
    re.DOTALL,
)
_MOST_LOOKED_AT = 3000
_LONGEST = 200  # patterns look at no more of a name, so that a long one takes no time


def find_cause(state: Mapping[str, Tensor], strange: Sequence[str] = ()) -> str | None:
    """Find why weights with blocks of a ResNet are of none that is supported.

    Args:
        state: weights under our names.
        strange: names that stand inside of the network and that no ResNeXt has, without prefix.

    Returns:
        A sentence with a remedy; None where nothing known is wrong.
    """
    form = _find_form(strange)
    if form:
        return form
    for name, tensor in state.items():
        if (
            name.endswith(".weight")
            and name.startswith(("stem.", "res"))
            and tensor.dim() in (3, 5)
        ):
            return _refuse(
                f"a network of {tensor.dim() - 2}D convolutions ({name} is {tuple(tensor.shape)})"
            )
    blocks = _count_blocks(state)
    if _is_of_basic_blocks(state):
        which = _BASIC.get(blocks, "as those of ResNet-18 and -34")
        return _refuse(f"a network of basic blocks of two convolutions ({which})")
    for pattern, what in _PARTS:
        found = next((name for name in strange if re.search(pattern, name[:_LONGEST])), None)
        if found is not None:
            return _refuse(f"a network with {what}: it has {found!a:.80}")
    if strange and _FOLDED.fullmatch(strange[0]):
        return (
            f"{strange[0]!a:.80} stands in place of a norm: the norms are folded into the "
            "convolutions (fused, as for inference); give the weights from before that"
        )
    if strange:
        return _refuse(f"another network: a ResNeXt has nothing like {strange[0]!a:.80} inside")
    return _find_cause_of_shapes(state, blocks)


def _find_cause_of_shapes(state: Mapping[str, Tensor], blocks: tuple[int, ...]) -> str | None:
    """Find networks whose names are a plain ResNet's, and whose shapes are not."""
    stem, norm = state.get("stem.conv1.weight"), state.get("res2.1.conv1.norm.weight")
    conv, conv3 = state.get("res2.1.conv1.weight"), state.get("res2.0.conv3.weight")
    known = norm is not None and conv is not None and norm.dim() == 1 and conv.dim() == 4
    if known and len(norm) == conv.shape[1] != conv.shape[0]:  # type: ignore[arg-type, union-attr]
        return _refuse("a network with pre-activation (ResNet v2: norms before convolutions)")
    depths = {depth for depth, n in BLOCKS_PER_STAGE.items() if n == blocks}
    small = stem is not None and stem.dim() == 4 and stem.shape[2] == 3
    first = state.get("res2.0.conv1.weight")
    one_width = conv3 is not None and first is not None and first.shape[:1] == conv3.shape[:1]
    if small and one_width and not depths:
        return _refuse("a RegNet (its blocks have one width)")
    if small and depths & set(DETECTION_DEPTHS):
        return _refuse(
            f"a network whose first convolution is 3x3, where that of a ResNeXt-{min(depths)} is "
            "7x7: it has a stem of several convolutions (ResNet-C, -D), or is for small images"
        )
    return None


def find_cause_of_names(state: Mapping[str, Tensor]) -> str:
    """Say why there is no network of a known format among weights by name."""
    form = _find_form(state)
    if form:
        return form
    names = list_first((f"{name!a:.80}"[1:-1] for name in state), 4)
    for name, tensor in state.items():
        if tensor.dim() == 5:
            what = f"a network of 3D convolutions ({name!a:.80} is {tuple(tensor.shape)})"
            return _refuse(what)
    if any(table.find_prefix(name) is not None for name in state for table in TABLES):
        if any(map(_DEEP_STEM.fullmatch, state)):
            return (
                f"weights named {names} have a stem of several convolutions (ResNet-C, -D and "
                f"their like), where a ResNeXt has one of 7x7; {_REMEDY}"
            )
        return (
            f"weights named {names} have blocks of a ResNet and no first convolution of it under "
            f"the same prefix ({TORCHVISION.stem}, for torchvision); give the whole network's"
        )
    looked_at = list(islice(state, _MOST_LOOKED_AT))
    for pattern, what in _FAMILIES:
        found = next((name for name in looked_at if re.search(pattern, name[:_LONGEST])), None)
        if found is not None:
            return f"weights named {names} look like those of {what} ({found!a:.80}); {_REMEDY}"
    return (
        f"weights named {names} are of no known format; give a ResNet or ResNeXt of torchvision, "
        "timm, mmpretrain, mmdetection, detectron2, Detectron, pycls, transformers, pytorchcv, "
        "Classy Vision or the paper, or a checkpoint of this project"
    )


def _find_form(names: Iterable[str]) -> str | None:
    for name in names:
        for pattern, what, remedy in _FORMS:
            if re.search(pattern, name[-_LONGEST:]):
                return f"the network {what} ({name!a:.80}); {remedy}"
    return None


def _refuse(what: str) -> str:
    return f"the weights are of {what}, which is not supported; {_REMEDY}"


def _is_of_basic_blocks(state: Mapping[str, Tensor]) -> bool:
    parts = {name.split(".", 2)[2] for name in state if _BLOCK.match(name)}
    return {"conv1.weight", "conv2.weight"} <= parts and "conv3.weight" not in parts


def _count_blocks(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    blocks: dict[str, set[str]] = {}
    for name in state:
        found = _BLOCK.match(name)
        if found:
            blocks.setdefault(found[1], set()).add(found[2])
    return tuple(len(blocks[stage]) for stage in sorted(blocks))
