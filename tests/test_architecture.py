"""Names, stages and counts of architectures against the published numbers."""

import pytest

from resnext_det.architecture import Architecture, Stage

# Parameters and 10^9 multiply-adds at 224x224 with 1000 classes, by torchvision and pycls.
PUBLISHED = [
    ("R-50", 25_557_032, 4.089),
    ("X-50-2x40d", 25_425_000, 4.125),
    ("X-50-4x24d", 25_292_968, 4.160),
    ("X-50-8x14d", 25_603_016, 4.267),
    ("X-50-32x4d", 25_028_904, 4.230),
    ("R-101", 44_549_160, 7.801),
    ("X-101-32x4d", 44_177_704, 7.970),
    ("X-101-1x100d", 85_611_336, 15.273),
    ("X-101-2x64d", 84_198_184, 15.123),
    ("X-101-64x4d", 83_455_272, 15.460),
    ("X-101-32x8d", 88_791_336, 16.414),
    ("X-152-32x8d", 122_372_392, 24.384),
]


@pytest.mark.parametrize(("name", "parameters", "giga_multiply_adds"), PUBLISHED)
def test_counts_are_the_published_ones(
    name: str, parameters: int, giga_multiply_adds: float
) -> None:
    architecture = Architecture.parse(name)
    assert architecture.num_parameters() == parameters
    # Half a unit of the last printed digit, and a hair for 4.1245, which the table rounds up.
    assert architecture.multiply_adds() / 1e9 == pytest.approx(giga_multiply_adds, abs=0.00051)


# The ResNeXt repository's networks for CIFAR-10; table 7 of the paper has 34.4 and 68.1 million.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("ResNeXt-29 (8x64d)", 34_426_698), ("ResNeXt-29 (16x64d)", 68_155_210)],
)
def test_counts_of_the_networks_for_small_images(name: str, parameters: int) -> None:
    architecture = Architecture.parse(name)
    assert architecture.for_small_images
    assert architecture.num_parameters(10) == parameters
    assert [stage.out_channels for stage in architecture.stages()] == [256, 512, 1024]


def test_a_plain_network_lacks_the_projections() -> None:
    plain, residual = Architecture.parse("X-50-32x4d-plain"), Architecture(50, 32, 4)
    assert plain == Architecture(50, 32, 4, shortcuts=False)
    # A projection of every stage, with its batch norm.
    projections = sum(
        stage.in_channels * stage.out_channels + 2 * stage.out_channels
        for stage in residual.stages()
    )
    assert residual.num_parameters() - plain.num_parameters() == projections
    assert str(Architecture.parse("R-50 plain")) == "R-50-plain"


@pytest.mark.parametrize("no_head", [None, 0])
def test_counts_without_the_classifier(no_head: "int | None") -> None:
    architecture = Architecture(50, 32, 4)
    assert (
        architecture.num_parameters() - architecture.num_parameters(no_head) == 2048 * 1000 + 1000
    )
    assert (
        architecture.multiply_adds() - architecture.multiply_adds(num_classes=no_head)
        == 2048 * 1000
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("X-101-32x4d", "X-101-32x4d"),
        ("x-101-32X4d", "X-101-32x4d"),
        ("X101-32x4d", "X-101-32x4d"),
        ("X101_32x4d", "X-101-32x4d"),
        ("resnext50_32x4d", "X-50-32x4d"),
        ("ResNeXt-50 (32x4d)", "X-50-32x4d"),
        ("ResNeXt-50 (32\u00d74d)", "X-50-32x4d"),
        ("ResNeXt-101, 64x4d", "X-101-64x4d"),
        (" resnext152_32x8d ", "X-152-32x8d"),
        ("R-50", "R-50"),
        ("R50", "R-50"),
        ("resnet101", "R-101"),
        ("ResNet-50", "R-50"),
        ("R50_1x64d", "R-50"),
        ("ResNet-50 (1x64d)", "R-50"),
        ("X-50-1x64d", "R-50"),
        ("ResNet-101 1x100d", "X-101-1x100d"),
        ("X-26-2x8d", "X-26-2x8d"),
        ("ResNet-200", "R-200"),
    ],
)
def test_names_are_read_and_written(text: str, name: str) -> None:
    architecture = Architecture.parse(text)
    assert str(architecture) == name
    assert Architecture.parse(name) == architecture


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vgg16", "'X-101-32x4d' or 'R-50'"),
        ("X-101-32x4", "'X-101-32x4d' or 'R-50'"),
        ("X-101", "'X-101-32x4d'"),
        ("R-50-32x4d", "'X-50-32x4d'"),
        ("R-34", "26, 50, 101, 152, 200"),
        ("X-50-0x4d", "cardinality is 0"),
    ],
)
def test_wrong_names_are_refused_with_the_remedy(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Architecture.parse(text)


@pytest.mark.parametrize("name", ["cardinality", "width", "stem_channels", "res2_channels"])
@pytest.mark.parametrize("value", [0, -4, 2.5])
def test_numbers_that_are_no_channels_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Architecture(50, **{name: value})  # type: ignore[arg-type]


def test_stages_follow_the_two_rules() -> None:
    """Table 1 of the paper, right column."""
    assert Architecture(50, 32, 4).stages() == (
        Stage("res2", 3, 64, 128, 256, 1, 32),
        Stage("res3", 4, 256, 256, 512, 2, 32),
        Stage("res4", 6, 512, 512, 1024, 2, 32),
        Stage("res5", 3, 1024, 1024, 2048, 2, 32),
    )


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(26, [2, 2, 2, 2]), (101, [3, 4, 23, 3]), (152, [3, 8, 36, 3]), (200, [3, 24, 36, 3])],
)
def test_depth_counts_the_layers_with_weights(depth: int, blocks: "list[int]") -> None:
    stages = Architecture(depth).stages()
    assert [stage.blocks for stage in stages] == blocks
    assert 3 * sum(blocks) + 2 == depth  # three layers a block, stem and classifier


def test_stem_and_res2_channels_follow_the_host() -> None:
    stages = Architecture(26, 2, 8, stem_channels=16, res2_channels=32).stages()
    assert [stage.in_channels for stage in stages] == [16, 32, 64, 128]
    assert [stage.out_channels for stage in stages] == [32, 64, 128, 256]
    assert [stage.bottleneck_channels for stage in stages] == [16, 32, 64, 128]


def test_an_architecture_is_a_value() -> None:
    assert Architecture(50, 32, 4) == Architecture.parse("X-50-32x4d")
    assert len({Architecture(50, 32, 4), Architecture.parse("X-50-32x4d")}) == 1
    with pytest.raises(AttributeError):
        Architecture(50).depth = 101  # type: ignore[misc]
