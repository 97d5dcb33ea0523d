"""Check single keys of a configuration: their types, supported values and ranges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from fvcore.common.config import CfgNode
from yacs.config import CfgNode as YacsNode

from resnext_det.files import show

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")

LARGEST = 1e15
"""The largest number that any key takes; int64 and float64 hold it exactly."""

_MOST_WEIGHTS = 2**29
# An infinite norm or limit of gradients has a meaning; no other number may be infinite.
_INFINITE = ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "SOLVER.CLIP_GRADIENTS.NORM_TYPE")


def list_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    """List the dotted keys of a configuration, or of a node of it after ``prefix`` (with a dot)."""
    found = []
    for name, value in cfg.items():
        if isinstance(value, YacsNode):
            found += list_keys(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def get_value(cfg: CfgNode, key: str) -> Any:
    """Get the value of a dotted key."""
    node: Any = cfg
    for name in key.split("."):
        node = node[name]
    return node


def collect_values(cfg: CfgNode) -> dict[str, Any]:
    """Collect the values of a configuration by their dotted keys."""
    return {key: get_value(cfg, key) for key in list_keys(cfg)}


def read_settings(settings: type[Settings], node: CfgNode, **given: Any) -> Settings:
    """Fill a settings dataclass from a configuration node, by the names of its fields.

    ``read_settings(RPNSettings, cfg.MODEL.RPN)`` takes ``nms_thresh`` from ``NMS_THRESH``.

    Args:
        settings: a dataclass.
        node: has a key for every field, in capitals; lists become tuples.
        given: fields that come from elsewhere.
    """
    names = [field.name for field in fields(settings) if field.name not in given]
    return settings(**{name: freeze_lists(node[name.upper()]) for name in names}, **given)


def freeze_lists(value: Any) -> Any:
    """Make tuples of a list and of those in it; any other value stays as it is."""
    return tuple(map(freeze_lists, value)) if isinstance(value, (list, tuple)) else value


def check_layers(layers: Mapping[str, int]) -> None:
    """Refuse a network with a layer that is too large, before memory is taken for it.

    Args:
        layers: the number of a layer's weights, by the keys that tell it.

    Raises:
        ValueError: a layer has more weights than 2 GiB of float32.
    """
    for keys, weights in layers.items():
        if weights > _MOST_WEIGHTS:
            raise ValueError(
                f"{keys} would make a layer of {weights:,} weights, and {_MOST_WEIGHTS:,} is the "
                "most; write smaller numbers"
            )


def spread_ranges(*rows: tuple[float, float, str, str]) -> dict[str, tuple[float, float]]:
    """Give each key its range, from rows of (lowest, highest, node, the node's keys)."""
    return {f"{node}.{key}": (low, high) for low, high, node, keys in rows for key in keys.split()}


TYPE_WORDS = {
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number with a decimal point",
    "number": "a number",
    "str": "text",
    "list": "a list",
    "tuple": "a list",
}
"""Names of types in error messages."""


@dataclass(frozen=True)
class Rules:
    """Hold the rules of one kind of configuration, and check its keys by them.

    Attributes:
        supported: the supported values by key; of a key that is not listed, every value is.
        ranges: (lowest, highest) of a number, or of every number in a list, both allowed.
        optional: by key of a number that may be None, the key whose value None stands for.
        reasons: by key, what the refusal of an unsupported value adds.
    """

    supported: Mapping[str, tuple[Any, ...]]
    ranges: Mapping[str, tuple[float, float]]
    optional: Mapping[str, str]
    reasons: Mapping[str, str] = field(default_factory=dict)

    def check(self, cfg: CfgNode, defaults: CfgNode) -> None:
        """Refuse values of the wrong type, unsupported ones, and ones out of range.

        Raises:
            ValueError: naming the key, its value and what to write.
        """
        for key in list_keys(defaults):
            self.check_value(cfg, key, get_value(defaults, key))

    def check_value(self, cfg: CfgNode, key: str, default: Any) -> None:
        """Check one key, whose value must have the type of its default.

        Raises:
            ValueError: naming the key, its value and what to write.
        """
        value = get_value(cfg, key)
        self._check_type(key, value, default)
        if not self.is_supported(key, value):
            words = " or ".join(repr(choice) for choice in self.supported[key])
            reason = f" ({self.reasons[key]})" if key in self.reasons else ""
            raise ValueError(f"{key} = {value!r} is not supported; write {words}{reason}")
        numbers = [each for each in _flatten(value) if isinstance(each, int | float)]
        most = math.inf if key in _INFINITE else LARGEST
        if not all(abs(number) <= most for number in numbers):
            raise ValueError(
                f"{key} = {show(value)} is out of range; write numbers up to {LARGEST:.0e}"
            )
        if key in self.ranges:
            low, high = self.ranges[key]
            if not all(low <= number <= high for number in numbers):
                bounds = f"{low} or more" if math.isinf(high) else f"a number from {low} to {high}"
                raise ValueError(f"{key} = {show(value)} is out of range; write {bounds}")

    def is_supported(self, key: str, value: Any) -> bool:
        """Tell whether the value of a key is supported."""
        supported = self.supported.get(key, (value,))
        return (
            type(supported[0])(value) if isinstance(value, (list, tuple)) else value
        ) in supported

    def _check_type(self, key: str, value: Any, default: Any) -> None:
        if key in self.optional:
            if value is not None and _name_kind(value) != "number":
                raise ValueError(
                    f"{key} = {value!r}: write a number, or None for that of {self.optional[key]}"
                )
            return
        if value is None:
            raise ValueError(
                f"{key} has no value; write one, such as {default!r}, or leave the key out"
            )
        if _name_kind(value) != _name_kind(default) or (
            type(default) is int and not isinstance(value, int)
        ):
            raise ValueError(
                f"{key} = {value!r}: {TYPE_WORDS[type(default).__name__]} is needed, such as "
                f"{default!r}"
            )
        if isinstance(default, (list, tuple)):
            kind = next(map(_name_kind, _flatten(default)), "str")
            nested = any(isinstance(element, (list, tuple)) for element in default)
            entries = _flatten(value) if nested else value
            wrong = [element for element in entries if _name_kind(element) != kind]
            if wrong:
                raise ValueError(
                    f"{key} = {show(value)} holds {show(wrong[0])}, and every entry has to be "
                    f"{TYPE_WORDS[kind]}"
                )


def _name_kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "list"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def _flatten(value: Any) -> Iterator[Any]:
    """Yield what a list holds, in nested lists too; a value that is no list yields itself."""
    if isinstance(value, (list, tuple)):
        for element in value:
            yield from _flatten(element)
    else:
        yield value
