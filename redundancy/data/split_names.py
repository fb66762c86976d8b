"""Recognises splits by usual folder names for training, testing and validation."""

import re
from collections.abc import Iterable, Sequence

TRAIN, TEST, VALIDATION = ("train", "test", "validation")
KNOWN = (
    "train or training, test or testing, validation, valid, val, dev or eval, in upper or lower case, also as in train_set, "
    "TrainImages or val2017"
)
# The names that have precedence over all others, in this order.
_FIRST = {TRAIN: ("train",), TEST: ("test",), VALIDATION: ("validation", "val")}
_WORDS = {
    "train": TRAIN, "training": TRAIN, "trn": TRAIN,
    "test": TEST, "testing": TEST, "tests": TEST, "tst": TEST,
    "validation": VALIDATION, "validate": VALIDATION, "validating": VALIDATION, "valid": VALIDATION, "val": VALIDATION,
    "dev": VALIDATION, "development": VALIDATION, "eval": VALIDATION, "evaluation": VALIDATION,
}  # fmt: skip
_MORE = "(?:sets?|data|images?|imgs?|pics?|pictures?|photos?|splits?|folders?|samples?|files?)*"
_NAME = re.compile(f"{_MORE}({'|'.join(_WORDS)}){_MORE}")
_LIKE = {*_WORDS, "fold", "split", "holdout", "heldout"}


def role(name: str) -> str | None:
    """The role of a folder with this name: TRAIN, TEST or VALIDATION, or None if it is not the name of a split."""
    found = _NAME.fullmatch(re.sub(r"[\W\d_]+", "", name.lower()))
    return _WORDS[found[1]] if found else None


def looks_like_split(name: str) -> bool:
    """Whether the name contains a word for a split, as in seg_train or fold_1."""
    words = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower())
    return role(name) is not None or not _LIKE.isdisjoint(words)


def of_role(wanted: str, names: Iterable[str]) -> list[str]:
    """The names that have the role `wanted`, most likely first."""
    first = _FIRST[wanted]

    def order(name):
        return (first.index(name) if name in first else len(first), name.lower() not in first, name)

    return sorted((name for name in names if role(name) == wanted), key=order)


def resolve(given: str, names: Sequence[str]) -> str:
    """The name that config.train_split or config.test_split means: the same one, or the only one with the same role."""
    if given in names or re.search(r"\d", given) or not (wanted := role(given)):
        return given
    found = of_role(wanted, names)
    return found[0] if found and (len(found) == 1 or found[0].lower() == given.lower()) else given
