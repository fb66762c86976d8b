"""The page says first where the network learnt too little for its groups to mean something."""

import json

import numpy as np
import pytest
from pages import read_page
from synthetic import NETWORK, make_workdir, noise_images

from redundancy import storage
from redundancy.report.learnt import Learnt, caution, guess_loss, least_loss, read
from redundancy.report.stage import report
from redundancy.workdir import Workdir, write_manifest

pytestmark = pytest.mark.usefixtures("quick_pdfs")


def trained(workdir, losses, accuracies, test_accuracy):
    """What the stage train leaves: a line of metrics every ten steps, and the manifest."""
    numbers = enumerate(zip(losses, accuracies, strict=True), 1)
    lines = [
        {"step": 10 * line, "time": 1e9 + line, "loss": loss, "accuracy": share} for line, (loss, share) in numbers
    ]
    storage.write_text(f"{workdir.pretrain}/metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_manifest(workdir.pretrain, {"step": 10 * len(lines), "test_accuracy": test_accuracy, "network": NETWORK})


@pytest.mark.parametrize(
    ("accuracy", "classes", "said"),
    [
        (
            0.007,
            200,
            "learnt next to nothing: it names the class of 0.70% of the test images, and a guess would name 0.50%.",
        ),
        (0.15, 10, "learnt next to nothing"),
        (0.52, 2, "learnt next to nothing"),
        (0.02, 200, None),
        (0.25, 10, None),
        (0.6, 2, None),
        (0.9, 1, None),
        (None, 10, None),
    ],
)
def test_a_network_that_is_hardly_better_than_a_guess(accuracy, classes, said):
    found = caution(accuracy, classes, None)
    assert found is None if said is None else said in found.sentence


@pytest.mark.parametrize(
    ("loss", "said"),
    [(2.2, "The training loss hardly fell: it ends at 2.20, and a guess has 2.30."), (2.0, None), (0.01, None)],
)
def test_a_loss_that_did_not_fall(loss, said):
    found = caution(0.5, 10, Learnt(loss, 0.5, 0.5, guess_loss(np.full(10, 7), 0.0)))
    assert (found and found.sentence) == said
    assert found is None or (not found.answers and "Train longer" in found.detail)


def test_a_guess_knows_how_frequent_classes_are():
    assert guess_loss(np.full(10, 7), 0.1) == pytest.approx(np.log(10))
    assert guess_loss(np.array([9, 1]), 0.0) == pytest.approx(-0.9 * np.log(0.9) - 0.1 * np.log(0.1))
    assert guess_loss(np.array([5, 0]), 0.0) == 0
    assert guess_loss(np.array([9, 1]), 0.2) == pytest.approx(-0.82 * np.log(0.82) - 0.18 * np.log(0.18))


@pytest.mark.parametrize(
    ("accuracy", "test_accuracy", "far"),
    [
        (1.0, 0.54, True),
        (1.0, 0.56, False),
        (0.999, 0.7, False),
        (0.4, 0.24, True),
        (0.4, 0.26, False),
        (0.3, 0.5, False),
    ],
)
def test_test_accuracy_is_far_below_the_training_s_if_less_than_half_of_what_was_learnt_is_left(
    accuracy, test_accuracy, far
):
    found = caution(test_accuracy, 10, Learnt(0.1, accuracy, test_accuracy, 2.3))
    assert (found is not None) == far
    if far:
        assert f"of {accuracy:.0%} of them, and of {test_accuracy:.0%} of the test images." in found.sentence
        assert found.answers


def test_a_perfect_network_s_loss_has_fallen_whatever_the_smoothing():
    for counts, smoothing in ((np.array([9900, 20, 20, 20]), 0.1), (np.array([500, 500]), 0.7)):
        least, guess = least_loss(len(counts), smoothing), guess_loss(counts, smoothing)
        assert caution(0.99, len(counts), Learnt(least + 0.001, 0.99, 0.99, guess, least)) is None
        assert caution(0.99, len(counts), Learnt(guess - 0.001, 0.99, 0.99, guess, least)) is not None
    assert least_loss(10, 0.0) == 0


def test_the_last_fifth_of_the_training_counts(tmp_path):
    workdir, counts = Workdir(str(tmp_path)), np.full(10, 7)
    write_manifest(workdir.embeddings("end"), {"network": NETWORK})
    assert read(workdir, "end", counts, 0.0) is None
    trained(workdir, [9.0] * 8 + [0.5, 0.3], [0.1] * 8 + [0.9, 0.8], 0.7)
    found = read(workdir, "end", counts, 0.0)
    assert (found.loss, found.accuracy, found.test_accuracy) == (pytest.approx(0.4), pytest.approx(0.85), 0.7)
    write_manifest(workdir.embeddings("end"), {"checkpoint": "a model of somebody else"})
    assert read(workdir, "end", counts, 0.0) is None
    write_manifest(workdir.embeddings("end"), {"network": NETWORK})
    trained(workdir, [9.0, 0.5, 0.3], [0.1, 0.9, 0.8], 0.7)
    assert read(workdir, "end", counts, 0.0) is None, "the last line is a third of the training"
    storage.write_text(f"{workdir.pretrain}/metrics.jsonl", '{"step": 10, "lo')
    assert read(workdir, "end", counts, 0.0) is None


@pytest.mark.parametrize(
    ("losses", "accuracies", "first", "answers"),
    [
        (
            [0.7] * 9 + [0.69],
            [0.9] * 10,
            "The training loss hardly fell: it ends at 0.695, and a guess has 0.693.",
            False,
        ),
        (
            [0.7] * 8 + [0.01] * 2,
            [0.5] * 8 + [1.0] * 2,
            "The network knows its training images far better than others",
            True,
        ),
        ([0.7] * 8 + [0.3] * 2, [0.5] * 8 + [0.75] * 2, "Dropping 10% of images, chosen", True),
    ],
    ids=["loss", "test accuracy", "neither"],
)
def test_the_page_says_it_first(tmp_path, losses, accuracies, first, answers):
    images, labels = noise_images(60)
    config, workdir = make_workdir(tmp_path, images, labels)
    trained(workdir, losses, accuracies, 0.7)
    report(config, workdir)
    words = read_page(workdir).words()
    assert f"Redundancy in images {first}" in words
    assert ("Dropping 10% of images, chosen" in words) == answers
    assert ("with no loss above" in words) == answers
