"""What a user is told where the machine is too small."""

from __future__ import annotations

import pytest
import torch

from resnext_det.training.processes import TESTING, TRAINING, Advice, explain_small_machines


@pytest.mark.parametrize(
    ("advice", "gpu", "workers"),
    [
        (TRAINING, "lower SOLVER.IMS_PER_BATCH", "lower DATALOADER.NUM_WORKERS"),
        (TESTING, "lower --batch-size", "lower --num-workers"),
    ],
)
def test_full_memory_is_explained(advice: Advice, gpu: str, workers: str) -> None:
    with (
        pytest.raises(ValueError, match=rf"GPU's memory is full \(CUDA out of memory\); {gpu}"),
        explain_small_machines(advice),
    ):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory\nTried to allocate")
    with (
        pytest.raises(
            ChildProcessError, match=rf"DataLoader worker .* is killed.*ulimit -n allows: {workers}"
        ),
        explain_small_machines(advice),
    ):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="something else"), explain_small_machines(advice):
        raise RuntimeError("something else")
