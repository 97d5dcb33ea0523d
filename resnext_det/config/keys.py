"""Dotted keys, such as ``MODEL.RPN.NMS_THRESH``, and the values under them."""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode
from yacs.config import CfgNode as YacsNode


def keys_of(cfg: CfgNode, prefix: str = "") -> list[str]:
    """Every dotted key of a configuration, or of a node of it under ``prefix`` (with its dot)."""
    found = []
    for name, value in cfg.items():
        if isinstance(value, YacsNode):
            found += keys_of(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value under a dotted key."""
    node: Any = cfg
    for name in key.split("."):
        node = node[name]
    return node
