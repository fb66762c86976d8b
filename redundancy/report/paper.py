"""What a paper needs of a report: figures one column wide, the table of results as LaTeX, and whom to cite."""

import importlib.resources
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from redundancy import methods, storage
from redundancy.report import figures, looks, page, results, statistics, words
from redundancy.report.stage import report_layer
from redundancy.report.statistics import FULL, Difference, Summary
from redundancy.workdir import Workdir, need_manifest, rounds, table

_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", words.MINUS: "$-$", "–": "--", "’": "'",
    "`": r"\textasciigrave{}", "-": "-{}", **{letter: f"\\{letter}" for letter in "{}$&#%_"},
}  # fmt: skip
_TABLE = r"""% Needs \usepackage{booktabs}; with names in other than Latin letters also LuaLaTeX, and a font that has them.
\begin{table}
\centering\footnotesize
\setlength{\tabcolsep}{3pt}
\caption{CAPTION}\smallskip
\label{tab:redundancy}
\begin{tabular}{@{}rlll@{}}
\toprule
Kept & Accuracy & vs.\ full set & vs.\ random \\
\midrule
ROWS
\bottomrule
\end{tabular}
\end{table}
"""


def escaped(text: str) -> str:
    """Text as LaTeX that prints it: special characters escaped, those that cannot be printed as spaces."""
    return "".join(_SPECIAL.get(letter, letter if letter.isprintable() else " ") for letter in text)


def _difference(difference: Difference | None) -> str:
    """A mean difference in points with its interval, in a cell."""
    if difference is None:
        return "--"
    low, high = words.points(difference.low), words.points(difference.high)
    interval = rf" {{\scriptsize[{escaped(low)}, {escaped(high)}]}}" if difference.has_interval else ""
    return escaped(words.points(difference.mean)) + interval


def _row(item: Summary) -> str:
    accuracy = words.accuracy(item.mean) + (rf" {{\scriptsize({words.accuracy(item.std)})}}" if item.trials > 1 else "")
    cells = (words.percent(item.fraction)[:-1], accuracy, _difference(item.to_full), _difference(item.to_random))
    return " & ".join(cells) + r" \\"


def latex_table(summaries: Sequence[Summary], caption: str) -> str:
    """The table of results, a heading for each method and a row for each fraction.

    Args:
      summaries: of all methods and fractions, those of one method and layer together.
      caption: as LaTeX.
    """
    several, rows = page.several_layers(summaries), []
    for (method, layer), items in itertools.groupby(summaries, key=lambda item: (item.method, item.layer)):
        title = methods.get(method).title if method != FULL else "full set"
        name = escaped(f"{title}, {layer}" if several and methods.get(method).per_layer else title)
        rows += [rf"\multicolumn{{4}}{{@{{}}l}}{{{name}}} \\", *map(_row, items), r"\addlinespace"]
    found = {"CAPTION": caption, "ROWS": "\n".join(rows[:-1])}
    return re.sub("CAPTION|ROWS", lambda match: found[match[0]], _TABLE)


def caption(config: Mapping[str, Any], name: str, found: results.Results, summaries: Sequence[Summary]) -> str:
    """What the table shows, and the protocol, as plain text.

    Args:
      config: resolved config.
      name: of the data set.
      found: the results of the table.
      summaries: of them.
    """
    full_size = max(item.size for item in summaries)
    steps, tested = table.num_steps(config, full_size), max(run.test_size for run in found.runs)
    shared = "" if config["budget"] == "steps" else ", fewer for subsets, in proportion to their size"
    compared = [each for item in summaries for each in (item.to_full, item.to_random) if each is not None]
    differences = ", and differences in points" if compared else ""
    means = f"Means over {found.trials} trials (standard deviation)" if found.trials > 1 else "One trial"
    interval = " [95% interval of trials paired by seed]" if any(each.has_interval for each in compared) else ""
    parts = [
        f"{name}: test accuracy (%) after training from scratch on shares (%) of the {full_size:,} training images{differences}.",
        f"{means}{interval}.",
        f"Protocol: ResNet-{config['depth']} v2, {steps:,} steps of {config['batch_size']} images{shared}; "
        f"{tested:,} test images.",
    ]
    if (grouped := methods.grouped(config)) is not None and any(item.method == grouped.name for item in summaries):
        parts.append(f"{grouped.title.capitalize()}: complete linkage within each class.")
    if found.interim:
        parts.append(f"Interim: {found.trials} of {found.asked} trials are complete.")
    return " ".join(parts)


def write(config, workdir: Workdir) -> str:
    """Writes report/paper/: figure2.pdf, with several layers figure8.pdf, table.tex and citation.bib.

    Reads results and subsets' names alone: no data set, no network.

    Args:
      config: resolved config.
      workdir: workdir with a sweep of which a trial is complete.

    Returns:
      the folder.

    Raises:
      WorkdirError: an earlier stage has not finished, or no trial is complete.
      DataError: an artifact is missing or damaged.
    """
    found = results.read(config, workdir, need_manifest(workdir.subsets, "select", inputs=dict, files=list))
    record = rounds.read(workdir)
    level = looks.level(record, found.trials)
    summaries = statistics.summarise(found.runs, level)
    name = (storage.read_json(workdir.config).get("dataset") or {}).get("name") or config.dataset.rpartition("/")[2]
    text = caption(config, name.removesuffix(".npz"), found, summaries)
    if record:
        text += f" {words.looks(record, found.trials, level)}"
    full_size = max(item.size for item in summaries)
    files = {
        "figure2.pdf": figures.column_plot(summaries, [report_layer(config)], full_size),
        "table.tex": latex_table(summaries, escaped(text)).encode(),
        "citation.bib": (importlib.resources.files("redundancy.report") / "assets" / "citation.bib").read_bytes(),
    }
    if page.several_layers(summaries):
        files["figure8.pdf"] = figures.column_plot(summaries, list(config.layers), full_size)
    folder = storage.join(workdir.report, "paper")
    for file, content in files.items():
        storage.write_bytes(storage.join(folder, file), content)
    return folder
