"""Tell what is special about a configuration: how it differs from the shipped one nearest to it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from resnext_det.config.detection import get_cfg
from resnext_det.config.loading import merge
from resnext_det.config.rules import collect_values
from resnext_det.files import shipped_folder

_FOLDERS = ("modern", "quickstart", "miniature/*", "two_step", ".")

OF_A_RUN = frozenset({"OUTPUT_DIR", "SEED", "VERSION", "MODEL.DEVICE"})
"""Settings that say nothing of a training itself: they are told elsewhere, or of no account."""


class Setting(NamedTuple):
    """Hold a key whose value differs: ``given`` here, ``usual`` there; None where it is missing."""

    key: str
    given: Any
    usual: Any


class Nearest(NamedTuple):
    """Name the shipped configuration that differs least, relative to configs/, and how."""

    config_file: str
    settings: tuple[Setting, ...]


def find_nearest(config: Mapping[str, Any]) -> Nearest:
    """Find the shipped configuration of a detector with the fewest differences.

    Args:
        config: by dotted key.
    """
    found = [Nearest(name, find_differences(config, other)) for name, other in _read_shipped()]
    return min(found, key=lambda nearest: len(nearest.settings))


def find_differences(config: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Setting, ...]:
    """Find the keys whose values differ between two configurations by dotted key.

    Keys of detectron2's that this project knows nothing of, in one of the two alone, are left out.
    """
    return tuple(
        Setting(key, config[key], other[key])
        for key in sorted((set(config) & set(other)) - OF_A_RUN)
        if unify(config[key]) != unify(other[key])
    )


def unify(value: Any) -> Any:
    """Make values comparable that mean the same: lists are tuples, whole floats integers."""
    if isinstance(value, list | tuple):
        return tuple(map(unify, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


@cache
def _read_shipped() -> tuple[tuple[str, dict[str, Any]], ...]:
    folder = shipped_folder("configs")
    files = [file for part in _FOLDERS for file in sorted(folder.glob(f"{part}/*.yaml"))]
    found = []
    for file in files:
        if "base" in file.parts[-2:] or file.name.startswith("classifier"):
            continue
        cfg = get_cfg()
        merge(cfg, file)
        found.append(
            (
                file.relative_to(folder).as_posix(),
                collect_values(cfg),
            )
        )
    return tuple(found)
