"""The stages link and select without files: from embeddings of any model, in memory or memory-mapped, to the kept rows.

Modules that take long to import, above all JAX, are imported at first use.
"""

import dataclasses
import functools
import numbers
import types
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from redundancy import methods
from redundancy.config import FIELDS, share_hint
from redundancy.runtime.errors import ConfigError

if TYPE_CHECKING:
    from redundancy.interface.arrays import ArrayVectors
    from redundancy.linkage.classes import Linked
    from redundancy.methods.choose import Choice


def check_fraction(fraction: Any) -> float:
    """The fraction as a float; raises ConfigError if it is not a number above 0 and up to 1."""
    real = isinstance(fraction, numbers.Real) and not isinstance(fraction, bool)
    if not real or not 0 < fraction <= 1:  # also refuses NaN
        hint = share_hint(FIELDS["report_fraction"], fraction)
        raise ConfigError(f"fraction is {fraction!r}; wanted a number above 0 and up to 1, such as 0.9.{hint}")
    # Converted through its digits, since 0.9 in float32 is another number.
    return float(str(fraction)) if isinstance(fraction, np.floating) else float(fraction)


def check_rule(rule: Any) -> str:
    """Returns the rule; raises ConfigError if there is no rule of this name."""
    field = FIELDS["rule"]
    if not isinstance(rule, str) or not field.check(rule):
        raise ConfigError(f"rule is {rule!r}; wanted: {field.wanted} ({field.doc}).")
    return rule


class _Classes(NamedTuple):
    """Classes that are linked together, as tuples of equal lengths."""

    labels: tuple[int, ...]
    sizes: tuple[int, ...]
    num_merges: tuple[int, ...]

    @property
    def label(self) -> int:
        return self.labels[0]

    @property
    def num_images(self) -> int:
        return sum(self.sizes)


@dataclasses.dataclass(frozen=True)
class Data:
    """Embeddings with their classes.

    Attributes:
      vectors: [N, d].
      labels: [N] int32, indices in `classes`.
      classes: [K] int64 or texts, the original labels.
    """

    vectors: "ArrayVectors"
    labels: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, embeddings: Any, labels: Any, names: tuple[str, str] = ("embeddings", "labels")) -> "Data":
        """Checks the arguments of a caller; reads all embeddings once, block by block.

        Args:
          embeddings: see `select`.
          labels: see `select`.
          names: names of the two arguments, for messages.

        Raises:
          DataError: embeddings or labels are not as described in `select`.
        """
        from redundancy.importing.vectors import checked
        from redundancy.interface import arrays

        vectors = arrays.ArrayVectors(names[0], embeddings)
        numbered, classes = arrays.encode(names[1], labels, vectors.num_rows)
        for _ in checked(vectors):
            pass
        return cls(vectors, numbered, classes)

    @functools.cached_property
    def rows(self) -> dict[int, np.ndarray]:
        """Rows of each class, ascending."""
        from redundancy.methods.counts import rows_by_class

        return rows_by_class(self.labels)

    def link(self, fraction: float) -> "Linked":
        """The merges of each class, as from the stage link: enough for any fraction at or above this one.

        Raises:
          DataError: a class does not fit in memory.
        """
        from redundancy.linkage import classes, complete
        from redundancy.linkage.batches import batches
        from redundancy.methods.counts import merges_to_make
        from redundancy.selection import local

        sizes = {label: len(rows) for label, rows in self.rows.items()}
        wanted = merges_to_make(sizes, [fraction])
        todo = [
            _Classes(*(tuple(map(of, labels)) for of in (int, sizes.get, wanted.get)))
            for labels in batches({label: sizes[label] for label, number in wanted.items() if number})
        ]
        made = {}

        def link(of: _Classes, advance=None) -> None:
            vectors = self.vectors.rows(np.concatenate([self.rows[label] for label in of.labels]))
            made[of.label] = classes.link(vectors, of.sizes, of.num_merges, advance)

        local.run(todo, lambda *_: None, link)
        merges = complete.concatenate([made[label] for label in sorted(made)])
        return classes.Linked.of(np.array([*wanted]), np.array([*wanted.values()]), merges)

    def choose(self, linked: "Linked", fraction: float, rule: str) -> "Choice":
        """The choice that the stage select makes, from merges that suffice for the fraction."""
        from redundancy.methods.choose import choose
        from redundancy.methods.counts import beyond_fraction

        if said := beyond_fraction(np.bincount(self.labels), fraction):
            warnings.warn(f"{said[0].upper()}{said[1:]}.", stacklevel=3)
        method = methods.METHODS[methods.DEFAULT[0]]
        (choice,) = choose(
            method, self.labels, np.arange(len(self.labels)), [(fraction, None)], types.SimpleNamespace(rule=rule),
            read=lambda _, rows: self.vectors.rows(rows), linked=linked,
        )  # fmt: skip
        return choice


def select(embeddings: Any, labels: Any = None, fraction: float = 0.9, *, rule: str = "cosine_raw_mean") -> np.ndarray:
    """Chooses the rows to keep: groups the rows of each class by complete linkage, and keeps one row of each group.

    The result equals that of `redundancy link` and `redundancy select` for these embeddings, bit for bit. Classes are read one
    after the other, small ones together, so a memory-mapped array may be larger than memory, but each class must fit.

    Args:
      embeddings: [N, d] numbers, finite and no row zero: an array of NumPy, JAX or PyTorch, a data frame, or lists. They are
        converted to float32; a float64 row outside of its range is scaled, which preserves its direction.
      labels: [N] non-negative integers, or texts: the class of each row. None: all rows are of one class.
      fraction: kept share of all rows, above 0 and up to 1; at least one row of each class is kept.
      rule: which row of a group is kept, as config.rule: cosine_raw_mean, cosine_unit_mean, medoid or minimax.

    Returns:
      [n] int64, positions of the kept rows, ascending.

    Raises:
      ConfigError: fraction or rule is invalid; a ValueError.
      DataError: embeddings or labels are invalid, or a class does not fit in memory; a ValueError.
    """
    fraction, rule = check_fraction(fraction), check_rule(rule)
    data = Data.of(embeddings, labels)
    return np.flatnonzero(data.choose(data.link(fraction), fraction, rule).kept)
