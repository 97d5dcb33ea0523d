"""Complexity of an architecture stage by stage, and the paper's tables 1 and 2, all by arithmetic.

Multiply-adds are what the paper calls FLOPs. Activations are the elements of the convolutions' outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from tabulate import tabulate

from resnext_det.architecture import Architecture, Stage

REFERENCE_WIDTH = 64  # of the ResNet, 1x64d, whose complexity the nets of table 2 share
TABLE_2_CARDINALITIES = (1, 2, 4, 8, 32)


@dataclass(frozen=True)
class StageComplexity:
    """What one stage of a net costs for one image.

    Attributes:
        name: "stem", "res2" to "res5", or "linear", the classifier.
        channels, height, width: of its output.
        parameters: trainable ones, batch norms included.
        multiply_adds: of convolutions and classifier.
        activations: elements of the outputs of all its convolutions; none of the classifier.
    """

    name: str
    channels: int
    height: int
    width: int
    parameters: int
    multiply_adds: int
    activations: int


def complexity_by_stage(
    architecture: Architecture, height: int = 224, width: int = 224, num_classes: int = 1000
) -> tuple[StageComplexity, ...]:
    """The stem, the four stages and the classifier, whose sums are the architecture's own counts.

    Args:
        architecture: the net.
        height, width: the image's size in pixels.
        num_classes: outputs of the classifier; 0 for none.

    Raises:
        ValueError: the size is not positive, or the number of classes is negative.
    """
    if height < 1 or width < 1:
        raise ValueError(
            f"an image of {height} x {width} pixels has no pixels; give 1 or more each way"
        )
    if num_classes < 0:
        raise ValueError(f"num_classes is {num_classes}; give 0 for no classifier, or more")
    rows = []
    layers = architecture.convolutions(height, width)
    for name, of_stage in groupby(layers, key=lambda layer: layer.name.partition(".")[0]):
        convolutions = list(of_stage)
        last = next(
            layer for layer in reversed(convolutions) if not layer.name.endswith("shortcut")
        )
        pool = (
            2 if name == "stem" and not architecture.for_small_images else 1
        )  # that of the stem's end
        rows.append(
            StageComplexity(
                name=name,
                channels=last.out_channels,
                height=-(-last.out_height // pool),
                width=-(-last.out_width // pool),
                parameters=sum(layer.weights + 2 * layer.out_channels for layer in convolutions),
                multiply_adds=sum(layer.multiply_adds for layer in convolutions),
                activations=sum(
                    layer.out_channels * layer.out_height * layer.out_width
                    for layer in convolutions
                ),
            )
        )
    if num_classes:
        features = rows[-1].channels
        parameters = (features + 1) * num_classes
        rows.append(
            StageComplexity("linear", num_classes, 1, 1, parameters, features * num_classes, 0)
        )
    return tuple(rows)


def complexity_table(
    architecture: Architecture, height: int = 224, width: int = 224, num_classes: int = 1000
) -> str:
    """``complexity_by_stage`` as text, with the total below, under the net's name.

    Raises:
        ValueError: as ``complexity_by_stage``.
    """
    stages = complexity_by_stage(architecture, height, width, num_classes)
    rows = [
        [stage.name, f"{stage.channels} x {stage.height} x {stage.width}"]
        + [f"{count:,}" for count in (stage.parameters, stage.multiply_adds, stage.activations)]
        for stage in stages
    ]
    totals = (
        sum(stage.parameters for stage in stages),
        sum(stage.multiply_adds for stage in stages),
        sum(stage.activations for stage in stages),
    )
    rows.append(["total", "", *(f"{total:,}" for total in totals)])
    headers = ["stage", "output", "parameters", "multiply-adds", "activations"]
    table = tabulate(
        rows, headers, disable_numparse=True, colalign=("left", "left", *["right"] * 3)
    )
    channels = {
        "stem_channels": architecture.stem_channels,
        "res2_channels": architecture.res2_channels,
    }
    usual = Architecture(architecture.depth)
    others = "".join(
        f", {name} {value}" for name, value in channels.items() if value != getattr(usual, name)
    )
    return f"{architecture}{others} at {height} x {width}\n{table}"


def block_parameters(cardinality: int, width: int) -> int:
    """Weights of one block of conv2: C * (256 * d + 3 * 3 * d * d + d * 256) (equation 4)."""
    return cardinality * (256 * width + 3 * 3 * width * width + width * 256)


def width_of_equal_complexity(cardinality: int) -> int:
    """The bottleneck width d with which ``cardinality`` paths cost nearest to 1x64d (section 3.3, table 2).

    Raises:
        ValueError: the cardinality is not positive, or so large that no path at all is nearest.
    """
    if cardinality < 1:
        raise ValueError(f"the cardinality is {cardinality}, not a number of paths; give 1 or more")
    reference = block_parameters(1, REFERENCE_WIDTH)
    width = min(
        range(REFERENCE_WIDTH + 1),
        key=lambda width: abs(block_parameters(cardinality, width) - reference),
    )
    if width == 0:
        raise ValueError(
            f"{cardinality} paths one channel wide have {block_parameters(cardinality, 1)} parameters, more than "
            f"twice the {reference} of 1x{REFERENCE_WIDTH}d; give at most {2 * reference // block_parameters(1, 1)}"
        )
    return width


def width_table(cardinalities: tuple[int, ...], depth: int = 50) -> str:
    """Cardinality, width d, width of the grouped convolution, and what a block and the net cost.

    Raises:
        ValueError: as ``width_of_equal_complexity``; the depth is unknown.
    """
    rows = []
    for cardinality in cardinalities:
        net = Architecture(depth, cardinality, width_of_equal_complexity(cardinality))
        rows.append(
            [cardinality, net.width, cardinality * net.width]
            + [f"{block_parameters(cardinality, net.width):,}", f"{net.num_parameters():,}"]
            + [f"{net.multiply_adds() / 1e9:.2f}"]
        )
    headers = ["cardinality C", "width d", "width of group conv."]
    headers += ["parameters of a block", f"of the net ({depth} layers)", "10^9 multiply-adds"]
    return tabulate(rows, headers, disable_numparse=True, stralign="right", numalign="right")


def table_1() -> str:
    """Table 1 of the paper: ResNet-50 and ResNeXt-50 (32x4d), stage by stage, with their complexity.

    As there, the parameters are without those of the batch norms: 25.5 and 25.0 million.
    """
    nets = (Architecture(50), Architecture(50, 32, 4))
    sizes = {stage.name: stage for stage in complexity_by_stage(nets[0])}
    stem = "7x7, 64, stride 2"
    rows = [["conv1", "112x112", stem, stem]]
    for stages in zip(*(net.stages() for net in nets)):
        name, size = stages[0].name, sizes[stages[0].name]
        pool = ["3x3 max pool, stride 2"] if name == "res2" else []
        cells = ["\n".join([*pool, *_template(stage)]) for stage in stages]
        rows.append([name.replace("res", "conv"), f"{size.height}x{size.width}", *cells])
    head = "global average pool\n1000-d fc, softmax"
    rows.append(["", "1x1", head, head])
    rows.append(
        ["# params.", "", *(f"{_parameters_without_norms(net) / 1e6:.1f} x 10^6" for net in nets)]
    )
    rows.append(["FLOPs", "", *(f"{net.multiply_adds() / 1e9:.1f} x 10^9" for net in nets)])
    return tabulate(rows, ["stage", "output", "ResNet-50", "ResNeXt-50 (32x4d)"], tablefmt="grid")


def table_2() -> str:
    """Table 2 of the paper: cardinality against width at the complexity of 1x64d (conv2 of ResNet-50)."""
    return width_table(TABLE_2_CARDINALITIES)


def _parameters_without_norms(architecture: Architecture) -> int:
    return architecture.num_parameters() - sum(
        2 * layer.out_channels for layer in architecture.convolutions()
    )


def _template(stage: Stage) -> Iterator[str]:
    groups = f", C={stage.cardinality}" if stage.cardinality > 1 else ""
    yield f"1x1, {stage.bottleneck_channels}"
    yield f"3x3, {stage.bottleneck_channels}{groups}"
    yield f"1x1, {stage.out_channels}"
    yield f"x {stage.blocks}"
