"""The certainty of the comparison with the full set so far, and the number and time of further trials that are needed."""

from collections.abc import Mapping
from typing import Any

from redundancy.config import fraction_name
from redundancy.status.files import Files
from redundancy.status.runs import of_sweep
from redundancy.workdir import Workdir, rounds


def survey(files: Files, config: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The comparison of each method, layer and fraction with the full set; None before two trials have a result.

    All pairs are used, including those of trials in which other runs are missing. On remote storage no results are read.

    Args:
      files: files of the workdir.
      config: the recorded config.
      found: result of `runs.sweep`.

    Returns:
      margin: loss of accuracy, as a share, up to which a subset counts as no worse; and rows, each with method, layer,
      fraction, pairs, mean, low, high (None without an interval), verdict, trials_more: further trials that would show it no
      worse (None if decided or impossible), and seconds: their time for all rows, at the sweep's rate (None if unknown).
    """
    runs = found["all"]
    full = {run["trial"] for run in runs if run["method"] == "full" and run["result"]}
    paired = {run["trial"] for run in runs if run["method"] != "full" and run["result"]} & full
    if len(paired) < 2:
        return None
    # Imports SciPy only if there is something to compute.
    from redundancy.report import looks, noninferiority, statistics

    record = files.read("runs/looks.json", lambda _: rounds.read(Workdir(files.root)))
    level = looks.level(record, max(paired) + 1)
    margin, pace = config["report_margin"], of_sweep(files, config, found)
    results = [
        statistics.Run(
            run["method"],
            run["layer"],
            float(fraction_name(run["fraction"])),
            run["result"].get("images", 0),
            run["trial"],
            run["result"]["test_correct"] / run["result"]["test_size"],
            run["result"]["test_size"],
        )
        for run in runs
        if run["result"]
    ]
    steps = [run["steps"] for run in runs if run["trial"] == 0]
    trial_s = sum(steps) / pace["per_second"] if pace else None
    rows = [
        {
            "method": answer.method,
            "layer": answer.layer,
            "fraction": test.fraction,
            "pairs": test.difference.pairs,
            "mean": test.difference.mean,
            "low": test.difference.low if test.difference.has_interval else None,
            "high": test.difference.high if test.difference.has_interval else None,
            "verdict": test.verdict,
            "trials_more": test.trials_more,
            "seconds": test.trials_more * trial_s if test.trials_more and trial_s else None,
        }
        for answer in noninferiority.answers(statistics.summarise(results, level), margin, level)
        for test in answer.tests
    ]
    return {"margin": margin, "rows": rows}
