"""Cuts a box out of an image and resizes it in one pass: antialiased bilinear as in Pillow, but several times as fast.

Compiled by Numba, runs without the interpreter's lock, and gives the same bits on every machine. Knows nothing of files.
"""

import numpy as np

from redundancy.runtime.compiled import compiled


def resize(image: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """Resizes a box of an image to a square. Where the filter extends beyond the box, it uses the image's pixels there.

    Args:
      image: uint8 [H, W, C].
      box: float64 [4]: top, left, height and width in pixels, not necessarily integers.
      size: side of the result in pixels.

    Returns:
      uint8 [size, size, C].
    """
    image = np.ascontiguousarray(image)
    resized = np.empty((size, size, image.shape[2]), np.uint8)
    _resize(image.reshape(image.shape[0], -1), image.shape[2], box, resized.reshape(size, -1))
    return resized


@compiled
def _taps(start, length, size, limit, step):
    """For each of `size` outputs: the index of the first input that contributes, times `step`, and the inputs' weights."""
    scale = length / size
    support = max(scale, 1.0)
    count = min(limit, int(np.ceil(2 * support)) + 1)
    first = np.empty(size, np.uint64)
    weights = np.zeros((size, count), np.float32)
    most = 0
    for out in range(size):
        centre = start + (out + 0.5) * scale
        low = max(0, int(np.floor(centre - support + 0.5)))
        high = min(limit, int(np.floor(centre + support + 0.5)))
        total = 0.0
        for tap in range(high - low):
            total += max(0.0, 1.0 - abs((low + tap + 0.5 - centre) / support))
        for tap in range(high - low):
            weights[out, tap] = max(0.0, 1.0 - abs((low + tap + 0.5 - centre) / support)) / total
        most = max(most, high - low)
        first[out] = low * step
    return first, weights[:, :most].copy()


@compiled
def _down(rows, first, weights, line):
    """One output row, not yet resized across: a weighted sum of input rows."""
    count = weights.shape[0]
    width = rows.shape[1]
    top = rows[first]
    if count == 1 or weights[1] == 0:
        for column in range(width):
            line[column] = weights[0] * top[column]
    else:
        below = rows[first + 1]
        for column in range(width):
            line[column] = weights[0] * top[column] + weights[1] * below[column]
    for tap in range(2, count):
        weight = weights[tap]
        if weight:
            below = rows[first + tap]
            for column in range(width):
                line[column] += weight * below[column]


@compiled
def _across_rgb(line, first, weights, out):
    # With four lanes, the last of which the next pixel overwrites, the compiler emits a vector instruction, but not with
    # three. Indices are unsigned, since signed ones are checked for being negative.
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    count = np.uint64(weights.shape[1])
    for pixel in range(np.uint64(len(first))):
        at = first[pixel]
        red = green = blue = over = np.float32(0.5)
        for tap in range(count):
            weight = weights[pixel, tap]
            red += weight * line[at]
            green += weight * line[at + one]
            blue += weight * line[at + two]
            over += weight * line[at + three]
            at += three
        place = pixel * three
        out[place] = red
        out[place + one] = green
        out[place + two] = blue
        out[place + three] = over


@compiled
def _across(line, channels, first, weights, out):
    for pixel in range(len(first)):
        for channel in range(channels):
            total = np.float32(0.5)
            for tap in range(weights.shape[1]):
                total += weights[pixel, tap] * line[first[pixel] + np.uint64(tap * channels + channel)]
            out[pixel * channels + channel] = total


@compiled
def _resize(rows, channels, box, resized):
    size = resized.shape[0]
    top, down = _taps(box[0], box[2], size, rows.shape[0], 1)
    left, across = _taps(box[1], box[3], size, rows.shape[1] // channels, channels)
    # Longer than the row, since taps of weight 0 beyond the last pixel, and the fourth lane, access elements past its end.
    line = np.zeros(rows.shape[1] + (across.shape[1] + 1) * channels, np.float32)
    out = np.empty(size * channels + 1, np.float32)
    for number in range(size):
        _down(rows, np.int64(top[number]), down[number], line)
        if channels == 3:
            _across_rgb(line, left, across, out)
        else:
            _across(line, channels, left, across, out)
        row = resized[number]
        for value in range(size * channels):
            row[value] = np.uint8(out[value])
