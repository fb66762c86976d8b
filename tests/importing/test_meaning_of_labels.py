"""Labels mean the same in every format; what may mean two things is refused, and the flag that decides is named."""

import codecs

import numpy as np
import pyarrow as pa
import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.runtime.errors import ConfigError, DataError
from tests.importing.import_files import N, check, table

# As folders are listed: the index 10 is the class "8".
FOLDERS = sorted(map(str, range(1, 13)))
NUMBERS = 1 + np.arange(N) % 11  # without 12, so that all are indices, too


def in_every_format(files, values, number=False):
    """Fields of imports that give these labels: .npy, .txt, .csv, and a column of Parquet."""
    texts = [str(value) for value in values]
    typed = pa.array(np.array(values) if number else texts)
    files.write("E.parquet", table(files.embeddings, typed, "list"))
    files.write("D.parquet", table(files.embeddings, typed.dictionary_encode(), "list"))
    columns = "embedding=emb,label=cls"
    yield {"labels": files.write("L.npy", np.array(values if number else texts))}
    yield {"labels": files.write("L.txt", texts)}
    yield {"labels": files.write("L.csv", ["cls", *texts]), "columns": "label=cls"}
    for name in ("E.parquet", "D.parquet"):
        yield {"embeddings": files.path(name), "labels": "", "columns": columns}


def brought(files, **fields):
    """The names of the classes of all rows, after an import of its own."""
    storage.remove(files.store)
    opened = files.bring(**fields)
    return np.array(opened.manifest["class_names"])[opened.labels()[1]].tolist()


@pytest.mark.parametrize("number", [False, True])
def test_a_numeral_that_is_a_name_and_another_index_is_refused(files, number):
    names = files.write("names.txt", FOLDERS)
    for fields in in_every_format(files, NUMBERS.tolist(), number):
        what = r"row 0 has the label '?1'? .*name of class 0, and the index of the class '10'.*--labels-are=names or"
        files.refused(what, DataError, class_names=names, **fields)
        assert brought(files, class_names=names, labels_are="names", **fields) == [str(each) for each in NUMBERS]
        by_index = brought(files, class_names=names, labels_are="indices", **fields)
        assert by_index == [FOLDERS[each] for each in NUMBERS]
        storage.remove(files.store)


@pytest.mark.parametrize("number", [False, True])
@pytest.mark.parametrize(
    ("values", "names", "wanted"),
    [
        ([0, 1, 2], ["0", "1", "2"], ["0", "1", "2"]),  # both readings say the same
        ([0, 1, 2], ["cat", "dog", "emu"], ["cat", "dog", "emu"]),
        ([10, 20, 30], ["30", "10", "20"], ["10", "20", "30"]),  # no indices
        ([7, 10, 7], ["007", "010", "x"], ["007", "010", "007"]),
        ([0, 1, 2], ["cat", "1", "emu"], ["cat", "1", "emu"]),
    ],
)
def test_numerals_with_one_meaning_need_no_flag(files, number, values, names, wanted):
    path = files.write("names.txt", names)
    for fields in in_every_format(files, values * (N // 3), number):
        assert brought(files, class_names=path, **fields) == wanted * (N // 3)


def test_names_beside_numerals_are_names(files):
    path = files.write("names.txt", ["cat", "dog", "1"])
    for fields in in_every_format(files, ["1", "cat", "dog"] * (N // 3)):
        assert brought(files, class_names=path, **fields) == ["1", "cat", "dog"] * (N // 3)
        storage.remove(files.store)
        files.refused("label 'cat' .*wants whole numbers", DataError, class_names=path, labels_are="indices", **fields)


def test_numerals_that_are_names_and_indices_by_turns_are_refused(files):
    path = files.write("names.txt", ["7", "b"])
    for fields in in_every_format(files, [7, 1, 0] * (N // 3)):
        files.refused(r"row 0 has the label '7' .*for each a number from 0 to 1", DataError, class_names=path, **fields)


@pytest.mark.parametrize("number", [False, True])
def test_numerals_without_class_names_are_in_the_order_of_numbers(files, number):
    for fields in in_every_format(files, [10, 9, 100] * (N // 3), number):
        opened = files.bring(**fields)
        assert opened.manifest["class_names"] == ["9", "10", "100"]
        assert opened.labels()[1].tolist() == [1, 0, 2] * (N // 3)


def test_texts_may_be_named_as_names(files):
    values = ["1.5", "-1", "07"] * (N // 3)
    for fields in in_every_format(files, values):
        assert brought(files, labels_are="names", **fields) == values
        storage.remove(files.store)


def test_the_data_set_tells_which_meaning_is_right(files):
    images = np.random.default_rng(0).integers(0, 256, (N, 8, 8), np.uint8)
    labels = np.array([FOLDERS.index(str(each)) for each in NUMBERS])
    labels[0] = FOLDERS.index("12")
    both = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.savez(files.path("set.npz"), class_names=np.array(FOLDERS), **both)
    config = config_lib.resolve({"dataset": files.path("set.npz")})
    names = [int(FOLDERS[label]) for label in labels]
    for values in (names, labels.tolist()):
        for number in (False, True):
            for fields in in_every_format(files, values, number):
                check(files.bring(config, **fields), files.embeddings, labels)
    wrong = [1, *names[1:]]
    for fields in in_every_format(files, wrong):
        files.refused(r"position 0 \(row 0\) has the label '1'.* 1 of 60 labels disagree", DataError, config, **fields)


@pytest.mark.parametrize("as_column", [False, True])
def test_bools_are_two_classes(files, as_column):
    values = np.arange(N) % 3 == 0
    files.write("E.parquet", table(files.embeddings, pa.array(values), "list"))
    fields = {"labels": files.write("L.npy", values)}
    if as_column:
        fields = {"embeddings": files.path("E.parquet"), "labels": "", "columns": "embedding=emb,label=cls"}
    assert brought(files, **fields) == [str(value) for value in values.tolist()]
    names = files.write("names.txt", ["others", "every third"])
    assert brought(files, class_names=names, **fields) == [
        ("others", "every third")[value] for value in values.tolist()
    ]
    names = files.write("names.txt", ["True", "False"])
    storage.remove(files.store)
    files.refused(
        "label True .*name of class 0, and the index of the class 'False'", DataError, class_names=names, **fields
    )


@pytest.mark.parametrize("mark", ["BOM_UTF8", "BOM_UTF16_LE", "BOM_UTF16_BE", "BOM_UTF32_LE", "BOM_UTF32_BE"])
def test_texts_are_read_by_their_mark(files, mark):
    encoding = mark.removeprefix("BOM_").replace("UTF", "UTF-").replace("_", "-")

    def write(name, lines):
        path = files.path(name)
        storage.write_bytes(path, getattr(codecs, mark) + "\r\n".join(lines).encode(encoding))
        return path

    names = ["café", "犬", "0"]
    labels = [names[row % 3] for row in range(N)]
    ids = write("I.txt", [f"é {row}" for row in range(N)])
    for fields in (
        {"labels": write("L.txt", labels)},
        {"labels": write("L.csv", ["x,cls", *(f"1,{label}" for label in labels)]), "columns": "label=cls"},
    ):
        assert brought(files, ids=ids, class_names=write("C.txt", names), **fields) == labels


def said(caplog, what):
    return [record.getMessage() for record in caplog.records if what in record.getMessage()]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["dog", "cat", "dog "], "'dog' and 'dog '"),
        (["ice cream", "x", "icecream"], "'ice cream' and 'icecream'"),
        (["a b", "x", "a\xa0b"], r"'a b' and 'a\xa0b'"),
        (["Dog", "cat", "dog", "DOG"], "'DOG' and 'Dog' and 'dog'"),
        (["straße", "x", "STRASSE"], "'STRASSE' and 'straße'"),
        (["caf\xe9", "x", "cafe\u0301"], r"'cafe\u0301' and 'caf\xe9'"),
    ],
)
def test_labels_that_are_most_likely_one_class_are_warned_of(files, caplog, names, shown):
    labels = [names[row % len(names)] for row in range(N)]
    files.bring(labels=files.write("L.txt", labels))
    (warning,) = said(caplog, "differ in white space, case or Unicode form alone")
    assert f"L.txt: the class names {shown} differ" in warning


def test_different_labels_are_not_warned_of(files, caplog):
    files.bring(labels=files.write("L.txt", ["dog", "dogs", "d-og", "dög"] * (N // 4)))
    assert not said(caplog, "alone")


def test_without_labels_all_are_one_class(files, caplog):
    opened = files.bring(labels="")
    check(opened, files.embeddings, np.zeros(N, np.int32))
    assert opened.manifest["class_names"] == ["all"]
    assert said(caplog, "no labels are given: all 60 embeddings are one class")
    # Of Parquet, too; its columns are named, since one may have the labels.
    path = files.write("E.parquet", table(files.embeddings, files.labels, "list"))
    check(files.bring(embeddings=path, labels="", columns="embedding=emb"), files.embeddings, np.zeros(N, np.int32))
    assert said(caplog, "there is no column 'label' among emb, cls: all 60 embeddings are one class")
    config = config_lib.resolve({"dataset": files.path("none.npz")})
    files.refused("--labels is missing.* beside --config", ConfigError, config, labels="")
