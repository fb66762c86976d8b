"""Draws the pictures of docs/method.md, and takes the one of the report, from the demo's workdir.

redundancy run --config digits --workdir DIR
python docs/scripts/figures.py DIR                the drawings; "make pictures" does both
python docs/scripts/figures.py DIR --screenshot   and docs/images/report.png, by Chromium

Prints the numbers that the captions tell. The drawings are SVGs whose ink and paper follow the reader's light or dark.
"""

import csv
import io
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from scipy.cluster.hierarchy import dendrogram

from redundancy import config as config_lib
from redundancy import storage
from redundancy.data import shared_dataset
from redundancy.embedding.store import EmbeddingStore
from redundancy.linkage import cut
from redundancy.linkage.complete import complete_linkage
from redundancy.linkage.dissimilarity import between_all, unit_vectors
from redundancy.methods.counts import rows_by_class
from redundancy.report import gallery
from redundancy.report.figures import INK, KEPT, MUTED, RANDOM, SEMANTIC, STYLE
from redundancy.selection.subset import read_subset
from redundancy.workdir import Workdir, subset_name

IMAGES = pathlib.Path(__file__).resolve().parents[1] / "images"
FRACTION, RULE, CLASS = 0.9, "cosine_raw_mean", 9
_PAPER = "#ffffff"
_COLORS = {  # light, dark
    "ink": (INK, "#e6edf3"),
    "muted": (MUTED, "#7d8590"),
    "paper": (_PAPER, "#16181d"),
    "semantic": (SEMANTIC, "#56b4e9"),
    "random": (RANDOM, "#ff9e5e"),
    "kept": (KEPT, "#2fd6a3"),
}


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=_PAPER)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, folder: pathlib.Path, name: str) -> None:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.12, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    for variable, (light, _) in _COLORS.items():
        text = re.sub(rf"(?<=: ){light}\b", f"var(--{variable})", text)
    light, dark = (" ".join(f"--{name}: {pair[number]};" for name, pair in _COLORS.items()) for number in range(2))
    style = f"<style>:root {{ {light} }} @media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style>"
    text = re.sub(r"(<svg [^>]*>)", lambda found: f"{found[1]}\n {style}", text, count=1)
    path = folder / f"{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")
    print(f"{path}: {path.stat().st_size // 1024} KiB")


def _group(vectors: np.ndarray, merges, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Group of each image of a class, and the kept image of each image's group."""
    kept = round(fraction * len(vectors))
    group = cut.groups(merges, len(vectors), kept)
    return group, cut.representatives(vectors, group, RULE)[group]


def draw_embeddings(vectors, merges, folder: pathlib.Path) -> None:
    units = unit_vectors(vectors)
    centred = units - units.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes[:2].T
    _, kept = _group(vectors, merges, FRACTION)
    own = np.arange(len(vectors))
    figure = _figure(6.4, 4.2)
    ax = figure.subplots()
    ax.add_collection(LineCollection(np.stack([flat, flat[kept]], axis=1)[kept != own], colors=MUTED, linewidths=1))
    ax.scatter(*flat[kept == own].T, s=16, color=SEMANTIC, label="kept")
    ax.scatter(*flat[kept != own].T, s=22, facecolors=_PAPER, edgecolors=RANDOM, linewidths=1.3, label="left out")
    ax.set(xlabel="first principal component", ylabel="second principal component")
    ax.legend()
    share = float((values[:2] ** 2).sum() / (values**2).sum())
    print(
        f"embeddings: {len(vectors)} images, {(kept != own).sum()} left out; the two axes have {share:.0%} of the variance"
    )
    _save(figure, folder, "embeddings")


def draw_dendrogram(vectors, merges, folder: pathlib.Path) -> None:
    n = len(vectors)
    table = np.stack([merges.left, merges.right, merges.height, merges.size], axis=1).astype(float)
    figure = _figure(7.4, 3.8)
    ax = figure.subplots()
    dendrogram(
        table, ax=ax, no_labels=True, color_threshold=0, above_threshold_color=MUTED, link_color_func=lambda _: MUTED
    )
    for lines in ax.collections:
        lines.set_linewidth(0.8)
    for fraction, color in ((0.9, KEPT), (0.5, SEMANTIC), (0.2, RANDOM)):
        k = round(fraction * n)
        height = float(merges.height[n - k - 1] + merges.height[n - k]) / 2
        ax.axhline(height, color=color, linestyle="--", linewidth=1.3)
        ax.annotate(
            f"{fraction:.0%} kept", (1.005, height), xycoords=("axes fraction", "data"), color=color, va="center"
        )
        print(f"dendrogram: {fraction:.0%} kept, {k} groups, last merge at {merges.height[n - k - 1]:.4f}")
    ax.set_yscale("symlog", linthresh=0.01)
    ax.set_yticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
    ax.set(ylabel="1 − cos", xlabel=f"the {n} images of the class")
    _save(figure, folder, "dendrogram")


def _framed(figure: Figure, bounds, image, color) -> None:
    ax = figure.add_axes(bounds)
    ax.imshow(np.kron(255 - image[..., 0], np.ones((6, 6), np.uint8)), cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=2.4 if color == KEPT else 0.8)


def draw_groups(dataset, subset, folder: pathlib.Path) -> None:
    groups = gallery.make_groups(subset.positions, subset.labels, subset.group, subset.kept, subset.dissimilarity)
    chosen = []
    for label in range(10):
        chosen += gallery.choose_groups(groups, label, 1)
    chosen = chosen[:10]
    side, gap, width, rows = 0.52, 0.14, 6.2, (len(chosen) + 1) // 2
    height = rows * (side + 0.36) + 0.1
    figure = Figure(figsize=(width, height), facecolor=_PAPER)
    FigureCanvasAgg(figure)
    for number, index in enumerate(chosen):
        left = 0.1 + (number % 2) * width / 2
        bottom = height - (number // 2 + 1) * (side + 0.36) + 0.2
        members, distances = groups.members(index)[:5], groups.distances(index)[:5]
        images = dataset.read("train", members)
        for column, (image, distance) in enumerate(zip(images, distances, strict=True)):
            x = left + column * (side + gap)
            bounds = (x / width, bottom / height, side / width, side / height)
            _framed(figure, bounds, image, MUTED if column else KEPT)
            text = "kept" if column == 0 else f"{distance:.3f}"
            figure.text(
                (x + side / 2) / width, (bottom - 0.05) / height, text, ha="center", va="top", fontsize=8.5,
                color=KEPT if column == 0 else INK,
            )  # fmt: skip
    sizes = groups.sizes
    print(f"groups: {(sizes > 1).sum()} of two or more among {len(sizes)}, the largest of {sizes.max()}")
    _save(figure, folder, "groups")


def draw_pairs(vectors, merges, folder: pathlib.Path) -> None:
    n = len(vectors)
    units = unit_vectors(vectors)
    distances = np.sort(between_all(units, units)[np.triu_indices(n, 1)])
    fractions = np.arange(n - 1, 0, -1) / n
    pairs = np.searchsorted(distances, merges.height, side="right") / n
    figure = _figure(6.4, 3.2)
    ax = figure.subplots()
    ax.step(fractions, pairs, where="post", color=SEMANTIC)
    ax.axhline((n - 1) / 2, color=RANDOM, linestyle="--", linewidth=1)
    ax.text(
        0.99, (n - 1) / 2 * 1.1, "all pairs", color=RANDOM, ha="right", va="bottom", transform=ax.get_yaxis_transform()
    )
    ax.set(yscale="log", xlabel="kept share", ylabel="pairs needed per image", xlim=(1, 0), ylim=(None, n))
    ax.set_xticks([1, 0.9, 0.5, 0.2, 0], ["100 %", "90 %", "50 %", "20 %", "0 %"])
    for fraction in (0.9, 0.5, 0.2):
        print(f"pairs: {fraction:.0%} kept, {pairs[n - round(fraction * n) - 1]:.2f} per image of {(n - 1) / 2:.0f}")
    _save(figure, folder, "pairs")


def _nearest_kept(vectors: np.ndarray, labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Dissimilarity of every left-out image to the nearest kept one of its class."""
    found = []
    for rows in rows_by_class(labels).values():
        units = unit_vectors(vectors[rows])
        found.append(between_all(units[~kept[rows]], units[kept[rows]]).min(axis=1))
    return np.sort(np.concatenate(found))


def draw_against_random(workdir: Workdir, store: EmbeddingStore, labels: int, folder: pathlib.Path) -> None:
    read = [store.read_class(label) for label in range(labels)]
    positions = np.concatenate([of_class for of_class, _ in read])
    vectors = np.concatenate([of_class for _, of_class in read])[np.argsort(positions)]
    figure = _figure(7.6, 3.2)
    left, right = figure.subplots(1, 2)
    for fraction, style in ((0.9, "-"), (0.5, "--")):
        for method, trial, color in (("semantic", None, SEMANTIC), ("random", 0, RANDOM)):
            subset = read_subset(workdir.subset(subset_name(method, fraction, trial)))
            found = _nearest_kept(vectors, subset.labels, subset.kept)
            share = np.arange(1, len(found) + 1) / len(found)
            left.step(found, share, color=color, linestyle=style, where="post", label=f"{method}, {fraction:.0%} kept")
            print(
                f"against random: {method} at {fraction:.0%}: median {np.median(found):.4f}, greatest {found[-1]:.4f}"
            )
    left.set(
        xscale="log", xlabel="1 − cos to the nearest kept image", ylabel="share of the images left out", xlim=(1e-3, 2)
    )
    left.legend(fontsize=7.5, loc="lower right")
    rows = list(csv.DictReader(io.StringIO(storage.read_bytes(workdir.results).decode())))
    for method, color, marker in (("semantic", SEMANTIC, "o"), ("random", RANDOM, "s")):
        fractions = sorted({float(row["fraction"]) for row in rows if row["method"] == method})
        of = [
            [100 * float(r["test_accuracy"]) for r in rows if r["method"] == method and float(r["fraction"]) == f]
            for f in fractions
        ]
        mean, std = [np.mean(each) for each in of], [np.std(each, ddof=1) for each in of]
        shift = 0.6 if method == "random" else -0.6
        right.errorbar(
            [100 * f + shift for f in fractions],
            mean,
            std,
            color=color,
            marker=marker,
            markersize=4,
            capsize=3,
            label=method,
        )
        print(method, [f"{f:.0%}: {m:.1f} ± {s:.1f}" for f, m, s in zip(fractions, mean, std, strict=True)])
    full = [100 * float(row["test_accuracy"]) for row in rows if row["method"] == "full"]
    right.axhline(np.mean(full), color=MUTED, linewidth=1)
    print(f"full set: {np.mean(full):.1f} ± {np.std(full, ddof=1):.1f}, {len(full)} trials")
    right.text(18, np.mean(full) + 0.08, "full set", color=INK, va="bottom", fontsize=8.5)
    right.set(xlabel="kept, %", ylabel="test accuracy, %")
    right.legend(fontsize=8, loc="lower right")
    _save(figure, folder, "semantic-random")


def screenshot(workdir: Workdir) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or sys.exit("figures: there is no chromium")
    page = pathlib.Path(workdir.report).resolve() / "index.html"
    with tempfile.TemporaryDirectory() as folder:
        raw = pathlib.Path(folder) / "page.png"
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--hide-scrollbars",
            "--window-size=1440,1300",
            f"--screenshot={raw}",
        ]
        subprocess.run([chromium, *flags, page.as_uri()], check=True, capture_output=True)
        picture = Image.open(raw).convert("RGB").crop((0, 0, 1440, 1080))
        # Few colours suffice: the file is a fifth as large.
        picture.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            IMAGES / "report.png", optimize=True
        )
    print(f"docs/images/report.png: {(IMAGES / 'report.png').stat().st_size // 1024} KiB")


def draw(workdir: Workdir, folder: pathlib.Path) -> None:
    """All drawings, into a folder."""
    config = config_lib.resolve(storage.read_json(workdir.config)["config"])
    dataset, store = shared_dataset(config), EmbeddingStore(workdir.embeddings("end"))
    _, vectors = store.read_class(CLASS)
    merges = complete_linkage(vectors, len(vectors) - 1)
    with matplotlib.rc_context({**STYLE, "savefig.facecolor": _PAPER}):
        draw_embeddings(vectors, merges, folder)
        draw_dendrogram(vectors, merges, folder)
        draw_groups(dataset, read_subset(workdir.subset(subset_name("semantic", FRACTION))), folder)
        draw_pairs(vectors, merges, folder)
        draw_against_random(workdir, store, len(dataset.class_names), folder)


def main(argv: list[str]) -> int:
    workdir = Workdir(argv[0])
    draw(workdir, IMAGES / "method")
    if "--screenshot" in argv:
        screenshot(workdir)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
