"""Both engines build every configuration, make a step and detect, with equal numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from resnext_det.config import config_file, load_config  # noqa: E402
from resnext_det.detection.detectron2 import engine as detectron2  # noqa: E402
from resnext_det.detection.detectron2.datasets import convert_sample  # noqa: E402
from resnext_det.detection.detectron2.engine import build_detector, compile_focal_loss  # noqa: E402
from tests.detection.detectron2_reference import assert_same_instances, randomize  # noqa: E402
from tests.test_configs import (  # noqa: E402
    STEPPED,
    check_step,
    get_name,
    list_small_step,
    step_sample,
    train_one_step,
)

CONFIG = config_file("modern/faster_rcnn_X50_32x4d_FPN_1x.yaml")


@pytest.mark.parametrize("path", STEPPED, ids=get_name)
def test_both_engines_make_the_same_step_and_the_same_inference(path: Path) -> None:
    from detectron2.solver import build_optimizer
    from detectron2.utils.events import EventStorage

    if "mlperf" in path.parts:  # its anchors and losses are torchvision's
        with pytest.raises(ValueError, match="detectron2 has nothing like it"):
            detectron2.load_config(path, list_small_step(path))
        return
    compile_focal_loss()
    ours, found, losses = train_one_step(load_config(path, list_small_step(path)))
    check_step(ours, found, losses)
    cfg = detectron2.load_config(path, list_small_step(path))
    torch.manual_seed(1)
    theirs = build_detector(cfg)
    randomize(theirs, seed=0)
    sample = convert_sample(step_sample(cfg))
    optimizer = build_optimizer(cfg, theirs)
    torch.manual_seed(0)
    with EventStorage():
        expected = theirs.train()([sample])
    sum(expected.values()).backward()
    optimizer.step()
    values = {name: float(value.detach()) for name, value in expected.items()}
    assert values == pytest.approx(losses, rel=1e-5)
    state = theirs.state_dict()
    assert list(state) == list(ours.state_dict())
    for name, value in ours.state_dict().items():
        assert torch.equal(value, state[name]), name
    with torch.inference_mode():
        output: Any = theirs.eval()([sample])[0]
    (key,) = found
    assert list(output) == [key]
    assert_same_instances(found[key], output[key])


def test_the_first_lines_of_the_documentation_give_the_configuration_that_it_names() -> None:
    """Compare the page's lines with its YAML file: device and output differ."""
    page = (Path(__file__).parents[3] / "docs" / "detectron2.md").read_text(encoding="utf-8")
    lines: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], lines)
    found, expected = lines["cfg"], lines["get_cfg"]()
    expected.merge_from_file(str(CONFIG))
    for cfg in (found, expected):
        cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = "", "cpu"
    assert found == expected
