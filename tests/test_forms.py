"""Forms A, B and C of a block compute the same and train the same, in float64."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnext_det.architecture import Architecture, Deformable
from resnext_det.forms import FormA, FormB, convert
from resnext_det.resnext import Bottleneck, ResNeXt, ResNeXtClassifier

equal = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


def randomize(module: nn.Module) -> nn.Module:
    """Give a module weights and statistics as after some training, in float64."""
    torch.manual_seed(0)
    module.double()
    for name, value in module.state_dict().items():
        if value.dim() == 1:
            value.uniform_(0.5, 1.5) if name.endswith(("weight", "var")) else value.normal_(std=0.3)
    return module


def make_block(
    cardinality: int, *, stride: int = 1, project: bool = False, **options: object
) -> Bottleneck:
    """Make a block in form C with 64 channels in the middle, shared evenly by the paths."""
    options = {"bottleneck_channels": 64, "cardinality": cardinality, "stride": stride, **options}
    block = Bottleneck(12 if project else 16, 16, **options)
    randomize(block)
    return block


def join_gradients(block: nn.Module) -> dict[str, Tensor]:
    """Convert a block's gradients to form C: they split and join as the weights do."""
    holder = copy.deepcopy(block)
    for ours, theirs in zip(holder.parameters(), block.parameters()):
        assert theirs.grad is not None
        ours.data = theirs.grad.clone()
    return dict(convert(holder, "C").named_parameters())


def step(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run forward and backward; return the output and the gradient of the input."""
    x = x.clone().requires_grad_()
    out = block(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize(("stride", "project"), [(1, False), (1, True), (2, True)])
@pytest.mark.parametrize("cardinality", [1, 2, 4, 8, 32, 64])
def test_outputs_gradients_and_statistics_are_those_of_form_c(
    cardinality: int, stride: int, project: bool, form: str
) -> None:
    block = make_block(cardinality, stride=stride, project=project, norm="BN")
    split = convert(block, form)
    assert len(split.paths) == cardinality
    assert sum(p.numel() for p in split.parameters()) == sum(p.numel() for p in block.parameters())
    x = torch.randn(2, block.conv1.in_channels, 7, 6, dtype=torch.float64)
    for ours, theirs in zip(step(split, x), step(block, x)):
        equal(ours, theirs)
    gradients = join_gradients(split)
    assert gradients.keys() == {name for name, _ in block.named_parameters()}
    for name, parameter in block.named_parameters():
        equal(gradients[name].detach(), parameter.grad)
    before = make_block(cardinality, stride=stride, project=project, norm="BN")
    after = convert(split, "C")
    assert not torch.equal(before.conv2.norm.running_mean, after.conv2.norm.running_mean)
    for name, value in block.state_dict().items():  # weights, and the statistics after the step
        equal(after.state_dict()[name], value)
    equal(split.eval()(x), block.eval()(x))


@pytest.mark.parametrize("norm", ["", "FrozenBN", "FrozenStatisticsBN", "GN", "SyncBN"])
@pytest.mark.parametrize("form", ["A", "B"])
def test_every_norm_splits(norm: str, form: str) -> None:
    block = Bottleneck(
        32, 64, bottleneck_channels=64, cardinality=8, stride=2, stride_in_1x1=True, norm=norm
    )
    randomize(block)
    block.conv2.dilation = block.conv2.padding = (2, 2)
    split = convert(block, form)
    x = torch.randn(2, 32, 7, 6, dtype=torch.float64)
    for ours, theirs in zip(step(split, x), step(block, x)):
        equal(ours, theirs)
    gradients = join_gradients(split)
    for name, parameter in block.named_parameters():
        equal(gradients[name].detach(), parameter.grad)
    assert [type(m) for m in convert(split, "C").modules()] == [type(m) for m in block.modules()]


def test_a_form_is_written_as_in_figure_3() -> None:
    """32 paths of 4 channels; form A has a norm after the sum alone, form B a single last 1x1."""
    block = Bottleneck(256, 256, bottleneck_channels=128, cardinality=32, norm="BN")
    a, b = FormA(block), FormB(block)
    shapes = [tuple(layer.weight.shape) for layer in a.paths[31]]
    assert shapes == [(4, 256, 1, 1), (4, 4, 3, 3), (256, 4, 1, 1)]
    assert [layer.norm is None for layer in a.paths[31]] == [False, False, True]
    assert isinstance(a.norm, nn.BatchNorm2d)
    assert a.norm.num_features == 256
    assert [tuple(layer.weight.shape) for layer in b.paths[0]] == shapes[:2]
    assert b.conv3.weight.shape == (256, 128, 1, 1)
    convolutions = [m for m in a.modules() if isinstance(m, nn.Conv2d)]
    assert {layer.groups for layer in convolutions} == {1}
    # Equation 4: C * (256 * d + 3 * 3 * d * d + d * 256).
    assert sum(layer.weight.numel() for layer in convolutions) == 32 * (256 * 4 + 9 * 16 + 4 * 256)


@pytest.mark.parametrize("first", "ABC")
@pytest.mark.parametrize("second", "ABC")
@pytest.mark.parametrize("training", [True, False])
def test_any_form_converts_to_any_without_loss(first: str, second: str, training: bool) -> None:
    block = make_block(4, stride=2, project=True, norm="BN").requires_grad_(False).train(training)
    block.conv2.requires_grad_(True)
    block.conv1.norm.train(not training)
    block.conv3.norm.num_batches_tracked.fill_(7)
    random = torch.get_rng_state()
    other = convert(convert(block, first), second)
    assert {m.training for m in other.modules() if not isinstance(m, nn.BatchNorm2d)} == {training}
    back = convert(other, "C")
    assert torch.equal(random, torch.get_rng_state())
    assert isinstance(back, Bottleneck)
    assert repr(back) == repr(block)
    assert [m.training for m in back.modules()] == [m.training for m in block.modules()]
    trained = {name: p.requires_grad for name, p in block.named_parameters()}
    assert {name: p.requires_grad for name, p in back.named_parameters()} == trained
    for (name, ours), (other, theirs) in zip(back.state_dict().items(), block.state_dict().items()):
        assert name == other
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()


def small_classifier() -> ResNeXtClassifier:
    torch.manual_seed(3)
    architecture = Architecture(26, 4, 4, stem_channels=8, res2_channels=16)
    return ResNeXtClassifier(architecture, num_classes=5).double()


def train(model: nn.Module, steps: int = 60) -> nn.Module:
    """Train on something that can be learned.

    Training on noise with random labels multiplies rounding errors until two orders of a sum end
    in different weights.
    """
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(20) % 5
    images = 0.5 * torch.randn(20, 3, 32, 32, dtype=torch.float64, generator=generator)
    images += torch.randn(5, 3, 32, 32, dtype=torch.float64, generator=generator)[labels]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    for _ in range(steps):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01
    return model


@pytest.fixture(scope="module")
def trained_form_c() -> nn.Module:
    return train(small_classifier())


@pytest.mark.parametrize("form", ["A", "B"])
def test_training_in_any_form_ends_in_equal_weights(form: str, trained_form_c: nn.Module) -> None:
    start = small_classifier()
    model = convert(copy.deepcopy(start), form)
    assert sum(isinstance(m, (FormA, FormB)) for m in model.modules()) == 8
    assert not any(isinstance(m, Bottleneck) for m in model.modules())
    state = convert(train(model), "C").state_dict()
    assert state.keys() == start.state_dict().keys()
    for name, value in trained_form_c.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-9, msg=name)
    moved = (state["res3.1.conv2.weight"] - start.res3[1].conv2.weight).abs().max()
    assert moved > 0.1


@pytest.mark.parametrize("form", ["A", "B"])
def test_a_frozen_backbone_is_converted_in_place(form: str) -> None:
    architecture = Architecture(26, 8, 2, stem_channels=8, res2_channels=16)
    torch.manual_seed(0)
    model = ResNeXt(architecture, norm="BN", out_features=("res2", "res5")).double().freeze(2)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    other = copy.deepcopy(model)
    assert convert(other, form) is other
    expected = model(images)
    for name, feature in other(images).items():
        equal(feature, expected[name])
    assert not any(p.requires_grad for p in other.res2.parameters())
    assert all(p.requires_grad for p in other.res3.parameters())
    assert other.res2[0].paths[0].conv2.weight.is_contiguous()


def test_what_has_no_other_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form 'D' is not known; choose one of 'A', 'B', 'C'"):
        convert(small_classifier(), "D")
    with pytest.raises(ValueError, match="a Linear has no bottleneck blocks"):
        convert(nn.Linear(1, 1), "A")
    mixed = Bottleneck(32, 64, bottleneck_channels=128, cardinality=64, norm="GN")
    with pytest.raises(ValueError, match="32 groups, which do not split into 64 paths"):
        FormA(mixed)
    folded = make_block(4)
    folded.conv2.bias = nn.Parameter(torch.zeros(64))
    with pytest.raises(ValueError, match="convert it before its norms are folded"):
        FormB(folded)
    strange = make_block(4)
    strange.conv1.norm = nn.Identity()
    with pytest.raises(ValueError, match="a Identity cannot be split"):
        FormA(strange)
    deformable = Bottleneck(
        16, 16, bottleneck_channels=8, cardinality=4, deformable=Deformable(("res2",))
    )
    with pytest.raises(ValueError, match="deformable convolution is not converted"):
        convert(nn.Sequential(deformable), "B")
    model = nn.Sequential(make_block(4), mixed)
    with pytest.raises(ValueError, match="split"):
        convert(model, "A")
    assert isinstance(model[0], Bottleneck)  # as it was
