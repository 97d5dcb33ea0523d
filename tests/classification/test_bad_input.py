"""Mistakes of users of classifiers, and the errors and warnings that name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnext_det.config.classification import load_classifier_config
from resnext_det.data.images.catalog import open_image_set
from tests.classification.helpers import run, write_config, write_images

pytestmark = pytest.mark.usefixtures("alone")

NO_STEPS = ("SOLVER.STEPS", "()")
ONE_EPOCH = ("SOLVER.EPOCHS", 1, *NO_STEPS)


@pytest.fixture
def config(images: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path, images)


def test_an_empty_class_folder(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images")
    (root / "train" / "nothing").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match="nothing"):
        run(write_config(tmp_path, root), tmp_path / "out")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_no_image(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_images(tmp_path / "images")
    broken = root / "train" / "dark" / "2.png"
    broken.write_text("these are no pixels")
    config = write_config(tmp_path, root, DATALOADER={"NUM_WORKERS": workers})
    with pytest.raises(ValueError, match=r"dark.2\.png"):
        run(config, tmp_path / "stopped")
    trained = run(config, tmp_path / "skipped", "DATALOADER.SKIP_BROKEN_IMAGES", True)
    assert trained.weights.is_file()
    assert caplog.text.count("in place of a broken one") == 1 and str(broken) in caplog.text


def test_a_set_of_nothing_but_broken_images(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images")
    for path in (root / "train").rglob("*.png"):
        path.write_text("these are no pixels")
    config = write_config(tmp_path, root)
    with pytest.raises(ValueError, match=r"\.png"):
        run(config, tmp_path / "out", "DATALOADER.SKIP_BROKEN_IMAGES", True)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_too_small_to_be_cropped_is_named(
    config: Path, tmp_path: Path, workers: int
) -> None:
    changes = ("INPUT.AUGMENTATION", "cifar", "INPUT.COLOR_JITTER", 0.0, "INPUT.LIGHTING", 0.0)
    with pytest.raises(
        ValueError, match=r"\d\.png: an image of 40x48 with 0 pixels around it holds no crop of 64"
    ):
        run(config, tmp_path, *changes, "INPUT.SIZE_TRAIN", 64, "DATALOADER.NUM_WORKERS", workers)


def test_sets_whose_classes_differ(tmp_path: Path, images: Path) -> None:
    other = write_images(tmp_path / "other", ("dark", "light", "purple"))
    with pytest.raises(ValueError, match=r"(?s)middle.*purple|purple.*middle"):
        run(write_config(tmp_path, images, DATASETS={"TEST": str(other / "val")}), tmp_path / "out")


def test_a_test_set_without_some_classes_and_a_batch_above_the_set_are_told(
    tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part = write_images(tmp_path / "part", ("dark", "light"))
    config = write_config(tmp_path, images, DATASETS={"TEST": str(part / "val")})
    run(config, tmp_path / "out", *ONE_EPOCH, "SOLVER.IMS_PER_BATCH", 32)
    assert "no image of 1 of the 3 classes (middle): the test says nothing of these" in caplog.text
    assert "SOLVER.IMS_PER_BATCH = 32 is more than the 24 images" in caplog.text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            ("MODEL.NUM_CLASSES", "5"),
            r"NUM_CLASSES = 5, but DATASETS.TRAIN = .* has 3 classes; write 3",
        ),
        (("DATASETS.TRAIN", ""), "DATASETS.TRAIN is empty"),
        (("DATASETS.TRAIN", "/nowhere/at/all"), "/nowhere/at/all"),
        (("DATASETS.TRAIN", "imagenet_tain"), "imagenet_train"),
        (("MODEL.WEIGHTS", "/nowhere.pth"), "/nowhere.pth"),
        (("MODEL.DEVICE", "cuda"), "finds no GPU|CUDA"),
    ],
)
def test_settings_that_cannot_be(
    config: Path, tmp_path: Path, override: tuple[str, str], words: str
) -> None:
    if override[1] == "cuda":
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        run(config, tmp_path / "out", *override)


def test_a_batch_that_cannot_be_shared(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a batch of 6 images does not divide among 4 processes"):
        run(config, tmp_path / "out", num_gpus=4)


def test_a_checkpoint_of_another_number_of_classes(config: Path, tmp_path: Path) -> None:
    run(config, tmp_path / "out", *ONE_EPOCH)
    two = write_images(tmp_path / "two", ("dark", "light"))
    other = write_config(tmp_path, two)
    with pytest.raises(
        ValueError,
        match=r"checkpoint is of 3 classes and DATASETS.TRAIN has 2.*first 'middle', now None",
    ):
        run(other, tmp_path / "out", resume=True, resume_anyway=True)


def test_a_checkpoint_of_other_images(config: Path, tmp_path: Path) -> None:
    """Else the weights would be said to need what they were not trained on."""
    run(config, tmp_path / "out", *ONE_EPOCH)
    other = ("MODEL.PIXEL_MEAN", [0.0] * 3, "MODEL.PIXEL_STD", [255.0] * 3)
    with pytest.raises(ValueError, match=r"was trained on images RGB:.* now says RGB:0:255"):
        run(config, tmp_path / "out", *other, resume=True, resume_anyway=True)


def test_a_training_set_that_has_changed_under_its_name(
    config: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(config, tmp_path / "out", *ONE_EPOCH)
    path = min((images / "train").rglob("*.png"))
    other = path.rename(path.with_name("a.png"))
    try:
        with pytest.raises(ValueError, match=r"train' has other file names; resume with the data"):
            run(config, tmp_path / "out", *ONE_EPOCH, resume=True)
        run(config, tmp_path / "out", *ONE_EPOCH, resume=True, resume_anyway=True)
    finally:
        other.rename(path)
    assert "has other file names. The run goes on with them, as --resume-anyway" in caplog.text


def test_a_checkpoint_of_other_classes_of_the_same_number(config: Path, tmp_path: Path) -> None:
    run(config, tmp_path / "out", *ONE_EPOCH)
    other = write_config(tmp_path, write_images(tmp_path / "other", ("dark", "light", "purple")))
    with pytest.raises(
        ValueError, match=r"first 'middle', now 'purple'\); resume with the same set"
    ):
        run(other, tmp_path / "out", resume=True, resume_anyway=True)


def test_a_checkpoint_without_an_average(config: Path, tmp_path: Path) -> None:
    run(config, tmp_path / "out", *ONE_EPOCH)
    with pytest.raises(ValueError, match=r"holds no model_ema: .* resume with its config.yaml"):
        run(config, tmp_path / "out", "SOLVER.EMA.ENABLED", True, resume=True, resume_anyway=True)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["SOLVER.EPOCH", "3"], r"SOLVER.EPOCH = .*did you mean SOLVER.EPOCHS"),
        (
            ["INPUT.AUTO_AUGMENT", "rand_augment"],
            r"AUTO_AUGMENT = 'rand_augment' has no effect .*'modern'",
        ),
        (
            ["INPUT.PADDING", "4"],
            r"INPUT.PADDING = 4 has no effect in INPUT.AUGMENTATION = 'paper'",
        ),
        (["INPUT.RESIZE_TEST", "30"], r"RESIZE_TEST = 30 is smaller than INPUT.SIZE_TEST = 32"),
        (
            ["SOLVER.WARMUP_EPOCHS", "3"],
            r"WARMUP_EPOCHS = 3 is the whole training of SOLVER.EPOCHS = 3",
        ),
        (["SOLVER.MAX_ITER", "3"], r"did you mean SOLVER.EPOCHS\?"),
        (["MODEL.RESNETS.CARDINALITY", "3"], r"did you mean MODEL.RESNETS.NUM_GROUPS\?"),
        (["DATASETS.TRAIN", "('photos/train',)"], r"text is needed; write 'photos/train'"),
        (
            ["SOLVER.STEPS", "(3,)"],
            r"SOLVER.STEPS = \(3,\), but the training ends after SOLVER.EPOCHS = 3",
        ),
        (["SOLVER.STEPS", "(2, 1)"], r"SOLVER.STEPS .*increasing"),
        (
            ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"],
            r"STEPS = \(2,\) has no effect in SOLVER.LR_SCHEDULER_NAME = 'WarmupCosineLR'; write",
        ),
        (
            ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", *NO_STEPS, "SOLVER.GAMMA", "0.5"],
            r"GAMMA = 0.5 has no effect in SOLVER.LR_SCHEDULER_NAME = .*; write 0.1, or",
        ),
        (
            ["SOLVER.BASE_LR_END", "0.001"],
            r"BASE_LR_END = 0.001 has no effect in SOLVER.LR_SCHEDULER_NAME",
        ),
        (["SOLVER.EPOCHS", "2.6"], r"a whole number is needed; write 3"),
        (["MODEL.PIXEL_STD", "(1.0, 0.0, 1.0)"], r"PIXEL_STD .* three numbers"),
        (["MODEL.RESNETS.DEPTH", "34"], r"DEPTH = 34 is not supported; write 26 or 50"),
        (["MODEL.RESNETS.NORM", "FrozenBN"], r"NORM = 'FrozenBN' is not supported; write 'BN'"),
        (
            ["SOLVER.AMP.DTYPE", "int8"],
            r"DTYPE = 'int8' is not supported; write 'bfloat16' or 'float16'",
        ),
        (["SOLVER.LABEL_SMOOTHING", "1.5"], r"LABEL_SMOOTHING = 1.5 is out of range"),
        (
            ["SOLVER.EMA.ENABLED", "True", "SOLVER.EMA.DECAY", "0.0"],
            r"EMA.DECAY = 0.0 averages nothing",
        ),
        (["SOLVER.WEIGHT_DECAY_NORM", "much"], r"WEIGHT_DECAY_NORM"),
        (["MODEL.FORM", "D"], r"FORM = 'D' is not supported; write 'A' or 'B' or 'C'"),
    ],
)
def test_configurations_that_are_refused(config: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_classifier_config(config, overrides)


def test_a_detectors_configuration(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    with pytest.raises(ValueError, match=r"is a detector's configuration.*resnext-det train"):
        load_classifier_config(root / "configs" / "faster_rcnn_X50_32x4d.yaml")


def test_the_generated_set_is_not_mistaken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape_images_train"):
        open_image_set("shape_images_tain", root=tmp_path)


def test_weights_that_cannot_be_downloaded(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str, **options: object) -> None:
        raise FileNotFoundError(f"{path} cannot be reached")

    monkeypatch.setattr("resnext_det.classification.weights.read_weights", fail)
    words = "reached; or start from the small network that travels with the package, MODEL.WEIGHTS"
    with pytest.raises(FileNotFoundError, match=words):
        run(config, tmp_path / "out", "MODEL.WEIGHTS", "resnext://torchvision/R-50")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth cannot be reached$"):
        run(config, tmp_path / "out", "MODEL.WEIGHTS", "nowhere.pth")
