"""What checkpoints of other libraries carry beside their weights. Their classes are not imported: attributes become a dict."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from resnext_det.weights.limits import Unreadable
from resnext_det.weights.unpickling.objects import Admitted, Attributes, admit, key

if TYPE_CHECKING:
    from resnext_det.weights.unpickling.stream import PickleSource

_WITH_ATTRIBUTES = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.config.config.Config",
    "mmcv.utils.config.Config",
    "datetime.date",
    "datetime.datetime",
    "datetime.time",
    "datetime.timedelta",
    "datetime.timezone",
)
_WITH_ITEMS = (
    "addict.addict.Dict",
    "collections.Counter",
    "detectron2.config.config.CfgNode",
    "easydict.EasyDict",
    "fvcore.common.config.CfgNode",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "yacs.config.CfgNode",
)
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")


def _with_attributes(source: PickleSource, *arguments: Any) -> Attributes:
    """Without the arguments: no weights depend on a date."""
    return Attributes()


def _with_items(source: PickleSource, items: Any = None) -> Attributes:
    made = Attributes()
    made.takes_state = False
    if isinstance(items, dict):
        source.budget.take(200 * len(items))
        made.update(items)
    return made


def _default_dict(source: PickleSource, factory: Any = None) -> dict[Any, Any]:
    return {}


def _path(source: PickleSource, *parts: Any) -> str:
    source.budget.take(sum(len(part) for part in parts))
    return str(PurePosixPath(*(str(key(part)) for part in parts)))


def _attribute(source: PickleSource, owner: Any, name: Any) -> Attributes:
    """A method of a class above, as mmengine's history holds them: an empty dict, that nothing calls."""
    if not isinstance(owner, Admitted) or owner.name not in FOREIGN:
        raise Unreadable(
            f"is refused: it asks for the attribute {name!a:.60} of an object, which could run code"
        )
    return Attributes()


def _not_called(source: PickleSource, *arguments: Any) -> Any:
    raise Unreadable(
        "is refused: it makes an object in a way that no checkpoint needs, which could run code"
    )


_FACTORIES = ("int", "float", "list", "dict")  # of default dicts
FOREIGN = {
    **admit(dict.fromkeys(_WITH_ATTRIBUTES, _with_attributes)),
    **admit(dict.fromkeys(_WITH_ITEMS, _with_items)),
    **admit({f"pathlib.{name}": _path for name in _PATHS}),
    **admit({"collections.defaultdict": _default_dict}),
    **admit({"builtins.getattr": _attribute, "__builtin__.getattr": _attribute}),
    **admit(
        {
            f"{module}.{name}": _not_called
            for module in ("builtins", "__builtin__")
            for name in _FACTORIES
        }
    ),
}
