"""Tell what files of weights are, and which configuration fits them.

    resnext-det inspect resnext50_32x4d.pth
    resnext-det inspect downloads/ output/model_final.pth resnext://torchvision/X-50-32x4d
    resnext-det inspect checkpoint.pth --prefix student.backbone.
    resnext-det inspect *.pth --json
    resnext-det inspect model.onnx

FILE is a file of any format that the project reads, a folder with such files, a name of the catalog
(resnext://...) or of the hub (hf-hub:OWNER/NAME), or an exported detector (.onnx, or OpenVINO's
.xml). One file gets a page: its network and numbers,
each fact with where it is from, what is missing or wrong, the configuration that fits, and lines
for the shell. Several get a table first. Nothing in a file is run and nothing is written.

--json prints a list with an object for each file: file, usable, error (why it is not read, or
null), lacks, faults, warnings, config_file, overrides, commands, and, null where it is not read,
path, bytes, format, kind, dtype, architecture, not_recognized, parameters, backbone_parameters,
classes, deformable, multiply_adds, batch_norm, preprocessing, metadata, origins (where each fact is
from), usual (the facts that are only usual for such files), left_out, left_out_names, prefix,
passed_over (other networks of the file), class_names, versions, metrics, configuration. Exported
detectors come last: file, usable, error, kind (exported detector), bytes, backend (which runs it),
version, class_names, architecture, detector, min_size, max_size, score_threshold, max_detections
and license.

The exit status is 0 where every file is usable, and 1 where one is not read, its network not
recognized or its numbers broken; the others are told all the same.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from resnext_det.command_line import add_preprocessing_flag, build_parser, finish
from resnext_det.files import show_log


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = build_parser("inspect", __doc__)
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="files of weights, folders of them, and names of the catalog and the hub",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--prefix",
        help="what stands before the names of the network that is meant, if there are several",
    )
    add_preprocessing_flag(parser, "FILE")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> Iterator[str]:
    """Diagnose the files; yield what is to be printed."""
    from resnext_det.deploy.metadata import is_exported
    from resnext_det.files import format_json, list_first

    exported = [file for file in options.files if is_exported(file)]
    found, pages = _describe_exported(exported) if exported else ([], [])
    if weights := [file for file in options.files if file not in exported]:
        diagnoses, page = _diagnose(weights, options)
        found, pages = [*diagnoses, *found], [page, *pages]
    yield format_json(found) if options.json else "\n\n".join(pages)
    broken = [each["file"] for each in found if not each["usable"]]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(found)} files cannot be used: {list_first(broken)}"
            if len(found) > 1
            else f"{list_first(broken)} cannot be used"
        )


def _diagnose(
    files: Sequence[str], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], str]:
    """Diagnose files of weights; write the table and the pages of all."""
    from resnext_det.console import find_look
    from resnext_det.weights.doctor.diagnosis import diagnose, list_files
    from resnext_det.weights.doctor.text import format_diagnoses
    from resnext_det.weights.preprocessing import parse_preprocessing

    if options.preprocessing is not None:
        parse_preprocessing(options.preprocessing)  # once, and not as an error of each file
    found = [
        diagnose(file, prefix=options.prefix, preprocessing=options.preprocessing)
        for file in list_files(files)
    ]
    return found, format_diagnoses(found, find_look(sys.stdout))


def _describe_exported(files: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Describe exported detectors, without torch; write a page for each."""
    from resnext_det.console import find_look
    from resnext_det.deploy.description import describe_exported, format_exported

    found = [describe_exported(file) for file in files]
    return found, [format_exported(each, find_look(sys.stdout)) for each in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    show_log()
    # The hub may keep one waiting.
    logging.getLogger("resnext_det.weights.published.hub").setLevel(logging.INFO)
    options = parse(arguments)
    return finish(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
