"""The colors of a drawn jitter against torchvision's ColorJitter with the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from resnext_det.data.color_jitter import ColorJitter

IMAGE = np.random.RandomState(0).randint(0, 256, (13, 17, 3), dtype=np.uint8)


@pytest.mark.parametrize("reach", [(0.4, 0.3, 0.2, 0.1), (0.4, 0, 0, 0), (0, 0, 1.5, 0.5)])
def test_colors_equal_torchvision(reach: tuple[float, float, float, float]) -> None:
    """In the documented order of draws, and the same whether the image is BGR or RGB."""
    jitter, theirs = ColorJitter(*reach), v2.ColorJitter(*reach)
    for seed in range(5):
        random_state = np.random.RandomState(seed)
        drawn = {"fn_idx": torch.from_numpy(random_state.permutation(4))}
        for name, x in zip(("brightness", "contrast", "saturation"), reach):
            drawn[f"{name}_factor"] = random_state.uniform(max(0.0, 1 - x), 1 + x) if x else None
        drawn["hue_factor"] = random_state.uniform(-reach[3], reach[3]) if reach[3] else None
        expected = theirs.transform(torch.from_numpy(IMAGE).permute(2, 0, 1), drawn)
        for image_format, channels in (("RGB", slice(None)), ("BGR", slice(None, None, -1))):
            ours = np.random.RandomState(seed)
            found = jitter.apply(IMAGE[:, :, channels], ours, image_format)[:, :, channels]
            assert found.dtype == np.uint8
            assert np.array_equal(found, expected.permute(1, 2, 0).numpy())
        assert ours.get_state()[1].tolist() == random_state.get_state()[1].tolist()


def test_a_gray_image_stays_gray() -> None:
    gray = IMAGE[:, :, :1]
    found = ColorJitter(0.5, 0.5, 0, 0).apply(gray, np.random.RandomState(0), "L")
    assert found.shape == gray.shape and not np.array_equal(found, gray)


@pytest.mark.parametrize("reach", [(-0.1, 0, 0, 0), (0, 0, 0, 0.6)])
def test_wrong_jitter_is_refused(reach: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"a hue up to 0\.5"):
        ColorJitter(*reach)
