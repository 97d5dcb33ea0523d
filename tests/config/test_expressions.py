"""Arithmetic in a configuration is computed as Python does, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnext_det.config.expressions import compute_expression
from resnext_det.config.yaml_files import read_yaml

RETINANET = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"
TWENTY = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]"


@pytest.mark.parametrize(
    "text", [RETINANET, "[-1, 2.5e3]", "(1, [2 - 3])", "[y / 4 for y in (1, 2)]", "[]"]
)
def test_it_is_what_python_computes(text: str) -> None:
    assert repr(compute_expression(text)) == repr(eval(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("__import__('os').mkdir('hacked')", "and lists, and this one has"),
        ("x", "this one has 'x'"),
        ("().__class__", "and lists"),
        ("'a' * 9", "and lists"),
        ("[x for x in [1] if x]", "by one 'for x in"),
        ("[x for x in 5]", "entries of another one alone"),
        ("9 ** 99", "the exponent 99 is above 32"),
        ("9 ** 32", "is no number up to"),
        ("1e300", "is no number up to"),
        ("(-8) ** (1 / 3)", "is no number up to"),
        ("1 / 0", "division by zero"),
        ("[", "cannot be computed"),
        ("(" * 250 + ")" * 250, "cannot be computed"),
        ("[1]" * 200, "over 500 characters"),
        (f"[[[x for x in {TWENTY}] for y in {TWENTY}] for z in {TWENTY}]", "over 5000 steps"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compute_expression(text)


def test_a_file_has_the_values(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    line = f'MODEL: {{ANCHOR_GENERATOR: {{SIZES: !!python/object/apply:eval ["{RETINANET}"]}}}}'
    path.write_text(line)
    values, _ = read_yaml(path)
    assert values == {"MODEL": {"ANCHOR_GENERATOR": {"SIZES": eval(RETINANET)}}}
    for wrong in ('eval "[1]"', "eval [1]", "eval ['[1]', '[2]']", "eval [\"open('a')\"]"):
        path.write_text(f"SEED: !!python/object/apply:{wrong}")
        with pytest.raises(ValueError, match=r"a\.yaml is not plain YAML"):
            read_yaml(path)
