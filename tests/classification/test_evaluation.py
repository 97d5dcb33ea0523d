"""Weights tested on a set: against plain loops, with fewer classes, by several processes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torchvision.transforms import v2

from resnext_det.architecture import Architecture
from resnext_det.classification.evaluation import evaluate_on, find_columns, write_metrics
from resnext_det.classification.jobs import EvaluationJob, evaluate_weights
from resnext_det.classification.protocols import protocol_of
from resnext_det.data.images.catalog import open_image_set
from resnext_det.data.images.image_set import relabel
from resnext_det.evaluation.classification import Tally
from resnext_det.weights import KNOWN, read_weights, write_weights
from tests.classification.helpers import NETWORK, make_network, write_images

pytestmark = pytest.mark.usefixtures("alone")

CPU: dict[str, Any] = {"device": "cpu", "num_workers": 0, "batch_size": 4}


def evaluate(weights: Path, dataset: Path, **changes: Any) -> Any:
    return evaluate_weights(EvaluationJob(str(weights), str(dataset), **{**CPU, **changes}))


def read_images(folder: Path) -> list[tuple[int, Image.Image]]:
    """Read (label, image) of every file by torchvision."""
    found = torchvision.datasets.ImageFolder(str(folder))
    return [(label, image) for image, label in found]


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def crop_once(image: Image.Image, size: int) -> list[torch.Tensor]:
    steps = [
        v2.Resize(size),
        v2.CenterCrop(size),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
    ]
    return [v2.Compose([*steps, v2.Normalize(MEAN, STD)])(image)]


def crop_ten_times(image: Image.Image, size: int, resize: int) -> list[torch.Tensor]:
    steps = [v2.Resize(resize), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    whole = v2.Compose([*steps, v2.Normalize(MEAN, STD)])(image)
    return list(v2.TenCrop(size)(whole))


@pytest.mark.parametrize(
    ("options", "crops"),
    [
        ({"size": 32, "resize": 32}, lambda image: crop_once(image, 32)),
        ({"size": 320}, lambda image: crop_once(image, 320)),
        (
            {"protocol": "ten-crop", "size": 32, "resize": 36},
            lambda image: crop_ten_times(image, 32, 36),
        ),
    ],
    ids=["32", "320", "ten-crop"],
)
def test_crops_are_a_plain_loop(
    weights: Path, images: Path, options: dict[str, Any], crops: Callable[[Any], list[torch.Tensor]]
) -> None:
    """With torchvision's transforms and, one after the other, every crop through the network."""
    network = make_network(3)
    ranks, loss = [], 0.0
    with torch.no_grad():
        for label, image in read_images(images / "val"):
            logits = torch.stack([network(crop[None])[0] for crop in crops(image)]).mean(0)
            ranks.append(int((logits > logits[label]).sum()))
            loss -= float(logits.log_softmax(0)[label]) / 9
    (found,) = evaluate(weights, images / "val", interpolation="bilinear", **options)
    assert found.top1 == pytest.approx(100 * sum(rank == 0 for rank in ranks) / 9)
    assert found.cross_entropy == pytest.approx(loss, rel=1e-4)
    assert found.num_images == 9


def test_dense_is_a_plain_loop(weights: Path, images: Path) -> None:
    network = make_network(3).double()
    loss = 0.0
    with torch.no_grad():
        for label, image in read_images(images / "val"):
            probabilities = []
            for scale in (224, 288):
                steps = [v2.Resize(scale), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
                whole = v2.Compose([*steps, v2.Normalize(MEAN, STD)])(image)[None].double()
                for view in (whole, whole.flip(3)):
                    maps = network.forward_features(view)[0]
                    places = []
                    for top in range(maps.shape[1] - 6):
                        for left in range(maps.shape[2] - 6):
                            window = maps[:, top : top + 7, left : left + 7].mean((1, 2))
                            places.append(network.linear(window))
                    probabilities.append(torch.stack(places).mean(0).softmax(0))
            loss -= float(torch.stack(probabilities).mean(0)[label].log()) / 9
    options = {"protocol": "dense", "scales": (224, 288), "interpolation": "bilinear"}
    (found,) = evaluate(weights, images / "val", **options)
    assert found.cross_entropy == pytest.approx(loss, rel=1e-4)
    assert found.protocol == "dense 224, 288"


@pytest.mark.usefixtures("quick_start")
def test_several_processes_find_the_same(weights: Path, images: Path) -> None:
    (alone,) = evaluate(weights, images / "val", size=32)
    (together,) = evaluate(weights, images / "val", size=32, num_gpus=2, num_workers=1)
    assert together.cross_entropy == pytest.approx(alone.cross_entropy, rel=1e-6)  # batches differ
    assert replace(together, cross_entropy=alone.cross_entropy) == alone


def test_fewer_classes_compete_twice(images: Path, tmp_path: Path) -> None:
    """Section 5.2: 5000-way and 1000-way."""
    names = ("aaa", "dark", "light", "mmm", "middle")
    write_weights(
        make_network(5),
        tmp_path / "five.pth",
        "native",
        preprocessing=KNOWN["torchvision"],
        class_names=names,
    )
    all_ways, among = evaluate(
        tmp_path / "five.pth", images / "val", size=32, interpolation="bilinear"
    )
    assert (all_ways.ways, among.ways) == (5, 3)
    assert among.class_names == ("dark", "light", "middle")
    network, right = make_network(5), [0, 0]
    with torch.no_grad():
        for label, image in read_images(images / "val"):
            logits = network(crop_once(image, 32)[0][None])[0]
            columns = [names.index(name) for name in among.class_names]
            right[0] += int(logits.argmax()) == columns[label]
            right[1] += int(logits[columns].argmax()) == label
    assert [all_ways.top1, among.top1] == pytest.approx([100 * count / 9 for count in right])
    # As imagenet5k_val: labels of all classes, images of some.
    labeled = relabel(open_image_set(images / "val"), names)
    options = {"outputs": names, "batch_size": 4, "num_workers": 0}
    protocol = protocol_of(read_weights(tmp_path / "five.pth"), size=32, interpolation="bilinear")
    again = evaluate_on(network, labeled, protocol, **options)
    for found, expected in zip(again, (all_ways, among), strict=True):
        assert found.cross_entropy == pytest.approx(expected.cross_entropy, rel=1e-5)
        same = replace(found, dataset=expected.dataset, cross_entropy=expected.cross_entropy)
        assert same.to_json() == expected.to_json()


@pytest.mark.parametrize("source", ["torchvision", "pycls order", "detectron2", "group norm"])
def test_any_weights_under_their_preprocessing(images: Path, tmp_path: Path, source: str) -> None:
    """The same network in other forms gives the same numbers; BGR weights get BGR images."""
    architecture = {
        "torchvision": Architecture(26, 2, 4),
        "group norm": Architecture(26, 2, 16, 32, 32),
    }
    norm = "GN" if source == "group norm" else "BN"
    network = make_network(3, norm, architecture.get(source, NETWORK))
    path, known = tmp_path / "weights.pth", KNOWN["torchvision"]
    if source == "torchvision":
        write_weights(network, path, "torchvision", preprocessing=known)
    elif source == "pycls order":
        network.stem.conv1.weight.data = network.stem.conv1.weight.data.flip(1)
        write_weights(network, path, "native", preprocessing=KNOWN["pycls"])
        network.stem.conv1.weight.data = network.stem.conv1.weight.data.flip(1)
    elif source == "detectron2":
        path = tmp_path / "weights.pkl"
        write_weights(network, path, preprocessing=known)
    else:
        write_weights(network, path, "native", preprocessing=replace(known, batch_norm="none"))
    loss = 0.0
    with torch.no_grad():
        for label, image in read_images(images / "val"):
            loss -= float(network(crop_once(image, 32)[0][None])[0].log_softmax(0)[label]) / 9
    (found,) = evaluate(path, images / "val", size=32, interpolation="bilinear")
    assert found.cross_entropy == pytest.approx(loss, rel=1e-4)


def test_no_test_replaces_another_one(weights: Path, images: Path, tmp_path: Path) -> None:
    other = write_images(tmp_path / "other")
    for set_of, options in (
        (images, {}),
        (other, {}),
        (images, {"interpolation": "bilinear"}),
        (images, {"resize": 64}),
    ):
        write_metrics(tmp_path / "run", evaluate(weights, set_of / "val", size=32, **options))
    files = list((tmp_path / "run" / "test").iterdir())
    found = [json.loads(file.read_text()) for file in files]
    assert len({(test["dataset"], test["resize"], test["interpolation"]) for test in found}) == 4
    assert sorted(test["resize"] for test in found) == [32, 32, 32, 64]
    name = f"{images.name}_val_crop_32_of_shorter_side_64_torch7_bicubic_3_way.json"
    assert name in {file.name for file in files}


def test_written_tests_do_not_tell_the_machine(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same from two machines, by absolute and relative paths, and a broken image's name too."""
    written = []
    for machine in ("home/me", "mnt"):
        root = write_images(tmp_path / machine / "pets")
        broken = root / "val" / "light" / "1.png"
        broken.write_bytes(broken.read_bytes()[:300])
        monkeypatch.chdir(root)
        for where in (root / "val", Path("./val"), Path("../pets/val")):
            found = evaluate(weights, where, size=32, skip_broken=True)
            (file,) = write_metrics(tmp_path / machine, found)
            written.append((file.name, file.read_text()))
        (single,) = (tmp_path / machine / "test").iterdir()
        assert single == file
    assert len(set(written)) == 1
    assert written[0][0] == "pets_val_crop_32_of_shorter_side_32_torch7_bicubic_3_way.json"
    content = json.loads(written[0][1])
    assert (content["dataset"], content["skipped"]) == ("pets/val", ["light/1.png"])


def test_a_test_under_an_older_name_is_replaced_and_another_set_is_kept(tmp_path: Path) -> None:
    """Older versions wrote the path of the machine, in the name and in the file."""
    tally = Tally([f"class {index}" for index in range(7)])
    tally.add(torch.eye(7), torch.arange(7))
    metrics = replace(tally.compute_metrics("crop 32", "/home/me/pets/val"), resize=32)
    (old,) = write_metrics(tmp_path, [metrics])
    old = old.rename(tmp_path / "test" / "home_me_pets_val_crop_32_7_way.json")
    (tmp_path / "test" / "notes.json").write_text("[]")
    tally.add(torch.eye(7), torch.zeros(7, dtype=torch.int64))  # of another set with twice as many
    other = replace(tally.compute_metrics("crop 32", "pets/val"), resize=32)
    paths = [write_metrics(tmp_path, [each])[0] for each in (other, other)]
    assert len({*paths, old}) == 2 and old.exists()
    (new,) = write_metrics(tmp_path, [replace(metrics, dataset="pets/val")])
    assert not old.exists() and new != paths[0]
    assert sorted(each.name for each in (tmp_path / "test").iterdir()) == [
        "notes.json",
        "pets_val_crop_32_of_shorter_side_32_7_way.json",
        "pets_val_crop_32_of_shorter_side_32_7_way_2.json",
    ]


def test_some_outputs_compete_alone() -> None:
    """The same comes out where the scores of the other outputs are minus infinity."""
    torch.manual_seed(0)
    among = [f"n{index:04d}" for index in torch.randperm(50).tolist()]
    chosen = [f"n{index:04d}" for index in range(0, 50, 5)]
    outputs = find_columns(chosen, among)
    assert [among[column] for column in outputs.tolist()] == chosen
    scores, labels = torch.randn(400, 50), torch.randint(0, 10, (400,))
    scores[torch.arange(400), outputs[labels]] += 1
    tally, everything = Tally(chosen), Tally(among)
    tally.add(scores[:, outputs], labels)
    everything.add(scores, outputs[labels])
    masked = torch.full_like(scores, -math.inf)
    masked[:, outputs] = scores[:, outputs]
    metrics = tally.compute_metrics()
    assert metrics.ways == 10
    assert metrics.top1 == 100 * int((masked.argmax(dim=1) == outputs[labels]).sum()) / 400
    expected = F.cross_entropy(masked.double(), outputs[labels]).item()
    assert metrics.cross_entropy == pytest.approx(expected, rel=1e-12)
    assert metrics.top1 > everything.compute_metrics().top1
    assert everything.compute_metrics().cross_entropy > metrics.cross_entropy
    # Log probabilities, as after averaging over crops, give the same.
    again = Tally(chosen)
    again.add(scores.double().log_softmax(dim=1)[:, outputs], labels)
    assert again.compute_metrics().cross_entropy == pytest.approx(expected, rel=1e-12)


def test_class_names_without_a_column_are_named() -> None:
    among = ["cat", "dog", "cow", "crane", "crane"]
    with pytest.raises(
        ValueError, match="2 of 3 classes are none of the network's 5 outputs: 'owl', 'rat'; test"
    ):
        find_columns(["owl", "cat", "rat"], among)
    with pytest.raises(
        ValueError, match=r"7 of 7 classes .* 'a', 'b', 'c', 'd', 'e' and 2 more; test on classes"
    ):
        find_columns("abcdefg", among)
    with pytest.raises(
        ValueError, match="several outputs have one name: 'crane'; give every class"
    ):
        find_columns(["crane"], among)
    assert find_columns(["cow", "cat"], among).tolist() == [2, 0]  # 'crane' is not asked for


def test_what_is_refused(weights: Path, images: Path, tmp_path: Path) -> None:
    other = write_images(tmp_path / "other", ("dark", "light", "purple"))
    with pytest.raises(ValueError, match=r"purple"):
        evaluate(weights, other / "val")
    write_weights(make_network(3), tmp_path / "unknown.pth", "native")
    with pytest.raises(
        ValueError, match=r"does not say which preprocessing.*--preprocessing: .*torchvision"
    ):
        evaluate(tmp_path / "unknown.pth", images / "val")
    assert evaluate(tmp_path / "unknown.pth", images / "val", size=32, preprocessing="torchvision")
    write_weights(
        make_network(7), tmp_path / "seven.pth", "native", preprocessing=KNOWN["torchvision"]
    )
    with pytest.raises(
        ValueError, match=r"seven.pth has 7 outputs and does not name their classes, and .* 3"
    ):
        evaluate(tmp_path / "seven.pth", images / "val")
    state = {k: v for k, v in make_network(3).state_dict().items() if not k.startswith("linear.")}
    write_weights(state, tmp_path / "backbone.pth", "native", preprocessing=KNOWN["torchvision"])
    with pytest.raises(ValueError, match=r"no linear.weight and no linear.bias: it is a backbone"):
        evaluate(tmp_path / "backbone.pth", images / "val")
    with pytest.raises(ValueError, match="protocol 'five-crop' is not known; choose one of center"):
        evaluate(weights, images / "val", protocol="five-crop")
    with pytest.raises(ValueError, match=r"resize.*40.*64|64.*40"):
        evaluate(weights, images / "val", size=64, resize=40)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"scales": (64, 80)},
            r"scales = \(64, 80\) has no effect in the protocol 'center'.*choose dense",
        ),
        ({"protocol": "ten-crop", "scales": (64,)}, "scales.*has no effect"),
        (
            {"protocol": "dense", "size": 64},
            "size = 64 has no effect in the protocol 'dense'.*center or ten",
        ),
        ({"protocol": "dense", "resize": 64}, "resize = 64 has no effect"),
        ({"protocol": "dense", "scales": ()}, r"scales are \(\); give one or more shorter sides"),
        ({"protocol": "dense", "scales": (64, 0)}, r"scales are \(64, 0\); give one or more"),
        ({"size": -5}, "size is -5; give the side of the crop in pixels"),
        ({"device": "gpu"}, "--device is 'gpu', which is no torch device"),
        (
            {"preprocessing": "msra"},
            "as it says itself, and --preprocessing msra contradicts that; leave it",
        ),
    ],
)
def test_a_setting_without_effect_or_against_the_weights_is_refused(
    weights: Path, images: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(weights, images / "val", **settings)


def test_the_preprocessing_that_the_names_tell_can_be_stated_otherwise(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """torchvision's names say how torchvision trained; someone may have trained otherwise."""
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet50(num_classes=3).state_dict(), tmp_path / "own.pth")
    usual = evaluate(tmp_path / "own.pth", images / "val", size=32)
    assert "as is usual, which is not known to be right: RGB:123.675," in caplog.text
    assert "preprocessing, interpolation as is usual, not known" in usual[0].summarize()
    assert json.loads(usual[0].to_json())["usual"] == ["preprocessing", "interpolation"]
    caplog.clear()
    stated = evaluate(tmp_path / "own.pth", images / "val", size=32, preprocessing="fair")
    for words in ("torchvision", "RGB:123.675,116.28,103.53:58.395,57.12,57.375"):
        same = evaluate(
            *(tmp_path / "own.pth", images / "val"),
            size=32,
            interpolation="bilinear",
            preprocessing=words,
        )
        assert same[0].cross_entropy == usual[0].cross_entropy
        assert not same[0].usual and "usual" not in json.loads(same[0].to_json())
    assert "RGB:123" not in caplog.text  # nothing is only usual
    assert stated[0].num_images == 9
    assert stated[0].cross_entropy != usual[0].cross_entropy


def test_a_broken_image_is_named_and_skipped_on_request(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_images(tmp_path / "images")
    broken = root / "val" / "light" / "1.png"
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"light.1\.png"):
        evaluate(weights, root / "val", size=32, num_workers=1)
    (found,) = evaluate(weights, root / "val", size=32, skip_broken=True)
    assert found.num_images == 8 and found.skipped == ("light/1.png",)
    assert "left out" in caplog.text and str(broken) in caplog.text
    assert np.sum(found.class_images) == 8
