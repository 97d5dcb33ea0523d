"""Complexity by stage against the network itself, the published figures, and the paper's tables."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resnext_det.architecture import Architecture
from resnext_det.paper.complexity import (
    count_block_parameters,
    count_by_stage,
    find_equal_width,
    format_widths,
)
from resnext_det.paper.figure_4 import format_figure_4
from resnext_det.resnext import Bottleneck, ResNeXtClassifier
from tests.tools.helpers import finish, fork_tool, read_error, run_tool

run = partial(run_tool, "analyze")


@pytest.mark.parametrize("name", ["R-50", "X-50-32x4d", "X-26-8x14d"])
@pytest.mark.parametrize("size", [(64, 96), (97, 65)])
def test_every_stage_is_counted_as_the_network_runs(name: str, size: tuple[int, int]) -> None:
    architecture = Architecture.parse(name)
    model = ResNeXtClassifier(architecture, num_classes=10).eval()
    shapes: dict[str, torch.Size] = {}
    activations: dict[str, int] = {}

    def watch(stage: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, __, out: shapes.__setitem__(stage, out.shape))
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(
                    lambda _, __, out: activations.__setitem__(
                        stage, activations.get(stage, 0) + out.numel()
                    )
                )

    for stage, module in model.named_children():
        watch(stage, module)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, *size))
    flops = counter.get_flop_counts()
    rows = count_by_stage(architecture, *size, num_classes=10)
    assert [row.name for row in rows] == [stage for stage, _ in model.named_children()]
    for row in rows:
        assert row.parameters == sum(p.numel() for p in model.get_submodule(row.name).parameters())
        assert 2 * row.multiply_adds == sum(flops[f"ResNeXtClassifier.{row.name}"].values())
        assert row.activations == activations.get(row.name, 0)
        shape = shapes[row.name]
        assert (1, row.channels, row.height, row.width)[
            : len(shape)
        ] == shape  # the logits are (1, classes)


def test_other_channels_are_counted_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The networks of configs/miniature/cpu."""
    for name, cardinality, width in (("R-26-1x16d", 1, 16), ("X-26-32x1d", 32, 1)):
        model = ResNeXtClassifier(
            Architecture(26, cardinality, width, 32, 64), num_classes=6
        ).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, 64, 64))
        options = ("--stem-channels", 32, "--res2-channels", 64, "--num-classes", 6)
        assert run(name, *options, "--height", 64, "--width", 64) == 0
        title, *_, total = capsys.readouterr().out.splitlines()
        assert title.endswith(", stem_channels 32, res2_channels 64 at 64 x 64")
        parameters = sum(parameter.numel() for parameter in model.parameters())
        flops = counter.get_total_flops()
        assert total.split()[:3] == ["total", f"{parameters:,}", f"{flops // 2:,}"]
    assert run("--table", 1, "--stem-channels", 32) == 1
    assert "change an architecture; give its NAME" in capsys.readouterr().err


# Parameters, and 10^9 multiply-adds and 10^6 activations at 224x224, as pycls publishes them.
@pytest.mark.parametrize(
    ("name", "parameters", "giga_multiply_adds", "mega_activations"),
    [
        ("R-50", 25_557_032, 4.089, 11.1),
        ("R-101", 44_549_160, 7.801, 16.2),
        ("X-50-32x4d", 25_028_904, 4.230, 14.4),
        ("X-101-32x4d", 44_177_704, 7.970, 21.2),
        ("X-152-32x8d", 122_372_392, 24.384, None),
    ],
)
def test_the_sums_are_the_published_figures(
    name: str, parameters: int, giga_multiply_adds: float, mega_activations: float | None
) -> None:
    stages = count_by_stage(Architecture.parse(name))
    assert sum(stage.parameters for stage in stages) == parameters
    assert sum(stage.multiply_adds for stage in stages) / 1e9 == pytest.approx(
        giga_multiply_adds, abs=6e-4
    )
    if mega_activations is not None:
        activations = sum(stage.activations for stage in stages) / 1e6
        assert activations == pytest.approx(mega_activations, abs=0.051)


def test_the_head_may_be_left_out() -> None:
    net = Architecture(50)
    assert count_by_stage(net, num_classes=0) == count_by_stage(net)[:-1]


@pytest.mark.parametrize(
    ("cardinality", "width"), [(1, 64), (2, 40), (4, 24), (8, 14), (32, 4), (267, 1)]
)
def test_the_widths_are_those_of_table_2(cardinality: int, width: int) -> None:
    assert find_equal_width(cardinality) == width
    if cardinality > 32:  # no net of the paper
        return
    block = Bottleneck(
        256, 256, bottleneck_channels=cardinality * width, cardinality=cardinality, norm=""
    )
    assert sum(p.numel() for p in block.parameters()) == count_block_parameters(cardinality, width)
    # "About 70k", says the paper; 8x14d is the farthest.
    assert count_block_parameters(cardinality, width) == pytest.approx(70_000, rel=0.021)


def cells(text: str) -> list[list[str]]:
    """The cells of every line of a table."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_the_command_prints_a_net_stage_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("ResNeXt-50 (32x4d)", "R-101", "--height", 64, "--width", 96, "--num-classes", 10) == 0
    )
    out = capsys.readouterr().out
    first, second = out.rstrip("\n").split("\n\n")
    assert first.startswith("X-50-32x4d at 64 x 96\nstage")
    assert second.startswith("R-101 at 64 x 96\n")
    net = Architecture(50, 32, 4)
    total = [f"{net.num_parameters(10):,}", f"{net.multiply_adds(64, 96, 10):,}"]
    assert cells(first)[-1][:3] == ["total", *total]
    assert cells(first)[3][:2] == ["stem", "64 x 16 x 24"]
    stages = [row[0] for row in cells(first)[3:]]
    assert stages == ["stem", "res2", "res3", "res4", "res5", "linear", "total"]


def test_table_1_is_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--table", 1) == 0
    text = squeezed(capsys.readouterr().out)
    for line in (
        "conv1 | 112x112 | 7x7, 64, stride 2 | 7x7, 64, stride 2",
        "conv2 | 56x56 | 3x3 max pool, stride 2 | 3x3 max pool, stride 2",
        "1x1, 64 | 1x1, 128",
        "3x3, 64 | 3x3, 128, C=32",
        "1x1, 256 | 1x1, 256",
        "conv5 | 7x7 | 1x1, 512 | 1x1, 1024",
        "3x3, 512 | 3x3, 1024, C=32",
        "1x1, 2048 | 1x1, 2048",
        "x 6 | x 6",
        "# params. | 25.5 x 10^6 | 25.0 x 10^6",
        "FLOPs | 4.1 x 10^9 | 4.2 x 10^9",
    ):
        assert squeezed(line) in text, line


def squeezed(text: str) -> str:
    """The text with every run of bars and spaces as one space."""
    return re.sub(r"[|\s]+", " ", text)


def test_table_2_is_the_papers() -> None:
    output, errors = finish(fork_tool("analyze", "--table", 2))
    assert errors == ""
    rows = [line.split() for line in output.splitlines()[2:]]
    assert [row[:3] for row in rows] == [
        ["1", "64", "64"],
        ["2", "40", "80"],
        ["4", "24", "96"],
        ["8", "14", "112"],
        ["32", "4", "128"],
    ]
    assert [row[4] for row in rows][:2] == ["25,557,032", "25,425,000"]


def test_figure_4_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--figure", 4) == 0
    assert capsys.readouterr().out == format_figure_4() + "\n"


def test_the_find_equal_width_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--width-for", 8, "--width-for", 16) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [
        ["8", "14", "112", "71,456", "25,603,016", "4.27"],
        ["16", "8", "128", f"{16 * (256 * 8 + 9 * 64 + 8 * 256):,}", "26,443,560", "4.46"],
    ]
    assert format_widths((8,)).splitlines()[2].split() == rows[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a NAME, such as X-101-32x4d, --table, --figure or --width-for"),
        (["vgg16"], "'vgg16' does not name a network"),
        (["R-50", "R-34"], "no ResNeXt of depth 34 is known"),
        (["R-50", "--height", 0], "an image of 0 x 224 pixels has no pixels"),
        (["R-50", "--num-classes", -1], "num_classes is -1"),
        (["--width-for", 0], "the cardinality is 0, not a number of paths"),
        (["--width-for", 268], "give at most 267"),
    ],
)
def test_errors_are_one_line(
    arguments: list[object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 1
    assert message in read_error(capsys)
