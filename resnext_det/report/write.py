"""Write the report of runs: one HTML page that says what is wrong, and what to do."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from resnext_det.detection.jobs import Metrics
from resnext_det.evaluation.analysis import DetectionAnalysis
from resnext_det.files import write_text
from resnext_det.report.comparison import compare_runs
from resnext_det.report.data_charts import (
    draw_class_counts,
    draw_shapes,
    format_classes,
    format_sets,
)
from resnext_det.report.error_kinds import DESCRIPTIONS
from resnext_det.report.examination import Examination, Test, describe_change, examine_run
from resnext_det.report.examples import show_best_and_worst
from resnext_det.report.faults.cause import Cause, fit_advice
from resnext_det.report.origin import describe_network, show_origin
from resnext_det.report.page import (
    Section,
    fold,
    join,
    mark_code,
    render_fragment,
    render_page,
    write_paragraph,
)
from resnext_det.report.progress import show_progress
from resnext_det.report.quality import (
    describe_main_fault,
    format_headline,
    show_classes,
    show_errors,
    show_numbers,
)
from resnext_det.report.runs import RunFolder, read_run
from resnext_det.report.scores import show_confusion, show_curves
from resnext_det.report.tables import Cell, format_cell, format_table

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"

_DOCTYPE = b"<!DOCTYPE html>"

_CAUSES = """\
<ol class="causes">
{% for cause in causes %}
<li><p class="title">{{ cause.title }}</p>
<p>{{ mark_code(cause.evidence) }}</p>
<p>{{ mark_code(cause.advice) }}</p></li>
{% endfor %}
</ol>"""


def write_report(
    folders: Sequence[str | Path],
    path: str | Path | None = None,
    *,
    datasets: Iterable[tuple[str, str, str]] = (),
) -> Path:
    """Write one HTML page about runs: several are compared with the first.

    What a folder lacks is said on the page. Sets of a run of an older version, or of detectron2's
    tools, are found by their names where they are built in, generated, or among ``datasets``.

    Args:
        folders: ``OUTPUT_DIR`` of each run.
        path: of the page; None: report.html in the folder of a single run, and in this folder for
            several.
        datasets: (name, annotations, images) of sets.

    Returns:
        the page's path.

    Raises:
        ValueError: there is no folder, or one twice; a run is of a classifier; a configuration is
            damaged; the path is that of another file.
        FileNotFoundError: a folder does not exist, or holds no run.
        OSError: the page cannot be written.
    """
    if not folders:
        raise ValueError("there is nothing to report; give the OUTPUT_DIR of a training")
    given = tuple(datasets)
    runs = [read_run(folder, datasets=given) for folder in folders]
    target = Path(path) if path is not None else Path(REPORT_FILE)
    if path is None and len(runs) == 1:
        target = runs[0].path / REPORT_FILE
    _check_target(target)
    page = _render_run(examine_run(runs[0])) if len(runs) == 1 else _render_comparison(runs)
    try:
        write_text(target, page)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise OSError(
            f"{target} cannot be written ({error.strerror}); choose another file by --output FILE"
        ) from error
    return target


def _check_target(path: Path) -> None:
    """Refuse to write a page over a file that is none."""
    if path.is_file():
        with path.open("rb") as file:
            begin = file.read(len(_DOCTYPE))
        if begin not in (_DOCTYPE, b""):
            raise ValueError(f"{path} exists and is no report; give another file, or remove it")


def report_on(metrics: Metrics) -> Iterator[str]:
    """Write the report of a job that has ended, and yield a line that says where it is.

    An error is told in that line, and spoils nothing. In other processes than the first there is no
    report.

    Raises:
        KeyboardInterrupt: it was stopped; its text says how to write the report later.
    """
    if not metrics.of_first_process:
        return
    folder = metrics.output_dir
    try:
        yield f"the report is {write_report([folder])}"
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped before the report was written, and all else is in {folder}; resnext-det "
            f"report {folder} writes it"
        ) from None
    except Exception as error:
        logger.debug("the report failed", exc_info=True)
        yield f"no report was written ({type(error).__name__}: {error})"


def _render_comparison(runs: Sequence[RunFolder]) -> str:
    compared = compare_runs(runs)
    return render_page(f"{len(runs)} runs compared", compared.sections, compared.lead)


def _render_run(examined: Examination) -> str:
    title = f"{examined.run.name}: {describe_network(examined.run)}"
    return render_page(title, list(list_sections(examined)), write_lead(examined))


def write_lead(examined: Examination) -> Markup:
    """Write what stands above everything: what was tested, its numbers, and its main fault."""
    test = examined.first
    parts = [write_paragraph(sentence) for sentence in _summarize(examined, test)]
    if test is not None and test.analysis is not None:
        parts.insert(1, format_headline(test.analysis))
    return join(parts)


def _summarize(examined: Examination, test: Test | None) -> Iterator[str]:
    if test is None:
        yield (
            "This run was not tested, as DATASETS.TEST is empty, so nothing says how good it is. "
            "Repeat its command with --eval-only --resume --test-data ANNOTATIONS IMAGES."
        )
        return
    analysis = test.analysis
    if analysis is None:
        numbers = test.folder.metrics
        names = ("AR@100", "AR@1000") if examined.run.proposes else ("AP", "AP50")
        known = [f"{name} {numbers[name]:.1f}" for name in names if name in numbers]
        yield f"{test.folder.name}: {', '.join(known) or 'there are no numbers yet'}."
        return
    images, classes = len(analysis.images), len(analysis.metrics.class_names)
    yield (
        f"Tested on {test.folder.name}: {format_cell(images)} image{'s' * (images != 1)} with "
        f"{format_cell(analysis.objects)} object{'s' * (analysis.objects != 1)} of {classes} "
        f"class{'es' * (classes != 1)}, {format_cell(analysis.detections)} "
        f"detection{'s' * (analysis.detections != 1)}."
    )
    if not analysis.objects:
        yield (
            "The test set has no object to be found, so no number says anything: give one with "
            "boxes, --eval-only --test-data ANNOTATIONS IMAGES."
        )
    if change := describe_change(test.folder, analysis):
        yield change
    if fault := describe_main_fault(analysis):
        yield fault
    if examined.causes:
        yield f"Where to begin: {examined.causes[0].title.rstrip(chr(46))}."


def list_sections(examined: Examination) -> Iterator[Section]:
    """List the sections about one run, the most important first."""
    run, test = examined.run, examined.first
    analysis = test.analysis if test is not None else None
    if examined.causes or analysis is not None:
        body = show_causes(examined.causes, analysis, run.get)
        yield Section("What to do first", "causes", body)
    if test is not None and analysis is not None:
        yield from _list_test_sections(examined, test)
    if run.proposes and test is not None and test.folder.metrics:
        rows: list[list[Cell]] = [[name, value] for name, value in test.folder.metrics.items()]
        yield Section("Numbers", "numbers", format_table(["average recall", "percent"], rows))
    if run.was_trained and run.series:
        yield Section("Training", "training", show_progress(run))
    sets = {}
    if examined.train_statistics is not None:
        sets["training"] = examined.train_statistics
    if test is not None and test.statistics is not None:
        sets["test"] = test.statistics
    if sets:
        labels = [format_sets(sets), draw_class_counts(sets), format_classes(sets)]
        yield Section("Labels", "labels", join([*labels, draw_shapes(sets)]))
    yield Section("What was trained on what", "origin", show_origin(examined))
    if examined.missing:
        text = join([write_paragraph(sentence) for sentence in examined.missing])
        yield Section("What this page lacks", "missing", text)


def show_causes(
    causes: Sequence[Cause], analysis: DetectionAnalysis | None, get: Callable[[str], Any]
) -> Markup:
    """Show likely causes of a low AP, with what was measured and what to do; else the next step.

    Args:
        get: gives the value of a key of the run's configuration.
    """
    if causes:
        return render_fragment(_CAUSES, causes=causes, mark_code=mark_code)
    parts = [write_paragraph("No known fault was found in the data, the settings or the training.")]
    if analysis is not None and describe_main_fault(analysis):
        worst = max(analysis.errors, key=lambda error: error.cost)
        advice = fit_advice(DESCRIPTIONS[worst.kind].advice, get)
        parts.append(write_paragraph(mark_code(f"What costs most is {worst.kind}. {advice}")))
    return join(parts)


def _list_test_sections(examined: Examination, test: Test) -> Iterator[Section]:
    analysis, dataset = test.analysis, test.dataset
    assert analysis is not None and dataset is not None
    name, trained_on = test.folder.name, _count_training(examined, test)
    yield Section("Errors", "errors", show_errors(analysis, name))
    yield Section("Numbers", "numbers", show_numbers(analysis))
    yield Section("Classes", "classes", show_classes(analysis, name, trained_on))
    for show, title, anchor in (
        (show_curves, "Precision, recall and score", "curves"),
        (show_confusion, "Confusions", "confusions"),
    ):
        parts = [show(analysis, "boxes")] if _has_score(analysis) else []
        if analysis.segm is not None and _has_score(analysis.segm):
            parts.append(fold("The same of masks", show(analysis.segm, "masks")))
        if parts:
            yield Section(title, anchor, join(parts))
    yield Section("Images", "images", show_best_and_worst(analysis, dataset))
    for other in examined.tests:
        if other is not test and other.analysis is not None:
            name = other.folder.name
            body = join(
                [
                    format_headline(other.analysis),
                    show_errors(other.analysis, name),
                    fold("Classes", show_classes(other.analysis, name)),
                ]
            )
            yield Section(f"Also tested on {name}", f"test-{examined.tests.index(other)}", body)


def _has_score(analysis: DetectionAnalysis) -> bool:
    """Tell whether there are objects and detections, so that a score is the best."""
    return not math.isnan(analysis.by_score.best_score)


def _count_training(examined: Examination, test: Test) -> list[int] | None:
    """Count the objects to train on of every class of a test, by the names; None where unknown."""
    statistics, analysis = examined.train_statistics, test.analysis
    if statistics is None or analysis is None:
        return None
    return statistics.count_by_name(analysis.metrics.class_names).tolist()
