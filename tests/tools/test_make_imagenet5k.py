"""The command that lists ImageNet-5K."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from resnext_det.data.images import imagenet5k
from resnext_det.data.images.catalog import open_image_set
from tests.data.images.helpers import (
    classes_of_images,
    expected,
    holdings,
    nested,
    tree,
    write_files,
)
from tests.tools.helpers import finish, fork_tool, load_tool, run_tool

run = partial(run_tool, "make_imagenet5k")
FULL = classes_of_images(["n01", "n02", "n03"]) | classes_of_images(["n04"], per_class=2)


def test_from_archives_in_a_process_of_its_own(tmp_path: Path) -> None:
    write_files(tmp_path, {"full.tar": nested(FULL), "train.tar": nested({"n04": FULL["n04"]})})
    arguments = "--imagenet full.tar --imagenet1k train.tar --output imagenet5k --classes 3"
    output, _ = finish(fork_tool("make_imagenet5k", *arguments.split(), cwd=tmp_path))
    assert output.splitlines() == [
        "imagenet5k: 8 images of 3 classes",
        "the 2 classes besides ImageNet-1K's 1 have from 3 to 3 images each",
        "note: ImageNet-1K has 1000 classes, and 1 were given",
    ]
    found = open_image_set("imagenet5k_train", root=tmp_path)
    assert found.class_names == ("n04", "n01", "n02")
    assert holdings(found) == expected({name: FULL[name] for name in found.class_names})


def test_from_folders_and_a_list_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path / "full", {**tree(FULL), "n05/readme.txt": b"no image"})
    (tmp_path / "synsets.txt").write_text(
        "n03 hammerhead, hammerhead shark\nn01 tench, Tinca tinca\n"
    )
    common = ["--imagenet", tmp_path / "full", "--imagenet1k", tmp_path / "synsets.txt"]
    assert run(*common, "--output", tmp_path / "imagenet5k", "--classes", 3) == 0
    assert "8 images" not in capsys.readouterr().err
    assert open_image_set("imagenet5k_train", root=tmp_path).class_names == ("n01", "n03", "n02")
    assert run(*common, "--output", tmp_path / "imagenet5k", "--classes", 3) == 1
    assert capsys.readouterr().err.startswith(
        f"error: {tmp_path}/imagenet5k holds a list already; remove"
    )
    assert run(*common, "--output", tmp_path / "other") == 1
    assert "error: 5000 classes cannot be had: 2 are ImageNet-1K's" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_classes_that_the_full_set_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = classes_of_images(["n01", "n09"], per_class=1)
    write_files(tmp_path / "full", tree(FULL))
    write_files(tmp_path / "small", tree(small))
    (tmp_path / "classes.txt").write_text("n01\nn09\n")
    common = ["--imagenet", tmp_path / "full", "--classes", 3, "--output", tmp_path / "imagenet5k"]
    assert run(*common, "--imagenet1k", tmp_path / "classes.txt") == 1
    assert (
        "no images of 1 of the 2 classes of ImageNet-1K: n09; give the" in capsys.readouterr().err
    )
    assert run(*common, "--imagenet1k", tmp_path / "small") == 0
    assert (
        "from ImageNet-1K's training images, since the full set lacks them: n09"
        in capsys.readouterr().out
    )
    found = open_image_set("imagenet5k_train", root=tmp_path)
    assert holdings(found) == expected(
        {"n01": FULL["n01"], "n02": FULL["n02"], "n09": small["n09"]}
    )


def test_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for full, small in (("none", "classes.txt"), ("none", "none/train")):
        (tmp_path / "classes.txt").write_text("n01\n")
        given = ("--imagenet", tmp_path / full, "--imagenet1k", tmp_path / small)
        assert run(*given, "--output", tmp_path / "o") == 1
        assert "there is no such path; give a folder of class folders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "note"),
    [
        (6_800_000, None),
        (7_100_000, None),
        (3_400_000, "6.8 million images for 5000 classes, and this is 50% less"),
        (13_600_000, "6.8 million images for 5000 classes, and this is 100% more"),
    ],
)
def test_a_number_far_from_the_papers_is_said(images: int, note: str | None) -> None:
    names = tuple(f"n{i:04d}" for i in range(5000))
    choice = imagenet5k.Choice(names, (images - 4999, *[1] * 4999), ())
    lines = load_tool("make_imagenet5k")["report"](choice, 1000, Path("out")).splitlines()
    assert lines[0] == f"out: {images:,} images of 5000 classes"
    assert (len(lines) == 2) if note is None else note in lines[2]
