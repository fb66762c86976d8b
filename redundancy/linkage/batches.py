"""Which classes are read and linked together: small ones, for each alone would cost more than its images do."""

from collections.abc import Mapping

SMALL = 256  # images of a class up to which it is linked together with others
TOGETHER = 2048  # images of such classes together


def batches(counts: Mapping[int, int]) -> list[list[int]]:
    """Labels that are worked on together, from images of each label: a large class is alone, small ones are with the next ones."""
    found: list[list[int]] = []
    left = 0  # images that the last batch still has room for
    for label, count in sorted(counts.items()):
        small = count <= SMALL
        if small and count <= left:
            found[-1].append(label)
            left -= count
        else:
            found.append([label])
            left = TOGETHER - count if small else 0
    return found
