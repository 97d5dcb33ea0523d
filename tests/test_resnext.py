"""The network against torchvision's, timm's and detectron2's with the same random weights."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import Bottleneck as TorchvisionBottleneck

from resnext_det.architecture import Architecture
from resnext_det.config.backbone import write_architecture
from resnext_det.layers import ConvNorm
from resnext_det.resnext import ResNeXt, ResNeXtClassifier, make_stage

STAGES = ("stem", "res2", "res3", "res4", "res5")
SMALL = Architecture(26, 4, 16)  # 32 divides all its channels, so that every norm fits
TINY = Architecture(26, 2, 4, stem_channels=8, res2_channels=16)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Move every norm away from its initial values, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if module.__class__.__name__ == "Linear":
            continue
        for name, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.5, 0.5),
            ("running_mean", -0.5, 0.5),
            ("running_var", 0.5, 1.5),
        ):
            tensor = getattr(module, name, None)
            if tensor is not None and tensor.dim() == 1:
                tensor.data.uniform_(low, high, generator=generator)
    return model


def convert_name(key: str) -> str:
    """Convert the name of a tensor of torchvision or timm to ours."""
    key = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", key)
    key = re.sub(r"^(conv1|bn1)", r"stem.\1", key)
    key = re.sub(r"bn(\d)", r"conv\1.norm", key)
    return (
        key.replace("downsample.0", "shortcut")
        .replace("downsample.1", "shortcut.norm")
        .replace("fc.", "linear.")
    )


def compute_features(model: Any, images: Tensor) -> dict[str, Tensor]:
    """Compute the maps of all stages of a ResNet of torchvision or timm."""
    act = model.relu if hasattr(model, "relu") else model.act1
    x = model.maxpool(act(model.bn1(model.conv1(images))))
    features = {"stem": x}
    for name, layer in zip(
        STAGES[1:], (model.layer1, model.layer2, model.layer3, model.layer4), strict=True
    ):
        features[name] = x = layer(x)
    return features


def find_difference(ours: Tensor, reference: Tensor) -> float:
    """Find the largest difference, relative to the largest number of the reference."""
    assert ours.shape == reference.shape
    return ((ours - reference).abs().max() / reference.abs().max()).item()


def assert_same_features(
    ours: nn.Module, reference: nn.Module, images: Tensor, limit: float = 1e-5
) -> None:
    features, expected = ours(images), compute_features(reference, images)
    differences = {name: find_difference(features[name], expected[name]) for name in STAGES}
    assert max(differences.values()) < limit, differences


def load(ours: nn.Module, reference: nn.Module) -> None:
    state = {convert_name(key): value for key, value in reference.state_dict().items()}
    if not isinstance(ours, ResNeXtClassifier):
        state = {key: value for key, value in state.items() if not key.startswith("linear.")}
    ours.load_state_dict(state, strict=True)


PAIRS = [
    ("resnet50", "R-50"),
    ("resnext50_32x4d", "X-50-32x4d"),
    ("resnext101_32x8d", "X-101-32x8d"),
    pytest.param("resnext101_64x4d", "X-101-64x4d", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "text"), PAIRS)
@torch.no_grad()
def test_every_map_in_inference_is_torchvisions(name: str, text: str) -> None:
    """A frozen norm computes in training, too, what a batch norm computes in inference."""
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    reference = randomize(torchvision.models.get_model(name)).eval()
    for norm in ("BN", "FrozenBN"):
        ours = ResNeXt(Architecture.parse(text), norm=norm, out_features=STAGES)
        load(ours, reference)
        for training in {False, norm == "FrozenBN"}:
            assert_same_features(ours.train(training), reference, images)


@pytest.mark.parametrize(("name", "text"), PAIRS)
@torch.no_grad()
def test_every_map_in_training_is_torchvisions(name: str, text: str) -> None:
    """Float32 is compared in our memory format, float64 in the usual one.

    Batch statistics multiply rounding errors a thousandfold over these depths: torchvision's own
    float32 maps change by 6e-4 with their memory format.
    """
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    reference = randomize(torchvision.models.get_model(name)).train()
    ours = ResNeXt(Architecture.parse(text), norm="BN", out_features=STAGES).train()
    load(ours, reference)
    channels_last = copy.deepcopy(reference).to(memory_format=torch.channels_last)
    assert_same_features(ours, channels_last, images.to(memory_format=torch.channels_last))
    if "50" in name:
        assert_same_features(ours.double(), reference.double(), images.double(), limit=1e-10)


def make_torchvision_network(in_channels: int = 3, **options: Any) -> Any:
    model = torchvision.models.ResNet(
        TorchvisionBottleneck, [2, 2, 2, 2], num_classes=10, groups=4, width_per_group=16, **options
    )
    model.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
    return randomize(model)


@pytest.mark.parametrize("in_channels", [1, 4])
@pytest.mark.parametrize("size", [(33, 50), (32, 32), (65, 31)])
@torch.no_grad()
def test_other_channels_and_odd_sizes(in_channels: int, size: tuple[int, int]) -> None:
    reference = make_torchvision_network(in_channels).eval()
    ours = ResNeXt(SMALL, out_features=STAGES, in_channels=in_channels)
    load(ours, reference)
    assert_same_features(ours, reference, torch.randn(1, in_channels, *size))


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "FrozenStatisticsBN", "SyncBN"])
def test_every_gradient_is_torchvisions(norm: str) -> None:
    """Of every trained parameter and the images, in float64, through folded norms."""
    reference = make_torchvision_network().double()
    ours = ResNeXt(SMALL, norm=norm, out_features=STAGES).double()
    load(ours, reference)
    reference.train(norm in ("BN", "SyncBN"))
    images = [torch.randn(2, 3, 64, 64, dtype=torch.float64).requires_grad_()]
    images.append(images[0].detach().clone().requires_grad_())
    for features in (ours(images[0]), compute_features(reference, images[1])):
        sum(((x * x).mean() for x in features.values()), torch.zeros(())).backward()
    gradients = {
        convert_name(name): parameter.grad for name, parameter in reference.named_parameters()
    }
    assert find_difference(images[0].grad, images[1].grad) < 1e-10  # type: ignore[arg-type]
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert find_difference(parameter.grad, gradients[name]) < 1e-9, name


@torch.no_grad()
def test_statistics_after_training_are_torchvisions() -> None:
    reference, images = (
        make_torchvision_network().double().train(),
        torch.randn(4, 3, 64, 64, dtype=torch.float64),
    )
    ours = ResNeXtClassifier(SMALL, 10).double()
    load(ours, reference)
    assert find_difference(ours(images), reference(images)) < 1e-10
    expected = {convert_name(key): value for key, value in reference.state_dict().items()}
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-10, atol=1e-10, msg=key)


@torch.no_grad()
def test_classifier_gives_torchvisions_logits_and_shares_its_keys_with_the_backbone() -> None:
    reference, images = make_torchvision_network().eval(), torch.randn(2, 3, 64, 80)
    classifier = ResNeXtClassifier(SMALL, 10).eval()
    load(classifier, reference)
    assert find_difference(classifier(images), reference(images)) < 1e-5
    state = {
        key: value
        for key, value in classifier.state_dict().items()
        if not key.startswith("linear.")
    }
    backbone = ResNeXt(SMALL, out_features=["res5"])
    backbone.load_state_dict(state, strict=True)
    assert (
        find_difference(backbone(images)["res5"], compute_features(reference, images)["res5"])
        < 1e-5
    )


@torch.no_grad()
def test_group_norm_is_timms() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    reference = randomize(
        timm.models.resnet.ResNet(
            timm.models.resnet.Bottleneck,
            (2, 2, 2, 2),
            cardinality=4,
            base_width=16,
            norm_layer=timm.layers.GroupNorm,
        )
    )
    ours = ResNeXt(SMALL, norm="GN", out_features=STAGES)
    load(ours, reference)
    assert_same_features(ours, reference, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize(
    "text", ["R-50", "X-50-4x24d", "X-101-64x4d", "X-152-32x8d", "ResNet-200", "X-26-2x8d"]
)
def test_the_module_has_the_counts_of_its_architecture(text: str) -> None:
    architecture = Architecture.parse(text)
    with torch.device("meta"):
        model = ResNeXtClassifier(architecture)
        images = torch.empty(2, 3, 193, 260)
    assert (
        sum(parameter.numel() for parameter in model.parameters()) == architecture.num_parameters()
    )
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert counter.get_total_flops() == 2 * 2 * architecture.multiply_adds(193, 260)


@pytest.fixture(scope="module")
def build() -> Any:
    """Build detectron2's own backbone from an architecture and settings."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    def build(
        architecture: Architecture, freeze_at: int = 0, in_channels: int = 3, **resnets: Any
    ) -> Any:
        cfg = get_cfg()
        cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
        settings = {**write_architecture(architecture), **resnets}
        cfg.MODEL.RESNETS.merge_from_list([part for pair in settings.items() for part in pair])
        return build_resnet_backbone(cfg, ShapeSpec(channels=in_channels))

    return build


NARROW = Architecture(50, 4, 4, stem_channels=32, res2_channels=64)


@pytest.mark.detectron2
class TestAgainstDetectron2:
    @pytest.mark.parametrize("stride_in_1x1", [False, True])
    @pytest.mark.parametrize("dilation", [1, 2])
    @pytest.mark.parametrize(
        ("norm", "training"), [("FrozenBN", True), ("FrozenBN", False), ("BN", True)]
    )
    def test_features(
        self, build: Any, stride_in_1x1: bool, dilation: int, norm: str, training: bool
    ) -> None:
        reference = build(
            NARROW,
            in_channels=4,
            NORM=norm,
            STRIDE_IN_1X1=stride_in_1x1,
            RES5_DILATION=dilation,
            OUT_FEATURES=list(STAGES),
        )
        ours = ResNeXt(
            NARROW,
            norm=norm,
            out_features=STAGES,
            stride_in_1x1=stride_in_1x1,
            dilate_res5=dilation == 2,
            in_channels=4,
        )
        ours.load_state_dict(randomize(reference).state_dict(), strict=True)
        reference.load_state_dict(ours.state_dict(), strict=True)
        # Batch statistics multiply rounding errors, hence their float64.
        dtype, limit = (torch.float64, 1e-10) if norm == "BN" else (torch.float32, 1e-5)
        images = torch.randn(2, 4, 64, 96, dtype=dtype)
        features, expected = (
            model.to(dtype).train(training)(images) for model in (ours, reference)
        )
        assert list(features) == list(expected)
        assert max(find_difference(features[name], expected[name]) for name in STAGES) < limit
        shapes = reference.output_shape()
        assert ours.out_channels == {name: shape.channels for name, shape in shapes.items()}
        assert ours.out_strides == {name: shape.stride for name, shape in shapes.items()}

    @pytest.mark.parametrize("norm", ["BN", "FrozenBN", "GN", "SyncBN"])
    @pytest.mark.parametrize("at", range(6))
    def test_freeze(self, build: Any, norm: str, at: int) -> None:
        """The same keys and parameters in the same order, of which the same are trained."""
        architecture = Architecture(50, 8, 4, stem_channels=32, res2_channels=64)
        reference = build(architecture, freeze_at=at, NORM=norm, OUT_FEATURES=["res5"])
        backbone = ResNeXt(architecture, norm=norm, out_features=["res5"])
        ours = backbone.freeze(at)
        assert ours is backbone
        assert list(ours.state_dict()) == list(reference.state_dict())
        trained, expected = (
            [
                (name, parameter.shape, parameter.requires_grad)
                for name, parameter in model.named_parameters()
            ]
            for model in (ours, reference)
        )
        assert trained == expected
        norms, theirs = (
            {
                name: type(module).__name__
                for name, module in model.named_modules()
                if name.endswith("norm")
            }
            for model in (ours, reference)
        )
        assert {name.replace("Synchronized", "").replace("2d", "") for name in norms.values()} == {
            name.replace("Sync", "").replace("2d", "") for name in theirs.values()
        }
        ours.load_state_dict(randomize(reference).state_dict(), strict=True)

    @pytest.mark.parametrize("out_features", [["stem"], ["res4"], ["res2", "res3"]])
    def test_same_seed_gives_the_same_initial_weights(
        self, build: Any, out_features: list[str]
    ) -> None:
        """To the last bit; stages beyond the last requested one are not built."""
        torch.manual_seed(3)
        expected = build(NARROW, NORM="BN", OUT_FEATURES=out_features).state_dict()
        torch.manual_seed(3)
        state = ResNeXt(NARROW, norm="BN", out_features=out_features).state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[key], expected[key]) for key in state)

    def test_a_stage_alone_is_the_head_of_c4(self, build: Any) -> None:
        from detectron2.config import get_cfg
        from detectron2.modeling.roi_heads import Res5ROIHeads

        cfg = get_cfg()
        cfg.MODEL.RESNETS.merge_from_list(
            ["NUM_GROUPS", 4, "WIDTH_PER_GROUP", 4, "RES2_OUT_CHANNELS", 64]
        )
        reference, channels = Res5ROIHeads._build_res5_block(cfg)
        stage = make_stage(NARROW, "res5", stride_in_1x1=cfg.MODEL.RESNETS.STRIDE_IN_1X1)
        stage.load_state_dict(randomize(reference).state_dict(), strict=True)
        regions = torch.randn(5, 256, 14, 14)
        assert find_difference(stage(regions), reference(regions)) < 1e-5
        assert stage(regions).shape == (5, channels, 7, 7)
        assert stage(regions[:0]).shape == (0, channels, 7, 7)


@pytest.mark.parametrize(("name", "dilate"), [("res2", False), ("res5", False), ("res5", True)])
def test_a_stage_by_name_tells_its_shape(name: str, dilate: bool) -> None:
    """Its attributes are those of the maps that it takes and gives."""
    with torch.device("meta"):
        stage: Any = make_stage("X-26-8x4d", name, dilate=dilate, norm="BN")
        given = torch.empty(2, stage.in_channels, 32, 32)
        assert stage(given).shape == (2, stage.out_channels, 32 // stage.stride, 32 // stage.stride)
        named = make_stage(Architecture(26, 8, 4), name, norm="BN", out_channels=stage.out_channels)
    assert list(named.state_dict()) == list(stage.state_dict())


class TestInitialValues:
    def test_convolutions_follow_the_paper(self) -> None:
        """std sqrt(2 / (k * k * out_channels)): the groups do not divide."""
        for name, module in make_stage(Architecture(50, 32, 4), "res4").named_modules():
            if isinstance(module, ConvNorm):
                std = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
                assert module.weight.std().item() == pytest.approx(std, rel=0.02), name
                assert abs(module.weight.mean().item()) < 0.02 * std

    def test_classifier(self) -> None:
        """As Torch 7's nn.Linear: uniform within 1 / sqrt(in_features); the bias is 0."""
        linear = ResNeXtClassifier(TINY, 1000).linear
        bound = linear.in_features**-0.5
        assert 0.99 * bound < linear.weight.abs().max().item() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert not linear.bias.any()


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("contiguous", [False, True])
def test_maps_are_channels_last_and_parameters_contiguous(
    norm: str, training: bool, contiguous: bool
) -> None:
    model = ResNeXt(SMALL, norm=norm, out_features=STAGES).train(training)
    model.contiguous_features = contiguous
    vector = nn.utils.parameters_to_vector(model.parameters())  # which fails on other memory
    assert vector.numel() == sum(p.numel() for p in model.parameters())
    for name, x in model(torch.randn(2, 3, 64, 96)).items():
        assert x.is_contiguous(memory_format=torch.channels_last) == (not contiguous), name
        assert x.is_contiguous() == contiguous, name
        assert x.shape == (
            2,
            model.out_channels[name],
            64 // model.out_strides[name],
            96 // model.out_strides[name],
        )


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
def test_autocast_is_near_float32(norm: str) -> None:
    model = randomize(ResNeXt(SMALL, norm=norm, out_features=STAGES)).eval()
    images = torch.randn(1, 3, 64, 64)
    expected = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model(images)
    assert max(find_difference(features[name].float(), expected[name]) for name in STAGES) < 0.05
    sum(x.float().sum() for x in features.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_tracing_scripting_compiling_and_copying_give_the_same(norm: str) -> None:
    model = randomize(ResNeXtClassifier(TINY, 10, norm=norm)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        traced = torch.jit.trace(model, images)
        other = torch.randn(1, 3, 96, 64)
        torch.testing.assert_close(traced(other), model(other))
        torch.testing.assert_close(torch.jit.script(model)(other), model(other))
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(images), expected)
        torch.testing.assert_close(copy.deepcopy(model)(images), expected, rtol=0, atol=0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("shape", "said"),
        [
            ((3, 64, 64), r"\(3, 64, 64\).*four dimensions \(N, 3, H, W\)"),
            ((1, 4, 64, 64), r"\(1, 4, 64, 64\).*\(N, 3, H, W\)"),
        ],
    )
    def test_images_of_another_shape(self, shape: tuple[int, ...], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            ResNeXt(TINY)(torch.zeros(shape))

    @pytest.mark.parametrize("out_features", [[], ["res6"], ["res4", "linear"], "res4"])
    def test_unknown_features(self, out_features: Any) -> None:
        with pytest.raises(ValueError, match="stem, res2, res3, res4, res5"):
            ResNeXt(TINY, out_features=out_features)

    @pytest.mark.parametrize("at", ["2", 1.5, None])
    def test_freezing_at_what_is_no_integer(self, at: Any) -> None:
        with pytest.raises(ValueError, match=re.escape(repr(at))):
            ResNeXt(TINY).freeze(at)

    def test_unknown_stage(self) -> None:
        with pytest.raises(ValueError, match=r"'res6'.*res2, res3, res4, res5"):
            make_stage(TINY, "res6")

    def test_stage_of_other_channels(self) -> None:
        with pytest.raises(
            ValueError, match=r"out_channels is 512, but res5 .*has 2048; write 2048"
        ):
            make_stage("X-26-8x4d", "res5", out_channels=512)

    @pytest.mark.parametrize("num_classes", [0, -1])
    def test_no_classes(self, num_classes: int) -> None:
        with pytest.raises(ValueError, match=f"num_classes is {num_classes}"):
            ResNeXtClassifier(TINY, num_classes)

    def test_group_norm_that_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match="8 channels"):
            ResNeXt(TINY, norm="GN")


DYNAMIC = ({0: torch.export.Dim("batch", min=1, max=16)},)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
def test_the_network_exports(norm: str) -> None:
    """``torch.export`` keeps every feature map, also for batches of other sizes."""
    network = randomize(ResNeXt(SMALL, norm=norm, out_features=("res2", "res5"))).eval()
    images = torch.randn(3, 3, 64, 96)
    exported = torch.export.export(network, (images[:2],), dynamic_shapes=DYNAMIC, strict=False)
    found, expected = exported.module()(images), network(images)
    assert list(found) == list(expected) == ["res2", "res5"]
    for name, values in expected.items():  # by rounding, since one thread runs other kernels
        assert find_difference(found[name], values) < 1e-6


def test_the_network_exports_to_onnx(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import onnxruntime

    network = randomize(ResNeXt(SMALL, out_features=("res4", "res5"))).eval()
    images = torch.randn(2, 3, 64, 96)
    file = tmp_path / "network.onnx"
    torch.onnx.export(network, (images,), file, dynamo=True, output_names=["res4", "res5"])
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    found = session.run(["res4", "res5"], {given.name: images.numpy()})
    for values, expected in zip(found, network(images).values()):
        torch.testing.assert_close(torch.from_numpy(values), expected, rtol=1e-4, atol=1e-5)
