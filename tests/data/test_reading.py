"""Image files of every mode, orientation and damage, for detection."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from resnext_det.data.reading import check_image_size, read_image


@pytest.fixture(scope="module")
def detection_utils() -> ModuleType:
    return pytest.importorskip(
        "detectron2.data.detection_utils", reason="detectron2 is not installed"
    )


def noise(mode: str, height: int = 13, width: int = 21) -> Image.Image:
    pixels = np.random.RandomState(0).randint(0, 256, (height, width, 4), dtype=np.uint8)
    if mode == "RGBA":
        return Image.fromarray(pixels)
    color = Image.fromarray(pixels[:, :, :3])
    return color.quantize(16) if mode == "P" else color.convert(mode)


@pytest.mark.detectron2
@pytest.mark.parametrize("format", ["BGR", "RGB", "L"])
@pytest.mark.parametrize(
    "mode, suffix",
    [
        ("RGB", "png"),
        ("RGB", "jpg"),
        ("L", "jpg"),
        ("1", "png"),
        ("P", "png"),
        ("RGBA", "png"),
        ("LA", "png"),
        ("CMYK", "jpg"),
        ("YCbCr", "jpg"),
    ],
)
def test_every_mode_equals_detectron2(
    tmp_path: Path, detection_utils: ModuleType, mode: str, suffix: str, format: str
) -> None:
    path = tmp_path / f"image.{suffix}"
    noise(mode).save(path)
    ours = read_image(path, format)
    assert ours.dtype == np.uint8
    assert ours.shape == (13, 21, 1 if format == "L" else 3)
    np.testing.assert_array_equal(ours, detection_utils.read_image(str(path), format))


@pytest.mark.detectron2
@pytest.mark.parametrize("orientation", range(0, 10))
def test_exif_orientation_equals_detectron2(
    tmp_path: Path, detection_utils: ModuleType, orientation: int
) -> None:
    path = tmp_path / "image.jpg"
    image = noise("RGB")
    image.getexif()[274] = orientation
    image.save(path, exif=image.getexif())
    ours = read_image(path, "BGR")
    assert ours.shape[:2] == ((21, 13) if orientation in (5, 6, 7, 8) else (13, 21))
    np.testing.assert_array_equal(ours, detection_utils.read_image(str(path), "BGR"))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_gray_keeps_its_high_byte(tmp_path: Path, suffix: str) -> None:
    pixels = np.array([[0, 255, 256, 30000, 65535]], dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / f"image.{suffix}")
    for format in ("BGR", "L"):
        image = read_image(tmp_path / f"image.{suffix}", format)
        np.testing.assert_array_equal(image[0, :, 0], [0, 0, 1, 117, 255])


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_32_bit_pixels_are_refused(tmp_path: Path, kind: str) -> None:
    Image.fromarray(np.ones((3, 3), dtype=kind)).save(tmp_path / "deep.tif")
    with pytest.raises(
        ValueError, match=r"deep\.tif cannot be read: its pixels are 32-bit .* convert it to 8 bits"
    ):
        read_image(tmp_path / "deep.tif", "RGB")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    noise("RGB", 200, 300).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        ValueError, match=rf"image {path} cannot be read: .*truncated.*; replace the file"
    ):
        read_image(path, "BGR")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty; replace"),
        (b"<html>404</html>", "it is a web page, as a failed download leaves it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "it is a pointer of Git "),
        (b"what is this", "it is no image of a known format"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "page.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=rf"page\.jpg cannot be read: {words}"):
        read_image(tmp_path / "page.jpg", "BGR")


def test_missing_file_and_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nowhere\.jpg does not exist; .*image folder.*--register-coco"
    ):
        read_image(tmp_path / "nowhere.jpg", "BGR")
    with pytest.raises(
        ValueError, match=r"'YUV-BT.601' is not supported; INPUT.FORMAT is one of BGR, RGB, L"
    ):
        read_image(tmp_path / "nowhere.jpg", "YUV-BT.601")


def test_size_other_than_annotated() -> None:
    record = {"file_name": "a.jpg", "image_id": 7, "width": 13, "height": 21}
    check_image_size(record, np.zeros((21, 13, 3)))
    with pytest.raises(
        ValueError, match=r"image a\.jpg is 21 x 13 .*annotations say 13 x 21; .*image id 7"
    ):
        check_image_size(record, np.zeros((13, 21, 3)))
