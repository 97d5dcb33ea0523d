"""Single images against torchvision's transforms and a plain forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

import resnext_det
from resnext_det.weights import KNOWN, write_weights
from tests.classification.helpers import make_network

NAMES = ("cat", "dog", "eel", "fox", "gnu", "hen")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    pixels = np.random.RandomState(0).randint(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((240, 180)).save(path)
    return path


def test_it_is_torchvisions_prediction(photo: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnext50_32x4d(num_classes=6).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    steps = [
        v2.Resize(256),
        v2.CenterCrop(224),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ]
    steps.append(v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        expected = theirs(v2.Compose(steps)(Image.open(photo))[None])[0].softmax(0)
    classifier = resnext_det.Classifier(tmp_path / "theirs.pth", class_names=NAMES, device="cpu")
    order = expected.argsort(descending=True).tolist()
    for image in (photo, str(photo), np.array(Image.open(photo)), Image.open(photo)):
        found = classifier(image, top=3)
        assert [name for name, _ in found] == [NAMES[index] for index in order[:3]]
        assert [value for _, value in found] == pytest.approx(
            [float(expected[i]) for i in order[:3]], rel=1e-4
        )
    assert sum(value for _, value in classifier(photo, top=99)) == pytest.approx(1)


def test_weights_of_bgr_see_bgr(photo: Path, tmp_path: Path) -> None:
    network = make_network(3)
    write_weights(network, tmp_path / "rgb.pth", "native", preprocessing=KNOWN["torchvision"])
    network.stem.conv1.weight.data = network.stem.conv1.weight.data.flip(1)
    write_weights(
        network, tmp_path / "bgr.pth", "native", preprocessing=KNOWN["pycls"], class_names="abc"
    )
    rgb, bgr = (
        resnext_det.Classifier(tmp_path / f"{order}.pth", device="cpu")(photo)
        for order in ("rgb", "bgr")
    )
    assert [value for _, value in rgb] == pytest.approx([value for _, value in bgr], rel=1e-4)
    assert [name for name, _ in rgb] == [f"class {'abc'.index(name)}" for name, _ in bgr]


def test_what_is_refused(photo: Path, tmp_path: Path) -> None:
    write_weights(make_network(3), tmp_path / "three.pth", "native")
    with pytest.raises(ValueError, match="does not say which preprocessing"):
        resnext_det.Classifier(tmp_path / "three.pth", device="cpu")
    known = {"preprocessing": "torchvision", "device": "cpu"}
    with pytest.raises(
        ValueError, match=r"there are 2 class names \(a, b\) for the model's 3 classes; give 3"
    ):
        resnext_det.Classifier(tmp_path / "three.pth", class_names=("a", "b"), **known)
    classifier = resnext_det.Classifier(tmp_path / "three.pth", **known)
    with pytest.raises(FileNotFoundError, match=r"there is no image .*none\.jpg"):
        classifier(tmp_path / "none.jpg")
    photo.with_name("cut.jpg").write_bytes(photo.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"cut\.jpg cannot be read"):
        classifier(photo.with_name("cut.jpg"))
    for wrong in (np.zeros((8, 8, 3)), np.zeros((3, 8, 8), np.uint8)):
        with pytest.raises(
            ValueError,
            match=r"give uint8 of the shape \(height, width, 3\), channels in the order RGB",
        ):
            classifier(wrong)
    with pytest.raises(FileNotFoundError, match=r"entry 1 of the list: there is no image none"):
        classifier([photo, "none.jpg"])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_by_path_by_image_and_in_a_list(photo: Path, tmp_path: Path, mode: str) -> None:
    """A gray image of 16 bits that Pillow converts itself is all white but for its darkest."""
    known = KNOWN["torchvision"]
    write_weights(make_network(3), tmp_path / "three.pth", "native", preprocessing=known)
    classifier = resnext_det.Classifier(tmp_path / "three.pth", device="cpu")
    with Image.open(photo) as opened:
        deep = Image.fromarray(np.asarray(opened.convert("L")).astype(np.uint16) << 8)
        image = deep if mode == "I;16" else opened.convert(mode)
    image.save(tmp_path / "image.png")
    by_path = classifier(tmp_path / "image.png")
    assert classifier([tmp_path / "image.png", image]) == [by_path, classifier(image)]
    assert classifier(image) == by_path
    if mode in ("L", "I;16"):
        with Image.open(photo) as opened:
            assert by_path == classifier(np.asarray(opened.convert("L")))
