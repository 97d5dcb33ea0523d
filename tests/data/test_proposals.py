"""Files of proposals and their mapping, against detectron2's reader and mapper, to the last bit."""

from __future__ import annotations

import copy
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnext_det.data.proposals import KEYS, add_proposals, read_proposals, write_proposals
from resnext_det.data.transforms import DetectionMapper
from tests.data.test_transforms import CASES, CROP_CASES, detectron2_mapper

Record = dict[str, Any]
SIZES = [(97, 151), (160, 83), (64, 64), (3, 200)]
TOPK = 25


def drawn(
    seed: int, height: int, width: int, dtype: Any = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Draw boxes, some empty, at the border or with swapped corners, and logits with ties."""
    random = np.random.RandomState(seed)
    boxes = random.uniform(0, 1, (40, 4)) * [width, height, width, height]
    boxes[:25] = np.hstack(
        [np.minimum(boxes[:25, :2], boxes[:25, 2:]), np.maximum(boxes[:25, :2], boxes[:25, 2:])]
    )
    boxes[:4] = [[0, 0, width, height], [1, 1, 1, 2], [0, 0, 1e-6, 2], [width - 1, 0, width, 1]]
    return boxes.astype(dtype), random.randn(40).round(1).astype(dtype)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Images of several sizes; the ids are not in order."""
    folder = tmp_path_factory.mktemp("images")
    made = []
    for identity, (height, width) in zip((7, 3, 40, 5), SIZES):
        pixels = np.random.RandomState(identity).randint(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{identity}.png")
        made.append(
            {
                "file_name": str(folder / f"{identity}.png"),
                "height": height,
                "width": width,
                "image_id": identity,
                "annotations": [
                    {"bbox": [1.5, 0.5, 9.0, 2.0], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}
                ],
            }
        )
    return made


def proposals_of(records: list[Record], dtype: Any = np.float32) -> dict[Any, Any]:
    return {
        record["image_id"]: drawn(record["image_id"], record["height"], record["width"], dtype)
        for record in records
    }


def write_pickle(path: Path, contents: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(contents, protocol=protocol))
    return path


def contents_of(proposals: dict[Any, Any], **changes: Any) -> dict[str, Any]:
    boxes, logits = zip(*proposals.values())
    contents = {"ids": list(proposals), "boxes": list(boxes), "objectness_logits": list(logits)}
    return {**contents, "bbox_mode": 0, **changes}


def test_what_is_written_is_read(records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "new" / "proposals.pkl"
    proposals = proposals_of(records)
    proposals[9] = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    write_proposals(path, proposals)
    assert [file.name for file in path.parent.iterdir()] == ["proposals.pkl"]
    found = read_proposals(path)
    assert list(found) == [7, 3, 40, 5, 9]
    for identity, (boxes, logits) in found.items():
        assert boxes.dtype == logits.dtype == np.float32 and boxes.shape == (len(logits), 4)
        assert np.array_equal(boxes, proposals[identity][0]) and np.array_equal(
            logits, proposals[identity][1]
        )
    contents = pickle.loads(path.read_bytes())  # what detectron2's reader sees
    assert contents["bbox_mode"] == 0 and contents["ids"] == [7, 3, 40, 5, 9]


def test_a_file_is_whole_or_absent(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "proposals.pkl"
    write_proposals(path, proposals_of(records[:1]))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"proposals.pkl could not be written.*No space left.*make room"
    ):
        write_proposals(path, proposals_of(records))
    assert list(read_proposals(path)) == [7]
    assert [file.name for file in tmp_path.iterdir()] == ["proposals.pkl"]


@pytest.mark.detectron2
@pytest.mark.parametrize(
    "form", ["float32", "float64", "XYWH", "Detectron", "text ids", "more images"]
)
def test_records_equal_those_of_detectron2(
    records: list[Record], tmp_path: Path, form: str
) -> None:
    """Also the order among equal logits."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.data.build import load_proposals_into_dataset
    from detectron2.structures import BoxMode

    proposals = proposals_of(records, np.float64 if form == "float64" else np.float32)
    contents = contents_of(proposals, bbox_mode=int(form == "XYWH"))
    if form == "XYWH":
        contents["boxes"] = [np.abs(boxes * 0.4) for boxes in contents["boxes"]]
    if form == "text ids":
        contents["ids"] = [str(identity) for identity in contents["ids"]]
    if form == "Detectron":
        contents = {
            "indexes": contents["ids"],
            "scores": contents["objectness_logits"],
            "boxes": contents["boxes"],
        }
    if form == "more images":
        contents["ids"][:0], contents["boxes"][:0] = [99], [np.full((1, 4), 1e6, np.float32)]
        contents["objectness_logits"][:0] = [np.zeros(1, np.float32)]
    path = write_pickle(tmp_path / "proposals.pkl", contents)
    found = add_proposals(records, path, name="some")
    expected = load_proposals_into_dataset(copy.deepcopy(records), str(path))
    for mine, theirs, record in zip(found, expected, records):
        assert mine.keys() == theirs.keys() == record.keys() | set(KEYS)
        boxes = BoxMode.convert(
            theirs["proposal_boxes"], theirs["proposal_bbox_mode"], BoxMode.XYXY_ABS
        )
        assert mine["proposal_bbox_mode"] == BoxMode.XYXY_ABS
        assert mine["proposal_boxes"].dtype == boxes.dtype and np.array_equal(
            mine["proposal_boxes"], boxes
        )
        assert np.array_equal(
            mine["proposal_objectness_logits"], theirs["proposal_objectness_logits"]
        )


@pytest.mark.detectron2
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("case", "is_train"),
    [*((case, train) for case in CASES for train in (True, False)), ("absolute range", True)],
)
def test_mapped_proposals_equal_detectron2(
    records: list[Record], tmp_path: Path, case: str, is_train: bool, dtype: Any
) -> None:
    options = {**CASES, **CROP_CASES}[case]
    theirs = detectron2_mapper(is_train, **options)
    theirs.proposal_topk = TOPK
    ours = DetectionMapper(is_train, proposal_topk=TOPK, **options)
    path = tmp_path / "proposals.pkl"
    write_proposals(path, proposals_of(records, dtype))
    completed = add_proposals(records, path, name="some")
    before = copy.deepcopy(completed)
    counts = set()
    for seed in range(4):
        np.random.seed(seed)
        random_state = np.random.RandomState(seed)
        for record in completed:
            expected, found = theirs(record), ours(record, random_state)
            assert found.keys() == expected.keys()
            mine, wanted = found["proposals"], expected["proposals"]
            assert mine.image_size == wanted.image_size == found["image"].shape[1:]
            assert mine.get_fields().keys() == wanted.get_fields().keys()
            for one, other in (
                (mine.proposal_boxes.tensor, wanted.proposal_boxes.tensor),
                (mine.objectness_logits, wanted.objectness_logits),
            ):
                assert one.dtype == other.dtype == torch.float32 and torch.equal(one, other)
            counts.add(len(mine))
            if is_train:
                assert torch.equal(
                    found["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor
                )
    assert TOPK in counts
    for record, old in zip(completed, before):
        assert np.array_equal(record["proposal_boxes"], old["proposal_boxes"])


def test_proposals_follow_their_pixels(records: list[Record]) -> None:
    """A box around half of the image covers that half after the flip.

    Without ``proposal_topk`` a record's proposals stay its own.
    """
    record = {
        **records[0],
        "proposal_boxes": np.array([[0, 0, 50, 97]], np.float32),
        "proposal_objectness_logits": np.array([2.0], np.float32),
        "proposal_bbox_mode": 0,
    }
    boxes = set()
    for seed in range(8):
        mapper = DetectionMapper(True, min_sizes=194, max_size=1000, proposal_topk=1)
        sample = mapper(record, np.random.RandomState(seed))
        boxes.add(tuple(sample["proposals"].proposal_boxes.tensor[0].tolist()))
        assert (
            sample["proposals"].objectness_logits.tolist() == [2.0]
            and not set(KEYS) & sample.keys()
        )
    assert boxes == {(0.0, 0.0, 100.0, 194.0), (202.0, 0.0, 302.0, 194.0)}
    plain = DetectionMapper(False, min_sizes=64, max_size=133)(record)
    assert "proposals" not in plain and set(KEYS) <= plain.keys()


def changed(index: int, key: str, value: Any) -> Any:
    """The contents of a file of which one entry is another."""

    def change(contents: dict[str, Any]) -> dict[str, Any]:
        contents[key][index] = value
        return contents

    return change


BOX = np.array([[1, 1, 5, 2]], np.float32)
NAN, INFINITE = np.full(40, np.nan, np.float32), np.full((40, 4), np.inf, np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: [c], r"hold a list; write a dict with lists \"ids\""),
        (lambda c: {"ids": c["ids"]}, r"have the keys ids; write a dict"),
        (lambda c: {**c, "ids": c["ids"][:3]}, r"have 3 ids, 4 boxes and 4 objectness_logits"),
        (lambda c: {**c, "bbox_mode": 2}, r"bbox_mode 2; write 0 \(x0, y0, x1, y1\) or 1"),
        (changed(1, "boxes", BOX[:, :3]), r"image 3: boxes have the shape \(1, 3\).* \(N, 4\)"),
        (changed(1, "boxes", BOX), r"image 3: .* \(1, 4\) and objectness_logits \(40,\)"),
        (changed(1, "boxes", BOX.astype(np.int64)), r"image 3: boxes are int64; write .* float32"),
        (changed(1, "objectness_logits", [0.5]), r"image 3: objectness_logits are a list; write"),
        (changed(1, "objectness_logits", NAN), r"image 3: a box or a logit is not finite"),
        (changed(2, "boxes", INFINITE), r"image 40: a box or a logit is not finite"),
        (changed(1, "ids", 7), r"image 7 stands there twice"),
        (
            changed(1, "ids", 8),
            r"image 3 \(.*3\.png\) of dataset 'some' is not there, and so it is for 1 of 4 images; "
            r"it has 4 images, such as 7, 8, 40",
        ),
        (lambda c: {key: [] for key in c if key != "bbox_mode"}, r"for 4 of 4 images; it has none"),
        (
            changed(0, "boxes", np.full((40, 4), 98.5, np.float32)),
            r"box \[98\.5, 98\.5, 98\.5, 98\.5\] of image 7 lies outside of .*7\.png, which is 151 "
            "x 97, and so do 39 more",
        ),
    ],
)  # fmt: skip
def test_a_wrong_file(records: list[Record], tmp_path: Path, change: Any, words: str) -> None:
    path = write_pickle(tmp_path / "proposals.pkl", change(contents_of(proposals_of(records))))
    with pytest.raises(ValueError, match=f"^proposals {re.escape(str(path))}.*{words}"):
        add_proposals(records, path, name="some")


def test_a_missing_file(records: list[Record], tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"proposals none.pkl are not there, and nothing is downloaded; write them with",
    ):
        add_proposals(records, "none.pkl", name="some")


def test_no_code_runs(records: list[Record], tmp_path: Path) -> None:
    class Malice:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    path = write_pickle(
        tmp_path / "proposals.pkl", {**contents_of(proposals_of(records)), "bbox_mode": Malice()}
    )
    with pytest.raises(ValueError, match=r"proposals\.pkl.*mkdir"):
        add_proposals(records, path, name="some")
    assert not (tmp_path / "made").exists()
    cut = tmp_path / "cut.pkl"
    cut.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.pkl"):
        read_proposals(cut)


def test_an_id_of_very_many_digits_is_refused(tmp_path: Path) -> None:
    """Python writes no integer of over 4300 digits in an error."""
    path = tmp_path / "a.pkl"
    empty = [np.zeros((0, 4)), np.zeros(0)]
    contents = {"ids": [1 << 20000], "boxes": empty[:1], "objectness_logits": empty[1:]}
    path.write_bytes(pickle.dumps({**contents, "bbox_mode": 0}))
    with pytest.raises(ValueError, match="image's id is an int of very many digits; write the"):
        read_proposals(path)
