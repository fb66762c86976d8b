"""Whether the network that made the groups learnt enough for them to mean something, and what the page says if not."""

import dataclasses
import itertools

import numpy as np

from redundancy import storage
from redundancy.report import words
from redundancy.workdir import Workdir, read_manifest

# The loss has not fallen if more than this share of what a guess's loss has above the least possible is left.
_FELL = 0.9
# Test accuracy is far below the training's if less than this share of what is above a guess is left.
_CARRIED = 0.5
_LAST = 0.2  # share of the training that its last loss and accuracy are means of, at most
_LITTLE = (
    "Groups of such a network mean little, and so do differences between subsets. Train longer (steps or epochs), or look at "
    "the learning rate and the labels; then look here again."
)
_BY_HEART = (
    "It has learnt these images by heart rather than what their classes look like, so its groups say less about which images "
    "are alike. Train on more images or with more augmentation, or check that training and test images are labelled alike; "
    "then look here again."
)


@dataclasses.dataclass(frozen=True)
class Learnt:
    """How the training of the network that embeds ended.

    Attributes:
      loss, accuracy: mean training loss and accuracy over the last lines of metrics, a fifth of the steps at most.
      test_accuracy: of the test images.
      guess: loss of whoever knows only how frequent the classes are.
      least: loss of whoever is always right, above 0 with label smoothing.
    """

    loss: float
    accuracy: float
    test_accuracy: float
    guess: float
    least: float = 0.0


@dataclasses.dataclass(frozen=True)
class Caution:
    """What the page says first, and why; `answers`: whether the results still answer what was asked."""

    sentence: str
    detail: str
    answers: bool


def guess_loss(counts: np.ndarray, smoothing: float) -> float:
    """Cross-entropy of the best guess that is the same for all images.

    Args:
      counts: [C] images of each class.
      smoothing: label smoothing, the share of a label that is spread evenly over the classes.
    """
    shares = (1 - smoothing) * counts / counts.sum() + smoothing / len(counts)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def least_loss(classes: int, smoothing: float) -> float:
    """Cross-entropy of a network that gives every image its smoothed label; arguments as of `guess_loss`."""
    label = np.array([1 - smoothing + smoothing / classes] + [smoothing / classes] * (classes - 1))
    label = label[label > 0]
    return float(-(label * np.log(label)).sum())


def read(workdir: Workdir, layer: str, counts: np.ndarray, smoothing: float) -> Learnt | None:
    """How the stage train ended.

    None if the embeddings are not of the network that was trained in this workdir, or if no line of its metrics is of the
    last fifth of the training alone.

    Args:
      workdir: of the report.
      layer: whose groups the page shows.
      counts, smoothing: see `guess_loss`.

    Raises:
      DataError: a manifest is damaged.
    """
    manifest, embedded = (read_manifest(folder) or {} for folder in (workdir.pretrain, workdir.embeddings(layer)))
    path = storage.join(workdir.pretrain, "metrics.jsonl")
    if not isinstance(manifest.get("test_accuracy"), float) or not storage.exists(path):
        return None
    if manifest.get("network") is None or manifest["network"] != embedded.get("network"):
        return None
    lines = storage.json_lines(storage.read_bytes(path), "step", "loss", "accuracy")
    # A line has the means since the line before.
    last = [line for before, line in itertools.pairwise(lines) if before["step"] >= (1 - _LAST) * lines[-1]["step"]]
    if not last:
        return None
    loss, accuracy = (float(np.mean([line[name] for line in last])) for name in ("loss", "accuracy"))
    guess, least = guess_loss(counts, smoothing), least_loss(len(counts), smoothing)
    return Learnt(loss, accuracy, manifest["test_accuracy"], guess, least)


def caution(accuracy: float | None, classes: int, learnt: Learnt | None) -> Caution | None:
    """What the page says first of a network that learnt too little; None for any other.

    Args:
      accuracy: mean test accuracy of the full set's trainings, None without one.
      classes: number of classes.
      learnt: how the training of the network that embeds ended, if known.
    """
    guess, shown = 1 / classes, words.accuracy
    if classes < 2:
        return None
    if accuracy is not None and accuracy < guess + min(guess, 0.1 * (1 - guess)):
        sentence = (
            f"The network learnt next to nothing: it names the class of {shown(accuracy)}% of the test images, and a guess "
            f"would name {shown(guess)}%."
        )
        return Caution(sentence, _LITTLE, False)
    if learnt is None:
        return None
    if learnt.loss - learnt.least > _FELL * (learnt.guess - learnt.least):
        sentence = f"The training loss hardly fell: it ends at {words.small(learnt.loss)}, and a guess has {words.small(learnt.guess)}."
        return Caution(sentence, _LITTLE, False)
    if learnt.test_accuracy - guess < _CARRIED * (learnt.accuracy - guess):
        sentence = (
            f"The network knows its training images far better than others: it names the class of {words.percent(learnt.accuracy)} of "
            f"them, and of {words.percent(learnt.test_accuracy)} of the test images."
        )
        return Caution(sentence, _BY_HEART, True)
    return None
