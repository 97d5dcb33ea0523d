"""The trained network that travels with the package is the one that the catalog describes."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from iopath.common.file_io import PathManager

from resnext_det.classification.jobs import EvaluationJob, evaluate_weights
from resnext_det.classification.weights import load_classifier
from resnext_det.config import load_config
from resnext_det.config.classification import load_classifier_config
from resnext_det.data.shapes import SHAPE_CLASSES, generate_shape_images
from resnext_det.detection.portable.build import build_detector
from resnext_det.weights import KNOWN, load_weights, read_weights
from resnext_det.weights.published.catalog import find_entry, locate
from resnext_det.weights.published.catalog_entries import Entry
from resnext_det.weights.published.catalog_paths import register_handler

NAME = "resnext://shapes/X-26-8x4d"
ENTRY = find_entry(NAME)
QUICKSTART = "quickstart/faster_rcnn_X26_8x4d_FPN_shapes.yaml"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and no network."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RESNEXT_DET_CACHE", str(folder))
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("it connects"))
    return folder


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the package's file, which the catalog takes for its own."""
    path = tmp_path / "shapes" / ENTRY.path.name
    path.parent.mkdir()
    shutil.copy(ENTRY.path, path)
    monkeypatch.setattr(Entry, "path", property(lambda self: path))
    return path


def test_the_file_is_the_one_that_was_trained() -> None:
    content = ENTRY.path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == ENTRY.sha256
    assert ENTRY.mebibytes == round(len(content) / 2**20, 2) < 3
    assert locate(NAME) == (ENTRY.path, ENTRY)


def test_it_says_what_it_is() -> None:
    """Its recipe, classes and preprocessing are those of the configuration that trained it."""
    file = read_weights(NAME)
    recipe = load_classifier_config(ENTRY.page)
    said = file.metadata
    assert file.architecture == ENTRY.architecture
    assert file.preprocessing == KNOWN["torchvision"]
    assert file.class_names == SHAPE_CLASSES
    assert said["recipe"] == ENTRY.page and said["license"] == ENTRY.license == "Apache-2.0"
    assert (said["seed"], said["epochs"]) == (str(recipe.SEED), str(recipe.SOLVER.EPOCHS))
    assert said["trained_on"] == recipe.DATASETS.TRAIN
    assert float(said["top1"]) == ENTRY.top1
    assert "CPU" in said["trained_by"]
    assert "url" not in said  # nobody can fetch it
    weights = {tensor.dtype for tensor in file.state.values() if tensor.ndim > 1}
    assert weights == {torch.float16}


def test_its_top1_on_pictures_that_nobody_has_seen(tmp_path: Path) -> None:
    images = generate_shape_images(tmp_path, split="fresh", images_per_class=25, seed=5, size=64)
    (found,) = evaluate_weights(EvaluationJob(NAME, str(images), device="cpu", num_workers=0))
    assert ENTRY.top1 is not None and abs(found.top1 - ENTRY.top1) < 6  # three standard deviations
    assert found.protocol == "crop 64" and found.resize == 64


@pytest.mark.detectron2
def test_detectron2s_own_checkpointer_gives_the_same_features(cache: Path) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    import resnext_det

    assert resnext_det.__version__  # importing it registers the handler
    path = resnext_det.config_file(QUICKSTART)
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    theirs, ours = build_model(cfg).eval(), build_detector(load_config(path)).eval()
    outcome: dict[str, Any] = DetectionCheckpointer(theirs).load(cfg.MODEL.WEIGHTS)
    load_weights(ours, NAME)
    assert outcome["preprocessing"]["channel_order"] == "RGB"
    images = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = (model.backbone.bottom_up(images) for model in (ours, theirs))
    classifier = load_classifier(NAME)
    with torch.no_grad():
        assert torch.allclose(classifier.forward_features(images), found["res5"], atol=1e-5)
    for stage in ("res3", "res4", "res5"):
        assert torch.equal(found[stage], expected[stage])
    assert [path.parent for path in cache.rglob("*.pkl")] == [cache / "shapes"]


def test_the_packages_folder_is_never_written_to(moved: Path, cache: Path) -> None:
    """Neither where it is converted, nor where a program asks for another download."""
    manager = PathManager()
    register_handler(manager)
    moved.parent.chmod(0o555)
    first = Path(manager.get_local_path(NAME))
    assert first.parent == cache / "shapes"
    before = first.stat().st_mtime_ns
    assert Path(manager.get_local_path(NAME)).stat().st_mtime_ns == before
    again = Path(manager.get_local_path(NAME, force=True))
    assert again == first and again.stat().st_mtime_ns > before
    assert [path.name for path in moved.parent.iterdir()] == [moved.name]


def test_a_damaged_or_missing_file_is_told(moved: Path) -> None:
    content = bytearray(moved.read_bytes())
    content[-100] ^= 1
    moved.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"it is damaged: its SHA-256 .* install resnext-det again"
    ):
        read_weights(NAME)
    moved.unlink()
    with pytest.raises(FileNotFoundError, match="is missing; install resnext-det again"):
        read_weights(NAME)
