"""Configurations in detectron2's language: keys and defaults, reading, and checks."""

from resnext_det.config.checks import check
from resnext_det.config.detection import get_cfg
from resnext_det.config.loading import load_config
from resnext_det.config.yaml_files import config_file

__all__ = ["check", "config_file", "get_cfg", "load_config"]
