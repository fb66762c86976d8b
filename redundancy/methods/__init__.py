"""The methods of choosing what is kept: what each needs, and what its subsets have. A further method is an entry here.

Every command reads this table, so nothing heavy is imported before a method chooses.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Method:
    """A method; knows nothing of files.

    Attributes:
      name: in configs, results and names of files; letters alone.
      title, how: what the report calls it, and what stands there after "chosen".
      choose: which of the n images of a class are kept. Takes by name label, positions [n] int64 ascending, k (images
        to keep), config, trial (None unless per_trial), embeddings [n, d] float32 (None unless per_layer) and merges
        (None unless has_groups). Returns kept [n] bool and, of groups, group [n] int64 in 0…k-1 and dissimilarity [n]
        float64 to the group's kept image.
      has_groups: whether it cuts the merges of the stage link into groups; it is per_layer then.
      per_layer: whether it reads embeddings: a subset for each of config.layers.
      per_trial: whether it draws: a subset for each trial.
      fields: of the config, besides fractions, layers and trials, that a subset depends on.
    """

    name: str
    title: str
    how: str
    choose: Callable[..., tuple] | None = None
    has_groups: bool = False
    per_layer: bool = False
    per_trial: bool = False
    fields: tuple[str, ...] = ()

    def layers(self, config: Mapping[str, Any]) -> Sequence[str | None]:
        return config["layers"] if self.per_layer else (None,)

    def trials(self, config: Mapping[str, Any]) -> Sequence[int | None]:
        return range(config["trials"]) if self.per_trial else (None,)


def _semantic(*, merges, embeddings, k, config, **_):
    from redundancy.methods.semantic import semantic_subset

    return semantic_subset(merges, embeddings, k, config.rule)


def _random(*, label, positions, k, config, trial, **_):
    from redundancy.methods.random import random_rows

    return (random_rows(positions, k, (config.seed, trial, label)),)


_SEMANTIC = Method(
    "semantic", "semantic clustering", "by semantic clustering", _semantic, True, per_layer=True, fields=("rule",)
)
_RANDOM = Method("random", "random", "at random", _random, per_trial=True, fields=("seed",))
METHODS = {method.name: method for method in (_SEMANTIC, _RANDOM)}
BASELINE = _RANDOM.name  # with which the report compares the others
DEFAULT = (_SEMANTIC.name, BASELINE)


def get(name: str) -> Method:
    """The method; one without properties for the full set, or for a name that this version lacks."""
    return METHODS.get(name) or Method(name, name, f"by {name}")


def chosen(config: Mapping[str, Any]) -> list[Method]:
    """The methods of a config, in the order of the table."""
    return [method for method in METHODS.values() if method.name in config["methods"]]


def grouped(config: Mapping[str, Any]) -> Method | None:
    """The config's method whose groups are linked and shown; None where none has any."""
    return next((method for method in chosen(config) if method.has_groups), None)
