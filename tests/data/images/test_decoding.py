"""Image files of every mode, orientation and damage, for classification."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import pil_loader

from resnext_det.data.images import decoding
from resnext_det.data.images.decoding import decode_rgb, read_range
from tests.data.images.helpers import encoded, picture, pillow


def decoded(content: bytes) -> np.ndarray:
    return decode_rgb(np.frombuffer(bytearray(content), np.uint8), "a/b.JPEG", "replace it")


def in_mode(mode: str) -> Image.Image:
    image = Image.fromarray(picture(37, 51))
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(picture(37, 51, seed=1)).convert("L"))
    return image.quantize(16) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"quality": 100, "subsampling": 0},
        {"quality": 40, "subsampling": 1},
        {"progressive": True},
        {"restart_marker_rows": 1},
    ],
    ids=lambda options: "-".join(options),
)
def test_jpegs_equal_pillow(mode: str, options: dict[str, Any]) -> None:
    content = encoded(in_mode(mode), **options)
    pixels = decoded(content)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (37, 51, 3)
    np.testing.assert_array_equal(pixels, pillow(content))
    pixels += 1  # writable, and nobody else's


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        *[(mode, "PNG") for mode in ("RGB", "L", "1", "P", "RGBA", "LA")],
        *[("RGB", format) for format in ("BMP", "TIFF", "WEBP", "PPM", "GIF")],
        ("CMYK", "TIFF"),
    ],
)
def test_other_formats_equal_pillow_whatever_the_file_is_called(mode: str, format: str) -> None:
    content = encoded(in_mode(mode), format)
    pixels = decoded(content)
    np.testing.assert_array_equal(pixels, pillow(content))
    pixels += 1


def test_pillow_decodes_what_is_no_plain_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> np.ndarray:
        raise ValueError("Pillow was asked")

    monkeypatch.setattr(decoding, "decode_image", refuse)
    for mode in ("RGB", "L"):
        content = encoded(in_mode(mode))
        np.testing.assert_array_equal(decoded(content), pillow(content))
    for content in (
        encoded(in_mode("CMYK")),
        encoded(in_mode("RGB"), "PNG"),
        encoded(in_mode("RGB"))[:500],
    ):
        with pytest.raises(ValueError, match="Pillow was asked"):
            decoded(content)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_exif_orientation_is_not_applied_as_in_torchvision(
    tmp_path: Path, format: str, orientation: int
) -> None:
    image = in_mode("RGB")
    image.getexif()[274] = orientation
    content = encoded(image, format, exif=image.getexif())
    (tmp_path / "image").write_bytes(content)
    assert decoded(content).shape == (37, 51, 3)
    np.testing.assert_array_equal(decoded(content), np.asarray(pil_loader(str(tmp_path / "image"))))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpeg_that_is_cut_anywhere_is_an_error(mode: str, progressive: bool) -> None:
    content = encoded(in_mode(mode), progressive=progressive)
    for length in (0, 1, 3, *range(10, len(content) - 2, 41), len(content) - 3):
        with pytest.raises(ValueError, match=r"image a/b\.JPEG cannot be read: .+; replace it"):
            decoded(content[:length])


def test_a_jpeg_with_damage_within_is_what_pillow_makes_of_it() -> None:
    random = np.random.RandomState(0)
    whole = encoded(picture(48, 64))
    outcomes = []
    for _ in range(150):
        content = bytearray(whole)
        content[random.randint(20, len(content))] = random.randint(256)
        try:
            reference = pillow(bytes(content))
        except Exception:  # Pillow raises errors of many types
            reference = None
        outcomes.append(reference is None)
        if reference is None:
            with pytest.raises(ValueError, match=r"a/b\.JPEG cannot be read"):
                decoded(bytes(content))
        else:
            np.testing.assert_array_equal(decoded(bytes(content)), reference)
    assert 10 < sum(outcomes) < 140


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"\xff\xd8\xff", b"\xff\xd8\xff" + bytes(99)]
)
def test_contents_that_are_no_image_are_named(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"image a/b\.JPEG cannot be read: .+; replace it"):
        decoded(content)


def test_deep_pixels_are_scaled_or_refused() -> None:
    gray = np.array([[0, 255, 256, 30000, 65535]], np.uint16)
    np.testing.assert_array_equal(decoded(encoded(gray, "PNG"))[0, :, 2], [0, 0, 1, 117, 255])
    with pytest.raises(ValueError, match="its pixels are 32-bit numbers"):
        decoded(encoded(np.ones((2, 2), np.float32), "TIFF"))


def test_a_range_of_a_file(tmp_path: Path) -> None:
    path, content = tmp_path / "file", bytes(range(256)) * 300
    path.write_bytes(content)
    for offset, size in ((0, 10), (70_000, 6_800), (300, 0)):
        part = read_range(str(path), offset, size)
        assert part.tobytes() == content[offset : offset + size]
        assert part.flags.writeable
    assert read_range(str(path)).tobytes() == content
    assert read_range(str(path), 76_000).tobytes() == content[76_000:]
    with pytest.raises(EOFError, match="ends before byte 76801"):
        read_range(str(path), 76_700, 101)
    with pytest.raises(FileNotFoundError):
        read_range(str(tmp_path / "other"))


def test_a_jpeg_that_promises_more_pixels_than_it_has_takes_no_memory_for_them() -> None:
    file = io.BytesIO()
    Image.new("RGB", (50, 40)).save(file, "JPEG")
    data = file.getvalue()
    size = data.index(b"\xff\xc0") + 5
    data = data[:size] + b"\x80\x00\x40\x00" + data[size + 4 :]  # 32768 x 16384: 1.6 GB
    with pytest.raises(ValueError, match="exceeds limit of"):
        decode_rgb(np.frombuffer(data, np.uint8).copy(), "a.jpg", "replace it")


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    """It would be waited for, for ever."""
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(OSError, match="it is a pipe, not a file"):
        read_range(str(tmp_path / "a.jpg"))


def test_postscript_is_refused_before_a_program_runs_it() -> None:
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n"
    with pytest.raises(ValueError, match="it is a PostScript file, convert it to PNG"):
        decode_rgb(np.frombuffer(text, np.uint8).copy(), "a.jpg", "replace it")
