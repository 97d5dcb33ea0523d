"""Detect objects in images and videos; draw them, and list them for COCO.

    resnext-det predict --weights model_final.pth photos/ clip.mp4
    resnext-det predict --weights model_final.pth --register-coco val val.json images/
    resnext-det predict --weights model.pth --config-file CONFIG --classes "red cell,white cell" \\
        --score 0.3 --output out photo.jpg MODEL.DEVICE cpu

Inputs are images, folders of images, videos, and numbers of cameras, such as 0, which Ctrl-C ends.
The output folder gets pictures and videos with boxes, detections.json (a list of COCO results, each
with its class and file) and images.json (in COCO's form, the images and categories that they name).
With --register-coco the inputs are the images of that set, or those of it in the folders given; the
results have its ids, and resnext-det evaluate compares them with its annotations. A file of a
training here holds its configuration and the names of its classes; for another one give
--config-file and --classes. From the first KEY of the configuration on, the words are KEY VALUE
pairs.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnext_det.command_line import (
    add_config_flag,
    add_dataset_flag,
    add_fit_config_flag,
    build_parser,
    finish,
    read_dataset_flags,
)


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
    add_fit_config_flag(parser)
    add_dataset_flag(parser)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="IMAGE|FOLDER|VIDEO|CAMERA|KEY VALUE",
        help="images, folders of images, videos, cameras, then settings such as MODEL.DEVICE cpu",
    )
    options = parser.parse_intermixed_args(arguments)
    first = next((i for i, word in enumerate(options.words) if _is_key(word)), len(options.words))
    options.inputs, options.overrides = options.words[:first], options.words[first:]
    options.classes = [name.strip() for name in (options.classes or "").split(",") if name.strip()]
    return options


def _is_key(word: str) -> bool:
    """Tell a key of the configuration, mistyped ones included, from an image such as IMG_1.JPG."""
    from resnext_det.config import get_cfg

    return word.partition(".")[0] in get_cfg() and not Path(word).exists()


def predict(options: argparse.Namespace) -> Iterator[str]:
    """Detect in every image and video; yield one line."""
    from resnext_det.data.coco import load_coco
    from resnext_det.detection.inference import Predictor, predict_files
    from resnext_det.detection.inputs import find_images
    from resnext_det.detection.jobs import Job
    from resnext_det.detection.video import is_video

    datasets = tuple(read_dataset_flags(options))
    job = Job(
        options.config_file,
        overrides=tuple(options.overrides),
        engine="portable",
        fit_config=options.fit_config,
        preprocessing=options.preprocessing,
        datasets=datasets,
        weights=options.weights,
    )
    cfg = job.configuration(training=False)
    name = _choose_dataset(datasets, cfg.DATASETS.TEST)
    dataset = load_coco(name) if name else None
    paths = find_images(options.inputs, outside=options.output, dataset=dataset)
    detections, images = predict_files(
        Predictor(cfg, options.overrides, preprocessing=options.preprocessing),
        paths,
        options.classes,
        output_dir=options.output,
        score=options.score,
        dataset=dataset,
    )
    kinds = "images and frames" if any(map(is_video, paths)) else "images"
    yield (
        f"{detections} detections of score {options.score:g} or more on {images} {kinds}; "
        f"they are in {options.output}"
    )


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
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = parse(arguments)
    return finish(lambda: predict(options))


if __name__ == "__main__":
    sys.exit(main())
