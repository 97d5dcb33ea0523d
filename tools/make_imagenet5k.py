"""Choose the classes of ImageNet-5K, and list their images.

    resnext-det imagenet5k --imagenet fall11_whole.tar \\
        --imagenet1k datasets/imagenet/train --output datasets/imagenet5k
    resnext-det imagenet5k --imagenet FOLDER_OF_SYNSET_TARS \\
        --imagenet1k ILSVRC2012_img_train.tar --output datasets/imagenet5k
    resnext-det imagenet5k --imagenet FOLDER_OF_CLASS_FOLDERS \\
        --imagenet1k classes.txt --output datasets/imagenet5k

ImageNet-5K has the classes of ImageNet-1K and the 4000 others that have the most images (section
5.2 of the paper). Images are not copied: DIR gets a list of them, and as
$DETECTRON2_DATASETS/imagenet5k it is the set imagenet5k_train. The set imagenet5k_val has the
validation images of ImageNet-1K. classes.txt and counts.txt in DIR are for people.

--imagenet1k takes the training images, or a text file with a WordNet id at the beginning of each
line. With the images, classes that the full ImageNet lacks are taken from there (the release of
fall 2011 lacks n04399382). Outputs 0 to 999 of a network are those of ImageNet-1K.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnext_det.command_line import build_parser, finish
from resnext_det.files import show_log

if TYPE_CHECKING:
    from resnext_det.data.images.image_set import ImageSet
    from resnext_det.data.images.imagenet5k import Choice

_FAR = 0.05  # of the paper's number of images


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = build_parser("imagenet5k", __doc__)
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
        help="the training images of ImageNet-1K (a folder, a tar, or imagenet_train), "
        "or a .txt of its WordNet ids",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="gets the list; DIR is made"
    )
    parser.add_argument(
        "--classes",
        type=int,
        default=5000,
        metavar="N",
        help="classes in all, with those of ImageNet-1K (default: 5000)",
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> Iterator[str]:
    """Write the list; yield what is in it."""
    from resnext_det.data.images.imagenet5k import check_no_list, make_imagenet5k
    from resnext_det.data.images.locations import open_path

    check_no_list(options.output)  # before the full ImageNet is gone through, which takes long
    small = open_imagenet1k(options.imagenet1k)
    full = open_path(options.imagenet, allow_empty=True)
    choice = make_imagenet5k(full, small, options.output, options.classes)
    num_1k = len(set(small if isinstance(small, list) else small.class_names))
    yield report(choice, num_1k, options.output)


def open_imagenet1k(where: str) -> ImageSet | list[str]:
    """Open the images, or read the WordNet ids of a text file such as LOC_synset_mapping.txt."""
    from resnext_det.data.images.catalog import open_image_set
    from resnext_det.data.images.locations import read_class_names

    path = Path(where).expanduser()
    if path.suffix == ".txt":
        return [line.split()[0] for line in read_class_names(path)]
    return open_image_set(where)


def report(choice: Choice, num_1k: int, output: Path) -> str:
    """Tell how many images were listed, and how that differs from the paper's set."""
    from resnext_det.data.images.imagenet5k import NUM_CLASSES, PAPER_IMAGES

    total, others = sum(choice.counts), choice.counts[num_1k:]
    lines = [f"{output}: {total:,} images of {len(choice.class_names)} classes"]
    if others:
        lines.append(
            f"the {len(others)} classes besides ImageNet-1K's {num_1k} have from {min(others):,} "
            f"to {max(others):,} images each"
        )
    if choice.added:
        lines.append(
            "from ImageNet-1K's training images, since the full set lacks them: "
            + ", ".join(choice.added)
        )
    if num_1k != 1000:
        lines.append(f"note: ImageNet-1K has 1000 classes, and {num_1k} were given")
    change = total / PAPER_IMAGES - 1
    if len(choice.class_names) == NUM_CLASSES and abs(change) > _FAR:
        lines.append(
            f"note: the paper counts {PAPER_IMAGES / 1e6} million images for {NUM_CLASSES} "
            f"classes, and this is {abs(change):.0%} {'more' if change > 0 else 'less'}: "
            "it is another release of ImageNet, or a part of one"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    show_log()
    options = parse(arguments)
    return finish(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
