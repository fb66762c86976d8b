"""Numbers as a reader wants them, and the answer in plain words. Pure; never claims more than the trials show."""

import math
from collections.abc import Sequence

from redundancy.report.statistics import Difference, Summary, find

MINUS = "\N{MINUS SIGN}"
# Above this many test images one of them is less than 0.02 points, and a second decimal means something.
_FINE_TEST_SIZE = 5000


def percent(share: float) -> str:
    """0.9 -> '90%', 0.125 -> '12.5%'."""
    return f"{round(100 * share, 2):g}%"


def accuracy(share: float, decimals: int = 2) -> str:
    """0.9731 -> '97.31', in percent without the sign; '–' for NaN."""
    return f"{100 * share:.{decimals}f}" if math.isfinite(share) else "–"


def points(share: float, decimals: int = 2) -> str:
    """A signed difference in percentage points: -0.0021 -> '−0.21'."""
    text = f"{100 * share:+.{decimals}f}"
    if float(text) == 0:
        return text[1:]
    return text.replace("-", MINUS)


def interval(difference: Difference, decimals: int = 2) -> str:
    """'−0.90 to +0.50', or why there is none."""
    if difference.has_interval:
        return f"{points(difference.low, decimals)} to {points(difference.high, decimals)}"
    return "one pair: no interval" if difference.pairs == 1 else "all pairs alike: no interval"


def small(value: float) -> str:
    """A dissimilarity: three significant digits; '–' for NaN."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    return f"{value:.2e}".replace("e-0", "e-").replace("e-", f"e{MINUS}") if value < 1e-4 else f"{value:#.3g}"


def plural(count: int, noun: str) -> str:
    """'1 trial', '1,437 images', '2 classes'."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def class_title(name: str) -> str:
    """A class's name where it stands alone: '7' -> 'Class 7', 'cat' as it is."""
    return f"Class {name}" if name.strip().lstrip("-").isdigit() else name


def _how_sure(difference: Difference, decimals: int) -> str:
    if difference.has_interval:
        return f"95% interval {interval(difference, decimals)}, {plural(difference.pairs, 'paired trial')}"
    if difference.pairs == 1:
        return "one paired trial, so no interval"
    return f"{plural(difference.pairs, 'paired trial')}, all alike, so no interval"


def _verdict(difference: Difference, what: str, decimals: int) -> str:
    if not difference.has_interval:
        return f"This cannot tell the effect of {what} from chance: run more trials."
    if difference.sign:
        change = "loss" if difference.sign < 0 else "gain"
        return f"The {change} with {what} is more than chance between trials explains, at 95%."
    return (
        f"{difference.pairs} trials cannot tell the effect of {what} from no change: they fit a loss of "
        f"{accuracy(-difference.low, decimals)} points as well as a gain of {accuracy(difference.high, decimals)}."
    )


def answer(summaries: Sequence[Summary], name: str, fraction: float, layer: str, test_size: int) -> tuple[str, str]:
    """What came out, in one sentence, and what may and may not be concluded from it, in another.

    Args:
      summaries: of all methods and fractions.
      name: of the data set.
      fraction: the one reported on.
      layer: whose clustering is reported on.
      test_size: number of test images; sets the decimals.
    """
    decimals = 2 if test_size >= _FINE_TEST_SIZE else 1
    if fraction >= 1:
        return (
            f"Nothing of {name} was dropped: the config asks for no fraction near its report fraction below 100%.",
            "",
        )
    dropped = percent(1 - fraction)
    semantic = find(summaries, "semantic", fraction, layer)
    random = find(summaries, "random", fraction)
    main = semantic or random
    if main is None or main.to_full is None:
        return f"No training on {percent(fraction)} of {name} can be compared with the full set.", ""

    if semantic:
        chosen = f"Dropping {dropped} of {name}, chosen by semantic clustering,"
    else:
        chosen = f"Dropping a random {dropped} of {name}"
    change = main.to_full
    sentence = (
        f"{chosen} changed mean test accuracy by {points(change.mean, decimals)} points ({_how_sure(change, decimals)})"
    )
    if semantic and random and random.to_full:
        other = random.to_full
        beside = f" ({interval(other, decimals)})" if other.has_interval else ""
        sentence += f"; dropping a random {dropped} changed it by {points(other.mean, decimals)}{beside}"
    verdict = _verdict(change, "semantic clustering" if semantic else "dropping at random", decimals)
    if semantic and semantic.to_random and semantic.to_random.has_interval:
        against = semantic.to_random
        side = {1: "higher than", -1: "lower than", 0: "not told apart from"}[against.sign]
        verdict += (
            f" Semantic clustering is {side} random at this size "
            f"(difference {points(against.mean, decimals)}, {interval(against, decimals)})."
        )
    return sentence + ".", verdict
