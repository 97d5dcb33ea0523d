"""Run a function on the frames of a video file or a camera, and write what it gives as a video."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from resnext_det.data.reading import describe_irregular_file

logger = logging.getLogger(__name__)

_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".flv"),
    *(".mpg", ".mpeg", ".m2ts", ".mts", ".3gp", ".ogv"),
}
_USUAL_RATE = 25.0  # frames per second, where a camera does not tell


def is_video(source: str | Path) -> bool:
    """Tell a video file, by its suffix, and the number of a camera, such as 0, from an image."""
    return Path(source).suffix.lower() in _SUFFIXES or is_camera(source)


def is_camera(source: str | Path) -> bool:
    """Tell the number of a camera: no file of this name is there."""
    return str(source).isdecimal() and not Path(source).exists()


def convert_video(
    source: str | Path, target: Path, convert: Callable[[np.ndarray, int], np.ndarray]
) -> int:
    """Write a video of what a function makes of every frame, in order, at the same rate.

    Where the work is interrupted (Ctrl-C), or fails, the video is closed and has the frames so far.
    Its sound is left out, and where its width or height is odd, the last column or row.

    Args:
        source: a video file, or the number of a camera, which goes on until it is interrupted.
        target: .mp4.
        convert: takes a frame, BGR uint8 (height, width, 3), and its number from 0; returns a
            picture of the same shape.

    Returns:
        the number of frames.

    Raises:
        ValueError: the video cannot be read, or there is no such camera.
        OSError: the target cannot be written.
    """
    with _open(source) as capture:
        told = max(0, round(capture.get(cv2.CAP_PROP_FRAME_COUNT)))  # not always right
        rate = capture.get(cv2.CAP_PROP_FPS)
        writer, count = None, 0
        try:
            with tqdm(desc=str(source), total=told or None, unit="frame", disable=None) as bar:
                for frame in _read_frames(capture):
                    picture = convert(frame, count)
                    writer = writer or _create(target, rate if rate > 0 else _USUAL_RATE, picture)
                    writer.write(picture)
                    count += 1
                    bar.update()
        finally:
            if writer is not None:
                writer.release()
    if not count:
        raise ValueError(f"the video {source} holds no frame; give another one")
    written = cv2.VideoCapture(str(target))  # OpenCV does not tell of writes that fail
    if round(written.get(cv2.CAP_PROP_FRAME_COUNT)) != count:
        raise OSError(_explain_unwritten(target))
    if count < told and not is_camera(source):
        logger.warning(
            "%s gave %d of the %d frames that it tells of; it may be cut off", source, count, told
        )
    return count


@contextmanager
def _open(source: str | Path) -> Iterator[cv2.VideoCapture]:
    if not is_camera(source) and (kind := describe_irregular_file(Path(source).stat().st_mode)):
        raise ValueError(f"{source} is {kind}, not a file; give the path of a video file")
    capture = cv2.VideoCapture(int(str(source)) if is_camera(source) else str(source))
    try:
        if not capture.isOpened():
            raise ValueError(
                f"there is no camera {source}, or another program has it; plug one in, or give the "
                "path of a file"
                if is_camera(source)
                else f"the video {source} cannot be read: it is broken, no video, or of a codec "
                "that OpenCV does not have; convert it, for example with ffmpeg, to H.264 in .mp4"
            )
        yield capture
    finally:
        capture.release()


def _read_frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        read, frame = capture.read()
        if not read:
            return
        yield frame


def _create(target: Path, rate: float, picture: np.ndarray) -> cv2.VideoWriter:
    height, width = picture.shape[:2]
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(target), code, rate, (width, height))
    if not writer.isOpened():
        raise OSError(_explain_unwritten(target))
    return writer


def _explain_unwritten(target: Path) -> str:
    return (
        f"the video {target} cannot be written: the disk is full, or this OpenCV has no codec for "
        "MPEG-4; choose another --output, or install opencv-python-headless from PyPI"
    )
