"""Make the folder of a run without training one, and read a page as a browser does."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.detection.helpers import FPN

Sets = dict[str, tuple[Path, Path]]
_EMPTY = {"meta", "link", "img", "br", "hr", "input"}


def find_objects(annotations: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Make results of a detector that finds most objects, some twice, and some that are not."""
    content, random = json.loads(annotations.read_text()), np.random.default_rng(seed)
    classes = [category["id"] for category in content["categories"]]
    found = []
    for entry in content["annotations"]:
        if random.random() < 0.2:
            continue
        near = np.array(entry["bbox"]) + random.normal(0, 1.5, 4)
        right = random.random() < 0.8
        category = entry["category_id"] if right else int(random.choice(classes))
        found.append((entry["image_id"], category, near, random.uniform(0.4, 1)))
    for image in content["images"]:
        found.append((image["id"], classes[0], random.uniform(5, 30, 4), random.uniform(0, 0.6)))
    return [
        {
            "image_id": image,
            "category_id": category,
            "bbox": np.maximum(box, 1).tolist(),
            "score": float(score),
        }
        for image, category, box, score in found
    ]


def write_run(folder: Path, sets: Sets, *, seed: int = 0, trained: bool = True) -> Path:
    """Write the folder of a run on tiny_train and tiny_val, as a training or a test leaves it."""
    (folder / "inference").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**FPN, "SEED": seed, "VERSION": 2}))
    results = find_objects(sets["tiny_val"][0], seed)
    (folder / "inference" / "coco_instances_results.json").write_text(json.dumps(results))
    if not trained:
        return folder
    lines = [
        {
            "iteration": 4,
            "total_loss": 2.5,
            "loss_cls": 1.5,
            "loss_box_reg": 1.0,
            "lr": 0.02,
            "time": 0.5,
            "data_time": 0.3,
        },
        {
            "iteration": 9,
            "total_loss": 1.5,
            "loss_cls": 0.5,
            "loss_box_reg": None,
            "lr": 0.002,
            "time": 0.4,
            "data_time": 0.2,
            "bbox/AP": 31.5,
            "bbox/AP50": 60.0,
        },
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"iteration": 14, "tot'
    (folder / "metrics.json").write_text(text)
    (folder / "last_checkpoint").write_text("model_final.pth")
    (folder / "model_final.pth").write_bytes(b"weights")
    return folder


class Page(HTMLParser):
    """Read a page: text, rows of tables, ids, links, headings; an unclosed tag is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.ids, self.links, self.headings = "", [], [], []
        self.sources: list[str] = []
        self.images: list[str] = []
        self.tags: Counter[str] = Counter()
        self.rows: list[list[str]] = []  # of all tables
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.tags[tag] += 1
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given and tag == "a" else []
        self.sources += [given[name] for name in ("src", "srcset", "action") if name in given]
        if tag == "img":
            assert given.get("alt")
            self.images.append(given["alt"])
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in _EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"{tag} closes {self._open[-3:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data
        if {"td", "th"} & {*self._open}:
            self.rows[-1][-1] += data


def check_page(html: str) -> Page:
    """Check that a page stands alone, is well formed, and can be read by everybody."""
    page = Page(html)
    assert len(page.ids) == len(set(page.ids)), "an id stands twice"
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert not {*page.tags} & {"script", "link", "iframe", "object"}
    assert all(source.startswith("data:") for source in page.sources)
    assert "url(http" not in html and "@import" not in html
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:]))
    return page
