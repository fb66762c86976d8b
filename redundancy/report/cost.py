"""What a further trial costs in time, by the trainings that there are."""

from collections.abc import Iterable

from redundancy import storage
from redundancy.runtime.errors import DataError
from redundancy.workdir import Workdir, table


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals: what was trained at once, as in a pack, counts once."""
    total, reached = 0.0, float("-inf")
    for first, last in sorted(intervals):
        total += max(0.0, last - max(first, reached))
        reached = max(reached, last)
    return total


def trial_seconds(config, workdir: Workdir, num_images: int) -> float | None:
    """Seconds of one more trial of all rows, at the rate of the sweep; None if unknown.

    Args:
      config: resolved config.
      workdir: workdir with runs.
      num_images: training images of the full set.
    """
    runs = table.runs(config, num_images)
    intervals, steps = [], 0
    for run in runs:
        try:
            result = storage.read_json(workdir.result(run.name))
        except (DataError, FileNotFoundError):
            continue
        ended, seconds = (result.get(name) if isinstance(result, dict) else None for name in ("time", "seconds"))
        if isinstance(ended, int | float) and isinstance(seconds, int | float):
            intervals.append((ended - seconds, ended))
            steps += run.steps
    of_trial = sum(run.steps for run in runs if run.trial == 0)
    return covered(intervals) * of_trial / steps if steps else None
