"""Open ``resnext://`` and ``hf-hub:`` names through iopath, above all for detectron2's own tools.

detectron2's checkpointer knows its own names and Caffe2's, and tells a file's format by its suffix:
torchvision's ``conv1.weight`` it would not find a place for, and merely warn. So it is served the
weights under detectron2's names, as a ``.pkl`` that this package wrote from what it read without
running the file's code.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import IO, Any

from iopath.common.file_io import PathHandler, PathManager  # type: ignore[import-untyped]

from resnext_det.files import cache_folder
from resnext_det.weights.published import hub
from resnext_det.weights.published.catalog import locate
from resnext_det.weights.published.catalog_entries import ENTRIES, PREFIX, Entry
from resnext_det.weights.published.downloading import explain_write_errors, lock_download

logger = logging.getLogger(__name__)

_FORMAT = 1  # of the converted files; a change of the conversion raises it


class CatalogPathHandler(PathHandler):
    """Serve ``resnext://torchvision/X-50-32x4d`` and ``hf-hub:timm/resnext50_32x4d.a1h_in1k`` as
    local files in detectron2's format, which are downloaded and converted on first use."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX, hub.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **options: Any) -> str:
        """Return the path of the converted file.

        Args:
            path: a name of the catalog or of the hub.
            force: download, unless it is the package's own, and convert again.

        Raises:
            FileNotFoundError, ValueError: as ``catalog.locate`` and ``read_weights``.
        """
        self._check_kwargs(options)
        if path.startswith(hub.PREFIX):
            source = hub.download_from_hub(path, force=force)
            commit, repository = source.parent.name, hub.HubName.parse(path).repository
            folder = cache_folder() / "hf-hub" / repository
            return str(_convert(source, folder / f"{commit}.detectron2-{_FORMAT}.pkl", path))
        if force and path in ENTRIES:
            known = ENTRIES[path]
            source = _name_converted(known) if known.is_shipped else known.path
            source.unlink(missing_ok=True)
        source, known = locate(path)
        return str(_convert(source, _name_converted(known), known.name))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **options: Any) -> IO[Any]:
        self._check_kwargs(options)
        if mode not in ("r", "rb"):
            raise ValueError(
                f"{path} is for reading and cannot be opened in mode {mode!r}; open it with 'rb'"
            )
        return open(self._get_local_path(path), "rb", buffering)

    def _exists(self, path: str, **options: Any) -> bool:
        return path in ENTRIES or path.startswith(hub.PREFIX)

    _isfile = _exists

    def _isdir(self, path: str, **options: Any) -> bool:
        return False


def register_handler(path_manager: PathManager) -> None:
    """Give a path manager, as ``detectron2.utils.file_io.PathManager``, the catalog's and hub's
    names.

    A second call changes nothing.
    """
    try:
        path_manager.register_handler(CatalogPathHandler(), allow_override=False)
    except KeyError:
        logger.debug("%s is registered already.", PREFIX)


def _convert(source: Path, path: Path, name: str) -> Path:
    """Convert a named file to detectron2's format, unless that is there and newer."""
    # Imported here: detectron2 registers this module's paths wherever the package is imported.
    from resnext_det.weights.file import read_weights
    from resnext_det.weights.writing import write_weights

    if _is_newer(path, source):
        return path
    with lock_download(path):
        if not _is_newer(path, source):
            weights = read_weights(name)
            with explain_write_errors(path):
                write_weights(weights, path, format="detectron2")
            logger.info("%s is served to detectron2 as %s.", name, path)
    return path


def _name_converted(known: Entry) -> Path:
    """Name the file made for detectron2: beside the catalog's, or in the cache where that is the
    package's own, whose folder may be closed to writing."""
    path = known.path
    if known.is_shipped:
        name = f"{path.stem}-{(known.sha256 or '')[:8]}{path.suffix}"  # versions share the cache
        path = cache_folder() / path.parent.name / name
    return path.with_name(f"{path.name}.detectron2-{_FORMAT}.pkl")


def _is_newer(path: Path, source: Path) -> bool:
    """Compare a file's date with its source's and its arrival: a copy may keep an older date."""
    if not path.is_file():
        return False
    at = source.stat()
    return path.stat().st_mtime_ns >= max(at.st_mtime_ns, at.st_ctime_ns)
