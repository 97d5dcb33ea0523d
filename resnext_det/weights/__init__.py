"""Weights: read files without running their code, check that they fit, load them, write them.

Read the files in this order:

- ``file.py``, where ``read_weights`` puts together what the others find out.
- A file's contents: ``containers.py`` over ``unpickling/``, ``safetensors.py``, ``torch7.py`` with
  ``torch7_models.py``; ``limits.py`` bounds their memory.
- Its network: ``formats.py`` renames weights by ``name_tables.py`` where ``prefixes.py`` finds a
  network; ``structure.py`` tells its architecture, and ``other_networks.py`` why it has none.
- Its training: ``publishers.py`` and ``preprocessing.py``, from what ``training_arguments.py`` and
  ``published/timm_config.py`` read; ``trained_detector.py`` for the file of a whole detector.
- Its source, ``published/``: ``catalog.py`` over ``catalog_entries.py`` and ``downloading.py``, and
  ``hub.py``; ``catalog_paths.py`` serves both to detectron2.
- Its numbers: ``health.py``.
- Its use: ``requirements.py`` holds a configuration to it, ``loading.py`` puts it into a model (and
  gives a report, ``load_report.py``), ``conversion.py`` and ``writing.py`` make other files;
  ``rounding.py`` chooses the type of what is computed.
- ``doctor/`` tells people what a file is: ``diagnosis.py`` over ``description.py`` and
  ``shipped_configs.py``, and ``text.py``, which writes it.
"""

from resnext_det.weights.conversion import convert_preprocessing
from resnext_det.weights.file import WeightFile, read_weights
from resnext_det.weights.load_report import LoadReport
from resnext_det.weights.loading import load_weights
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
