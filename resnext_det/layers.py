"""Define convolutions with their norm, batch norms with frozen statistics, and norms by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

Norm = str | Callable[[int], nn.Module | None] | None
"""Which norm follows a convolution: a name in ``NORMS``, or what makes it from its channels."""

# Other processors' builds have no kernels of oneDNN for it.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and (
    torch.backends.cpu.get_cpu_capability().startswith("AVX")
)


def compute_scale_and_shift(
    weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Compute (scale, shift) of a norm with frozen statistics, in float32 or float64.

    The norm is ``x * scale + shift``. All have its channels as their only dimension.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    scale = weight.to(dtype) * (var.to(dtype) + eps).rsqrt()
    return scale, bias.to(dtype) - mean.to(dtype) * scale


class FrozenBatchNorm2d(nn.Module):
    """Normalize by fixed statistics: a batch norm of which nothing is trained ("FrozenBN").

    ``y = x * scale + shift``, where ``scale = weight / sqrt(running_var + eps)`` and
    ``shift = bias - running_mean * scale``. Weight, bias, running_mean and running_var are buffers,
    under detectron2's names; strict loading takes the state of an ``nn.BatchNorm2d`` or of
    detectron2's FrozenBatchNorm2d, and both of them take this one's.

    Args:
        num_features: channels of the input, which has the shape (N, C, H, W).
        eps: added to the variance. The variance starts at 1 - eps, so the norm is the identity.
    """

    if TYPE_CHECKING:  # torch.jit.script would read these, and takes no text for a type
        weight: Tensor
        bias: Tensor
        running_mean: Tensor
        running_var: Tensor
        num_batches_tracked: Tensor | None

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        # Not super's, which in FrozenStatisticsBatchNorm2d is another norm.
        nn.Module.__init__(self)
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        # Part of the state only where freeze_norms made this norm from one that counted.
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = compute_scale_and_shift(
            self.weight, self.bias, self.running_mean, self.running_var, self.eps
        )
        return x * scale.to(x.dtype).reshape(1, -1, 1, 1) + shift.to(x.dtype).reshape(1, -1, 1, 1)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        """Take also a batch norm's state, which counts, and Caffe2's, which has no statistics."""
        count = prefix + "num_batches_tracked"
        if self.num_batches_tracked is None:
            state_dict.pop(count, None)
        else:
            state_dict.setdefault(count, self.num_batches_tracked)
        names = ("weight", "bias", "running_mean", "running_var")
        given = [name for name in names if prefix + name in state_dict]
        if given == ["weight", "bias"] and local_metadata.get("version", 0) < 2:
            state_dict[prefix + "running_mean"] = torch.zeros_like(self.running_mean)
            state_dict[prefix + "running_var"] = torch.ones_like(self.running_var)
        nn.Module._load_from_state_dict(self, state_dict, prefix, local_metadata, *rest)


class FrozenStatisticsBatchNorm2d(FrozenBatchNorm2d, nn.InstanceNorm2d):  # type: ignore[misc]
    """A FrozenBatchNorm2d whose weight and bias are trained ("FrozenStatisticsBN").

    It is called an instance norm, which with fixed statistics computes the same, because torch and
    detectron2 go by types: WEIGHT_DECAY_NORM holds for an instance norm, and none of what computes
    statistics or exchanges batch norms (PreciseBN, ``convert_sync_batchnorm``) takes it for one.
    """

    _version = 1  # an nn.BatchNorm2d takes the state without a count
    affine, track_running_stats, momentum = True, False, 0.1  # what instance norms have

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)
        self.weight = nn.Parameter(self.weight)
        self.bias = nn.Parameter(self.bias)


SYNCHRONIZED_ON_CPU = (
    'norm "SyncBN" cannot train on the CPU within a process group: torch synchronizes only GPUs; '
    'set MODEL.RESNETS.NORM to "BN", "GN" or "FrozenBN", or train on GPUs'
)


class SynchronizedBatchNorm2d(nn.SyncBatchNorm):
    """An ``nn.SyncBatchNorm`` that explains where it cannot train ("SyncBN").

    In one process it is an ordinary batch norm.

    Raises:
        ValueError: it is trained on a CPU within a process group.
    """

    def forward(self, x: Tensor) -> Tensor:
        grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
        if grouped and self.training and x.device.type == "cpu":
            raise ValueError(SYNCHRONIZED_ON_CPU)
        return super().forward(x)


GROUPS = 32
"""Groups of channels of the norm "GN"."""


def _make_group_norm(channels: int) -> nn.GroupNorm:
    if channels % GROUPS != 0:
        raise ValueError(
            f'norm "GN" has {GROUPS} groups, which do not divide {channels} channels; choose a '
            f'multiple of {GROUPS}, in a ResNeXt as cardinality times width, or the norm "BN"'
        )
    return nn.GroupNorm(GROUPS, channels)


FROZEN_NORMS: set[type[nn.Module]] = {FrozenBatchNorm2d, FrozenStatisticsBatchNorm2d}
"""The norms that ``ConvNorm`` multiplies into its weights: those of exactly these types.

Each computes ``x * scale + shift`` from what ``compute_scale_and_shift`` takes, as its attributes
weight, bias, running_mean, running_var and eps. The plugin adds detectron2's own frozen norm.
"""

NORMS: dict[str, Callable[[int], nn.Module | None]] = {
    "": lambda channels: None,
    "FrozenBN": FrozenBatchNorm2d,
    "BN": nn.BatchNorm2d,
    "SyncBN": SynchronizedBatchNorm2d,
    "GN": _make_group_norm,
    "FrozenStatisticsBN": FrozenStatisticsBatchNorm2d,
}
"""The values of ``MODEL.RESNETS.NORM``: each makes the norm of a map from its channels."""


def make_norm(norm: Norm, channels: int) -> nn.Module | None:
    """Make a norm for maps of so many channels; None where ``norm`` is "" or None.

    Raises:
        ValueError: the name is unknown; "GN" has 32 groups, and they do not divide the channels.
    """
    if norm is None:
        return None
    if callable(norm):
        return norm(channels)
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is not known; choose one of {', '.join(map(repr, NORMS))}")
    return NORMS[norm](channels)


def keep_gradient_contiguous(weight: Tensor) -> Tensor:
    """Return a weight of any shape whose gradient is contiguous, as ``torch.autograd.grad`` gives.

    Convolutions of channels-last maps give channels-last gradients, of which ``view(-1)`` fails.
    The copy is the one that ``backward`` makes anyway, where it writes them into ``grad``.
    """
    if weight.requires_grad and torch.is_grad_enabled():
        return weight.reshape(-1).reshape(weight.shape)
    return weight


class _FoldedConvolution(torch.autograd.Function):
    """Convolve by ``weight * scale`` and add ``shift``, keeping for the gradient no such product.

    The products of all layers are as large as the weights; here they are computed again, to the
    same bits. The scale gets no gradient.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype, options: Any
    ) -> Tensor:
        """Convolve; ``options`` are stride, padding, dilation and groups."""
        return F.conv2d(x, _scale_weight(weight, scale, dtype), shift.to(dtype), *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, scale, shift, ctx.dtype, ctx.options = inputs
        ctx.save_for_backward(x, weight, scale)
        ctx.shift_dtype = shift.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        of_x, of_weight, of_shift = torch.ops.aten.convolution_backward(
            *(grad, x, _scale_weight(weight, scale, ctx.dtype), [len(weight)]),
            *(stride, padding, dilation, False, [0, 0], groups),
            [ctx.needs_input_grad[index] for index in (0, 1, 3)],
        )
        if of_weight is not None:
            of_weight = (of_weight.to(weight.dtype) * scale.reshape(-1, 1, 1, 1)).to(weight.dtype)
        if of_shift is not None:
            of_shift = of_shift.to(ctx.shift_dtype)
        return of_x, of_weight, None, of_shift, None, None


def _scale_weight(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    # Through the weight's own type, as the layer's other ways round it.
    return (weight * scale.reshape(-1, 1, 1, 1)).to(weight.dtype).to(dtype)


class ConvNorm(nn.Conv2d):
    """Convolve, normalize and activate, under detectron2's keys: weight, bias, norm.weight ...

    A norm with frozen statistics is multiplied into the convolution's weights, in training as in
    inference. This is exact algebra, saves a pass over the map and its memory, and gradients reach
    everything that is trained.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: ``nn.Conv2d``'s.
        bias: whether the convolution has a bias; None: exactly where there is no norm.
        norm: a name in ``NORMS``, "" for none, or a callable that makes a norm from its channels.
        activation: applied last; it may work in place (``torch.relu_``).

    Raises:
        ValueError: the norm is unknown or does not fit the channels.
    """

    # torch.jit.script reads ``has_frozen_norm`` once and compiles one of the two ways.
    __constants__ = [*nn.Conv2d.__constants__, "has_frozen_norm"]
    __jit_unused_properties__ = ("has_frozen_norm",)
    if TYPE_CHECKING:
        norm: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | None = None,
        norm: Norm = "",
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        made = make_norm(norm, out_channels)
        has_bias = made is None if bias is None else bias
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, has_bias
        )
        self.norm = made
        self.activation = activation

    @property
    def has_frozen_norm(self) -> bool:
        """Tell whether the norm, which may be exchanged any time, is of one of ``FROZEN_NORMS``."""
        return type(self.norm) in FROZEN_NORMS

    def forward(self, x: Tensor) -> Tensor:
        if self.has_frozen_norm:
            # A condition of its own: torch.jit.script compiles all that stands behind an "and".
            if not torch.jit.is_scripting():
                x = self._convolve_folded(x)
            else:
                weight, bias = self._fold_norm()
                x = self._conv_forward(x, weight, bias)
        else:
            x = self._conv_forward(x, keep_gradient_contiguous(self.weight), self.bias)
            if self.norm is not None:
                x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x

    def _convolve_folded(self, x: Tensor) -> Tensor:
        """Convolve with the weights into which the norm is multiplied."""
        dilation = (2, 2) if self._is_faster_dilated(x) else _pair(self.dilation)
        options = (_pair(self.stride), _pair(self.padding), dilation, self.groups)
        scale, shift = self._compute_scale_and_shift()
        is_graph = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if is_graph or scale.requires_grad or not torch.is_grad_enabled():
            weight, bias = self._fold_norm()
            return F.conv2d(x, weight, bias, *options)
        dtype, device = self.weight.dtype, x.device.type
        is_cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if is_cast and x.dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
            x = x.to(dtype)
        weight = keep_gradient_contiguous(self.weight)
        return _FoldedConvolution.apply(x, weight, scale, shift, dtype, options)

    def _is_faster_dilated(self, x: Tensor) -> bool:
        """Tell whether a 1x1 convolution, which has nothing to dilate, is faster if called dilated.

        On one thread torch multiplies matrices where it could call oneDNN, which is a fifth faster
        on large maps; but dilated convolutions it gives to oneDNN. Exported graphs stay plain.
        """
        return (
            not torch.compiler.is_compiling()  # the compiler knows nothing of threads
            and not torch.jit.is_tracing()
            and _HAS_ONEDNN
            and self.kernel_size == (1, 1)
            and self.stride == (1, 1)
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and torch.get_num_threads() == 1
        )

    def _compute_scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Compute what follows the convolution without its bias: ``x * scale + shift``."""
        scale, shift = compute_scale_and_shift(
            self.norm.weight,
            self.norm.bias,
            self.norm.running_mean,
            self.norm.running_var,
            self.norm.eps,
        )
        bias = self.bias
        if bias is not None:
            shift = shift + bias * scale
        return scale, shift

    def _fold_norm(self) -> tuple[Tensor, Tensor]:
        """Compute (weight, bias) of the one convolution that equals this one with its norm."""
        scale, shift = self._compute_scale_and_shift()
        weight = keep_gradient_contiguous(self.weight) * scale.reshape(-1, 1, 1, 1)
        # The product was taken in float32 at least; autocast, if any, casts it for the convolution.
        return weight.to(self.weight.dtype), shift.to(self.weight.dtype)

    def is_frozen_at_random(self) -> bool:
        """Tell whether it, or its norm, is frozen while the norm still has its initial values.

        Without a norm, the bias is checked. Such a layer computes with random weights, or under a
        norm that normalizes nothing, and training does not change that. Norms that were folded into
        scale and bias, as Caffe2's, have a bias.
        """
        norm = self.norm
        if self.weight.requires_grad and not self.has_frozen_norm:
            return False
        if norm is None:
            return self.bias is not None and not bool(self.bias.any())
        weight, bias, mean = (
            getattr(norm, name, None) for name in ("weight", "bias", "running_mean")
        )
        moved = any(values is not None and bool(values.any()) for values in (bias, mean))
        return not moved and (weight is None or bool((weight == 1).all()))


def freeze_norms(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm2d and SyncBatchNorm by a FrozenBatchNorm2d with the same numbers.

    This equals detectron2's ``FrozenBatchNorm2d.convert_frozen_batchnorm``. Other norms stay.

    Returns:
        The module, changed in place; the new norm where the module is itself a batch norm.

    Raises:
        ValueError: a batch norm keeps no running statistics.
    """
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        return _freeze_norm(module)
    for name, child in module.named_children():
        setattr(module, name, freeze_norms(child))
    return module


def _freeze_norm(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> FrozenBatchNorm2d:
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(
            f"{norm} keeps no running statistics to freeze; make it with track_running_stats=True"
        )
    frozen = FrozenBatchNorm2d(norm.num_features, norm.eps).to(norm.running_mean)
    for name, value in norm.state_dict().items():
        setattr(frozen, name, value.clone())
    return frozen.train(norm.training)
