"""Trainings of classifiers: against plain PyTorch, by several processes, killed and resumed."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from resnext_det.architecture import Architecture
from resnext_det.classification import training
from resnext_det.classification.build import (
    build_augmentation,
    build_classifier,
    build_mixing,
    build_protocol,
    read_schedule_settings,
)
from resnext_det.classification.jobs import pretrain_seeds
from resnext_det.classification.training import train
from resnext_det.classification.weights import load_classifier
from resnext_det.config.classification import load_classifier_config
from resnext_det.data.images.catalog import open_image_set
from resnext_det.data.images.loaders import build_image_train_loader
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.processes import Processes, launch
from resnext_det.training.schedule import build_schedule
from resnext_det.weights import KNOWN, load_weights, read_weights, write_weights
from tests.classification.helpers import (
    CLASSES,
    EPOCH,
    RESNETS,
    ClassificationJob,
    run,
    run_killed,
    run_killed_in_test,
    write_config,
    write_images,
)
from tests.detection.helpers import json_lines
from tests.training.helpers import (
    assert_same,
    drop_log,
    read_files,
    run_in_another_process,
)
from tests.weights.helpers import THIN, save, torchvision_network

pytestmark = pytest.mark.usefixtures("alone")

EVERYTHING = (
    *("SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 0.8, "INPUT.MIXUP", 0.4),
    *("INPUT.CUTMIX", 1.0, "SOLVER.LABEL_SMOOTHING", 0.1, "SOLVER.CLIP_GRADIENTS.ENABLED", True),
)
ONE_EPOCH = ("SOLVER.EPOCHS", "1", "SOLVER.STEPS", "()")


@pytest.fixture(scope="module")
def config(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config"), images)


def read_last_checkpoint(folder: Path) -> dict[str, Any]:
    checkpointer = Checkpointer(folder)
    latest = checkpointer.latest()
    assert latest is not None
    return checkpointer.load(latest)


def train_plainly(cfg: Any, epoch: int, train: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train in plain PyTorch; return the weights, and their average as timm defines it."""
    torch.manual_seed(cfg.SEED)
    network = build_classifier(cfg, len(CLASSES)).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    average = {name: value.clone().double() for name, value in network.state_dict().items()}
    loader = build_image_train_loader(
        train,
        augmentation=build_augmentation(cfg),
        mixing=build_mixing(cfg, len(CLASSES)),
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=cfg.SEED,
        num_workers=0,
    )
    for iteration, batch in zip(range(3 * epoch), loader):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * 0.1 ** (iteration // epoch >= 2)
        loss = F.cross_entropy(
            network(batch["images"]), batch["labels"], label_smoothing=cfg.SOLVER.LABEL_SMOOTHING
        )
        optimizer.zero_grad()
        loss.backward()
        if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
            for parameter in network.parameters():
                torch.nn.utils.clip_grad_norm_(parameter, 1.0)
        optimizer.step()
        # The average begins with the weights.
        decay = min(0.8, (1 + iteration) / (10 + iteration)) if iteration else 0.0
        for name, value in network.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * value.double()
    return network.state_dict(), average


@pytest.mark.parametrize("overrides", [(), EVERYTHING], ids=["paper", "everything"])
def test_a_training_is_plain_pytorchs(
    config: Path, images: Path, tmp_path: Path, overrides: tuple[object, ...]
) -> None:
    """Nesterov momentum, one weight decay, and a rate that falls after the epochs of STEPS."""
    run(config, tmp_path, *overrides)
    cfg = load_classifier_config(config, list(map(str, overrides)))
    weights, average = train_plainly(cfg, EPOCH, open_image_set(str(images / "train")))
    state = read_last_checkpoint(tmp_path)
    assert_same(dict(state["model"]), dict(weights))
    final = read_weights(tmp_path / "model_final.pth").state
    expected = average if overrides else weights
    for name, value in final.items():
        assert torch.allclose(value.double(), expected[name].double(), rtol=1e-5, atol=1e-6), name


def test_what_is_left(config: Path, tmp_path: Path) -> None:
    trained = run(config, tmp_path)
    assert trained.output_dir == tmp_path and trained.weights == tmp_path / "model_final.pth"
    file = read_weights(trained.weights)
    assert file.format == "native"
    assert file.architecture == Architecture(26, 2, 4, 32, 32)
    assert file.class_names == tuple(sorted(CLASSES))
    assert file.preprocessing is not None and file.preprocessing.channel_order == "RGB"
    assert file.preprocessing.mean == (123.675, 116.28, 103.53)
    (metrics,) = trained.tests
    assert file.metadata["top1"] == f"{metrics.top1:.3f}"
    assert metrics.num_images == 9 and metrics.ways == 3
    (test,) = (tmp_path / "test").iterdir()
    assert json.loads(test.read_text())["top1"] == metrics.top1
    lines = json_lines(tmp_path / "metrics.json")
    # Three classes have no top-5, and what is written does not tell where it was written.
    written = [test.read_text(), *map(str, lines), str(file.metadata)]
    assert not any("top5" in text or str(tmp_path.parent) in text for text in written)
    assert "top5" not in (tmp_path / "log.txt").read_text()
    assert file.metadata["trained_on"].endswith("/train")
    assert test.name.startswith(file.metadata["tested_on"].replace("/", "_"))
    assert [line["test/top1"] for line in lines if "test/top1" in line][-1] == metrics.top1
    assert all(line["images_per_second"] > 0 for line in lines if "images_per_second" in line)
    best = max(line["test/top1"] for line in lines if "test/top1" in line)
    assert read_weights(tmp_path / "model_best.pth").metadata["top1"] == f"{best:.3f}"
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert sorted(path.name for path in tmp_path.glob("model_0*.pth")) == [
        f"model_{iteration:07d}.pth" for iteration in (3, 7, 11)
    ]


def test_the_metrics_are_those_of_a_plain_loop(config: Path, images: Path, tmp_path: Path) -> None:
    trained = run(config, tmp_path)
    cfg = load_classifier_config(config)
    network = build_classifier(cfg, len(CLASSES)).eval()
    load_weights(network, trained.weights)
    crop, test = build_protocol(cfg).views, open_image_set(str(images / "val"))
    right = 0
    with torch.no_grad():
        for index in range(len(test)):
            right += int(network(crop(test.read(index))).argmax()) == test.labels[index]
    assert trained.tests[0].top1 == pytest.approx(100 * right / len(test))


# Checkpoints are written, and the weights tested, after iterations 3, 7 and 11.
@pytest.mark.parametrize(
    ("killed", "when"),
    [
        (run_killed, 3),
        (run_killed, 5),
        (run_killed, 9),
        (run_killed_in_test, 0),
        (run_killed_in_test, 1),
        (run_killed_in_test, 2),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    config: Path, tmp_path: Path, killed: Callable[..., None], when: int
) -> None:
    run(config, tmp_path / "whole", *EVERYTHING)
    folder = tmp_path / "killed"
    overrides = tuple(map(str, EVERYTHING))
    status = run_in_another_process(killed, str(config), str(folder), overrides, when)
    assert status == -signal.SIGKILL
    assert not (folder / "model_final.pth").exists()
    run(config, folder, *EVERYTHING, resume=True)
    assert_same(read_last_checkpoint(folder), read_last_checkpoint(tmp_path / "whole"))
    for name in ("model_final.pth", "model_best.pth"):
        resumed, whole = (read_weights(parent / name) for parent in (folder, tmp_path / "whole"))
        assert_same(resumed.state, whole.state)
        assert resumed.metadata == whole.metadata
    tests, whole_tests = (
        [line for line in json_lines(parent / "metrics.json") if "test/top1" in line]
        for parent in (folder, tmp_path / "whole")
    )
    assert [line["test/top1"] for line in tests] == [line["test/top1"] for line in whole_tests]
    if (killed, when) != (run_killed_in_test, 2):  # whose last test stands after the last step
        assert [line["iteration"] for line in tests] == [3, 7, 11]


@pytest.mark.parametrize(("split", "left"), [("train", 2), ("val", 3)])
def test_a_file_that_is_cut_off_stops_and_changes_nothing(
    tmp_path: Path, split: str, left: int
) -> None:
    """The checkpoint that the error names goes on as if there had been no error."""
    images = write_images(tmp_path / "images")
    config = write_config(tmp_path, images)
    run(config, tmp_path / "whole", *ONE_EPOCH)
    file = images / "val" / "dark" / "2.png"
    if split == "train":  # an image of the last batch
        cfg = load_classifier_config(config)
        loader = build_image_train_loader(
            open_image_set(str(images / "train")),
            augmentation=build_augmentation(cfg),
            batch_size=cfg.SOLVER.IMS_PER_BATCH,
            seed=cfg.SEED,
            num_workers=0,
            start_batch=EPOCH - 1,
        )
        file = Path(next(iter(loader))["file_names"][0])
    sound = file.read_bytes()
    file.write_bytes(sound[: len(sound) // 2])
    words = rf"{file}.*model_000000{left}\.pth.*--resume"
    with pytest.raises(ValueError, match=words):
        run(config, tmp_path / "stopped", *ONE_EPOCH)
    file.write_bytes(sound)
    found = run(config, tmp_path / "stopped", *ONE_EPOCH, resume=True)
    assert found.tests == run(config, tmp_path / "whole", *ONE_EPOCH, resume=True).tests
    assert_same(
        read_last_checkpoint(tmp_path / "stopped"), read_last_checkpoint(tmp_path / "whole")
    )


def test_patience_ends_a_training(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No top-1 is above the first, so the second test ends it; it resumes to the same."""
    caplog.set_level("INFO", "resnext_det")
    evaluate = training.evaluate_on
    monkeypatch.setattr(
        training,
        "evaluate_on",
        lambda *args, **how: [replace(found, top1=50.0) for found in evaluate(*args, **how)],
    )
    run(config, tmp_path, "TEST.PATIENCE", 1)
    assert "1 evaluations brought no test/top1 above the 50.000 of iteration 3" in caplog.text
    final, best = (read_weights(tmp_path / f"model_{name}.pth") for name in ("final", "best"))
    assert [final.metadata["epochs"], best.metadata["epochs"]] == ["2", "1"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"
    run(config, tmp_path, "TEST.PATIENCE", 1, resume=True)
    assert "had ended after 8 iterations" in caplog.text
    assert_same(read_weights(tmp_path / "model_final.pth").state, final.state)
    with pytest.raises(ValueError, match="PATIENCE = 1 waits for a better test"):
        run(config, tmp_path / "none", "TEST.PATIENCE", 1, "TEST.EVAL_EPOCHS", 0)


def test_a_training_that_had_ended_is_tested(config: Path, tmp_path: Path) -> None:
    first = run(config, tmp_path)
    again = run(config, tmp_path, resume=True)
    assert again.tests == first.tests


def train_in_float64(config: str, output_dir: str, overrides: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        train(load_classifier_config(config, [*overrides, "OUTPUT_DIR", output_dir]))
    finally:
        torch.set_default_dtype(torch.float32)


UNTESTED = (*ONE_EPOCH, "DATASETS.TEST", "")


@pytest.mark.usefixtures("quick_start")
@pytest.mark.parametrize("norm", ["GN", "BN"])
def test_two_processes(config: Path, tmp_path: Path, norm: str) -> None:
    """One process and two see the same images, augmented alike.

    Group norms then give one training, but for the order of sums. Batch norms give another one:
    they take the statistics of three images in each of two processes, and of six in one.
    """
    changes = ("MODEL.RESNETS.NORM", norm, "MODEL.RESNETS.WIDTH_PER_GROUP", "16", *UNTESTED)
    one, two = tmp_path / "one", tmp_path / "two"
    train_in_float64(str(config), str(one), changes)
    launch(
        train_in_float64,
        Processes(num_gpus=2),
        device="cpu",
        args=(str(config), str(two), changes),
    )
    difference = find_largest_difference(one, two)
    assert (difference < 1e-9) == (norm == "GN"), difference


@pytest.mark.parametrize("form", ["A", "B"])
def test_forms_train_alike_and_leave_form_c(config: Path, tmp_path: Path, form: str) -> None:
    # At higher rates a training on a few images multiplies rounding errors.
    changes = (*UNTESTED, "SOLVER.BASE_LR", "0.0005")
    train_in_float64(str(config), str(tmp_path / "C"), changes)
    train_in_float64(str(config), str(tmp_path / form), (*changes, "MODEL.FORM", form))
    checkpoint = read_last_checkpoint(tmp_path / form)
    assert any("paths" in name for name in checkpoint["model"])
    final = read_weights(tmp_path / form / "model_final.pth")
    torch.save(checkpoint, tmp_path / "checkpoint.pth")  # is read in form C, as any other file
    read = read_weights(tmp_path / "checkpoint.pth")
    assert read.architecture == final.architecture
    assert_same({name: read.state[name] for name in final.state}, final.state)
    assert find_largest_difference(tmp_path / form, tmp_path / "C") < 1e-6


def find_largest_difference(*folders: Path) -> float:
    """Find the largest difference between the trained weights of two runs."""
    ours, theirs = (read_weights(folder / "model_final.pth").state for folder in folders)
    names = [name for name in ours if "running" not in name]
    return max(float((ours[name] - theirs[name]).abs().max()) for name in names)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision(config: Path, tmp_path: Path, dtype: str) -> None:
    two_epochs = ("SOLVER.EPOCHS", 2, "SOLVER.STEPS", "()")
    changes = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype, *two_epochs)
    run(config, tmp_path / "mixed", *changes)
    run(config, tmp_path / "full", *two_epochs)
    mixed, full = (read_last_checkpoint(tmp_path / name) for name in ("mixed", "full"))
    name = "res5.1.conv3.weight"
    assert not torch.equal(mixed["model"][name], full["model"][name])
    assert torch.allclose(mixed["model"][name], full["model"][name], atol=0.05)
    assert mixed["model"][name].dtype == torch.float32
    assert ("grad_scaler" in mixed) == (dtype == "float16")
    if dtype == "float16":
        run(config, tmp_path / "mixed", *changes, "SOLVER.EPOCHS", 3, resume=True)
        after = read_last_checkpoint(tmp_path / "mixed")["grad_scaler"]
        assert after["_growth_tracker"] == mixed["grad_scaler"]["_growth_tracker"] + EPOCH > EPOCH
        # It is halved for each step that overflowed.
        assert after["scale"] == mixed["grad_scaler"]["scale"] <= 65536


def test_a_run_does_not_destroy_a_run(config: Path, tmp_path: Path) -> None:
    """Refuse to begin anew in its folder, also where the last of several seeds has one."""
    changes = (*UNTESTED, "SEED", "1")
    run(config, tmp_path / "seed_1", *changes)
    before = read_files(tmp_path)
    job = ClassificationJob(config, tmp_path, UNTESTED)
    for again in (
        lambda: run(config, tmp_path / "seed_1", *changes),
        lambda: pretrain_seeds(job, [0, 1]),
        lambda: run(config, tmp_path / "seed_1", "DATASETS.TRAIN", tmp_path, overwrite=True),
    ):
        with pytest.raises((ValueError, FileNotFoundError)):
            again()
        assert drop_log(read_files(tmp_path)) == drop_log(before)
    pretrain_seeds(replace(job, overwrite=True), [0, 1])
    path = str(tmp_path / "seed_1" / "model_final.pth")
    assert read_files(tmp_path)[path] != before[path]


def test_seeds_have_folders_of_their_own(config: Path, tmp_path: Path) -> None:
    job = ClassificationJob(config, tmp_path, ONE_EPOCH)
    trained = pretrain_seeds(job, [0, 4])
    assert [run.output_dir.name for run in trained] == ["seed_0", "seed_4"]
    states = [read_weights(run.weights).state["linear.weight"] for run in trained]
    assert not torch.equal(*states)
    with pytest.raises(ValueError, match=r"seeds are \[1, 1\]; write different numbers"):
        pretrain_seeds(job, [1, 1])


def test_the_learning_rate_is_scaled_on_request_and_said(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(config, tmp_path, "SOLVER.REFERENCE_BATCH", 24, *ONE_EPOCH)
    assert (
        "learning rate is 0.005: SOLVER.BASE_LR = 0.02 is of batches of SOLVER.REFERENCE_BATCH = 24"
        in caplog.text
    )
    groups = read_last_checkpoint(tmp_path)["optimizer"]["param_groups"]
    assert [group["initial_lr"] for group in groups] == [0.005]
    assert [group["weight_decay"] for group in groups] == [1e-4]


STILL = ("SOLVER.BASE_LR", "0.0", *ONE_EPOCH)


def start_from(
    config: Path, tmp_path: Path, names: list[str] | None, outputs: int
) -> tuple[Any, Any]:
    """Train three classes, then start a training that moves nothing from these weights.

    Args:
        names: of the classes, in the file that the second training starts from.
        outputs: number of outputs in that file.

    Returns:
        The weights of both trainings.
    """
    trained = run(config, tmp_path / "first", *ONE_EPOCH)
    file = read_weights(trained.weights)
    assert file.preprocessing is not None
    state = {
        name: value[:outputs] if name.startswith("linear.") else value
        for name, value in file.state.items()
    }
    contents = {"model": state, "preprocessing": file.preprocessing.as_dict(), "class_names": names}
    torch.save(
        {key: value for key, value in contents.items() if value is not None}, tmp_path / "start.pth"
    )
    run(config, tmp_path / "second", *STILL, "MODEL.WEIGHTS", tmp_path / "start.pth")
    return file.state, read_weights(tmp_path / "second" / "model_final.pth").state


@pytest.mark.parametrize(
    ("names", "outputs", "words"),
    [
        (None, 2, "is of 2 classes and not of the 3 of this training"),
        (
            ["a", "b", "c"],
            3,
            r"is of other classes (a, b, c) and not of the 3 of this training",
        ),
    ],
)
def test_other_classes_start_anew(
    config: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    names: list[str] | None,
    outputs: int,
    words: str,
) -> None:
    before, after = start_from(config, tmp_path, names, outputs)
    assert words in caplog.text and "so the linear layer starts at random" in caplog.text
    assert torch.equal(after["res2.0.conv1.weight"], before["res2.0.conv1.weight"])
    assert not torch.equal(after["linear.weight"][:2], before["linear.weight"][:2])


@pytest.mark.parametrize("names", [None, ["dark", "light", "middle"], ["middle", "dark", "light"]])
def test_the_same_classes_keep_their_outputs(
    config: Path, tmp_path: Path, names: list[str] | None
) -> None:
    """Match outputs by the names of their classes, in whatever order the file has them."""
    before, after = start_from(config, tmp_path, names, 3)
    order = [(names or sorted(CLASSES)).index(name) for name in sorted(CLASSES)]
    assert torch.equal(after["linear.weight"], before["linear.weight"][order])
    assert torch.equal(after["linear.bias"], before["linear.bias"][order])


def test_a_detectors_backbone_starts_a_classifier(config: Path, tmp_path: Path) -> None:
    trained = run(config, tmp_path / "first", *ONE_EPOCH)
    file = read_weights(trained.weights)
    detector = {
        f"backbone.{name}": value
        for name, value in file.state.items()
        if not name.startswith("linear.")
    }
    detector["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(4, 8)
    assert file.preprocessing is not None
    contents = {"model": detector, "preprocessing": file.preprocessing.as_dict()}
    torch.save(contents, tmp_path / "detector.pth")
    run(config, tmp_path / "second", *STILL, "MODEL.WEIGHTS", tmp_path / "detector.pth")
    found = read_weights(tmp_path / "second" / "model_final.pth").state
    assert torch.equal(found["res5.1.conv3.weight"], file.state["res5.1.conv3.weight"])
    with pytest.raises(ValueError, match=r"detector.pth is a detector's and has no classifier"):
        load_classifier(tmp_path / "detector.pth")


def test_the_configuration_is_fitted_to_the_weights(config: Path, tmp_path: Path) -> None:
    trained = run(config, tmp_path / "first", *ONE_EPOCH)
    file = read_weights(trained.weights)
    write_weights(file.state, tmp_path / "bgr.pth", "native", preprocessing=KNOWN["pycls"])
    changes = (*STILL, "MODEL.WEIGHTS", tmp_path / "bgr.pth")
    with pytest.raises(ValueError, match=r"FORMAT: BGR(?s:.*)--fit-config"):
        run(config, tmp_path / "refused", *changes)
    fitted = run(config, tmp_path / "fitted", *changes, fit_config=True)
    assert read_weights(fitted.weights).preprocessing == KNOWN["pycls"]


def test_own_normalization_of_a_bare_file(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A network of torchvision's names, another than the configuration's, trained on x / 255.

    The configuration states it, --fit-config fits the network, and the new file says it as a fact.
    """
    bare = save(torchvision_network(3).state_dict(), tmp_path, "bare.pth")
    own = ("MODEL.PIXEL_MEAN", [0.0] * 3, "MODEL.PIXEL_STD", [255.0] * 3)
    changes = (*STILL, "MODEL.WEIGHTS", bare, *own)
    with pytest.raises(ValueError, match=r"the file is X-26-2x4d: set .*, or add --fit-config"):
        run(config, tmp_path / "other", *changes)
    caplog.clear()
    trained = run(config, tmp_path / "stated", *changes, fit_config=True)
    assert "--preprocessing RGB:0:255, or" in caplog.text
    file = read_weights(trained.weights)
    assert file.architecture == THIN
    assert file.preprocessing == replace(KNOWN["torchvision"], mean=(0.0,) * 3, std=(255.0,) * 3)
    assert not file.is_usual("std")
    caplog.clear()
    again = run(
        config,
        tmp_path / "again",
        *(*STILL, "MODEL.WEIGHTS", bare),
        fit_config=True,
        preprocessing="RGB:0:255",
    )
    assert read_weights(again.weights).preprocessing == file.preprocessing
    assert "as the configuration says" not in caplog.text
    with pytest.raises(ValueError, match="as it says itself, and --preprocessing pycls contra"):
        run(
            config,
            tmp_path / "against",
            *(*STILL, "MODEL.WEIGHTS", trained.weights),
            preprocessing="pycls",
        )


def test_a_checkpoint_is_tested_as_its_training_was(config: Path, tmp_path: Path) -> None:
    run(config, tmp_path, *ONE_EPOCH)
    checkpoint, final = (
        read_weights(tmp_path / name) for name in ("model_0000003.pth", "model_final.pth")
    )
    for key in ("size_test", "resize_test", "interpolation", "trained_on"):
        assert checkpoint.metadata[key] == final.metadata[key]
    assert (
        checkpoint.class_names == final.class_names
        and checkpoint.preprocessing == final.preprocessing
    )


def test_the_weights_go_into_a_detector(config: Path, tmp_path: Path) -> None:
    """MODEL.WEIGHTS of a detector, without conversion; and refused under another preprocessing."""
    from resnext_det.config import get_cfg
    from resnext_det.detection.portable.build import build_detector
    from resnext_det.detection.weights import load_pretrained, read_start

    trained = run(config, tmp_path)
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(trained.weights), "INPUT.FORMAT", "RGB"]
    )
    for name, value in {**RESNETS, "STRIDE_IN_1X1": False}.items():
        cfg.MODEL.RESNETS[name] = value
    with pytest.raises(ValueError, match=r"needs another configuration.*PIXEL_MEAN"):
        read_start(cfg, resume=False)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    detector = build_detector(cfg)
    file = read_start(cfg, resume=False)
    assert file is not None
    load_pretrained(cfg, detector, file)
    state, classifier = detector.state_dict(), read_weights(trained.weights).state
    assert torch.equal(state["backbone.res3.0.conv2.weight"], classifier["res3.0.conv2.weight"])
    assert torch.equal(state["roi_heads.res5.1.conv3.weight"], classifier["res5.1.conv3.weight"])


@pytest.mark.parametrize(
    "name", ["imagenet/X50_32x4d", "imagenet5k/R50_1x64d", "cifar10/X29_8x64d"]
)
def test_the_schedule_is_the_repositorys_formula(name: str) -> None:
    """train.lua, learningRate; of CIFAR the paper's epochs, 150 and 225."""
    root = Path(__file__).parents[2] / "configs" / "classification"
    cfg = load_classifier_config(root / f"{name}.yaml")
    images = {"imagenet": 1_281_167, "imagenet5k": 6_800_000, "cifar10": 50_000}[
        name.partition("/")[0]
    ]
    epoch = -(-(cfg.SOLVER.IMAGES_PER_EPOCH or images) // cfg.SOLVER.IMS_PER_BATCH)
    assert epoch == {"cifar10": 391}.get(name.partition("/")[0], 5005)
    schedule = build_schedule(read_schedule_settings(cfg, epoch))
    for number in range(1, cfg.SOLVER.EPOCHS + 1):
        decay = (number - 1) // 30 if "imagenet" in name else (number > 150) + (number > 225)
        for iteration in ((number - 1) * epoch, number * epoch - 1):  # the first and the last
            assert schedule(iteration) == pytest.approx(0.1**decay, rel=1e-12), number
