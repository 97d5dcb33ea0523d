"""Tell what was trained on what: settings that are special, versions, seed, machine, command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from resnext_det.config.backbone import read_architecture
from resnext_det.detection.datasets import describe_augmentation, describe_test_size
from resnext_det.paper.schedules import name_head
from resnext_det.report.examination import Examination
from resnext_det.report.page import fold, join, render_fragment, write_paragraph
from resnext_det.report.progress import show_speed
from resnext_det.report.runs import RunFolder
from resnext_det.report.settings import find_nearest
from resnext_det.report.tables import Cell, format_cell, format_table

_ENOUGH_ALIKE = 60  # settings, above which the nearest configuration says nothing


def show_origin(examined: Examination) -> Markup:
    """Show what a run was made of, and what computed it."""
    run = examined.run
    parts = [format_table(["fact", "of this run"], list_facts(examined))]
    if run.was_trained:
        parts.append(show_speed(run))
    if run.environment is not None:
        parts.append(_format_code(run.environment.command))
    else:
        parts.append(
            write_paragraph(
                "Command, machine and versions were not recorded (environment.json is missing: an "
                "older version or detectron2's own tool trained this).",
                note=True,
            )
        )
    if run.config:
        parts += [_show_differences(run.config), _show_settings(run.config)]
    return join(parts)


def list_facts(examined: Examination) -> list[list[Cell]]:
    """List what a run was trained and tested on, and by what, a row each."""
    run = examined.run
    facts: list[tuple[str, Cell]] = [
        ("network", describe_network(run)),
        ("started from", run.get("MODEL.WEIGHTS") or "random weights"),
        ("trained on", _describe_training(examined)),
        ("tested on", ", ".join(run.list_sets("TEST"))),
        ("schedule", _describe_schedule(examined)),
        ("image sizes", _describe_sizes(run)),
        ("seed", _describe_seed(run)),
    ]
    if environment := run.environment:
        processes = environment.processes
        facts += [
            ("began", environment.began),
            ("machine", environment.machine.describe().splitlines()[0]),
            ("processes", processes if processes > 1 else None),
            ("versions", ", ".join(f"{k} {v}" for k, v in environment.machine.versions.items())),
        ]
    else:
        facts.append(("device", run.get("MODEL.DEVICE")))
    megabytes = {name: size / 1e6 for name, size in run.checkpoints.items()}
    newest = run.last_checkpoint
    if newest in megabytes:
        facts.append(("newest weights", f"{newest}, {megabytes[newest]:.1f} MB"))
    return [[name, value] for name, value in facts if value not in (None, "")]


def describe_network(run: RunFolder) -> str:
    """Describe the network in a few words, such as "X-26-8x4d, FPN"."""
    try:
        network = str(read_architecture(run.config, "MODEL.RESNETS."))
    except (KeyError, TypeError, ValueError):
        network = str(run.get("MODEL.BACKBONE.NAME", "a network that is not known here"))
    kind = name_head(run.config)
    if "fpn" in str(run.get("MODEL.BACKBONE.NAME", "")):  # detectron2 has others
        kind = "FPN"
    elif kind in ("other", "RetinaNet"):
        kind = ""
    return ", ".join(part for part in (network, kind, _name_detector(run)) if part)


def _name_detector(run: RunFolder) -> str:
    """Name the kind of a detector, such as "Mask R-CNN"; "" of the plain one, Faster R-CNN."""
    meta = run.get("MODEL.META_ARCHITECTURE", "")
    if meta not in ("GeneralizedRCNN", ""):
        return str(meta)
    cascade = str(run.get("MODEL.ROI_HEADS.NAME")).endswith("CascadeROIHeads")
    words = ["Cascade"] * cascade + ["Mask"] * bool(run.get("MODEL.MASK_ON"))
    return " ".join([*words, "R-CNN"]) if words else ""


def _describe_training(examined: Examination) -> str:
    if not examined.run.was_trained:
        return "not trained here, only evaluated"
    names = ", ".join(examined.run.list_sets("TRAIN"))
    statistics = examined.train_statistics
    if statistics is None:
        return names
    images, objects = statistics.num_images, statistics.num_objects
    return f"{names}: {format_cell(images)} images, {format_cell(objects)} objects"


def _describe_schedule(examined: Examination) -> str:
    run = examined.run
    if not run.was_trained:
        return ""
    batch, total, done = run.get("SOLVER.IMS_PER_BATCH"), run.get("SOLVER.MAX_ITER"), run.iterations
    text = f"{format_cell(done)} iterations of {batch} images"
    if isinstance(total, int) and done < total:
        text = f"{format_cell(done)} of {format_cell(total)} iterations of {batch} images"
    statistics = examined.train_statistics
    if statistics is not None and statistics.num_images and isinstance(batch, int):
        text += f" ({done * batch / statistics.num_images:.1f} epochs)"
    return f"{text}, rate {run.get('SOLVER.BASE_LR'):g}, {run.get('SOLVER.LR_SCHEDULER_NAME')}"


def _describe_sizes(run: RunFolder) -> str:
    if run.cfg is None:
        return ""
    test = f"to test: {describe_test_size(run.cfg)}"
    return f"to train: {describe_augmentation(run.cfg)}; {test}" if run.was_trained else test


def _describe_seed(run: RunFolder) -> Cell:
    seed = run.get("SEED")
    return seed if isinstance(seed, int) and seed >= 0 and run.was_trained else None


def _show_differences(config: Mapping[str, Any]) -> Markup:
    nearest = find_nearest(config)
    if len(nearest.settings) > _ENOUGH_ALIKE:
        return write_paragraph("No shipped configuration is near to that of this run.", note=True)
    if not nearest.settings:
        return write_paragraph(f"The settings are those of {nearest.config_file}.")
    rows: list[list[Cell]] = [
        [render_fragment("<code>{{ key }}</code>", key=key), show_value(given), show_value(usual)]
        for key, given, usual in nearest.settings
    ]
    caption = f"Settings that differ from those of {nearest.config_file}, the nearest shipped one"
    return format_table(["key", "here", "there"], rows, caption)


def _show_settings(config: Mapping[str, Any]) -> Markup:
    lines = "\n".join(f"{key}: {show_value(value)}" for key, value in config.items())
    return fold(f"All {len(config)} settings", _format_code(lines))


def _format_code(text: str) -> Markup:
    return render_fragment("<pre><code>{{ text }}</code></pre>", text=text)


def show_value(value: Any) -> str:
    """Show the value of a setting as a command line takes it."""
    return str(tuple(value)) if isinstance(value, list) else str(value) if value != "" else "''"
