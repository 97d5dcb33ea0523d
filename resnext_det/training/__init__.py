"""The training loop and what surrounds it: schedule, optimizer, checkpoints, metrics, processes."""
