"""Show comparisons: as tables in text, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from resnext_det.benchmark.comparison import Comparison
from resnext_det.benchmark.timing import Timing, compute_ratio
from resnext_det.files import format_json
from resnext_det.training.machine import Machine

LEGEND = """\
Milliseconds: the median of the turns, and the fastest and slowest. Speed-up: how many times faster
than {reference} in float32, the median of the ratios turn by turn. Difference: of the outputs from
{reference}'s in float32; of detectors, the part of the detections without a counterpart. Product:
the part of the speed of a plain matrix product on this machine, in the same precision. X/R: the
time by that of the ResNet of as many layers."""


def format_comparison(comparison: Comparison) -> str:
    """Format the tables of a comparison, one for each network, and say what was left out."""
    parts = []
    for network in dict.fromkeys(timing.network for timing in comparison.timings):
        timings = [timing for timing in comparison.timings if timing.network == network]
        title = f"{network}: {comparison.title}" if network else comparison.title
        parts.append(f"{title}\n\n{format_table(comparison, timings)}")
    for dtype, product in comparison.products.items():
        rate = 2 * (product.multiply_adds or 0) / product.median / 1e9
        parts.append(f"Matrix product in {dtype}: {rate:.0f} GFLOP/s.")
    reasons: dict[str, list[str]] = {}
    for key, reason in comparison.left_out.items():
        reasons.setdefault(reason, []).append(key)
    parts += [f"{'; '.join(keys)}: {reason}" for reason, keys in reasons.items()]
    return "\n\n".join(parts)


def format_table(comparison: Comparison, timings: Sequence[Timing]) -> str:
    """Format timings as rows; a column that has nothing to say is left out."""
    rows = [_make_row(comparison, timing) for timing in timings]
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    table = [[row[name] for name in names] for row in rows]
    align = ["left" if name in ("implementation", "precision") else "right" for name in names]
    return tabulate(table, names, tablefmt="pipe", disable_numparse=True, colalign=align)


def _make_row(comparison: Comparison, timing: Timing) -> dict[str, str]:
    fastest, slowest = min(timing.seconds), max(timing.seconds)
    numbers = compute_numbers(comparison, timing)
    ratio, fraction, pair = (numbers[name] for name in ("speed_up", "product", "x_over_r"))
    memory = timing.peak_memory
    return {
        "implementation": timing.name,
        "precision": timing.dtype,
        "median ms": format_milliseconds(timing.median),
        "min to max": f"{format_milliseconds(fastest)} to {format_milliseconds(slowest)}",
        "speed-up": "" if ratio is None else f"{ratio:.2f}",
        "X/R": "" if pair is None else f"{pair:.2f}",
        "product": "" if fraction is None else f"{100 * fraction:.0f} %",
        "memory": "" if memory is None else f"{memory / 2**20:.0f} MiB",
        "difference": f"{timing.difference:.0e}" if timing.difference else "",
    }


def format_milliseconds(seconds: float) -> str:
    """Format with three digits, and no more after the point than they need."""
    value = 1000 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def compute_numbers(comparison: Comparison, timing: Timing) -> dict[str, float | None]:
    """Compute what a timing says beside the others; None where there is no other.

    Returns:
        "speed_up": how many times faster than the reference in float32; "x_over_r": the time by
        that of the ResNet of as many layers; "product": the part of a matrix product's speed.
    """
    reference = comparison.find_reference(timing.network)
    resnet = comparison.find_resnet(timing)
    product = comparison.products.get(timing.dtype)
    fraction = None
    if product is not None and timing.multiply_adds:
        assert product.multiply_adds
        work = timing.multiply_adds / product.multiply_adds
        fraction = work * compute_ratio(product.seconds, timing.seconds)
    return {
        "speed_up": compute_ratio(reference.seconds, timing.seconds) if reference else None,
        "x_over_r": compute_ratio(timing.seconds, resnet.seconds) if resnet else None,
        "product": fraction,
    }


def format_timings(timings: Sequence[Timing]) -> str:
    """Format timings beside the first of them."""
    return format_table(Comparison("", timings[0].name, tuple(timings)), timings)


def format_report(machine: Machine, others: str, comparisons: Sequence[Comparison]) -> str:
    """Format everything as a JSON object: the machine, and every turn of every comparison.

    Args:
        others: what is known of other programs on the machine.
    """
    tables = []
    for comparison in comparisons:
        rows: list[dict[str, Any]] = []
        for timing in comparison.timings:
            spread = {"median": timing.median, "min": min(timing.seconds)}
            spread["max"] = max(timing.seconds)
            rows.append({**asdict(timing), **spread, **compute_numbers(comparison, timing)})
        products = {
            dtype: {"gflops": 2 * (timing.multiply_adds or 0) / timing.median / 1e9}
            for dtype, timing in comparison.products.items()
        }
        tables.append(
            {
                "title": comparison.title,
                "reference": comparison.reference,
                "timings": rows,
                "matrix_products": products,
                "left_out": dict(comparison.left_out),
            }
        )
    return format_json({"machine": asdict(machine), "others": others, "comparisons": tables})
