"""The figures, as SVG, PDF and PNG bytes. Pure: numbers in, bytes out, the same bytes for the same numbers.

Matplotlib's object interface with the Agg canvas: no display, no state shared with the caller.
"""

import dataclasses
import html
import io
import itertools
import logging
import math
import re
import warnings
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from redundancy import methods
from redundancy.report.statistics import FULL, Summary

# Okabe and Ito's palette, distinct under the common forms of colour blindness.
SEMANTIC, RANDOM = "#0072b2", "#d55e00"
# Colours and markers of the methods, in the order of their table; repeated if there are more methods.
_LOOKS = (
    (SEMANTIC, "o"), (RANDOM, "s"), ("#56b4e9", "v"), ("#b8a800", "P"), ("#8b9198", "X"), ("#7b4fa6", "^"), ("#8c564b", "D"),
    ("#117733", "<"), ("#d64fa1", ">"), ("#4c4c4c", "p"), ("#a0522d", "h"), ("#2a9d8f", "d"),
)  # fmt: skip
MANY = 3  # lines above which the legend stands beside the figure, and the page has buttons for them
LAYER_COLORS = {"end": SEMANTIC, "middle": "#cc79a7", "start": "#e69f00"}
LAYER_MARKERS = {"end": "o", "middle": "D", "start": "^"}
INK, GRID, MUTED = "#1f2328", "#d8dbdf", "#8b9198"
KEPT = "#009e73"
_PAGE_COLORS = {
    INK: "currentColor",
    GRID: "var(--grid)",
    MUTED: "var(--muted)",
    SEMANTIC: "var(--semantic)",
    RANDOM: "var(--random)",
    LAYER_COLORS["middle"]: "var(--middle)",
    LAYER_COLORS["start"]: "var(--start)",
}
_PNG_DPI = 200
_COLUMN_INCHES = (3.3, 2.4)
_LEGEND_LENGTH = 28
_TITLE_LENGTH = 20
KINDS = ("svg", "pdf", "png")


def _fonts() -> list[str]:
    """The fonts of the figures: letters that one lacks are taken from the next."""
    there = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _MORE_FONTS if name in there)]


# Families with letters of further scripts, as Linux distributions name them.
_MORE_FONTS = (
    "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Zen Hei", "Noto Sans Arabic",
    "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Thai", "Noto Sans Hebrew", "Noto Sans Tamil", "Unifont",
)  # fmt: skip
_FONTS = _fonts()
STYLE = {
    "svg.hashsalt": "redundancy",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.sans-serif": _FONTS,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
}
_COLUMN_STYLE = STYLE | {
    "font.size": 8,
    "legend.fontsize": 7,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
}


@dataclasses.dataclass(frozen=True)
class Plot:
    """A drawn figure: files for print and slides, and `inline`, the SVG element for the page."""

    svg: bytes
    pdf: bytes
    png: bytes
    inline: str


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a plot of accuracies: its look, and a summary for each subset size."""

    label: str
    color: str
    marker: str
    style: str
    summaries: list[Summary]


def _attributes(style: re.Match) -> str:
    """A style attribute as presentation attributes: the page's policy allows no style of elements."""
    found = []
    for part in filter(None, map(str.strip, html.unescape(style.group(1)).split(";"))):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":
            if value.startswith("bold"):
                found.append(("font-weight", "bold"))
            found.append(("font-size", re.search(r"[\d.]+px", value).group()))
        elif name != "font-family":
            found.append((name, value))
    return " ".join(f'{name}="{html.escape(value)}"' for name, value in found)


def _inline(svg: str, name: str, description: str) -> str:
    """The SVG element alone, its ids made unique by `name` and its colours following the page's."""
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg[svg.index("<svg") :], flags=re.S)
    view_box = re.search(r'viewBox="([^"]+)"', svg).group(1)
    opening = f'<svg class="plot" viewBox="{view_box}" role="img" aria-label="{html.escape(description)}">'
    svg = opening + svg[svg.index(">") + 1 :]

    def adapt(tag: re.Match) -> str:
        text = re.sub(r'\bid="', f'id="{name}-', tag.group())
        text = text.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
        text = re.sub(r'\bstyle="([^"]*)"', _attributes, text)
        for color, variable in _PAGE_COLORS.items():
            text = text.replace(color, variable)
        return text

    # Replace only in tags: the text between them may be a class name.
    return re.sub(r"<[^>]*>", adapt, svg)


def _pdf(figure: Figure) -> bytes:
    pdf = io.BytesIO()
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return pdf.getvalue()


def finish(figure: Figure, name: str, description: str) -> Plot:
    """A figure's files; `description` is for those who do not see it."""
    svg, png = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        pdf = _pdf(figure)
        figure.savefig(png, format="png", dpi=_PNG_DPI, metadata={"Software": None}, facecolor="white")
    if any("missing from" in str(each.message) for each in caught):
        logging.getLogger("absl").warning(
            "%s: the fonts of this machine lack letters of its names, which are boxes in the PNG and PDF; the SVG has them "
            "as text. Install fonts, for example Debian's fonts-noto-core and fonts-noto-cjk", name
        )  # fmt: skip
    text = svg.getvalue().decode()
    return Plot(svg.getvalue(), pdf, png.getvalue(), _inline(text, name, description))


def new_figure(width: float, height: float, layout: str | None = "constrained") -> Figure:
    """An empty figure, in inches; make it and draw on it within `rc_context(STYLE)`."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def layer_lines(summaries: Sequence[Summary], layers: Sequence[str]) -> list[Line]:
    """The lines to draw: one of each method, or of each of `layers` that it reads."""
    lines = []
    names = methods.in_order([*methods.DEFAULT, *(item.method for item in summaries if item.method != FULL)])
    for method, (color, marker) in zip(map(methods.get, names), itertools.cycle(_LOOKS)):
        for layer in method.layers({"layers": layers}):
            found = [item for item in summaries if item.method == method.name and layer in (None, item.layer)]
            label = method.title
            # With a single layer the line keeps the method's colour, not the layer's.
            if layer is not None and len(layers) > 1:
                label = f"{label}, {layer}"
                if method.has_groups:
                    color, marker = LAYER_COLORS.get(layer, SEMANTIC), LAYER_MARKERS.get(layer, "o")
            lines.append(Line(label, color, marker, "-" if method.per_layer else "--", found))
    return [line for line in lines if line.summaries]


def _draw_accuracy(
    axes: Axes,
    lines: Sequence[Line],
    full: Summary | None,
    full_size: int,
    legend_size: float | None = None,
    narrow: bool = False,
) -> None:
    """Means with bars of one standard deviation, and the full set's as a band; a long legend of a narrow figure is below."""
    size, width = matplotlib.rcParams["lines.markersize"], matplotlib.rcParams["lines.linewidth"] / 1.5
    shares = [100 * item.size / full_size for line in lines for item in line.summaries] + [100.0]
    span = max(max(shares) - min(shares), 1.0)
    legend = {}
    if full:
        mean, std = 100 * full.mean, 100 * full.std
        axes.axhline(mean, color=INK, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        if math.isfinite(std):
            axes.axhspan(mean - std, mean + std, color=MUTED, alpha=0.16, linewidth=0, zorder=0)
    for index, line in enumerate(lines):
        drawn_before = set(axes.get_children())
        # Lines are shifted a little so that their bars do not hide one another.
        shift = span * 0.009 * (index - (len(lines) - 1) / 2)
        ordered = sorted(line.summaries, key=lambda item: item.size)
        x = [100 * item.size / full_size + shift for item in ordered]
        y = [100 * item.mean for item in ordered]
        if full and ordered[-1].size < full_size:
            ends = [x[-1], 100], [y[-1], 100 * full.mean]
            axes.plot(*ends, color=line.color, linewidth=1, linestyle=line.style, alpha=0.6)
        bars = [0.0 if math.isnan(item.std) else 100 * item.std for item in ordered]
        drawn = axes.errorbar(
            x, y, yerr=bars if any(bars) else None, color=line.color, marker=line.marker, linestyle=line.style,
            capsize=size / 2, elinewidth=width, markeredgewidth=width, zorder=3,
        )  # fmt: skip
        legend[line.label] = drawn[0]
        for number, part in enumerate(each for each in axes.get_children() if each not in drawn_before):
            part.set_gid(f"line{index}-{number}")  # for the page's buttons
    if full:
        drawn = axes.errorbar(
            [100], [100 * full.mean], yerr=None if math.isnan(full.std) else [100 * full.std], color=INK,
            marker="*", markersize=11 / 6 * size, linestyle="none", capsize=size / 2, elinewidth=width, zorder=4,
        )  # fmt: skip
        legend["full set"] = drawn[0]
    axes.set_xlim(min(shares) - 0.05 * span, 100 + 0.05 * span)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel("Size of the training set (% of the full set)")
    axes.set_ylabel("Test accuracy (%)")
    axes.grid(axis="y")
    axes.tick_params(length=0)
    if len(lines) > MANY:
        place = dict(loc="outside lower center", ncols=2) if narrow else dict(loc="outside right center")
        labels = [printable(label, _LEGEND_LENGTH) for label in legend] if narrow else legend.keys()
        axes.figure.legend(legend.values(), labels, fontsize=0.85 * matplotlib.rcParams["font.size"], **place)
    elif legend:
        axes.legend(legend.values(), legend.keys(), loc="best", fontsize=legend_size)


def accuracy_plot(summaries: Sequence[Summary], layers: Sequence[str], full_size: int, name: str) -> Plot:
    """Test accuracy against subset size (Figures 2, 5, 8, 9): means, bars of one standard deviation over trials.

    Args:
      summaries: of all methods and fractions.
      layers: layers to draw; a method that reads layers gets a line for each.
      full_size: images of the full training set.
      name: of the figure.
    """
    full = next((item for item in summaries if item.method == FULL), None)
    with matplotlib.rc_context(STYLE):
        lines = layer_lines(summaries, layers)
        figure = new_figure(5.8 if len(lines) <= MANY else 7.6, 3.8)
        _draw_accuracy(figure.add_subplot(), lines, full, full_size)
        return finish(figure, name, "Test accuracy against subset size; the table of results holds the same numbers.")


def column_plot(summaries: Sequence[Summary], layers: Sequence[str], full_size: int) -> bytes:
    """The same as `accuracy_plot`, for a column of a paper: 3.3 inches wide, letters of 8 points, as PDF."""
    full = next((item for item in summaries if item.method == FULL), None)
    with matplotlib.rc_context(_COLUMN_STYLE):
        lines = layer_lines(summaries, layers)
        width, height = _COLUMN_INCHES
        below = 0.12 * -(-(len(lines) + 1) // 2) if len(lines) > MANY else 0
        figure = new_figure(width, height + below)
        _draw_accuracy(figure.add_subplot(), lines, full, full_size, narrow=True)
        return _pdf(figure)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One data set of a comparison: its title, lines, the full set's summary (or None) and number of images."""

    title: str
    lines: Sequence[Line]
    full: Summary | None
    full_size: int


def comparison_plot(panels: Sequence[Panel], name: str) -> Plot:
    """Test accuracy against subset size, a panel for each data set, side by side."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.8 if columns == 1 else 4.5 * columns, 3.8 * rows)
        every = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        for axes, panel in zip(every, panels, strict=False):
            _draw_accuracy(axes, panel.lines, panel.full, panel.full_size, 10 if columns == 1 else 8)
            axes.set_title(printable(panel.title, 40), loc="left", parse_math=False)
        for axes in every[len(panels) :]:
            axes.remove()
        shown = "Test accuracy against subset size of each data set; the tables hold the same numbers."
        return finish(figure, name, shown)


def printable(text: str, length: int = _TITLE_LENGTH) -> str:
    """Text that a figure can hold: no control characters (SVG allows none), not longer than `length`."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    return clean if len(clean) <= length else clean[: length - 1] + "…"


def group_size_plot(counts: Sequence[tuple[str, Mapping[int, int]]], name: str) -> Plot:
    """Number of groups by group size, one panel each, log y (Figures 4, 7, 10).

    Args:
      counts: for each panel its title, and group size -> number of groups.
      name: of the figure and its files.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(max(3.2, 2.5 * len(counts)), 2.9)
        panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
        largest = max(max(sizes) for _, sizes in counts)
        tallest = max(max(sizes.values()) for _, sizes in counts)
        ticks = FixedLocator(range(1, 11)) if largest <= 10 else MaxNLocator(8, integer=True)
        for axes, (title, sizes) in zip(panels, counts, strict=True):
            colors = [MUTED if size == 1 else SEMANTIC for size in sizes]
            axes.bar(list(sizes), list(sizes.values()), color=colors, width=0.72)
            if largest <= 10:
                label = dict(xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7.5)
                for size, count in sizes.items():
                    axes.annotate(f"{count:,}", (size, count), **label)
            axes.set_yscale("log")
            axes.set_ylim(0.6, tallest * 2)
            axes.set_xlim(0.1, max(largest, 3) + 0.6)
            axes.xaxis.set_major_locator(ticks)
            axes.yaxis.set_major_locator(FixedLocator([10.0**power for power in range(8)]))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.set_title(printable(title), loc="left", parse_math=False)
            axes.set_xlabel("Images in the group")
            axes.grid(axis="y")
            axes.tick_params(length=0)
        panels[0].set_ylabel("Number of groups (log scale)")
        return finish(figure, name, "Number of groups by group size, on a logarithmic scale.")
