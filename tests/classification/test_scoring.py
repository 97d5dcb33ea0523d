"""Scores of crops and whole images against plain loops in float64, through torchvision's networks with the same weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.transforms.functional import ten_crop

from resnext_det.architecture import Architecture
from resnext_det.classification.scoring import (
    columns_of,
    crop_scores,
    dense_logits,
    dense_scores,
    restricted,
)
from resnext_det.evaluation.classification import Tally
from resnext_det.resnext import ResNeXtClassifier
from tests.test_resnext import load, randomize

SMALL = Architecture(26, 4, 16)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def pair(name: str) -> tuple[ResNeXtClassifier, Any]:
    """A network of ours and torchvision's, with the same random weights, in float64."""
    if name == "small":
        network, reference = (
            SMALL,
            ResNet(Bottleneck, [2, 2, 2, 2], 10, groups=4, width_per_group=16),
        )
    else:
        network = Architecture.parse(name)
        reference = torchvision.models.get_model(name, num_classes=10)
    randomize(reference).eval().double()
    ours = ResNeXtClassifier(network, num_classes=10).eval().double()
    load(ours, reference)
    return ours, reference


def images(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


def map_of(reference: Any, x: Tensor) -> Tensor:
    """torchvision's map before its pool."""
    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
    for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        x = layer(x)
    return x


def loop_over_windows(reference: Any, image: Tensor, window: int) -> Tensor:
    """Of one image (3, h, w): the mean of the classifier's outputs on every window of the map, each by itself."""
    features = map_of(reference, image[None])[0]  # (C, h/32, w/32)
    height, width = (min(window, size) for size in features.shape[1:])
    outputs = []
    for top in range(features.shape[1] - height + 1):
        for left in range(features.shape[2] - width + 1):
            pooled = features[:, top : top + height, left : left + width].mean(dim=(1, 2))
            outputs.append(reference.fc.weight @ pooled + reference.fc.bias)
    return torch.stack(outputs).mean(dim=0)


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
@torch.no_grad()
def test_dense_scores_are_those_of_a_loop_over_windows(name: str) -> None:
    """Two scales, of 1 x 2 places and of 1, each with its flipped view."""
    ours, reference = pair(name)
    scales = [images(1, 3, height, width) for height, width in ((224, 240), (96, 120))]
    scales = [torch.cat([image, image.flip(3)]) for image in scales]
    probabilities = []
    for views in scales:
        expected = torch.stack([loop_over_windows(reference, view, 7) for view in views])
        assert (dense_logits(ours, views) - expected).abs().max() < 1e-11 * expected.abs().max()
        probabilities.append(expected.softmax(dim=1).mean(dim=0))
    scores = dense_scores(ours, iter(scales))
    assert scores.shape == (1, 10)
    torch.testing.assert_close(
        scores.exp()[0], torch.stack(probabilities).mean(dim=0), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize(
    ("network", "dtype"), [(Architecture(50, 32, 4), torch.float32), (SMALL, torch.float64)]
)
@torch.no_grad()
def test_an_image_of_the_training_size_has_the_classifiers_own_scores(
    network: Architecture, dtype: torch.dtype
) -> None:
    ours = randomize(ResNeXtClassifier(network, num_classes=10)).eval().to(dtype)
    x = images(2, 3, 224, 224).to(dtype)
    assert torch.equal(dense_logits(ours, x), ours(x))
    assert torch.equal(crop_scores(ours, x[:, None]), ours(x))
    torch.testing.assert_close(dense_scores(ours, [x[:1]]).exp(), ours(x[:1]).softmax(dim=1))


def without_borders(model: nn.Module) -> nn.Module:
    """Only the centre tap of each convolution is left, so that no padding is seen; the stem's norm leaves 0 as it is."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            centre = module.kernel_size[0] // 2
            kept = module.weight.data[:, :, centre, centre].clone()
            module.weight.data.zero_()
            module.weight.data[:, :, centre, centre] = kept * module.kernel_size[0]
    norm = model.stem.conv1.norm
    norm.running_mean.zero_()
    norm.bias.data.zero_()
    return model


@torch.no_grad()
def test_dense_testing_is_the_mean_over_crops_where_padding_is_not_seen() -> None:
    """A literal loop over the 224x224 crops at stride 32, each through the plain classifier.

    The stem's pool looks at neighbours too. Those of the pixels that stand for a place of its map are 0 here, and so is the border.
    """
    model = ResNeXtClassifier(
        Architecture(26, 2, 4, stem_channels=8, res2_channels=16), num_classes=6
    )
    model = without_borders(randomize(model).eval().double())
    image = images(1, 3, 288, 320)
    image[:, :, 2::4] = 0
    image[:, :, :, 2::4] = 0
    crops = [
        image[:, :, top : top + 224, left : left + 224]
        for top in range(0, 288 - 224 + 1, 32)
        for left in range(0, 320 - 224 + 1, 32)
    ]
    each = torch.cat([model(crop) for crop in crops])
    assert each.shape == (3 * 4, 6)
    assert each.std(dim=0).min() > 1e-4 * each.abs().max()
    torch.testing.assert_close(
        dense_logits(model, image), each.mean(dim=0, keepdim=True), rtol=1e-10, atol=0
    )
    assert (
        model(image) - each.mean(dim=0)
    ).abs().max() > 1e-5 * each.abs().max()  # a global pool is not it


@pytest.mark.parametrize(
    ("size", "window"),
    [((96, 160), 7), ((96, 160), 2), ((130, 64), 3), ((64, 300), 7), ((20, 20), 7), ((96, 96), 1)],
)
@torch.no_grad()
def test_other_windows_and_maps_smaller_than_them(size: tuple[int, int], window: int) -> None:
    ours, reference = pair("small")
    x = images(2, 3, *size)
    expected = torch.stack([loop_over_windows(reference, image, window) for image in x])
    torch.testing.assert_close(dense_logits(ours, x, window=window), expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_networks_for_small_images_have_a_window_of_8() -> None:
    model = ResNeXtClassifier(
        Architecture(29, 2, 4, stem_channels=8, res2_channels=16), num_classes=5
    )
    model = randomize(model).eval().double()
    x = images(1, 3, 32, 32)
    assert model.forward_features(x).shape[2:] == (8, 8)
    assert torch.equal(dense_logits(model, x, window=8), model(x))
    larger = images(1, 3, 36, 40)
    features = model.forward_features(larger)  # 9 x 10: 2 x 3 windows
    windows = features.unfold(2, 8, 1).unfold(3, 8, 1).mean(dim=(4, 5))  # (1, C, 2, 3)
    class_map = F.conv2d(windows, model.linear.weight[:, :, None, None], model.linear.bias)
    assert class_map.shape == (1, 5, 2, 3)
    torch.testing.assert_close(dense_logits(model, larger, window=8), class_map.mean(dim=(2, 3)))


@torch.no_grad()
def test_ten_crops_are_those_of_a_loop() -> None:
    ours, reference = pair("small")
    crops = torch.stack([torch.stack(ten_crop(image, [64, 64])) for image in images(3, 3, 80, 96)])
    assert crops.shape == (3, 10, 3, 64, 64)
    expected = torch.zeros(3, 10, dtype=torch.float64)
    for row in range(3):
        for index in range(10):
            expected[row] += reference(crops[row, index][None])[0] / 10
    scores = crop_scores(ours, crops)
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-12)
    assert not scores.requires_grad


class Fixed(nn.Module):
    """A network whose outputs are given."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs
        self.eval()

    def forward(self, crops: Tensor) -> Tensor:
        assert len(crops) == len(self.outputs)
        return self.outputs


def test_the_mean_is_of_logits_and_not_of_probabilities() -> None:
    """By hand: one crop is very sure of the first class, two are sure of the second."""
    network, crops = (
        Fixed(torch.tensor([[10.0, 0.0], [0.0, 4.0], [0.0, 4.0]])),
        torch.zeros(1, 3, 3, 8, 8),
    )
    torch.testing.assert_close(crop_scores(network, crops), torch.tensor([[10 / 3, 8 / 3]]))


def test_half_precision_is_averaged_in_float32() -> None:
    outputs = torch.randint(-100, 100, (8, 6)).bfloat16()
    scores = crop_scores(Fixed(outputs), torch.zeros(4, 2, 3, 8, 8))
    assert scores.dtype == torch.float32
    expected = crop_scores(Fixed(outputs.double()), torch.zeros(4, 2, 3, 8, 8))
    assert expected.dtype == torch.float64
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_scale_is_made_when_the_one_before_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ResNeXtClassifier(Architecture(26, 1, 4, 8, 16), num_classes=3).eval()
    done: list[int] = []
    forward_features = model.forward_features
    monkeypatch.setattr(
        model, "forward_features", lambda x: (done.append(x.shape[2]), forward_features(x))[1]
    )

    def scales() -> Iterator[Tensor]:
        for index, size in enumerate((32, 64, 96)):
            assert len(done) == index
            yield torch.zeros(2, 3, size, size)

    dense_scores(model, scales())
    assert done == [32, 64, 96]


def test_some_outputs_compete_alone() -> None:
    """1K-way of 5K: the others' scores at minus infinity, and torch's cross entropy, give the same."""
    among = [f"n{index:04d}" for index in torch.randperm(50).tolist()]
    chosen = [f"n{index:04d}" for index in range(0, 50, 5)]
    outputs = columns_of(chosen, among)
    assert [among[column] for column in outputs.tolist()] == chosen
    scores, labels = torch.randn(400, 50), torch.randint(0, 10, (400,))
    scores[torch.arange(400), outputs[labels]] += 1
    tally, everything = Tally(chosen), Tally(among)
    tally.add(restricted(scores, outputs), labels)
    everything.add(scores, outputs[labels])
    masked = torch.full_like(scores, -math.inf)
    masked[:, outputs] = scores[:, outputs]
    metrics = tally.metrics()
    assert metrics.ways == 10
    assert metrics.top1 == 100 * int((masked.argmax(dim=1) == outputs[labels]).sum()) / 400
    expected = F.cross_entropy(masked.double(), outputs[labels]).item()
    assert metrics.cross_entropy == pytest.approx(expected, rel=1e-12)
    assert metrics.top1 > everything.metrics().top1
    assert everything.metrics().cross_entropy > metrics.cross_entropy
    # Log probabilities, as after averaging over crops, are restricted to the same.
    again = Tally(chosen)
    again.add(restricted(scores.double().log_softmax(dim=1), outputs), labels)
    assert again.metrics().cross_entropy == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (torch.tensor([0, 5]), "output 5 is none of the 5 columns of the scores"),
        (torch.tensor([-1, 2]), "output -1 is none of the 5 columns"),
        (torch.tensor([1, 3, 1]), "output 1 is given 2 times, and would compete with itself"),
        (
            torch.tensor([], dtype=torch.int64),
            r"torch.int64 of shape \(0,\); give one or more columns",
        ),
        (torch.tensor([True, False, True, False, True]), "outputs are torch.bool of shape"),
        (torch.tensor([[1]]), r"of shape \(1, 1\)"),
    ],
)
def test_outputs_that_cannot_compete_are_refused(outputs: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        restricted(torch.zeros(2, 5), outputs)


def test_class_names_without_a_column_are_named() -> None:
    among = ["cat", "dog", "cow", "crane", "crane"]
    with pytest.raises(
        ValueError, match="2 of 3 classes are none of the network's 5 outputs: 'owl', 'rat'; test"
    ):
        columns_of(["owl", "cat", "rat"], among)
    with pytest.raises(
        ValueError, match=r"7 of 7 classes .* 'a', 'b', 'c', 'd', 'e', \.\.\.; test on classes"
    ):
        columns_of("abcdefg", among)
    with pytest.raises(
        ValueError, match="several outputs bear one name: 'crane'; give every class"
    ):
        columns_of(["crane"], among)
    assert columns_of(["cow", "cat"], among).tolist() == [2, 0]  # 'crane' is not asked for


def test_what_cannot_be_scored_is_refused() -> None:
    network = ResNeXtClassifier(Architecture(26, 1, 4, 8, 16), num_classes=3)
    crops = torch.zeros(1, 2, 3, 32, 32)
    for score in (lambda: crop_scores(network, crops), lambda: dense_scores(network, [crops[0]])):
        with pytest.raises(
            ValueError, match=r"the network is in training mode, .* call network\.eval\(\)"
        ):
            score()
    network.eval()
    for wrong in (crops[0], crops[:, :0]):
        with pytest.raises(ValueError, match=r"give \(N, n, 3, H, W\)"):
            crop_scores(network, wrong)
    with pytest.raises(ValueError, match="window is 0; give the size of the last map"):
        dense_logits(network, crops[0], window=0)
    with pytest.raises(ValueError, match="there is no scale to test at"):
        dense_scores(network, [])
    with pytest.raises(
        ValueError, match=r"the views of a scale have the shape \(3, 32, 32\); give"
    ):
        dense_scores(network, crops[0])
