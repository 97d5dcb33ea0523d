"""Say what a placeholder stands for, and what to save in its stead, for errors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnext_det.weights.unpickling.objects import Name, Placeholder

# Tensors that are not read, by what makes them, each with what makes a plain tensor of it.
_TENSORS: dict[str, tuple[str, str | None]] = {
    r"torch\._utils\._rebuild_qtensor|torch\.(?:cuda\.)?QU?Int\w+Storage": (
        "a quantized tensor",
        "tensor.dequantize()",
    ),
    r"torch\._utils\._rebuild_sparse\w*": ("a sparse tensor", "tensor.to_dense()"),
    r"torch\._utils\._rebuild_nested\w*": (
        "a nested tensor",
        "tensor.to_padded_tensor(0.0) if tensor.is_nested else tensor",
    ),
    r"torch\._utils\._rebuild_meta\w*": (
        "a tensor of the device meta, which has no values",
        None,
    ),
    r"torch\._utils\._rebuild_wrapper\w*": (
        "a tensor of a subclass",
        "tensor.full_tensor() if hasattr(tensor, 'full_tensor') else tensor",
    ),
    r"torch\._utils\._rebuild_\w+": ("a tensor of another device", "tensor.cpu()"),
    r"torch\.(?:cuda\.)?Complex\w+Storage": ("a complex tensor", "tensor.real"),
    r"torch\.(?:float|u?int|complex)\w+": ("a tensor of {name}", "tensor.float()"),
    r"torch\.Tensor\.expand": (
        "an expanded tensor, with fewer values than elements",
        "tensor.clone()",
    ),
    r"torch\.storage\._load_from_bytes": (
        "a tensor of torch in a pickle that torch.save did not write",
        "tensor.clone()",
    ),
}
_HARMLESS = re.compile(
    r"torch\._(?:utils|tensor)\._rebuild\w+|torch\.serialization\._get_layout"
    r"|numpy\.(?:random|_?core|ma)\..*|pandas\.(?:_libs\..*_unpickle\w*|.*\._new_\w*Index)"
    r"|(?:collections|datetime|time|array)\..*|functools\.partial|copyreg\.extension.*"
    r"|_codecs\.encode|itertools\.(?:chain|count|cycle|islice|i?zip|repeat)|logging\.getLogger"
    r"|(?:re|_regex|regex\._regex|regex\._main)\._?compile|_?operator\.(?:attr|item)getter"
    r"|(?:builtins|__builtin__)"
    r"\.(?:x?range|slice|bytes|object|property|type|enumerate|iter|reversed|zip)"
)
_NUMBERS = ("numpy.matrix", "numpy.memmap")
_RUNNING = re.compile(r"(?:os|posix|nt|subprocess|commands)\.")  # their classes run programs too
_FUNCTION = re.compile(r"(?:.*\.)?[a-z_]\w*")


def describe_object(value: Any) -> str:
    """Say in a few words what an object in a file is, as in "an object of argparse.Namespace"."""
    if isinstance(value, Name):
        return f"the name {value.name:.100}"
    if not isinstance(value, Placeholder):
        kind = type(value).__name__
        return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
    if is_module(value):
        return f"a whole model ({value.name:.100}) and not its state_dict"
    if value.name == "numpy.ndarray":
        kinds = (kind for kind in value.arguments[:1] if isinstance(kind, str))
        return f"an array of dtype {next(kinds, '?')!a:.40}"
    known = _find_tensor(value.name)
    if known:
        return known[0].format(name=value.name)
    if could_run_code(value):
        return f"a call of {value.name:.100} (which could run code in Python's own pickle)"
    return f"an object of {value.name:.100}"


def could_run_code(value: Any) -> bool:
    """Tell whether Python's own pickle, where it makes an object, calls an unknown function.

    Classes are told by their capital letter.
    """
    if not isinstance(value, Placeholder) or not value.called:
        return False
    if _RUNNING.match(value.name):
        return True
    return bool(_FUNCTION.fullmatch(value.name)) and not _HARMLESS.fullmatch(value.name)


def is_module(value: Any) -> bool:
    """Tell whether a placeholder stands for a module of torch."""
    return (
        isinstance(value, Placeholder)
        and isinstance(value.state, dict)
        and "_modules" in value.state
    )


def is_tensor_form(value: Any) -> bool:
    """Tell whether a placeholder stands for a tensor of a kind that is not read."""
    return isinstance(value, Placeholder) and _find_tensor(value.name) is not None


def find_placeholder(contents: Any) -> tuple[str, Any] | None:
    """Find the first class, function or object in plain data that was not made.

    Returns:
        its place, as in "['hooks'][0]", and its placeholder; None where there is none.
    """
    level, seen = [("", contents)], set[int]()
    while level:
        inner: list[tuple[str, Any]] = []
        for where, item in level:
            if isinstance(item, Placeholder | Name):
                return where, item
            if isinstance(item, set | frozenset):
                pairs: Iterable[tuple[Any, Any]] = ((each, each) for each in item)
            else:
                pairs = item.items() if isinstance(item, dict) else enumerate(item)
            for key, value in pairs:
                if isinstance(key, Placeholder | Name):
                    return f"{where}[...]", key
                for part in (value, key):  # a key may be a tuple
                    is_inner = isinstance(part, dict | list | tuple | set | frozenset | Name)
                    if is_inner and id(part) not in seen:
                        seen.add(id(part))
                        inner.append((f"{where}[{key!a:.60}]", part))
        level = inner
    return None


def suggest_saving(value: Any, path: str | Path) -> str:
    """Say how to save what is needed instead of an object in a file."""
    if is_module(value):
        return (
            'where you trust its source, save that: python -c "import sys, torch; torch.save('
            "torch.load(sys.argv[1], weights_only=False).state_dict(), 'weights.pth')\" "
            f"{shlex.quote(str(path))}"
        )
    if could_run_code(value):
        return "get the weights from their publisher, as a .safetensors file where there is one"
    if isinstance(value, Placeholder):
        return (
            f"where you trust its source, load it in Python (torch.load({str(path)!r}, "
            f"weights_only=False), or pickle.load), and save {_suggest_tensors(value)}"
        )
    return (
        "save a model's state_dict(), bare or under 'model' or 'state_dict': "
        "torch.save(model.state_dict(), 'weights.pth')"
    )


def _suggest_tensors(value: Placeholder) -> str:
    """Write the call that saves plain tensors where an object stands among them."""
    known = _find_tensor(value.name)
    made = known[1] if known else None
    if value.name in _NUMBERS:
        made = "torch.tensor(tensor.tolist())"
    if made:
        return (
            f"plain tensors: torch.save({{name: {made} for name, tensor in state.items()}}, "
            "'weights.pth')"
        )
    if known:
        return "the network anew, with its numbers"
    return (
        "the tensors alone: torch.save({name: tensor for name, tensor in state.items() if "
        "torch.is_tensor(tensor)}, 'weights.pth')"
    )


def _find_tensor(name: str) -> tuple[str, str | None] | None:
    return next((told for form, told in _TENSORS.items() if re.fullmatch(form, name)), None)
