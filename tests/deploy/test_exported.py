"""Exported detectors run without torch, on images of any kind, and bad files are told."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask
import pytest
import torch
from PIL import Image

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from resnext_det.console import Look
from resnext_det.deploy import exported
from resnext_det.deploy.description import describe_exported, format_exported
from resnext_det.deploy.exported import BACKENDS, ExportedDetector
from resnext_det.deploy.metadata import Metadata
from resnext_det.detection.drawing import draw_detections
from resnext_det.detection.portable.pasting import paste_masks
from tests.deploy.helpers import DESCRIPTION, MASKS, NAMES, expect, write_model
from tests.detection.test_video import film
from tests.tools.helpers import ROOT, read_error, run_tool


def save_as_openvino(source: Path) -> Path:
    """Write the two files of OpenVINO beside an ONNX file, as its own converter does."""
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    model = openvino.convert_model(source)
    openvino.save_model(model, source.with_suffix(".xml"), compress_to_fp16=False)
    return source.with_suffix(".xml")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("exported") / "model.onnx", sealed=True)


def draw(path: Path, height: int = 40, width: int = 60, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(60, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels // np.array([1, 2, 1], np.uint8)).save(path)
    return path


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino", "openvino's own"])
def test_images_of_every_kind(kind: str, model: Path, tmp_path: Path) -> None:
    """Channels are RGB; a list gives a list; the graph takes each image in its own size."""
    if kind != "onnxruntime":
        pytest.importorskip("openvino", reason="openvino is not installed")
    path = save_as_openvino(model) if kind == "openvino's own" else model
    backend = "auto" if kind == "openvino's own" else kind
    detector = ExportedDetector(path, backend=backend)
    assert detector.backend == kind.partition("'")[0]
    assert detector.class_names == NAMES and detector.lowest_score == 0.05
    file = draw(tmp_path / "image.png")
    image = Image.open(file)
    array = np.asarray(image)
    gray = np.full((7, 5), 99, np.uint8)
    found = detector([file, str(file), image, array, gray])
    for each, pixels in zip(found, [array] * 4 + [np.stack([gray] * 3, 2)], strict=True):
        boxes, scores, classes = expect(pixels)
        np.testing.assert_array_equal(each.boxes, boxes)
        np.testing.assert_allclose(each.scores, scores, rtol=1e-6)
        assert each.classes.tolist() == classes and each.classes.dtype == np.int64
        assert each.boxes.dtype == each.scores.dtype == np.float32
        assert each.image_size == pixels.shape[:2] and len(each) == 3
    assert detector(array).boxes.tolist() == found[0].boxes.tolist()
    with pytest.raises(
        FileNotFoundError, match=r"entry 1 of the list: there is no image none\.png"
    ):
        detector([array, "none.png"])
    with pytest.raises(ValueError, match="the image has no pixel"):
        detector(array[:0])


WITH_MASKS: dict[str, Any] = {
    "description": {**DESCRIPTION, "mask_size": len(MASKS[0])},
    "outputs": ("boxes", "scores", "classes", "masks"),
}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_masks_are_pasted_as_the_portable_engine_pastes_them(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    detector = ExportedDetector(write_model(tmp_path / "m.onnx", **WITH_MASKS), backend=backend)
    for height, width in ((40, 60), (301, 222), (7, 5)):
        found = detector(np.full((height, width, 3), 200, np.uint8))
        boxes, probabilities = torch.from_numpy(found.boxes), torch.from_numpy(MASKS)
        expected = paste_masks(probabilities, boxes, (height, width)).numpy()
        assert found.masks is not None and found.masks.dtype == bool
        assert (found.masks == expected).all() and 0.01 < expected.mean() < 0.5
        np.testing.assert_array_equal(found.mask_probabilities, MASKS)
        assert found.select(2.0).masks.shape == (0, height, width)  # type: ignore[union-attr]


def test_the_documents_lines_paste_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ONNX Runtime and NumPy alone."""
    text = (ROOT / "docs" / "deployment.md").read_text().split("### Masks\n")[1]
    lines = [line[4:] for line in text.partition("\n##")[0].splitlines() if line[:4] == "    "]
    write_model(tmp_path / "model.onnx", **WITH_MASKS)
    draw(tmp_path / "photo.png", 90, 70)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(lines).replace("photo.jpg", "photo.png"), names)
    found = ExportedDetector("model.onnx")("photo.png")
    assert len(names["pasted"]) == len(found) == 3
    np.testing.assert_array_equal(np.stack(names["pasted"]), found.masks)


def test_predict_writes_masks(model: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "masks.onnx", **WITH_MASKS)
    file = draw(tmp_path / "photos" / "a.png")
    for name, path in (("with", tmp_path / "masks.onnx"), ("without", model)):
        given = (path, file.parent, "--score", 0.05, "--output", tmp_path / name)
        assert run_tool("predict", *given) == 0
    rows, bare = (
        json.loads((tmp_path / name / "detections.json").read_text())
        for name in ("with", "without")
    )
    found = ExportedDetector(tmp_path / "masks.onnx")(file)
    decoded = [pycocotools.mask.decode(row.pop("segmentation")) for row in rows]
    assert rows == bare
    np.testing.assert_array_equal(np.stack(decoded).astype(bool), found.masks)
    pictures = [cv2.imread(str(tmp_path / name / "a.png")) for name in ("with", "without")]
    assert (pictures[0] != pictures[1]).any(axis=2).sum() > 100


WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

REFUSED = {"torch", "torchvision", "detectron2", "fvcore", "iopath", "yacs", "yaml", "filelock",
           "safetensors", "pycocotools", "hotcoco", "tensorboard", "matplotlib", "onnx",
           "onnxscript", "openvino", "nncf", "timm", "scipy"}
sys.meta_path.insert(0, Refuse())
from resnext_det.command_line import main
sys.exit(main(sys.argv[1:]))
"""


def run_without_torch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        **{"cwd": folder, "env": {**environment, "OMP_NUM_THREADS": "1"}, "timeout": 120},
        **{"capture_output": True, "text": True, "check": False},
    )


def test_predict_runs_without_torch(model: Path, tmp_path: Path) -> None:
    """Pictures, a video and both JSON files, with the ids of a dataset too."""
    for number in range(2):
        draw(tmp_path / "photos" / f"{number}.png", 30 + number, 50, seed=number)
    film(tmp_path / "clip.avi")
    done = run_without_torch(tmp_path, "predict", str(model), "photos", "clip.avi")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "predictions" / "detections.json").read_text())
    told = f"{len(rows)} detections of score 0.5 or more on 8 images and frames; they are in pred"
    assert done.stdout.startswith(told) and done.stderr.count("WARNING") == 0, done.stderr
    for name in ("0.png", "1.png"):
        file = tmp_path / "photos" / name
        boxes, scores, classes = expect(np.asarray(Image.open(file)))
        kept = [i for i in range(3) if scores[i] >= 0.5]
        mine = [row for row in rows if Path(row["file_name"]) == Path("photos", name)]
        assert 0 < len(mine) == len(kept) < 3
        for row, i in zip(mine, kept, strict=True):
            x0, y0, x1, y1 = boxes[i].tolist()
            assert row["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert row["score"] == pytest.approx(float(scores[i]), rel=1e-6)
            assert (row["category_id"], row["category"]) == (classes[i], NAMES[classes[i]])
        picture = cv2.imread(str(tmp_path / "predictions" / name))
        bare = draw_detections(cv2.imread(str(file)), np.zeros((0, 4)), [], width=350)
        assert picture.shape == bare.shape and (picture != bare).any()
    assert (tmp_path / "predictions" / "clip.mp4").is_file()

    content = {
        "images": [{"id": 77, "file_name": "0.png", "height": 30, "width": 50}],
        "annotations": [],
        "categories": [{"id": 10 + i, "name": name} for i, name in enumerate(sorted(NAMES))],
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    given = ("--weights", str(model), "--register-coco", "mine", "set.json", "photos")
    done = run_without_torch(tmp_path, "predict", *given, "--score", "0.01")
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "WARNING: the detector gives no score below MODEL.ROI_HEADS.SCORE_THRESH_TEST (of "
        "RetinaNet: MODEL.RETINANET.SCORE_THRESH_TEST) = 0.05; for 0.01 set that too (of an "
        "exported file: at its export)\n"
    )
    rows = json.loads((tmp_path / "predictions" / "detections.json").read_text())
    assert [row["image_id"] for row in rows] == [77] * 3
    ids = {name: 10 + position for position, name in enumerate(sorted(NAMES))}
    assert all(row["category_id"] == ids[row["category"]] for row in rows)


def test_other_commands_say_what_they_lack(tmp_path: Path) -> None:
    done = run_without_torch(tmp_path, "train", "--config-file", "tiny.yaml")
    assert done.returncode == 1 and done.stdout == ""
    words = "all that the commands need, by pip install -e . in the clone of this package"
    assert done.stderr.startswith("error: the package ") and done.stderr.endswith(f"{words}\n")
    assert done.stderr.count("\n") == 1


def damage(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def describe(**changes: Any) -> dict[str, Any]:
    return {**DESCRIPTION, **changes}


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path, "the file .*model.onnx is not there; copy it, or export the"),
    "a folder": (lambda path: path.mkdir(), "model.onnx is a folder, not a file; give a file of"),
    "empty": (lambda path: path.touch(), "model.onnx is empty; copy the file again, or export"),
    "text": (
        lambda path: path.write_text("this is no model"),
        "cannot be read by onnxruntime: it is damaged, no file of this kind, or",
    ),
    "cut off": (
        lambda path: damage(write_model(path), lambda content: content[:300]),
        "cannot be read by onnxruntime: it is damaged",
    ),
    "of others": (
        lambda path: write_model(path, None),
        "is no detector that resnext-det export wrote: it has the inputs image and the outputs "
        "boxes, scores, classes and no metadata of it; export the detector anew with",
    ),
    "other outputs": (
        lambda path: write_model(path, outputs=("boxes", "scores")),
        "it has the inputs image and the outputs boxes, scores; export the detector anew",
    ),
    "told masks without a graph of them": (
        lambda path: write_model(path, describe(mask_size=28)),
        "it has the inputs image and the outputs boxes, scores, classes; export the detector anew",
    ),
    "masks that are not told": (
        lambda path: write_model(path, outputs=WITH_MASKS["outputs"]),
        "it has the inputs image and the outputs boxes, scores, classes, masks; export the",
    ),
    "no JSON": (
        lambda path: write_model(path, "{"),
        "the metadata of .*model.onnx are damaged: .*; copy the file again, or export",
    ),
    "a value missing": (
        lambda path: write_model(path, {"version": "0.2.0"}),
        "are damaged: Object missing required field `class_names`; copy",
    ),
    "a value of another kind": (
        lambda path: write_model(path, describe(score_threshold=50)),
        r"are damaged: Expected `float` <= 1.0 - at `\$.score_threshold`; copy",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_told(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    make(tmp_path / "model.onnx")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as told:
        ExportedDetector(tmp_path / "model.onnx")
    assert "\n" not in str(told.value)


def test_numbers_that_cannot_be_are_told(tmp_path: Path) -> None:
    """A class beyond the names, and scores that are no numbers, as damaged weights give."""
    image = np.zeros((4, 4, 3), np.uint8)
    for changes in ({"classes": [0, 3, 1]}, {"classes": [0, -1, 1]}, {"divisor": 0.0}):
        detector = ExportedDetector(write_model(tmp_path / "model.onnx", **changes))
        with pytest.raises(ValueError, match="is damaged: it gives boxes, scores or masks that"):
            detector(image)


def test_weights_that_were_damaged_are_told(tmp_path: Path) -> None:
    """A bit of a box's place; what another program wrote anew has nothing to compare."""
    onnx = pytest.importorskip("onnx")
    path = write_model(tmp_path / "model.onnx", sealed=True)
    image, content = np.zeros((4, 4, 3), np.uint8), path.read_bytes()
    whole = ExportedDetector(path)(image)
    place = content.index(np.float32([0.75, 1]).tobytes())
    for position in (place + 2, place + 7):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.onnx is damaged: the checksum of its graph"):
            ExportedDetector(path)
    path.write_bytes(content)
    onnx.save(onnx.load(path), tmp_path / "same.onnx")  # the same bytes
    changed = onnx.load(path)
    changed.graph.node[0].name = "renamed"
    onnx.save(changed, tmp_path / "changed.onnx")
    for name in ("same.onnx", "changed.onnx"):
        found = ExportedDetector(tmp_path / name)(image)
        assert found.boxes.tolist() == whole.boxes.tolist()


def test_damaged_weights_of_openvino_are_told(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    path, weights = tmp_path / "model.xml", tmp_path / "model.bin"
    model = openvino.convert_model(write_model(tmp_path / "model.onnx"))
    openvino.save_model(model, path, compress_to_fp16=False)
    metadata = Metadata(**DESCRIPTION).add_checksum(weights.read_bytes())
    model.set_rt_info(metadata.to_json(), ["resnext_det"])
    openvino.save_model(model, path, compress_to_fp16=False)
    assert ExportedDetector(path).class_names == NAMES
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.xml is damaged: the checksum"):
        ExportedDetector(path)


def test_backends(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"'folded' does not run .*one of {', '.join(BACKENDS)}"):
        ExportedDetector(model, backend="folded")
    with pytest.raises(ValueError, match=r"ends in \.onnx or \.xml"):
        ExportedDetector(tmp_path / "model.pth")
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(FileNotFoundError, match=r"with the weights of model\.xml .*model\.bin is"):
        ExportedDetector(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_bytes(bytes(9))
    with pytest.raises(ValueError, match=r"onnxruntime does not run .*; write backend openvino"):
        ExportedDetector(tmp_path / "model.xml", backend="onnxruntime")
    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"\[onnx\]', or, .* without torch, pip install onnxruntime"
    ):
        ExportedDetector(model)
    with pytest.raises(ValueError, match=r"model\.onnx is run by .* not installed \(openvino\);"):
        ExportedDetector(model, backend="openvino")


def test_numbers_become_names(tmp_path: Path) -> None:
    """Only where the file has no names, other ones can be given."""
    numbers = write_model(
        tmp_path / "a.onnx", describe(class_names=["class 0", "class 1", "class 2"])
    )
    assert ExportedDetector(numbers).choose_class_names(["a", "b", "c"]) == ("a", "b", "c")
    with pytest.raises(ValueError, match="there are 2 class names"):
        ExportedDetector(numbers).choose_class_names(["a", "b"])
    named = ExportedDetector(write_model(tmp_path / "b.onnx"))
    assert named.choose_class_names() == named.choose_class_names(NAMES) == NAMES
    with pytest.raises(ValueError, match=r"but the file .*b\.onnx is of a detector of nut, bolt"):
        named.choose_class_names(["a", "b", "c"])


def test_inspect_tells_what_a_file_is(model: Path, tmp_path: Path) -> None:
    """Without torch; one that fails does not stop the others."""
    done = run_without_torch(model.parent, "inspect", model.name)
    assert done.returncode == 0 and done.stderr == ""
    assert " ".join(done.stdout.split()) == (
        "✓ model.onnx a detector that resnext-det 0.2.0 exported network X-26-8x4d, FPN size 0.0 "
        "MB classes nut, bolt, screw images shorter side 64 pixels, longer at most 96 detections "
        "at most 100 an image, of score 0.05 or more runs by onnxruntime detect "
        "resnext-det predict model.onnx photos/"
    )
    done = run_without_torch(tmp_path, "inspect", "none.onnx", str(model), "--json")
    bad, good = json.loads(done.stdout)
    assert done.returncode == 1 and "1 of 2 files cannot be used: none.onnx" in done.stderr
    assert set(bad) == set(good) and not bad["usable"] and "is not there" in bad["error"]
    given = {
        key: list(value) if key == "class_names" else value for key, value in DESCRIPTION.items()
    }
    assert good["usable"] and {key: good[key] for key in given} == given
    assert good["kind"] == "exported detector" and good["mask_size"] == 0
    file = write_model(tmp_path / "masks.onnx", **WITH_MASKS)
    told = describe_exported(str(file))
    assert told["mask_size"] == 28
    page = " ".join(format_exported(told, Look()).split())
    assert "of score 0.05 or more, with masks of 28 x 28 cells runs by" in page


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--fit-config"], "--fit-config"),
        (["--config-file", "tiny.yaml"], "--config-file"),
        (["--preprocessing", "fair"], "--preprocessing"),
        (["MODEL.DEVICE", "cpu"], "MODEL.DEVICE cpu"),
        (["MODEL.WEIGTHS"], "MODEL.WEIGTHS"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_what_cannot_be_changed_is_refused(
    words: list[str], flag: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tool("predict", model, tmp_path, *words) == 1
    assert read_error(capsys) == (
        f"{flag} cannot change {model}, whose configuration was fixed when it was exported; leave "
        "it out, or export the detector anew with it\n"
    )


def test_another_type_is_a_matter_of_the_export(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tool("predict", model, tmp_path, "--dtype", "int8") == 1
    told = read_error(capsys)
    assert told.startswith(f"--dtype cannot change {model}, which computes in the type that it was")
    assert "export the detector anew with --int8, or run its checkpoint" in told


def test_the_backend_can_be_chosen(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    draw(tmp_path / "photos" / "a.png")
    given = (model, tmp_path / "photos", "--output", tmp_path / "out", "--backend")
    assert run_tool("predict", *given, "openvino") == 0
    assert "on 1 images" in capsys.readouterr().out
    assert run_tool("predict", *given, "folded") == 1
    assert "the backend 'folded' does not run exported files; write one of" in read_error(capsys)
