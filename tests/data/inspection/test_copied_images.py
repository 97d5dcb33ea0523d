"""Image files of the same content are found under whatever names."""

from __future__ import annotations

from pathlib import Path

from resnext_det.data.inspection.copied_images import find_copied_images


def test_files_of_the_same_bytes_are_one_group(tmp_path: Path) -> None:
    contents = {
        "a": b"1" * 9000,
        "b": b"2" + b"1" * 8999,  # the same size and end
        "c": b"1" * 9000,
        "d": b"3" * 9000,
        "e": b"1" * 8000,
        "f": b"1" * 8000,
        "g": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    names = ["a", "b", "./a", "missing", "c", "d", "e", "f", "g"]
    paths = [f"{tmp_path}/{name}" for name in names]
    assert find_copied_images(paths) == ([[0, 4], [6, 7]], True)
    assert find_copied_images(paths, seconds=-1) == ([], False)
    assert find_copied_images([]) == ([], True)
