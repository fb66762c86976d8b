"""The data of the page's class browser: one JSON text for each class, within a budget of bytes.

Numbers are base64 of little-endian arrays. As many groups as the budget allows have pictures; the others are listed by
position. If one file would grow too large, each class gets its own file, which the page loads on demand.
"""

import base64
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from redundancy.linkage.complete import Merges
from redundancy.report import classes, images
from redundancy.report.classes import Cut

# Bytes above which each class gets its own file, and the most bytes of such a file.
PAGE_BYTES = 8_800_000
CLASS_BYTES = 1_500_000
# Pictures of all classes together, which take minutes to read and compress; or so many of each class, if that is more; and
# the most in any case.
_MOST_PICTURES, _LEAST_OF_CLASS, _ALL_PICTURES = 24_000, 64, 128_000
# Bytes of all pictures in classes' own files above which they are stored with loss.
LOSSLESS_BYTES = 64_000_000
# Bytes of all names above which no file of them is written.
NAMES_BYTES = 32_000_000
# Bytes for figures, tables and script.
_REST_BYTES = 500_000
# If one file has no room for this many pictures of each class, each class gets its own file.
FEW_PICTURES = 48
_GROUP_IMAGES = 24
_SAMPLE = 48
# Share of a class's pictures that shows members of groups; the rest shows neighbours outside of them.
_MEMBERS = 0.8


@dataclasses.dataclass(frozen=True)
class ClassData:
    """One class before pictures are chosen.

    Attributes:
      label, name: of the class.
      positions: [n] int64 ascending, all its images.
      cuts: its groups at each fraction, descending.
      merges: of the class, or None.
      files: n names of the images, which are mostly their files, or None.
    """

    label: int
    name: str
    positions: np.ndarray
    cuts: Sequence[Cut]
    merges: Merges | None
    files: Sequence[str] | None = None

    @property
    def rows(self) -> np.ndarray:
        """Rows, ascending, of the images that are in a redundant group of any fraction."""
        return np.unique(np.concatenate([of.rows for of in self.cuts]))

    @property
    def index_type(self) -> str:
        """The integers that hold a row, a size or a merge of the class."""
        return "<u2" if len(self.positions) + len(self.merges or ()) < 2**16 - 1 else "<u4"

    @property
    def prefix(self) -> str:
        """What all names begin with."""
        return os.path.commonprefix(list(self.files or ()))  # noqa: RUF071 (characters are meant)

    @property
    def name_bytes(self) -> int:
        """Length of its names in its text."""
        start = len(self.prefix)
        return sum(len(to_text(self.files[row][start:])) + 1 for row in self.rows.tolist()) if self.files else 0

    @property
    def bytes(self) -> float:
        """Approximate length of its text without pictures."""
        width = int(self.index_type[-1])
        numbers = 4 * len(self.positions) + (2 * width + 4) * len(self.merges or ())
        numbers += sum((width + 4) * len(of.rows) + (width + 4) * len(of.sizes) for of in self.cuts)
        return 4 / 3 * numbers + self.name_bytes + 1000


@dataclasses.dataclass(frozen=True)
class Plan:
    """How classes are stored: whether all on the page, the kind of pictures (`images.KINDS`), mean bytes of a picture in
    base64, and most pictures by label."""

    one_file: bool
    kind: str
    picture_bytes: float
    most_pictures: Mapping[int, int]


def share_out(wanted: Mapping[int, int], total: int) -> dict[int, int]:
    """Shares `total` evenly; a label that wants less than an even share gets what it wants."""
    shares, left = {}, total
    for number, label in enumerate(sorted(wanted, key=lambda label: (wanted[label], label))):
        shares[label] = min(wanted[label], left // (len(wanted) - number))
        left -= shares[label]
    return shares


def most_pictures(classes: int) -> int:
    """Pictures of so many classes together, where each has a file of its own."""
    return min(max(_MOST_PICTURES, _LEAST_OF_CLASS * classes), _ALL_PICTURES)


def plan(found: Sequence[ClassData], sample: Sequence[np.ndarray]) -> Plan:
    """Decides between one file and many, and how many pictures each class gets.

    Args:
      found: the classes that have redundant groups.
      sample: some of their images, uint8 [H, W, C].
    """
    # A kept image's nearest image outside its group is often, but not always, in another group.
    grouped = {of.label: len(of.rows) for of in found}
    wanted = {of.label: min(len(of.positions), grouped[of.label] * 5 // 4 + 1) for of in found}
    total = sum(wanted.values())
    room = PAGE_BYTES - _REST_BYTES - sum(of.bytes for of in found)
    kind, each = images.choose_kind(sample, total, room)
    one_file = room >= each * min(total, FEW_PICTURES * len(found))
    if one_file:
        return Plan(True, kind, each, share_out(wanted, min(int(room / max(each, 1.0)), _MOST_PICTURES)))
    most = most_pictures(len(found))
    kind, each = images.choose_kind(sample, min(total, most), LOSSLESS_BYTES)
    room_of_class = int(CLASS_BYTES / max(each, 1.0))
    shares = share_out({label: min(count, room_of_class) for label, count in wanted.items()}, most)
    return Plan(False, kind, each, shares)


def _pack(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def describe(
    of: ClassData,
    main: int,
    planned: Plan,
    embeddings: np.ndarray | None,
    *,
    rule: str,
    most_groups: int,
    seed: int,
) -> tuple[dict[str, Any], np.ndarray]:
    """A class as JSON without pictures, and the ascending positions of the images that get pictures.

    Args:
      of: the class.
      main: index of the fraction that is shown first.
      planned: as `plan` returned it.
      embeddings: [n, d] float32 of the class, or None.
      rule: which image of a group is kept.
      most_groups: groups with pictures of each cut at most; 0 is as many as fit.
      seed: of the choice's random part.
    """
    n, index = len(of.positions), of.index_type
    limit = planned.most_pictures.get(of.label, 0)
    shown = min(_GROUP_IMAGES, max(2, limit // 4))
    choice = dict(most_groups=most_groups, shown=shown, seed=seed)
    members = len(of.rows)
    if members > limit:
        members = int(_MEMBERS * limit)
    chosen = classes.choose_pictures(of.cuts, main, members, **choice)
    has_picture = np.zeros(n, bool)
    has_picture[chosen] = True

    cuts, outside = [], []
    for each in of.cuts:
        ordered, pictured = classes.pictured_first(each, has_picture, **choice)
        details = classes.make_details(ordered, pictured, n, embeddings, rule)
        outside.append(details["outside"])
        arrays = dict(
            rows=ordered.rows, sizes=ordered.sizes, distances=ordered.distances, heights=ordered.heights, **details
        )
        integers = ("rows", "sizes", "outside")
        packed = {key: _pack(value, index if key in integers else "<f4") for key, value in arrays.items()}
        cuts.append(dict(fraction=each.fraction, kept=each.kept, pictured=pictured, **packed))
    # The neighbours of the fraction shown first come first.
    neighbours = np.concatenate([outside[main], *outside]).tolist()
    others = [row for row in dict.fromkeys(neighbours) if row < n and not has_picture[row]]
    rows = np.array(sorted(chosen + others[: limit - len(chosen)]), np.int64)
    text: dict[str, Any] = dict(
        label=of.label,
        name=of.name,
        index=index,
        images=n,
        shown=shown,
        positions=_pack(of.positions, "<u4"),
        cuts=cuts,
        pictures=dict(rows=_pack(rows, index), data=[]),
    )
    if of.files is not None:
        prefix = of.prefix  # the files of a class usually lie in one folder
        named = np.union1d(of.rows, rows)
        names = [of.files[row][len(prefix) :] for row in named.tolist()]
        text["files"] = dict(prefix=prefix, rows=_pack(named, index), names=names)
    if of.merges is not None:
        merges = of.merges
        text["merges"] = dict(
            left=_pack(merges.left, index), right=_pack(merges.right, index), heights=_pack(merges.height, "<f4")
        )
    return text, of.positions[rows]


def pictures(batches: Iterable[tuple[np.ndarray, Any, np.ndarray]], kind: str) -> dict[int, str]:
    """Position -> picture in base64; each batch is images uint8 [b, H, W, C], an ignored item, and positions [b]."""
    return {
        position: base64.b64encode(images.compress(image, kind)).decode()
        for of_batch, _, positions in batches
        for image, position in zip(of_batch, positions.tolist(), strict=True)
    }


def to_text(value: Any) -> str:
    """JSON without characters that could end a script element."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")


def names_script(contents: Sequence[Mapping[str, Any]]) -> bytes | None:
    """A script with the positions and names of all classes, each as `describe` returned it; None if it would be too large."""
    text = to_text(
        [{name: of[name] for name in ("label", "index", "positions", "files") if name in of} for of in contents]
    )
    return f"redundancyNames({text});\n".encode() if len(text) <= NAMES_BYTES else None


def sample_positions(found: Sequence[ClassData], seed: int) -> np.ndarray:
    """Ascending positions of some images of the classes, from which the size of pictures is estimated."""
    every = np.concatenate([np.zeros(0, np.int64), *(of.positions for of in found)])
    if len(every) <= _SAMPLE:
        return np.sort(every)
    return np.sort(np.random.default_rng(seed).choice(every, _SAMPLE, replace=False))
