"""Fields of a config about what is selected, compared and reported."""

import functools

from redundancy import methods
from redundancy.config.field import Affects, Field, between, fraction_name, one_of, some_of
from redundancy.runtime.errors import ConfigError

LAYERS = ("start", "middle", "end")
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
        "files that each layer's embeddings are written in",
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
        "kept shares of the full set to compare with it",
        "one or more numbers from 0.0001 to 1, at most 1000, that differ in their first four decimals",
        lambda value: (
            len(value) <= 1000
            and all(0.0001 <= item <= 1 for item in value)
            and 0 < len(set(map(fraction_name, value))) == len(value)
        ),
        float,
    ),
    "methods": _in_table(methods.DEFAULT, "ways of choosing what is kept", **some_of(methods.METHODS)),
    "trials": _in_table(10, "trainings of each method and fraction, with paired seeds", **between(1, 10_000)),
    "report_fraction": _reported(
        0.9,
        "kept share whose groups the report shows; the nearest of `fractions` is taken",
        "a number above 0 and up to 1",
        lambda value: 0 < value <= 1,
    ),
    "report_margin": _reported(
        0.002,
        "loss of test accuracy up to which a subset counts as no worse than the full set, as a share: 0.002 is 0.2 "
        "points; to be chosen before the results are seen",
        **between(0.00001, 0.1),
    ),
    "report_classes": _reported(0, "classes whose groups the report shows at most; 0 is all", **between(0, 100_000)),
    "report_groups": _reported(
        0,
        "redundant groups of a class and fraction that the report shows with pictures at most; 0 is as many as keep the "
        "page small",
        **between(0, 100_000),
    ),
}


def check(config) -> None:
    """Raises ConfigError if there are too many trainings."""
    chosen = sum(len(method.layers(config)) for method in methods.chosen(config))
    trainings = config.trials * (1 + chosen * len(config.fractions))
    if trainings > _MOST_TRAININGS:
        raise ConfigError(
            f"config.trials is {config.trials} and config.fractions has {len(config.fractions)} numbers: {trainings} trainings; "
            f"wanted at most {_MOST_TRAININGS}. Lower config.trials, or give fewer fractions."
        )
