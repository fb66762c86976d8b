"""The registry of selection methods: the inputs of each and the properties of its subsets. To add a method, add an entry.

Every command reads this table, so expensive imports happen only when a method runs. docs/methods.md names each one's authors.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from redundancy.runtime.errors import ConfigError, nearest

IMPORTED = "score_"  # prefix of the names of imported scores
_IMPORTED = re.compile(rf"{IMPORTED}[a-z0-9_]{{1,40}}")
_EASY = "_easy"
NETWORK_FIELDS = ("score_trials", "score_at", "score_window", "seed")  # fields that scores of our networks depend on


@dataclasses.dataclass(frozen=True)
class Method:
    """A selection method; knows nothing of files.

    There are two kinds. An *order* ranks the images of a class, and the first k are kept: by the function `order`, or by a
    `score`, highest first. A *choice* (`choose`) may depend on k in any way.

    Attributes:
      name: name in configs, results and file names; letters, digits and underscores.
      title, how: name in the report, and the text there after "chosen".
      choose: decides which of the n images of a class are kept. Keyword arguments: label, positions [n] int64 ascending, k
        (images to keep, below n), config, trial (None unless per_trial), embeddings [n, d] float32 (None unless per_layer),
        score [n] float64 (None unless it reads one) and merges (None unless has_groups). Returns a tuple of kept [n] bool and,
        if has_groups, group [n] int64 in 0…k-1 and dissimilarity [n] float64 to the kept image of the group.
      order: takes the same arguments; returns [k] int64, rows of the class in the order in which they are kept.
      score: function from a config to the name of the score that the method reads; None if it reads none.
      easy: whether it keeps the lowest scores instead of the highest.
      has_groups: whether it cuts the merges of the stage link into groups; then per_layer is True, too. `choose` gets several
        small classes at once as if they were one, without a label, and only the n - k merges to apply.
      per_layer: whether it reads embeddings, and so has a subset for each of config.layers.
      per_trial: whether it is random, and so has a subset for each trial.
      over_classes: whether it can choose from all classes together, see config.balance.
      fields: config fields that a subset depends on, besides fractions, layers and trials.
    """

    name: str
    title: str
    how: str
    choose: Callable[..., tuple] | None = None
    has_groups: bool = False
    per_layer: bool = False
    per_trial: bool = False
    fields: tuple[str, ...] = ()
    order: Callable[..., Any] | None = None
    score: Callable[[Mapping[str, Any]], str] | None = None
    easy: bool = False
    over_classes: bool = False

    def layers(self, config: Mapping[str, Any]) -> Sequence[str | None]:
        return config["layers"] if self.per_layer else (None,)

    def trials(self, config: Mapping[str, Any]) -> Sequence[int | None]:
        return range(config["trials"]) if self.per_trial else (None,)


def _semantic(*, merges, embeddings, k, config, **_):
    from redundancy.methods.semantic import semantic_subset

    return semantic_subset(merges, embeddings, k, config.rule)


def _random(*, label, positions, k, config, trial, **_):
    from redundancy.methods.random import random_order

    return random_order(positions, (config.seed, trial, label))[:k]


def _ccs(*, label, score, k, config, trial, **_):
    from redundancy.methods.samplers import ccs

    return (ccs(score, k, config.ccs_cutoff, _drawn("ccs", config, label, trial)),)


def _of_embeddings(name: str) -> Callable[..., Any]:
    def order(*, embeddings, k, label, config, **_):
        from redundancy.methods import orders

        if name == "k_center":
            return orders.k_center(embeddings, k, _drawn(name, config, label))
        return getattr(orders, name)(embeddings, k)

    return order


def _by_score(*, score, k, label, config, trial, **_):
    from redundancy.methods import orders

    return orders.by_score(score, None if trial is None else _drawn("ties", config, label, trial))[:k]


def _drawn(purpose: str, config, label: int, trial: int | None = None):
    """A NumPy generator for one purpose, class and trial; each has its own sequence."""
    import numpy as np

    words = [*purpose.encode(), config.seed, label, 0 if trial is None else trial + 1]
    return np.random.default_rng(np.random.SeedSequence(words))


def _embedded(name: str, title: str, fields: tuple[str, ...] = ()) -> Method:
    return Method(name, title, f"by {title}", per_layer=True, order=_of_embeddings(name), fields=fields)


def _scored(name: str, title: str, drawn: bool = False, fields: tuple[str, ...] = NETWORK_FIELDS) -> list[Method]:
    """The method that keeps the images with the highest scores (the hard images, for most scores), and its opposite."""
    both = dict(
        order=_by_score, score=lambda config: name, per_trial=drawn, over_classes=True, fields=("balance", *fields)
    )
    return [
        Method(name, title, f"by {title}", **both),
        Method(name + _EASY, f"{title}, reversed", f"by {title}, reversed", easy=True, **both),
    ]


_SEMANTIC = Method(
    "semantic", "semantic clustering", "by semantic clustering", _semantic, True, per_layer=True, fields=("rule",)
)
_RANDOM = Method(
    "random", "random", "at random", order=_random, per_trial=True, over_classes=True, fields=("seed", "balance")
)
_CCS = Method(
    "ccs", "coverage-centric sampling", "by coverage-centric sampling", _ccs, per_trial=True, over_classes=True,
    score=lambda config: config["ccs_score"], fields=("ccs_score", "ccs_cutoff", "balance", *NETWORK_FIELDS),
)  # fmt: skip
METHODS = {
    method.name: method
    for method in (
        _SEMANTIC,
        _RANDOM,
        *_scored("el2n", "EL2N"),
        *_scored("entropy", "entropy"),
        *_scored("least_confidence", "least confidence"),
        *_scored("margin", "margin"),
        *_scored("grand_last", "GraNd of the last layer"),
        *_scored("grand", "GraNd"),
        *_scored("grand_end", "gradient norm after training"),
        *_scored("forgetting", "forgetting", drawn=True),
        *_scored("aum", "AUM"),
        *_scored("dual", "DUAL"),
        *_scored("dyn_unc", "Dyn-Unc"),
        _CCS,
        _embedded("k_center", "k-center", ("seed",)),
        _embedded("semdedup", "SemDeDup"),
        _embedded("prototypes", "prototypes"),
        _embedded("prototypes_easy", "prototypes, reversed"),
        _embedded("herding", "herding"),
        _embedded("moderate", "Moderate"),
        _embedded("facility_location", "facility location"),
    )
}
# The methods compared by `:methods` of configs/digits.py and configs/cifar10.py.
COMPARED = (
    "semantic", "random", "el2n", "grand_end", "forgetting", "aum", "dual", "ccs", "k_center", "semdedup",
)  # fmt: skip
BASELINE = _RANDOM.name  # the report compares the other methods with it
DEFAULT = (_SEMANTIC.name, BASELINE)


def find(name: Any) -> Method | None:
    """The method with this name, from the table or, for score_NAME, of an imported score; None if there is none."""
    if name in METHODS:
        return METHODS[name]
    if not isinstance(name, str) or not _IMPORTED.fullmatch(name):
        return None
    score = name.removesuffix(_EASY)
    title = score.removeprefix(IMPORTED)
    return next((each for each in _scored(score, title, drawn=True, fields=("seed",)) if each.name == name), None)


def need(name: Any, what: str) -> Method:
    """As `find`, but raises ConfigError, whose message begins with `what`, if there is none."""
    if (found := find(name)) is None:
        near = nearest(name, METHODS) if isinstance(name, str) else ""
        raise ConfigError(
            f"{what} is {name!r}; wanted one of {', '.join(METHODS)}, or {IMPORTED}NAME for a score that was imported as "
            f"NAME.{near}"
        )
    return found


def get(name: str) -> Method:
    """As `find`, but returns a method without properties for the full set and for unknown names."""
    return find(name) or Method(name, name, f"by {name}")


def place(name: str) -> tuple[int, str]:
    """Sort key of names: the order of the table; imported and unknown ones come last."""
    return (list(METHODS).index(name) if name in METHODS else len(METHODS)), name


def in_order(names: Iterable[str]) -> list[str]:
    """The names without repetitions, in the order of the table."""
    return sorted(dict.fromkeys(names), key=place)


def chosen(config: Mapping[str, Any]) -> list[Method]:
    """The methods of a config, in the order of the table."""
    return [get(name) for name in in_order(config["methods"])]


def grouped(config: Mapping[str, Any]) -> Method | None:
    """The config's method whose groups are linked and shown; None if no method has groups."""
    return next((method for method in chosen(config) if method.has_groups), None)


def scores(config: Mapping[str, Any]) -> list[str]:
    """Names of the scores that the methods of a config read, each once."""
    return list(dict.fromkeys(method.score(config) for method in chosen(config) if method.score))
