"""Every YAML file of detectron2's model zoo builds and trains alike on our backbone and on its own.

Nothing but MODEL.BACKBONE.NAME is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2 import model_zoo  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.layers import FrozenBatchNorm2d, deform_conv  # noqa: E402
from detectron2.modeling import META_ARCH_REGISTRY  # noqa: E402
from detectron2.modeling.backbone import build_backbone  # noqa: E402
from detectron2.structures import (  # noqa: E402
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
)
from detectron2.utils.events import EventStorage  # noqa: E402
from torchvision.ops import deform_conv2d  # noqa: E402

from resnext_det.detection.detectron2.backbone import ResNeXtBackbone  # noqa: E402
from tests.detection.detectron2_reference import randomize  # noqa: E402

ZOO = Path(model_zoo.__file__).parent / "configs"
FILES = sorted(str(file.relative_to(ZOO)) for file in ZOO.rglob("*.yaml"))
QUICK = (
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml",
)


def mark_slow(quick: Sequence[str]) -> list[Any]:
    """List the files of the zoo; those that are not in ``quick`` are slow cases."""
    return [file if file in quick else pytest.param(file, marks=pytest.mark.slow) for file in FILES]


OWN_NAMES = {
    "build_resnet_backbone": "build_resnext_backbone",
    "build_resnet_fpn_backbone": "build_resnext_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone": "build_retinanet_resnext_fpn_backbone",
}
HEIGHT, WIDTH = 96, 128


def load_both(file: str) -> tuple[Any, Any]:
    """Load a file of the zoo twice: with our backbone's name, and as it is."""
    ours, theirs = get_cfg(), get_cfg()
    for cfg in (ours, theirs):
        cfg.merge_from_file(str(ZOO / file))
        cfg.MODEL.DEVICE = "cpu"
    name = theirs.MODEL.BACKBONE.NAME
    if name not in OWN_NAMES:
        pytest.skip(f"MODEL.BACKBONE.NAME is {name}, which is no ResNet")
    ours.MODEL.BACKBONE.NAME = OWN_NAMES[name]
    return ours, theirs


def describe(backbone: nn.Module) -> dict[str, Any]:
    """List what a detector, an optimizer or a checkpoint sees of a backbone."""
    frozen = [name for name, m in backbone.named_modules() if isinstance(m, FrozenBatchNorm2d)]
    return {
        "state": [(name, value.shape) for name, value in backbone.state_dict().items()],
        "parameters": [(name, p.requires_grad) for name, p in backbone.named_parameters()],
        "frozen norms": frozen,
        "output shape": list(backbone.output_shape().items()),
        "size divisibility": backbone.size_divisibility,
        "padding": backbone.padding_constraints,
    }


@pytest.mark.parametrize("file", mark_slow(QUICK))
def test_it_has_detectron2s_keys_and_frozen_parameters(file: str) -> None:
    with torch.device("meta"):
        ours, theirs = (build_backbone(cfg) for cfg in load_both(file))
    assert isinstance(getattr(ours, "bottom_up", ours), ResNeXtBackbone)
    assert describe(ours) == describe(theirs)


@pytest.mark.parametrize("file", mark_slow(QUICK[:1]))
def test_it_trains_as_on_detectron2s_own(
    file: str, record_property: Callable[[str, object], None]
) -> None:
    """Features and the losses of a training step are equal, with equal weights and one seed."""
    features, losses = measure_differences(file)
    record_property("features", features)
    record_property("losses", losses)
    assert features < 1e-5 and losses < 1e-5


@pytest.fixture(autouse=True)
def _modulated_convolutions_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deform_conv, "modulated_deform_conv", convolve_modulated)


def convolve_modulated(x: Any, offset: Any, mask: Any, weight: Any, bias: Any, *sizes: Any) -> Any:
    """Compute detectron2's modulated convolution, which needs a GPU, by torchvision's operator."""
    stride, padding, dilation, _groups, _deformable_groups = sizes
    return deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)


def measure_differences(file: str) -> tuple[float, float]:
    """Measure the largest relative differences of the features, and of the losses."""
    configurations = load_both(file)
    for cfg in configurations:
        cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32  # in C4 res5 runs on each of them
    ours, theirs = map(build, configurations)
    assert_equal_states(ours, theirs)  # one seed, one detector
    randomize(theirs, seed=2)
    ours.load_state_dict(theirs.state_dict())  # strict
    images = torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    if configurations[0].MODEL.RESNETS.NORM != "FrozenBN":
        for model in (ours, theirs):
            compute_in_double(model.backbone)
    with torch.no_grad():
        found, expected = (model.backbone.eval()(images) for model in (ours, theirs))
    assert list(found) == list(expected)
    sample = draw_sample(configurations[0])
    losses, wanted = (compute_losses(model.train(), sample) for model in (ours, theirs))
    assert list(losses) == list(wanted)
    return (
        max(float((found[k] - v).abs().max() / v.abs().max()) for k, v in expected.items()),
        max(abs(losses[k] - v) / max(1.0, v) for k, v in wanted.items()),
    )


def compute_in_double(backbone: nn.Module) -> None:
    """Round its maps to float32 at the end alone: norms by their own statistics enlarge it."""
    backbone.double()
    backbone.register_forward_pre_hook(lambda _, images: (images[0].double(),))
    backbone.register_forward_hook(lambda _, _i, maps: {k: v.float() for k, v in maps.items()})


def assert_equal_states(ours: nn.Module, theirs: nn.Module) -> None:
    found, expected = ours.state_dict(), theirs.state_dict()
    assert list(found) == list(expected)
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def build(cfg: Any) -> nn.Module:
    torch.manual_seed(0)
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)


def compute_losses(model: nn.Module, sample: dict[str, Any]) -> dict[str, float]:
    torch.manual_seed(4)
    with EventStorage(), torch.no_grad():
        return {name: float(value) for name, value in model([sample]).items()}


def draw_sample(cfg: Any) -> dict[str, Any]:
    """Draw an image, and all on which the detector trains."""
    generator = torch.Generator().manual_seed(3)
    size = (HEIGHT, WIDTH)
    corners = torch.tensor([[8.0, 8.0, 72.0, 64.0], [40.0, 30.0, 120.0, 90.0]])
    truth = Instances(size, gt_boxes=Boxes(corners), gt_classes=torch.tensor([0, 0]))
    if cfg.MODEL.MASK_ON:
        polygons = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in corners.tolist()]
        truth.gt_masks = PolygonMasks(polygons)
    if cfg.MODEL.KEYPOINT_ON:
        places = corners[:, None, :2] + 40 * torch.rand(2, 17, 2, generator=generator)
        truth.gt_keypoints = Keypoints(torch.cat([places, torch.full((2, 17, 1), 2.0)], dim=2))
    sample = {"image": torch.randint(0, 255, (3, *size), generator=generator), "instances": truth}
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    sample["sem_seg"] = torch.randint(0, classes, size, generator=generator)
    if cfg.MODEL.LOAD_PROPOSALS:
        logits = torch.tensor([2.0, 1.0])
        boxes = Boxes(corners + 3)
        sample["proposals"] = Instances(size, proposal_boxes=boxes, objectness_logits=logits)
    return sample
