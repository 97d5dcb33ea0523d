"""detectron2's configuration language: its keys and defaults, ``_BASE_``, KEY VALUE, and what is refused."""

from resnext_det.config.checks import check
from resnext_det.config.detection import get_cfg
from resnext_det.config.loading import load_config

__all__ = ["check", "get_cfg", "load_config"]
