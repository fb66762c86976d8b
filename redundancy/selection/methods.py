"""The methods of choosing what is kept, by name: what each needs, and what its subsets have. A further one is an entry.

Every command reads this table, so that nothing heavy is imported until a method chooses.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from redundancy.selection.linkage import Merges


@dataclasses.dataclass(frozen=True)
class ClassImages:
    """The n images of one class, and how many of them to keep.

    Attributes:
      label: the class.
      positions: [n] int64 ascending.
      k: images to keep, 1…n.
      embeddings: [n, d] float32; None unless the method is per_layer.
      merges: at least the first n - k; None unless the method has_groups.
    """

    label: int
    positions: "np.ndarray"
    k: int
    embeddings: "np.ndarray | None"
    merges: "Merges | None"


@dataclasses.dataclass(frozen=True)
class Method:
    """A method, without files and flags.

    Attributes:
      name: in configs, results and names of files; letters alone.
      choose: takes ClassImages, the config and the trial (None unless per_trial); returns kept [n] bool with k True,
        and, only where it has_groups, group [n] int64 in 0…k-1 and dissimilarity [n] float64 to the group's kept image.
      title: what the report calls it.
      how: completes "chosen …" in the report.
      has_groups: whether it cuts the merges of the stage link into groups; it is then per_layer too.
      per_layer: whether it reads embeddings, and makes a subset for each of config.layers.
      per_trial: whether each trial has a subset of its own.
      fields: those of the config, besides fractions, layers and trials, that a subset depends on.
    """

    name: str
    choose: Callable[[ClassImages, Any, int | None], "tuple[np.ndarray, ...]"]
    title: str
    how: str
    has_groups: bool = False
    per_layer: bool = False
    per_trial: bool = False
    fields: tuple[str, ...] = ()

    def layers(self, config: Mapping[str, Any]) -> Sequence[str | None]:
        """Layers that it makes subsets of: (None,) where it reads none."""
        return config["layers"] if self.per_layer else (None,)

    def trials(self, config: Mapping[str, Any]) -> Sequence[int | None]:
        """Trials that it makes subsets for: (None,) where one serves all."""
        return range(config["trials"]) if self.per_trial else (None,)


def _semantic(images: ClassImages, config, trial: int | None):
    from redundancy.selection.choices import semantic_subset

    return semantic_subset(images.merges, images.embeddings, images.k, config.rule)


def _random(images: ClassImages, config, trial: int | None):
    from redundancy.selection.choices import random_rows

    return (random_rows(images.positions, images.k, (config.seed, trial, images.label)),)


BASELINE = "random"  # with which the report compares the others
DEFAULT = ("semantic", BASELINE)  # of config.methods
METHODS = {
    method.name: method
    for method in (
        Method(
            "semantic",
            _semantic,
            "semantic clustering",
            "by semantic clustering",
            True,
            per_layer=True,
            fields=("rule",),
        ),
        Method(BASELINE, _random, "random", "at random", per_trial=True, fields=("seed",)),
    )
}


def get(name: str) -> Method:
    """The method of this name; for the full set, and for one that this version lacks, a name without properties."""
    return METHODS.get(name) or Method(name, lambda *_: (), name, f"by {name}")


def chosen(config: Mapping[str, Any]) -> list[Method]:
    """The methods of a config, in the order of the table."""
    return [method for method in METHODS.values() if method.name in config["methods"]]


def grouped(config: Mapping[str, Any]) -> Method | None:
    """The config's method whose groups are linked and shown; None where none has any."""
    return next((method for method in chosen(config) if method.has_groups), None)
