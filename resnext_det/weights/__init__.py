"""Weights that a user brings: reading them without running their code, renaming them, loading them strictly."""

from resnext_det.weights.loading import LoadReport, load_weights

__all__ = ["LoadReport", "load_weights"]
