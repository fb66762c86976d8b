"""Complete linkage of each class as a scikit-learn estimator.

It does not inherit from scikit-learn's classes, because importing them takes three times as long as everything else. They are
imported at the first fit.
"""

import copy
from typing import Any

import numpy as np

from redundancy.interface.clustering import Data, check_fraction, check_rule
from redundancy.runtime.errors import ConfigError


class CompleteLinkage:
    """Groups the rows of each class by exact complete linkage on 1 - cos, and keeps one row of each group.

    Groups and rows equal those of `redundancy link` and `redundancy select` for these embeddings, bit for bit.

    Args:
      fraction: kept share of all rows, above 0 and up to 1; at least one row of each class is kept.
      rule: which row of a group is kept, as config.rule: cosine_raw_mean, cosine_unit_mean, medoid or minimax.

    Attributes:
      labels_: [N] int64, the group of each row, numbered from 0 over all classes.
      kept_: [n] int64, positions of the kept rows, ascending.
      dissimilarities_: [N] float64, 1 - cos of each row to the kept row of its group; 0 for the kept row itself.
      merges_: for each of `classes_` its merges (left, right, height, size), lowest first, in SciPy's numbering within the
        class: as many as the fitted fraction needs, and one more if there is one.
      heights_: [m] float64, the heights of `merges_`, one class after the other.
      classes_: [K] int64 or texts, the different labels, ascending; [0] if there are none.
      n_features_in_: length of a row.
      feature_names_in_: names of the columns, if X is a data frame with column names.
    """

    def __init__(self, fraction: float = 0.9, *, rule: str = "cosine_raw_mean"):
        self.fraction = fraction
        self.rule = rule

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; `deep` is part of scikit-learn's interface and has no effect."""
        return {"fraction": self.fraction, "rule": self.rule}

    def set_params(self, **params) -> "CompleteLinkage":
        """Sets parameters without fitting. Raises ConfigError, a ValueError, for an unknown name."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ConfigError(f"{name!r} is no parameter of CompleteLinkage; wanted fraction or rule.")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"CompleteLinkage(fraction={self.fraction!r}, rule={self.rule!r})"

    def __sklearn_tags__(self):
        from sklearn.base import BaseEstimator, ClusterMixin

        class Clusterer(ClusterMixin, BaseEstimator):
            pass

        return Clusterer().__sklearn_tags__()

    def fit(self, X, y=None) -> "CompleteLinkage":
        """Groups rows.

        Args:
          X: [N, d] numbers, finite and no row zero: an array of NumPy (which may be memory-mapped and larger than memory),
            JAX or PyTorch, a data frame, or lists. The model keeps a reference for `cut`, so it must not be changed.
          y: [N] non-negative integers, or texts: the class of each row. None: all rows are of one class.

        Returns:
          This model.

        Raises:
          ConfigError: a parameter is invalid; a ValueError.
          DataError: X or y is invalid, or a class does not fit in memory; a ValueError.
        """
        from sklearn.utils.validation import validate_data

        fraction, rule = check_fraction(self.fraction), check_rule(self.rule)
        data = Data.of(X, y, ("X", "y"))
        validate_data(self, X, skip_check_array=True)  # stores the names of the columns
        self.n_features_in_ = data.vectors.dimension
        linked = data.link(fraction)
        self._data, self._linked, self._lowest = data, linked, fraction
        self.classes_, self.merges_ = data.classes, [*linked.values()]
        self.heights_ = np.concatenate([merges.height for merges in self.merges_])
        return self._choose(fraction, rule)

    def _choose(self, fraction: float, rule: str) -> "CompleteLinkage":
        choice = self._data.choose(self._linked, fraction, rule)
        self.labels_, self.kept_ = choice.group, np.flatnonzero(choice.kept)
        self.dissimilarities_ = choice.dissimilarity
        return self

    def fit_predict(self, X, y=None) -> np.ndarray:
        """Groups rows and returns `labels_`; arguments and errors are those of `fit`."""
        return self.fit(X, y).labels_

    def cut(self, fraction: float) -> "CompleteLinkage":
        """A model with another kept share, made from the same merges without linking again.

        Args:
          fraction: kept share, not below the fitted one, since there are no further merges.

        Returns:
          A model as if fitted with `fraction`, except that merges_ and heights_ are those of this model.

        Raises:
          NotFittedError: the model is not fitted; a ValueError.
          ConfigError: the fraction is invalid or below the fitted one; a ValueError.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        fraction = check_fraction(fraction)
        if fraction < self._lowest:
            raise ConfigError(
                f"fraction is {fraction:g}, and the model was fitted for {self._lowest:g} and above: it has no more merges. "
                f"Fit it with fraction={fraction:g}."
            )
        return copy.copy(self).set_params(fraction=fraction)._choose(fraction, check_rule(self.rule))
