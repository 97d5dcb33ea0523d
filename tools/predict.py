"""Detect objects in images and videos; draw them, and list them for COCO.

    resnext-det predict --weights model_final.pth photos/ clip.mp4
    resnext-det predict --weights model_final.pth --contact-sheet photos/
    resnext-det predict --weights model_final.pth --register-coco val val.json images/ --show-truth
    resnext-det predict model.onnx photos/
    resnext-det predict --weights model.pth --config-file CONFIG --classes "red cell,white cell" \\
        --score 0.3 --output out photo.jpg MODEL.DEVICE cpu

Inputs are images, folders of images, videos, and numbers of cameras, such as 0, which Ctrl-C ends.
The output folder gets pictures and videos with boxes (and masks), detections.json (COCO results,
each with its class and file) and images.json (in COCO's form, the images and categories that they
name).
With --register-coco the inputs are the images of that set, or those of it in the folders given; the
results have its ids, and resnext-det evaluate compares them with its annotations. A file of a
training here holds its configuration and the names of its classes; for another one give
--config-file and --classes. A detector that resnext-det export wrote (.onnx, or OpenVINO's .xml)
may stand first, in place of --weights, and runs without torch. From the first KEY of the
configuration on, the words are KEY VALUE pairs.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnext_det.command_line import (
    CONFIG_NODES,
    add_backend_flags,
    add_config_flag,
    add_dataset_flag,
    add_fit_config_flag,
    build_parser,
    finish,
    load_portable_config,
    read_dataset_flags,
)
from resnext_det.files import show_log


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line into options, with the inputs and the overrides apart."""
    parser = build_parser("predict", __doc__, allow_abbrev=False)
    add_config_flag(parser, required=False)
    parser.add_argument(
        "--output",
        default="predictions",
        metavar="FOLDER",
        help="gets the pictures and JSON files (default: predictions)",
    )
    parser.add_argument(
        "--score", type=float, default=0.5, help="leave out detections below it (default: 0.5)"
    )
    parser.add_argument("--classes", metavar="NAME,NAME", help="names of the classes, in order")
    parser.add_argument(
        "--show-truth",
        action="store_true",
        help="draw the annotations of --register-coco beside the detections, and what is wrong",
    )
    parser.add_argument(
        "--contact-sheet",
        action="store_true",
        help="write small pictures of all images too, 48 on a sheet: contact_sheet_1.jpg ...",
    )
    add_backend_flags(parser)
    add_fit_config_flag(parser)
    add_dataset_flag(parser)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="IMAGE|FOLDER|VIDEO|CAMERA|KEY VALUE",
        help="images, folders of images, videos, cameras, then settings such as MODEL.DEVICE cpu",
    )
    options = parser.parse_intermixed_args(arguments)
    from resnext_det.deploy.metadata import is_exported

    first = next((i for i, word in enumerate(options.words) if _is_key(word)), len(options.words))
    options.inputs, options.overrides = options.words[:first], options.words[first:]
    if not options.weights and options.inputs and is_exported(options.inputs[0]):
        options.weights = options.inputs.pop(0)
    options.exported = is_exported(options.weights or "")
    options.classes = [name.strip() for name in (options.classes or "").split(",") if name.strip()]
    return options


def _is_key(word: str) -> bool:
    """Tell a key of the configuration, mistyped ones included, from an image such as IMG_1.JPG."""
    return word.partition(".")[0] in CONFIG_NODES and not Path(word).exists()


def predict(options: argparse.Namespace) -> Iterator[str]:
    """Detect in every image and video; yield one line."""
    from resnext_det.data.coco import load_coco
    from resnext_det.detection.inputs import find_images
    from resnext_det.detection.video import is_video

    datasets = tuple(read_dataset_flags(options))
    cfg = None if options.exported else load_portable_config(options, datasets)
    if cfg is None:
        _register(options, datasets)
    name = _choose_dataset(datasets, cfg.DATASETS.TEST if cfg else ())
    with_masks = options.show_truth and cfg is not None and cfg.MODEL.MASK_ON
    dataset = load_coco(name, with_masks=with_masks) if name else None
    paths = find_images(options.inputs, outside=options.output, dataset=dataset)
    common = {
        "output_dir": options.output,
        "score": options.score,
        "dataset": dataset,
        "show_truth": options.show_truth,
        "contact_sheet": options.contact_sheet,
    }
    if cfg is None:
        from resnext_det.deploy.exported import ExportedDetector
        from resnext_det.detection.pictures import detect_on_files

        detector = ExportedDetector(options.weights, backend=options.backend or "auto")
        names = detector.choose_class_names(options.classes)
        detections, images = detect_on_files(detector, paths, names, **common)
    else:
        from resnext_det.detection.inference import Predictor, predict_files

        predictor = Predictor(
            cfg,
            options.overrides,
            preprocessing=options.preprocessing,
            backend=options.backend,
            dtype=options.dtype,
            calibration_data=options.calibration_data,
        )
        detections, images = predict_files(predictor, paths, options.classes, **common)
    kinds = "images and frames" if any(map(is_video, paths)) else "images"
    yield (
        f"{detections} detections of score {options.score:g} or more on {images} {kinds}; "
        f"they are in {options.output}"
    )


def _register(options: argparse.Namespace, datasets: Sequence[tuple[str, str, str]]) -> None:
    """Register the datasets for an exported detector, and refuse what cannot change it."""
    from resnext_det.data.coco import register_coco

    given = {
        "--config-file": options.config_file,
        "--fit-config": options.fit_config,
        "--preprocessing": options.preprocessing,
        "--dtype": options.dtype,
        "--calibration-data": options.calibration_data,
        " ".join(options.overrides): options.overrides,
    }
    strange = next((flag for flag, value in given.items() if value), None)
    if strange in ("--dtype", "--calibration-data"):
        raise ValueError(
            f"{strange} cannot change {options.weights}, which computes in the type that it was "
            "exported in; leave it out, export the detector anew with --int8, or run its "
            "checkpoint in place of this file"
        )
    if strange:
        raise ValueError(
            f"{strange} cannot change {options.weights}, whose configuration was fixed when it was "
            "exported; leave it out, or export the detector anew with it"
        )
    for dataset in datasets:
        register_coco(*dataset)


def _choose_dataset(datasets: Sequence[tuple[str, str, str]], test_sets: Sequence[str]) -> str:
    """Choose the dataset whose ids the detections have: the one registered, or to be tested on."""
    names = [name for name, _, _ in datasets]
    chosen = [name for name in names if name in test_sets] or names
    if len(chosen) > 1:
        raise ValueError(
            f"--register-coco names the datasets {', '.join(chosen)}, and the detections can have "
            "the ids of one; give that one alone"
        )
    return chosen[0] if chosen else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    # OpenCV and its FFmpeg would write lines of their own about a video that cannot be read.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    show_log()
    logging.getLogger("resnext_det.runtimes").setLevel(logging.INFO)  # which backend, how exact
    options = parse(arguments)
    return finish(lambda: predict(options))


if __name__ == "__main__":
    sys.exit(main())
