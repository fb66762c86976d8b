import logging

import pytest

from redundancy.data.inputs import similar_names, warn_of_similar_names


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("cat", "Cat"),
        ("cat", "cat "),
        ("hot dog", "hot  dog"),
        ("hot dog", "hot\u00a0dog"),
        ("cat", "\ufeffcat"),
        ("caf\u00e9", "cafe\u0301"),
        ("Stra\u00dfe", "STRASSE"),
        ("\uac00", "\u1100\u1161"),
        ("\u00c9 t", "e\u0301T"),
    ],
)
def test_names_that_are_most_likely_one(first, second, caplog):
    assert similar_names(["dog", first, "ape", second, first]) == [(first, second)]
    with caplog.at_level(logging.WARNING, "absl"):
        warn_of_similar_names("labels.txt", ["dog", first, second])
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("labels.txt: the class names ")
    for name in (first, second):
        assert repr(name) in message or ascii(name) in message


def test_names_of_different_things():
    assert similar_names(["cat", "cats", "cut", "cat_", "c4t", "e", "é", "10", "100", "👩\u200d🔬", "👩🔬"]) == []


def test_many_similar_names_are_summed_up(caplog):
    with caplog.at_level(logging.WARNING, "absl"):
        warn_of_similar_names("photos", [name for i in range(30) for name in (f"a{i}", f"A{i}")], "class folders")
    assert len(caplog.records) == 11
    assert "20 more groups" in caplog.records[-1].getMessage()


def test_letters_that_look_alike_are_shown_apart(caplog):
    with caplog.at_level(logging.WARNING, "absl"):
        warn_of_similar_names("photos", ["é", "e\u0301"])
    assert r"'\xe9' and 'e\u0301'" in caplog.text
