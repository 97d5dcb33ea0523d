"""Tell how fast a lower precision is on this CPU, which may lack the instructions for it."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable

import torch
from torch import nn

logger = logging.getLogger(__name__)

_REPEATS = 5  # of which the first warms up
_CLEARLY = 1.5  # a smaller factor may be the noise of a busy machine


def tell_speed_of_precision(
    device: torch.device, dtype: torch.dtype | None, setting: str = "SOLVER.AMP.ENABLED True"
) -> None:
    """Time mixed precision on the CPU, once in a process, and log how fast it is.

    It is told and not refused: the numbers are right, and a configuration may be on trial here for
    a GPU.

    Args:
        dtype: None is full precision, of which there is nothing to tell.
        setting: the words that asked for it.
    """
    if device.type == "cpu" and dtype is not None:
        level, text = judge_speed(measure_speed(dtype), dtype, setting)
        logger.log(level, text)


def judge_speed(speed: float, dtype: torch.dtype, setting: str) -> tuple[int, str]:
    """Put a measured speed into words.

    Args:
        speed: 2 is twice as fast as float32, 0.5 takes twice as long.

    Returns:
        The level of the message, a warning where the precision is slower, and its text.
    """
    name = str(dtype).removeprefix("torch.")
    measured = f"{setting}: on this CPU a small convolution in {name} takes"
    if speed * _CLEARLY <= 1:
        return logging.WARNING, (
            f"{measured} {1 / speed:.1f} times as long as in float32; leave that out, or use a GPU "
            f"or a CPU with instructions for {name}"
        )
    if speed >= _CLEARLY:
        return logging.INFO, f"{measured} 1/{speed:.1f} of the time in float32"
    return logging.INFO, f"{measured} about the time in float32"


@functools.cache
def measure_speed(dtype: torch.dtype) -> float:
    """Time a step of two convolutions, a grouped one too, in float32 and in `dtype`."""
    with torch.random.fork_rng(devices=[]):
        layers = nn.Sequential(nn.Conv2d(256, 128, 1), nn.Conv2d(128, 128, 3, padding=1, groups=32))
        images = torch.randn(1, 256, 28, 28)
    layers = layers.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)

    def step(enabled: bool) -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            out = layers(images)
        out.float().square().mean().backward()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # whose own time does not grow where others hold the processors
    try:
        pairs = [(_time_step(step, False), _time_step(step, True)) for _ in range(_REPEATS)]
    finally:
        torch.set_num_threads(threads)
    full, lower = (min(seconds) for seconds in zip(*pairs))
    return full / lower


def _time_step(step: Callable[[bool], None], enabled: bool) -> float:
    began = time.thread_time()
    step(enabled)
    return time.thread_time() - began
