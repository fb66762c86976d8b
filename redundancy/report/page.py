"""The page: what was computed, filled into page.html. Pure; everything from outside is escaped by the template."""

import base64
import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from redundancy import config as config_lib
from redundancy.report import browser, images, noninferiority, words
from redundancy.report.figures import Plot
from redundancy.report.statistics import FULL, Summary, find
from redundancy.selection import methods

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("redundancy.report", "."),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_ENVIRONMENT.filters.update(
    percent=words.percent, accuracy=words.accuracy, points=words.points, interval=words.interval, small=words.small,
    plural=words.plural, class_title=words.class_title, p_value=words.p_value,
)  # fmt: skip

_RULES = {
    "cosine_raw_mean": "the image nearest, by cosine, to the mean of the group's embeddings",
    "cosine_unit_mean": "the image nearest, by cosine, to the mean of the group's embeddings scaled to unit length",
    "medoid": "the image with the least sum of dissimilarities to the rest of the group",
    "minimax": "the image whose farthest fellow of the group is nearest",
}


_SCRIPTS = ("theme.js",)
_BROWSER_SCRIPTS = (*_SCRIPTS, "browser.js", "tree.js")


def _text(name: str) -> str:
    """A file beside this one."""
    return importlib.resources.files("redundancy.report").joinpath(name).read_text("utf-8")


def _policy(css: str, script: str, files: bool = False) -> str:
    """The page's content security policy: its own style and script, pictures in it, and nothing from anywhere.

    Args:
      css, script: as they stand on the page.
      files: whether classes are loaded from files beside the page.
    """
    style, code = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (css, script)
    )
    beside = " 'self' file:" if files else ""
    return (
        f"default-src 'none'; style-src {style}; script-src {code}{beside}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def method_name(method: str, layer: str, several_layers: bool) -> str:
    """A method as the page calls it."""
    if method == FULL:
        return "full set"
    return f"{method}, {layer}" if several_layers and methods.get(method).per_layer else method


def config_source(config: Mapping[str, Any]) -> str:
    """A config file that gives this config: the fields that differ from their defaults."""
    lines = [
        "from redundancy import config as config_lib",
        "",
        "",
        "def get_config():",
        "    config = config_lib.defaults()",
    ]
    for name, field in config_lib.FIELDS.items():
        if config[name] != field.default:
            lines.append(f"    config.{name} = {config[name]!r}")
    return "\n".join([*lines, "    return config", ""])


def config_sections(config: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Section -> its fields with name, value, whether it is the default, and what it means."""
    sections: dict[str, list[dict[str, Any]]] = {}
    for name, field in config_lib.FIELDS.items():
        value = config[name]
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        row = dict(name=name, value=shown or "''", changed=value != field.default, doc=field.doc)
        sections.setdefault(field.section, []).append(row)
    return sections


def _headlines(full_size, test_size, class_count, run_count, fraction, summaries, class_rows) -> list[tuple[str, str]]:
    """Pairs of a number and what it counts."""
    full = find(summaries, FULL, 1.0)
    spread = f" (std {words.accuracy(full.std)})" if full and full.trials > 1 else ""
    numbers = [
        (f"{full_size:,}", f"training images in {words.plural(class_count, 'class')}"),
        (
            f"{words.accuracy(full.mean)}%" if full else "–",
            f"test accuracy of the full set on {words.plural(test_size, 'image')}{spread}",
        ),
        (f"{run_count:,}", "trainings compared" if run_count != 1 else "training"),
    ]
    if class_rows:
        total = class_rows[-1]
        numbers += [
            (
                f"{total['groups']:,}",
                f"redundant groups at {words.percent(fraction)} kept, of up to {total['largest']} images",
            ),
            (f"{total['images'] - total['kept']:,}", f"images dropped at {words.percent(fraction)} kept"),
        ]
    return numbers


def render(
    *,
    config: Mapping[str, Any],
    name: str,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
    full_size: int,
    test_size: int,
    run_count: int,
    fraction: float,
    layer: str,
    summaries: Sequence[Summary],
    plots: Mapping[str, Plot],
    class_rows: Sequence[Mapping[str, Any]],
    browse: tuple[Mapping[str, Any], Sequence[tuple[int, str]]] | None,
    neighbours: Sequence[Mapping[str, Any]],
    thumbnails: Mapping[int, str],
    versions: Mapping[str, str],
    fingerprint: Mapping[str, Any],
) -> str:
    """The whole page as HTML.

    Args:
      config: resolved config.
      name: of the data set.
      class_names: by label.
      image_shape: (H, W, C) in pixels.
      full_size, test_size, run_count: numbers of training images, test images and trainings.
      fraction, layer: whose groups are shown.
      summaries: all results.
      plots: by name: figure2, figure4 (where there are groups), figure8 (where there are several layers).
      class_rows: Table 1, the whole data set last; empty without a subset that has groups.
      browse: index and texts of the class browser, see collect.fill_browser; None where there is no group.
      neighbours: Figure 12, see collect.find_neighbours.
      thumbnails: position -> data URI, of every position in `neighbours`.
      versions, fingerprint: as recorded in the workdir.
    """
    sentence, verdict = words.answer(summaries, name, fraction, layer, test_size)
    several_layers = len({item.layer for item in summaries if methods.get(item.method).per_layer}) > 1
    answers = noninferiority.answers(summaries, config["report_margin"])
    droppable = [(item, *words.droppable(item, name, test_size, several_layers)) for item in answers]
    width, height = images.shown_size(image_shape)
    index, texts = browse or (None, [])
    css, script = _text("page.css"), "".join(_text(name) for name in (_BROWSER_SCRIPTS if index else _SCRIPTS))
    return _ENVIRONMENT.get_template("page.html").render(
        config=config,
        grouped=methods.grouped(config),
        name=name,
        class_names=class_names,
        image_width=width,
        image_height=height,
        classes=" ".join(
            each
            for each, there in (("pixelated", width > image_shape[1]), ("one-class", len(class_names) == 1))
            if there
        ),
        index=index,
        index_text=Markup(browser.to_text({**index, "width": width, "height": height})) if index else "",
        class_texts=[(label, Markup(text)) for label, text in texts],
        css=Markup(css),
        script=Markup(script),
        policy=_policy(css, script, files=bool(index) and not index["one_file"]),
        full_size=full_size,
        test_size=test_size,
        fraction=fraction,
        layer=layer,
        sentence=sentence,
        verdict=verdict,
        droppable=droppable,
        main_droppable=next(
            (text for item, text, _ in droppable if methods.get(item.method).has_groups and item.layer == layer),
            droppable[0][1] if droppable else "",
        ),
        tests=[(method_name(item.method, item.layer, several_layers), test) for item in answers for test in item.tests],
        headlines=_headlines(full_size, test_size, len(class_names), run_count, fraction, summaries, class_rows),
        rows=[(method_name(item.method, item.layer, several_layers), item) for item in summaries],
        trials=max(item.trials for item in summaries),
        plots={key: Markup(plot.inline) for key, plot in plots.items()},
        class_rows=class_rows,
        neighbours=neighbours,
        thumbnails=thumbnails,
        versions=versions,
        fingerprint=fingerprint,
        sections=config_sections(config),
        source=config_source(config),
        rule_words=_RULES.get(config["rule"], config["rule"]),
    )


def render_comparison(plot: Plot, sections: Sequence[Mapping[str, Any]], roots: Sequence[str]) -> str:
    """The page of `redundancy report --compare` as HTML.

    Args:
      plot: the figure.
      sections: for each data set title, images, test_size, rows (experiment, method, summary), and the differing fields.
      roots: the workdirs.
    """
    css, script = _text("page.css"), "".join(_text(name) for name in _SCRIPTS)
    return _ENVIRONMENT.get_template("compare.html").render(
        plot=Markup(plot.inline),
        sections=sections,
        roots=roots,
        css=Markup(css),
        script=Markup(script),
        policy=_policy(css, script),
    )
