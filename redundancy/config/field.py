"""The type of a config's fields, what depends on a field's value, and checks that fields share."""

import dataclasses
import enum
import re
from collections.abc import Callable
from typing import Any

# Sanity bounds, which catch typos before work starts: no experiment comes near them.
MOST = 2**31 - 1  # steps and seeds are int32 on devices
MOST_IMAGES = 2**24  # of a batch
# JSON or paths cannot hold some of these characters, and no name has one on purpose.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Affects(enum.Flag):
    """What depends on the value of a field.

    Attributes:
      NOTHING: the field says where a data set lies or how it is read; the fingerprint identifies the data set.
      IDENTITY: the identity of a training, which decides which checkpoints and which result belong to it.
      NETWORK: pretrain/, and the embeddings that its network made.
      SCORES: scores/, and the subsets that are chosen by them.
      EMBEDDINGS: the files that hold these embeddings.
      RUNS: runs/ and results.csv.
      TABLE: which subsets and runs there are. Those of other values stay, and what lacks is made.
      REPORT: what the page shows, which is then written again.
      COMPARISON: whether the results of two workdirs are those of one experiment.
      HOW: how a training is computed and written, which is the same for all trainings of a workdir.
      RESULT: the result of a training.
    """

    NOTHING = 0
    IDENTITY = enum.auto()
    NETWORK = enum.auto()
    EMBEDDINGS = enum.auto()
    RUNS = enum.auto()
    TABLE = enum.auto()
    REPORT = enum.auto()
    COMPARISON = enum.auto()
    HOW = NETWORK | RUNS
    SCORES = enum.auto()
    RESULT = IDENTITY | HOW | COMPARISON


@dataclasses.dataclass(frozen=True)
class Field:
    """One field: its default (whose type is the field's type), what it means, and its own check.

    The default of a field that is added must do what the program did without it: configs, checkpoints and results that
    lack the field count as having its default.

    Attributes:
      section: heading under which the field is listed.
      default: value of a config that does not set it; () stands for a tuple of `item`.
      doc: what it means, with its unit.
      wanted: the allowed values in words, for the error message.
      check: value -> whether it is allowed.
      item: type of the items, if the field is a tuple.
      affects: what depends on it; by default everything that a training makes.
      is_path: whether it may hold a path, in which ~ is expanded.
      or_names: whether it may hold, instead of a number, a tuple of names, or a text with names between commas.
    """

    section: str
    default: Any
    doc: str
    wanted: str = ""
    check: Callable[[Any], bool] = lambda value: True
    item: type | None = None
    affects: Affects = Affects.RESULT
    is_path: bool = False
    or_names: bool = False


def fraction_name(fraction: float) -> str:
    """A fraction in names and tables: four decimals. Fractions that share them count as the same."""
    return f"{fraction:.4f}"


def same_fraction(first: float, second: float) -> bool:
    """Whether two fractions have the same name."""
    return fraction_name(first) == fraction_name(second)


def share_hint(field: Field, value: Any) -> str:
    """' For 90 %: 0.9.' for a value such as 90 or "90%" of a field that holds shares; else ''."""
    value = value[0] if isinstance(value, tuple | list) and value else value
    try:
        percent = float(value.strip().removesuffix("%")) if isinstance(value, str) else float(value)
    except (OverflowError, TypeError, ValueError):
        return ""
    share = percent / 100
    of_shares = float in (field.item, type(field.default)) and 1 < percent <= 100
    if not of_shares or not field.check((share,) if isinstance(field.default, tuple) else share):
        return ""
    return f" For {percent:g} %: {share:g}."


def between(low, high=MOST):
    return dict(wanted=f"a number from {low} to {high}", check=lambda value: low <= value <= high)


def all_between(low, high):
    return dict(
        wanted=f"numbers from {low} to {high}",
        check=lambda value: all(low <= item <= high for item in value),
        item=float,
    )


def one_of(names):
    return dict(wanted="one of " + ", ".join(names), check=lambda value: value in names)


def some_of(names):
    return dict(
        item=str,
        wanted="one or more different names out of " + ", ".join(names),
        check=lambda value: 0 < len(set(value)) == len(value) and all(name in names for name in value),
    )


def below_one():
    return dict(wanted="a number from 0 up to, not including, 1", check=lambda value: 0 <= value < 1)
