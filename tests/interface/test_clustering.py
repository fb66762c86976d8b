"""select and CompleteLinkage give what link and select write, take arrays of any library, and say what is wrong."""

import subprocess
import sys
import tracemalloc
import warnings

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse

from redundancy import CompleteLinkage, config, load_merges, load_subset, select
from redundancy.importing import vectors
from redundancy.importing.stage import Request, import_embeddings
from redundancy.runtime.errors import ConfigError, DataError
from redundancy.selection.link import link
from redundancy.selection.select import select as select_stage
from redundancy.workdir import Workdir

NAMES = np.array(["owl", "Ant", "eel", "bee"])


def rows(kind):
    """Embeddings of 120 images of four classes, some of them twice, and the classes' numbers."""
    rng = np.random.default_rng(5)
    made = rng.normal(size=(120, 7))
    made[60:75] = made[20:35]
    if kind == np.float64:
        made[:3] *= 1e-200  # beyond float32, whose direction stays
        made[3:6] *= 1e200
    return made.astype(kind), np.repeat([3, 0, 2, 1], [31, 1, 60, 28])[rng.permutation(120)]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("rule", ["cosine_raw_mean", "minimax"])
@pytest.mark.parametrize("named", [False, True])
def test_results_are_those_of_the_stages_bit_for_bit(tmp_path, kind, rule, named):
    embeddings, labels = rows(kind)
    labels = NAMES[labels] if named else labels
    np.save(tmp_path / "E.npy", embeddings)
    np.save(tmp_path / "Y.npy", labels)
    resolved = config.resolve({"fractions": (0.9, 0.4, 0.01), "rule": rule, "trials": 1})
    workdir = Workdir(str(tmp_path / "w"))
    workdir.claim(resolved)
    import_embeddings(Request(str(tmp_path / "E.npy"), str(tmp_path / "Y.npy")), workdir)
    link(resolved, workdir)
    select_stage(resolved, workdir)
    model = CompleteLinkage(0.01, rule=rule).fit(embeddings, labels)
    for fraction in resolved.fractions:
        subset, cut = load_subset(workdir.root, fraction), model.cut(fraction)
        assert np.array_equal(select(embeddings, labels, fraction, rule=rule), subset.kept_positions)
        assert np.array_equal(cut.kept_, subset.kept_positions)
        assert np.array_equal(cut.labels_, subset.group)
        assert np.array_equal(cut.dissimilarities_, subset.dissimilarity)
        assert np.array_equal(np.searchsorted(model.classes_, labels), subset.labels)
    for ours, theirs in zip(model.merges_, load_merges(workdir.root).values(), strict=True):
        for column in ("left", "right", "height", "size"):
            assert np.array_equal(getattr(ours, column), getattr(theirs, column))


def test_defaults_are_those_of_the_config():
    embeddings, labels = rows(np.float32)
    assert CompleteLinkage().get_params() == {"fraction": 0.9, "rule": config.defaults().rule}
    assert np.array_equal(
        select(embeddings, labels), select(embeddings, labels, fraction=0.9, rule=config.defaults().rule)
    )


def test_a_fraction_below_one_image_a_class_warns():
    embeddings = np.random.default_rng(0).normal(size=(300, 5))
    labels = np.array([0] * 200 + [*range(1, 101)])
    said = r"At 0\.2 asked 60 of 300 images \(20 %\), kept 140 \(46\.7 %\): 100 classes keep their only image\."
    with pytest.warns(UserWarning, match=said):
        kept = select(embeddings, labels, 0.2)
    assert np.bincount(labels[kept]).tolist() == [40] + [1] * 100
    with pytest.warns(UserWarning, match=said):
        assert np.array_equal(CompleteLinkage(0.2).fit(embeddings, labels).kept_, kept)
    with warnings.catch_warnings(action="error"):
        assert len(select(embeddings, labels, 0.6)) == 180


class Tensor:
    """What is used of PyTorch's tensors; as an array it refuses as they do."""

    def __init__(self, values, device="cuda", grad=True, dtype="torch.float32"):
        self.values, self.device, self.grad, self.dtype = values, device, grad, dtype

    def detach(self):
        return Tensor(self.values, self.device, False, self.dtype)

    def cpu(self):
        return Tensor(self.values, "cpu" if self.device == "cuda" else self.device, self.grad, self.dtype)

    def float(self):
        return Tensor(self.values.astype(np.float32), self.device, self.grad)

    def __array__(self, dtype=None, copy=None):
        if self.grad or self.device != "cpu" or self.dtype == "torch.bfloat16":
            raise TypeError("can't convert it to numpy")
        return self.values


def test_arrays_of_other_libraries():
    embeddings, labels = rows(np.float32)
    wanted = select(embeddings, labels)
    for given in (
        jnp.asarray(embeddings), Tensor(embeddings), embeddings.tolist(), pd.DataFrame(embeddings),
        np.asfortranarray(embeddings), embeddings.astype(">f4"), embeddings.astype(np.longdouble), embeddings.astype(object),
        np.repeat(embeddings, 2, axis=0)[::2],
    ):  # fmt: skip
        assert np.array_equal(select(given, labels), wanted), type(given)
    of_text = NAMES[[1, 3, 2, 0]][labels]  # in the order of the numbers
    for given in (
        jnp.asarray(labels), Tensor(labels, dtype="torch.int64"), labels.tolist(), pd.Series(labels), labels[:, None],
        labels.astype(float), labels.astype(np.uint8), of_text, of_text.tolist(), of_text.astype(object),
        pd.Categorical(of_text), np.char.encode(of_text),
    ):  # fmt: skip
        assert np.array_equal(select(embeddings, given), wanted), type(given)
    assert np.array_equal(select(embeddings, labels == 2), select(embeddings, (labels == 2).astype(int)))


def test_numbers_of_other_kinds():
    embeddings, labels = rows(np.float32)
    short = jnp.asarray(embeddings, jnp.bfloat16)
    wanted = select(np.asarray(short).astype(np.float32), labels)
    assert np.array_equal(select(short, labels), wanted)
    assert np.array_equal(select(np.asarray(short), labels), wanted)
    assert np.array_equal(select(Tensor(embeddings, dtype="torch.bfloat16"), labels), select(embeddings, labels))
    whole = np.round(embeddings * 50).astype(np.int8)
    assert np.array_equal(select(whole, labels), select(whole.astype(np.float64), labels))


def test_what_was_given_stays_as_it_is():
    embeddings, labels = rows(np.float64)
    before = embeddings.copy()
    embeddings.setflags(write=False)
    CompleteLinkage(0.3).fit(embeddings, labels).cut(0.8)
    assert np.array_equal(embeddings, before)


def test_a_mapped_array_is_read_some_classes_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "_BLOCK_BYTES", 1 << 16)
    path, n, d = str(tmp_path / "E.npy"), 65536, 256
    mapped = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    mapped[:] = np.random.default_rng(0).normal(size=(n, d))
    labels = np.random.default_rng(1).integers(0, 1024, n)
    select(np.array(mapped[:500]), labels[:500])  # compiles
    mapped = np.load(path, mmap_mode="r")
    tracemalloc.start()
    try:
        model = CompleteLinkage(0.9).fit(mapped, labels)
        model.cut(0.95)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < mapped.nbytes / 2
    assert np.array_equal(model.kept_, select(np.array(mapped), labels))


def test_what_is_wrong_is_said_before_work_begins(monkeypatch):
    monkeypatch.setattr("redundancy.selection.local.run", lambda *_: pytest.fail("linked"))
    good, labels = rows(np.float32)
    zero, nan = good.copy(), good.copy()
    zero[[7, 9]], nan[4, 2] = 0, np.nan
    cosine = "wanted finite numbers, not all 0, or there is no cosine. Make these embeddings again, or leave those rows"
    whole = "wanted whole numbers from 0 or names"
    for embeddings, of_class, said in (
        (zero, labels, rf"^embeddings, row 7 is a zero vector \(2 such of 120 rows\); {cosine}"),
        (nan, labels, rf"^embeddings, row 4 holds NaN or infinity \(1 such of 120 rows\); {cosine}"),
        (good[0], labels, r"^embeddings is float32 \[7\]; wanted numbers \[N, d\]"),
        (good[:0], [], r"^embeddings has 0 sample\(s\)"),
        (good.astype(str), labels, r"^embeddings is <U\d+ \[120, 7\]; wanted numbers"),
        (good * 1j, labels, r"^Complex data not supported: embeddings is complex"),
        ([[1.0], [1.0, 2.0]], [0, 0], "^embeddings is no array"),
        (scipy.sparse.eye(9).tocsr(), None, r"^embeddings is a sparse matrix; wanted a dense one: embeddings.toarray\(\)"),
        (Tensor(good, device="meta"), labels, "^embeddings is no array .can't convert it to numpy.; wanted rows"),
        (np.ma.masked_less(good, 0), labels, "^embeddings has masked values"),
        (good, labels[1:], r"^labels has 119 labels; wanted 120, as many as there are embeddings"),
        (good, labels - 1, r"^labels: row \d+ has the label -1 .*; wanted whole numbers"),
        (good, labels + 0.5, rf"^labels: row 0 has the label \d.5; {whole}"),
        (good, np.where(labels == 1, np.nan, labels), "^labels: row .* has NaN"),
        (good, ["a", None] * 60, "^labels: row 1 has no label"),
        (good, np.array(["a", 1] * 60, object), "^labels holds different things"),
        (good, np.stack([labels, labels], 1), r"^labels is int64 \[120, 2\]; wanted whole numbers"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said) as found:
            select(embeddings, of_class)
        assert isinstance(found.value, ValueError)
        with pytest.raises(DataError):
            CompleteLinkage().fit(embeddings, of_class)
    with pytest.raises(DataError, match=r"^X, row 7 is a zero vector"):
        CompleteLinkage().fit(zero)
    with pytest.raises(TypeError, match="embeddings holds what is no number"):
        select(np.array([[{}]], object))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan"), "0.9", "90%", 90, None, True, (0.9,)])
def test_a_wrong_fraction(fraction):
    with pytest.raises(
        ConfigError, match=r"^fraction is .*; wanted a number above 0 and up to 1, such as 0\.9"
    ) as found:
        select(*rows(np.float32), fraction=fraction)
    assert isinstance(found.value, ValueError)
    with pytest.raises(ConfigError):
        CompleteLinkage(fraction).fit(*rows(np.float32))


def test_a_fraction_in_percent():
    for given in (90, "90%", 90.0):
        with pytest.raises(ConfigError, match=r"such as 0\.9\. For 90 %: 0\.9\.$"):
            select(*rows(np.float32), fraction=given)


def test_a_wrong_rule():
    with pytest.raises(
        ConfigError, match=r"rule is 'mean'; wanted: one of cosine_raw_mean, .*which image of a redundant"
    ):
        select(*rows(np.float32), rule="mean")
    with pytest.raises(ConfigError, match="rule is None"):
        CompleteLinkage(rule=None).fit(*rows(np.float32))


LIGHT = """
import sys
heavy = lambda: print(*sorted({"tensorflow", "flax", "jax", "sklearn", "pyarrow", "numpy", "numba"} & {*sys.modules}))
import redundancy
dir(redundancy), redundancy.__version__
heavy()
from redundancy import CompleteLinkage, select
heavy()
from redundancy import load_embeddings, load_merges, load_results, load_subset
assert not {"jax", "numba", "sklearn"} & {*sys.modules}
import numpy as np
assert select(np.eye(4) + 1).dtype == np.int64
assert not {"tensorflow", "flax", "sklearn", "matplotlib", "orbax"} & {*sys.modules}
CompleteLinkage().fit(np.eye(4) + 1)
assert not {"tensorflow", "flax", "matplotlib", "orbax"} & {*sys.modules}
"""


@pytest.mark.soak
def test_an_import_brings_nothing_that_is_not_needed(repo, child_env):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], cwd=repo, env=child_env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\nnumpy\n"


def test_what_is_not_offered():
    import redundancy

    with pytest.raises(AttributeError, match="module 'redundancy' has no attribute 'cluster'"):
        redundancy.cluster  # noqa: B018
    assert {*redundancy.__all__} <= {*dir(redundancy)}


def test_large_numbers_are_different_classes():
    embeddings, labels = rows(np.float32)
    for first, kind in ((5 * 10**18, np.int64), (2**63, np.uint64)):
        large = first + labels.astype(kind)
        assert np.array_equal(select(embeddings, large), select(embeddings, labels))
        found = CompleteLinkage(0.9).fit(embeddings, large).classes_
        assert found.tolist() == np.unique(large).tolist()
    with pytest.raises(ValueError, match="float32 has every whole number below 16777216 alone"):
        select(embeddings, (2.0**24 + labels).astype(np.float32))


def test_columns_of_tables_are_taken():
    X, _ = rows(np.float32)
    frame = pd.DataFrame({"vector": list(X), "label": ["ape", "bee"] * (len(X) // 2) + ["ape"] * (len(X) % 2)})
    wanted = select(X, frame["label"].tolist(), fraction=0.5)
    assert np.array_equal(select(frame["vector"], frame["label"], fraction=0.5), wanted)
    assert np.array_equal(select(pa.array(list(X)), frame[["label"]], fraction=0.5), wanted)
    assert CompleteLinkage(0.5).fit(frame["vector"]).n_features_in_ == X.shape[1]
    with pytest.raises(DataError, match="different lengths"):
        select(pd.Series([np.ones(2), np.ones(3)]), fraction=1.0)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_label_is_no_class(missing):
    X, _ = rows(np.float32)
    with pytest.raises(DataError):
        select(X, ["ape", missing, *["bee"] * (len(X) - 2)], fraction=0.5)


def test_a_fraction_of_any_float():
    X, _ = rows(np.float32)
    assert np.array_equal(select(X, fraction=np.float32(0.9)), select(X, fraction=0.9))
