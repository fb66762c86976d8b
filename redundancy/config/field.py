"""The type of a config's fields, what depends on a field's value, and common checks."""

import dataclasses
import enum
import re
from collections.abc import Callable
from typing import Any

# Sanity bounds, far beyond any experiment, which catch typos before work starts.
MOST = 2**31 - 1  # steps and seeds are int32 on devices
MOST_IMAGES = 2**24  # of a batch
# Characters that JSON or paths cannot hold, or that are never in a name on purpose.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Affects(enum.Flag):
    """What depends on the value of a field.

    Attributes:
      NOTHING: the field says where a data set lies or how it is read; the fingerprint identifies the data set.
      IDENTITY: the identity of a training, which determines the checkpoints and the result that belong to it.
      NETWORK: pretrain/, and the embeddings from its network.
      SCORES: scores/, and the subsets that are chosen by scores.
      EMBEDDINGS: the files of these embeddings.
      RUNS: runs/ and results.csv.
      TABLE: the set of subsets and runs. Those of other values stay, and missing ones are made.
      REPORT: the contents of the page, which is then written again.
      COMPARISON: whether the results of two workdirs belong to the same experiment.
      HOW: how trainings are computed and written, which must be the same for all trainings of a workdir.
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
    """One field: its default (whose type is the field's type), its meaning, and its check.

    With the default of a new field, the program must behave as it did without the field: configs, checkpoints and results
    without the field count as having its default.

    Attributes:
      section: heading under which the field is listed.
      default: value if a config does not set the field; () is an empty tuple of `item`.
      doc: meaning, with the unit.
      wanted: the allowed values in words, for error messages.
      check: value -> whether it is allowed.
      item: type of the items, if the field is a tuple.
      affects: what depends on the field; by default everything that a training writes.
      is_path: whether the value may be a path, in which ~ is expanded.
      or_names: whether the value may be, instead of a number, a tuple of names, or a text with names between commas.
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
    """A fraction in names and tables, with four decimals. Fractions with the same decimals count as equal."""
    return f"{fraction:.4f}"


def same_fraction(first: float, second: float) -> bool:
    """Whether two fractions have the same `fraction_name`."""
    return fraction_name(first) == fraction_name(second)


def share_hint(field: Field, value: Any) -> str:
    """' For 90 %: 0.9.' if a field for shares has a value such as 90 or "90%"; else ''."""
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
