"""Run exported detectors, by ONNX Runtime or OpenVINO, without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from resnext_det.data.pixels import AnyImage, apply_to_each, to_pixels
from resnext_det.data.reading import describe_irregular_file
from resnext_det.deploy.metadata import (
    INPUT,
    KEY,
    MASKS,
    OUTPUTS,
    SUFFIXES,
    is_damaged,
    is_exported,
    parse_metadata,
)
from resnext_det.deploy.pasting import paste_masks
from resnext_det.detection.pictures import check_same_names
from resnext_det.detection.results import ImageDetections
from resnext_det.files import escape_controls
from resnext_det.instances import name_classes
from resnext_det.runtimes.openvino_core import get_core
from resnext_det.runtimes.packages import EXTRAS, describe_missing

BACKENDS = ("auto", "onnxruntime", "openvino")
_ANEW = "export the detector anew with resnext-det export"


class ExportedDetector:
    """Detect by a file that ``resnext-det export`` wrote, on images of any kind.

    Images are resized and normalized within the file's graph. It computes in float32 on the CPU,
    in as many threads as OMP_NUM_THREADS says, or as the runtime chooses.

    Args:
        path: .onnx, or OpenVINO's .xml.
        backend: "onnxruntime" or "openvino", which runs both kinds; "auto" is onnxruntime for .onnx
            where that is installed.

    Attributes:
        metadata: what the file says of itself.
        class_names: in the order of the classes that it gives.
        backend: that was chosen.
        image_format: "RGB", the order of the channels in arrays.

    Raises:
        FileNotFoundError: there is no such file, or that of its weights is missing.
        ValueError: the file is damaged, or was written by another program; the backend is not
            installed, or does not run files of this kind.
    """

    image_format = "RGB"

    def __init__(self, path: str | Path, *, backend: str = "auto") -> None:
        self.path = Path(path).expanduser()
        _check_file(self.path)
        self.backend = _choose_backend(self.path, backend)
        graph = _open_graph(self.path, self.backend)
        if graph.metadata is None:
            raise self._explain_other_file(graph)
        try:
            self.metadata = parse_metadata(graph.metadata)
        except ValueError as error:
            raise ValueError(
                f"the metadata of {self.path} are damaged: {error}; copy the file again, or {_ANEW}"
            ) from error
        if graph.inputs != (INPUT,) or graph.outputs != self.metadata.list_outputs():
            raise self._explain_other_file(graph)
        if is_damaged(self.path, self.metadata):
            raise ValueError(
                f"{self.path} is damaged: the checksum of its graph and weights is not the one in "
                f"its metadata; copy the file again, or {_ANEW}"
            )
        self.class_names = self.metadata.class_names
        self._run = graph.run

    def _explain_other_file(self, graph: _Graph) -> ValueError:
        return ValueError(
            f"{self.path} is no detector that resnext-det export wrote: it has the inputs "
            f"{_list_names(graph.inputs)} and the outputs {_list_names(graph.outputs)}"
            f"{' and no metadata of it' if graph.metadata is None else ''}; {_ANEW}"
        )

    @property
    def lowest_score(self) -> float:
        """Tell the score below which the file gives no detection."""
        return self.metadata.score_threshold

    def choose_class_names(self, given: Sequence[str] = ()) -> tuple[str, ...]:
        """Choose names for the classes: the file's own, or those given where it has numbers alone.

        Raises:
            ValueError: another number of names than of classes; those given are not the file's.
        """
        if self.class_names == name_classes(len(self.class_names)):  # "class 0", "class 1" ...
            return name_classes(len(self.class_names), given)
        check_same_names(given, self.class_names, self.path)
        return self.class_names

    @overload
    def __call__(self, image: AnyImage) -> ImageDetections: ...

    @overload
    def __call__(self, image: list[AnyImage] | tuple[AnyImage, ...]) -> list[ImageDetections]: ...

    def __call__(self, image: Any) -> Any:
        """Detect on one image, or on each image of a list.

        Args:
            image: the path of a file; an image of Pillow, of any mode; (H, W, 3) uint8 RGB, or
                gray, (H, W); or a list of such. Files and images of Pillow are turned upright by
                their EXIF orientation.

        Returns:
            boxes in the (upright) image's pixels, scores and classes, best first, and of a detector
            of masks these too; of a list, a list.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is broken, or no image; the array is of another shape or type; the
                runtime fails on the image.
        """
        return apply_to_each(image, self.image_format, self.detect)

    def detect(self, image: AnyImage) -> ImageDetections:
        """Detect on one image, as a call does."""
        pixels = np.ascontiguousarray(to_pixels(image, self.image_format))
        height, width = pixels.shape[:2]
        try:
            boxes, scores, classes, *masks = self._run(pixels)
        except Exception as error:  # each runtime raises types of its own
            raise ValueError(
                f"{self.backend} cannot run {self.path} on an image of {width} x {height} pixels: "
                f"{_shorten(error)}; {_ANEW}, or choose another backend"
            ) from error
        count = len(self.class_names)
        sound = all(np.isfinite(values).all() for values in (boxes, scores, *masks))
        if not sound or ((classes < 0) | (classes >= count)).any():
            raise ValueError(
                f"{self.path} is damaged: it gives boxes, scores or masks that are not finite, or "
                f"classes beyond its {count}; copy the file again, or {_ANEW}"
            )
        pasted = (paste_masks(each, boxes, (height, width)) for each in masks)
        return ImageDetections((height, width), boxes, scores, classes, *pasted, *masks)


class _Graph(NamedTuple):
    """Hold an opened file: a function from pixels to the outputs, and what the file tells."""

    run: Callable[[np.ndarray], Sequence[np.ndarray]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: str | None


def _check_file(path: Path) -> None:
    if not is_exported(path):
        raise ValueError(
            f"{path} is not of a kind that runs here; give a file of resnext-det export that ends "
            f"in {' or '.join(SUFFIXES)}"
        )
    needed = [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]
    for file in needed:
        if not file.exists():
            which = "" if file == path else f"with the weights of {path.name} "
            raise FileNotFoundError(f"the file {which}{file} is not there; copy it, or {_ANEW}")
        if kind := describe_irregular_file(file.stat().st_mode):
            raise ValueError(f"{file} is {kind}, not a file; give a file of resnext-det export")
        if not file.stat().st_size:
            raise ValueError(f"{file} is empty; copy the file again, or {_ANEW}")


def _choose_backend(path: Path, name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(
            f"the backend {name!r} does not run exported files; write one of {', '.join(BACKENDS)}"
        )
    is_onnx = path.suffix.lower() == ".onnx"
    able = ("onnxruntime", "openvino") if is_onnx else ("openvino",)
    if name not in ("auto", *able):
        raise ValueError(f"{name} does not run {path}, a file of OpenVINO; write backend openvino")
    wanted = able if name == "auto" else (name,)
    chosen = next((each for each in wanted if find_spec(each) is not None), None)
    if chosen is None:
        raise ValueError(
            f"{path} is run by {describe_missing(wanted[:1], EXTRAS[wanted[0]])}, or, for an "
            f"environment without torch, pip install {wanted[0]}"
        )
    return chosen


def _open_graph(path: Path, backend: str) -> _Graph:
    opening = _open_by_onnxruntime if backend == "onnxruntime" else _open_by_openvino
    try:
        return opening(path)
    except Exception as error:  # each runtime raises types of its own
        raise ValueError(
            f"{path} cannot be read by {backend}: it is damaged, no file of this kind, or of a "
            f"later version ({_shorten(error)}); copy the file again, or {_ANEW}"
        ) from error


def _open_by_onnxruntime(path: Path) -> _Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised too
    options.intra_op_num_threads = _read_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = [each.name for each in session.get_outputs()]

    def run(pixels: np.ndarray) -> Sequence[np.ndarray]:
        return session.run(outputs, {INPUT: pixels})

    return _Graph(
        run,
        tuple(each.name for each in session.get_inputs()),
        tuple(outputs),
        session.get_modelmeta().custom_metadata_map.get(KEY),
    )


def _open_by_openvino(path: Path) -> _Graph:
    core = get_core()
    model = core.read_model(path)
    # On some processors it would compute in bfloat16.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": _read_threads()}
    compiled = core.compile_model(model, "CPU", settings)

    def run(pixels: np.ndarray) -> Sequence[np.ndarray]:
        found = compiled([pixels])
        return [found[number] for number in range(len(found))]  # copies of its own memory

    homes = ([KEY], ["framework", KEY])  # the second of what was read from ONNX
    told = [model.get_rt_info(home).astype(str) for home in homes if model.has_rt_info(home)]
    inputs, outputs = (
        tuple(_choose_name(each.get_names()) for each in ports)
        for ports in (model.inputs, model.outputs)
    )
    return _Graph(run, inputs, outputs, told[0] if told else None)


def _choose_name(names: Iterable[str]) -> str:
    """Choose among the names of a tensor of OpenVINO, which may have several."""
    every = sorted(names)
    return next((name for name in (INPUT, *OUTPUTS, MASKS) if name in every), "/".join(every))


def _read_threads() -> int:
    """Read how many threads a runtime shall have; 0 leaves it the choice."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() else 0


def _list_names(names: Sequence[str]) -> str:
    return escape_controls(", ".join(names)) or "none"


def _shorten(error: Exception) -> str:
    """Take the reason out of a runtime's error, in a line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Exception from ")] or lines
    return escape_controls(lines[0][:200] if lines else type(error).__name__)
