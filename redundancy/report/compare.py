"""The command `redundancy report --compare`: several finished workdirs in one figure and on one page.

Reads only their config.json and results.csv, and writes nothing into them. Workdirs of one data set share a panel. If they
differ only in layers and methods, they are shown as one experiment (Figure 8); else each line carries a name.
"""

import argparse
import dataclasses
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from redundancy import config as config_lib
from redundancy import methods, storage
from redundancy.config import Affects, fraction_name
from redundancy.report import figures, looks, page, statistics, words
from redundancy.report.statistics import FULL, Summary
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError
from redundancy.runtime.paths import given_path
from redundancy.workdir import Workdir, need_fields, need_results, rounds

HELP = """\
redundancy report --compare: several finished workdirs in one figure and on one page.

  redundancy report --compare DIR DIR ... [--output PATH]

  --compare  workdirs, local or gs://, of which config.json and results.csv are read. Those of one data set share a panel
             (semantic clustering of the layers start, middle and end, for example), other data sets stand beside it
  --output   a folder (default: comparison) for index.html and figures/; or one file: .html, .svg, .pdf or .png
"""
_COLORS = (figures.SEMANTIC, "#cc79a7", "#e69f00", "#009e73", "#56b4e9", figures.RANDOM)
_MARKERS = "oD^vPX"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A finished workdir: its path, its data set's name and fingerprint as text, its config and results, and the numbers
    of training and test images."""

    root: str
    name: str
    dataset: str
    config: Mapping[str, Any]
    summaries: Sequence[Summary]
    full_size: int
    test_size: int

    @property
    def folder(self) -> str:
        """Last part of the workdir's path."""
        return self.root.rsplit("/", 1)[-1]


def read_experiment(root: str) -> Experiment:
    """Reads a finished workdir.

    Raises:
      WorkdirError: the folder is no workdir, or has no results yet.
      DataError: its results are damaged, or were changed since the sweep.
    """
    workdir = Workdir(root)
    if not storage.exists(workdir.config):
        raise WorkdirError(f"{root} has no config.json; wanted: the --workdir of a finished run.")
    results = need_results(workdir)
    recorded = need_fields(workdir.config, storage.read_json(workdir.config), config=dict)
    try:
        runs = statistics.parse_results(results.decode())
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f'{workdir.results} is damaged ({error}). Run "redundancy sweep" again.') from error
    full = [run.size for run in runs if run.method == FULL]
    if not full:
        raise DataError(f"{workdir.results} has no row of the full set, which all others are compared with.")
    fingerprint = recorded.get("dataset") or {}
    config = {**config_lib.to_json(config_lib.defaults()), **recorded["config"]}
    name = str(fingerprint.get("name") or os.path.basename(str(config["dataset"])))
    # A checksum says which data set it is; it is named after the folder that it lay in.
    content = {key: value for key, value in fingerprint.items() if key != "name" or "sha256" not in fingerprint}
    dataset = json.dumps(content or name, sort_keys=True)
    test_size = max(run.test_size for run in runs)
    level = looks.level(rounds.read(workdir), config["trials"])
    return Experiment(workdir.root, name, dataset, config, statistics.summarise(runs, level), max(full), test_size)


def _differing(members: Sequence[Experiment]) -> list[str]:
    """Fields that differ between trainings or clusterings."""
    fields = itertools.chain(*(config_lib.differing(members[0].config, each.config) for each in members[1:]))
    free = {name for name, field in config_lib.FIELDS.items() if Affects.COMPARISON not in field.affects}
    return sorted(set(fields) - free)


def tags(members: Sequence[Experiment]) -> list[str]:
    """A name for each experiment of one data set; all '' if together they form one experiment."""
    fields = _differing(members)
    layers = [{item.layer for item in each.summaries if methods.get(item.method).per_layer} for each in members]
    twice = any(first & second for first, second in itertools.combinations(layers, 2))
    if not fields and not twice:
        return [""] * len(members)
    if 0 < len(fields) <= 2:
        named = [", ".join(f"{name} {each.config[name]}" for name in fields) for each in members]
        if len(set(named)) == len(named):
            return named
    folders = [each.folder for each in members]
    return folders if len(set(folders)) == len(folders) else [each.root for each in members]


def _lines(members: Sequence[Experiment], names: Sequence[str]) -> list[figures.Line]:
    if not any(names):
        found: dict[tuple[str, str, str], Summary] = {}
        for item in itertools.chain(*(each.summaries for each in members)):
            found.setdefault((item.method, item.layer, fraction_name(item.fraction)), item)
        of_subsets = [item for item in found.values() if item.method != FULL]
        layers = {item.layer for item in of_subsets if methods.get(item.method).per_layer}
        return figures.layer_lines(of_subsets, sorted(layers, key=config_lib.LAYERS.index))
    lines = []
    for number, (each, name) in enumerate(zip(members, names, strict=True)):
        color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
        series = dict.fromkeys((item.method, item.layer) for item in each.summaries if item.method != FULL)
        several = page.several_layers(each.summaries)
        for method, layer in series:
            of_series = [item for item in each.summaries if (item.method, item.layer) == (method, layer)]
            label = f"{page.method_name(method, layer, several)}, {figures.printable(name, 28)}"
            style = "-" if methods.get(method).per_layer else "--"
            lines.append(figures.Line(label, color, marker, style, of_series))
    return lines


def compare(experiments: Sequence[Experiment]) -> tuple[figures.Plot, str]:
    """The figure, and the page as HTML, of at least one experiment."""
    groups: dict[str, list[Experiment]] = {}
    for each in experiments:
        groups.setdefault(each.dataset, []).append(each)
    panels, sections = [], []
    for members in groups.values():
        names = tags(members)
        lines = _lines(members, names)
        full = statistics.find(members[0].summaries, FULL, 1.0) if not any(names) else None
        first = members[0]
        panels.append(figures.Panel(first.name, lines, full, first.full_size))
        several = page.several_layers(itertools.chain(*(each.summaries for each in members)))
        rows = [
            (name or each.folder, page.method_name(item.method, item.layer, several), item)
            for each, name in zip(members, names, strict=True)
            for item in each.summaries
        ]
        sizes = dict(images=first.full_size, test_size=first.test_size)
        sections.append(dict(title=first.name, **sizes, rows=rows, differing=_differing(members)))
    plot = figures.comparison_plot(panels, "comparison")
    return plot, page.render_comparison(plot, sections, [each.root for each in experiments])


def _output_files(path: str, plot: figures.Plot, html: str) -> dict[str, bytes]:
    kind = path.rsplit("/", 1)[-1].rpartition(".")[2]
    if kind == "html":
        return {path: html.encode()}
    if kind in figures.KINDS:
        return {path: getattr(plot, kind)}
    figure_files = {storage.join(path, "figures", f"comparison.{each}"): getattr(plot, each) for each in figures.KINDS}
    return {**figure_files, storage.join(path, "index.html"): html.encode()}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ConfigError(f'{message}; see "redundancy report --compare --help".')


def run(arguments: Sequence[str]) -> str:
    """Runs the command with the arguments after "redundancy report"; returns the path of the page or figure.

    Raises:
      ConfigError: the arguments are wrong.
      WorkdirError, DataError: see `read_experiment`.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--compare", nargs="+", action="extend", required=True)
    parser.add_argument("--output", default="comparison")
    parser.add_argument("--debug", action="store_true")
    parsed = parser.parse_args(list(arguments))
    given = [root for part in parsed.compare for root in part.split(",") if root]
    roots = [given_path("--compare", root).rstrip("/") or "/" for root in given]
    if len(set(roots)) != len(roots) or len(roots) < 2:
        count = words.plural(len(set(roots)), "workdir")
        raise ConfigError(f"--compare has {count}; wanted two or more different ones.")
    output = given_path("--output", parsed.output).rstrip("/")
    for root in roots:
        if output in (root, storage.join(root, "report"), storage.join(root, "subsets")):
            raise ConfigError(f"--output={parsed.output} lies in the workdir {root}; choose another folder.")
    files = _output_files(output, *compare([read_experiment(root) for root in roots]))
    for path, content in files.items():
        storage.write_bytes(path, content)
    return list(files)[-1]
