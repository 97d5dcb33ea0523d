"""Reading a configuration: a YAML file with ``_BASE_``, then KEY VALUE overrides, then the checks."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode
from yacs.config import CfgNode as YacsNode

from resnext_det.config.checks import check
from resnext_det.config.defaults import get_cfg


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Read one configuration.

    Args:
        path: a YAML file; its ``_BASE_`` names a file beside it whose values it changes. YAML tags that would run code are refused.
        overrides: KEY VALUE pairs, as they follow a command line: ``["SOLVER.MAX_ITER", "100"]``.

    Returns:
        the frozen configuration: detectron2's defaults, changed by the base files, the file and the overrides, in this order.

    Raises:
        FileNotFoundError: the file, or one that ``_BASE_`` names, does not exist.
        ValueError: the YAML is broken; a key is unknown; a value has the wrong type, or is not supported; two values contradict
            each other. The text names the key, the value and what to write instead.
    """
    cfg = get_cfg()
    for key, value in _leaves(_read_yaml(Path(path))):
        _set(cfg, key, value, where=str(path))
    for key, text in _pairs(overrides):
        _set(cfg, key, text, where="the command line")
    check(cfg)
    cfg.freeze()
    return cfg


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"configuration {path} does not exist; give the path of a YAML file, such as one under configs/"
        )
    try:
        values = CfgNode.load_yaml_with_base(str(path), allow_unsafe=False)
    except yaml.YAMLError as error:
        raise ValueError(f"configuration {path} is not plain YAML: {error}") from error
    except TypeError as error:
        raise ValueError(
            f"configuration {path}, or its _BASE_, holds no KEY: value lines; write some, or leave the file out"
        ) from error
    except RecursionError as error:
        raise ValueError(
            f"configuration {path}: its _BASE_ leads back to itself; break the circle"
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"configuration {path}: its _BASE_ names {error.filename}, which does not exist"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(
            f"configuration {path} holds {type(values).__name__}, not keys with values; write KEY: value lines"
        )
    return values


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    for item in overrides:
        if item.startswith("--"):
            raise ValueError(
                f"{item!r} follows the KEY VALUE overrides, where flags are not read; put it before the first KEY"
            )
    if len(overrides) % 2:
        raise ValueError(
            f"overrides come in pairs KEY VALUE; {overrides[-1]!r} stands alone in {' '.join(overrides)!r}"
        )
    yield from zip(overrides[::2], overrides[1::2])


def keys_of(cfg: CfgNode, prefix: str = "") -> list[str]:
    """Every dotted key of a configuration, such as ``MODEL.RPN.NMS_THRESH``."""
    found = []
    for name, value in cfg.items():
        if isinstance(value, YacsNode):
            found += keys_of(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def _set(cfg: CfgNode, key: str, value: Any, *, where: str) -> None:
    node, _, leaf = key.rpartition(".")
    holder: Any = cfg
    for name in filter(None, node.split(".")):
        holder = holder[name] if isinstance(holder, YacsNode) and name in holder else None
    if not isinstance(holder, YacsNode) or leaf not in holder:
        known = keys_of(cfg)
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
        near += [other for other in known if other.rpartition(".")[2] == leaf and other not in near][:2]
        hint = (
            f"did you mean {', '.join(near)}?"
            if near
            else "resnext_det.get_cfg() shows every key that is honoured"
        )
        raise ValueError(
            f"{key} = {value!r} (from {where}): no such key is honoured here, so it would change nothing; {hint}"
        )
    if isinstance(holder[leaf], YacsNode):
        raise ValueError(
            f"{key} = {value!r} (from {where}): {key} is a group of keys; set one of {', '.join(keys_of(holder[leaf], key + '.'))}"
        )
    _assign(holder, leaf, key, value, where)


def _assign(holder: CfgNode, leaf: str, key: str, value: Any, where: str) -> None:
    default = holder[leaf]
    try:
        holder.merge_from_list([leaf, value])
    except ValueError as error:
        raise ValueError(
            f"{key} = {value!r} (from {where}): a {type(default).__name__} is needed, such as {_example(default, value)}"
        ) from error


def _example(default: Any, value: Any) -> str:
    """How the given value would be written as the type of the default, where that is plain; else the default."""
    text = str(value).strip()
    if isinstance(default, bool):
        return "True or False"
    if isinstance(default, float) and text.lstrip("-").isdigit():
        return f"{text}.0"
    if isinstance(default, (tuple, list)):
        words = [word.strip(" \"'") for word in text.strip("()[]").split(",")]
        words = [word if word.replace(".", "").isdigit() else f'"{word}"' for word in words if word]
        return f"({', '.join(words)},)"
    if isinstance(default, int) and text.endswith(".0"):
        return text[:-2]
    return repr(default)
