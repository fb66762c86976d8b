"""Forecasts how many bytes a report takes, before its pictures are compressed and anything is written. Pure."""

from collections.abc import Mapping, Sequence

from redundancy.report.browser import NAMES_BYTES, ClassData, Plan
from redundancy.report.figures import KINDS, Plot
from redundancy.runtime.sizes import decimal

# Measured: the page without figures and groups; what shows groups; a class in lists and tables.
_EMPTY, _BROWSER, _CLASS = 45_000, 65_000, 600
_INLINE = ("figure2", "figure4", "figure8")


def expected(
    found: Sequence[ClassData],
    planned: Plan | None,
    pictures: int,
    plots: Mapping[str, Plot],
    thumbnails: Mapping[int, str],
    class_count: int,
) -> dict[str, float]:
    """Bytes of what the report consists of: page, figures, and, where classes have files of their own, these and their names.

    Args:
      found: the classes of the browser.
      planned: how they are stored; None without classes.
      pictures: that the classes have together.
      plots: by name.
      thumbnails: position -> data URI, on the page itself.
      class_count: classes of the data set.
    """
    page = _EMPTY + _CLASS * class_count + sum(map(len, thumbnails.values())) + _BROWSER * (planned is not None)
    page += sum(len(plots[name].inline) for name in _INLINE if name in plots)
    figures = sum(len(getattr(plot, kind)) for plot in plots.values() for kind in KINDS)
    if planned is None:
        return {"page": page, "figures": figures}
    classes = sum(of.bytes for of in found) + pictures * planned.picture_bytes
    if planned.one_file:
        return {"page": page + classes, "figures": figures}
    names = sum(of.name_bytes + 6 * len(of.positions) for of in found)
    return {"page": page, "figures": figures, "classes": classes, "names": names if names <= NAMES_BYTES else 0}


def in_words(bytes_of: Mapping[str, float]) -> str:
    """'about 12 MB (page 1.03 MB, figures 8.2 MB, classes 3.1 MB)'."""
    parts = ", ".join(f"{name} {decimal(count)}" for name, count in bytes_of.items() if count)
    return f"about {decimal(sum(bytes_of.values()))} ({parts})"
