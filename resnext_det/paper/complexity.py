"""Complexity of an architecture by stage, and the paper's tables 1 and 2, all by arithmetic.

Multiply-adds are what the paper calls FLOPs. Activations are the elements of the convolutions'
outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from tabulate import tabulate

from resnext_det.architecture import Architecture, Stage

REFERENCE_WIDTH = 64  # of the ResNet, 1x64d, whose complexity the nets of table 2 share
TABLE_2_CARDINALITIES = (1, 2, 4, 8, 32)


@dataclass(frozen=True)
class StageComplexity:
    """The cost of one stage of a net for one image.

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


def count_by_stage(
    architecture: Architecture, height: int = 224, width: int = 224, num_classes: int = 1000
) -> tuple[StageComplexity, ...]:
    """Count the stem, the stages and the classifier, whose sums are the architecture's own counts.

    Args:
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
        last = [layer for layer in convolutions if not layer.name.endswith("shortcut")][-1]
        pool = 2 if name == "stem" and not architecture.for_small_images else 1  # at its end
        row = StageComplexity(
            name=name,
            channels=last.out_channels,
            height=-(-last.out_height // pool),
            width=-(-last.out_width // pool),
            parameters=sum(layer.weights + 2 * layer.out_channels for layer in convolutions),
            multiply_adds=sum(layer.multiply_adds for layer in convolutions),
            activations=sum(
                layer.out_channels * layer.out_height * layer.out_width for layer in convolutions
            ),
        )
        rows.append(row)
    if num_classes:
        features = rows[-1].channels
        parameters, multiply_adds = (features + 1) * num_classes, features * num_classes
        rows.append(StageComplexity("linear", num_classes, 1, 1, parameters, multiply_adds, 0))
    return tuple(rows)


def format_by_stage(
    architecture: Architecture, height: int = 224, width: int = 224, num_classes: int = 1000
) -> str:
    """Format the counts of ``count_by_stage``, with their total, under the name of the net."""
    stages = count_by_stage(architecture, height, width, num_classes)
    counts = [(stage.parameters, stage.multiply_adds, stage.activations) for stage in stages]
    names = [[stage.name, f"{stage.channels} x {stage.height} x {stage.width}"] for stage in stages]
    names.append(["total", ""])
    totals = tuple(map(sum, zip(*counts)))
    rows = [[*words, *(f"{n:,}" for n in row)] for words, row in zip(names, [*counts, totals])]
    headers = ["stage", "output", "parameters", "multiply-adds", "activations"]
    alignment = ("left", "left", "right", "right", "right")
    table = tabulate(rows, headers, disable_numparse=True, colalign=alignment)
    usual = Architecture(architecture.depth)
    others = "".join(
        f", {name} {getattr(architecture, name)}"
        for name in ("stem_channels", "res2_channels")
        if getattr(architecture, name) != getattr(usual, name)
    )
    return f"{architecture}{others} at {height} x {width}\n{table}"


def count_block_parameters(cardinality: int, width: int) -> int:
    """Count the weights of one block of conv2: C * (256 * d + 3 * 3 * d * d + d * 256), eq. 4."""
    return cardinality * (256 * width + 3 * 3 * width * width + width * 256)


def find_equal_width(cardinality: int) -> int:
    """Find the bottleneck width d with which so many paths cost nearest to 1x64d (section 3.3).

    Raises:
        ValueError: the cardinality is not positive, or so large that no path at all is nearest.
    """
    if cardinality < 1:
        raise ValueError(f"the cardinality is {cardinality}, not a number of paths; give 1 or more")
    reference = count_block_parameters(1, REFERENCE_WIDTH)
    width = min(
        range(REFERENCE_WIDTH + 1),
        key=lambda width: abs(count_block_parameters(cardinality, width) - reference),
    )
    if width == 0:
        raise ValueError(
            f"{cardinality} paths one channel wide have {count_block_parameters(cardinality, 1)} "
            f"parameters, more than twice the {reference} of 1x{REFERENCE_WIDTH}d; give at most "
            f"{2 * reference // count_block_parameters(1, 1)}"
        )
    return width


def format_widths(cardinalities: Sequence[int] = TABLE_2_CARDINALITIES, depth: int = 50) -> str:
    """Format a table of bottleneck width d, grouped-convolution width, and cost.

    The default is table 2 of the paper: cardinality against width at the complexity of 1x64d.

    Raises:
        ValueError: as ``find_equal_width``; the depth is unknown.
    """
    rows = []
    for cardinality in cardinalities:
        net = Architecture(depth, cardinality, find_equal_width(cardinality))
        counts = count_block_parameters(cardinality, net.width), net.num_parameters()
        row = [cardinality, net.width, cardinality * net.width, *(f"{n:,}" for n in counts)]
        rows.append([*row, f"{net.multiply_adds() / 1e9:.2f}"])
    headers = ["cardinality C", "width d", "width of group conv."]
    headers += ["parameters of a block", f"of the net ({depth} layers)", "10^9 multiply-adds"]
    return tabulate(rows, headers, disable_numparse=True, stralign="right", numalign="right")


def format_table_1() -> str:
    """Format table 1 of the paper: ResNet-50 and ResNeXt-50 (32x4d) by stage, with their cost.

    As there, the parameters are without those of the batch norms: 25.5 and 25.0 million.
    """
    nets = (Architecture(50), Architecture(50, 32, 4))
    sizes = {stage.name: stage for stage in count_by_stage(nets[0])}
    stem, head = "7x7, 64, stride 2", "global average pool\n1000-d fc, softmax"
    rows = [["conv1", "112x112", stem, stem]]
    for stages in zip(*(net.stages() for net in nets)):
        name, size = stages[0].name, sizes[stages[0].name]
        pool = "3x3 max pool, stride 2\n" if name == "res2" else ""
        cells = [pool + _format_template(stage) for stage in stages]
        rows.append([name.replace("res", "conv"), f"{size.height}x{size.width}", *cells])
    norms = [sum(2 * layer.out_channels for layer in net.convolutions()) for net in nets]
    parameters = [net.num_parameters() - of_norms for net, of_norms in zip(nets, norms)]
    rows += [
        ["", "1x1", head, head],
        ["# params.", "", *(f"{count / 1e6:.1f} x 10^6" for count in parameters)],
        ["FLOPs", "", *(f"{net.multiply_adds() / 1e9:.1f} x 10^9" for net in nets)],
    ]
    return tabulate(rows, ["stage", "output", "ResNet-50", "ResNeXt-50 (32x4d)"], tablefmt="grid")


def _format_template(stage: Stage) -> str:
    groups = f", C={stage.cardinality}" if stage.cardinality > 1 else ""
    middle, out = stage.bottleneck_channels, stage.out_channels
    return f"1x1, {middle}\n3x3, {middle}{groups}\n1x1, {out}\nx {stage.blocks}"
