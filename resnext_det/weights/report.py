"""What loading weights did, name by name and by module."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_SHOWN = 5
_LONGEST = 140
_MODULE = re.compile(r"(?:.*\.)?(?:stem|res[2-5]|linear)(?=\.)|[^.]+(?:\.[^.]+)?(?=\.)")


@dataclass
class ModuleCounts:
    """How many tensors of a module were loaded, missing, unexpected and of the wrong shape."""

    loaded: int = 0
    missing: int = 0
    unexpected: int = 0
    wrong_shape: int = 0


@dataclass(frozen=True)
class LoadReport:
    """What loading did, by names of the model's state.

    Attributes:
        format: what the file is, see ``WeightFile``.
        loaded: have the file's values.
        missing: are not in the file, and keep their random start.
        unused: are in the file (under our names) and have no place in the model.
        new_classes: the outputs of the box predictor that keep their random start because the file has other classes.
        wrong_shape: are in the file in another shape; nothing is loaded then, and the report is part of the error.
        left_out: names in the file of what no network here has, such as another library's detection heads.
    """

    format: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    new_classes: tuple[str, ...] = ()
    wrong_shape: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.format} weights: {len(self.loaded)} tensors loaded"
        if self.new_classes:
            text += f"; the file has other classes, so {len(self.new_classes)} start at random ({some(self.new_classes)})"
        if self.missing:
            text += f"; {len(self.missing)} keep their random start ({some(self.missing)})"
        if self.unused:
            text += f"; {len(self.unused)} of the file have no place here ({some(self.unused)})"
        if self.left_out:
            text += f"; {len(self.left_out)} of the file are no part of a backbone ({some(self.left_out)})"
        return text

    def modules(self) -> dict[str, ModuleCounts]:
        """The counts by module: stem, res2 ... res5, linear; within a detector ``backbone.res2``, ``roi_heads.box_head`` and so on."""
        found: dict[str, ModuleCounts] = {}
        kinds = {"loaded": self.loaded, "missing": (*self.missing, *self.new_classes)}
        kinds |= {"unexpected": self.unused, "wrong_shape": self.wrong_shape}
        for kind, names in kinds.items():
            for name in names:
                counts = found.setdefault(module_of(name), ModuleCounts())
                setattr(counts, kind, getattr(counts, kind) + 1)
        return dict(sorted(found.items(), key=lambda item: _order(item[0])))

    def table(self) -> str:
        """The counts by module, a line each."""
        modules = self.modules()
        width = max(map(len, (*modules, "module")))
        lines = [f"{'module':{width}}  loaded  missing  unexpected  wrong shape"]
        for name, counts in modules.items():
            numbers = asdict(counts).values()
            lines.append(
                f"{name:{width}}" + "".join(f"{n:{w}d}" for n, w in zip(numbers, (8, 9, 12, 13)))
            )
        return "\n".join(lines)


def module_of(name: str) -> str:
    """The module of a tensor that a report counts it for."""
    found = _MODULE.match(name)
    return _short(found[0] if found else name)


def _order(module: str) -> tuple[bool, int, int, str]:
    """Backbone first, from the stem to the classifier."""
    in_backbone = module.startswith("backbone") or "." not in module
    part = module.rpartition(".")[2]
    return not in_backbone, -module.count("."), {"stem": 0, "linear": 2}.get(part, 1), module


def some(names: Sequence[str]) -> str:
    """The first few of them."""
    more = len(names) - _SHOWN
    return ", ".join(map(_short, names[:_SHOWN])) + (f" and {more} more" if more > 0 else "")


def _short(name: str) -> str:
    """A file may have names of any length, with anything in them."""
    return (
        name
        if name.isascii() and name.isprintable() and len(name) <= _LONGEST
        else ascii(name)[1:_LONGEST]
    )
