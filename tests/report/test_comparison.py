"""Several runs on one page: the numbers are COCO's, and what differs is said and shown."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from resnext_det.architecture import Architecture
from resnext_det.config.backbone import write_architecture
from resnext_det.evaluation.analysis import compare_detections
from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.report.run_groups import format_signed, format_signed_interval
from resnext_det.report.tables import format_cell
from resnext_det.report.write import write_report
from tests.evaluation.helpers import add_masks, random_set
from tests.report.helpers import check_page
from tests.tools.helpers import run_tool

SET = "cells"
MACHINE = {"cpu": "", "processors": 1, "threads": 1, "capability": "", "versions": {}}
RECORD = {"began": "", "command": "", "processes": 1, "machine": MACHINE}


def degrade(results: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """Results of which a share is somewhere else."""
    generator = np.random.default_rng(3)
    moved = [{**each, "bbox": [x + 90 for x in each["bbox"]]} for each in results]
    return [m if generator.random() < share else r for m, r in zip(moved, results, strict=True)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of two of the paper's networks with two seeds each, on a random set with images."""
    root = tmp_path_factory.mktemp("runs")
    annotations, results = random_set(5, images=8, noise=2)
    for image in annotations["images"]:
        image.update(file_name=f"{image['id']}.png", width=480, height=480)
        cv2.imwrite(str(root / image["file_name"]), np.full((480, 480, 3), 128, np.uint8))
    file = root / "annotations.json"
    file.write_text(json.dumps(annotations))
    found = {"set": file}
    for network, share in (("R-50-1x64d", 0.5), ("X-50-32x4d", 0.1)):
        for seed in (0, 1):
            folder = root / "out" / network / f"seed_{seed}"
            (folder / "inference").mkdir(parents=True)
            config = {
                "MODEL": {
                    "RESNETS": write_architecture(Architecture.parse(network)),
                    "WEIGHTS": "R.pth",
                    "LOAD_PROPOSALS": False,
                },
                "DATASETS": {"TRAIN": [SET], "TEST": [SET]},
                "SOLVER": {"MAX_ITER": 20, "BASE_LR": 0.02},
                "OUTPUT_DIR": str(folder),
                "SEED": seed,
            }
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            detections = degrade(results, share + 0.05 * seed)
            path = folder / "inference" / "coco_instances_results.json"
            path.write_text(json.dumps(detections))
            metrics = evaluate_coco(file, path)
            (folder / "inference" / "metrics.json").write_text(
                json.dumps({"AP": metrics.AP, "AP50": metrics.AP50})
            )
            lines = [
                {"iteration": i, "total_loss": 3.0 - i / 10, "bbox/AP": i}
                | {"time": 0.25, "peak_memory_mib": 3072 + i}
                for i in (9, 19)
            ]
            (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
            found[f"{network}/{seed}"] = folder
    return found


def render(folders: dict[str, Path], *names: str) -> str:
    file = folders["set"]
    page = write_report(
        [folders[name] for name in names],
        file.parent / "compared.html",
        datasets=[(SET, str(file), str(file.parent))],
    )
    return page.read_text()


def read_AP(folders: dict[str, Path], name: str) -> float:
    content = json.loads((folders[name] / "inference" / "metrics.json").read_text())
    return float(content["AP"])


def test_two_runs(folders: dict[str, Path]) -> None:
    page = render(folders, "R-50-1x64d/0", "X-50-32x4d/0")
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page))
    r, x = (read_AP(folders, name) for name in ("R-50-1x64d/0", "X-50-32x4d/0"))
    assert f"AP {x:.1f} against {r:.1f}, a difference of {x - r:.1f} points" in text
    assert "over images" in text and "MODEL.RESNETS.NUM_GROUPS" in text
    assert "Table 8 of the paper" in text and "49.7" in text  # AP50 of X-50-32x4d there
    assert page.count("data:image/jpeg") >= 4
    assert re.search(r"R-50-1x64d/seed_0 0\.25 3\.02 ", text)  # seconds and GiB
    assert "missed by the first" not in page  # it is drawn, not written
    assert len(page) < 1_000_000


def test_two_runs_are_compared_by_masks_too(folders: dict[str, Path], tmp_path: Path) -> None:
    """Masks have tables of their own, with the intervals of their differences."""
    names = ("R-50-1x64d/0", "X-50-32x4d/0")
    copies = {name: Path(shutil.copytree(folders[name], tmp_path / name)) for name in names}
    content = json.loads(folders["set"].read_text())
    files = [copies[name] / "inference" / "coco_instances_results.json" for name in names]
    found = [json.loads(file.read_text()) for file in files]
    for number, results in enumerate(found):
        add_masks(content, results, number)
        files[number].write_text(json.dumps(results))
    for image in content["images"]:
        pixels = np.full((image["height"], image["width"], 3), 128, np.uint8)
        cv2.imwrite(str(tmp_path / image["file_name"]), pixels)
    copies["set"] = tmp_path / "annotations.json"
    copies["set"].write_text(json.dumps(content))
    expected = compare_detections(copies["set"], *files).segm
    assert expected is not None
    AP = expected.numbers["AP"]
    for file, value in zip(files, (AP.first, AP.second), strict=True):
        numbers = file.with_name("metrics.json")
        numbers.write_text(json.dumps(json.loads(numbers.read_text()) | {"segm-AP": value}))
    page = check_page(render(copies, *names))
    interval = format_signed_interval(AP.interval)
    of_masks = [f"{AP.second:.1f}", format_signed(AP.difference), interval]
    assert [row[-3:] for row in page.rows if row[-1] == interval and len(row) > 5] == [of_masks]
    rows = [row for row in page.rows if row[0] in expected.numbers]
    assert len(rows) == 24 and page.text.count("Of masks") == 2
    for name, *cells in rows[12:]:
        number = expected.numbers[name]
        shown = [format_cell(number.first), format_cell(number.second)]
        shown += [format_signed(number.difference), format_signed_interval(number.interval)]
        assert cells == ["\u2013" if "nan" in str(cell) else cell or "\u2013" for cell in shown]


def test_two_seeds_of_each(folders: dict[str, Path]) -> None:
    names = [f"{network}/{seed}" for network in ("R-50-1x64d", "X-50-32x4d") for seed in (0, 1)]
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", render(folders, *names)))
    r, x = ([read_AP(folders, name) for name in names[i : i + 2]] for i in (0, 2))
    assert f"AP {np.mean(x):.1f} against {np.mean(r):.1f}" in text
    assert "over 2 and 2 seeds" in text
    assert f"{np.mean(r):.1f} ± {np.std(r, ddof=1):.1f}" in text


def test_seeds_of_one_training(folders: dict[str, Path]) -> None:
    page = render(folders, "R-50-1x64d/0", "R-50-1x64d/1")
    assert "These 2 runs repeat one training with other seeds: AP " in page


def test_a_run_without_detections_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    names = ("R-50-1x64d/0", "X-50-32x4d/0")
    copies = dict(folders)
    for name in names:
        copy = tmp_path / name
        (copy / "inference").mkdir(parents=True)
        for file in ("config.yaml", "metrics.json", "inference/metrics.json"):
            (copy / file).write_bytes((folders[name] / file).read_bytes())
        copies[name] = copy
    page = render(copies, *names)
    assert "are not compared by image" in page and "nothing says how sure that is" in page


def test_what_a_run_lacks_for_its_AP_is_told_with_a_command(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    names = ("R-50-1x64d/0", "X-50-32x4d/0")
    copies = dict(folders)
    for name in names:
        copies[name] = Path(shutil.copytree(folders[name], tmp_path / name))
    numbers = copies[names[1]] / "inference" / "metrics.json"
    numbers.unlink()
    text = check_page(render(copies, *names)).text
    assert "There is no AP of X-50-32x4d/0, so nothing says which is better. " in text
    (command,) = re.findall(r"write it by resnext-det evaluate (.*)\.\n", text)
    assert run_tool("evaluate_coco", *command.split()) == 0
    assert "a difference of" in check_page(render(copies, *names)).text


def test_runs_that_were_not_tested_alike_are_told(folders: dict[str, Path], tmp_path: Path) -> None:
    names = ("R-50-1x64d/0", "X-50-32x4d/0")
    copies = dict(folders)
    for name, threshold, limit in zip(names, (0.05, 0.5), (20, 300), strict=True):
        copies[name] = Path(shutil.copytree(folders[name], tmp_path / name))
        config = yaml.safe_load((copies[name] / "config.yaml").read_text())
        config["MODEL"]["ROI_HEADS"] = {"SCORE_THRESH_TEST": threshold}
        config["TEST"] = {"DETECTIONS_PER_IMAGE": min(limit, 100)}
        (copies[name] / "config.yaml").write_text(yaml.safe_dump(config))
        file = copies[name] / "inference" / "metrics.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"max_detections": max(limit, 100)}))
    text = check_page(render(copies, *names)).text
    assert (
        "not tested alike: MODEL.ROI_HEADS.SCORE_THRESH_TEST is 0.05, 0.5; "
        "TEST.DETECTIONS_PER_IMAGE is 20, 300." in text
    )
    assert "not tested alike" not in check_page(render(folders, *names)).text


def test_sets_of_one_name_are_not_compared(folders: dict[str, Path], tmp_path: Path) -> None:
    names = ("R-50-1x64d/0", "R-50-1x64d/1")
    for number, name in enumerate(names):
        file = tmp_path / f"{number}.json"
        file.write_text(folders["set"].read_text() + " " * number)
        shutil.copytree(folders[name], tmp_path / str(number))
        environment = {**RECORD, "sets": {SET: [str(file), str(file.parent)]}}
        (tmp_path / str(number) / "environment.json").write_text(json.dumps(environment))
    page = write_report([tmp_path / "0", tmp_path / "1"], tmp_path / "page.html").read_text()
    assert f"tested on different sets of the name {SET}" in page
    assert "±" not in page and "AP of the trainings" not in page
