"""Reads a written report: its HTML, the files it would load, and the data of its class browser."""

import base64
import dataclasses
import html.parser
import json
import re

import numpy as np

from redundancy import storage

_VOID = {"meta", "link", "img", "br", "input"}
_KINDS = {"<u2": np.uint16, "<u4": np.uint32, "<f4": np.float32}


class Page(html.parser.HTMLParser):
    """The page's text, its images by role, and what it would load; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.loads, self.ids, self.json = [], [], [], [], [], {}
        self.images = {"kept": set(), "dropped": set(), "outside": set(), "leading": set()}
        self.styled = self.handlers = 0
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.loads += [values[name] for name in ("src", "href", "xlink:href", "action") if values.get(name)]
        self.styled += "style" in values
        self.handlers += any(name.startswith("on") for name in values)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "img":
            assert values["alt"]
            self.images[values["alt"].split()[0]].add(int(values["data-position"]))
        if tag not in _VOID:
            self.open.append((tag, values.get("id") or "", values.get("type") or ""))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, identity, kind = self.open[-1] if self.open else ("", "", "")
        if kind == "application/json":
            self.json[identity] = json.loads(data)
        elif tag not in ("style", "script"):
            self.text.append(data)

    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))


def read_page(workdir):
    """The parsed page of a report; fails where it would load anything, leads to a missing file, or has an id twice."""
    text = storage.read_bytes(storage.join(workdir.report, "index.html")).decode()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids)), "an id occurs twice"
    for target in page.loads:
        name = r"(kept|dropped)-\d\.\d{4}\.txt|results\.csv|figures/[\w-]+\.(svg|pdf|png)"
        beside = re.fullmatch(name, target) and storage.exists(storage.join(workdir.report, target))
        if view := re.fullmatch(r"#view\?class=(\d+)(&image=\d+)?", target):
            assert f"class-{view[1]}" in page.ids or int(view[1]) in {
                each["label"] for each in page.json["index"]["classes"]
            }
            continue
        assert target.startswith(("#", "data:")) or beside, target
        assert not target.startswith("#") or target[1:] in page.ids, target
    assert not re.search(r"url\((?!#)|@import", text)
    assert not page.styled, "the page's policy forbids style attributes"
    assert not page.handlers
    assert page.tags.count("script") == 1 + len(page.json), "a script that the page does not mean"
    return page


@dataclasses.dataclass
class Group:
    """One group of a class: positions, the kept one first."""

    positions: list[int]
    distances: np.ndarray
    height: float
    pictured: bool
    outside: int | None = None
    outside_distance: float = np.nan
    own: float = np.nan
    second: float = np.nan

    @property
    def spread(self):
        return float(self.distances.max())


@dataclasses.dataclass
class Class:
    """A class of the browser: groups by fraction, and positions that have a picture."""

    name: str
    images: int
    kept: dict[float, int]
    groups: dict[float, list[Group]]
    pictures: dict[int, bytes]
    has_merges: bool
    files: dict[int, str]


def read_class(raw):
    """The class that a JSON text holds."""

    def unpack(text, kind):
        return np.frombuffer(base64.b64decode(text), _KINDS[kind])

    index, positions = raw["index"], unpack(raw["positions"], "<u4")
    groups = {}
    for cut in raw["cuts"]:
        rows, sizes = unpack(cut["rows"], index), unpack(cut["sizes"], index).astype(int)
        distances, heights = unpack(cut["distances"], "<f4"), unpack(cut["heights"], "<f4")
        outside, numbers = (
            unpack(cut["outside"], index),
            [unpack(cut[name], "<f4") for name in ("outside_distance", "own", "second")],
        )
        found, start = [], 0
        for number, size in enumerate(sizes):
            part = slice(start, start + size)
            group = Group(
                positions[rows[part]].tolist(), distances[part], float(heights[number]), number < cut["pictured"]
            )
            if group.pictured:
                if outside[number] < len(positions):
                    group.outside = int(positions[outside[number]])
                group.outside_distance, group.own, group.second = (float(values[number]) for values in numbers)
            found.append(group)
            start += size
        groups[cut["fraction"]] = found
    pictured = positions[unpack(raw["pictures"]["rows"], index)].tolist()
    pictures = {
        position: base64.b64decode(data) for position, data in zip(pictured, raw["pictures"]["data"], strict=True)
    }
    kept = {cut["fraction"]: cut["kept"] for cut in raw["cuts"]}
    files = {}
    if named := raw.get("files"):
        rows = positions[unpack(named["rows"], index)].tolist()
        files = {position: named["prefix"] + name for position, name in zip(rows, named["names"], strict=True)}
    return Class(raw["name"], raw["images"], kept, groups, pictures, "merges" in raw, files)


def read_classes(workdir):
    """Label -> class of a written report, whether on the page or in files beside it."""
    page = read_page(workdir)
    found = {}
    for entry in page.json.get("index", {"classes": []})["classes"]:
        if "file" in entry:
            text = storage.read_bytes(storage.join(workdir.report, entry["file"])).decode()
            assert text.startswith("redundancyClass({")
            raw = json.loads(text.removeprefix("redundancyClass(").removesuffix(");\n"))
        else:
            raw = page.json[f"class-{entry['label']}"]
        found[entry["label"]] = read_class(raw)
    return found


def groups_of(subset, label):
    """Groups of two or more of a class in a subset file: kept position -> set of its group's positions."""
    found = {}
    for group in np.unique(subset.group[(subset.labels == label) & ~subset.kept]):
        members = subset.group == group
        found[int(subset.positions[members & subset.kept][0])] = set(subset.positions[members].tolist())
    return found
