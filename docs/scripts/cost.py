"""Draws docs/images/cost.png: time against images of one class, by boxes and by all blocks.

python -m benchmarks.selection --only near --json > NEAR.json
python docs/scripts/cost.py NEAR.json TEN/log.txt

The log is that of the commands on ten million images, see benchmarks/results.
"""

import json
import pathlib
import re
import sys

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from redundancy.report.figures import MUTED, RANDOM, SEMANTIC, STYLE

IMAGE = pathlib.Path(__file__).resolve().parents[1] / "images" / "cost.png"
_LINES = {
    ("network", "boxes"): ("boxes", SEMANTIC, "-"),
    ("interpolated", "boxes"): ("boxes, most images interpolated", SEMANTIC, "--"),
    ("network", "all blocks"): ("all blocks", RANDOM, "-"),
    ("network", "faiss"): ("faiss, IndexFlatIP.range_search", MUTED, "-"),
}


def measured(result: dict, kind: str, by: str) -> list[tuple[int, float]]:
    """Images and seconds of all cores, ascending."""
    cases = [case for name, case in result["cases"].items() if name.rpartition("-")[0] == f"near-{kind}"]
    found = [(case["sizes"]["images_per_class"], case["results"][by].get("cpu_s")) for case in cases]
    return sorted((n, seconds) for n, seconds in found if seconds is not None)


def whole_link(log: str) -> float:
    """Seconds of all cores that the command link took."""
    return sum(
        map(float, re.search(r"\$ redundancy link .*?([\d.]+) s user, ([\d.]+) s system", log, re.DOTALL).groups())
    )


def main(path: str, log: str) -> None:
    """Draws the picture from what the benchmark and the commands printed."""
    result = json.loads(pathlib.Path(path).read_text())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.8), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for (kind, by), (label, color, style) in _LINES.items():
            if found := measured(result, kind, by):
                axes.plot(*zip(*found, strict=True), style, color=color, marker="o", markersize=4, label=label)
        seconds = whole_link(pathlib.Path(log).read_text())
        axes.plot([10**7], [seconds], "D", color=SEMANTIC, markersize=5, label="boxes, the whole command link")
        axes.set(xscale="log", yscale="log", xlabel="images in one class", ylabel="seconds, all cores together")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        IMAGE.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(IMAGE, dpi=130)
    print(f"{IMAGE}: {IMAGE.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
