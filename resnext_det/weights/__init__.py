"""Weights: read files without running their code, check that they fit, load them, write them."""

from resnext_det.weights.conversion import convert_preprocessing
from resnext_det.weights.file import WeightFile, read_weights
from resnext_det.weights.loading import LoadReport, load_weights
from resnext_det.weights.preprocessing import (
    KNOWN,
    Preprocessing,
    find_differences,
    list_overrides,
)
from resnext_det.weights.requirements import check_configuration
from resnext_det.weights.writing import write_weights

# Scripts import these by their earlier names.
converted, differences, fitted = convert_preprocessing, find_differences, list_overrides
check_preprocessing = check_configuration

__all__ = [
    "KNOWN",
    "LoadReport",
    "Preprocessing",
    "WeightFile",
    "check_configuration",
    "check_preprocessing",
    "convert_preprocessing",
    "converted",
    "differences",
    "find_differences",
    "fitted",
    "list_overrides",
    "load_weights",
    "read_weights",
    "write_weights",
]
