"""Show the sets of a training as the detector will see them, on one page.

    resnext-det show-data --train-data cells.json photos/
    resnext-det show-data --config-file modern/faster_rcnn_X50_32x4d_FPN_1x.yaml --check-data

Write show-data in place of train, with the same flags and settings, before you train. The page has
what the look at the data finds, sampled images with their boxes as they are resized and flipped,
classes, sizes, and how the anchors fit the boxes. It needs no network, and nothing is trained: the
flags that only concern the computing change nothing. The exit status is 1 where a training would
end with an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnext_det.command_line import (
    add_config_flag,
    add_job_flags,
    build_job,
    build_parser,
    finish,
)
from resnext_det.files import show_log


def show(options: argparse.Namespace) -> Iterator[str]:
    """Write the page; yield what was found.

    Raises:
        ValueError: the page is written, and a training would end with an error that it tells.
    """
    from resnext_det.detection.jobs import check_registered
    from resnext_det.report.data_page import write_data_page

    job = build_job(options, options.config_file)
    cfg, fitted = job.fit()
    check_registered([name for name, *_ in job.datasets], cfg)
    page = write_data_page(
        cfg,
        options.output,
        check_data=options.check_data,
        num_images=options.images,
        told=fitted.told,
        warned=fitted.warnings,
    )
    yield page.summary
    yield from (f"{found.weight}: {found.text}" for found in page.findings)
    yield f"The page is {page.path}"
    if any(found.weight == "error" for found in page.findings):
        raise ValueError("a training would end with the errors above; mend them first")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    show_log()
    parser = build_parser("show-data", __doc__, allow_abbrev=False)
    add_config_flag(parser, required=False)
    parser.add_argument(
        "--output", type=Path, metavar="HTML", help="the page (default: data.html in OUTPUT_DIR)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=24,
        metavar="N",
        help="training images to show; a third as many are of the test set (default: 24)",
    )
    add_job_flags(parser)
    options = parser.parse_args(arguments)
    if options.images < 0:
        parser.error(f"--images {options.images}: write 0 or more")
    return finish(lambda: show(options))


if __name__ == "__main__":
    sys.exit(main())
