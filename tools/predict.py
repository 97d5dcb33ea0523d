"""Detect on images: pictures with boxes, names and scores come out, and detections.json in COCO's result form.

    python tools/predict.py --config-file CONFIG --output out photo.jpg folder/ MODEL.WEIGHTS output/model_final.pth
    python tools/predict.py --config-file CONFIG --output out --score 0.3 folder/ MODEL.WEIGHTS W MODEL.DEVICE cpu
    python tools/predict.py --config-file CONFIG --output out --classes "red cell, white cell" folder/ MODEL.WEIGHTS W

Names of classes come from the first of DATASETS.TEST where its annotations are there, or from --classes. What follows the first
KEY of the configuration is KEY VALUE pairs.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from resnext_det.command_line import add_dataset_flag, add_fit_config_flag
from resnext_det.config import get_cfg, load_config
from resnext_det.data.coco import register_coco
from resnext_det.detection.inference import choose_class_names, find_images, predict_files
from resnext_det.weights.agreement import needed_by_weights


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; argparse ends the program with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="gets the pictures and detections.json"
    )
    parser.add_argument(
        "--score", type=float, default=0.5, help="keep detections from this score on (default: 0.5)"
    )
    parser.add_argument("--classes", metavar="NAME,NAME", help="the classes' names, in order")
    add_fit_config_flag(parser)
    add_dataset_flag(parser)
    parser.add_argument("words", nargs="*", metavar="IMAGE|FOLDER|KEY VALUE")
    options = parser.parse_intermixed_args(arguments)
    first = next((i for i, word in enumerate(options.words) if _is_key(word)), len(options.words))
    options.inputs, options.overrides = options.words[:first], options.words[first:]
    options.classes = [name.strip() for name in (options.classes or "").split(",") if name.strip()]
    return options


def _is_key(word: str) -> bool:
    """Whether a word is, or is meant as, a key of the configuration: IMG_1.JPG is none."""
    return word.partition(".")[0] in get_cfg() and not Path(word).exists()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        the exit status: 0, or 1 for an error that the user can mend.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = parse_arguments(arguments)
    try:
        for name, annotations, images in options.register_coco:
            register_coco(name, annotations, images)
        cfg = load_config(options.config_file, options.overrides)
        if options.fit_config and cfg.MODEL.WEIGHTS:
            cfg = load_config(options.config_file, [*options.overrides, *needed_by_weights(cfg)])
        paths = find_images(options.inputs, outside=options.output)
        names = choose_class_names(cfg, options.classes)
        found = predict_files(cfg, paths, names, output_dir=options.output, score=options.score)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{found} detections of score {options.score:g} or more on {len(paths)} images; they are in {options.output}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
