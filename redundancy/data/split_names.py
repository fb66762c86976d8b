"""Which folders are splits, by their names: what people call the images for training, testing and validation."""

import re
from collections.abc import Iterable, Sequence

TRAIN, TEST, VALIDATION = ("train", "test", "validation")
KNOWN = (
    "train or training, test or testing, validation, valid, val, dev or eval, in upper or lower case, also as in train_set, "
    "TrainImages or val2017"
)
# The names that come before all others, in this order.
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
    """What a folder of this name is for: TRAIN, TEST or VALIDATION, or None if the name is no split's."""
    found = _NAME.fullmatch(re.sub(r"[\W\d_]+", "", name.lower()))
    return _WORDS[found[1]] if found else None


def looks_like_split(name: str) -> bool:
    """Whether a split's word is a part of the name, as in seg_train or fold_1."""
    words = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower())
    return role(name) is not None or not _LIKE.isdisjoint(words)


def of_role(wanted: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that have a role, the likeliest first."""
    first = _FIRST[wanted]

    def order(name):
        return (first.index(name) if name in first else len(first), name.lower() not in first, name)

    return sorted((name for name in names if role(name) == wanted), key=order)


def resolve(given: str, names: Sequence[str]) -> str:
    """The one of `names` that config.train_split or config.test_split means: itself, or the only one of the same role."""
    if given in names or re.search(r"\d", given) or not (wanted := role(given)):
        return given
    found = of_role(wanted, names)
    return found[0] if found and (len(found) == 1 or found[0].lower() == given.lower()) else given
