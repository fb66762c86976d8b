"""CompleteLinkage is an estimator of scikit-learn: its own checks, any fraction from one fit, and the attributes."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from redundancy import CompleteLinkage, select
from redundancy.linkage.complete import complete_linkage
from redundancy.runtime.errors import ConfigError


def _failing(estimator):
    failing = {"check_estimators_dtypes": "one of its rows is zero and has no cosine"}
    if estimator.fraction > 0.5:
        failing["check_clustering"] = "wants three clusters of 50 rows, and the fraction keeps 45"
    return failing


@parametrize_with_checks([CompleteLinkage(), CompleteLinkage(0.06)], expected_failed_checks=_failing)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    return rng.normal(size=(90, 6)).astype(np.float32), np.repeat([7, 2, 4], [50, 10, 30])


@pytest.mark.parametrize("rule", ["cosine_raw_mean", "medoid"])
def test_a_cut_is_a_fit_with_the_fraction(data, rule):
    model = CompleteLinkage(0.3, rule=rule).fit(*data)
    for fraction in (1.0, 0.97, 0.8, 0.5, 0.3):
        cut, fitted = model.cut(fraction), CompleteLinkage(fraction, rule=rule).fit(*data)
        for name in ("labels_", "kept_", "dissimilarities_", "classes_"):
            assert np.array_equal(getattr(cut, name), getattr(fitted, name)), name
        assert np.array_equal(cut.kept_, select(*data, fraction=fraction, rule=rule))
        assert cut.get_params() == fitted.get_params()
    assert model.fraction == 0.3
    assert np.array_equal(model.kept_, model.cut(0.9).cut(0.3).kept_)


def test_no_fraction_below_the_fitted_one(data):
    model = CompleteLinkage(0.9).fit(*data)
    with pytest.raises(ConfigError, match=r"fraction is 0\.89, and the model was fitted for 0\.9 and above") as found:
        model.cut(0.89)
    assert isinstance(found.value, ValueError)
    model.set_params(fraction=0.5)  # fits nothing
    with pytest.raises(ConfigError, match=r"fitted for 0\.9"):
        model.cut(0.5)
    with pytest.raises(NotFittedError):
        CompleteLinkage().cut(0.9)


def test_every_larger_fraction_can_be_cut():
    """With the largest remainder a larger fraction may keep one image fewer of a class."""
    sizes = (1, 1, 2, 3, 5, 8, 13, 14)
    y = np.repeat(np.arange(len(sizes)), sizes)
    X = np.random.default_rng(1).normal(size=(len(y), 3))
    for lowest in np.linspace(0.15, 0.9, 16):
        model = CompleteLinkage(float(lowest)).fit(X, y)
        for fraction in np.linspace(lowest, 1, 40):
            cut = model.cut(float(fraction))
            assert len(cut.kept_) == len(np.unique(cut.labels_)) >= len(sizes)


def test_attributes(data):
    X, y = data
    model = CompleteLinkage(0.5).fit(X, y)
    assert model.classes_.tolist() == [2, 4, 7]
    assert (model.labels_.dtype, model.kept_.dtype) == (np.int64, np.int64)
    assert np.array_equal(
        model.labels_[model.kept_], np.unique(model.labels_)[np.argsort(np.argsort(model.labels_[model.kept_]))]
    )
    assert (model.dissimilarities_[model.kept_] == 0).all()
    heights = [complete_linkage(X[y == label], n // 2 + 1).height for label, n in ((2, 10), (4, 30), (7, 50))]
    assert np.array_equal(model.heights_, np.concatenate(heights))
    assert [len(merges) for merges in model.merges_] == [6, 16, 26]


def test_one_class_and_fit_predict(data):
    X, _ = data
    model = CompleteLinkage(0.8).fit(X)
    assert model.classes_.tolist() == [0]
    assert len(model.kept_) == 72
    assert np.array_equal(clone(model).fit_predict(X), model.labels_)
    groups = CompleteLinkage(0.8).fit_predict(*data)  # y counts
    assert not np.array_equal(groups, model.labels_)
    assert all(len(np.unique(data[1][groups == group])) == 1 for group in np.unique(groups))
