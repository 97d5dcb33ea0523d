"""Weights that a user brings: reading them without running their code, renaming them, checking and loading them strictly."""

from resnext_det.weights.agreement import check_preprocessing, differences, fitted
from resnext_det.weights.file import WeightFile, read_weights
from resnext_det.weights.loading import load_weights
from resnext_det.weights.preprocessing import KNOWN, Preprocessing, converted
from resnext_det.weights.report import LoadReport
from resnext_det.weights.writing import write_weights

__all__ = [
    "KNOWN",
    "LoadReport",
    "Preprocessing",
    "WeightFile",
    "check_preprocessing",
    "converted",
    "differences",
    "fitted",
    "load_weights",
    "read_weights",
    "write_weights",
]
