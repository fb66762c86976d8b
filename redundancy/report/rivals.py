"""Methods side by side: their differences to random and to the method with groups, and how much they keep the same images."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from redundancy import methods
from redundancy.config import fraction_name
from redundancy.report.statistics import FULL, Difference, Run, paired_difference
from redundancy.selection.subset import Subset, need_subset
from redundancy.workdir import Workdir, subset_name

_SHOWN = 8  # images on each side of a row of the gallery


@dataclasses.dataclass(frozen=True)
class Table:
    """Differences to one method: for each other method a cell for each fraction, None where no trials pair."""

    reference: str
    rows: list[tuple[str, list[Difference | None]]]


def several(config) -> bool:
    """Whether a config has methods to compare besides random and one other."""
    return len(config["methods"]) > 2


def tables(runs: Sequence[Run], layer: str, level: float) -> tuple[list[float], list[Table], int]:
    """Differences of test accuracy between methods, paired by trial.

    Each interval is Student's t at a level that the comparisons share (Bonferroni): all of them cover in 95 % of
    experiments.

    Args:
      runs: of all methods.
      layer: of the methods that read embeddings.
      level: of an interval on each side, which the comparisons share.

    Returns:
      the fractions, descending; a table for each method that others are compared with; and the number of comparisons.
    """
    found: dict[tuple[str, str], dict[int, float]] = {}
    fractions = {}
    for run in runs:
        if run.method != FULL and (not methods.get(run.method).per_layer or run.layer == layer):
            found.setdefault((run.method, fraction_name(run.fraction)), {})[run.trial] = run.accuracy
            fractions[fraction_name(run.fraction)] = run.fraction
    names = methods.in_order(method for method, _ in found)
    ordered = sorted(fractions, key=fractions.__getitem__, reverse=True)
    references = [name for name in names if name == methods.BASELINE or methods.get(name).has_groups]
    # A pair of references stands in both tables and is one comparison.
    pairs = {
        (frozenset((name, reference)), text)
        for name, reference, text in itertools.product(names, references, ordered)
        if name != reference and len(found.get((name, text), {}).keys() & found.get((reference, text), {}).keys()) > 1
    }
    level /= max(1, len(pairs))
    made = [
        Table(
            reference,
            [
                (
                    name,
                    [
                        paired_difference(found.get((name, text), {}), found.get((reference, text), {}), level)
                        for text in ordered
                    ],
                )
                for name in names
                if name != reference
            ],
        )
        for reference in references
    ]
    return [fractions[text] for text in ordered], made, len(pairs)


def read(
    config, workdir: Workdir, files: Sequence[Mapping[str, Any]], fraction: float, layer: str
) -> dict[str, Subset]:
    """The subset of each method at a fraction, of the first trial where one is drawn for each."""
    found = {}
    for method in methods.chosen(config):
        of_layer, trial = (layer if method.per_layer else "end"), (0 if method.per_trial else None)
        found[method.name] = need_subset(workdir.subsets, files, subset_name(method.name, fraction, trial, of_layer))
    return found


@dataclasses.dataclass(frozen=True)
class Overlap:
    """How much two methods keep the same images.

    Attributes:
      share: Jaccard index of the kept images: kept by both, of those kept by one at least.
      low, high: the least and the greatest of a class.
    """

    share: float
    low: float
    high: float


def overlaps(subsets: Mapping[str, Subset]) -> dict[tuple[str, str], Overlap]:
    """The overlap of each pair of methods, in both orders."""
    found = {}
    for (one, first), (other, second) in itertools.combinations(subsets.items(), 2):
        both, either = first.kept & second.kept, first.kept | second.kept
        _, of_row = np.unique(first.labels, return_inverse=True)
        some = np.bincount(of_row, either)
        by_class = np.bincount(of_row, both)[some > 0] / some[some > 0]
        found[one, other] = found[other, one] = Overlap(
            float(both.sum() / either.sum()), float(by_class.min()), float(by_class.max())
        )
    return found


def by_chance(subset: Subset) -> float:
    """The overlap of two random subsets of this size: f / (2 - f) for a share f."""
    share = float(subset.kept.mean())
    return share / (2 - share)


def disagreements(subsets: Mapping[str, Subset], seed: int) -> list[dict[str, Any]]:
    """For each method but the first: positions of images that it alone keeps, and of those that the first alone keeps.

    They are drawn, up to 8 of each.
    """
    (first, reference), *others = subsets.items()
    rows = []
    for name, subset in others:
        if name == methods.BASELINE:
            continue
        rng = np.random.default_rng([seed, len(rows)])

        def some(kept: np.ndarray, subset=subset, rng=rng) -> list[int]:
            return np.sort(rng.permutation(subset.positions[kept])[:_SHOWN]).tolist()

        rows.append(
            dict(
                method=name,
                other=first,
                kept=some(subset.kept & ~reference.kept),
                dropped=some(reference.kept & ~subset.kept),
            )
        )
    return rows
