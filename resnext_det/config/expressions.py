"""Compute the arithmetic that detectron2's own YAML files write in Python; no code is run.

``Base-RetinaNet.yaml`` writes its anchors as ``!!python/object/apply:eval ["[[x, x * 2**(1.0/3)]
for x in [32, 64]]"]``.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

TAG = "tag:yaml.org,2002:python/object/apply:eval"
"""The tag under which such an expression stands, as a list of one string."""

_LONGEST = 500  # characters
_MOST_STEPS = 5000
_LARGEST = 1e9
_LARGEST_EXPONENT = 32
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def compute_expression(text: str) -> Any:
    """Compute an expression of numbers, + - * / **, lists, and lists made by ``for x in [...]``.

    Example:
        >>> compute_expression("[[x, x * 2] for x in [32, 64]]")
        [[32, 64], [64, 128]]

    Raises:
        ValueError: there is anything else in it, or it takes too long or gives too large numbers.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"the expression has over {_LONGEST} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _Computation().compute(tree.body, {})
    except (SyntaxError, RecursionError, MemoryError, ArithmeticError) as error:
        reason = getattr(error, "msg", None) or str(error) or type(error).__name__
        raise ValueError(f"the expression {text!a:.80} cannot be computed: {reason}") from error


class _Computation:
    """Compute a tree, and count its steps."""

    def __init__(self) -> None:
        self.steps = 0

    def compute(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise ValueError(f"the expression takes over {_MOST_STEPS} steps")
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return _check_number(node.value)
        if isinstance(node, ast.Name) and node.id in names:
            return names[node.id]
        if isinstance(node, ast.List | ast.Tuple):
            entries = [self.compute(entry, names) for entry in node.elts]
            return entries if isinstance(node, ast.List) else tuple(entries)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -_check_number(self.compute(node.operand, names))
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            left, right = (
                _check_number(self.compute(side, names)) for side in (node.left, node.right)
            )
            if isinstance(node.op, ast.Pow) and abs(right) > _LARGEST_EXPONENT:
                raise ValueError(f"the exponent {right} is above {_LARGEST_EXPONENT}")
            return _check_number(_OPERATORS[type(node.op)](left, right))
        if isinstance(node, ast.ListComp):
            return self._compute_list(node, names)
        raise ValueError(
            "an expression may have numbers, + - * / **, and lists, and this one has "
            f"{ast.unparse(node)!a:.80}"
        )

    def _compute_list(self, node: ast.ListComp, names: Mapping[str, Any]) -> list[Any]:
        (first, *others) = node.generators
        if others or first.ifs or first.is_async or not isinstance(first.target, ast.Name):
            raise ValueError("a list may be made by one 'for x in [...]' alone")
        values = self.compute(first.iter, names)
        if not isinstance(values, list | tuple):
            raise ValueError("a list may be made of the entries of another one alone")
        name = first.target.id
        return [self.compute(node.elt, {**names, name: value}) for value in values]


def _check_number(value: Any) -> Any:
    if type(value) not in (int, float) or not abs(value) <= _LARGEST:
        raise ValueError(f"{value!a:.80} is no number up to {_LARGEST:.0e}")
    return value
