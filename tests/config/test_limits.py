"""Configurations that would take all memory or never end: refused, in a sentence and at once."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from resnext_det.config import load_config
from resnext_det.config.classification import load_classifier_config

_FPN = "modern/faster_rcnn_X50_32x4d_FPN_1x.yaml"
_CLASSIFIER = "classification/finetune/X50_32x4d.yaml"


def _alias(form: str, levels: str = "bcdefghi") -> str:
    """Write levels of nine aliases each: 9**8 leaves in 300 characters."""
    lines, before = ["a: &a {x: 1}"], "a"
    for name in levels:
        entries = (f"{'k' + str(i) + ': ' if form == '{}' else ''}*{before}" for i in range(9))
        lines.append(f"{name}: &{name} {form[0]}{', '.join(entries)}{form[1]}")
        before = name
    return "\n".join(lines)


_FILES = {
    "aliases of mappings": (_alias("{}"), "stands for too much, by its aliases"),
    "aliases of lists": (_alias("[]"), "stands for too much, by its aliases"),
    "a list within itself": ("SOLVER: {STEPS: &a [*a]}", "line 1 stands within itself"),
    "a mapping within itself": ("SOLVER: &a {X: *a}", "line 1 stands within itself"),
    "a long text": (f"MODEL: {{WEIGHTS: {'x' * 300_000}}}", "has over 200000 characters"),
    "lists": ("SOLVER: {STEPS: " + "[" * 5000, "line 1 has over 20 levels"),
    "mappings": ("SOLVER: " + "{a: " * 5000, "line 1 has over 20 levels"),
    "brackets": (f"SOLVER: {{STEPS: '{'(' * 5000}'}}", "a list is needed; write"),
    "digits": (f"SOLVER: {{MAX_ITER: {'9' * 5000}}}", "is not plain YAML: Exceeds the limit"),
    "sixties": (f"SOLVER: {{MAX_ITER: {':'.join(['59'] * 4000)}}}", "too long to show"),
    "a text of digits": (f"SOLVER: {{MAX_ITER: '{'9' * 5000}'}}", "a whole number is needed"),
    "a number": (f"SOLVER: {{MAX_ITER: {'9' * 400}}}", "is out of range; write numbers up to"),
    "no day": ("SOLVER: {BASE_LR: 2001-99-99}", "is not plain YAML: month must be in 1..12"),
    "a tag": ("SOLVER: {MAX_ITER: !!bool abc}", "there is a tag in line 1"),
    "a folder": ("_BASE_: .", "names {folder}/., which is no regular file"),
    "a pipe": ("_BASE_: pipe", "names {folder}/pipe, which is no regular file"),
    "a device": ("_BASE_: /dev/zero", "names /dev/zero, which is no regular file"),
    "no name": ('_BASE_: "a\\0b"', "which does not exist"),
    "a terminal's code": ('"\\e[31mX": 1', "\\x1b[31mX = 1"),
}


@pytest.mark.parametrize("name", _FILES)
def test_a_file(name: str, tmp_path: Path) -> None:
    text, reason = _FILES[name]
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "leaf.yaml"
    path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_config(path)
    told = str(caught.value)
    assert reason.format(folder=tmp_path) in told
    assert "sys." not in told
    assert len(told) < 1000


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("SOLVER.MAX_ITER", "9" * 5000, "a whole number is needed"),
        ("SOLVER.MAX_ITER", 10**5000, "a whole number is needed"),
        ("SOLVER.STEPS", "[[1]]", "holds [1], and every entry"),
        ("SOLVER.STEPS", "{[]: 1}", "a list is needed"),
        ("SOLVER.BASE_LR", "1e999", "out of range"),
        ("X" * 5000, "1", "no such key"),
        ("-" * 5000, "1", "follows the KEY VALUE overrides"),
        ("MODEL.WEIGHTS", "x" * 20_000, "it has 20000 characters"),
        ("MODEL.ROI_BOX_HEAD.FC_DIM", 10**9, "out of range"),
        ("INPUT.MIN_SIZE_TEST", 10**9, "out of range"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 10**6, "would make a layer of 4,096,000,000 weights"),
        ("MODEL.FPN.OUT_CHANNELS", 8192, "would make a layer of 603,979,776 weights"),
        ("MODEL.RESNETS.WIDTH_PER_GROUP", 8192, "would make a layer of"),
        ("MODEL.RPN.CONV_DIMS", [64] * 200, "write the channels of one convolution or more"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[8] * 400], "give 1200 anchors at each place"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "value",
)
def test_an_override(key: str, value: Any, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_config(_FPN, [key, value])
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_classifier_of_a_layer_that_is_too_large() -> None:
    overrides = ["MODEL.NUM_CLASSES", 10**6]
    with pytest.raises(ValueError, match=r"would make a layer of 2,048,000,000 weights"):
        load_classifier_config(_CLASSIFIER, overrides)


@pytest.mark.parametrize("base", [0.0, 0.001])
def test_a_cosine_that_does_not_fall(base: float) -> None:
    overrides = ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR", base]
    end = ["SOLVER.BASE_LR_END", 0.1 * base + (base > 0)]
    for load, path in ((load_config, _FPN), (load_classifier_config, _CLASSIFIER)):
        with pytest.raises(ValueError, match=rf"falls from SOLVER.BASE_LR = {base} to .* above 0"):
            load(path, [*overrides, *end])


def test_a_pipe_and_a_folder_are_no_configuration(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe is no regular file, and is read several times"):
        load_config(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"is a folder; give the path of a YAML file"):
        load_config(tmp_path)


def test_an_infinite_norm_of_gradients_has_a_meaning() -> None:
    clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"]
    cfg = load_config(_FPN, [*clip, "SOLVER.CLIP_GRADIENTS.NORM_TYPE", float("inf")])
    assert math.isinf(cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE)


def test_aliases_of_a_few_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "leaf.yaml"
    path.write_text("SOLVER: {STEPS: &steps [60, 80]}\nMODEL: {PIXEL_STD: &s [1., 1., 1.]}\n")
    assert load_config(path).SOLVER.STEPS == (60, 80)
