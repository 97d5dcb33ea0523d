"""Exchange the parts of a model that take its time for what a backend makes of them."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from resnext_det.runtimes.backends import (
    check_backend,
    check_dtype,
    choose_int8_backend,
    find_backend,
    read_dtype,
)
from resnext_det.runtimes.c4_head import make_c4_head_fast, measure_c4_error
from resnext_det.runtimes.choice import choose_backend, describe_failure
from resnext_det.runtimes.parts import (
    DenseNetwork,
    FastBackbone,
    FastProposalHead,
    FastRegionHead,
    Part,
    RegionNetwork,
    Run,
    StandIn,
    find_proposal_head,
    find_region_head,
    list_outputs,
    measure_difference,
    record_calls,
)
from resnext_det.runtimes.pooling import find_poolers
from resnext_det.runtimes.quantization import check_loss, quantize_part, read_calibration
from resnext_det.runtimes.tracing import CheckedRun
from resnext_det.shared_res5 import copy_with_exact_head, find_shared_class

logger = logging.getLogger(__name__)

_SIZE = (480, 640)
_ROUNDING = 1e-2  # a hundred times what was seen; a mistake in a runtime's graph gives more


def optimize(
    model: nn.Module,
    backend: str = "auto",
    dtype: torch.dtype | str | None = None,
    *,
    example: Any = None,
    calibration: Iterable[Any] | None = None,
    measure: Callable[[nn.Module], float] | None = None,
    max_loss: float | None = None,
) -> nn.Module:
    """Make a model fast for inference on this machine; the model given stays as it is.

    Of a detector, of either engine, the backbone with the head of the proposal network and the head
    of the regions are exchanged, and RoIAlign; boxes are decoded and suppressed by the engine's own
    code. In float32 the last convolutions of a pyramid, and those of the head of the proposals, are
    computed by Winograd's algorithm. The head of a C4 detector shares work between regions, see
    ``resnext_det.shared_res5``, but not in int8. How far the outputs of the new model differ, by
    rounding, the log tells.

        fast = optimize(Predictor("model_final.pth").model, "openvino")

    In int8 a model is quantized by its runtime's own tool, on images given, and the log tells what
    it loses:

        fast = optimize(model, "openvino", torch.int8, calibration=samples, measure=evaluate,
                        max_loss=1.0)

    Args:
        model: a backbone, which maps images (N, C, H, W) to a tensor or {name: map}, or a detector
            of either engine, in eval mode.
        backend: "folded", "compiled", "onnxruntime" or "openvino"; "auto" takes the fastest of
            those installed but "compiled", which are timed once on this machine, and the times
            remembered. It computes with as many threads as torch has when it is built.
        dtype: float32 (the default), bfloat16 or int8, or its name, in which the exchanged parts
            compute; their outputs are float32.
        example: what the model is called with, by which it is timed and compared; images of noise
            by default. Later inputs may have other sizes.
        calibration, measure, max_loss: of int8, see ``Calibration``.

    Returns:
        a model that is called, and answers, as the one given.

    Raises:
        ValueError: the backend is unknown, not installed, or does not compute in ``dtype`` or on
            the model's device, or cannot compute this model; its float32 features are not the
            model's; the model is in training mode, has no parameters, or others than float32; int8
            has no calibration, or loses more than ``max_loss``; and, in a call of the new model,
            training mode or a size that a pyramid does not take.
    """
    check_backend(backend)
    dtype = read_dtype(str(dtype or "float32").removeprefix("torch."))
    given = read_calibration(dtype, calibration, measure, max_loss)
    device = _check_model(model)
    check_dtype(dtype, device)
    if given and backend == "auto":
        backend = choose_int8_backend(device)
    if backend != "auto":
        find_backend(backend, dtype, device)
    if example is None:
        example = given.get_example() if given else _make_example(model, device)
    model = copy_with_exact_head(model) if given else model
    shares = not given and find_shared_class(model) is not None
    found = _find_parts(model, example, with_regions=not shares)
    if backend == "auto":
        backend = choose_backend(found.parts, dtype, device)
    if given:
        modules = (found.backbone, found.region_head)
        runs = [
            quantize_part(part, backend, model, module, given)
            for part, module in zip(found.parts, modules)
            if module is not None
        ]
    else:
        build = find_backend(backend, dtype, device)
        with _name_failures(backend):
            runs = [build(part, dtype) for part in found.parts]
    runs = [CheckedRun(part, run) for part, run in zip(found.parts, runs)]
    with _name_failures(backend):  # torch.compile works only now
        errors = [_measure_error(part, run) for part, run in zip(found.parts, runs)]
    if math.isnan(sum(errors)):
        raise ValueError(
            "the model gives NaN or infinity on the example; look for damaged weights, such as "
            "those of a training that diverged"
        )
    if dtype == torch.float32 and not max(errors) < _ROUNDING:
        raise ValueError(
            f"backend {backend!r} does not compute what this model does: on the example they "
            f"differ by {max(errors):.1e} of the largest feature; choose 'folded'"
        )
    fast = _exchange(model, found, runs)
    if shares:
        make_c4_head_fast(fast, dtype)
        errors.append(measure_c4_error(model, fast, found.maps))
    logger.info(
        "The backend %s computes in %s; on the example its features differ by at most %.1e of the "
        "largest.",
        *(backend, str(dtype).removeprefix("torch."), max(errors)),
    )
    if given:
        check_loss(model, fast, given)
    return fast


def _check_model(model: nn.Module) -> torch.device:
    """Refuse a model that cannot be optimized; return its device."""
    if isinstance(model, nn.Module) and any(isinstance(one, StandIn) for one in model.modules()):
        raise ValueError(
            "optimize() was given a model that it made; give it the one that this was made of"
        )
    if not isinstance(model, nn.Module) or next(model.parameters(), None) is None:
        kind = type(model).__name__
        raise ValueError(f"optimize() was given a {kind}; give a backbone or a detector of torch")
    if any(module.training for module in model.modules()):
        raise ValueError(
            "the model, or a part of it, is in training mode, and an optimized one is for "
            "inference alone; call model.eval() first"
        )
    weight = next(model.parameters())
    if weight.dtype != torch.float32:
        raise ValueError(
            f"the model's weights are {weight.dtype}, and those of float32 are needed, which the "
            "backend converts to the dtype given; call model.float() first"
        )
    return weight.device


@contextmanager
def _name_failures(backend: str) -> Iterator[None]:
    """Turn what a backend's own tools raise, errors of many kinds, into a ValueError."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        failure = describe_failure(error)
        raise ValueError(f"backend {backend!r}: {failure}; choose another, as 'folded'") from error


def _is_detector(model: nn.Module) -> bool:
    return isinstance(getattr(model, "backbone", None), nn.Module)


def _make_example(model: nn.Module, device: torch.device) -> Any:
    """Draw an image of noise for a detector, a batch of one for a backbone."""
    generator = torch.Generator().manual_seed(0)
    if _is_detector(model):
        if getattr(model, "proposal_generator", 0) is None:
            raise ValueError(
                "the detector takes the proposals of every image, and images of noise have none; "
                "give an image with them: example=[{'image': image, 'proposals': proposals}]"
            )
        shape = (len(cast(Tensor, model.pixel_mean)), *_SIZE)
        return [{"image": torch.randint(256, shape, dtype=torch.uint8, generator=generator)}]
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        raise ValueError("the model has no convolution that tells its input; give example=images")
    return torch.randn(1, first.in_channels, *_SIZE, generator=generator).to(device)


@dataclass(frozen=True)
class _Found:
    """Hold what of a model is exchanged; ``maps`` and ``lists`` as the backbone and head gave."""

    parts: list[Part]
    backbone: nn.Module
    proposal_head: nn.Module | None
    region_head: nn.Module | None
    maps: Any
    lists: Sequence[Sequence[Tensor]]
    names: tuple[str, ...]


def _find_parts(model: nn.Module, example: Any, *, with_regions: bool) -> _Found:
    """Find the parts that are exchanged, with what comes in and goes out on the example."""
    backbone, head, regions = model, None, None
    names: tuple[str, ...] = ()
    if _is_detector(model):
        backbone = model.get_submodule("backbone")
        head, names = find_proposal_head(model)
        regions = find_region_head(model) if with_regions else None
    heads = [part for part in (backbone, head, regions) if part is not None]
    calls = record_calls(model, heads, lambda: model(example))
    images, maps = calls[backbone]
    lists = calls[head][1] if head is not None else ()
    multiple = max(int(getattr(backbone, "size_divisibility", 1)), 1)
    parts = [
        Part(
            "dense",
            DenseNetwork(backbone, head, names, _name_maps(maps)).eval(),
            images.detach(),
            list_outputs(maps, lists),
            {0: 1, 2: multiple, 3: multiple},
        )
    ]
    if regions is not None and regions in calls:
        cut, vectors = calls[regions]
        if not len(cut):  # no region on the example
            cut = torch.randn(3, *cut.shape[1:], device=cut.device)
            with torch.no_grad():
                vectors = regions(cut)
        parts.append(Part("regions", RegionNetwork(regions).eval(), cut, (vectors,), {0: 1}))
    else:
        regions = None
    return _Found(parts, backbone, head, regions, maps, lists, names)


def _name_maps(maps: Any) -> tuple[str, ...]:
    return () if isinstance(maps, Tensor) else tuple(maps)


def _measure_error(part: Part, run: Run) -> float:
    """Measure the largest difference from the exact outputs, in units of the largest of each.

    It is of the example and of a smaller one, which a graph with a size written into it cannot do.
    """
    smaller = part.crop_example()
    with torch.no_grad():
        pairs = [(part.outputs, run(part.example)), (part.network(smaller), run(smaller))]
    errors = []
    for exact, found in (pair for outputs in pairs for pair in zip(*outputs)):
        errors.append(measure_difference(found, exact))
    return float(torch.tensor(errors).max())  # NaN if one is


def _exchange(model: nn.Module, found: _Found, runs: Sequence[Run]) -> nn.Module:
    """Copy a model with stand-ins for its parts, of which nothing is copied."""
    names = _name_maps(found.maps)
    first = found.names[0] if found.proposal_head is not None else ""
    fast = FastBackbone(found.backbone, runs[0], names, first)
    if found.backbone is model:
        return fast.eval()
    known: dict[int, Any] = {id(found.backbone): fast}  # what deepcopy takes for a part's copy
    if found.proposal_head is not None:
        known[id(found.proposal_head)] = FastProposalHead(len(found.lists))
    if found.region_head is not None:
        (vectors,) = found.parts[1].outputs
        known[id(found.region_head)] = FastRegionHead(runs[1], vectors[:0].clone())
        known |= {id(pooler): faster for pooler, faster in find_poolers(model)}
    return copy.deepcopy(model, known).eval()
