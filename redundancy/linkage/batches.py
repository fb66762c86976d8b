"""Groups small classes, which are then read and linked together: one by one, their overhead would exceed the work itself."""

from collections.abc import Mapping

SMALL = 256  # a class of at most this many images is linked together with others
TOGETHER = 2048  # most images of the classes in one such batch


def batches(counts: Mapping[int, int]) -> list[list[int]]:
    """Divides labels into batches by their image counts: a large class is alone, and successive small classes share a batch."""
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
