"""List ImageNet-5K: the 1000 classes of ImageNet-1K and the 4000 others of the full ImageNet with the most images (paper, section 5.2).

    python tools/make_imagenet5k.py --imagenet fall11_whole.tar --imagenet1k datasets/imagenet/train --output datasets/imagenet5k
    python tools/make_imagenet5k.py --imagenet FOLDER_OF_SYNSET_TARS --imagenet1k ILSVRC2012_img_train.tar --output datasets/imagenet5k
    python tools/make_imagenet5k.py --imagenet FOLDER_OF_CLASS_FOLDERS --imagenet1k classes.txt --output datasets/imagenet5k

The images stay where they are, and are read there: the folder of the list, as $DETECTRON2_DATASETS/imagenet5k, becomes the image set
imagenet5k_train; imagenet5k_val are ImageNet-1K's validation images with its labels. classes.txt and counts.txt are for people.
--imagenet1k takes the training images, or a text file with a WordNet id at the beginning of each line. With the images, those of classes
that the full ImageNet lacks are taken from there (the release of fall 2011 lacks n04399382). Outputs 0 to 999 are ImageNet-1K's.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from resnext_det.data.images.catalog import open_image_set
from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.imagenet5k import (
    NUM_CLASSES,
    PAPER_IMAGES,
    Choice,
    check_no_list,
    make_imagenet5k,
)
from resnext_det.data.images.locations import open_path, read_class_names

_FAR = 0.05  # of the paper's number of images


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--imagenet",
        required=True,
        metavar="FULL",
        help="the full ImageNet: a folder of class folders or of synset tars, or a tar of these",
    )
    parser.add_argument(
        "--imagenet1k",
        required=True,
        metavar="TRAIN_OR_CLASSES",
        help="the training images of ImageNet-1K (a folder, a tar, or imagenet_train), or a .txt of its WordNet ids",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder of the list"
    )
    parser.add_argument(
        "--classes",
        type=int,
        default=NUM_CLASSES,
        help=f"with those of ImageNet-1K (default: {NUM_CLASSES})",
    )
    return parser.parse_args(arguments)


def imagenet1k(where: str) -> ImageSet | list[str]:
    """The images, or the WordNet ids of a text file such as Kaggle's LOC_synset_mapping.txt."""
    path = Path(where).expanduser()
    if path.suffix == ".txt":
        return [line.split()[0] for line in read_class_names(path)]
    return open_image_set(where)


def report(choice: Choice, num_1k: int, output: Path) -> str:
    total, others = sum(choice.counts), choice.counts[num_1k:]
    lines = [f"{output}: {total:,} images of {len(choice.class_names)} classes"]
    if others:
        lines.append(
            f"of the {len(others)} besides ImageNet-1K's {num_1k}, each has from {min(others):,} to {max(others):,} images"
        )
    if choice.added:
        lines.append(
            f"from ImageNet-1K's training images, for the full set lacks them: {', '.join(choice.added)}"
        )
    if num_1k != 1000:
        lines.append(f"note: ImageNet-1K has 1000 classes, and {num_1k} were given")
    change = total / PAPER_IMAGES - 1
    if len(choice.class_names) == NUM_CLASSES and abs(change) > _FAR:
        lines.append(
            f"note: the paper counts {PAPER_IMAGES / 1e6} million images for {NUM_CLASSES} classes, and this is {abs(change):.0%} "
            f"{'more' if change > 0 else 'less'}: it is another release of ImageNet, or a part of one"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 1 for an error that the user can mend."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = parse(arguments)
    try:
        check_no_list(options.output)  # before the full ImageNet is gone through, which takes long
        small = imagenet1k(options.imagenet1k)
        full = open_path(options.imagenet, allow_empty=True)
        choice = make_imagenet5k(full, small, options.output, options.classes)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    num_1k = len(small.class_names if isinstance(small, ImageSet) else set(small))
    print(report(choice, num_1k, options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
