"""Run res5 on every region of a C4 detector, computing once an image what regions share.

RoIAlign is linear, and so is a convolution with a fixed norm, so that they may change places:
``conv1(align(x)) = align(W x) + shift``. So ``conv1`` of res5's first block and its projection,
36 percent of the multiplications of a region's res5 in an X-50-32x4d, run once on res4's map. The
shift and ReLU come after RoIAlign, so that it also holds where a region lies partly off the map.
Results differ from those of the exact head by rounding alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnext_det.layers import ConvNorm, keep_gradient_contiguous
from resnext_det.resnext import Bottleneck
from resnext_det.roi_align import RegionGrid, align_regions

# Regions whose values the C library keeps for the next ones: 32 MiB, at 14 x 14 x 1024 float32.
_PORTION = 32

SHARED_HEADS: dict[type[nn.Module], type[Any]] = {}
"""The class of heads that share for each class of heads that do not, of the engines imported.

The sharing class has the same parameters and attributes, and a method ``find_grid``.
"""


def can_share(res5: nn.Module) -> bool:
    """Tell whether the first convolutions of a stage may run before its regions are cut out.

    They may where their norms do the same to every value of a channel: frozen norms, no norm, and
    batch norms in inference. In training a batch norm takes its statistics from the regions, and a
    group norm always does. The first block has to be a ``Bottleneck`` with a projection and without
    deformable convolutions.
    """
    block = res5[0] if isinstance(res5, nn.Sequential) and len(res5) > 0 else None
    return (
        isinstance(block, Bottleneck)
        and type(block).forward is Bottleneck.forward
        and block.residual
        and block.conv2_offset is None
        and _is_affine(block.conv1)
        and _is_affine(block.shortcut)
    )


def _is_affine(conv: nn.Module | None) -> bool:
    if type(conv) is not ConvNorm or conv.activation is not None or conv.kernel_size != (1, 1):
        return False
    norm: Any = conv.norm
    if norm is None or conv.has_frozen_norm:
        return True
    is_batch_norm = isinstance(norm, nn.modules.batchnorm._BatchNorm)
    return is_batch_norm and not norm.training and norm.track_running_stats and norm.affine


def run_res5(res5: nn.Sequential, features: Tensor, regions: Tensor, grid: RegionGrid) -> Tensor:
    """Cut regions out of res4 and run res5 on them; what can be is shared by them.

    Where nothing ``can_share``, res5 runs on the regions that ``align_regions`` cuts out.

    Args:
        features: res4 (N, C, H, W).
        regions: (R, 5), floating: the image's index, then x0, y0, x1, y1 in pixels.

    Returns:
        (R, out_channels, n, n), n being ``grid.cells / 2`` rounded up, in channels-last memory.
    """
    dtype = features.dtype
    if not can_share(res5):
        return res5(align_regions(features, regions, grid))
    block: Any
    block, *others = res5
    features = features.to(block.conv1.weight.dtype)  # bfloat16 where an optimized res5 is in it

    def convolve(cut: Tensor) -> Tensor:
        return torch.relu_(block.conv2(torch.relu_(cut)))

    def compute_first(features: Tensor, regions: Tensor) -> Tensor:
        cut_inner = _convolve_once(block.conv1, features, grid)
        out = torch.cat([convolve(cut_inner(some)) for some in _portion(regions)])
        out = block.conv3(out)
        out += _convolve_once(block.shortcut, features, grid)(regions)
        return torch.relu_(out)

    out = block.compute_or_checkpoint(compute_first, features, regions)
    for other in others:
        out = other(out)
    return out if torch.is_autocast_enabled(out.device.type) else out.to(dtype)


def _portion(regions: Tensor) -> Sequence[Tensor]:
    """Divide regions into portions for inference on a CPU, whose memory is used again and again.

    New memory costs more than to compute what is written there, and all regions need four times as
    much of it before the first stride as after.
    """
    graph = torch.jit.is_tracing() or torch.compiler.is_compiling()
    if graph or torch.is_grad_enabled() or regions.device.type != "cpu":
        return (regions,)
    return regions.split(_PORTION)


def _convolve_once(
    conv: ConvNorm, features: Tensor, grid: RegionGrid
) -> Callable[[Tensor], Tensor]:
    """Make what cuts regions out of what a convolution 1x1 with its norm gives of the maps."""
    if conv.norm is None:
        weight, shift = keep_gradient_contiguous(conv.weight), conv.bias
    else:
        weight, shift = conv._fold_norm()
    # In channels-last memory a convolution 1x1 is a product of matrices.
    maps = F.linear(features.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)
    grid = grid.keep_every(conv.stride[0])

    def cut(regions: Tensor) -> Tensor:
        found = align_regions(maps, regions, grid)
        return found if shift is None else found.add_(shift.to(found.dtype).reshape(1, -1, 1, 1))

    return cut


def find_shared_class(detector: nn.Module) -> type[Any] | None:
    """Find the class that a C4 detector's ``roi_heads`` have, or could have, to share in inference.

    Returns:
        None where ``roi_heads`` is no C4 head of ours, cuts by RoIPool, or has a res5 that nothing
        can share, see ``can_share``.
    """
    heads: Any = getattr(detector, "roi_heads", None)
    shared = SHARED_HEADS.get(type(heads), type(heads))
    if shared not in SHARED_HEADS.values() or shared.find_grid(heads) is None:
        return None
    was_training = {module: module.training for module in heads.res5.modules()}
    heads.res5.eval()
    able = can_share(heads.res5)
    for module, training in was_training.items():
        module.training = training
    return shared if able else None


def exchange_c4_head(detector: nn.Module) -> bool:
    """Exchange a C4 detector's exact head for the one that shares, in place.

    ``roi_heads`` becomes an object of the sharing class of its engine; parameters, their names and
    all attributes stay. For inference: a res5 with batch norms shares there alone.

    Returns:
        whether it was exchanged; not where it shares already, or where ``find_shared_class`` finds
        none: then nothing changed.
    """
    shared, heads = find_shared_class(detector), getattr(detector, "roi_heads", None)
    if shared is None or type(heads) is shared:
        return False
    heads.__class__ = shared
    return True


def copy_with_exact_head(detector: nn.Module) -> nn.Module:
    """Copy a C4 detector whose head shares, with the exact head; others are returned as they are.

    Parameters are not copied: both detectors have the same.
    """
    exact = {shared: kind for kind, shared in SHARED_HEADS.items()}
    heads: Any = getattr(detector, "roi_heads", None)
    if type(heads) not in exact:
        return detector
    detector, heads = copy.copy(detector), copy.copy(heads)
    heads.__class__ = exact[type(heads)]
    detector._modules = {**detector._modules, "roi_heads": heads}
    return detector
