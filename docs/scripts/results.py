"""Draws the figure of docs/results.md from the results that lie in benchmarks/results, and prints the tables of that page.

python docs/scripts/results.py
"""

import pathlib
import re
import sys

from redundancy.report import figures, statistics, words

_DOCS = pathlib.Path(__file__).resolve().parents[1]
_RESULTS = _DOCS.parent / "benchmarks" / "results"
SETS = {"CIFAR-10": "2026-11-26-h100-cifar10", "CIFAR-100": "2026-11-27-h100-cifar100"}
_COLORS = {  # light, dark
    figures.INK: ("ink", "#e6edf3"),
    figures.GRID: ("grid", "#30363d"),
    figures.MUTED: ("muted", "#7d8590"),
    figures.SEMANTIC: ("semantic", "#56b4e9"),
    figures.RANDOM: ("random", "#ff9e5e"),
}


def summaries(folder: str) -> list[statistics.Summary]:
    """The summaries of a folder's results.csv."""
    return statistics.summarise(statistics.parse_results((_RESULTS / folder / "results.csv").read_text()))


def table(found: list[statistics.Summary]) -> str:
    """A table of summaries in Markdown."""
    lines = [
        "| trained on | test accuracy, % (standard deviation) | against the full set | against random |",
        "|---|---|---|---|",
    ]

    def against(difference: statistics.Difference | None) -> str:
        return f"{words.points(difference.mean)} ({words.interval(difference)})" if difference else ""

    for item in found:
        name = "all images" if item.method == statistics.FULL else f"{words.percent(item.fraction)} {item.method}"
        accuracy = f"{words.accuracy(item.mean)} ({words.accuracy(item.std)})"
        lines.append(f"| {name} | {accuracy} | {against(item.to_full)} | {against(item.to_random)} |")
    return "\n".join(lines)


def draw() -> str:
    """The figure as SVG, whose colours follow the reader's light or dark."""
    panels = []
    for name, folder in SETS.items():
        found = summaries(folder)
        full, *subsets = found
        trials = words.plural(full.trials, "trial")
        lines = figures.layer_lines(subsets, ["end"])
        panels.append(figures.Panel(f"{name}, {trials}", lines, full, full.size))
    svg = figures.comparison_plot(panels, "results").svg.decode()
    for light, (name, _) in _COLORS.items():
        svg = svg.replace(light, f"var(--{name})")
    light = " ".join(f"--{name}: {color};" for color, (name, _) in _COLORS.items())
    dark = " ".join(f"--{name}: {color};" for name, color in _COLORS.values())
    style = f"<style>:root {{ {light} }} @media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style>"
    svg = re.sub(r"(<svg [^>]*>)", lambda found: f"{found[1]}\n {style}", svg, count=1)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def main() -> int:
    (_DOCS / "images" / "results.svg").write_text(draw())
    for name, folder in SETS.items():
        print(f"{name}\n\n{table(summaries(folder))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
