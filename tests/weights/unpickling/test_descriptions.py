"""Test what an error says of an object under a weight's name, and that its advice works."""

from __future__ import annotations

import array
import datetime
import itertools
import operator
import pickle
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnext_det.weights.containers import read_container, unpack_weights
from resnext_det.weights.unpickling.descriptions import find_placeholder

WEIGHT = torch.arange(-2, 4.0)[:, None, None, None]
OBJECTS: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (lambda: WEIGHT.to_sparse(), "a sparse tensor"),
    "quantized": (lambda: torch.quantize_per_tensor(WEIGHT, 1.0, 9, torch.quint8), "a quantized"),
    "complex": (lambda: WEIGHT.to(torch.complex64), "a complex tensor"),
    "expanded": (lambda: torch.ones(1).expand(6), "an expanded tensor"),
    "float8": (lambda: WEIGHT.to(torch.float8_e4m3fn), "a tensor of torch.float8_e4m3fn"),
    "matrix": (lambda: np.matrix([[1.0, 2.0]]), "an object of numpy.matrix"),
    "masked": (lambda: np.ma.array([1.0, 2.0], mask=[0, 1]), "an object of numpy.ma"),
    "long double": (lambda: np.ones(2, np.longdouble), "an array of dtype '"),
    "dates": (lambda: np.array(["2020-01-01"], "M8[D]"), "an array of dtype 'M8'"),
    "texts": (lambda: np.array(["a"]), "an array of dtype 'U1'"),
    "date": (lambda: datetime.date(2020, 1, 1), "an object of datetime.date"),
    "moment": (lambda: time.gmtime(0), "an object of time.struct_time"),
    "values": (lambda: array.array("d", [1.0]), "an object of array"),
    "count": (lambda: itertools.count(3), "an object of itertools.count"),
    "pattern": (lambda: re.compile("a"), "an object of re._compile"),
    "getter": (lambda: operator.itemgetter(1), "an object of operator.itemgetter"),
}


@pytest.mark.filterwarnings("ignore")  # of prototypes of torch
@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_advised_works_as_it_is_printed(name: str, tmp_path: Path) -> None:
    make, told = OBJECTS[name]
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"conv1.weight": WEIGHT, "fc.weight": make()}}, path)
    with pytest.raises(ValueError, match=r"^state_dict\['fc.weight'\] is ") as caught:
        unpack_weights(read_container(path)[1])
    text = str(caught.value)
    assert f" is {told}" in text and "could run code" not in text
    state = torch.load(path, weights_only=False)["state_dict"]
    call = text[text.index("torch.save(") :].replace("weights.pth", str(tmp_path / "b.pth"))
    exec(call, {"torch": torch, "state": state})
    found = unpack_weights(read_container(tmp_path / "b.pth")[1]).state
    assert torch.equal(found["conv1.weight"], WEIGHT)
    if name in ("sparse", "quantized", "complex", "float8"):
        assert torch.equal(found["fc.weight"], WEIGHT)


def test_files_of_protocol_1_are_read_and_those_of_protocol_0_told(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for zipped in (True, False):
        form: dict[str, Any] = {"_use_new_zipfile_serialization": zipped}
        torch.save({"conv1.weight": WEIGHT}, path, pickle_protocol=1, **form)
        assert torch.equal(read_container(path)[1]["conv1.weight"], WEIGHT)
        torch.save({"conv1.weight": WEIGHT}, path, pickle_protocol=0, **form)
        with pytest.raises(ValueError, match=r"protocol 0, which loses .* pickle_protocol=2"):
            read_container(path)
        with warnings.catch_warnings(), pytest.raises(AssertionError):  # nor does torch read it
            torch.load(path, weights_only=False)


@pytest.mark.parametrize(
    "make", [set, frozenset, lambda made: [{("a", made[0]): 1}], dict.fromkeys]
)
def test_objects_in_sets_and_keys_are_found(make: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": make([datetime.date(2020, 1, 1)])}))
    found = find_placeholder(read_container(path)[1])
    assert found is not None and found[1].name == "datetime.date"
    path.write_bytes(pickle.dumps({"a": make([(1, "b")])}))
    assert find_placeholder(read_container(path)[1]) is None
