"""Archives that are cut short, damaged, compressed or hostile are refused; others are walked."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext_det.data.images.archives import index_archive
from tests.data.images.helpers import classes_of_images, jpeg, member, nested, tar_bytes, tree

CLASSES = classes_of_images(["cat", "dog"])


@pytest.mark.parametrize("kind", ["tree", "archives"])
def test_an_archive_that_is_cut_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    content = tar_bytes(tree(CLASSES)) if kind == "tree" else nested(CLASSES)
    path = tmp_path / "cut.tar"
    path.write_bytes(content)
    whole = len(content.rstrip(b"\0"))
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512  # where the end mark begins
    assert whole <= end
    for length in {*range(1, end, 333), *range(512, end, 512), end, end + 511}:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.tar"):
            index_archive(path)
    path.write_bytes(content[: end + 512])
    assert len(index_archive(path)) == 6


def test_an_archive_without_its_end_mark_can_be_given_one(tmp_path: Path) -> None:
    content, path = tar_bytes({"cat/1.jpg": bytes(512)}), tmp_path / "a.tar"
    path.write_bytes(content[:1024])
    with pytest.raises(
        ValueError, match=rf"end mark is missing; .*head -c 1024 /dev/zero >> {path}\)"
    ):
        index_archive(path)
    path.write_bytes(content[:1024] + bytes(1024))
    assert len(index_archive(path)) == 1


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [member("c/l.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
            r"c/l\.jpg is a link; .*--hard-deref",
        ),
        ([member("c/l.jpg", type=tarfile.LNKTYPE, linkname="x")], r"c/l\.jpg is a link"),
        ([member("c/d.jpg", type=tarfile.CHRTYPE)], r"c/d\.jpg is no plain file"),
        ([member("c/f.jpg", type=tarfile.FIFOTYPE)], r"c/f\.jpg is no plain file"),
        ([member("../../c/1.jpg", jpeg(0))], r"\.\./\.\./c/1\.jpg points out of the archive"),
        (
            [member("c/s.jpg", bytes(9), pax_headers={"GNU.sparse.map": "0,9"})],
            r"c/s\.jpg is no plain file",
        ),
        ([member("n.tar", type=tarfile.SYMTYPE, linkname="x")], r"n\.tar is a link"),
        (
            [member("n.tar", b"<html>404</html>" * 99)],
            r"bad\.tar/n\.tar is no tar archive, or is damaged",
        ),
        (
            [member("n.tar", tar_bytes({"m.tar": tar_bytes({"1.jpg": jpeg(0)})}))],
            r"bad\.tar/n\.tar holds an archive, m\.tar, where images are expected",
        ),
    ],
)
def test_members_that_are_no_plain_images_are_refused(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], message: str
) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(tar_bytes([member("c/0.jpg", jpeg(0)), *members], tarfile.PAX_FORMAT))
    with pytest.raises(ValueError, match=message):
        index_archive(path)


def test_members_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    others = [
        member("c", type=tarfile.DIRTYPE),
        member("c/d.jpg/", type=tarfile.DIRTYPE),
        member("c/link", type=tarfile.SYMTYPE, linkname="x"),
        member("c/null", type=tarfile.CHRTYPE),
        member("../readme.txt", b"x"),
    ]
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([*others, member("/c/0.jpg", jpeg(0)), *others]))
    found = index_archive(path)
    assert [found.locate(i) for i in range(len(found))] == [f"{path}/c/0.jpg"]


@pytest.mark.parametrize("name", ["c/1.jpg", "c/1.txt"])
@pytest.mark.parametrize("size", [-512, -1, -1_000_000, 1 << 40, 1 << 62])
def test_impossible_sizes_are_refused(tmp_path: Path, name: str, size: int) -> None:
    information, _ = member(name)
    information.size = size
    header = information.tobuf(tarfile.GNU_FORMAT)
    path = tmp_path / "bad.tar"
    path.write_bytes(tar_bytes({"c/0.jpg": bytes(512)})[:1024] + header + bytes(20_000))
    with pytest.raises(
        ValueError, match=r"archive .*bad\.tar is damaged or cut short: .*; copy or download it"
    ):
        index_archive(path)


@pytest.mark.parametrize(
    ("compress", "command"),
    [(gzip.compress, "gunzip"), (bz2.compress, "bunzip2"), (lzma.compress, "unxz")],
)
def test_compressed_archives_are_refused_whatever_they_are_called(
    tmp_path: Path, compress: Any, command: str
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(compress(tar_bytes(tree(CLASSES))))
    with pytest.raises(
        ValueError, match=rf"a\.tar is compressed, .* decompress it once \({command} {path}\)"
    ):
        index_archive(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ValueError, match=rf"a zip, .* \(unzip {path} -d FOLDER\) and give the fo"):
        index_archive(path)
    plain = tmp_path / "plain.tar.gz"
    plain.write_bytes(tar_bytes(tree(CLASSES)))
    assert len(index_archive(plain)) == 6


@pytest.mark.parametrize("content", [b"", b"x", b"<html>404</html>" * 200, jpeg(0)])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"a\.tar is no tar archive, or is damaged \(.+\); give an uncompressed"
    ):
        index_archive(tmp_path / "a.tar")


def test_random_damage_of_headers_never_hangs_or_crashes(tmp_path: Path) -> None:
    """With a checksum made to fit, an archive is either refused or gives images within it."""
    random = np.random.RandomState(0)
    whole = tar_bytes({f"c/{i}.jpg": jpeg(i) for i in range(3)})
    path = tmp_path / "a.tar"
    path.write_bytes(whole)
    with tarfile.open(path) as tar:
        begins = [information.offset for information in tar]
    values = [*b"01234567 ", 0, 0x80, 0xFF]
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        begin = begins[random.randint(3)]
        header = content[begin : begin + 512]
        for place in random.choice([*range(100, 136), 156], 2):
            header[place] = random.choice(values)
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
        content[begin : begin + 512] = header
        path.write_bytes(content)
        path.with_name("a.tar.index.npz").unlink(missing_ok=True)
        try:
            index_archive(path).check()
        except ValueError as error:
            refused += 1
            assert "a.tar" in str(error)
    assert 5 < refused < 200
