import numpy as np
import pytest

from redundancy.data import splits
from redundancy.runtime.errors import ConfigError, DataError


def test_auto_takes_the_first_split_there_is():
    assert splits.choose("train", "auto", ("train", "validation", "test")) == ("train", "test")
    assert splits.choose("train", "auto", ("train", "val")) == ("train", "val")
    assert splits.choose("train", "auto", ("train",)) == ("train", None)
    assert splits.choose("train", "", ("train", "test")) == ("train", None)
    assert splits.choose("test", "auto", ("train", "test")) == ("test", None)


@pytest.mark.parametrize(
    ("train", "test", "field"), [("trian", "auto", "train_split"), ("train", "tets", "test_split")]
)
def test_missing_split_names_field_and_nearest(train, test, field):
    with pytest.raises(ConfigError, match=rf"config\.{field} .*Did you mean") as error:
        splits.choose(train, test, ("train", "test"))
    assert "test, train" in str(error.value)


def test_hold_out_is_stratified_and_fixed():
    labels = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    held = splits.hold_out(labels, 0.2)
    assert [int(held[labels == c].sum()) for c in range(4)] == [10, 2, 0, 0]
    assert np.array_equal(held, splits.hold_out(labels, 0.2))
    assert [int(splits.hold_out(labels, 0.99)[labels == c].sum()) for c in range(4)] == [49, 9, 1, 0]


def test_hold_out_of_nothing_is_an_error():
    with pytest.raises(DataError, match="holdout"):
        splits.hold_out(np.arange(5), 0.5)


def test_held_out_and_trained_are_disjoint_and_complete():
    labels = np.arange(100) % 4
    train, test = splits.make("x", list("abcd"), ("train", labels), None, 0.25)
    assert sorted([*train.positions, *test.positions]) == list(range(100))
    assert np.array_equal(train.labels, labels[train.positions])
    assert test.num_stored == 100
    assert len(test.positions) in range(24, 29)


def test_wrong_labels():
    good = ("train", np.array([0, 1, 1]))
    with pytest.raises(DataError, match="'c'"):
        splits.make("x", "abc", good, None, 0.5)
    with pytest.raises(DataError, match=r"position 1: 7"):
        splits.make("x", "ab", ("train", np.array([0, 7])), None, 0.5)
    with pytest.raises(DataError, match=r"no labels.*config\.test_split"):
        splits.make("x", "ab", good, ("test", np.array([-1, -1])), 0.5)
    with pytest.raises(DataError, match="no images"):
        splits.make("x", "ab", ("train", np.array([], int)), None, 0.5)


def test_measuring_on_trained_images_is_refused():
    with pytest.raises(ConfigError, match=r"shares images with config\.train_split"):
        splits.choose("train", "train", ("train", "test"))
    assert splits.choose("test", "auto", ("train", "test")) == ("test", None)
