"""Formats numbers for readers, and states the answer in words. Pure; never claims more than the trials show."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from redundancy import methods
from redundancy.report.noninferiority import MOST_TRIALS, POWER, WORSE, Answer, NonInferiority
from redundancy.report.statistics import CONFIDENCE, FULL, Difference, Summary, find

MINUS = "\N{MINUS SIGN}"
# With fewer pairs, the spread is uncertain by more than a factor of three.
_FEW_PAIRS = 5
# Dissimilarities below this are those of identical images, of which rounding leaves a little.
_NOTHING = 1e-12


def _decimals(test_size: int) -> int:
    """Decimals of points: two if one test image is worth at most 0.02 points, else one."""
    return 2 if test_size >= 5000 else 1


def percent(share: float) -> str:
    """0.9 -> '90%', 0.125 -> '12.5%'."""
    return f"{round(100 * share, 2):g}%"


def accuracy(share: float, decimals: int = 2) -> str:
    """0.9731 -> '97.31', in percent without the sign; '–' for NaN."""
    return f"{100 * share:.{decimals}f}" if math.isfinite(share) else "–"


def points(share: float, decimals: int = 2) -> str:
    """A signed difference in percentage points: -0.0021 -> '−0.21'."""
    text = f"{100 * share:+.{decimals}f}"
    return text.replace("-", MINUS) if float(text) else text[1:]


def interval(difference: Difference, decimals: int = 2) -> str:
    """'−0.90 to +0.50', or the reason why there is no interval."""
    if difference.has_interval:
        return f"{points(difference.low, decimals)} to {points(difference.high, decimals)}"
    return "one pair: no interval" if difference.pairs == 1 else "all pairs alike: no interval"


def p_value(p: float) -> str:
    """'<0.001', '0.004', '0.25'; '–' for NaN."""
    if not math.isfinite(p):
        return "–"
    if p < 0.001:
        return "<0.001"
    text = f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return ">0.99" if text == "1.00" and p < 1 else "1" if p == 1 else text


def trials(count: int) -> str:
    """'about 7', 'about 140': an estimated number of trials, rounded up to two digits."""
    step = 10 ** max(0, len(str(count)) - 2)
    return f"about {math.ceil(count / step) * step:,}"


def time(seconds: float) -> str:
    """A rough time: 'less than a minute', 'about 1 minute', 'about 35 minutes', 'about 3.5 hours', 'about 12 days'."""
    if seconds < 60:
        return "less than a minute"
    unit, length = ("minute", 60) if seconds < 5400 else ("hour", 3600) if seconds < 172_800 else ("day", 86_400)
    amount = seconds / length
    number = f"{amount:,.0f}" if unit == "minute" or amount >= 10 else f"{amount:.2g}"
    return f"about {number} {unit}{'' if number == '1' else 's'}"


def _more(test: NonInferiority, trial_s: float | None) -> str:
    """'about 110 more trials (about 3 hours at this sweep's rate) would do'."""
    count = test.trials_more
    cost = "" if trial_s is None else f" ({time(count * trial_s)} at this sweep’s rate)"
    return f"{trials(count)} more {'trial' if count == 1 else 'trials'}{cost} would do"


def _rough(test: NonInferiority) -> str:
    """', a rough guess from 3 pairs'; '' if there are enough."""
    pairs = test.difference.pairs
    return f", a rough guess from {pairs} pairs" if pairs < _FEW_PAIRS else ""


def margin(share: float) -> str:
    """0.002 -> '0.2 points'."""
    number = f"{round(100 * share, 3):g}"
    return f"{number} point{'' if number == '1' else 's'}"


def small(value: float) -> str:
    """A dissimilarity: three significant digits, '0' where it is rounding alone; '–' for NaN."""
    if not math.isfinite(value):
        return "–"
    if value < _NOTHING:
        return "0"
    return f"{value:.2e}".replace("e-0", "e-").replace("e-", f"e{MINUS}") if value < 1e-4 else f"{value:#.3g}"


def plural(count: int, noun: str) -> str:
    """'1 trial', '1,437 images', '2 classes'."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def class_title(name: str) -> str:
    """A class's name on its own: '7' -> 'Class 7', 'cat' as it is."""
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
    """The result in one sentence, and the conclusions that it allows in another.

    Args:
      summaries: summaries of all methods and fractions.
      name: name of the data set.
      fraction, layer: fraction and layer that the report is about.
      test_size: number of test images; sets the decimals.
    """
    decimals = _decimals(test_size)
    if fraction >= 1:
        return (
            f"Nothing of {name} was dropped: the config asks for no fraction near its report fraction below 100%.",
            "",
        )
    dropped = percent(1 - fraction)
    random = find(summaries, methods.BASELINE, fraction)
    names = methods.in_order(item.method for item in summaries if item.method not in (FULL, methods.BASELINE))
    others = map(methods.get, names)
    found = ((item, find(summaries, item.name, fraction, layer if item.per_layer else None)) for item in others)
    method, main = next((each for each in found if each[1]), (methods.get(methods.BASELINE), random))
    if main is None or main.to_full is None:
        return f"No training on {percent(fraction)} of {name} can be compared with the full set.", ""

    change, what = main.to_full, method.title
    chosen = f"Dropping {dropped} of {name}, chosen {method.how},"
    if main is random:
        chosen, what = f"Dropping a random {dropped} of {name}", f"dropping {method.how}"
    sentence = (
        f"{chosen} changed mean test accuracy by {points(change.mean, decimals)} points ({_how_sure(change, decimals)})"
    )
    if main is not random and random and random.to_full:
        other = random.to_full
        beside = f" ({interval(other, decimals)})" if other.has_interval else ""
        sentence += f"; dropping a random {dropped} changed it by {points(other.mean, decimals)}{beside}"
    verdict = _verdict(change, what, decimals)
    if main.to_random and main.to_random.has_interval:
        against = main.to_random
        side = {1: "higher than", -1: "lower than", 0: "not told apart from"}[against.sign]
        verdict += (
            f" {method.title.capitalize()} is {side} random at this size "
            f"(difference {points(against.mean, decimals)}, {interval(against, decimals)})."
        )
    return sentence + ".", verdict


def interim(complete: int, asked: int) -> str:
    """The first sentences of the page of an unfinished sweep."""
    are = "is" if complete == 1 else "are"
    return (
        f"This sweep is unfinished: {complete:,} of {plural(asked, 'trial')} {are} complete, and this page shows no others. "
        "Whoever stops now because of what it says gives up the error rates that it states."
    )


def looks(record: Mapping[str, Any], trials: int, level: float) -> str:
    """How trials were added in rounds, and what that does to the numbers.

    Args:
      record: of the looks, see workdir/rounds.py.
      trials: that are shown.
      level: one-sided, at which tests and intervals are.
    """
    taken = [look["trials"] for look in record["taken"]]
    after = f"looks were taken after {_listed(taken)} trials" if taken else "no look was taken yet"
    sure, wide = f"{100 * level:.3g}%", f"{100 * (1 - 2 * level):.4g}%"
    if not record["planned"]:
        return (
            f"Trials were added in rounds until every interval was at most {record['until']} points to each side, or there were "
            f"{record['most']:,} trials; {after}. A spread seen at such a stop is a little too small, so intervals and tests here "
            f"are Student’s at {wide} and {sure}: after looks they hold at 95% and 2.5%."
        )
    said = (
        f"Trials were added in rounds until every verdict was reached; looks were planned after {_listed(record['planned'])} "
        f"trials, and {after}. The chance of a wrong verdict is spent over them (O’Brien and Fleming’s bounds): at this one "
        f"tests are at {sure} and intervals at {wide}, which over all looks hold at 2.5% and 95%."
    )
    if trials not in taken:
        said += (
            f" But these {plural(trials, 'trial')} are not those of a look: the stated rates hold for the looks alone."
        )
    return said


def _listed(numbers: Sequence[int]) -> str:
    """'4', '4 and 8', '4, 8 and 12'."""
    *rest, last = (f"{each:,}" for each in numbers)
    return f"{', '.join(rest)} and {last}" if rest else last


def _outlook(test: NonInferiority, loss: float, decimals: int, trial_s: float | None) -> str:
    """What more trials would do for a share that these do not decide; `loss` is the margin."""
    share, change = percent(test.share), test.difference
    if test.trials_more is not None:
        return (
            f"For {share}, {_more(test, trial_s)} "
            f"with {percent(POWER)} probability, if its true mean and spread are those seen{_rough(test)}."
        )
    if change.mean <= -loss:
        return (
            f"At {share} the estimated loss, {accuracy(-change.mean, decimals)} points, is not below "
            f"{margin(loss)}: more trials would sooner show a loss than none."
        )
    if change.pairs == 1:
        return f"One paired trial has no spread to tell chance by: run at least {_FEW_PAIRS} trials."
    if not change.has_interval:
        return (
            f"At {share} all {change.pairs} pairs differ alike: there is no spread to tell chance by. Run more trials."
        )
    return f"At {share} the estimate is so near the margin that more than {MOST_TRIALS:,} trials would be needed."


def droppable(
    answer: Answer, name: str, test_size: int, several_layers: bool = False, trial_s: float | None = None
) -> tuple[str, str]:
    """The largest share that can be dropped, in one sentence, and the reasons in some more.

    Args:
      answer: answer for one method and layer.
      name: name of the data set.
      test_size: number of test images; sets the decimals.
      several_layers: whether to name the layer.
      trial_s: seconds that one more trial of all rows takes, None if unknown.
    """
    method = methods.get(answer.method)
    how = f"chosen {method.how}" + (f" of layer {answer.layer}" if several_layers and method.per_layer else "")
    if not answer.tests:
        return f"No training on a part of {name}, {how}, can be compared with the full set.", ""

    decimals = _decimals(test_size)
    loss, sure = f"{margin(answer.margin)} of test accuracy", f"at {percent(CONFIDENCE)} confidence"
    first, undecided, several = answer.tests[0], answer.undecided, len(answer.tests) > 1
    seen = (
        f"Dropping {percent(first.share)}{', the least tried,' if several else ''} changed mean test accuracy by "
        f"{points(first.difference.mean, decimals)} points ({_how_sure(first.difference, decimals)})."
    )
    above = f"All shares tried above {percent(answer.high)} lose more than that, {sure}."
    if answer.high >= answer.most:
        above = ""

    if first.verdict == WORSE:
        even, tried = ("even ", ", the least tried") if several else ("", "")
        sentence = f"Dropping {even}{percent(first.share)} of {name}{tried}, {how}, loses more than {loss}, {sure}."
        parts = [seen]
    elif not answer.low:
        count = first.difference.pairs
        who = "One paired trial" if count == 1 else f"These {count} paired trials"
        more = f"; {_more(first, trial_s)}{_rough(first)}" if first.trials_more else ""
        sentence = f"{who} cannot tell whether any of the data set {name} can be dropped, {how}, with no loss above {loss}{more}."
        parts = [seen, _outlook(first, answer.margin, decimals, trial_s), above]
    elif answer.low == answer.most:
        tried = ", the most tried," if several else ""
        sentence = f"{percent(answer.most)} of {name}{tried} can be dropped, {how}, with no loss above {loss}, {sure}."
        parts = [seen]
    else:
        numbers = ", ".join(percent(share)[:-1] for share in (answer.low, answer.high))
        sentence = (
            f"Of the shares of {name} tried, the largest that can be dropped, {how}, with no loss above {loss} is "
            f"{percent(answer.share)} [{numbers}] {sure}."
        )
        shown = f"{percent(answer.low)} is shown, and is the estimate."
        if answer.low < answer.share:
            shown = f"{percent(answer.low)} is shown; {percent(answer.share)} is the estimate, not shown by itself."
        bound = above or f"No share tried, up to {percent(answer.most)}, is shown to lose more."
        parts = [shown, bound, _outlook(undecided, answer.margin, decimals, trial_s) if undecided else ""]
    if test_size * answer.margin < 1:
        parts.append(f"One test image is {100 / test_size:.2g} points, more than the margin.")
    return sentence, " ".join(filter(None, parts))
