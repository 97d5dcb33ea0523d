"""Read a configuration: a YAML file with ``_BASE_``, then KEY VALUE overrides, then the checks."""

from __future__ import annotations

import difflib
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from yacs.config import CfgNode as YacsNode

from resnext_det.config.checks import check
from resnext_det.config.detection import (
    PARTS_SWITCHED_OFF,
    add_own_keys,
    drop_own_keys,
    get_cfg,
)
from resnext_det.config.rules import TYPE_WORDS, freeze_lists, get_value, list_keys
from resnext_det.config.switches import explain_no_effect, find_switched_off
from resnext_det.config.values import find_unsupported
from resnext_det.config.yaml_files import read_yaml
from resnext_det.files import escape_controls, list_first, show

logger = logging.getLogger(__name__)

_LONGEST_KEY, _LONGEST_VALUE = 100, 10_000  # characters

# Keys that one kind of configuration has and the other has not.
_OF_CLASSIFIERS = {("SOLVER", "EPOCHS"), ("INPUT", "AUGMENTATION"), ("MODEL", "FORM")}
_OF_DETECTORS = {("MODEL", name) for name in ("BACKBONE", "RPN", "ROI_HEADS", "META_ARCHITECTURE")}
# Names in other projects, or in the paper, of keys here.
_ALSO_CALLED = {
    "CARDINALITY": "NUM_GROUPS",
    "LR": "BASE_LR",
    "MAX_ITER": "EPOCHS",
    "MAX_EPOCH": "EPOCHS",
    "WARMUP_ITERS": "WARMUP_EPOCHS",
    "CHECKPOINT_PERIOD": "CHECKPOINT_EPOCHS",
    "EVAL_PERIOD": "EVAL_EPOCHS",
}


def load_config(path: str | Path | Mapping[str, Any], overrides: Sequence[Any] = ()) -> CfgNode:
    """Read the configuration of a detector.

    A file may set detectron2's keys of parts that are switched off (masks, keypoints ...), as its
    own files do: they have no effect there either. The log names those of parts that are not
    honored here; overrides of parts that are switched off are refused.

    Args:
        path: a YAML file, found by ``config_file``. Its ``_BASE_`` names a file or a list of files,
            relative to it, whose values it changes; of several the later ones win. YAML tags that
            would run code are refused. Or the nested values of such a file.
        overrides: KEY VALUE pairs, as on a command line: ``["SOLVER.MAX_ITER", "100"]``.

    Returns:
        the frozen configuration: detectron2's defaults, changed by the base files, the file and the
        overrides, in this order; and those of ``OWN_KEYS`` that are set.

    Raises:
        FileNotFoundError: a file that ``_BASE_`` names does not exist.
        ValueError: the file does not exist; the YAML is broken; a key is unknown; a value has the
            wrong type or is not supported; two values contradict each other. The text names the
            key, the value and what to write instead.
    """
    cfg = get_cfg()
    add_own_keys(cfg)
    merge(cfg, path, overrides, switched_off=PARTS_SWITCHED_OFF)
    if isinstance(path, Mapping) and (beyond := find_unsupported(cfg)):
        told = ", ".join(f"{key} = {get_value(cfg, key)!r}" for key in beyond)
        raise ValueError(
            f"the detector in the file of weights has {told}, which detectron2 alone can compute; "
            "install it and write --engine detectron2 (Predictor and resnext-det predict do "
            "without it, and cannot detect with this one)"
        )
    check(cfg)
    refuse_idle_overrides(cfg, overrides)
    drop_own_keys(cfg)
    cfg.freeze()
    return cfg


def override_config(cfg: CfgNode, overrides: Sequence[Any]) -> CfgNode:
    """Change a detector's configuration by KEY VALUE pairs; the given one stays as it is.

    Raises:
        ValueError: as ``load_config``.
    """
    changed = cfg.clone()
    changed.defrost()
    add_own_keys(changed)
    for key, value in _read_pairs(overrides):
        _set(changed, key, value, where="the overrides")
    check(changed)
    refuse_idle_overrides(changed, overrides)
    drop_own_keys(changed)
    changed.freeze()
    return changed


def merge(
    cfg: CfgNode,
    path: str | Path | Mapping[str, Any],
    overrides: Sequence[Any] = (),
    *,
    switched_off: tuple[str, ...] = (),
) -> None:
    """Change a configuration by a file with its base files, and then by overrides.

    Keys and types are checked, and nothing else.

    Args:
        switched_off: a file may set keys that begin so and that ``cfg`` lacks; the log names them.

    Raises:
        FileNotFoundError, ValueError: as ``load_config``.
    """
    if isinstance(path, Mapping):
        values, where = dict(path), "the configuration in the file of weights"
    else:
        values, files = read_yaml(path)
        _check_kind(values, cfg, path)
        where = str(path) if len(files) == 1 else f"{path}, or its _BASE_"
    known, left_out = set(list_keys(cfg)), []
    for key, value in _walk_leaves(values):
        if switched_off and key.startswith(switched_off) and key not in known:
            left_out.append(key)
        else:
            _set(cfg, key, value, where=where)
    if left_out:
        some = list_first(left_out, 100)
        logger.info("%s: keys of parts that are switched off: %s", where, some)
    for key, value in _read_pairs(overrides):
        _set(cfg, key, value, where="the command line")


def list_set_keys(path: str | Path, overrides: Sequence[Any] = ()) -> set[str]:
    """List the keys that a file, one of its base files or an override sets.

    The others have their defaults.

    Raises:
        FileNotFoundError, ValueError: as ``load_config``.
    """
    keys = {key for key, _ in _walk_leaves(read_yaml(path)[0])}
    return keys | {key for key, _ in _read_pairs(overrides)}


def _check_kind(values: dict[str, Any], cfg: CfgNode, path: str | Path) -> None:
    """Refuse a classifier's configuration where a detector's is read, and the other way round."""
    said = {(node, key) for node, keys in values.items() if isinstance(keys, dict) for key in keys}
    of_detector = "BACKBONE" in cfg.MODEL
    if of_detector and said & _OF_CLASSIFIERS and not said & _OF_DETECTORS:
        raise ValueError(
            f"{path} is a classifier's configuration; train it with resnext-det pretrain, or "
            "give a detector's"
        )
    if not of_detector and said & _OF_DETECTORS:
        raise ValueError(
            f"{path} is a detector's configuration; train it with resnext-det train, or give one "
            "of those under configs/classification/"
        )


def _walk_leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield from _walk_leaves(value, f"{key}.")
        else:
            yield key, value


def _read_pairs(overrides: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    for item in filter(lambda word: isinstance(word, str), overrides):
        if item.startswith("--"):
            raise ValueError(
                f"{show(item)} follows the KEY VALUE overrides, where flags are not read; put it "
                "before the first KEY"
            )
        key, equals, value = item.partition("=")
        if equals and key.replace("_", "").replace(".", "").isupper():
            raise ValueError(
                f"{show(item)} is no override; write a space for the equals sign: {key} "
                f"{value:.{_LONGEST_KEY}}"
            )
    if len(overrides) % 2:
        text = repr(" ".join(map(str, overrides)))
        raise ValueError(
            f"overrides come in pairs KEY VALUE, and there is an odd number of words in {text}; "
            "quote a VALUE that has spaces"
        )
    yield from zip(map(str, overrides[::2]), overrides[1::2])


def refuse_idle_overrides(cfg: CfgNode, overrides: Sequence[Any]) -> None:
    """Refuse overrides that change nothing, as their part is left out.

    Args:
        cfg: the configuration with the overrides.

    Raises:
        ValueError: naming the key, its value, the key that leaves the part out, and what to write.
    """
    for key, value in _read_pairs(overrides):
        if (why := explain_no_effect(cfg, key)) is not None:
            raise ValueError(f"{key} = {show(value)} would change nothing, as {why}")


def drop_idle_overrides(cfg: CfgNode, overrides: Sequence[Any]) -> list[Any]:
    """Drop those of further overrides that would change nothing, as their part is left out."""
    changed = cfg.clone()
    changed.defrost()
    add_own_keys(changed)
    pairs = list(_read_pairs(overrides))
    for key, value in pairs:
        _set(changed, key, value, where="the overrides")
    idle = find_switched_off(changed)
    return [word for key, value in pairs if key not in idle for word in (key, value)]


def _set(cfg: CfgNode, key: str, value: Any, *, where: str) -> None:
    given = escape_controls(f"{key:.{_LONGEST_KEY}} = {show(value)} (from {where})")
    node, _, leaf = key.rpartition(".")
    holder: Any = cfg
    for name in filter(None, node.split(".")):
        holder = holder[name] if isinstance(holder, YacsNode) and name in holder else None
    if not isinstance(holder, YacsNode) or leaf not in holder:
        raise ValueError(
            f"{given}: no such key is honored here, so it would change nothing; "
            f"{_suggest_keys(cfg, key[:_LONGEST_KEY])}"
        )
    default = holder[leaf]
    if isinstance(default, YacsNode):
        inner = ", ".join(list_keys(default, f"{key}."))
        raise ValueError(f"{given}: {key} is a group of keys; set one of {inner}")
    if isinstance(value, str) and len(value) > _LONGEST_VALUE:
        raise ValueError(f"{given}: it has {len(value)} characters; write {_LONGEST_VALUE} at most")
    try:
        holder.merge_from_list([leaf, value])
    except (ValueError, TypeError, RecursionError, MemoryError) as error:  # such as {[]: 1}
        suggestion = _suggest_value(default, value)
        if where == "the command line" and suggestion.startswith(("(", "[")):
            suggestion = shlex.quote(suggestion)  # a shell takes parentheses for its own
        raise ValueError(
            f"{given}: {TYPE_WORDS[type(default).__name__]} is needed; write {suggestion}"
        ) from error
    # YAML has lists alone, and a dump is to be read back as it was.
    if isinstance(default, tuple) and any(isinstance(entry, tuple) for entry in default):
        holder[leaf] = freeze_lists(holder[leaf])


def _suggest_keys(cfg: CfgNode, key: str) -> str:
    """Suggest known keys for an unknown one, by other names of it and by spelling."""
    known, key = list_keys(cfg), key.upper()
    leaf = key.rpartition(".")[2]
    leaves = {other: other.rpartition(".")[2] for other in known}
    meant = [other for other, name in leaves.items() if name == _ALSO_CALLED.get(leaf)]
    if meant:
        return f"did you mean {', '.join(meant)}?"
    alike = difflib.get_close_matches(leaf, sorted(set(leaves.values())), n=2, cutoff=0.75)
    alike = alike or [name for name in dict.fromkeys(leaves.values()) if leaf in name]
    near = difflib.get_close_matches(key, known, n=2, cutoff=0.8)
    near += [
        other for name in alike for other in known if leaves[other] == name and other not in near
    ]
    near = near or difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    if near:
        return f"did you mean {', '.join(near[:4])}?"
    return "print(resnext_det.get_cfg()) shows every key that is honored"


def _suggest_value(default: Any, value: Any) -> str:
    """Write the given value in the type of the default where that is plain, else the default."""
    try:
        text = str(value).strip()
    except ValueError:  # an integer of thousands of digits
        text = ""
    if len(text) > _LONGEST_KEY:
        return repr(default)
    single = text.strip("()[], \"'")
    if isinstance(default, str) and text[:1] in ("(", "[") and "," not in single:
        return repr(single)  # a list of one, as detectron2's DATASETS
    number = text.replace(".", "", 1).lstrip("-").isdigit()
    if isinstance(default, bool):
        return "True or False"
    if isinstance(default, float) and number:
        return f"{text}.0"
    if isinstance(default, int) and number:
        return str(round(float(text)))
    if isinstance(default, str) and number:
        return f"\"'{text}'\""
    if isinstance(default, (tuple, list)) and not any(
        isinstance(entry, (tuple, list)) for entry in default
    ):
        words = [word.strip(" \"'") for word in text.strip("()[]").split(",")]
        words = [
            word if word.replace(".", "").lstrip("-").isdigit() else f'"{word}"'
            for word in words
            if word
        ]
        return f"({', '.join(words)},)"
    return repr(default)
