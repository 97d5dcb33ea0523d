"""Detect objects in images; draw them, and list them as COCO's results.

    resnext-det predict --config-file CONFIG --output out photo.jpg folder/ MODEL.WEIGHTS model.pth
    resnext-det predict --config-file CONFIG --output out --score 0.3 \\
        --classes "red cell,white cell" folder/ MODEL.WEIGHTS model.pth MODEL.DEVICE cpu

Classes are named by --classes, or else as in the annotations of the first of DATASETS.TEST, where
they are at hand. From the first KEY of the configuration on, the words are KEY VALUE pairs.
"""

from __future__ import annotations

import argparse
import logging
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
    add_config_flag(parser)
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="gets the pictures and detections.json"
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
        metavar="IMAGE|FOLDER|KEY VALUE",
        help="images, folders of images, then settings such as MODEL.WEIGHTS FILE",
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
    """Detect in every image; yield one line."""
    from resnext_det.config import load_config
    from resnext_det.data.coco import register_coco
    from resnext_det.detection.inference import choose_class_names, find_images, predict_files
    from resnext_det.weights.loading import read_needed_overrides

    for dataset in read_dataset_flags(options):
        register_coco(*dataset)
    cfg = load_config(options.config_file, options.overrides)
    if options.fit_config and cfg.MODEL.WEIGHTS:
        cfg = load_config(options.config_file, [*options.overrides, *read_needed_overrides(cfg)])
    paths = find_images(options.inputs, outside=options.output)
    names = choose_class_names(cfg, options.classes)
    detections, images = predict_files(
        cfg, paths, names, output_dir=options.output, score=options.score
    )
    yield (
        f"{detections} detections of score {options.score:g} or more on {images} images; "
        f"they are in {options.output}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = parse(arguments)
    return finish(lambda: predict(options))


if __name__ == "__main__":
    sys.exit(main())
