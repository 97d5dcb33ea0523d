"""Compare what often goes wrong for users: plain detectron2 goes on, at most with a warning; here
it is an error, or right."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.architecture import Architecture
from resnext_det.detection.portable.build import build_detector
from resnext_det.weights import check_preprocessing, load_weights, read_weights
from tests.weights.foreign_names import caffe2_arrays, detectron2_state, random_network
from tests.weights.hostile import Call
from tests.weights.test_file import (
    build,
    configuration,
    make_arrays,
    make_script_contents,
    torch_bytes,
)

NET = Architecture(26, 4, 8)
RGB = [
    "INPUT.FORMAT",
    "RGB",
    "MODEL.PIXEL_MEAN",
    [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD",
    [58.395, 57.12, 57.375],
]
IN_3X3 = ["MODEL.RESNETS.STRIDE_IN_1X1", False]
BACKBONE = 110  # tensors of the stem and res2 to res4: 22 convolutions, each with a norm of four


def of_torchvision(network: Any, folder: Path) -> bytes:
    return pickle.dumps(make_script_contents(network))


def with_code(network: Any, folder: Path) -> bytes:
    state = {
        **make_arrays(detectron2_state(network)),
        "linear.bias": Call(os.mkdir, str(folder / "ran")),
    }
    return pickle.dumps({"model": state, "__author__": "me", "matching_heuristics": True})


def prefix_names(
    prefix: str, state: Callable[[Any], dict[str, Any]]
) -> Callable[[Any, Path], bytes]:
    return lambda network, folder: torch_bytes(
        {"model": {f"{prefix}{n}": t for n, t in state(network).items()}}
    )


def save_less(network: Any, folder: Path) -> bytes:
    contents = make_script_contents(network)
    arrays = {n: a for n, a in contents["model"].items() if not n.startswith("res4.1.")}
    return pickle.dumps({**contents, "model": arrays})


@dataclass(frozen=True)
class Trap:
    """A wrong pairing of a file and a configuration.

    Attributes:
        name: of the file.
        data: the file's bytes, of a network and for a folder.
        changes: of the configuration.
        theirs: how many of the backbone's tensors detectron2 loads, without an error.
        ours: words of the error here; "" where the weights are loaded, all of them.
    """

    name: str
    data: Callable[[Any, Path], bytes]
    changes: list[Any]
    theirs: int
    ours: str


FREE_BN = ["MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0]
NARROW = ["MODEL.RESNETS.WIDTH_PER_GROUP", 4]
TRAPS = {
    "1 RGB weights under BGR": Trap(
        "a.pkl", of_torchvision, IN_3X3, BACKBONE, "INPUT.FORMAT is BGR"
    ),
    "1 RGB weights, scaled, under a std of 1": Trap(
        "a.pkl", of_torchvision, [*RGB[:4], *IN_3X3], BACKBONE, "PIXEL_STD: [58.395"
    ),
    "2 the stride in the 1x1": Trap("a.pkl", of_torchvision, RGB, BACKBONE, "STRIDE_IN_1X1: False"),
    "3 names that match nothing": Trap(
        "a.pth", prefix_names("features_", detectron2_state), IN_3X3, 0, "are of no known format"
    ),
    "3 torchvision's names": Trap(
        "a.pth", prefix_names("", lambda n: n.state_dict()), [*RGB, *IN_3X3], 0, ""
    ),
    "4 folded norms under BN": Trap(
        *("a.pkl", lambda n, folder: pickle.dumps(caffe2_arrays(n, "folded"))),
        *([*IN_3X3, *FREE_BN], 22 * 3, "NORM: FrozenBN"),
    ),
    "5 a prefix": Trap("a.pth", prefix_names("model.backbone.", detectron2_state), IN_3X3, 0, ""),
    "5 another prefix": Trap(
        "a.pth", prefix_names("backbone.bottom_up.", detectron2_state), IN_3X3, 0, ""
    ),
    "6 code in a pickle": Trap(
        *("a.pkl", with_code, IN_3X3, BACKBONE),
        "is a call of posix.mkdir (which could run code",
    ),
    "less than the backbone": Trap(
        "a.pkl", save_less, [*RGB, *IN_3X3], BACKBONE - 15, "15 names are missing"
    ),
    "another network": Trap(
        *("a.pkl", of_torchvision, [*RGB, *IN_3X3, *NARROW], 44),
        "the file is X-26-4x8d: set MODEL.RESNETS.DEPTH",
    ),
}


@pytest.fixture(scope="module")
def network() -> Any:
    return random_network(26, 4, 8)


def write_trap(trap: Trap, network: Any, folder: Path) -> Path:
    path = folder / trap.name
    path.write_bytes(trap.data(network, folder))
    return path


@pytest.mark.parametrize("name", TRAPS)
def test_here_it_is_right_or_refused(name: str, network: Any, tmp_path: Path) -> None:
    trap = TRAPS[name]
    path = write_trap(trap, network, tmp_path)
    cfg = configuration(NET, *trap.changes)
    model = build_detector(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def load() -> None:
        file = read_weights(path)
        check_preprocessing(cfg, file)
        load_weights(model, file)

    if trap.ours:
        with pytest.raises(ValueError) as caught:
            load()
        assert trap.ours in str(caught.value)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert not (tmp_path / "ran").exists()
    else:
        load()
        assert count_changed(model, before) == BACKBONE


def count_changed(model: Any, before: dict[str, torch.Tensor]) -> int:
    """Count the tensors of the backbone that have changed."""
    state = model.state_dict()
    now = {n: t for n, t in state.items() if n.startswith("backbone.") and "num_batches" not in n}
    assert len(now) == BACKBONE
    return sum(not torch.equal(tensor, before[name]) for name, tensor in now.items())


@pytest.mark.detectron2
@pytest.mark.parametrize("name", TRAPS)
def test_detectron2_goes_on(name: str, network: Any, tmp_path: Path) -> None:
    """Without an error, with all, some or none of the backbone's tensors; the sixth runs code."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.checkpoint import DetectionCheckpointer

    trap = TRAPS[name]
    path = write_trap(trap, network, tmp_path)
    model = build("detectron2", configuration(NET, *trap.changes))
    for key, buffer in model.named_buffers():
        if key.endswith("running_var"):
            buffer.fill_(1)  # as detectron2's norm does where a file has none
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        DetectionCheckpointer(model).load(str(path))
    except ValueError:
        assert name.startswith("6")  # None, which os.mkdir gave, is no tensor
    assert (tmp_path / "ran").exists() == name.startswith("6")
    if not name.startswith("6"):
        assert count_changed(model, before) == trap.theirs
