"""detectron2's configuration language: its keys and defaults, ``_BASE_``, KEY VALUE, and what is refused."""

from resnext_det.config.checks import check
from resnext_det.config.detection import get_cfg
from resnext_det.config.loading import load_config
from resnext_det.config.yaml_files import config_file

__all__ = ["check", "config_file", "get_cfg", "load_config"]
