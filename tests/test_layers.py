"""Convolutions with frozen norms against torch's own batch norm, and norms against detectron2's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from resnext_det.layers import (
    ConvNorm,
    FrozenBatchNorm2d,
    FrozenStatisticsBatchNorm2d,
    compute_scale_and_shift,
    freeze_norms,
    make_norm,
)

FROZEN = ["FrozenBN", "FrozenStatisticsBN"]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make_batch_norm(channels: int) -> nn.BatchNorm2d:
    """Make a batch norm in inference, none of whose numbers is the initial one."""
    norm = nn.BatchNorm2d(channels, eps=1e-3).eval()
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.2, 3.0)
    norm.num_batches_tracked.fill_(7)
    return norm


def make_pair(norm: str, **options: Any) -> tuple[ConvNorm, nn.Sequential]:
    """Make a ConvNorm with a frozen norm, and its equal of torch's own modules, in float64."""
    ours = ConvNorm(8, 12, 3, stride=2, padding=2, dilation=2, groups=4, norm=norm, **options)
    reference = nn.Sequential(
        nn.Conv2d(8, 12, 3, 2, 2, 2, groups=4, bias=ours.bias is not None), make_batch_norm(12)
    )
    ours.load_state_dict(
        {k.replace("0.", "").replace("1.", "norm."): v for k, v in reference.state_dict().items()}
    )
    ours.norm.eps = reference[1].eps
    return ours.double(), reference.double()


@pytest.fixture(scope="module")
def theirs() -> Any:
    """detectron2.layers."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    import detectron2.layers

    return detectron2.layers


class TestConvNorm:
    @pytest.mark.parametrize("norm", FROZEN)
    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("training", [False, True])
    def test_folded_norm_has_the_gradients_of_the_unfolded(
        self, norm: str, bias: bool, training: bool
    ) -> None:
        ours, reference = make_pair(norm, bias=bias)
        ours.train(training)
        x = torch.randn(2, 8, 9, 11, dtype=torch.float64)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [ours(inputs[0]), reference(inputs[1])]
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-12, atol=1e-12)
        for output in outputs:
            (
                output
                * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
            ).sum().backward()
        pairs = [(inputs[0], inputs[1]), (ours.weight, reference[0].weight)]
        if bias:
            pairs.append((ours.bias, reference[0].bias))
        if norm == "FrozenStatisticsBN":
            pairs += [(ours.norm.weight, reference[1].weight), (ours.norm.bias, reference[1].bias)]
        for mine, expected in pairs:
            torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-12, atol=1e-12)
        assert {name for name, _ in ours.named_parameters()} == {
            "weight",
            *(["bias"] if bias else []),
            *(["norm.weight", "norm.bias"] if norm == "FrozenStatisticsBN" else []),
        }

    @pytest.mark.parametrize("norm", FROZEN)
    def test_autocast_folds_in_float32(self, norm: str) -> None:
        """Means are a thousand deviations: a norm of bfloat16 maps would lose all digits."""
        ours, reference = make_pair(norm, bias=True)
        for layer in (ours, reference[0]):
            nn.init.constant_(layer.bias, 1000)
        for layer in (ours.norm, reference[1]):
            layer.running_mean += 1000
        x = torch.randn(2, 8, 9, 11, dtype=torch.float64)
        expected = reference(x)
        ours.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = ours(x.float())
        assert output.dtype == torch.bfloat16
        assert (output - expected).abs().max() / expected.abs().max() < 0.01
        output.float().sum().backward()
        assert ours.weight.grad is not None and ours.weight.grad.dtype == torch.float32
        norm = ours.norm
        scale, shift = compute_scale_and_shift(
            norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps
        )
        assert scale.dtype == shift.dtype == torch.float32 and scale.shape == shift.shape == (12,)

    @pytest.mark.parametrize("norm", ["", *FROZEN, "BN", "SyncBN"])
    def test_layers_of_half_numbers_run(self, norm: str) -> None:
        layer = ConvNorm(4, 4, 1, norm=norm).to(torch.bfloat16).eval()
        assert layer(torch.ones(1, 4, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16

    def test_second_derivatives_are_right(self) -> None:
        layer, _ = make_pair("FrozenBN", bias=True)
        x = torch.randn(1, 8, 4, 3, dtype=torch.float64, requires_grad=True)
        values = (x, *layer.parameters())

        def compute(x: Tensor, *parameters: Tensor) -> Tensor:
            named = dict(zip(("weight", "bias"), parameters))
            return torch.func.functional_call(layer, named, (x,))

        assert torch.autograd.gradcheck(compute, values)
        assert torch.autograd.gradgradcheck(compute, values)

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 4)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_no_folded_weight_is_kept_and_no_bit_of_a_gradient_changes(
        self, dtype: torch.dtype, kernel: int, groups: int, threads: int
    ) -> None:
        """The reference lets autograd keep the product of the weight and the norm."""
        layer = ConvNorm(64, 32, kernel, padding=kernel // 2, groups=groups, norm="FrozenBN")
        layer.norm.load_state_dict(make_batch_norm(32).state_dict())
        x = torch.randn(2, 64, 20, 24).contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        kept: list[Tensor] = []

        def keep(value: Tensor) -> Tensor:
            kept.append(value)
            return value

        def convolve(x: Tensor) -> Tensor:
            weight, bias = layer._fold_norm()
            dilation = 2 if layer._is_faster_dilated(x) else 1
            return F.conv2d(x, weight, bias, 1, kernel // 2, dilation, groups)

        results = []
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for compute in (layer, convolve):
                autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
                with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
                    out = compute(x)
                if compute is layer:
                    assert all(
                        value.untyped_storage().data_ptr() == layer.weight.data_ptr()
                        for value in kept
                        if value.shape == layer.weight.shape
                    )
                gradients = torch.autograd.grad(out.float().square().sum(), [x, layer.weight])
                results.append((out, *gradients))
        finally:
            torch.set_num_threads(before)
        for one, other in zip(*results):
            assert one.dtype == other.dtype and torch.equal(one, other)
        assert results[0][2].is_contiguous()

    def test_a_weight_changed_before_the_backward_pass_is_refused(self) -> None:
        layer = ConvNorm(4, 6, 1, norm="FrozenBN")
        out = layer(torch.randn(1, 4, 3, 3))
        with torch.no_grad():
            layer.weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()

    @pytest.mark.parametrize("norm", FROZEN)
    def test_no_image_passes_forward_and_backward(self, norm: str) -> None:
        layer = ConvNorm(4, 6, 3, stride=2, padding=1, norm=norm)
        output = layer(torch.zeros(0, 4, 14, 14))
        assert output.shape == (0, 6, 7, 7)
        output.sum().backward()
        assert not layer.weight.grad.any()

    @pytest.mark.parametrize(
        ("norm", "bias", "expected"), [("", None, True), ("BN", None, False), ("BN", True, True)]
    )
    def test_bias_exactly_without_norm_unless_told(
        self, norm: str, bias: bool | None, expected: bool
    ) -> None:
        assert (ConvNorm(3, 4, 1, norm=norm, bias=bias).bias is not None) is expected

    def test_norm_and_activation_in_order(self) -> None:
        layer = ConvNorm(3, 64, 3, padding=1, norm="GN", activation=torch.relu_)
        nn.init.normal_(layer.norm.weight)
        x = torch.randn(2, 3, 5, 6)
        expected = F.relu(
            F.group_norm(
                F.conv2d(x, layer.weight, padding=1), 32, layer.norm.weight, layer.norm.bias
            )
        )
        torch.testing.assert_close(layer(x), expected)

    def test_a_changed_weight_counts_at_once(self) -> None:
        """Nothing folded is remembered, not even in inference."""
        layer = ConvNorm(3, 4, 1, norm="FrozenBN").eval()
        x = torch.randn(1, 3, 4, 4)
        with torch.no_grad():
            before = layer(x)
            layer.weight.data *= 2
            torch.testing.assert_close(layer(x), before * 2)
            layer.norm.bias += 1
            torch.testing.assert_close(layer(x), before * 2 + 1)


class TestNorms:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("", type(None)),
            ("FrozenBN", FrozenBatchNorm2d),
            ("BN", nn.BatchNorm2d),
            ("SyncBN", nn.SyncBatchNorm),
            ("GN", nn.GroupNorm),
            ("FrozenStatisticsBN", FrozenStatisticsBatchNorm2d),
        ],
    )
    def test_by_name(self, name: str, kind: type) -> None:
        assert isinstance(make_norm(name, 64), kind)

    def test_unknown_name_lists_the_known(self) -> None:
        with pytest.raises(ValueError, match=r"'LN'.*'FrozenBN'.*'GN'"):
            make_norm("LN", 64)

    def test_group_norm_has_32_groups_or_says_why_not(self) -> None:
        assert make_norm("GN", 96).num_groups == 32  # type: ignore[union-attr]
        with pytest.raises(ValueError, match=r'32 groups.*80 channels.*"BN"'):
            make_norm("GN", 80)

    def test_synchronized_norm_in_one_process_is_a_batch_norm(self) -> None:
        x = torch.randn(4, 8, 5, 5)
        torch.testing.assert_close(make_norm("SyncBN", 8)(x), nn.BatchNorm2d(8)(x))  # type: ignore[misc]

    def test_synchronized_norm_on_cpu_names_the_remedy(self, tmp_path: Path) -> None:
        norm = make_norm("SyncBN", 8)
        assert norm is not None
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
        )
        try:
            with pytest.raises(ValueError, match=r'MODEL\.RESNETS\.NORM to "BN"'):
                norm(torch.randn(4, 8, 5, 5))
            assert norm.eval()(torch.randn(4, 8, 5, 5)).shape == (4, 8, 5, 5)
        finally:
            torch.distributed.destroy_process_group()

    @pytest.mark.parametrize("name", FROZEN)
    def test_frozen_norm_alone_is_a_batch_norm_in_inference(self, name: str) -> None:
        reference, norm = make_batch_norm(6), make_norm(name, 6)
        assert norm is not None
        norm.load_state_dict(reference.state_dict())
        norm.eps = reference.eps
        x = torch.randn(2, 6, 3, 4)
        torch.testing.assert_close(norm(x), reference(x))
        assert [p.requires_grad for p in norm.parameters()] == (
            [True, True] if name == "FrozenStatisticsBN" else []
        )

    @pytest.mark.parametrize("name", FROZEN)
    def test_frozen_norm_starts_as_the_identity(self, name: str) -> None:
        x = torch.randn(2, 6, 3, 4)
        torch.testing.assert_close(make_norm(name, 6)(x), x, rtol=1e-6, atol=1e-6)  # type: ignore[misc]


def drop_count(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != "num_batches_tracked"}


class TestStateOfFrozenNorms:
    @pytest.mark.parametrize("kind", [FrozenBatchNorm2d, FrozenStatisticsBatchNorm2d])
    def test_moves_strictly_from_and_to_batch_norm(self, kind: type) -> None:
        reference, frozen, back = make_batch_norm(6), kind(6), nn.BatchNorm2d(6)
        given = reference.state_dict()
        frozen.load_state_dict(given, strict=True)
        assert "num_batches_tracked" in given and "num_batches_tracked" not in frozen.state_dict()
        back.load_state_dict(frozen.state_dict(), strict=True)
        torch.testing.assert_close(
            drop_count(back.state_dict()), drop_count(reference.state_dict()), rtol=0, atol=0
        )

    @pytest.mark.detectron2
    def test_moves_strictly_from_and_to_detectron2(self, theirs: Any) -> None:
        reference, frozen, back = (
            make_batch_norm(6),
            FrozenBatchNorm2d(6),
            theirs.FrozenBatchNorm2d(6),
        )
        initial = theirs.FrozenBatchNorm2d(6).state_dict()
        assert list(frozen.state_dict()) == list(initial)
        torch.testing.assert_close(dict(frozen.state_dict()), dict(initial), rtol=0, atol=0)
        frozen.load_state_dict(
            theirs.FrozenBatchNorm2d.convert_frozen_batchnorm(reference).state_dict(), strict=True
        )
        back.load_state_dict(frozen.state_dict(), strict=True)
        frozen.load_state_dict(back.state_dict(), strict=True)
        torch.testing.assert_close(
            dict(frozen.state_dict()), drop_count(reference.state_dict()), rtol=0, atol=0
        )

    @pytest.mark.detectron2
    def test_caffe2_state_without_statistics_is_read_as_detectron2_reads_it(
        self, theirs: Any
    ) -> None:
        """Files of Caffe2 hold weight and bias only, and no version."""
        state = {"weight": torch.rand(6), "bias": torch.randn(6)}
        frozen, expected = FrozenBatchNorm2d(6), theirs.FrozenBatchNorm2d(6)
        frozen.load_state_dict(state)
        expected.load_state_dict(state)
        torch.testing.assert_close(
            dict(frozen.state_dict()), dict(expected.state_dict()), rtol=0, atol=0
        )

    @pytest.mark.parametrize("key", ["weight", "bias", "running_mean", "running_var"])
    def test_a_missing_number_is_missed(self, key: str) -> None:
        state = FrozenBatchNorm2d(6).state_dict()
        del state[key]
        with pytest.raises(RuntimeError, match=f'Missing key.*"{key}"'):
            FrozenBatchNorm2d(6).load_state_dict(state)

    def test_a_batch_norm_without_statistics_is_refused(self) -> None:
        with pytest.raises(RuntimeError, match="running_mean"):
            FrozenBatchNorm2d(6).load_state_dict(
                nn.BatchNorm2d(6, track_running_stats=False).state_dict()
            )

    def test_an_unknown_key_is_unexpected(self) -> None:
        with pytest.raises(RuntimeError, match="Unexpected key"):
            FrozenBatchNorm2d(6).load_state_dict(
                {**FrozenBatchNorm2d(6).state_dict(), "gamma": torch.ones(6)}
            )


def make_nets() -> list[nn.Module]:
    synchronized = make_norm("SyncBN", 6)
    assert synchronized is not None
    synchronized.load_state_dict(make_batch_norm(6).state_dict())
    return [
        make_batch_norm(6),
        nn.Sequential(nn.Conv2d(3, 6, 1), make_batch_norm(6), nn.Sequential(synchronized)).eval(),
        nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, affine=False), nn.GroupNorm(2, 6)
        ).eval(),
    ]


class TestFreezeNorms:
    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_outputs_stay(self, index: int) -> None:
        module = make_nets()[index]
        x = torch.randn(2, 6 if index == 0 else 3, 4, 5)
        expected = module(x)
        frozen = freeze_norms(copy.deepcopy(module)).train()
        torch.testing.assert_close(frozen(x), expected, rtol=1e-5, atol=1e-6)
        assert not any(
            isinstance(child, nn.modules.batchnorm._BatchNorm) for child in frozen.modules()
        )

    @pytest.mark.detectron2
    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_state_is_that_of_detectron2(self, theirs: Any, index: int) -> None:
        module = make_nets()[index]
        expected = theirs.FrozenBatchNorm2d.convert_frozen_batchnorm(
            copy.deepcopy(module)
        ).state_dict()
        frozen = freeze_norms(module)
        assert list(frozen.state_dict()) == list(expected)
        torch.testing.assert_close(dict(frozen.state_dict()), dict(expected), rtol=0, atol=0)
        frozen.load_state_dict(expected, strict=True)

    def test_without_statistics_is_refused(self) -> None:
        with pytest.raises(ValueError, match="track_running_stats=True"):
            freeze_norms(nn.Sequential(nn.BatchNorm2d(6, track_running_stats=False)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_1x1_convolution_and_its_gradients_are_right_on_any_threads(
    threads: int, channels_last: bool
) -> None:
    """On one thread it is called dilated; the reference is float64, where it is not."""
    torch.manual_seed(0)
    layer = ConvNorm(64, 32, kernel_size=1, norm="FrozenBN")
    memory = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 64, 40, 60).contiguous(memory_format=memory).requires_grad_()
    reference, exact = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = layer(x)
        out.square().mean().backward()
    finally:
        torch.set_num_threads(before)
    expected = reference(exact)
    expected.square().mean().backward()
    assert out.is_contiguous(memory_format=memory)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)
    for found, wanted in ((layer.weight, reference.weight), (x, exact)):
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=1e-4, atol=1e-8)
