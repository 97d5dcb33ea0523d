"""``resnext://`` paths for iopath and for detectron2's own checkpointer, from a local server."""

from __future__ import annotations

import io
import os
import pickle
import threading
from pathlib import Path

import pytest
import torch
from iopath.common.file_io import PathManager
from torch import nn

from resnext_det.architecture import Architecture
from resnext_det.weights.file import read_weights
from resnext_det.weights.published.catalog_entries import ENTRIES, Entry
from resnext_det.weights.published.catalog_paths import CatalogPathHandler, register_handler
from tests.weights.file_server import Server
from tests.weights.foreign_names import random_network
from tests.weights.helpers import DETECTRON2_FPN, configure_detectron2
from tests.weights.hostile import Call

NAME = "resnext://test/X-50-4x8d"
NETWORK = Architecture(50, 4, 8)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return random_network(50, 4, 8)


def save(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def serve_entry(
    server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes, file: str = "x50.pth"
) -> Entry:
    sha256 = server.add(f"/{file}", content).sha256
    known = Entry(
        name=NAME,
        url=server.url(f"/{file}"),
        architecture=NETWORK,
        preprocessing="torchvision",
        license="BSD-3-Clause",
        top1=None,
        page="",
        sha256=sha256[:8],
    )
    monkeypatch.setitem(ENTRIES, NAME, known)
    return known


@pytest.fixture
def known(server: Server, monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> Entry:
    return serve_entry(server, monkeypatch, save(network.state_dict()))


@pytest.fixture
def manager() -> PathManager:
    manager = PathManager()
    register_handler(manager)
    return manager


def test_the_handler_is_registered_once(manager: PathManager) -> None:
    before = manager._path_handlers["resnext://"]
    register_handler(manager)
    assert manager._path_handlers["resnext://"] is before
    assert isinstance(before, CatalogPathHandler)
    other = PathManager()
    assert not other.exists(NAME)


def test_a_path_is_a_file_in_detectron2s_format(
    manager: PathManager, known: Entry, server: Server, network: nn.Module
) -> None:
    assert manager.exists(NAME) and manager.isfile(NAME) and not manager.isdir(NAME)
    assert server.requests == []  # so far
    path = manager.get_local_path(NAME)
    assert path.endswith(".pkl") and Path(path).parent == known.path.parent
    with manager.open(NAME, "rb") as file:
        contents = pickle.load(file)
    assert contents["matching_heuristics"] is True
    state = network.state_dict()
    ours, theirs = (
        contents["model"]["res3.0.shortcut.norm.running_var"],
        "layer2.0.downsample.1.running_var",
    )
    assert torch.equal(torch.from_numpy(ours), state[theirs])
    counters = sum("num_batches_tracked" in name for name in state)
    assert len(contents["model"]) == len(state) - counters
    assert len(server.requests) == 1


def test_the_label_travels_along(manager: PathManager, known: Entry) -> None:
    from_catalog, served = read_weights(NAME), read_weights(manager.get_local_path(NAME))
    assert served.architecture == from_catalog.architecture == NETWORK
    assert served.preprocessing is not None
    assert served.preprocessing == from_catalog.preprocessing
    assert all(
        torch.equal(tensor, from_catalog.state[name]) for name, tensor in served.state.items()
    )


def test_it_is_converted_once_and_again_when_the_file_is_another(
    manager: PathManager,
    known: Entry,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    network: nn.Module,
) -> None:
    path = Path(manager.get_local_path(NAME))
    before = path.stat().st_mtime_ns
    assert Path(manager.get_local_path(NAME)).stat().st_mtime_ns == before

    state = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    other = serve_entry(server, monkeypatch, save(state))
    source = other.path
    partial = source.with_name("copy")
    partial.write_bytes(save(state))
    os.utime(partial, (0, 0))  # a copy that keeps an old date
    partial.replace(source)
    weights = read_weights(manager.get_local_path(NAME))
    assert torch.equal(weights.state["stem.conv1.weight"], state["conv1.weight"])

    source.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="remove it, and it is downloaded anew"):
        manager.get_local_path(NAME)
    manager.get_local_path(NAME, force=True)
    assert len(server.requests) == 2


def test_threads_that_want_one_file(manager: PathManager, known: Entry, server: Server) -> None:
    paths: list[str] = []
    threads = [
        threading.Thread(target=lambda: paths.append(manager.get_local_path(NAME)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4 and len(set(paths)) == 1 and len(server.requests) == 1


@pytest.mark.parametrize("mode", ["w", "wb", "a", "r+b"])
def test_it_cannot_be_written_to(manager: PathManager, mode: str) -> None:
    with pytest.raises(ValueError, match="cannot be opened in mode"):
        manager.open(NAME, mode)


def test_unknown_paths_and_options(manager: PathManager) -> None:
    assert not manager.exists("resnext://nobody/R-50")
    with pytest.raises(ValueError, match="did you mean"):
        manager.get_local_path("resnext://nobody/R-50")
    with pytest.raises(ValueError, match="Unused arguments"):
        manager.get_local_path("resnext://torchvision/R-50", cache_dir="x")


def test_a_file_that_would_run_code_never_reaches_the_program(
    manager: PathManager,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    serve_entry(
        server,
        monkeypatch,
        pickle.dumps({"model": {"stem.conv1.weight": Call(os.mkdir, "evil")}, "__author__": "x"}),
        "x.pkl",
    )
    with pytest.raises(ValueError, match="mkdir"):
        manager.get_local_path(NAME)
    assert not (tmp_path / "evil").exists()
    assert not list((tmp_path / "test").glob("*.detectron2*.pkl"))


def build_reference(head: str) -> nn.Module:
    """Build a detector of detectron2's own."""
    from detectron2.modeling import build_model

    changes = DETECTRON2_FPN if head == "FPN" else []
    return build_model(configure_detectron2(*changes, architecture=NETWORK)).eval()


def features(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """res2 to res5 of torchvision's network."""
    found: list[torch.Tensor] = []
    hooks = [
        getattr(network, f"layer{stage}").register_forward_hook(lambda *hook: found.append(hook[2]))
        for stage in (1, 2, 3, 4)
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return found


def load_with_detectron2(model: nn.Module, path: str, caplog: pytest.LogCaptureFixture) -> str:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.utils.file_io import PathManager as Detectron2PathManager

    register_handler(Detectron2PathManager)
    caplog.clear()
    caplog.set_level("INFO")
    DetectionCheckpointer(model).load(path)
    return caplog.text


@pytest.mark.detectron2
@torch.no_grad()
@pytest.mark.parametrize("head", ["C4", "FPN"])
def test_detectron2s_checkpointer_loads_it(
    head: str, known: Entry, network: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    model = build_reference(head)
    log = load_with_detectron2(model, NAME, caplog)
    missing = log.partition("not found in the checkpoint:")[2].partition("WARNING")[0].split()
    heads = ("proposal_generator.", "roi_heads.box_", "backbone.fpn_", "{", "weight}")
    assert missing and [name for name in missing if not name.startswith(heads)] == []
    images = torch.randn(1, 3, 64, 64)
    expected = features(network, images)
    if head == "FPN":
        found = list(model.backbone.bottom_up(images).values())
    else:
        res4 = model.backbone(images)["res4"]
        found = [*expected[:2], res4, model.roi_heads.res5(res4)]
    for ours, theirs in zip(found, expected):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.detectron2
@pytest.mark.parametrize(
    ("query", "loaded"), [("", set()), ("?matching_heuristics=True", {"stem.conv1.weight"})]
)
def test_plain_detectron2_does_not_read_torchvisions_names(
    query: str,
    loaded: set[str],
    network: nn.Module,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reason for the conversion: it warns, and goes on with random numbers."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    torch.save(network.state_dict(), tmp_path / "x50.pth")
    model = build_reference("C4")
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    load_with_detectron2(model, f"{tmp_path / 'x50.pth'}{query}", caplog)
    after = model.backbone.state_dict()
    convolutions = [name for name in before if before[name].ndim == 4]
    assert len(convolutions) == 43
    assert {name for name in convolutions if not torch.equal(after[name], before[name])} == loaded
