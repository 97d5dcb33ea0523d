"""Detect on images: pictures with boxes, names and scores come out, and detections.json in COCO's result form.

python tools/predict.py --config-file CONFIG --output out photo.jpg folder/ MODEL.WEIGHTS output/model_final.pth
python tools/predict.py --config-file CONFIG --output out --score 0.3 folder/ MODEL.WEIGHTS W MODEL.DEVICE cpu

Names of classes come from the first of DATASETS.TEST where its annotations are there, or from --classes. What follows the first
KEY (a word with a dot in capitals) is KEY VALUE pairs.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence

from resnext_det.config import load_config
from resnext_det.data.coco import register_coco
from resnext_det.prediction import find_images, names_of_classes, predict_files

_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+|OUTPUT_DIR|SEED")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="gets the pictures and detections.json"
    )
    parser.add_argument(
        "--score", type=float, default=0.5, help="draw detections from this score on (default: 0.5)"
    )
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="the classes' names, in order; before other flags"
    )
    parser.add_argument(
        "--register-coco",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "ANNOTATIONS", "IMAGES"),
        help="a COCO file and its image folder; repeatable",
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE|FOLDER|KEY VALUE")
    options = parser.parse_args(arguments)
    first = next((i for i, word in enumerate(options.inputs) if _KEY.fullmatch(word)), len(options.inputs))
    options.inputs, options.overrides = options.inputs[:first], options.inputs[first:]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = parse_arguments(arguments)
    try:
        for name, annotations, images in options.register_coco:
            register_coco(name, annotations, images)
        cfg = load_config(options.config_file, options.overrides)
        paths = find_images(options.inputs)
        names = names_of_classes(cfg, options.classes)
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
