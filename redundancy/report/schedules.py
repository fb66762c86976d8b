"""A figure of learning rates over a training."""

from collections.abc import Mapping

import matplotlib.figure
import numpy as np

from redundancy.training.schedule import Schedule, learning_rate


def draw(curves: Mapping[str, tuple[Schedule, float]]) -> matplotlib.figure.Figure:
    """Learning rate against the share of the training that is done.

    Args:
      curves: by label, the schedule and the peak learning rate.
    """
    figure = matplotlib.figure.Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for label, (schedule, peak) in curves.items():
        steps = np.unique(np.linspace(0, schedule.steps, 1001).round())
        rates = np.asarray(learning_rate(steps, schedule.steps, peak, schedule.warmup_steps))
        axes.plot(steps / schedule.steps, rates, label=f"{label} ({schedule.steps:,} steps)")
    axes.set(xlabel="share of the training", ylabel="learning rate", xlim=(0, 1), ylim=(0, None))
    axes.legend(frameon=False)
    return figure
