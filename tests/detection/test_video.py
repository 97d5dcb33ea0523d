"""Videos: every frame in order at the same rate, whole after an interruption, or one sentence."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from resnext_det.detection.video import convert_video, is_camera, is_video


def film(path: Path, count: int = 6, rate: float = 12.5, height: int = 48, width: int = 64) -> Path:
    """Write a video whose frames are ever brighter."""
    code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), code, rate, (width, height))
    assert writer.isOpened()
    for number in range(count):
        writer.write(np.full((height, width, 3), 20 + 20 * number, np.uint8))
    writer.release()
    return path


def read(path: Path) -> tuple[float, list[np.ndarray]]:
    """Read the rate and the frames."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (found := capture.read())[0]:
        frames.append(found[1])
    return capture.get(cv2.CAP_PROP_FPS), frames


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4"])
def test_every_frame_in_order_at_the_same_rate(tmp_path: Path, name: str) -> None:
    seen = []

    def invert(frame: np.ndarray, number: int) -> np.ndarray:
        seen.append((number, round(float(frame.mean()))))
        return 255 - frame

    assert convert_video(film(tmp_path / name), tmp_path / "out.mp4", invert) == 6
    assert [number for number, _ in seen] == list(range(6))
    assert [mean for _, mean in seen] == pytest.approx([20 + 20 * i for i in range(6)], abs=4)
    rate, frames = read(tmp_path / "out.mp4")
    assert rate == pytest.approx(12.5)
    expected = [235 - 20 * number for number in range(6)]
    assert [frame.mean() for frame in frames] == pytest.approx(expected, abs=6)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_a_whole_video(tmp_path: Path, error: type[BaseException]) -> None:
    def stop_at_the_fourth(frame: np.ndarray, number: int) -> np.ndarray:
        if number == 3:
            raise error
        return frame

    with pytest.raises(error):
        convert_video(film(tmp_path / "clip.avi"), tmp_path / "out.mp4", stop_at_the_fourth)
    assert len(read(tmp_path / "out.mp4")[1]) == 3


def test_what_cannot_be_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, target = film(tmp_path / "clip.mp4"), tmp_path / "out.mp4"
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:300])
    for name in ("text.mp4", "cut.mp4"):
        with pytest.raises(ValueError, match=f"the video .*{name} cannot be read: .*convert it"):
            convert_video(tmp_path / name, target, lambda frame, number: frame)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match=r"pipe\.mp4 is a pipe, not a file"):
        convert_video(tmp_path / "pipe.mp4", target, lambda frame, number: frame)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there is no camera 63, or another program has it; plug"):
        convert_video("63", target, lambda frame, number: frame)
    with pytest.raises(
        OSError, match=r"none/out\.mp4 cannot be written: .*choose another --output"
    ):
        convert_video(clip, tmp_path / "none" / "out.mp4", lambda frame, number: frame)
    assert not target.exists()


def test_a_video_that_was_cut_off_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = film(tmp_path / "clip.avi", 9, height=240, width=320).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) * 3 // 5])
    with caplog.at_level(logging.WARNING):
        count = convert_video(tmp_path / "cut.avi", tmp_path / "out.mp4", lambda frame, _: frame)
    assert 0 < count < 9 and len(read(tmp_path / "out.mp4")[1]) == count
    assert f"gave {count} of the 9 frames that it tells of" in caplog.text


def test_what_is_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("7").touch()
    assert is_video("a/b.MP4") and is_video(Path("c.webm")) and is_video("0") and is_camera("12")
    assert not any(map(is_video, ("a.jpg", "mp4", "7", "a/0", "-1", "photos")))
