"""Fields of a config about selection, comparison and report."""

import functools

from redundancy import methods
from redundancy.config.field import Affects, Field, below_one, between, fraction_name, one_of, some_of
from redundancy.runtime.errors import ConfigError

LAYERS = ("start", "middle", "end")
BALANCES = ("class", "all", "floor")
RULES = ("cosine_raw_mean", "cosine_unit_mean", "medoid", "minimax")
_MOST_TRAININGS = 100_000

_selection = functools.partial(Field, "Selection")
_in_table = functools.partial(Field, "Experiment", affects=Affects.TABLE)
_reported = functools.partial(Field, "Report", affects=Affects.REPORT)

FIELDS: dict[str, Field] = {
    "layers": _selection(
        ("end",),
        "layers whose pooled output is embedded and clustered",
        **some_of(LAYERS),
        affects=Affects.TABLE,
    ),
    "embedding_parts": _selection(
        8,
        "number of files for each layer's embeddings",
        **between(1, 10_000),
        affects=Affects.EMBEDDINGS,
    ),
    "rule": _selection(
        "cosine_raw_mean",
        "which image of a redundant group is kept",
        **one_of(RULES),
        affects=Affects.RUNS | Affects.COMPARISON,
    ),
    "fractions": _in_table(
        (0.95, 0.9, 0.8, 0.7, 0.6, 0.5),
        "kept shares of the full set",
        "one or more numbers from 0.0001 to 1, at most 1000, that differ in their first four decimals",
        lambda value: (
            len(value) <= 1000
            and all(0.0001 <= item <= 1 for item in value)
            and 0 < len(set(map(fraction_name, value))) == len(value)
        ),
        float,
    ),
    "methods": _in_table(
        methods.DEFAULT,
        "methods that choose the kept images, see docs/methods.md",
        "one or more different names",
        lambda value: 0 < len(set(value)) == len(value),
        str,
    ),
    "balance": _selection(
        "class",
        "division of kept images among classes: 'class' keeps the same share of each class; 'all' keeps the first ones of all "
        "classes together; 'floor' keeps half of its share of each class, and the rest from all classes together",
        **one_of(BALANCES),
        affects=Affects.COMPARISON,
    ),
    "score_trials": _selection(
        5,
        "number of networks over which a score such as EL2N is averaged; no trial has their seeds",
        **between(1, 1000),
        affects=Affects.SCORES | Affects.COMPARISON,
    ),
    "score_at": _selection(
        0.1,
        "share of the training after which el2n, grand and grand_last are computed; assumed",
        "a number above 0 and up to 1",
        lambda value: 0 < value <= 1,
        affects=Affects.SCORES | Affects.COMPARISON,
    ),
    "score_window": _selection(
        10, "epochs in a window of dyn_unc and dual", **between(2, 1000), affects=Affects.SCORES | Affects.COMPARISON
    ),
    "ccs_score": _selection(
        "aum",
        "score that the method ccs uses",
        "a score that a network makes, such as aum, or score_NAME of an imported one",
        lambda value: (
            (found := methods.find(value)) is not None and found.score is not None and not found.easy and value != "ccs"
        ),
        affects=Affects.COMPARISON,
    ),
    "ccs_cutoff": _selection(
        0.0,
        "share of the hardest images that ccs drops first",
        **below_one(),
        affects=Affects.COMPARISON,
    ),
    "trials": _in_table(10, "trainings of each method and fraction, with paired seeds", **between(1, 10_000)),
    "report_fraction": _reported(
        0.9,
        "kept share for which the report shows groups; the nearest of `fractions` is used",
        "a number above 0 and up to 1",
        lambda value: 0 < value <= 1,
    ),
    "report_margin": _reported(
        0.002,
        "loss of test accuracy up to which a subset counts as no worse than the full set, as a share: 0.002 is 0.2 "
        "points; to be chosen before the results are seen",
        **between(0.00001, 0.1),
    ),
    "report_classes": _reported(
        0,
        "classes whose groups the report shows: so many, the most telling first, or those of these names; 0 is all",
        "a number from 0 to 100000, or different names of classes, with commas between them",
        lambda value: (
            0 < len(set(value)) == len(value) and all(value) if isinstance(value, tuple) else 0 <= value <= 100_000
        ),
        or_names=True,
    ),
    "report_groups": _reported(
        0,
        "redundant groups of a class and fraction that the report shows with pictures at most; 0 is as many as keep the "
        "page small",
        **between(0, 100_000),
    ),
}


def check(config) -> None:
    """Raises ConfigError for an unknown method, one that does not suit other fields, or too many trainings."""
    for name in config.methods:
        methods.need(name, "config.methods: a name")
    if config.balance != "class":
        floor = config.balance == "floor"  # which takes the first images of an order
        within = [each.name for each in methods.chosen(config) if not each.over_classes or (floor and not each.order)]
        if within:
            raise ConfigError(
                f"config.balance is {config.balance!r}, which these methods do not support: {', '.join(within)}. Remove them from "
                "config.methods, or set balance to 'class'."
            )
    beyond = [fraction for fraction in config.fractions if fraction < 1 and fraction + config.ccs_cutoff > 1 + 1e-9]
    if "ccs" in config.methods and beyond:
        raise ConfigError(
            f"config.ccs_cutoff is {config.ccs_cutoff:g}: the method ccs drops that share of the hardest images first, so it "
            f"cannot keep {beyond[0]:g}. Lower ccs_cutoff, or leave out fractions above {1 - config.ccs_cutoff:g}."
        )
    chosen = sum(len(method.layers(config)) for method in methods.chosen(config))
    trainings = config.trials * (1 + chosen * len(config.fractions))
    if trainings > _MOST_TRAININGS:
        raise ConfigError(
            f"config.trials is {config.trials} and config.fractions has {len(config.fractions)} numbers: {trainings} trainings; "
            f"wanted at most {_MOST_TRAININGS}. Lower config.trials, or give fewer fractions."
        )
