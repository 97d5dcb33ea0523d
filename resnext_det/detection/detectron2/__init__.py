"""The plugin for detectron2: registered builders, and an engine that trains by detectron2."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

_REGISTRIES = "detectron2.modeling"


def register_with_detectron2() -> None:
    """Register our builders, and ``resnext://``, as soon as detectron2's registries are imported.

    So ``import resnext_det`` does not import detectron2: it takes no time for it, and works where
    detectron2 is missing or broken, whose own error is raised to whoever imports it. Nothing else
    of detectron2 is touched; for its catalog of datasets see ``catalog.register_datasets``.
    """
    if _REGISTRIES in sys.modules:
        _register()
    # By name: a reload makes another class, and two such finders would ask each other forever.
    elif not any(type(finder).__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegistryFinder())


def _register() -> None:
    for name in ("backbone", "heads"):
        importlib.import_module(f"{__name__}.{name}")
    from detectron2.utils.file_io import PathManager

    from resnext_det.weights.published.catalog_paths import register_handler

    register_handler(PathManager)  # MODEL.WEIGHTS resnext://...


class _RegistryFinder(MetaPathFinder):
    """Find detectron2's registries as the other finders do, and fill them when imported, once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _REGISTRIES:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = cast(Loader, _RegistryLoader(spec.loader, self))
        return spec


class _RegistryLoader:
    """Load a module as its own loader does, and then register what is ours.

    Both the module's loader and Python's list of finders are then what they were.
    """

    def __init__(self, loader: Loader, finder: _RegistryFinder) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register()
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
