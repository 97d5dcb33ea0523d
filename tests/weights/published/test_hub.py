"""Weights by their name on the Hugging Face hub, from a stand-in for it on this machine."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from resnext_det.classification.inference import Classifier
from resnext_det.detection.weights import read_start
from resnext_det.weights import Preprocessing, read_weights
from resnext_det.weights.published.hub import HubName, download_from_hub
from resnext_det.weights.requirements import read_needed_overrides
from tests.tools.helpers import run_tool
from tests.weights.helpers import (
    THIN,
    configuration,
    configure_detectron2,
    same_bits,
    torchvision_network,
)
from tests.weights.hub_server import COMMIT, OTHER_COMMIT, HubServer, point_to, serve, set_offline
from tests.weights.published.test_timm_config import CONFIG, MEAN, STD, change, write_config

huggingface_hub = pytest.importorskip("huggingface_hub")

NAME = "hf-hub:me/x26"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository, as timm lays it out."""
    folder = tmp_path_factory.mktemp("x26")
    safetensors.torch.save_file(torchvision_network().state_dict(), folder / "model.safetensors")
    torch.save({"bin": torch.zeros(1)}, folder / "pytorch_model.bin")
    return write_config(folder, CONFIG)


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub's, between attempts
    monkeypatch.setenv("RESNEXT_DET_CACHE", str(tmp_path / "ours"))
    with serve() as server:
        point_to(server.url, tmp_path / "cache", monkeypatch)
        server.add("me/x26", folder)
        yield server


def list_files(hub: HubServer) -> list[str]:
    return [line.rpartition("/")[2] for line in hub.requests if line.startswith("GET /me")]


def test_a_name_is_read_with_what_its_configuration_tells(hub: HubServer, folder: Path) -> None:
    file = read_weights(NAME)
    assert file.preprocessing == Preprocessing("RGB", MEAN, STD)
    facts = {"name": NAME, "commit": COMMIT, "size_test": "288", "license": "apache-2.0"}
    assert facts.items() <= file.metadata.items()
    assert [file.origins[fact] for fact in ("name", "mean")] == ["the hub", "config.json"]
    assert same_bits(file.state, read_weights(folder).state)
    assert list_files(hub) == ["config.json", "model.safetensors"]
    hub.requests.clear()
    assert read_weights(NAME).path == file.path
    assert hub.requests == ["HEAD /me/x26/resolve/main/config.json"], "a commit needs no question"


def test_a_revision_is_read_as_one_commit(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    write_config(other, change(license="mit"))
    hub.add("me/x26", other, "v2", OTHER_COMMIT)
    for revision in ("v2", OTHER_COMMIT):
        metadata = read_weights(f"{NAME}@{revision}").metadata
        assert (metadata["license"], metadata["commit"]) == ("mit", OTHER_COMMIT)
    assert read_weights(NAME).metadata["license"] == "apache-2.0"
    hub.add("me/x26", other, "main", OTHER_COMMIT)  # as after a push
    assert read_weights(NAME).metadata["commit"] == OTHER_COMMIT


def test_without_a_network_what_is_here_is_read(
    hub: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a repository of pytorch_model.bin alone: the cache knows that it has nothing else."""
    plain = tmp_path / "plain"
    plain.mkdir()
    torch.save(torchvision_network().state_dict(), plain / "pytorch_model.bin")
    hub.add("me/bin", plain)
    names = (NAME, "hf-hub:me/bin")
    online = [read_weights(name) for name in names]
    assert [Path(file.path).suffix for file in online] == [".safetensors", ".bin"]
    assert online[1].is_usual("mean")
    unreachable = "http://127.0.0.1:9"
    for offline, url in ((True, hub.url), (False, unreachable)):
        point_to(url, tmp_path / "cache", monkeypatch)
        set_offline(offline, monkeypatch)
        hub.requests.clear()
        assert [read_weights(name).path for name in names] == [file.path for file in online]
        assert hub.requests == []
        cause = "HF_HUB_OFFLINE is set; take it out" if offline else rf"cannot be had from {url} \("
        with pytest.raises(
            FileNotFoundError, match=rf"me/none@v1 is not in the cache .*{cause}"
        ) as e:
            read_weights("hf-hub:me/none@v1")
        assert "hf download me/none --revision v1 --local-dir FOLDER" in str(e.value)


def test_attempts_are_not_told_one_by_one(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    point_to("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    theirs = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(theirs, "propagate", True)
    with caplog.at_level(logging.INFO), pytest.raises(FileNotFoundError, match="cannot be had"):
        read_weights("hf-hub:me/none")
    (line,) = caplog.messages
    assert line.startswith("hf-hub:me/none is looked for on the hub")
    assert not logging.getLogger("huggingface_hub.utils._http").filters


def test_what_hf_download_makes_is_given_as_a_folder(hub: HubServer, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download("me/x26", name, local_dir=tmp_path / "local")
    assert read_weights(tmp_path / "local").preprocessing == Preprocessing("RGB", MEAN, STD)
    (tmp_path / "local" / "model.safetensors").unlink()
    words = "is a folder without model.safetensors and pytorch_model.bin"
    with pytest.raises(ValueError, match=words):
        read_weights(tmp_path / "local")


def refuse(hub: HubServer, status: int, code: str, message: str = "") -> None:
    hub.refusals["me/x26"] = status, code, message


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, "RepoNotFound"), "has no repository me/x26, or it is private; .* HF_TOKEN"),
        ((404, "RepoNotFound"), "has no repository me/x26"),
        ((403, "GatedRepo"), "its conditions; accept them at http://.*/me/x26, and log in"),
        ((401, "GatedRepo"), "its conditions; accept them at"),
        ((403, "", "Forbidden"), r"cannot be had from http:.* \(403 Forbidden"),
        (
            (503, "", "busy"),
            r"cannot be had from http:.*503.*\); connect this machine, name a mirror",
        ),
        ((429, "", "slowly"), r"cannot be had from http:.*429"),
    ],
)
def test_a_refusal_says_what_to_do(answer: tuple[Any, ...], words: str, hub: HubServer) -> None:
    refuse(hub, *answer)
    with pytest.raises(FileNotFoundError, match=words) as caught:
        read_weights(NAME)
    assert "\n" not in str(caught.value)


def test_no_such_repository_revision_or_file(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    hub.add("me/empty", tmp_path / "empty")
    for name, words in {
        "hf-hub:me/none": "has no repository me/none",
        f"{NAME}@v9": "me/x26 has no revision v9; give a branch",
        "hf-hub:me/empty": "has no model.safetensors and no pytorch_model.bin; download its file",
    }.items():
        with pytest.raises(FileNotFoundError, match=words):
            read_weights(name)


@pytest.mark.parametrize(
    "name",
    ["x26", "/x26", "me/", "a/b/c", "../x26", "me/..", "me/x@", "me/x@a@b", "me/x?", "me/x y", ""],
)
def test_what_is_no_name(name: str, hub: HubServer) -> None:
    with pytest.raises(ValueError, match="no name of the hub"):
        read_weights(f"hf-hub:{name}")
    assert hub.requests == []


@pytest.mark.parametrize(
    "source", ["https://huggingface.co/timm/x", "hf://timm/x", "hf_hub:timm/x"]
)
def test_other_addresses_name_the_hubs(source: str) -> None:
    with pytest.raises(ValueError, match=r"is an address, .* or hf-hub:OWNER/NAME"):
        read_weights(source)


def test_names_are_parsed() -> None:
    assert HubName.parse("hf-hub:timm/resnext50_32x4d.a1h_in1k@refs/pr/1") == (
        "timm/resnext50_32x4d.a1h_in1k",
        "refs/pr/1",
    )
    assert str(HubName.parse("hf-hub:a/b@c")) == "hf-hub:a/b@c"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (change(architecture="resnetblur50"), "anti-aliased"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "transformers' 'ViTModel'"),
    ],
)
def test_another_network_is_told_before_it_is_downloaded(
    config: Any, words: str, hub: HubServer, folder: Path, tmp_path: Path
) -> None:
    hub.add("me/x26", write_config(shutil.copytree(folder, tmp_path / "other"), config))
    with pytest.raises(ValueError, match=words):
        read_weights(NAME)
    assert list_files(hub) == ["config.json"]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    words = "not installed; run pip install huggingface_hub, or give a folder: hf download"
    with pytest.raises(ValueError, match=words):
        read_weights(NAME)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk(number: int, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OSError(number, "x")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    words = (
        rf"cannot be written to .*\({re.escape(os.strerror(number))}\); make room there, or name"
    )
    with pytest.raises(ValueError, match=words):
        read_weights(NAME)


def test_a_download_that_broke_off(hub: HubServer) -> None:
    hub.cut = "model.safetensors"
    with pytest.raises(FileNotFoundError, match="cannot be had from"):
        read_weights(NAME)
    hub.cut = ""
    assert read_weights(NAME).architecture is not None


# --- where names are given


def test_a_training_that_cannot_have_them_is_told_of_what_is_here(hub: HubServer) -> None:
    cfg = configuration("MODEL.WEIGHTS", "hf-hub:me/none")
    with pytest.raises(
        FileNotFoundError, match=r"no repository me/none.* travels with the package"
    ):
        read_start(cfg, resume=False)


def test_a_training_is_held_to_what_they_need(hub: HubServer) -> None:
    cfg = configuration("MODEL.WEIGHTS", NAME)
    with pytest.raises(ValueError, match=r"PIXEL_MEAN: \[127.5, 102.0, 76.5\]"):
        read_start(cfg, resume=False)
    cfg.merge_from_list(read_needed_overrides(cfg, NAME))
    found = read_start(cfg, resume=False)
    assert found is not None and found.metadata["name"] == NAME


def test_tools_and_classes_take_names(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tool("convert_weights", NAME, tmp_path / "x26.pkl") == 0
    written = read_weights(tmp_path / "x26.pkl")
    assert written.preprocessing == Preprocessing("RGB", MEAN, STD)
    assert written.metadata["name"] == NAME
    assert run_tool("convert_weights", NAME, "--inspect") == 0
    assert "hf-hub:me/x26" in capsys.readouterr().out
    assert Classifier(NAME).network.num_classes == 7


@pytest.mark.detectron2
def test_detectron2s_checkpointer_loads_them(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_backbone
    from detectron2.utils.file_io import PathManager

    import resnext_det.detection.detectron2  # noqa: F401  (registers the names)

    names = ["MODEL.BACKBONE.NAME", "build_resnext_backbone"]  # detectron2's has no 26 layers
    names += ["MODEL.ROI_HEADS.NAME", "ResNeXtRes5ROIHeads"]
    cfg = configure_detectron2(*names, architecture=THIN)
    backbone = build_backbone(cfg)
    caplog.set_level(logging.INFO)
    DetectionCheckpointer(backbone).load(NAME)
    state = read_weights(NAME).state
    assert torch.equal(backbone.state_dict()["res3.0.conv2.weight"], state["res3.0.conv2.weight"])
    path = tmp_path / "ours" / "hf-hub" / "me" / "x26"
    assert PathManager.get_local_path(NAME) == str(next(path.glob(f"{COMMIT}*.pkl")))
    hub.requests.clear()
    PathManager.get_local_path(NAME, force=True)
    assert "model.safetensors" in list_files(hub)


def test_force_downloads_again(hub: HubServer) -> None:
    download_from_hub(NAME)
    hub.requests.clear()
    download_from_hub(NAME, force=True)
    assert list_files(hub) == ["config.json", "model.safetensors"]
