"""Bytes of a report, by the sizes that are known before there are groups. Pure."""

import math
from collections.abc import Mapping, Sequence

from redundancy.report import browser, images

# Measured: page and figures without groups; what groups add without pictures; a class in lists and tables; a drawn picture, in SVG, PDF and PNG together,
# and a stored one, without loss and with it, as shares of its pixels' bytes.
_EMPTY, _GROUPS, _CLASS, _DRAWN, _LOSSLESS, _LOSSY = 250_000, 450_000, 600, 1.6, 0.6, 0.08
# Pictures that are drawn: of a class in Figure 3 and in the appendix at most, and in Figure 12; classes of the first two.
_OF_CLASS, _PAIRS, _CLASSES = (28, 56), 18, (4, 12)
_GROUPED = 1.8  # images in groups for each that is dropped: two in a group of two
_LARGEST_DRAWN, _LARGEST_STORED = 96, 128  # pixels of a side


def _pixels(shape: Sequence[int], most: int) -> float:
    """Bytes of an image's pixels once its longer side is at most `most`."""
    return math.prod(shape) * min(1.0, most / max(shape[:2])) ** 2


def page_bytes(
    counts: Mapping[int, int],
    shape: Sequence[int],
    fractions: Sequence[float],
    report_fraction: float,
    grouped: bool,
) -> float:
    """Estimate of the bytes of page, figures and classes' files.

    Args:
      counts: images of each label.
      shape: of an image: height, width, channels.
      fractions: kept shares.
      report_fraction: of the shares, the one that figures show.
      grouped: whether a method with groups is among those that are compared.
    """
    size = _EMPTY + _CLASS * len(counts)
    dropped = [1 - fraction for fraction in fractions if fraction < 1]
    if not grouped or not dropped:
        return size
    n = sum(counts.values())
    in_groups = [min(n, _GROUPED * share * n) for share in dropped]
    numbers = 4 / 3 * (4 * n + 8 * sum(in_groups) + 8 * max(dropped) * n)
    main = min(dropped, key=lambda share: abs(share - (1 - report_fraction)))
    of_class = _GROUPED * main * n / len(counts)
    drawn = sum(
        min(most, of_class) * min(classes, len(counts)) for most, classes in zip(_OF_CLASS, _CLASSES, strict=True)
    )
    figures = _DRAWN * _pixels(shape, _LARGEST_DRAWN) * (drawn + _PAIRS)
    pictures, pixels = min(n, 1.25 * max(in_groups)), _pixels(shape, _LARGEST_STORED)
    lossless, lossy = (100 + 4 / 3 * share * pixels for share in (_LOSSLESS, _LOSSY))
    small = max(shape[:2]) <= images.LOSSLESS_SIDE
    most, exact = browser.PAGE_BYTES - numbers, browser.PAGE_BYTES
    if lossy * min(pictures, browser.FEW_PICTURES * len(counts)) > most:
        pictures = min(pictures, browser.most_pictures(len(counts)))
        most, exact = browser.CLASS_BYTES * len(counts), browser.LOSSLESS_BYTES
    each = lossless if small and pictures * lossless < exact else lossy
    return size + _GROUPS + numbers + figures + min(pictures * each, most)
