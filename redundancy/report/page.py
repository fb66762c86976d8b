"""Fills the results into the page assets/page.html. Pure; the template escapes every text from outside."""

import base64
import hashlib
import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from redundancy import config as config_lib
from redundancy import methods
from redundancy.report import browser, figures, images, learnt, noninferiority, words
from redundancy.report.statistics import FULL, Summary, find

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("redundancy.report", "assets"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)  # fmt: skip
_ENVIRONMENT.filters.update(
    percent=words.percent, accuracy=words.accuracy, points=words.points, interval=words.interval, small=words.small,
    plural=words.plural, class_title=words.class_title, p_value=words.p_value, trials=words.trials,
)  # fmt: skip

_RULES = {
    "cosine_raw_mean": "the image nearest, by cosine, to the mean of the group's embeddings",
    "cosine_unit_mean": "the image nearest, by cosine, to the mean of the group's embeddings scaled to unit length",
    "medoid": "the image with the least sum of dissimilarities to the rest of the group",
    "minimax": "the image whose farthest fellow of the group is nearest",
}


def _styled(*scripts: str, files: bool = False, originals: str = "") -> dict[str, str]:
    """The page's style, script, and content security policy, which allows only these and embedded pictures.

    Args:
      scripts: names of files in assets/.
      files: whether classes are loaded from files beside the page.
      originals: URL of the folder of the images' files, or ''.
    """
    folder = importlib.resources.files("redundancy.report") / "assets"
    css, *codes = (folder.joinpath(name).read_text("utf-8") for name in ("page.css", *scripts))
    script = "".join(codes)
    style, code = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (css, script)
    )
    beside = " 'self' file:" if files else ""
    pictures = "data: file:" if originals else "data:"
    policy = (
        f"default-src 'none'; style-src {style}; script-src {code}{beside}; img-src {pictures}; base-uri 'none'; "
        "form-action 'none'"
    )
    return dict(css=Markup(css), script=Markup(script), policy=policy)


def several_layers(summaries: Iterable[Summary]) -> bool:
    """Whether the summaries of methods that read layers are of more than one layer."""
    return len({item.layer for item in summaries if methods.get(item.method).per_layer}) > 1


def method_name(method: str, layer: str, several_layers: bool) -> str:
    """The name of a method on the page."""
    if method == FULL:
        return "full set"
    return f"{method}, {layer}" if several_layers and methods.get(method).per_layer else method


def config_source(config: Mapping[str, Any]) -> str:
    """The text of a config file for this config; it sets the fields that differ from their defaults."""
    fields = config_lib.FIELDS.items()
    changed = [f"    config.{name} = {config[name]!r}" for name, field in fields if config[name] != field.default]
    head = "from redundancy import config as config_lib\n\n\ndef get_config():\n    config = config_lib.defaults()"
    return "\n".join([head, *changed, "    return config", ""])


def config_sections(config: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Section -> its fields, each with name, value, whether that is the default, and meaning."""
    sections: dict[str, list[dict[str, Any]]] = {}
    for name, field in config_lib.FIELDS.items():
        value = config[name]
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        row = dict(name=name, value=shown or "''", changed=value != field.default, doc=field.doc)
        sections.setdefault(field.section, []).append(row)
    return sections


def _headlines(summaries: Sequence[Summary], facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of a number and a description of it."""
    full, run_count, rows = find(summaries, FULL, 1.0), facts["run_count"], facts["class_rows"]
    spread = f" (std {words.accuracy(full.std)})" if full and full.trials > 1 else ""
    tested = words.plural(facts["test_size"], "image")
    numbers = [
        (f"{facts['full_size']:,}", f"training images in {words.plural(len(facts['class_names']), 'class')}"),
        (f"{words.accuracy(full.mean)}%" if full else "–", f"test accuracy of the full set on {tested}{spread}"),
        (f"{run_count:,}", "trainings compared" if run_count != 1 else "training"),
    ]
    if rows:
        total, kept = rows[-1], words.percent(facts["fraction"])
        numbers += [
            (f"{total['groups']:,}", f"redundant groups at {kept} kept, of up to {total['largest']} images"),
            (f"{total['images'] - total['kept']:,}", f"images dropped at {kept} kept"),
        ]
    return numbers


def render(
    config: Mapping[str, Any],
    summaries: Sequence[Summary],
    plots: Mapping[str, figures.Plot],
    browse: tuple[Mapping[str, Any], Sequence[tuple[int, str]]] | None,
    **facts,
) -> str:
    """The whole page as HTML.

    Args:
      config: resolved config.
      summaries: all results.
      plots: by name: figure2, figure4 (if there are groups), figure8 (if there are several layers).
      browse: index and texts of the class browser, see collect.fill_browser; None if there is no group.
      facts: name of the data set; class_names by label; image_shape (H, W, C); full_size, test_size, run_count, left_out:
        numbers of training images, test images, trainings, and finished trainings that are not asked for; interim: see
        words.interim, '' for a finished sweep; looks: see words.looks, '' for a sweep without rounds; level: one-sided, of
        the intervals and tests; learnt: see learnt.read; trial_s: see cost.trial_seconds; fraction, layer: whose groups are shown; class_rows: Table 1, the whole data set last, empty
        without groups; beyond: see `counts.beyond_fractions`; lists: the files of the kept and of the dropped images'
        names beside the page, if there are; list_format: the format of `export` that lists them; leading: rows of the largest and of the tightest groups; originals: URL of the folder of the images' files, or '';
        neighbours: see collect.find_neighbours;
        thumbnails: position -> data
        URI of each of them; versions, fingerprint: as recorded in the workdir.
    """
    name, layer, test_size = facts["name"], facts["layer"], facts["test_size"]
    sentence, verdict = words.answer(summaries, name, facts["fraction"], layer, test_size)
    several = several_layers(summaries)
    answers = noninferiority.answers(summaries, config["report_margin"], facts["level"])
    droppable = [words.droppable(item, name, test_size, several, facts["trial_s"]) for item in answers]
    groups = (at for at, item in enumerate(answers) if methods.get(item.method).has_groups and item.layer == layer)
    main_droppable = droppable[next(groups, 0)][0] if droppable else ""
    full = find(summaries, FULL, 1.0)
    said, judged = [verdict, main_droppable], main_droppable
    if caution := learnt.caution(full and full.mean, len(facts["class_names"]), facts["learnt"]):
        said = [caution.detail, *([sentence, *said] if caution.answers else ())]
        sentence, droppable = caution.sentence, droppable if caution.answers else []
        judged = judged if caution.answers else sentence
    said += [f"{each[0].upper()}{each[1:]}." for each in facts["beyond"]]
    width, height = images.shown_size(facts["image_shape"])
    shown = dict(width=width, height=height, originals=facts["originals"], kept=facts["lists"].get("kept"))
    body = {"pixelated": width > facts["image_shape"][1], "one-class": len(facts["class_names"]) == 1}
    index, texts = browse or (None, [])
    scripts = ("theme.js", "tables.js")
    scripts += ("browser.js", "tree.js", "pair.js", "search.js", "address.js") if index else ()
    scripts += ("lines.js",) if len(facts["lines"]) > figures.MANY else ()
    return _ENVIRONMENT.get_template("page.html").render(
        **facts,
        **_styled(*scripts, files=bool(index) and not index["one_file"], originals=facts["originals"]),
        config=config,
        grouped=methods.grouped(config),
        image_width=width,
        image_height=height,
        classes=" ".join(each for each, there in body.items() if there),
        index=index,
        index_text=Markup(browser.to_text({**index, **shown})) if index else "",
        class_texts=[(label, Markup(text)) for label, text in texts],
        sentence=sentence,
        said=[each for each in said if each],
        verdict=judged,
        droppable=droppable,
        tests=[(method_name(item.method, item.layer, several), test) for item in answers for test in item.tests],
        headlines=_headlines(summaries, facts),
        rows=[(method_name(item.method, item.layer, several), item) for item in summaries],
        trials=max(item.trials for item in summaries),
        plots={key: Markup(plot.inline) for key, plot in plots.items()},
        sections=config_sections(config),
        source=config_source(config),
        many=figures.MANY,
        chosen_lines=_chosen_lines(facts["lines"], facts["fraction"]),
        figures=sorted(plots),
        listed={each["label"] for each in index["classes"]} if index else set(),
        export=_export_command(facts),
        rule_words=_RULES.get(config["rule"], config["rule"]),
    )


def _export_command(facts: Mapping[str, Any]) -> str:
    """The command that lists the images that are dropped; a script puts the page's own workdir for DIR."""
    words = ["redundancy", "export", "--workdir", "DIR", "--fraction", f"{round(facts['fraction'], 4):g}"]
    words += ["--layer", facts["layer"]] if facts["layer"] != "end" else []
    kind = facts["list_format"]
    words += ["--dropped", "--format", kind, "--output", "dropped.csv" if kind == "csv" else "dropped.txt"]
    return " ".join(words)


def _chosen_lines(lines: Sequence[figures.Line], fraction: float) -> set[int]:
    """The lines that stand out at first: of the method with groups, of random, and of the best other one at a fraction."""
    names = [line.summaries[0].method for line in lines]
    known = {at for at, name in enumerate(names) if name == methods.BASELINE or methods.get(name).has_groups}
    others = {}
    for at, line in enumerate(lines):
        item = find(line.summaries, names[at], fraction)
        if at not in known and item is not None:
            others[at] = item.mean
    return known | {max(others, key=others.__getitem__)} if others else known


def render_comparison(plot: figures.Plot, sections: Sequence[Mapping[str, Any]], roots: Sequence[str]) -> str:
    """The page of `redundancy report --compare` as HTML.

    Args:
      plot: the figure.
      sections: for each data set title, images, test_size, rows (experiment, method, summary), and the differing fields.
      roots: the workdirs.
    """
    return _ENVIRONMENT.get_template("compare.html").render(
        plot=Markup(plot.inline), sections=sections, roots=roots, **_styled("theme.js")
    )
