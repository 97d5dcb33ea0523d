"""MODEL.WEIGHTS and its preprocessing are checked, fitted and kept in checkpoints."""

from __future__ import annotations

import copy
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml

from resnext_det.config import load_config
from resnext_det.config.backbone import read_architecture
from resnext_det.detection.inference import Predictor
from resnext_det.detection.jobs import Job, evaluate, train
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.weights import check_frozen_layers_are_loaded, read_start, read_trained
from resnext_det.resnext import ResNeXt, ResNeXtClassifier
from resnext_det.weights import KNOWN, read_weights
from tests.detection.helpers import as_datasets, as_overrides, override, write_config
from tests.test_resnext import SMALL, TINY, randomize
from tests.weights.helpers import fill_randomly, torchvision_network

pytestmark = pytest.mark.usefixtures("alone")

TESTED = ("DATASETS.TEST", ("tiny_val",))
SHORT: list[Any] = ["SOLVER.MAX_ITER", 1, "SOLVER.STEPS", (), "DATASETS.TEST", ()]
RGB = KNOWN["torchvision"]


@pytest.fixture
def job(sets: dict[str, tuple[Path, Path]], tmp_path: Path, engine: str) -> Job:
    """Train from a classifier with torchvision's preprocessing; the configuration is for BGR."""
    config = write_config(tmp_path)
    torch.manual_seed(0)
    architecture = read_architecture(load_config(config).MODEL.RESNETS)
    classifier = ResNeXtClassifier(architecture, num_classes=3)
    weights = {"model": classifier.state_dict(), "preprocessing": RGB.as_dict()}
    torch.save(weights, tmp_path / "classifier.pth")
    changes = [*SHORT, "MODEL.WEIGHTS", tmp_path / "classifier.pth", "SOLVER.BASE_LR", 0.0]
    words, datasets = tuple(as_overrides(changes)), as_datasets(sets)
    return Job(config, tmp_path / "out", words, engine=engine, datasets=datasets)


def change(job: Job, *overrides: Any, **fields: Any) -> Job:
    return replace(job, overrides=(*job.overrides, *as_overrides(overrides)), **fields)


def test_another_preprocessing_is_refused_with_the_lines_to_write(job: Job, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"INPUT.FORMAT is BGR.* Write\n") as refused:
        train(job)
    told = str(refused.value)
    lines = told[told.index("Write\n") + len("Write\n") : told.index("\nor add --fit-config")]
    written = yaml.safe_load(lines)
    assert written["INPUT"] == {"FORMAT": "RGB"}
    assert written["MODEL"]["PIXEL_MEAN"] == list(RGB.mean)
    assert written["MODEL"]["PIXEL_STD"] == list(RGB.std)
    assert not (tmp_path / "out" / "model_final.pth").exists()
    # Written as told, they are taken.
    config = {**yaml.safe_load(Path(job.config_file).read_text())}
    config["INPUT"].update(written["INPUT"])
    config["MODEL"].update(written["MODEL"])
    Path(job.config_file).write_text(yaml.safe_dump(config))
    train(job)


def test_a_configuration_is_fitted_and_the_detector_carries_it(job: Job, tmp_path: Path) -> None:
    train(change(job, fit_config=True))
    recorded = load_config(tmp_path / "out" / "config.yaml")
    assert ("RGB", list(RGB.std)) == (recorded.INPUT.FORMAT, recorded.MODEL.PIXEL_STD)
    final = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert final["preprocessing"] == {**RGB.as_dict(), "batch_norm": "statistics"}
    backbone = torch.load(tmp_path / "classifier.pth", weights_only=True)["model"]
    name = "res4.0.conv1.weight"
    assert torch.equal(final["model"][f"backbone.bottom_up.{name}"], backbone[name])

    weights = ("MODEL.WEIGHTS", tmp_path / "out" / "model_final.pth", *TESTED)
    with pytest.raises(ValueError, match=r"INPUT.FORMAT is BGR"):
        evaluate(change(job, *weights, output_dir=tmp_path / "again"))
    found = evaluate(change(job, *weights, output_dir=tmp_path / "again", fit_config=True))
    assert set(found.per_dataset) == {"tiny_val"}


def test_group_norms_have_no_batch_norm_to_contradict(job: Job, tmp_path: Path) -> None:
    norms = override("MODEL.RESNETS", NORM="GN", RES2_OUT_CHANNELS=64, STEM_OUT_CHANNELS=32)
    wide = [*norms, *override("MODEL.RESNETS", NUM_GROUPS=8, WIDTH_PER_GROUP=16)]
    train(change(job, *wide, "MODEL.WEIGHTS", ""))
    weights = ("MODEL.WEIGHTS", tmp_path / "out" / "model_final.pth", *TESTED)
    assert evaluate(change(job, *wide, *weights, output_dir=tmp_path / "again")).per_dataset


def test_what_says_nothing_cannot_be_fitted_to(job: Job, tmp_path: Path) -> None:
    contents = torch.load(tmp_path / "classifier.pth", weights_only=True)
    torch.save({"model": contents["model"]}, tmp_path / "classifier.pth")
    words = r"does not say which preprocessing it needs.*leave --fit-config out"
    with pytest.raises(ValueError, match=words):
        train(change(job, fit_config=True))
    train(job)


def write_bare(tmp_path: Path) -> Path:
    """Write a file of torchvision's names, which says nothing, and is of another network."""
    path = tmp_path / "bare.pth"
    torch.save(fill_randomly(torchvision_network()).state_dict(), path)
    return path


OWN = ("INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [127.5] * 3, "MODEL.PIXEL_STD", [127.5] * 3)


def test_own_normalization_is_stated_and_kept(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A network of torchvision's names, trained on (x / 255 - 0.5) / 0.5, of another depth.

    The YAML states it, and --fit-config fits the network and leaves the statement; the detector's
    file then says it as a fact, against which another statement is an error.
    """
    bare = change(job, "MODEL.WEIGHTS", write_bare(tmp_path), fit_config=True)
    values = yaml.safe_load(Path(job.config_file).read_text())
    stated = load_config(job.config_file, as_overrides(OWN))
    values["INPUT"]["FORMAT"] = "RGB"
    values["MODEL"] |= {key: list(stated.MODEL[key]) for key in ("PIXEL_MEAN", "PIXEL_STD")}
    Path(job.config_file).write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=r"the file is X-26-2x4d: set (.*), or add --fit-config"):
        train(replace(bare, fit_config=False))
    caplog.clear()
    train(bare)
    told = [record for record in caplog.records if "--preprocessing" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING"]
    assert "--preprocessing RGB:127.5:127.5, or" in told[0].getMessage()
    assert "bare.pth: MODEL.RESNETS." in caplog.text  # what was fitted
    final = read_weights(tmp_path / "out" / "model_final.pth")
    assert final.preprocessing is not None
    assert (final.preprocessing.mean, final.preprocessing.std) == ((127.5,) * 3, (127.5,) * 3)
    assert not final.is_usual("std")
    weights = ("MODEL.WEIGHTS", tmp_path / "out" / "model_final.pth", *TESTED)
    again = change(job, *weights, output_dir=tmp_path / "again", fit_config=True)
    assert evaluate(replace(again, preprocessing="RGB:127.5:127.5")).per_dataset
    with pytest.raises(ValueError, match="as it says itself, and --preprocessing pycls contra"):
        evaluate(replace(again, preprocessing="pycls"))
    caplog.clear()
    train(replace(bare, preprocessing="RGB:127.5:127.5", overwrite=True))
    assert "as the configuration says" not in caplog.text


def test_a_statement_fits_the_configuration(job: Job, tmp_path: Path) -> None:
    """Of a bare file, whatever the configuration left at its defaults; and a detector's own."""
    bare = change(job, "MODEL.WEIGHTS", write_bare(tmp_path), fit_config=True)
    with pytest.raises(ValueError, match=r"'RGB:0\.5' is no publisher"):
        train(replace(bare, preprocessing="RGB:0.5"))
    train(replace(bare, preprocessing="BGR:1,2,3:4"))
    recorded = load_config(tmp_path / "out" / "config.yaml")
    assert (recorded.INPUT.FORMAT, recorded.MODEL.PIXEL_MEAN) == ("BGR", [1.0, 2.0, 3.0])
    state = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    torch.save({"model": state}, tmp_path / "plain.pth")
    cfg = recorded.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = str(tmp_path / "plain.pth"), "cpu"
    Predictor(cfg, preprocessing="BGR:1,2,3:4")
    with pytest.raises(ValueError, match=r"needs another configuration(?s:.*)add --fit-config"):
        Predictor(cfg, preprocessing="RGB:1,2,3:4")
    with pytest.raises(ValueError, match=r"msra is of weights, and MODEL\.WEIGHTS is empty"):
        train(change(job, "MODEL.WEIGHTS", "", preprocessing="msra", overwrite=True))


def test_gray_images_take_the_sum_of_the_colors(job: Job, tmp_path: Path) -> None:
    gray = ("INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [116.0], "MODEL.PIXEL_STD", [57.0])
    train(change(job, *gray))
    trained = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    given = torch.load(tmp_path / "classifier.pth", weights_only=True)["model"]["stem.conv1.weight"]
    found = trained["model"]["backbone.bottom_up.stem.conv1.weight"]
    assert torch.equal(found, given.double().sum(1, keepdim=True).float())
    assert "preprocessing" not in trained


class TestFrozenAtRandom:
    @pytest.mark.parametrize(
        ("norm", "at", "concerned"),
        [
            ("FrozenBN", 0, 29),
            ("FrozenBN", 2, 29),
            ("FrozenStatisticsBN", 0, 29),
            ("BN", 2, 8),
            ("GN", 1, 1),
        ],
    )
    def test_is_refused_until_weights_are_loaded(self, norm: str, at: int, concerned: int) -> None:
        model = ResNeXt(SMALL, norm=norm, out_features=["res5"]).freeze(at)
        words = f"^{concerned} of 29 .*'stem.conv1'.*MODEL.WEIGHTS.*FREEZE_AT 0"
        with pytest.raises(ValueError, match=words):
            check_frozen_layers_are_loaded(model)
        model.load_state_dict(randomize(copy.deepcopy(model)).state_dict())
        check_frozen_layers_are_loaded(model)

    @pytest.mark.parametrize("norm", ["BN", "GN", "SyncBN"])
    def test_training_everything_from_scratch_is_allowed(self, norm: str) -> None:
        check_frozen_layers_are_loaded(ResNeXt(SMALL, norm=norm).freeze(0))

    def test_weights_of_caffe2_count_as_loaded(self) -> None:
        """Their statistics are the identity's; their weights and biases are not."""
        model = ResNeXt(TINY)
        state = randomize(copy.deepcopy(model)).state_dict()
        model.load_state_dict({key: value for key, value in state.items() if "running" not in key})
        check_frozen_layers_are_loaded(model)


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what can be done without a network, and the keys of random weights work."""

    def fail(path: str, *, mapped: bool) -> None:
        raise FileNotFoundError(f"{path} cannot be reached; put it at its place")

    monkeypatch.setattr("resnext_det.detection.weights.read_weights", fail)
    name = "modern/faster_rcnn_X50_32x4d_FPN_1x.yaml"
    with pytest.raises(FileNotFoundError) as caught:
        read_start(load_config(name), resume=False)
    told = str(caught.value)
    assert "; or start from the small network that travels with the package, MODEL.WEIGHTS" in told
    assert "; or from a file of yours, MODEL.WEIGHTS FILE; or" in told
    words = shlex.split(told.rpartition("as long: ")[2].replace(", and with a pyramid", ""))
    small = ["MODEL.RESNETS.DEPTH", "26", "MODEL.ROI_BOX_HEAD.FC_DIM", "8"]
    check_frozen_layers_are_loaded(build_detector(load_config(name, [*words, *small])))
    with pytest.raises(FileNotFoundError, match=r"^nowhere\.pth cannot .* its place$"):
        read_start(load_config(name, ["MODEL.WEIGHTS", "nowhere.pth"]), resume=False)


def test_weights_with_which_nothing_can_begin(tmp_path: Path) -> None:
    """The cause comes first: no warning of their preprocessing, which is not known, before it."""
    path = tmp_path / "weights.pth"
    cfg = load_config({}, ["MODEL.WEIGHTS", str(path), "MODEL.DEVICE", "cpu"])
    state = fill_randomly(torchvision_network()).state_dict()
    state["layer2.0.conv2.weight"][0, 0] = torch.nan
    basic = torchvision.models.resnet18().state_dict()
    for content, cause in ((state, "NaN or infinite numbers"), (basic, "basic blocks")):
        torch.save({f"backbone.{name}": tensor for name, tensor in content.items()}, path)
        for read in (partial(read_start, resume=False), read_trained):
            with pytest.raises(ValueError, match=cause):
                read(cfg)
