"""Make a page of the sets of a training as the detector will see them, before it is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode
from markupsafe import Markup

from resnext_det.data.coco import CocoDataset
from resnext_det.data.records import Record, join_records
from resnext_det.data.statistics import NEAR_COPY, SLIP, SetStatistics, summarize_boxes
from resnext_det.detection.datasets import (
    arrange_classes,
    describe_augmentation,
    describe_test_size,
    describe_view,
)
from resnext_det.files import escape_controls, write_text
from resnext_det.report.data_charts import (
    draw_anchor_fit,
    draw_class_counts,
    draw_shapes,
    format_anchor_use,
    format_classes,
    format_sets,
)
from resnext_det.report.data_findings import (
    Finding,
    find_copies,
    find_faults,
    inspect_sets,
    load_sets,
)
from resnext_det.report.data_pictures import choose_images, draw_as_tested, draw_samples
from resnext_det.report.page import (
    Section,
    fold,
    join,
    render_fragment,
    render_page,
    write_heading,
    write_paragraph,
)
from resnext_det.report.pictures import place_pictures

logger = logging.getLogger(__name__)

_WEIGHTS = {
    "error": "What would end a training",
    "warning": "What likely spoils its numbers",
    "note": "What is good to know",
}
_SENTENCES = """\
<ul>
{% for text in texts %}
<li>{{ text }}</li>
{% endfor %}
</ul>"""
_FINDINGS = """\
{% for title, texts in groups %}
<h3>{{ title }}</h3>
<ul class="findings">
{% for text in texts %}
<li>{{ text }}</li>
{% endfor %}
</ul>
{% endfor %}"""


@dataclass(frozen=True)
class DataPage:
    """Say where the page is, and what was found."""

    path: Path
    findings: tuple[Finding, ...]
    summary: str


@dataclass(frozen=True)
class _Split:
    """Hold the sets of a split, joined: their records and what is known of the boxes."""

    name: str
    records: Sequence[Record]
    statistics: SetStatistics


def write_data_page(
    cfg: CfgNode,
    path: str | Path | None = None,
    *,
    check_data: bool = False,
    num_images: int = 24,
    told: Iterable[str] = (),
    warned: Iterable[str] = (),
) -> DataPage:
    """Write a page of ``DATASETS.TRAIN`` and ``DATASETS.TEST`` as the detector will see them.

    Boxes and classes are counted in the annotations alone, which takes seconds for COCO; a sample
    of images is drawn. Images, masks and proposals that are missing or broken do not hinder the
    rest of the page.

    Args:
        path: None is ``data.html`` in ``OUTPUT_DIR``.
        check_data: decode every image.
        num_images: of the training sets that are drawn; a third as many are of the test sets.
        told, warned: what was decided and warned of before, see ``Job.fit``.

    Raises:
        ValueError, FileNotFoundError: a set cannot be loaded, or there is none.
    """
    findings = [Finding("warning", text) for text in warned]
    train_sets, train_cfg = load_sets(cfg, "TRAIN", findings)
    test_sets, test_cfg = load_sets(cfg, "TEST", findings)
    if not train_sets and not test_sets:
        raise ValueError(
            "DATASETS.TRAIN and DATASETS.TEST are empty; give the files of a set with --train-data"
        )
    findings += inspect_sets(train_sets, test_sets, everything=check_data)
    try:
        train_sets, test_sets = arrange_classes(cfg, train_sets, test_sets)
    except ValueError as error:
        findings.append(Finding("error", str(error)))
    splits = [
        _join(cfg, name, sets)
        for name, sets in (("training", train_sets), ("test", test_sets))
        if sets
    ]
    found = {split.name: split.statistics for split in splits}
    train, test = found.get("training"), found.get("test")
    findings += find_copies(train.file_names if train else (), test.file_names if test else ())
    findings += find_faults(cfg, train, test)
    order = list(_WEIGHTS)
    findings = sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.weight))
    sections = [
        _list_findings(findings),
        _show_sets(cfg, found, told),
        _show_samples({"training": train_cfg, "test": test_cfg}, splits, num_images),
        _show_classes(found),
        _show_sizes(found),
        *_show_anchors(found),
        *_show_doubtful(splits),
    ]
    place = Path(path) if path is not None else Path(cfg.OUTPUT_DIR, "data.html")
    summary = _summarize(splits, findings)
    names = ", ".join([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    write_text(place, render_page(f"Data: {names}", sections, summary))
    return DataPage(place, tuple(findings), summary)


def _join(cfg: CfgNode, name: str, sets: Sequence[CocoDataset]) -> _Split:
    """Join the sets of a split, as far as their classes are the same ones."""
    first = sets[0]
    alike = [dataset for dataset in sets if dataset.class_names == first.class_names]
    records = join_records([dataset.records for dataset in alike])
    return _Split(name, records, summarize_boxes(records, first.class_names, describe_view(cfg)))


def _summarize(splits: Sequence[_Split], findings: Sequence[Finding]) -> str:
    parts = [
        f"{split.statistics.num_images:,} {split.name} images with "
        f"{split.statistics.num_objects:,} objects of {len(split.statistics.class_names)} classes"
        for split in splits
    ]
    counts = [
        f"{number} {word}{'s' * (number != 1)}"
        for word in ("error", "warning", "note")
        if (number := sum(finding.weight == word for finding in findings))
    ]
    return f"{'; '.join(parts)}. {', '.join(counts) or 'Nothing odd'} found."


def _list_findings(findings: Sequence[Finding]) -> Section:
    groups = [
        (title, [escape_controls(finding.text) for finding in findings if finding.weight == weight])
        for weight, title in _WEIGHTS.items()
    ]
    groups = [group for group in groups if group[1]]
    body = render_fragment(_FINDINGS, groups=groups)
    return Section(
        "Findings", "findings", body if groups else write_paragraph("Nothing odd was found.")
    )


def _show_sets(cfg: CfgNode, found: dict[str, SetStatistics], told: Iterable[str]) -> Section:
    size, augmented = describe_test_size(cfg), describe_augmentation(cfg)
    text = f"Sizes are those of tests: {size}. Training takes {augmented}."
    parts = [write_paragraph(text), format_sets(found)]
    if decided := [escape_controls(sentence) for sentence in told]:
        parts.append(
            fold("What was decided for a training", render_fragment(_SENTENCES, texts=decided))
        )
    return Section("The sets", "sets", join(parts))


def _show_samples(
    configurations: Mapping[str, CfgNode], splits: Sequence[_Split], num_images: int
) -> Section:
    """Show images of every split.

    Args:
        configurations: by the name of a split, without what its sets lack.
    """
    parts = []
    for split in splits:
        how, count, augmented = "resized as in tests", -(-num_images // 3), False
        if split.name == "training":
            how = "augmented by chance, as in training; every class first, then by chance"
            count, augmented = num_images, True
        cfg, indices = configurations[split.name], choose_images(split.statistics, count)
        pictures = draw_samples(cfg, split.statistics, split.records, indices, augmented=augmented)
        parts.append(write_heading(f"Of the {split.name} images: {how}"))
        if pictures:
            parts.append(place_pictures(pictures))
        else:
            parts.append(write_paragraph("None of those looked for is there and can be read."))
    return Section("What the detector sees", "images", join(parts))


def _show_classes(found: dict[str, SetStatistics]) -> Section:
    return Section("Classes", "classes", join([draw_class_counts(found), format_classes(found)]))


def _show_sizes(found: dict[str, SetStatistics]) -> Section:
    return Section("Sizes and shapes", "sizes", draw_shapes(found))


def _show_anchors(found: dict[str, SetStatistics]) -> list[Section]:
    fitted = {name: each for name, each in found.items() if each.anchor_ious is not None}
    if not any(each.num_objects for each in fitted.values()):
        return []
    text = (
        "An anchor is a box from which the detector starts. Objects that one overlaps by an IoU "
        "of 0.7 are easily learned; of the others the best anchor is taken, whatever its IoU."
    )
    parts = [write_paragraph(text), draw_anchor_fit(fitted), format_anchor_use(fitted)]
    return [Section("Anchors against boxes", "anchors", join(parts))]


def _show_doubtful(splits: Sequence[_Split], most: int = 9) -> list[Section]:
    """Draw pairs of boxes that overlap almost wholly, those of different classes first, and slips.

    Args:
        most: images of each kind and split.
    """
    parts: list[Markup] = []
    for split in splits:
        found = split.statistics
        order = np.argsort(found.match_classes(), kind="stable")
        pairs = found.near_copies[order].reshape(-1).tolist()
        slips = np.flatnonzero(found.find_slips()).tolist()
        for what, objects in (
            (f"with an IoU of {NEAR_COPY} or more, of different classes first", pairs),
            (f"of less than {SLIP} pixels a side", slips),
        ):
            of_image: dict[int, dict[int, None]] = {}
            for each in objects:
                of_image.setdefault(int(found.owners[each]), {})[each] = None
            shown = [index for index in of_image if isfile(found.file_names[index])][:most]
            if shown:
                pictures = draw_as_tested(found, shown, [list(of_image[i]) for i in shown])
                title = f"Boxes {what}: {split.name} images"
                parts += [write_heading(title), place_pictures(pictures)]
    return [Section("Boxes to be looked at", "doubtful", join(parts))] if parts else []
