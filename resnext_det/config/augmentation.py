"""Check how a configuration crops, rescales and colors the images of a training."""

from __future__ import annotations

from collections.abc import Sequence

from fvcore.common.config import CfgNode

from resnext_det.config.detection import OWN_KEYS, get_own

CROPS = ("relative_range", "relative", "absolute", "absolute_range")

EXAMPLES = {
    "INPUT.SCALE_JITTER": (0.1, 2.0),
    "INPUT.COLOR_JITTER": (0.4, 0.4, 0.4, 0.1),
    "INPUT.STRETCH": (800, 800),
}
"""Values of those of ``OWN_KEYS`` whose default is an empty list, which shows no type."""


def check_augmentation(cfg: CfgNode) -> None:
    """Refuse augmentations that cannot be drawn, and two that contradict each other.

    Raises:
        ValueError: naming the keys, their values and what to write.
    """
    scales, side = get_own(cfg, "INPUT.SCALE_JITTER"), get_own(cfg, "INPUT.SCALE_JITTER_SIZE")
    if scales and not (len(scales) == 2 and 0 < scales[0] <= scales[1]):
        raise ValueError(
            f"INPUT.SCALE_JITTER = {scales}: write the smallest scale, above 0, and the largest, "
            "such as (0.1, 2.0), or () for none"
        )
    if not scales and side != OWN_KEYS["INPUT.SCALE_JITTER_SIZE"]:
        raise ValueError(
            f"INPUT.SCALE_JITTER_SIZE = {side} would change nothing, as INPUT.SCALE_JITTER = (); "
            "write INPUT.SCALE_JITTER (0.1, 2.0) too, or leave it out"
        )
    if stretch := get_own(cfg, "INPUT.STRETCH"):
        if len(stretch) != 2 or not all(isinstance(side, int) for side in stretch):
            raise ValueError(
                f"INPUT.STRETCH = {stretch}: write (height, width) in whole pixels, such as "
                "(800, 800), or () to keep the aspect ratio of images"
            )
        if scales:
            raise ValueError(
                f"INPUT.STRETCH = {stretch} and INPUT.SCALE_JITTER = {scales} contradict each "
                "other; write () for one of them"
            )
    if cfg.INPUT.CROP.ENABLED:
        check_crop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)
        if scales:
            raise ValueError(
                f"INPUT.SCALE_JITTER = {scales} crops images, and so does INPUT.CROP.ENABLED = "
                "True; write INPUT.SCALE_JITTER (), or INPUT.CROP.ENABLED False"
            )
    if jitter := get_own(cfg, "INPUT.COLOR_JITTER"):
        _check_color_jitter(jitter, cfg.INPUT.FORMAT)


def check_crop(kind: str, size: Sequence[float]) -> None:
    """Refuse a kind of crop that there is not, and sizes that it cannot have.

    Raises:
        ValueError: naming the keys, their values and what to write.
    """
    given = f"INPUT.CROP.TYPE = {kind!r}, INPUT.CROP.SIZE = {list(size)}"
    if kind not in CROPS:
        raise ValueError(f"{given}: the type is one of {', '.join(CROPS)}")
    if len(size) != 2:
        raise ValueError(f"{given}: write two numbers in SIZE")
    if kind.startswith("relative"):
        if not all(0 < share <= 1 for share in size):
            raise ValueError(
                f"{given}: write the shares of height and width, above 0 and up to 1, such as "
                "[0.9, 0.9]; pixels are for the types absolute and absolute_range"
            )
    elif not all(float(side).is_integer() and side >= 1 for side in size):
        raise ValueError(
            f"{given}: write whole numbers of pixels, such as [384, 600]; shares of the image are "
            "for the types relative and relative_range"
        )
    elif kind == "absolute_range" and size[0] > size[1]:
        raise ValueError(f"{given}: write the smallest side first, such as [384, 600]")


def _check_color_jitter(jitter: Sequence[float], image_format: str) -> None:
    given = f"INPUT.COLOR_JITTER = {jitter}"
    if len(jitter) != 4 or min(jitter) < 0 or jitter[3] > 0.5:
        raise ValueError(
            f"{given}: write brightness, contrast, saturation and hue, each 0 or more, the hue up "
            "to 0.5, such as (0.4, 0.4, 0.4, 0.1), or () for none"
        )
    if image_format == "L" and (jitter[2] or jitter[3]):
        raise ValueError(
            f"{given}, but images of INPUT.FORMAT = 'L' are gray and have no saturation and no "
            f"hue; write ({jitter[0]}, {jitter[1]}, 0.0, 0.0)"
        )
