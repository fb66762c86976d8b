"""Statistics over trials: mean and spread of each method and fraction, and differences between paired trials.

Pure: takes runs, returns numbers as shares of 1 (0.01 is one percentage point). Knows nothing of files or words.
noninferiority.py decides whether a subset is no worse than the full set.

All intervals are over retrainings, on the one test set: see docs/statistics.md for what they do not cover.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import special

from redundancy.config import fraction_name, same_fraction
from redundancy.methods import BASELINE

CONFIDENCE = 0.95
LEVEL = (1 - CONFIDENCE) / 2  # on each side of an interval
FULL = "full"
# Differences that lie closer together than this are equal up to rounding: the pairs show no spread.
_NO_SPREAD = 1e-12


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: a row of results.csv.

    Attributes:
      method, layer, fraction, size, trial: the subset that was trained on, and the trial.
      accuracy: share of test images that were classified correctly.
      test_size: number of test images.
    """

    method: str
    layer: str
    fraction: float
    size: int
    trial: int
    accuracy: float
    test_size: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """Mean difference of paired trials, with its Student t interval over the pairs.

    Attributes:
      mean: of the differences.
      low, high: ends of the interval; NaN for one pair, or pairs that all differ by the same.
      pairs: trials that both sides have.
      std: of the differences (ddof=1); NaN if there is no interval.
    """

    mean: float
    low: float
    high: float
    pairs: int
    std: float = math.nan

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low)

    @property
    def sign(self) -> int:
        """-1 or 1 if the whole interval lies on that side of 0, else 0: these pairs do not decide it."""
        return -1 if self.high < 0 else 1 if self.low > 0 else 0


@dataclasses.dataclass(frozen=True)
class Summary:
    """All trials of one method, layer and fraction.

    Attributes:
      method, layer, fraction, size, trials: the subset that was trained on, and how often.
      mean, std: of the test accuracy over trials; std (ddof=1) is NaN for one trial.
      to_full: difference to the full set, paired by trial; None for the full set itself or if no trial pairs.
      to_random: difference to random subsets of the same fraction; None for these, the full set, or without any.
    """

    method: str
    layer: str
    fraction: float
    size: int
    trials: int
    mean: float
    std: float
    to_full: Difference | None
    to_random: Difference | None


def parse_results(text: str) -> list[Run]:
    """The rows of results.csv, in the order of the file."""
    types = dict(method=str, layer=str, fraction=float, size=int, trial=int, accuracy=float, test_size=int)
    return [
        Run(*(kind(row["test_accuracy" if name == "accuracy" else name]) for name, kind in types.items()))
        for row in csv.DictReader(io.StringIO(text))
    ]


def estimate(values: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean and spread of samples, with Student's t interval of the mean.

    Args:
      values: [..., N] float64, N >= 1 draws of each sample.
      level: of the interval on each side.

    Returns:
      mean, std (ddof=1), low and high, each [...]; all but the mean NaN if a sample has one value or no spread.
    """
    count = values.shape[-1]
    mean = values.mean(-1)
    if count == 1:
        none = np.full_like(mean, math.nan)
        return mean, none, none, none
    std = np.where(np.ptp(values, -1) > _NO_SPREAD, values.std(-1, ddof=1), math.nan)
    half = special.stdtrit(count - 1, 1 - level) * std / math.sqrt(count)
    return mean, std, mean - half, mean + half


def paired_difference(first: dict[int, float], second: dict[int, float], level: float = LEVEL) -> Difference | None:
    """Mean of first - second (trial -> accuracy) over the trials that both have, with its interval; None if none."""
    differences = np.array([first[trial] - second[trial] for trial in sorted(first.keys() & second.keys())])
    if not differences.size:
        return None
    mean, std, low, high = map(float, estimate(differences, level))
    return Difference(mean, low, high, int(differences.size), std)


def summarise(runs: Iterable[Run], level: float = LEVEL) -> list[Summary]:
    """One summary for each method, layer and fraction: the full set first, then methods and layers in the order of the
    runs, each with descending fractions. `level` is that of the intervals on each side."""
    cells: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.method, run.layer, fraction_name(run.fraction)), []).append(run)
    accuracies = {key: {run.trial: run.accuracy for run in members} for key, members in cells.items()}
    full = next((value for key, value in accuracies.items() if key[0] == FULL), {})
    random = {key[2]: value for key, value in accuracies.items() if key[0] == BASELINE}
    series = list(dict.fromkeys(key[:2] for key in cells))

    summaries = []
    for (method, layer, text), members in cells.items():
        own = accuracies[method, layer, text]
        values = np.array(list(own.values()))
        summaries.append(
            Summary(
                method,
                layer,
                members[0].fraction,
                members[0].size,
                trials=len(own),
                mean=float(values.mean()),
                std=float(values.std(ddof=1)) if values.size > 1 else math.nan,
                to_full=None if method == FULL else paired_difference(own, full, level),
                to_random=None if method in (FULL, BASELINE) else paired_difference(own, random.get(text, {}), level),
            )
        )
    return sorted(
        summaries, key=lambda item: (item.method != FULL, series.index((item.method, item.layer)), -item.fraction)
    )


def find(summaries: Sequence[Summary], method: str, fraction: float, layer: str | None = None) -> Summary | None:
    """The summary of a method at a fraction (and layer), or None."""
    of_method = (item for item in summaries if item.method == method and layer in (None, item.layer))
    return next((item for item in of_method if same_fraction(item.fraction, fraction)), None)
