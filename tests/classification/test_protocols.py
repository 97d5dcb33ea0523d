"""Scores of crops and whole images against plain loops through torchvision's networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.transforms.functional import ten_crop

from resnext_det.architecture import Architecture
from resnext_det.classification.protocols import (
    compute_dense_logits,
    protocol_of,
    score_crops,
    score_densely,
)
from resnext_det.data.images.cropping import CenterCrop
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.weights import KNOWN, read_weights, write_weights
from tests.test_resnext import load, randomize

SMALL = Architecture(26, 4, 16)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make_pair(name: str) -> tuple[ResNeXtClassifier, Any]:
    """Make our network and torchvision's, with the same random weights, in float64."""
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


def draw_images(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


def compute_map(reference: Any, x: Tensor) -> Tensor:
    """Compute torchvision's map before its pool."""
    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
    for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        x = layer(x)
    return x


def loop_over_windows(reference: Any, image: Tensor, window: int) -> Tensor:
    """Average the outputs of a classifier on every window of the map of one image (3, h, w)."""
    features = compute_map(reference, image[None])[0]  # (C, h/32, w/32)
    height, width = (min(window, size) for size in features.shape[1:])
    outputs = []
    for top in range(features.shape[1] - height + 1):
        for left in range(features.shape[2] - width + 1):
            pooled = features[:, top : top + height, left : left + width].mean(dim=(1, 2))
            outputs.append(reference.fc.weight @ pooled + reference.fc.bias)
    return torch.stack(outputs).mean(dim=0)


@pytest.mark.parametrize("name", ["small", "resnext50_32x4d"])
@torch.no_grad()
def test_dense_scores_are_those_of_a_loop_over_windows(name: str) -> None:
    """Two scales, of 1 x 2 places and of 1, each with its flipped view."""
    ours, reference = make_pair(name)
    scales = [draw_images(1, 3, height, width) for height, width in ((224, 240), (96, 120))]
    scales = [torch.cat([image, image.flip(3)]) for image in scales]
    probabilities = []
    for views in scales:
        expected = torch.stack([loop_over_windows(reference, view, 7) for view in views])
        assert (
            compute_dense_logits(ours, views) - expected
        ).abs().max() < 1e-11 * expected.abs().max()
        probabilities.append(expected.softmax(dim=1).mean(dim=0))
    scores = score_densely(ours, iter(scales))
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
    x = draw_images(2, 3, 224, 224).to(dtype)
    assert torch.equal(compute_dense_logits(ours, x), ours(x))
    assert torch.equal(score_crops(ours, x[:, None]), ours(x))
    torch.testing.assert_close(score_densely(ours, [x[:1]]).exp(), ours(x[:1]).softmax(dim=1))


def keep_kernel_centers(model: nn.Module) -> nn.Module:
    """Leave only the center of each kernel, so that no padding is seen; the stem's norm keeps 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            center = module.kernel_size[0] // 2
            kept = module.weight.data[:, :, center, center].clone()
            module.weight.data.zero_()
            module.weight.data[:, :, center, center] = kept * module.kernel_size[0]
    norm = model.stem.conv1.norm
    norm.running_mean.zero_()
    norm.bias.data.zero_()
    return model


@torch.no_grad()
def test_dense_testing_is_the_mean_over_crops_where_padding_is_not_seen() -> None:
    """A literal loop over the 224x224 crops at stride 32, each through the plain classifier.

    The stem's pool looks at neighbors too. Beside the pixels that stand for a place of its map they
    are 0 here, and so is the border.
    """
    model = ResNeXtClassifier(
        Architecture(26, 2, 4, stem_channels=8, res2_channels=16), num_classes=6
    )
    model = keep_kernel_centers(randomize(model).eval().double())
    image = draw_images(1, 3, 288, 320)
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
        compute_dense_logits(model, image), each.mean(dim=0, keepdim=True), rtol=1e-10, atol=0
    )
    difference = (model(image) - each.mean(dim=0)).abs().max()
    assert difference > 1e-5 * each.abs().max()  # a global pool is not it


@pytest.mark.parametrize(
    ("size", "window"),
    [((96, 160), 7), ((96, 160), 2), ((130, 64), 3), ((64, 300), 7), ((20, 20), 7), ((96, 96), 1)],
)
@torch.no_grad()
def test_other_windows_and_maps_smaller_than_them(size: tuple[int, int], window: int) -> None:
    ours, reference = make_pair("small")
    x = draw_images(2, 3, *size)
    expected = torch.stack([loop_over_windows(reference, image, window) for image in x])
    torch.testing.assert_close(
        compute_dense_logits(ours, x, window=window), expected, rtol=1e-9, atol=1e-9
    )


@torch.no_grad()
def test_networks_for_small_images_have_a_window_of_8() -> None:
    model = ResNeXtClassifier(
        Architecture(29, 2, 4, stem_channels=8, res2_channels=16), num_classes=5
    )
    model = randomize(model).eval().double()
    x = draw_images(1, 3, 32, 32)
    assert model.forward_features(x).shape[2:] == (8, 8)
    assert torch.equal(compute_dense_logits(model, x, window=8), model(x))
    larger = draw_images(1, 3, 36, 40)
    features = model.forward_features(larger)  # 9 x 10: 2 x 3 windows
    windows = features.unfold(2, 8, 1).unfold(3, 8, 1).mean(dim=(4, 5))  # (1, C, 2, 3)
    class_map = F.conv2d(windows, model.linear.weight[:, :, None, None], model.linear.bias)
    assert class_map.shape == (1, 5, 2, 3)
    torch.testing.assert_close(
        compute_dense_logits(model, larger, window=8), class_map.mean(dim=(2, 3))
    )


@torch.no_grad()
def test_ten_crops_are_those_of_a_loop() -> None:
    ours, reference = make_pair("small")
    crops = torch.stack(
        [torch.stack(ten_crop(image, [64, 64])) for image in draw_images(3, 3, 80, 96)]
    )
    assert crops.shape == (3, 10, 3, 64, 64)
    expected = torch.zeros(3, 10, dtype=torch.float64)
    for row in range(3):
        for index in range(10):
            expected[row] += reference(crops[row, index][None])[0] / 10
    scores = score_crops(ours, crops)
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
    torch.testing.assert_close(score_crops(network, crops), torch.tensor([[10 / 3, 8 / 3]]))


def test_half_precision_is_averaged_in_float32() -> None:
    outputs = torch.randint(-100, 100, (8, 6)).bfloat16()
    scores = score_crops(Fixed(outputs), torch.zeros(4, 2, 3, 8, 8))
    assert scores.dtype == torch.float32
    expected = score_crops(Fixed(outputs.double()), torch.zeros(4, 2, 3, 8, 8))
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

    score_densely(model, scales())
    assert done == [32, 64, 96]


def test_a_network_in_training_mode_is_refused() -> None:
    network = ResNeXtClassifier(Architecture(26, 1, 4, 8, 16), num_classes=3)
    crops = torch.zeros(1, 2, 3, 32, 32)
    for score in (lambda: score_crops(network, crops), lambda: score_densely(network, [crops[0]])):
        with pytest.raises(ValueError, match=r"is in training mode, .* call network\.eval\(\)"):
            score()


@pytest.mark.parametrize("target", ["again.pkl", "again.pth", "again.safetensors"])
def test_converted_weights_are_tested_as_before(tmp_path: Path, target: str) -> None:
    """Keep the preprocessing that a format implies, when weights are written in another."""
    torch.save(torchvision.models.resnet50(num_classes=3).state_dict(), tmp_path / "theirs.pth")
    theirs = read_weights(tmp_path / "theirs.pth")
    assert protocol_of(theirs).interpolation == "bilinear"
    later = replace(
        theirs, metadata={**theirs.metadata, "resize_test": "232", "interpolation": "bicubic"}
    )
    suffixes = {".pkl": "detectron2", ".pth": "native", ".safetensors": "safetensors"}
    for file, expected in ((theirs, (256, "bilinear")), (later, (232, "bicubic"))):
        write_weights(file, tmp_path / target, suffixes[Path(target).suffix])
        found = protocol_of(read_weights(tmp_path / target))
        assert (found.name, found.resize, found.interpolation) == ("crop 224", *expected)


@pytest.mark.parametrize(
    ("trained", "options", "name", "resize", "interpolation"),
    [
        ({}, {}, "crop 224", 256, "torch7_bicubic"),
        ({}, {"size": 320}, "crop 320", 320, "torch7_bicubic"),
        ({}, {"interpolation": "bicubic"}, "crop 224", 256, "bicubic"),
        (
            {"size_test": "64", "resize_test": "72", "interpolation": "bilinear"},
            {},
            "crop 64",
            72,
            "bilinear",
        ),
        ({"size_test": "64", "resize_test": "72"}, {"size": 96}, "crop 96", 96, "torch7_bicubic"),
        ({"size_test": "64", "resize_test": "72"}, {"resize": 99}, "crop 64", 99, "torch7_bicubic"),
    ],
)
def test_sizes_that_are_not_given(
    weights: Path,
    trained: dict[str, str],
    options: dict[str, Any],
    name: str,
    resize: int,
    interpolation: str,
) -> None:
    """Those of the training, else the usual ones."""
    protocol = protocol_of(replace(read_weights(weights), metadata=trained), **options)
    assert protocol.name == name
    image = np.random.RandomState(0).randint(0, 256, (90, 70, 3), dtype=np.uint8)
    expected = CenterCrop(
        int(name.split()[1]),
        resize,
        mean=KNOWN["torchvision"].mean,
        std=KNOWN["torchvision"].std,
        interpolation=interpolation,
        rounding="up" if interpolation == "torch7_bicubic" else "half_even",
    )
    assert torch.equal(cast(torch.Tensor, protocol.views(image)), expected(image))


def test_what_is_only_usual_is_said(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fact and what the user gives are quiet; a converted file's usual values stay usual."""
    file = read_weights(weights)  # which tells its preprocessing
    facts = {"resize_test": "232", "interpolation": "bicubic"}
    known = replace(file, metadata=facts, origins=dict.fromkeys(facts, "the catalog"))
    assert protocol_of(known).usual == ()
    guessed = replace(known, origins={**known.origins, "interpolation": "usual for timm's files"})
    assert protocol_of(replace(file, metadata={}), resize=240, interpolation="bicubic").usual == ()
    assert not caplog.records
    assert protocol_of(guessed).usual == ("interpolation",)
    assert "not known to be right: bicubic. Say it with --interpolation." in caplog.text
    assert protocol_of(guessed, "dense").usual == ("interpolation",)
    assert protocol_of(replace(file, metadata={})).usual == ("resize", "interpolation")
    assert "crop 224 of shorter side 256, torch7_bicubic. Say it with --resize, --i" in caplog.text
    names = replace(guessed, origins={**guessed.origins, "std": "usual for timm's files"})
    assert protocol_of(names, interpolation="bicubic").usual == ("preprocessing",)
