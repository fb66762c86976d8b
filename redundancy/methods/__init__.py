"""The registry of selection methods: what each needs and what its subsets have. To add a method, add an entry.

Every command reads this table, so heavy imports happen only when a method chooses.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Method:
    """A selection method; knows nothing of files.

    Attributes:
      name: its name in configs, results and names of files; only letters.
      title, how: its name in the report, and the text there after "chosen".
      choose: which of the n images of a class are kept. Takes by name label, positions [n] int64 ascending, k (images
        to keep), config, trial (None unless per_trial), embeddings [n, d] float32 (None unless per_layer) and merges
        (None unless has_groups). Returns kept [n] bool and, of groups, group [n] int64 in 0…k-1 and dissimilarity [n]
        float64 to the group's kept image. It is asked only where k is below n.
      has_groups: whether it cuts the merges of the stage link into groups; then per_layer is True, too. It gets small
        classes side by side as if they were one, without a label, and of their merges the n - k to cut.
      per_layer: whether it reads embeddings, and so makes a subset for each of config.layers.
      per_trial: whether it draws at random, and so makes a subset for each trial.
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
BASELINE = _RANDOM.name  # the report compares the other methods with it
DEFAULT = (_SEMANTIC.name, BASELINE)


def get(name: str) -> Method:
    """The method with this name; a method without properties for the full set and for unknown names."""
    return METHODS.get(name) or Method(name, name, f"by {name}")


def chosen(config: Mapping[str, Any]) -> list[Method]:
    """The methods of a config, in the order of the table."""
    return [method for method in METHODS.values() if method.name in config["methods"]]


def grouped(config: Mapping[str, Any]) -> Method | None:
    """The config's method whose groups are linked and shown; None if no method has groups."""
    return next((method for method in chosen(config) if method.has_groups), None)
