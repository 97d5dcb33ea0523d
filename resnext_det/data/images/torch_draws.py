"""Random draws of torch from a numpy generator, for transforms that know no generator of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def torch_draws_from(random_state: np.random.RandomState) -> Iterator[None]:
    """Within it torch's global generator of the CPU is seeded by one draw; afterwards it is as it was.

    ``torch.manual_seed`` would seed the generators of the GPUs too, and for good.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(random_state.randint(0, 2**63 - 1, dtype=np.int64)))
        yield
