"""The catalog's figures are those that were published; its files are downloaded, put there by hand,
wrong, or out of reach."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import timm
from torchvision import models

from resnext_det.architecture import Architecture
from resnext_det.files import cache_folder
from resnext_det.weights.preprocessing import KNOWN
from resnext_det.weights.published.catalog import find_entry, format_catalog, locate
from resnext_det.weights.published.catalog_entries import ENTRIES, PREFIX, Entry
from tests.weights.file_server import Server

ROOT = Path(__file__).parents[3]
QUARTET = ("R-50", "X-50-32x4d", "R-101", "X-101-32x4d")
TORCHVISION = {
    "R-50": models.ResNet50_Weights.IMAGENET1K_V1,
    "R-50-V2": models.ResNet50_Weights.IMAGENET1K_V2,
    "R-101": models.ResNet101_Weights.IMAGENET1K_V1,
    "R-101-V2": models.ResNet101_Weights.IMAGENET1K_V2,
    "X-50-32x4d": models.ResNeXt50_32X4D_Weights.IMAGENET1K_V1,
    "X-50-32x4d-V2": models.ResNeXt50_32X4D_Weights.IMAGENET1K_V2,
    "X-101-32x8d": models.ResNeXt101_32X8D_Weights.IMAGENET1K_V1,
    "X-101-32x8d-V2": models.ResNeXt101_32X8D_Weights.IMAGENET1K_V2,
    "X-101-64x4d": models.ResNeXt101_64X4D_Weights.IMAGENET1K_V1,
}
GLUON = {
    "R-50": "resnet50",
    "R-101": "resnet101",
    "X-50-32x4d": "resnext50_32x4d",
    "X-101-32x4d": "resnext101_32x4d",
    "X-101-64x4d": "resnext101_64x4d",
}
CONTENT = b"weights" * 100
PUBLISHED = {name: known for name, known in ENTRIES.items() if not known.is_shipped}
"""Entries that are downloaded; test_shipped.py has the other."""


def find_entries(source: str) -> dict[str, Entry]:
    start = f"{PREFIX}{source}/"
    return {
        name.removeprefix(start): known for name, known in ENTRIES.items() if name.startswith(start)
    }


def test_torchvisions_entries_are_torchvisions() -> None:
    entries = find_entries("torchvision")
    assert entries.keys() == TORCHVISION.keys()
    for name, weights in TORCHVISION.items():
        assert entries[name].url == weights.url
        assert entries[name].top1 == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        assert entries[name].mebibytes == weights.meta["_file_size"]
        assert entries[name].architecture.num_parameters() == weights.meta["num_params"]
        assert [entries[name].resize] == weights.transforms().resize_size
        assert weights.transforms().crop_size == [224]
        assert (
            entries[name].interpolation is None
            and weights.transforms().interpolation.value == "bilinear"
        )


def test_gluons_entries_are_timms() -> None:
    entries = find_entries("gluon")
    assert entries.keys() == GLUON.keys()
    for name, model in GLUON.items():
        published = timm.get_pretrained_cfg(f"{model}.gluon_in1k")
        assert published is not None
        assert entries[name].url == published.url
        assert entries[name].interpolation == published.interpolation
        assert entries[name].resize == round(224 / published.crop_pct)
        assert entries[name].license == {"apache-2.0": "Apache-2.0"}[published.license]
        network = timm.create_model(model, pretrained=False)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        assert entries[name].architecture.num_parameters() == parameters


@pytest.mark.parametrize(
    ("source", "top1"),
    [
        ("mmpretrain", (76.55, 77.90, 77.97, 78.61)),
        ("pycls", (76.8, 78.1, 78.6, 79.3)),
        ("gluon", (77.58, 79.35, 79.31, 80.34)),
    ],
)
def test_the_matched_quartets(source: str, top1: tuple[float, ...]) -> None:
    """As their model zoos print them."""
    entries = [find_entries(source)[name] for name in QUARTET]
    assert [round(known.top1 or 0, 2 if source != "pycls" else 1) for known in entries] == list(
        top1
    )
    assert len({(known.preprocessing, known.license, known.page) for known in entries}) == 1


def test_the_papers_own() -> None:
    """Top-1 errors of its README: 22.2, 21.2, 20.4."""
    top1 = {name: known.top1 for name, known in find_entries("paper").items()}
    assert top1 == {"X-50-32x4d": 77.8, "X-101-32x4d": 78.8, "X-101-64x4d": 79.6}
    for known in find_entries("paper").values():  # a .t7 holds the gradients too
        published = (known.mebibytes or 0) * 2**20
        assert published == pytest.approx(2 * 4 * known.architecture.num_parameters(), rel=0.01)
        assert known.license == "CC-BY-NC-4.0"


@pytest.mark.detectron2
def test_detectrons_entries_are_detectron2s() -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.checkpoint.catalog import ModelCatalog
    from detectron2.model_zoo import get_config
    from detectron2.utils.file_io import Detectron2Handler

    for name, known in find_entries("detectron1").items():
        assert known.url == ModelCatalog.get(f"ImageNetPretrained/FAIR/{name}")
        assert known.md5_url == f"{known.url}.md5sum"
    configurations = {
        "msra/R-50": "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
        "msra/R-101": "COCO-Detection/faster_rcnn_R_101_C4_3x.yaml",
        "fair/X-101-32x8d": "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml",
    }
    for name, configuration in configurations.items():
        cfg = get_config(configuration)
        weights = cfg.MODEL.WEIGHTS.replace("detectron2://", Detectron2Handler.S3_DETECTRON2_PREFIX)
        assert find_entry(name).url == weights
        resnets = cfg.MODEL.RESNETS
        assert find_entry(name).architecture == Architecture(
            resnets.DEPTH, resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP
        )


@pytest.mark.parametrize("known", PUBLISHED.values(), ids=PUBLISHED)
def test_an_entry_agrees_with_itself(known: Entry) -> None:
    assert ENTRIES[known.name] is known
    source, _, network = known.name.removeprefix(PREFIX).partition("/")
    assert known.path.parent.name == source
    assert str(known.architecture) == re.sub("-(V2|IN5k|GN)$", "", network)
    assert known.preprocessing in KNOWN
    assert urlsplit(known.url).scheme == "https"
    assert known.url.endswith(f"/{known.path.name}")
    if known.sha256:
        assert re.search(rf"-{known.sha256}\.pth$", known.url)  # as its publisher writes it
    assert (known.sha256 is None) == (source in ("pycls", "paper", "msra", "fair", "detectron1"))
    size = (known.mebibytes or 10**6) * 2**20
    assert 2 * known.architecture.num_parameters() < known.smallest_size < size
    assert known.top1 is None or 70 < known.top1 < 90


def test_no_two_entries_share_a_file() -> None:
    assert len({known.url for known in ENTRIES.values()}) == len(ENTRIES)
    assert len({known.path for known in ENTRIES.values()}) == len(ENTRIES)


def test_a_name_with_and_without_its_prefix() -> None:
    known = find_entry("resnext://torchvision/X-50-32x4d")
    assert find_entry("torchvision/X-50-32x4d") is known
    assert known.path.name == "resnext50_32x4d-7cdf4587.pth"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        (
            "resnext://torchvision/X-101-32x4d",
            "resnext://mmpretrain/X-101-32x4d",
        ),  # which torchvision lacks
        ("resnext://TORCHVISION/x-50-32X4D", "resnext://torchvision/X-50-32x4d"),
        ("resnext://msra/R50", "resnext://msra/R-50"),
        ("mmpretain/R-101", "resnext://mmpretrain/R-101"),
        ("resnext://shape/X26-8x4d", "resnext://shapes/X-26-8x4d"),
        ("X-26-8x4d", "resnext://shapes/X-26-8x4d"),
        ("resnext://", "resnext://"),
        ("x" * 10_000, "resnext://"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(name: str, near: str) -> None:
    with pytest.raises(ValueError) as caught:
        find_entry(name)
    assert "is not in the catalog of weights; did you mean" in str(caught.value)
    assert near in str(caught.value).partition("did you mean ")[2]
    assert len(str(caught.value)) < 600


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, folder in (
        ("/a/b", Path("/a/b")),
        ("~/c", tmp_path / "c"),
        ("", tmp_path / ".cache" / "resnext_det"),
    ):
        monkeypatch.setenv("RESNEXT_DET_CACHE", value)
        assert cache_folder() == folder
    monkeypatch.delenv("RESNEXT_DET_CACHE")
    assert cache_folder() == tmp_path / ".cache" / "resnext_det"


def serve_entry(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    *,
    sha256: str | None = None,
    name: str = "torchvision/R-50",
) -> Entry:
    """An entry whose file is on the local server."""
    known = find_entry(name)
    url = server.url(urlsplit(known.url).path)
    md5_url = f"{url}.md5sum" if known.md5_url else None
    local = replace(known, url=url, sha256=sha256, md5_url=md5_url, mebibytes=len(CONTENT) / 2**20)
    monkeypatch.setitem(ENTRIES, known.name, local)
    return local


def test_a_file_is_downloaded_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = server.add("/models/resnet50-0676ba61.pth", CONTENT)
    known = serve_entry(server, monkeypatch, sha256=file.sha256[:8])
    for name in (known.name, "torchvision/R-50"):
        path, found = locate(name)
        assert (path, found) == (tmp_path / "torchvision" / "resnet50-0676ba61.pth", known)
        assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_file_put_there_by_hand_is_taken_if_it_is_the_right_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = serve_entry(server, monkeypatch, sha256=server.add("/x", CONTENT).sha256)
    path = known.path
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert locate(known.name) == (path, known)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError) as caught:
        locate(known.name)
    assert f"{path} is not the file of {known.url}, or it is damaged: its SHA-256 begins" in str(
        caught.value
    )
    assert "remove it, and it is downloaded anew" in str(caught.value)
    assert path.read_bytes() == CONTENT[:-1]
    assert server.requests == []


def test_without_a_checksum_the_size_counts(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = serve_entry(server, monkeypatch, name="msra/R-50")
    file = server.add("/detectron2/ImageNetPretrained/MSRA/R-50.pkl", CONTENT[:-100])
    with pytest.raises(ValueError, match=r"its size is 600 bytes, and it must have 693 at least"):
        locate(known.name)
    file.content = CONTENT
    assert locate(known.name)[0].read_bytes() == CONTENT


def test_detectrons_md5_is_asked_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    known = serve_entry(server, monkeypatch, name="detectron1/X-101-64x4d")
    url = urlsplit(known.url).path
    file = server.add(url, CONTENT)
    digest = server.add(f"{url}.md5sum", b"0" * 32)
    with pytest.raises(ValueError, match="its MD5 is"):
        locate(known.name)
    digest.content = file.etag.strip('"').encode()
    assert locate(known.name)[0].read_bytes() == CONTENT


@pytest.mark.parametrize("known", PUBLISHED.values(), ids=PUBLISHED)
def test_offline_the_error_says_what_to_fetch_and_where_to_put_it(
    known: Entry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RESNEXT_DET_CACHE", str(tmp_path))
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(FileNotFoundError) as caught:
        locate(known.name)
    assert str(caught.value).startswith(f"{known.url} cannot be reached (")
    assert "Connection refused); connect this machine to the internet, or download it" in str(
        caught.value
    )
    assert str(caught.value).endswith(f"put it at {known.path}")


def test_a_cache_that_cannot_be_written_to_may_be_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = serve_entry(server, monkeypatch)
    known.path.parent.mkdir()
    known.path.write_bytes(CONTENT)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refused)
        patch.setattr(Path, "mkdir", refused)
        assert locate(known.name)[0] == known.path
        known.path.unlink()
        with pytest.raises(
            ValueError, match=r"cannot be written \(Permission denied\).*RESNEXT_DET_CACHE"
        ):
            locate(known.name)


def test_the_table_shows_every_entry() -> None:
    table, _, note = format_catalog().partition("\n\n")
    lines = table.splitlines()
    assert len(lines) == len(ENTRIES) + 2
    for known, line in zip(ENTRIES.values(), lines[2:]):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == [known.name, str(known.architecture)]
        assert cells[2] == ("" if known.top1 is None else f"{known.top1:.2f}")
        assert cells[3:5] == [known.license, known.preprocessing]
        assert float(cells[5].removeprefix("~")) > (1 if known.is_shipped else 90)
        assert cells[6] == (
            f"SHA-256 {known.sha256[:8]}..."
            if known.sha256
            else "MD5 beside the file"
            if known.md5_url
            else "size"
        )
    assert "one recipe" in note and "shapes/X-26-8x4d travels with the package" in note


QUIET = """
import socket, os
def refuse(*arguments, **options): raise AssertionError("a connection is opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import resnext_det.weights.published.catalog, resnext_det.weights.published.catalog_paths
resnext_det.weights.published.catalog.format_catalog()
resnext_det.weights.published.catalog.find_entry("msra/R-50")
resnext_det.weights.published.catalog_paths.CatalogPathHandler()
from iopath.common.file_io import g_pathmgr
assert not any(prefix.startswith("resnext") for prefix in g_pathmgr._path_handlers)
"""


def test_importing_and_reading_the_catalog_touch_nothing(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.pop("RESNEXT_DET_CACHE", None)
    subprocess.run(
        [sys.executable, "-c", QUIET], check=True, env=environment, cwd=tmp_path, timeout=120
    )
    assert list(tmp_path.iterdir()) == []
