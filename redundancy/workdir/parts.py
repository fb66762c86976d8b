"""A sweep that several machines share: the flag --part=I/N, and the assignment of packs to parts."""

import dataclasses
import re
from collections.abc import Sequence

from redundancy.runtime.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Part:
    """Part `number`, counted from 0, of a sweep with `count` parts."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def suffix(part: Part | None) -> str:
    """'-part-0-of-4', for the names of a part's own files; '' for the whole sweep."""
    return "" if part is None else f"-part-{part.number}-of-{part.count}"


def parse(text: str) -> Part:
    """The part that "I/N" names.

    Raises:
      ConfigError: `text` is not of this form.
    """
    found = re.fullmatch(r"(0|[1-9][0-9]{0,3})/([1-9][0-9]{0,3})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ConfigError(f"--part={text}: wanted I/N, for example 0/4, I below N.")
    return Part(int(found[1]), int(found[2]))


def shares(steps: Sequence[int], count: int) -> list[int]:
    """The number of the part of each pack: each pack goes to the part with the fewest steps so far.

    Args:
      steps: steps of each pack, in the order of training.
      count: number of parts.
    """
    taken, found = [0] * count, []
    for each in steps:
        part = min(range(count), key=taken.__getitem__)
        taken[part] += each
        found.append(part)
    return found
