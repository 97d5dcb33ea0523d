"""Images are told apart by what is done to them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from resnext_det.data.appearance import QUALITIES, measure_image, measure_images


def test_each_quality_follows_what_is_done_to_an_image(tmp_path: Path) -> None:
    draw = np.random.RandomState(0)
    image = cv2.resize(draw.randint(0, 256, (32, 32, 3)).astype(np.uint8), (256, 192))
    plain = dict(zip(QUALITIES, measure_image(image)))
    assert abs(plain["brightness"] - image.mean() / 255) < 0.01
    dark = dict(zip(QUALITIES, measure_image(image // 4)))
    assert abs(dark["brightness"] / plain["brightness"] - 0.25) < 0.02
    assert abs(dark["sharpness"] / plain["sharpness"] - 1) < 0.05
    gray = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    assert dict(zip(QUALITIES, measure_image(gray)))["colorfulness"] == 0
    soft = dict(zip(QUALITIES, measure_image(cv2.GaussianBlur(image, (0, 0), 6))))
    assert soft["sharpness"] < 0.7 * plain["sharpness"]
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), image)
    (tmp_path / "broken.png").write_bytes(b"")
    rows = measure_images([str(path), str(tmp_path / "broken.png"), str(tmp_path / "none.png")])
    assert rows.tolist() == [list(measure_image(image))]
    assert measure_images([]).shape == (0, 4)
