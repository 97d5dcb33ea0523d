"""MLPerf's RetinaNet, against torchvision's of the same weights and settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from resnext_det.config import load_config
from resnext_det.config.rules import read_settings
from resnext_det.detection.portable.build import build_detector
from resnext_det.instances import Boxes, Instances
from resnext_det.training.schedule import ScheduleSettings, build_schedule
from resnext_det.weights import load_weights, read_weights
from resnext_det.weights.formats import convert_to_native
from tests.detection.helpers import as_overrides, override
from tests.weights.helpers import THIN, list_keys, save, torchvision_retinanet

CONFIG = "mlperf/retinanet_X50_32x4d_FPN.yaml"
HEIGHT, WIDTH = 96, 160
SMALL = [
    *override("MODEL", DEVICE="cpu", WEIGHTS=""),
    *list_keys(THIN),
    *override("MODEL.FPN", OUT_CHANNELS=16),
    *override("MODEL.RETINANET", NUM_CLASSES=3),
    *override("INPUT", STRETCH=(HEIGHT, WIDTH)),
]


def configure(*changes: Any) -> CfgNode:
    return load_config(CONFIG, as_overrides([*SMALL, *changes]))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, nn.Module]:
    """Build ours, with the weights that were read of theirs; the latter stretches images itself."""
    torch.manual_seed(0)
    theirs = torchvision_retinanet(3, detections_per_img=300, fixed_size=(WIDTH, HEIGHT))
    for name, tensor in theirs.state_dict().items():
        if ".bn" in name or ".downsample.1" in name:
            nn.init.uniform_(
                tensor, *((0.5, 1.5) if name.endswith(("weight", "var")) else (-0.1, 0.1))
            )
        elif name.endswith("cls_logits.bias"):
            nn.init.normal_(tensor, -3.0, 1.0)
        elif name.endswith(("cls_logits.weight", "bbox_reg.weight")):
            nn.init.normal_(tensor, std=0.05)
    ours = build_detector(configure())
    file = read_weights(save({"model": theirs.state_dict()}, tmp_path_factory.mktemp("weights")))
    report = load_weights(ours, file)
    assert not (report.missing or report.unused)
    return ours, theirs


def draw_images(height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        for _ in range(2)
    ]


@torch.inference_mode()
def test_detections_are_torchvisions(pair: tuple[nn.Module, nn.Module]) -> None:
    ours, theirs = (model.eval() for model in pair)
    images = draw_images(HEIGHT, WIDTH)
    expected = theirs([image / 255 for image in images])
    found = [one["instances"] for one in ours([{"image": image} for image in images])]
    for one, wanted in zip(found, expected):
        # Ours leave boxes without area out.
        kept = (wanted["boxes"][:, 2:] > wanted["boxes"][:, :2]).all(dim=1)
        assert 20 < len(one) == int(kept.sum())
        assert torch.equal(one.pred_classes, wanted["labels"][kept])
        torch.testing.assert_close(one.scores, wanted["scores"][kept], rtol=0, atol=1e-5)
        boxes = wanted["boxes"][kept]
        torch.testing.assert_close(one.pred_boxes.tensor, boxes, rtol=1e-5, atol=1e-4)


def test_losses_and_gradients_are_torchvisions(pair: tuple[nn.Module, nn.Module]) -> None:
    """An image without objects, too, has its share of the losses."""
    ours, theirs = (model.train() for model in pair)
    boxes = torch.tensor(
        [[10.0, 12.0, 50.0, 60.0], [40.0, 5.0, 150.0, 90.0], [3.0, 4.0, 9.0, 11.0]]
    )
    classes = torch.tensor([0, 2, 1])
    images, targets = draw_images(HEIGHT, WIDTH), [(boxes, classes), (boxes[:0], classes[:0])]
    expected = theirs(
        [image / 255 for image in images],
        [{"boxes": given, "labels": labels} for given, labels in targets],
    )
    samples = [
        {
            "image": image,
            "instances": Instances((HEIGHT, WIDTH), gt_boxes=Boxes(given), gt_classes=labels),
        }
        for image, (given, labels) in zip(images, targets)
    ]
    found = ours(samples)
    for name, other in (("loss_cls", "classification"), ("loss_box_reg", "bbox_regression")):
        torch.testing.assert_close(found[name], expected[other], rtol=1e-5, atol=0)
    for losses in (found, expected):
        sum(losses.values()).backward()
    renamed = convert_to_native(
        {name: parameter.grad for name, parameter in theirs.named_parameters()}
    ).state
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            wanted = renamed[name]
            torch.testing.assert_close(
                parameter.grad, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max())
            )


@pytest.mark.detectron2
def test_detectron2s_engine_refuses_it() -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from resnext_det.detection.detectron2.engine import load_config as load_for_detectron2

    with pytest.raises(ValueError, match="AS_TORCHVISION = True: detectron2 has"):
        load_for_detectron2(CONFIG)


def test_the_configuration_is_of_the_published_network() -> None:
    with torch.device("meta"):
        ours = build_detector(load_config(CONFIG))
        body = resnet_fpn_backbone(
            backbone_name="resnext50_32x4d",
            weights=None,
            returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(256, 256),
        )
        theirs = RetinaNet(body, 264)
    wanted = convert_to_native(theirs.state_dict()).state
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }
    frozen = {name.split(".")[2] for name, p in ours.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"}
    assert [list(level) for level in theirs.anchor_generator.sizes] == (
        load_config(CONFIG).MODEL.ANCHOR_GENERATOR.SIZES
    )


def test_the_training_is_the_published_one() -> None:
    """Adam at a constant 1e-4 after an epoch of 1,170,301 images, of four in batches of 256."""
    solver = load_config("mlperf/retinanet_X50_32x4d_FPN.yaml").SOLVER
    schedule = build_schedule(read_settings(ScheduleSettings, solver))
    rates = [solver.BASE_LR * schedule(step) for step in range(solver.MAX_ITER)]
    epoch = 1_170_301 / 256
    assert rates[0] == pytest.approx(1e-7)
    assert rates[int(epoch / 2)] == pytest.approx(0.5 * 1e-4, rel=0.01)
    assert set(rates[round(epoch) :]) == {1e-4}
    assert len(rates) == round(4 * epoch)
    assert (solver.OPTIMIZER, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM) == ("Adam", 0, 0)
