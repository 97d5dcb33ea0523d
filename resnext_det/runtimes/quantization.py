"""Quantize the parts of a model to int8, by the runtimes' own tools, calibrated on images."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnext_det.runtimes.folded import fold_norms
from resnext_det.runtimes.openvino_core import get_core
from resnext_det.runtimes.parts import Part, Run
from resnext_det.runtimes.tracing import convert_to_onnx

logger = logging.getLogger(__name__)

IMAGES = 100
"""How many of the calibration images are looked at, at most."""

_REGION_BYTES = 2**29  # of all images' cut regions that are kept to calibrate their head on
# What is computed in int8: convolutions, products, and what stands between them, so that a map
# need not become float32 in between. Group norms stay in float32.
_ONNX_OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "Resize"]


@dataclass(frozen=True)
class Calibration:
    """Hold what a model is quantized on, and how much it may lose.

    Attributes:
        samples: one image each, as the model takes it: of a detector a dict, of a backbone a tensor
            (N, C, H, W). The first ``IMAGES`` are looked at.
        measure: maps a model to a number that is better when larger, such as AP in percent.
        max_loss: how much smaller ``measure`` of the quantized model may be; None: any loss.
    """

    samples: Sequence[Any]
    measure: Callable[[nn.Module], float] | None = None
    max_loss: float | None = None

    def get_example(self) -> Any:
        """Return the first sample, as the model is called with it."""
        return _make_batch(self.samples[0])

    def iterate_inputs(self, model: nn.Module, module: nn.Module) -> Iterator[Any]:
        """Run the model up to a module on every sample; give the module's inputs, as arrays.

        Args:
            model: a detector, or a backbone, which is its own module.
            module: it takes one tensor, such as the backbone.
        """

        def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            raise _InputReached(inputs[0])

        for sample in self.samples:
            handle = module.register_forward_pre_hook(stop)
            try:
                with torch.inference_mode():
                    model(_make_batch(sample))
            except _InputReached as reached:
                yield reached.value.float().contiguous().cpu().numpy()
            finally:
                handle.remove()

    def gather_regions(self, model: nn.Module, head: nn.Module) -> list[Any]:
        """Gather the cut regions that a head gets, evenly spaced in every image, as arrays.

        Raises:
            ValueError: there is none.
        """
        gathered = []
        for regions in self.iterate_inputs(model, head):
            if len(regions):
                kept = max(1, _REGION_BYTES // (regions[0].nbytes * len(self.samples)))
                gathered.append(regions[:: -(-len(regions) // kept)].copy())
        if not gathered:
            raise ValueError(
                "the detector proposes no region on the calibration images, so the head of the "
                "regions cannot be quantized; give images with objects"
            )
        return gathered


class _InputReached(Exception):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def _make_batch(sample: Any) -> Any:
    return [sample] if isinstance(sample, dict) else sample


def read_calibration(
    dtype: torch.dtype,
    samples: Iterable[Any] | None,
    measure: Callable[[nn.Module], float] | None,
    max_loss: float | None,
) -> Calibration | None:
    """Check the arguments of int8, see ``Calibration``; None for another dtype.

    Raises:
        ValueError: they are given with another dtype; there is no image; the bound is negative, or
            nothing measures the loss that it bounds.
    """
    if dtype != torch.int8:
        if samples is not None or max_loss is not None:
            raise ValueError(
                f"calibration and max_loss are of dtype torch.int8, and the dtype is {dtype}; give "
                "dtype=torch.int8, or leave them out"
            )
        return None
    kept = list(islice(samples, IMAGES)) if samples is not None else []
    if not kept:
        raise ValueError(
            "int8 is calibrated on images, and none was given; give calibration=samples, a "
            "hundred images like those that the model will see"
        )
    if max_loss is not None and measure is None:
        raise ValueError(
            f"max_loss = {max_loss} bounds what the model loses, and nothing measures it; give "
            "measure, such as a function that evaluates AP"
        )
    if max_loss is not None and not max_loss >= 0:
        raise ValueError(
            f"max_loss = {max_loss} is no loss to accept; give 0 or more, in the units of measure"
        )
    return Calibration(kept, measure, max_loss)


def quantize_part(
    part: Part, backend: str, model: nn.Module, module: nn.Module, calibration: Calibration
) -> Run:
    """Make what computes a part in int8 by "openvino" or "onnxruntime"; its outputs are float32.

    Args:
        model: the part is of it.
        module: of the model, whose inputs the part has.

    Raises:
        ValueError: see ``Calibration.gather_regions``.
    """
    inputs: Iterable[Any]
    if part.name == "regions":
        inputs = calibration.gather_regions(model, module)
    else:
        inputs = _Repeated(lambda: calibration.iterate_inputs(model, module))
    part = replace(part, network=fold_norms(part.network))
    if backend == "openvino":
        from resnext_det.runtimes import openvino

        return openvino.compile_graph(
            quantize_openvino(openvino.convert(part), inputs), torch.float32
        )
    from resnext_det.runtimes import onnxruntime

    return onnxruntime.open_session(quantize_onnx(convert_to_onnx(part), inputs))


class _Repeated:
    """Iterate anew, every time, over what a function gives, of which only one is in memory."""

    def __init__(self, begin: Callable[[], Iterator[Any]]) -> None:
        self.begin = begin

    def __iter__(self) -> Iterator[Any]:
        return self.begin()


def quantize_openvino(graph: Any, inputs: Iterable[Any]) -> Any:
    """Quantize OpenVINO's graph of one input by NNCF.

    Weights and activations are symmetric; weights have a scale for every channel. An output that
    further layers of the graph read has the int8 values that they read, as float32.

    Args:
        inputs: arrays, which can be gone through several times.
    """
    get_core()  # before NNCF's own, which come and go
    import nncf
    from openvino import passes

    # Where the weights of a grouped convolution are reshaped in the graph, NNCF takes the wrong
    # axis for their channels, and OpenVINO then computes the convolution in float32.
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(graph)
    with _silence_tools():
        quantized = nncf.quantize(graph, nncf.Dataset(inputs), subset_size=IMAGES)
    _share_quantized_maps(quantized)
    return quantized


def _share_quantized_maps(graph: Any) -> None:
    """Take outputs of OpenVINO's graph, in place, after their quantization for further layers.

    Else such a map is computed in float32, written for the output and quantized in another pass:
    X-50's maps res2 to res5 then take 9 percent longer.
    """
    for result in graph.get_results():
        source = result.input_value(0)
        readers = (reader.get_node() for reader in source.get_target_inputs())
        quantizers = [node for node in readers if node.get_type_name() == "FakeQuantize"]
        if quantizers:  # several are alike, one for each layer
            result.input(0).replace_source_output(quantizers[0].output(0))
    graph.validate_nodes_and_infer_types()


def quantize_onnx(
    model: bytes, inputs: Iterable[Any], find_exact: Callable[[Any], Iterable[str]] = lambda _: ()
) -> bytes:
    """Quantize an ONNX model of one input by ONNX Runtime, in QDQ form.

    Args:
        inputs: arrays.
        find_exact: finds the names of the nodes of a graph that stay in float32.
    """
    import onnx
    from onnxruntime import quantization as tools
    from onnxruntime.quantization.shape_inference import quant_pre_process

    given = onnx.load_from_string(model).graph.input[0].name
    batches = ({given: array} for array in inputs)

    class Reader(tools.CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            return next(batches, None)

    with tempfile.TemporaryDirectory() as folder, _silence_tools():
        exact, prepared, quantized = (Path(folder, f"{name}.onnx") for name in "epq")
        exact.write_bytes(model)
        quant_pre_process(exact, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        tools.quantize_static(
            prepared,
            quantized,
            Reader(),
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            op_types_to_quantize=_ONNX_OPERATORS,
            nodes_to_exclude=list(find_exact(graph)),
        )
        return quantized.read_bytes()


@contextlib.contextmanager
def _silence_tools() -> Iterator[None]:
    """Keep back what the tools print and log, which speaks of their own internals."""
    handlers, disabled = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers  # the tools log by functions that add one


def check_loss(model: nn.Module, quantized: nn.Module, calibration: Calibration) -> None:
    """Measure a model and its quantized copy, log what that loses, and refuse more than the bound.

    Raises:
        ValueError: it loses more than ``calibration.max_loss``; a measure is not finite.
    """
    if calibration.measure is None:
        logger.warning(
            "What the model loses by int8 is not measured; compare its AP with the exact one's."
        )
        return
    with torch.no_grad():
        before, after = (float(calibration.measure(one)) for one in (model, quantized))
    check_numbers(before, after, calibration.max_loss)


def check_numbers(before: float, after: float, max_loss: float | None) -> None:
    """Log what a model loses by int8, from its measure before and after, and bound it.

    Raises:
        ValueError: it loses more than ``max_loss``; a number is not finite.
    """
    if not (math.isfinite(before) and math.isfinite(after)):
        raise ValueError(
            f"measure gives {before} for the model and {after} for the quantized one; it has to "
            "give a number, such as AP on images with objects"
        )
    loss = before - after
    if max_loss is not None and loss > max_loss:
        raise ValueError(
            f"the model measures {before:.2f} in float32 and {after:.2f} in int8, a loss of "
            f"{loss:.2f} where max_loss = {max_loss} is accepted; calibrate on more images like "
            "those that it will see, take float32 or bfloat16, or accept more"
        )
    logger.info(
        "Quantized to int8, the model measures %.2f, and %.2f in float32: a loss of %.2f.",
        *(after, before, loss),
    )
