"""The command scores: what other tools write finds its images, or is refused with one line."""

import dataclasses
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from redundancy import config as config_lib
from redundancy.embedding import ids as ids_lib
from redundancy.runtime.errors import ConfigError, DataError, UserError, WorkdirError
from redundancy.scoring import exchange, files, matching
from redundancy.selection.select import select
from redundancy.selection.subset import read_subset
from redundancy.workdir import read_manifest
from tests.selection.conftest import make_workdir

N = 50


@pytest.fixture
def made(tmp_path):
    """A workdir of 50 images of 4 classes whose labels are mixed, with names, and a score in stored order."""
    config, workdir = make_workdir(tmp_path / "w", methods=("random", "score_mine"), fractions=(0.5,))
    folder = workdir.embeddings("end")
    manifest = read_manifest(folder)
    positions, labels = matching.images_of(workdir).positions, matching.images_of(workdir).labels
    names = [
        f"class{label}/image{(position * 37) % 101:03}.png" for label, position in zip(labels, positions, strict=True)
    ]
    ids_lib.write(folder, positions, pa.array(names), ids_lib.tie(manifest))
    values = np.random.default_rng(0).permutation(N).astype(float)
    return config, workdir, labels, names, values


def saved(path, values):
    np.save(path, values)
    return str(path)


def text(path, lines):
    path.write_text("\n".join(map(str, lines)) + "\n")
    return str(path)


def found(workdir, name="score_mine"):
    return files.read(workdir, name).values


def test_a_table_in_any_order_is_joined_by_names(made, tmp_path):
    _, workdir, _, names, values = made
    order = np.random.default_rng(1).permutation(N)
    lines = ["image,memorisation", *(f"{names[row]},{values[row]}" for row in order)]
    exchange.import_scores(exchange.Request("mine", text(tmp_path / "s.csv", lines)), workdir)
    np.testing.assert_array_equal(found(workdir), values)
    table = {"file": [names[row].rpartition("/")[2] for row in order], "score": values[order], "x": range(N)}
    pq.write_table(pa.table(table), tmp_path / "s.parquet")
    request = exchange.Request("ends", str(tmp_path / "s.parquet"), id_column="file", score_column="score")
    exchange.import_scores(request, workdir)
    np.testing.assert_array_equal(found(workdir, "score_ends"), values)
    (tmp_path / "s.json").write_text(json.dumps({names[row]: values[row] for row in order}))
    exchange.import_scores(exchange.Request("json", str(tmp_path / "s.json")), workdir)
    np.testing.assert_array_equal(found(workdir, "score_json"), values)


def test_labels_that_alternate_tell_the_stored_order(made, tmp_path):
    _, workdir, labels, _, values = made
    scores = saved(tmp_path / "s.npy", values)
    exchange.import_scores(exchange.Request("mine", scores, labels=saved(tmp_path / "y.npy", labels)), workdir)
    np.testing.assert_array_equal(found(workdir), values)
    np.savez(tmp_path / "fz.npz", tr_mem=values, tr_labels=labels)
    request = exchange.Request("fz", str(tmp_path / "fz.npz"), key="tr_mem", label_column="tr_labels")
    exchange.import_scores(request, workdir)
    np.testing.assert_array_equal(found(workdir, "score_fz"), values)


def test_names_in_sorted_order(made, tmp_path):
    _, workdir, _, names, values = made
    by_name = np.argsort(names)
    request = exchange.Request("mine", saved(tmp_path / "s.npy", values[by_name]), order="names")
    exchange.import_scores(request, workdir)
    np.testing.assert_array_equal(found(workdir), values)


def test_data_diets_order_by_class_must_be_said(made, tmp_path, caplog):
    _, workdir, labels, _, values = made
    by_class = np.argsort(labels, kind="stable")
    scores, sorted_labels = saved(tmp_path / "s.npy", values[by_class]), saved(tmp_path / "y.npy", labels[by_class])
    with pytest.raises(ConfigError, match="labels lie class by class"):
        exchange.import_scores(exchange.Request("mine", scores, labels=sorted_labels), workdir)
    exchange.import_scores(exchange.Request("mine", scores, labels=sorted_labels, order="class"), workdir)
    assert "nothing in the file confirms it" in caplog.text
    np.testing.assert_array_equal(found(workdir), values)


def test_a_ranking_is_turned_into_scores(made, tmp_path):
    """TDDS's mask: image numbers in ascending score."""
    _, workdir, labels, _, values = made
    request = exchange.Request(
        "mine", saved(tmp_path / "mask.npy", np.argsort(values)), ranking=True, labels=saved(tmp_path / "y.npy", labels)
    )
    exchange.import_scores(request, workdir)
    np.testing.assert_array_equal(found(workdir), values)


def kept_of(workdir, name):
    return read_subset(workdir.subset(name)).kept


def test_imported_scores_choose_the_highest_or_the_lowest(made, tmp_path):
    config, workdir, _labels, _, values = made
    exchange.import_scores(exchange.Request("mine", saved(tmp_path / "s.npy", values), order="stored"), workdir)
    config = config_lib.resolve({**config, "balance": "all", "methods": ("random", "score_mine", "score_mine_easy")})
    select(config, workdir)
    np.testing.assert_array_equal(kept_of(workdir, "score_mine-0.5000-trial0"), values >= N / 2)
    np.testing.assert_array_equal(kept_of(workdir, "score_mine_easy-0.5000-trial1"), values < N / 2)
    assert kept_of(workdir, "random-0.5000-trial0").sum() == N / 2


def test_a_score_of_several_networks_is_their_mean_and_low_may_be_kept(made, tmp_path):
    config, workdir, labels, _, values = made
    both = np.stack([values, values + 2], axis=1)
    exchange.import_scores(
        exchange.Request("mine", saved(tmp_path / "s.npy", both), order="stored", keep="low"), workdir
    )
    np.testing.assert_array_equal(found(workdir), values + 1)
    np.testing.assert_array_equal(files.read(workdir, "score_mine").each, both)
    select(config, workdir)
    kept = kept_of(workdir, "score_mine-0.5000-trial0")
    for label in range(4):
        of_class = labels == label
        assert values[of_class & kept].max() <= values[of_class & ~kept].min(initial=np.inf)


@pytest.mark.parametrize("form", ["paths", "indices", "mask", "numbers in a text"])
def test_a_list_of_kept_images_is_kept_as_it_is(made, tmp_path, form):
    config, workdir, labels, names, _values = made
    kept = labels != 1
    kept[np.flatnonzero(kept)[25:]] = False
    rows = np.random.default_rng(2).permutation(np.flatnonzero(kept))
    positions = matching.images_of(workdir).positions[rows]
    path, order = {
        "paths": lambda: (text(tmp_path / "l.txt", [f"/{names[row]} {labels[row]}" for row in rows]), None),
        "indices": lambda: (saved(tmp_path / "l.npy", positions), "stored"),
        "mask": lambda: (saved(tmp_path / "m.npy", kept), "stored"),
        "numbers in a text": lambda: (text(tmp_path / "n.txt", positions), "stored"),
    }[form]()
    exchange.import_scores(exchange.Request("mine", path, kept=True, order=order), workdir)
    select(config, workdir)
    for trial in range(2):
        np.testing.assert_array_equal(kept_of(workdir, f"score_mine-0.5000-trial{trial}"), kept)


def test_a_list_serves_its_own_fraction_alone(made, tmp_path):
    config, workdir, *_ = made
    exchange.import_scores(
        exchange.Request(
            "mine", saved(tmp_path / "l.npy", matching.images_of(workdir).positions[:20]), kept=True, order="stored"
        ),
        workdir,
    )
    with pytest.raises(
        ConfigError, match=r"lists 20 of 50 images, so its only fraction is 0.4; config.fractions has 0.5"
    ):
        select(config, workdir)
    assert not (tmp_path / "w" / "subsets").exists()


BAD = {
    "NaN": (lambda v, names: np.where(np.arange(N) == 3, np.nan, v), dict(order="stored"), "row 3 has no number"),
    "too few": (lambda v, names: v[:40], dict(order="stored"), "has 40 values, and the workdir 50"),
    "constant": (lambda v, names: np.full(N, 0.5), dict(order="stored"), "all scores are 0.5"),
    "no order": (lambda v, names: v, {}, "neither ids nor labels"),
    "a matrix of matrices": (lambda v, names: v.reshape(5, 5, 2), dict(order="stored"), r"\[5, 5, 2\]; wanted numbers"),
    "texts": (lambda v, names: np.array(names), dict(order="stored"), "wanted numbers"),
    "no ranking": (lambda v, names: v + 1, dict(ranking=True, order="stored"), "is no ranking"),
    "kept twice": (lambda v, names: np.array([1, 2, 2]), dict(kept=True, order="stored"), "twice"),
    "kept beyond": (
        lambda v, names: np.array([1, 300]),
        dict(kept=True, order="stored"),
        "position of no training image",
    ),
    "kept between": (
        lambda v, names: np.array([1, 3]),
        dict(kept=True, order="stored"),
        "lists image 3; it is the position",
    ),
    "kept beyond of names": (lambda v, names: np.array([1, 50]), dict(kept=True, order="names"), "wanted 0 to 49"),
    "a short mask": (
        lambda v, names: np.array([True, False]),
        dict(kept=True, order="stored"),
        "has 2 values; wanted 50",
    ),
    "kept inf": (lambda v, names: np.array([1, np.inf]), dict(kept=True, order="stored"), "wanted whole numbers"),
    "inf less inf": (
        lambda v, names: np.stack([v * np.inf, -v * np.inf], 1),
        dict(order="stored"),
        "no number|no mean",
    ),
    "no networks": (lambda v, names: v.reshape(50, 1)[:, :0], dict(order="stored"), "has no column"),
    "kept by number, no order": (lambda v, names: np.array([1, 5]), dict(kept=True), "say what the numbers are"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_array_is_refused(made, tmp_path, name):
    _, workdir, _, names, values = made
    make, options, message = BAD[name]
    with pytest.raises(UserError, match=message):
        exchange.import_scores(
            exchange.Request("mine", saved(tmp_path / "s.npy", make(values, names)), **options), workdir
        )
    assert not (tmp_path / "w" / "scores").exists()


def test_ids_that_are_unknown_double_or_lack_are_refused(made, tmp_path):
    _, workdir, _, names, values = made
    for lines, message in (
        ([*names[:-1], "else.png"], r"1 of 50 ids are of no image of the workdir, or of several, such as 'else.png'"),
        ([*names[:-1], names[0]], r"the same id"),
        (names[:-1], r"has 49 of the workdir's 50 images"),
    ):
        request = exchange.Request(
            "mine", saved(tmp_path / "s.npy", values[: len(lines)]), ids=text(tmp_path / "ids.txt", lines)
        )
        with pytest.raises(DataError, match=message):
            exchange.import_scores(request, workdir)


def test_labels_of_another_set_are_refused(made, tmp_path):
    _, workdir, labels, names, values = made
    other = saved(tmp_path / "y.npy", (labels + np.arange(N)) % 4)
    scores = saved(tmp_path / "s.npy", values)
    with pytest.raises(DataError, match="agree with the workdir's in no known order"):
        exchange.import_scores(exchange.Request("mine", scores, labels=other), workdir)
    with pytest.raises(DataError, match="labels are not the workdir's"):
        exchange.import_scores(
            exchange.Request("mine", scores, labels=other, ids=text(tmp_path / "i.txt", names)), workdir
        )


def test_pickles_are_never_opened(made, tmp_path):
    _, workdir, *_ = made

    class Bomb:
        def __reduce__(self):
            return (text, (tmp_path / "opened", ["yes"]))

    (tmp_path / "s.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ConfigError, match=r"is a pickle, which is never loaded"):
        exchange.import_scores(exchange.Request("mine", str(tmp_path / "s.pkl")), workdir)
    np.save(tmp_path / "o.npy", np.array([Bomb()], object), allow_pickle=True)
    with pytest.raises(UserError):
        exchange.import_scores(exchange.Request("mine", str(tmp_path / "o.npy"), order="stored"), workdir)
    assert not (tmp_path / "opened").exists()


def test_a_sorted_file_is_warned_of_and_a_second_import_wants_overwrite(made, tmp_path, caplog):
    _, workdir, _, _, values = made
    request = exchange.Request("mine", saved(tmp_path / "s.npy", np.sort(values)), order="stored")
    exchange.import_scores(request, workdir)
    assert "a sorted file does not say which image each is of" in caplog.text
    with pytest.raises(WorkdirError, match="--overwrite"):
        exchange.import_scores(request, workdir)


@pytest.mark.parametrize("ending", ["csv", "parquet", "npy"])
def test_what_is_exported_comes_back(made, tmp_path, ending):
    _, workdir, _labels, _names, values = made
    exchange.import_scores(
        exchange.Request("mine", saved(tmp_path / "s.npy", values), order="stored", keep="low"), workdir
    )
    output = str(tmp_path / f"out.{ending}")
    exchange.export_scores(workdir, "mine", output)
    with pytest.raises(ConfigError, match="is there already"):
        exchange.export_scores(workdir, "mine", output)
    order = "stored" if ending == "npy" else None
    exchange.import_scores(exchange.Request("back", output, order=order, score_column=None), workdir)
    np.testing.assert_array_equal(found(workdir, "score_back"), -values)
    assert "score_mine" in exchange.list_scores(workdir)
    with pytest.raises(WorkdirError, match="no score 'mone'"):
        exchange.export_scores(workdir, "mone", str(tmp_path / "x.csv"))


def test_a_score_of_other_labels_is_refused_by_select(made, tmp_path):
    config, workdir, _, _, values = made
    exchange.import_scores(exchange.Request("mine", saved(tmp_path / "s.npy", values), order="stored"), workdir)
    score = files.read(workdir, "score_mine")
    files.write(
        workdir, files.Score("score_mine", score.positions, score.labels[::-1].copy(), values, "high", score.made)
    )
    with pytest.raises(WorkdirError, match="has other labels"):
        select(config, workdir)


def test_a_score_that_is_not_there_is_asked_for_before_anything_is_written(made, tmp_path):
    config, workdir, *_ = made
    with pytest.raises(WorkdirError, match='import the score first, "redundancy scores import'):
        select(config, workdir)
    assert not (tmp_path / "w" / "subsets").exists()


def test_a_run_asks_for_an_imported_score_before_it_trains(digits_npz, tmp_path, redundancy):
    done = redundancy(
        "run",
        "--config=digits:smoke",
        f"--config.dataset={digits_npz}",
        "--config.methods=random,score_mine",
        f"--workdir={tmp_path}/w",
    )
    assert done.returncode == 1
    assert "has no score_mine.parquet: import the score first" in done.stderr
    assert not (tmp_path / "w" / "pretrain").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ("el2", "random")}, r"""a name is 'el2'; wanted one of .*Did you mean "el2n"?"""),
        ({"methods": ("semantic", "random", "k_center"), "balance": "all"}, r"do not support: semantic, k_center"),
        ({"methods": ("ccs",), "balance": "floor"}, r"do not support: ccs"),
        ({"methods": ("ccs",), "ccs_cutoff": 0.3, "fractions": (0.9, 0.5)}, r"cannot keep 0.9. Lower ccs_cutoff"),
        ({"ccs_score": "semantic"}, r"config.ccs_score is 'semantic'"),
        ({"score_at": 0.0}, r"config.score_at is 0.0"),
    ],
)
def test_a_wrong_config_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        config_lib.resolve({"steps": 5000, **fields})


def test_ids_say_the_order_so_no_flag_may(made, tmp_path):
    _, workdir, _, names, values = made
    path = text(
        tmp_path / "s.csv", ["id,score", *(f"{name},{value}" for name, value in zip(names, values, strict=True))]
    )
    for flags in (dict(order="class"), dict(ranking=True)):
        with pytest.raises(ConfigError, match="has ids, which say which image each value is of"):
            exchange.import_scores(exchange.Request("mine", path, **flags), workdir)


@pytest.mark.parametrize(
    ("given", "row"),
    [
        ("train/c0/000.png", 0), ("c0/000.png", 0), ("./train/c0/000.png", 0), ("/data/train/c0/000.png", 0),
        ("c0\\000.png", 0), ("000.png", None), ("test/c0/000.png", None), ("alone.png", 2), ("rain/c0/000.png", None),
    ],
)  # fmt: skip
def test_a_path_names_an_image_by_whole_parts(given, row):
    names = ["train/c0/000.png", "train/c1/000.png", "train/c1/alone.png"]
    whole = {name: number for number, name in enumerate(names)}
    assert matching._row_of(given, whole, matching._by_ends(names)) == row


def test_what_export_writes_of_positions_comes_back_as_a_list(tmp_path):
    config, workdir = make_workdir(tmp_path / "w", methods=("random",), fractions=(0.5,))
    select(config, workdir)
    kept = kept_of(workdir, "random-0.5000-trial0")
    positions = matching.images_of(workdir).positions
    assert not np.array_equal(positions, np.arange(len(positions)))
    request = exchange.Request("mine", saved(tmp_path / "k.npy", positions[kept]), kept=True, order="stored")
    exchange.import_scores(request, workdir)
    np.testing.assert_array_equal(found(workdir) > 0, kept)
    request = exchange.Request("s", text(tmp_path / "s.csv", ["id,score", *(f"{p},{p}" for p in positions)]))
    exchange.import_scores(request, workdir)
    np.testing.assert_array_equal(found(workdir, "score_s"), positions)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.csv", b"id,score\n0,1\n1\n", "line 3 has 1 values"),
        ("s.csv", b"score,score\n0,1\n", "each of another name"),
        ("s.csv", b"id,score\n", "1 lines; wanted a header"),
        ("s.csv", b"id,score\n0," + b"9" * 140_000, "cannot be read as .csv"),
        ("s.json", b"[1" + b"0" * 400 + b"]", "wanted a number"),
        ("s.json", b"{", "is no JSON"),
        ("s.json", b"3", "holds int; wanted a list of scores"),
        ("s.txt", b"1\n\n2\n", "wanted a number"),
        ("s.npz", b"PK\3\4 and no more", "wanted an array of numbers"),
    ],
)
def test_a_damaged_file_is_one_line(made, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        exchange.import_scores(exchange.Request("mine", str(tmp_path / name), order=None), made[1])


def test_ccs_draws_by_an_imported_score_with_infinite_values(made, tmp_path):
    config, workdir, _, _, values = made
    values[values >= 40] = np.inf
    exchange.import_scores(exchange.Request("mine", saved(tmp_path / "s.npy", values), order="stored"), workdir)
    for balance in ("class", "all"):
        fields = {**config, "methods": ("ccs",), "ccs_score": "score_mine", "balance": balance, "ccs_cutoff": 0.2}
        select(config_lib.resolve(fields), workdir)
        kept = kept_of(workdir, "ccs-0.5000-trial0")
        assert kept.sum() == N / 2
        if balance == "all":
            assert not kept[np.isinf(values)].all()
            assert np.isinf(values[~kept]).sum() >= 0.2 * N - 1
        for path in (tmp_path / "w" / "subsets").iterdir():
            path.unlink()


def test_a_score_that_was_replaced_is_noticed(made, tmp_path):
    config, workdir, _, _, values = made
    request = exchange.Request("mine", saved(tmp_path / "s.npy", values), order="stored", overwrite=True)
    exchange.import_scores(request, workdir)
    select(config, workdir)
    exchange.import_scores(dataclasses.replace(request, scores=saved(tmp_path / "t.npy", values[::-1])), workdir)
    with pytest.raises(WorkdirError, match="was made from other scores/score_mine"):
        select(config_lib.resolve({**config, "fractions": (0.5, 0.3)}), workdir)
