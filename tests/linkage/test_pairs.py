"""Pairs up to a dissimilarity: every one, each once, the same bits whatever the blocks and devices."""

import itertools

import jax
import numpy as np
import pytest

from redundancy.linkage import bounds, dissimilarity, pairs
from tests.tiers import soaked


def _clustered(n, dimension, seed=0, spread=0.4):
    generator = np.random.default_rng(seed)
    centres = np.abs(generator.normal(size=(8, dimension)))
    return (centres[generator.integers(8, size=n)] + spread * generator.normal(size=(n, dimension))).astype(np.float32)


def _all(embeddings):
    units = dissimilarity.unit_vectors(embeddings)
    i, j = np.triu_indices(len(units), 1)
    return i, j, dissimilarity.between_all(units, units)[i, j]


def _expected(embeddings, threshold, above=-1.0):
    i, j, value = _all(embeddings)
    some = (above < value) & (value <= threshold)
    order = np.lexsort((j[some], i[some], value[some]))
    return i[some][order], j[some][order], value[some][order]


def _same(found, expected):
    found = found.ordered()
    return all(
        np.array_equal(*columns) for columns in zip((found.i, found.j, found.dissimilarity), expected, strict=True)
    )


@pytest.mark.parametrize(("n", "dimension"), [(2, 3), (65, 1), (700, 5), (1300, 130), *soaked((4200, 6))])
def test_every_pair_is_found_once(n, dimension):
    embeddings = _clustered(n, dimension)
    units = dissimilarity.units(embeddings)
    for share in (0.001, 0.05):
        value = _all(embeddings)[2]
        # A value that occurs: on the threshold counts as within.
        place = int(share * len(value))
        threshold = np.partition(value, place)[place]
        assert _same(pairs.within(units, threshold), _expected(embeddings, threshold))
        assert _same(
            pairs.within(units, threshold, above=threshold / 2), _expected(embeddings, threshold, threshold / 2)
        )


@pytest.mark.parametrize("size", [64, 192, 256, 1024])
def test_the_block_size_changes_nothing(size):
    embeddings = _clustered(900, 24)
    found = pairs.within(dissimilarity.units(embeddings), 0.1, size=size)
    assert len(found) > 900
    assert _same(found, _expected(embeddings, 0.1))


def test_blocks_of_rows_add_up():
    embeddings = _clustered(1000, 8)
    units = dissimilarity.units(embeddings)
    borders = (0, 0, 1, 250, 511, 512, 999, 1000)
    parts = [pairs.within(units, 0.05, rows=rows) for rows in itertools.pairwise(borders)]
    assert _same(pairs.concatenate(parts), _expected(embeddings, 0.05))


def test_values_beyond_float32_decide():
    # Within a class of nearly equal images float32 products of unit vectors are 0 or 1e-7 apart, and all alike.
    generator = np.random.default_rng(0)
    embeddings = (1 + 1e-4 * generator.normal(size=(600, 64))).astype(np.float32)
    value = np.sort(_all(embeddings)[2])
    threshold = value[len(value) // 100]
    assert threshold < 1e-8
    assert _same(pairs.within(dissimilarity.units(embeddings), threshold), _expected(embeddings, threshold))


def _long(kind, n=700, dimension=640, seed=0):
    generator = np.random.default_rng(seed)
    match kind:
        case "trained":  # most of the variance in some tens of directions, as of a trained network
            spread = np.arange(1, dimension + 1) ** -0.9
            return np.maximum(generator.normal(size=(n, dimension)) * spread + 0.1, 0).astype(np.float32)
        case "few directions":
            return (generator.normal(size=(n, 20)) @ generator.normal(size=(20, dimension))).astype(np.float32)
        case "tight":
            return (1 + 1e-4 * _long("trained", n, dimension, seed)).astype(np.float32)
        case "in clumps":
            return (
                _long("trained", 9, dimension)[generator.integers(9, size=n)] + 1e-5 * _long("trained", n, dimension)
            ).astype(np.float32)
        case "all directions":
            return generator.normal(size=(n, dimension)).astype(np.float32)


@pytest.mark.parametrize("kind", ["trained", "few directions", "tight", "in clumps", "all directions"])
@pytest.mark.parametrize("share", [1e-5, 0.01])
def test_long_embeddings_are_projected_and_no_pair_is_lost(kind, share):
    embeddings = _long(kind)
    value = _all(embeddings)[2]
    threshold = np.partition(value, int(share * len(value)))[int(share * len(value))]
    units = dissimilarity.units(embeddings)
    whole = bounds.centred(units)
    short = bounds.shortening(whole, threshold).of(whole)
    # Where it pays: for few pairs of what has few directions.
    if kind == "all directions":
        assert short is whole
    elif share < 0.001 and kind != "in clumps":
        assert short.rows.shape[1] < 64
    assert _same(pairs.within(units, threshold), _expected(embeddings, threshold))


@pytest.mark.parametrize("kind", ["trained", "tight", "all directions"])
def test_the_bounds_hold_for_every_pair(kind):
    # As far as rounding may go in any order of the sums: with nothing to spare, some pair would fail.
    embeddings = _long(kind, 600, 300)
    units = dissimilarity.units(embeddings)
    whole = bounds.centred(units)
    i, j, value = _all(embeddings)
    directions = bounds._gram_schmidt(whole.rows[:64])
    growth = bounds.growth(directions)
    assert growth < 1e-4
    short = bounds._in_directions(whole.rows, directions)
    for rows in (whole, bounds.projected_rows(whole, short, slice(None), growth)):
        exact = rows.rows.astype(np.float64)
        squares = np.einsum("nd,nd->n", exact, exact)
        distance = (squares[i] + squares[j]) / 2 - np.einsum("nd,nd->n", exact[i], exact[j])
        assert (distance <= rows.widen * value + rows.loose[i] + rows.loose[j]).all()
        for threshold in np.quantile(value, [0.001, 0.5]):
            limits = rows.limits(threshold)
            proposed = rows.rows[i][:, None] @ rows.rows[j][:, :, None]
            assert (proposed[:, 0, 0] >= limits[i] + limits[j])[value <= threshold].all()


def test_few_pairs_are_proposed_that_are_not_within():
    # The bound on float32's error is what keeps pairs from being missed; were it loose, all pairs would be recomputed.
    embeddings = _clustered(2000, 64)
    units = dissimilarity.units(embeddings)
    value = np.sort(_all(embeddings)[2])
    threshold = value[10_000]
    centred = bounds.centred(units)
    blocks = pairs._Blocks(centred, threshold, 256, 0, jax.local_devices()[:1])
    proposed = sum(
        int(np.unpackbits(np.asarray(blocks.propose(row, column, 1)[0])).sum())
        for row in range(blocks.num)
        for column in range(row + 1, blocks.num)
    )
    assert proposed < 1.02 * 10_000


def test_extreme_lengths():
    generator = np.random.default_rng(0)
    directions = _clustered(300, 8).astype(np.float64)
    expected = _expected(directions.astype(np.float32), 0.2)
    lengths = 10.0 ** generator.uniform(-30, 37, size=(300, 1))
    found = pairs.within(dissimilarity.units((directions * lengths).astype(np.float32)), 0.2).ordered()
    np.testing.assert_allclose(len(found), len(expected[0]), atol=2)
    np.testing.assert_allclose(np.sort(found.dissimilarity)[:100], expected[2][:100], atol=1e-7)
    assert pairs.within(dissimilarity.units(np.float32([[1e-45, 0], [1e38, 0], [3e38, 3e38]])), 0.1).i.tolist() == [0]


def test_more_pairs_than_there_is_memory_for():
    with pytest.raises(pairs.TooManyPairs):
        pairs.within(dissimilarity.units(_clustered(500, 4)), 2.0, limit=1000)


def test_progress_ends_at_one():
    told = []
    pairs.within(dissimilarity.units(_clustered(1500, 4)), 0.001, advance=told.append)
    assert told == sorted(told)
    assert told[-1] == 1
