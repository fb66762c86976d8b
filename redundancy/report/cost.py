"""What a further trial costs in time, by the trainings that there are."""

from collections.abc import Iterable

from redundancy import storage
from redundancy.runtime.errors import DataError
from redundancy.storage.listing import read_tail
from redundancy.workdir import Workdir, table

_TAIL = 4096  # bytes read from the end of a run's metrics


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals: what was trained at once, as in a pack, counts once."""
    total, reached = 0.0, float("-inf")
    for first, last in sorted(intervals):
        total += max(0.0, last - max(first, reached))
        reached = max(reached, last)
    return total


def trial_seconds(config, workdir: Workdir, num_images: int) -> float | None:
    """Seconds of one more trial of all rows, at the rate of the sweep; None if unknown, or if storage is remote.

    Args:
      config: resolved config.
      workdir: workdir with runs.
      num_images: training images of the full set.
    """
    if not storage.is_local(workdir.root):
        return None
    runs = table.runs(config, num_images)
    intervals, steps = [], 0
    for run in runs:
        try:
            seconds = storage.read_json(workdir.result(run.name)).get("seconds")
            lines = storage.json_lines(read_tail(f"{workdir.run(run.name)}/metrics.jsonl", _TAIL), "time")
        except (DataError, FileNotFoundError):
            continue
        if isinstance(seconds, int | float) and lines:
            intervals.append((lines[-1]["time"] - seconds, lines[-1]["time"]))
            steps += run.steps
    of_trial = sum(run.steps for run in runs if run.trial == 0)
    return covered(intervals) * of_trial / steps if steps else None
