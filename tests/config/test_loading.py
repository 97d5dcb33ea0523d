"""YAML with bases and overrides to a configuration, and every error with its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resnext_det.config import config_file, get_cfg, load_config
from resnext_det.config.classification import load_classifier_config
from resnext_det.config.detection import OWN_KEYS, add_own_keys
from resnext_det.config.rules import get_value, list_keys
from tests.config.helpers import read_table

ROOT = Path(__file__).parents[2]
ALL = sorted((ROOT / "configs").rglob("*.yaml"))
CLASSIFIERS = [
    path for path in ALL if "classification" in path.parts or path.stem.startswith("classifier")
]
CONFIGS = [path for path in ALL if path not in CLASSIFIERS]


def write(folder: Path, text: str, name: str = "leaf.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def get_error(path: Path | str, overrides: list[Any] | None = None) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_config(path, overrides or [])
    return str(caught.value)


@pytest.mark.detectron2
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_detectron2_reads_our_files_as_we_do(path: Path) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg as get_detectron2_cfg

    ours, theirs = load_config(path), get_detectron2_cfg()
    if OWN_KEYS.keys() & set(list_keys(ours)):  # detectron2's own programs refuse them
        add_own_keys(theirs)
    theirs.merge_from_file(str(path))
    for key in list_keys(ours):
        mine, other = get_value(ours, key), get_value(theirs, key)
        assert mine == other and type(mine) is type(other), key


@pytest.mark.detectron2
def test_a_configuration_that_detectron2_has_written_is_read(tmp_path: Path) -> None:
    """It holds every key of detectron2, those of masks and RetinaNet too."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg as get_detectron2_cfg

    theirs = get_detectron2_cfg()
    theirs.merge_from_file(str(ROOT / "configs/modern/faster_rcnn_X50_32x4d_FPN_1x.yaml"))
    ours = load_config(write(tmp_path, theirs.dump()))
    assert ours == load_config(ROOT / "configs/modern/faster_rcnn_X50_32x4d_FPN_1x.yaml")


def test_our_own_dump_is_read_back_as_it_was(tmp_path: Path) -> None:
    for path in CONFIGS:
        cfg = load_config(path, ["SEED", "7"])
        assert load_config(write(tmp_path, cfg.dump())) == cfg


def test_the_dump_of_a_classifiers_configuration_is_read_back(tmp_path: Path) -> None:
    for path in CLASSIFIERS:
        cfg = load_classifier_config(path, ["SEED", "7"])
        assert load_classifier_config(write(tmp_path, cfg.dump())) == cfg


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_classifiers_configuration_is_no_detectors(path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"is a classifier's configuration; train it with resnext-det pretrain"
    ):
        load_config(path)


def test_later_bases_win_and_the_file_wins_over_them(tmp_path: Path) -> None:
    write(tmp_path, "SEED: 1\nSOLVER: {MAX_ITER: 1, IMS_PER_BATCH: 1}", "first.yaml")
    (tmp_path / "deeper").mkdir()
    write(
        tmp_path / "deeper",
        "_BASE_: ../third.yaml\nSOLVER: {MAX_ITER: 2, IMS_PER_BATCH: 2}",
        "second.yaml",
    )
    write(tmp_path, "VERSION: 2\nOUTPUT_DIR: of_the_third", "third.yaml")
    leaf = write(tmp_path, "_BASE_: [first.yaml, deeper/second.yaml]\nSOLVER: {MAX_ITER: 3}")
    cfg = load_config(leaf, ["SOLVER.CHECKPOINT_PERIOD", "4"])
    assert (cfg.SEED, cfg.OUTPUT_DIR) == (1, "of_the_third")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.CHECKPOINT_PERIOD) == (
        3,
        2,
        4,
    )


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.BASE_LR", "2e-2", 0.02),
        ("SOLVER.STEPS", "(60, 80)", (60, 80)),
        ("SOLVER.STEPS", "[60, 80]", (60, 80)),
        ("SOLVER.STEPS", "()", ()),
        ("SOLVER.STEPS", (60,), (60,)),
        ("SOLVER.MAX_ITER", 100, 100),
        ("SOLVER.WEIGHT_DECAY_BIAS", "0.5", 0.5),
        ("SOLVER.WEIGHT_DECAY_BIAS", "None", None),
        ("SOLVER.WEIGHT_DECAY_NORM", "None", None),
        ("DATASETS.TRAIN", '("a", "b")', ("a", "b")),
        ("MODEL.RPN.IOU_LABELS", "(0, -1, 1)", [0, -1, 1]),
        ("SOLVER.AMP.ENABLED", "True", True),
        ("OUTPUT_DIR", "a folder/x=1", "a folder/x=1"),
        ("SEED", "-1", -1),
    ],
)
def test_overrides_have_the_type_of_the_default(
    tmp_path: Path, key: str, text: Any, value: Any
) -> None:
    found = get_value(load_config(write(tmp_path, "VERSION: 2"), [key, text]), key)
    assert found == value
    assert type(found) is type(value)


def test_the_result_is_frozen(tmp_path: Path) -> None:
    cfg = load_config(write(tmp_path, "VERSION: 2"))
    with pytest.raises(AttributeError):
        cfg.SOLVER.BASE_LR = 1.0
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.BASE_LR = 1.0


# Overrides, and words of the refusal.
WRONG_OVERRIDES = """
MODEL.RPN.NMS_TRESH 0.7 | MODEL.RPN.NMS_TRESH = '0.7' | the command line
  | did you mean MODEL.RPN.NMS_THRESH
RPN.NMS_THRESH 0.7 | no such key | MODEL.RPN.NMS_THRESH
DEPTH 50 | did you mean MODEL.RESNETS.DEPTH
MODEL.WEIGHTS.FILE x | no such key is honored | MODEL.WEIGHTS
solver.max_iter 5 | did you mean SOLVER.MAX_ITER
BATCH_SIZE 5 | did you mean MODEL.RPN.BATCH_SIZE_PER_IMAGE, MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
ZZZ 1 | get_cfg()) shows every key
MODEL.ROI_MASK_HEAD.NUM_CONV 4 | as MODEL.MASK_ON = False; write MODEL.MASK_ON True
MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES 4 | no such key is honored here
MODEL.RPN 1 | is a group of keys | MODEL.RPN.NMS_THRESH
SOLVER.BASE_LR 1 | SOLVER.BASE_LR = '1' | a number with a decimal point is needed; write 1.0
SOLVER.MAX_ITER 100.0 | a whole number is needed; write 100
SOLVER.MAX_ITER 1e3 | SOLVER.MAX_ITER = '1e3' | a whole number
SOLVER.STEPS 10 | a list is needed; write '(10,)'
DATASETS.TRAIN coco_2017_train | a list is needed; write '("coco_2017_train",)'
MODEL.RPN.IN_FEATURES p2,p3 | write '("p2", "p3",)'
MODEL.ANCHOR_GENERATOR.SIZES 32 | a list is needed; write '[[32, 64, 128, 256, 512]]'
SOLVER.AMP.ENABLED yes | 'yes' | write True or False
SOLVER.AMP.ENABLED 1 | write True or False
MODEL.DEVICE 0 | MODEL.DEVICE = '0' | text is needed | "'0'"
MODEL.WEIGHTS None | MODEL.WEIGHTS has no value | ''
SOLVER.WEIGHT_DECAY_BIAS low | SOLVER.WEIGHT_DECAY_BIAS = 'low' | write a number, or None
SOLVER.STEPS ('a',) | SOLVER.STEPS = ('a',) holds 'a', and every entry has to be a number
DATASETS.TEST (1,) | DATASETS.TEST = (1,) holds 1, and every entry has to be text
SOLVER.MAX_ITER | pairs KEY VALUE | 'SOLVER.MAX_ITER'
DATASETS.TRAIN ("a", "b") | odd number of words | quote a VALUE that has spaces
SOLVER.MAX_ITER=100 | write a space for the equals sign: SOLVER.MAX_ITER 100
SEED 1 --num-gpus 2 | '--num-gpus' follows the KEY VALUE overrides | before the first KEY
"""


@pytest.mark.parametrize("case", read_table(WRONG_OVERRIDES))
def test_a_wrong_override_says_what_to_write(tmp_path: Path, case: str) -> None:
    overrides, *words = case.split(" | ")
    text = get_error(write(tmp_path, "VERSION: 2"), overrides.split())
    assert [word for word in words if word not in text] == [], text


# The text of a file, with its line ends as \n, and words of the refusal.
WRONG_FILES = r"""
(nothing) | holds no KEY: value lines
# nothing but a comment | holds no KEY: value lines
- SEED\n- 1 | holds no KEY: value lines
some words | holds no KEY: value lines
SEED: [1 | is not plain YAML | line 1
SEED:\t1\n\tx: 2 | is not plain YAML
SEED: !!python/object/apply:os.mkdir [hacked] | is not plain YAML | tags are not read | os.mkdir
SEED: !!python/name:os.system | is not plain YAML
MODEL: &a {RPN: *a} | is not plain YAML
SEED: 1\nSOLVER: {MAX_ITER: 5}\nSEED: 2 | has SEED twice in one group, in lines 1 and 3
MODEL:\n  DEVICE: cpu\n  DEVICE: cuda | has DEVICE twice in one group, in lines 2 and 3
MODEL: {DEPHT: 50} | MODEL.DEPHT = 50 (from | leaf.yaml) | did you mean MODEL.RESNETS.DEPTH
INPUT: {CROP: {ENABLED: True, TYPE: square}} | INPUT.CROP.TYPE = 'square' is not supported
MODEL: | MODEL is a group of keys
MODEL: {} | MODEL is a group of keys
MODEL: {WEIGHTS: } | MODEL.WEIGHTS has no value
SEED: {a: 1} | SEED.a = 1 | no such key
SOLVER: {BASE_LR: 1} | SOLVER.BASE_LR = 1  | write 1.0
_BASE_: leaf.yaml\nSEED: 1 | leaf.yaml: its _BASE_ leads back to | break the circle
_BASE_: other.yaml\nSEED: 1 | its _BASE_ names | other.yaml, which does not exist
_BASE_: https://x.org/a.yaml\nSEED: 1 | https://x.org/a.yaml, which does not exist
_BASE_: 5\nSEED: 1 | _BASE_ in line 1 names no file
_BASE_:\nSEED: 1 | _BASE_ in line 1 names no file
_BASE_: base.yaml\nMODEL: {RPN: {NMS_THRESH: 0.5}} | a group here and a value in its _BASE_ | RPN
_BASE_: misspelt.yaml\nSEED: 1 | MODEL.RPM = 3 (from | leaf.yaml, or its _BASE_
"""


@pytest.mark.parametrize("case", read_table(WRONG_FILES))
def test_a_wrong_file_says_what_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    text, *words = case.split(" | ")
    text = "" if text == "(nothing)" else text.replace("\\n", "\n").replace("\\t", "\t")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "MODEL: {RPN: 3}", "base.yaml")
    write(tmp_path, "MODEL: {RPM: 3}", "misspelt.yaml")
    found = get_error(write(tmp_path, text))
    assert [word for word in words if word not in found] == [], found
    assert not (tmp_path / "hacked").exists()


def test_a_circle_of_two_files_is_found(tmp_path: Path) -> None:
    write(tmp_path, "_BASE_: b.yaml", "a.yaml")
    write(tmp_path, "_BASE_: a.yaml", "b.yaml")
    assert "break the circle" in get_error(tmp_path / "a.yaml")


def test_a_shipped_configuration_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any folder, with its base files; a file of that name in the folder goes before it."""
    monkeypatch.chdir(tmp_path)
    name = "modern/faster_rcnn_X50_32x4d_FPN_1x.yaml"
    shipped = ROOT / "configs" / name
    assert config_file(name) == config_file(f"configs/{name}") == config_file(shipped) == shipped
    assert load_config(name) == load_config(Path("configs", name)) == load_config(shipped)
    (tmp_path / "modern").mkdir()
    write(tmp_path / "modern", "SEED: 7", Path(name).name)
    assert config_file(name) == Path(name) and load_config(name).SEED == 7


@pytest.mark.parametrize(
    "name", ["faster_rcnn_X50_32x4d_FPN_1x.yaml", "modern/faster_rcnn_X50_FPN_1x.yaml"]
)
def test_near_names_are_told(name: str) -> None:
    with pytest.raises(ValueError, match=r"did you mean modern/faster_rcnn_X50_32x4d_FPN_1x\.yaml"):
        config_file(name)


def test_a_missing_file_and_one_that_is_no_text(tmp_path: Path) -> None:
    assert "none.yaml does not exist; give the path of a YAML file" in get_error(
        tmp_path / "none.yaml"
    )
    assert f"{tmp_path} is a folder; give the path of a YAML file" in get_error(tmp_path)
    (tmp_path / "weights.yaml").write_bytes(b"\x80\x02\xff\xfe")
    assert "weights.yaml is no text" in get_error(tmp_path / "weights.yaml")


def test_get_cfg_passes_the_checks() -> None:
    from resnext_det.config import check

    check(get_cfg())
