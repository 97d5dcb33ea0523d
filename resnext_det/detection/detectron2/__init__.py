"""The plugin for detectron2: registered builders, and an engine that trains by detectron2."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# Of detectron2: what registers itself once that is imported.
_PLUGINS = {"detectron2.modeling": "backbone", "detectron2.data": "catalog"}


def register_with_detectron2() -> None:
    """Register builders and datasets as soon as detectron2's registries are imported.

    So ``import resnext_det`` does not import detectron2: it takes no time for it, and works where
    detectron2 is missing or broken, whose own error is raised to whoever imports it.
    """
    for registry, plugin in _PLUGINS.items():
        if registry in sys.modules:
            importlib.import_module(f"{__name__}.{plugin}")
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport(MetaPathFinder):
    """Find detectron2's registries as Python does, and fill them when they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _PLUGINS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    """Load a module, and then import what registers itself there."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        importlib.import_module(f"{__name__}.{_PLUGINS[module.__name__]}")
