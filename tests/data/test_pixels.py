"""Images of every kind and mode: the same pixels by path, as an image of Pillow and as an array."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext_det.data.pixels import to_pixels
from resnext_det.data.reading import read_image

COLORS = np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype=np.uint8)
DEEP = (np.arange(126, dtype=np.uint16) * 520).reshape(9, 14)


def make_image(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(DEEP)
    if mode == "RGBA":
        return Image.fromarray(COLORS)
    image = Image.fromarray(COLORS[:, :, :3])
    return image.quantize(16) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize("format", ["BGR", "RGB", "L"])
@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *((mode, "png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *((mode, "tif") for mode in ("CMYK", "I;16", "L", "RGBA")),
        ("YCbCr", "jpg"),
        ("CMYK", "jpg"),
        ("P", "gif"),
    ],
)
def test_an_image_of_pillow_is_its_file(
    tmp_path: Path, mode: str, suffix: str, format: str
) -> None:
    path = tmp_path / f"image.{suffix}"
    make_image(mode).save(path)
    by_path = to_pixels(path, format)
    assert by_path.shape == (9, 14, 1 if format == "L" else 3) and by_path.dtype == np.uint8
    np.testing.assert_array_equal(by_path, read_image(path, format))
    np.testing.assert_array_equal(by_path, to_pixels(str(path), format))
    with Image.open(path) as opened:
        np.testing.assert_array_equal(by_path, to_pixels(opened, format))
        np.testing.assert_array_equal(by_path, to_pixels(opened, format))  # it was left as it is
        np.testing.assert_array_equal(by_path, to_pixels(opened.copy(), format))
    if suffix != "jpg":
        np.testing.assert_array_equal(by_path, to_pixels(make_image(mode), format))


def test_sixteen_bits_keep_their_high_byte() -> None:
    assert to_pixels(Image.fromarray(DEEP), "RGB")[:, :, 1].tolist() == (DEEP // 256).tolist()


@pytest.mark.parametrize("upright", [True, False])
def test_orientation_of_files_and_of_images_of_pillow(tmp_path: Path, upright: bool) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn right to see it upright
    make_image("RGB").save(tmp_path / "turned.png", exif=exif)
    expected = COLORS[:, :, :3]
    expected = np.rot90(expected, -1) if upright else expected
    with Image.open(tmp_path / "turned.png") as opened:
        for image in (tmp_path / "turned.png", opened):
            np.testing.assert_array_equal(to_pixels(image, "RGB", upright=upright), expected)
        assert opened.size == (14, 9)


def test_arrays() -> None:
    color = COLORS[:, :, :3]
    assert to_pixels(color, "BGR") is color  # channels are in the order of the format already
    gray = color[:, :, 0]
    assert np.array_equal(to_pixels(gray, "BGR"), np.stack([gray] * 3, axis=2))
    assert np.array_equal(to_pixels(gray[:, :, None], "RGB"), to_pixels(gray, "RGB"))
    assert np.array_equal(to_pixels(gray, "L"), gray[:, :, None])
    assert np.array_equal(to_pixels(gray[:, :, None], "L"), gray[:, :, None])
    mask = gray > 99
    as_pillow = Image.fromarray(mask)
    assert np.array_equal(to_pixels(mask, "RGB"), to_pixels(as_pillow, "RGB"))
    for form in (mask, mask[:, :, None]):
        assert np.array_equal(to_pixels(form, "L"), to_pixels(as_pillow, "L"))
    assert set(np.unique(to_pixels(mask, "L"))) == {0, 255}


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "the image is None, as cv2.imread gives for a file that is missing"),
        (np.zeros((0, 9, 3), np.uint8), "no pixel: it is 0 rows x 9 columns"),
        (np.zeros((9, 0), np.uint8), "no pixel: it is 9 rows x 0 columns"),
        (Image.new("RGB", (0, 5)), "no pixel: it is 5 rows x 0 columns"),
        (np.zeros((9, 9, 3), np.float32), r"float32 of the shape \(9, 9, 3\); give uint8"),
        (np.zeros((9, 9), np.uint16), r"uint16 of the shape \(9, 9\); give uint8"),
        (np.zeros((9, 9, 4), np.uint8), r"\(9, 9, 4\); give .*\(height, width, 3\), .* BGR"),
        (np.zeros((2, 9, 9, 3), np.uint8), r"shape \(2, 9, 9, 3\); give uint8"),
        (np.zeros((9, 9, 3), bool), r"bool of the shape \(9, 9, 3\); give uint8"),
        (np.zeros((), np.uint8), r"shape \(\); give uint8"),
        (np.array(["a.png"]), "give uint8"),
        (Image.new("F", (5, 5)), "mode F cannot be read: .*32-bit numbers.*convert it to 8 bits"),
        (Image.new("I", (5, 5)), "mode I cannot be read: .*32-bit numbers"),
        (7, "the image is of the type int; give the path of a file"),
        (b"\x89PNG", "the image is of the type bytes; give the path"),
        ([[1, 2], [3, 4]], "the image is of the type list; give the path"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_image(image: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        to_pixels(image, "BGR")


def test_a_model_of_gray_images_takes_no_colors() -> None:
    with pytest.raises(ValueError, match=r"\(9, 9, 3\); give uint8 of the shape \(height, width\)"):
        to_pixels(np.zeros((9, 9, 3), np.uint8), "L")


def test_what_is_no_file_of_an_image(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no image .*none\.png; give the path"):
        to_pixels(tmp_path / "none.png", "RGB")
    with pytest.raises(ValueError, match="is a folder; give the path of one image"):
        to_pixels(str(tmp_path), "RGB")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png cannot be read: it is empty; give another"):
        to_pixels(tmp_path / "empty.png", "RGB")
    make_image("RGB").resize((200, 200)).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for image in (tmp_path / "cut.png", Image.open(tmp_path / "cut.png")):
        with pytest.raises(ValueError, match=r"cannot be read: .*truncated"):
            to_pixels(image, "RGB")
    closed = Image.open(tmp_path / "cut.png")
    closed.close()
    with pytest.raises(ValueError, match="cannot be read"):
        to_pixels(closed, "RGB")


def test_pillows_warnings_do_not_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pixels are warned of when a file is opened, transparent palettes when converted."""
    transparent = make_image("P")
    transparent.save(tmp_path / "palette.png", transparency=bytes([0, 128, 255]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # the error comes at twice that
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_path = to_pixels(tmp_path / "palette.png", "RGB")
        np.testing.assert_array_equal(by_path, to_pixels(transparent, "RGB"))
