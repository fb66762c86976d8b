"""Convolutions of a pack and their gradients as Triton kernels: products of matrices that are not stored in memory.

A convolution of one trial is the product of `[pixels, rows]` and `[rows, columns]`. A row is one channel at one tap of the
kernel, so the convolution sums over rows; columns are the channels of the result. Each program computes one tile of one
trial's result. It loads the elements of the large matrix from the images; elements in the padding are 0. The kernel gradient
sums over pixels instead, and rows are an axis of its result.

With LINES = n > 1 a pixel of a tile stands for n pixels below each other, and a row for a channel at a tap across. A program
loads each line of the image once for all pixels and all taps down that need it: for 3 x 3 taps and a stride of 1, n + 2 lines instead of 3 n.

Arrays are `[T, B, H, W, C]`, kernels `[T, k, k, C, D]`, in bfloat16 or float32. Sums are float32, in a fixed order.

Constants of all kernels: sizes as in shape.py (OUT_…: of the output; TOP, LEFT: zeros before); PIXELS, ROWS, COLUMNS, LINES:
size of a tile; STAGES: tiles that are loaded ahead, 0 to unroll the loop over rows.
"""

# ruff: noqa: RUF005  Triton does not unpack tuples.

import triton
import triton.language as tl


@triton.jit
def _place(pixels, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Image, row and column of pixels, given their numbers."""
    return pixels // (HEIGHT * WIDTH), pixels // WIDTH % HEIGHT, pixels % WIDTH


@triton.jit
def _rows(first, ROWS: tl.constexpr, TAPS: tl.constexpr, CHANNELS: tl.constexpr, AXIS: tl.constexpr):
    """Tap down, tap across and channel of ROWS rows from `first` on, along the axis that is not AXIS.

    TAPS is the number of taps across. If all rows have the same tap, taps are scalars: the compiler then loads whole channels.
    """
    row = first + tl.arange(0, ROWS)
    if CHANNELS % ROWS == 0:
        tap = first // CHANNELS
    else:
        tap = tl.expand_dims(row // CHANNELS, AXIS)
    return tap // TAPS, tap % TAPS, tl.expand_dims(row % CHANNELS, AXIS)


@triton.jit
def _with(values, index: tl.constexpr, value):
    """`values`, with another one at `index`."""
    return values[:index] + (value,) + values[index + 1 :]


@triton.jit
def _zeros(COUNT: tl.constexpr, DOWN: tl.constexpr, ACROSS: tl.constexpr):
    """COUNT sums `[DOWN, ACROSS]`."""
    values = ()
    for _ in tl.static_range(COUNT):
        values = values + (tl.zeros((DOWN, ACROSS), tl.float32),)
    return values


@triton.jit
def _forward_rows(
    totals, x, kernel, first, known, row, column, start, d, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    FEATURES: tl.constexpr, TAPS: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Adds the products of some rows to `totals`, one sum for each line."""
    APART: tl.constexpr = TAPS if LINES > 1 else 1  # taps down that are not among the rows
    COUNT: tl.constexpr = TAPS * TAPS * CHANNELS // APART
    down, across, channel = _rows(first, ROWS, TAPS, CHANNELS, 0)
    r = first + tl.arange(0, ROWS)
    known_weights = (r < COUNT)[:, None] & (d < FEATURES)[None, :]
    weights = ()
    for tap in tl.static_range(APART):
        at = (r + tap * COUNT)[:, None] * FEATURES + d[None, :]
        weights = weights + (tl.load(kernel + at, mask=known_weights, other=0.0),)
    for line in tl.static_range(STRIDE * (LINES - 1) + APART):
        h, w = row[:, None] + (down + line), column[:, None] + across
        inside = known[:, None] & (h >= 0) & (h < HEIGHT) & (w >= 0) & (w < WIDTH)
        if COUNT % ROWS != 0:
            inside = inside & (r < COUNT)[None, :]
        step = ((down + line) * WIDTH + across) * CHANNELS + channel
        of_x = tl.load(x + start[:, None] + step, mask=inside, other=0.0)
        for result in tl.static_range(LINES):
            if line >= STRIDE * result and line - STRIDE * result < APART:
                total = tl.dot(of_x, weights[line - STRIDE * result], totals[result], input_precision="ieee")
                totals = _with(totals, result, total)
    return totals


@triton.jit
def forward(
    x, kernel, y, BATCH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    FEATURES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr, TAPS: tl.constexpr, STRIDE: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LINES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y = x * kernel. Programs: blocks of pixels of the output, blocks of features, trials."""
    trial = tl.program_id(2).to(tl.int64)
    x += trial * (BATCH * HEIGHT * WIDTH * CHANNELS)
    kernel += trial * (TAPS * TAPS * CHANNELS * FEATURES)
    y += trial * (BATCH * OUT_HEIGHT * OUT_WIDTH * FEATURES)
    HIGH: tl.constexpr = (OUT_HEIGHT + LINES - 1) // LINES
    COUNT: tl.constexpr = TAPS * TAPS * CHANNELS if LINES == 1 else TAPS * CHANNELS
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    d = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = pixel < BATCH * HIGH * OUT_WIDTH
    image, block, place = _place(pixel, HIGH, OUT_WIDTH)
    row, column = block * (LINES * STRIDE) - TOP, place * STRIDE - LEFT
    start = ((image * HEIGHT + row) * WIDTH + column) * CHANNELS
    totals = _zeros(LINES, PIXELS, COLUMNS)
    if STAGES == 0:
        for first in tl.static_range(0, COUNT, ROWS):
            totals = _forward_rows(
                totals, x, kernel, first, known, row, column, start, d, HEIGHT, WIDTH, CHANNELS, FEATURES, TAPS, STRIDE,
                ROWS, LINES,
            )  # fmt: skip
    else:
        for first in tl.range(0, COUNT, ROWS, num_stages=STAGES):
            totals = _forward_rows(
                totals, x, kernel, first, known, row, column, start, d, HEIGHT, WIDTH, CHANNELS, FEATURES, TAPS, STRIDE,
                ROWS, LINES,
            )  # fmt: skip
    for line in tl.static_range(LINES):
        within = known & (block * LINES + line < OUT_HEIGHT)
        at = (image * OUT_HEIGHT + block * LINES + line) * OUT_WIDTH + place
        tl.store(
            y + at[:, None] * FEATURES + d[None, :],
            totals[line].to(y.dtype.element_ty),
            mask=within[:, None] & (d < FEATURES)[None, :],
        )


@triton.jit
def _input_gradient_rows(
    totals, dy, kernel, first, known, row, column, start, c, A: tl.constexpr, B: tl.constexpr, DOWN: tl.constexpr,
    ACROSS: tl.constexpr, CHANNELS: tl.constexpr, FEATURES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Adds the products of some rows, each a feature at a tap, to `totals`, one sum for each line."""
    APART: tl.constexpr = DOWN if LINES > 1 else 1  # taps down that are not among the rows
    COUNT: tl.constexpr = DOWN * ACROSS * FEATURES // APART
    down, across, feature = _rows(first, ROWS, ACROSS, FEATURES, 1)
    known_weights = (first + tl.arange(0, ROWS) < COUNT)[:, None] & (c < CHANNELS)[None, :]
    weights = ()
    for apart in tl.static_range(APART):
        tap = (A + STRIDE * (down + apart)) * TAPS + B + STRIDE * across
        at = (tap * CHANNELS + c[None, :]) * FEATURES + feature
        weights = weights + (tl.load(kernel + at, mask=known_weights, other=0.0),)
    down, across, feature = _rows(first, ROWS, ACROSS, FEATURES, 0)
    for line in tl.static_range(1 - APART, LINES):
        h, w = row[:, None] + (line - down), column[:, None] - across
        inside = known[:, None] & (h >= 0) & (h < OUT_HEIGHT) & (w >= 0) & (w < OUT_WIDTH)
        if COUNT % ROWS != 0:
            inside = inside & (first + tl.arange(0, ROWS) < COUNT)[None, :]
        step = feature + ((line - down) * OUT_WIDTH - across) * FEATURES
        of_dy = tl.load(dy + start[:, None] + step, mask=inside, other=0.0)
        for result in tl.static_range(LINES):
            if result >= line and result - line < APART:
                total = tl.dot(of_dy, weights[result - line], totals[result], input_precision="ieee")
                totals = _with(totals, result, total)
    return totals


@triton.jit
def _input_gradient_part(
    dy, kernel, dx, block, A: tl.constexpr, B: tl.constexpr, BATCH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr, FEATURES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr, TAPS: tl.constexpr,
    STRIDE: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, LINES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Computes the pixels to which taps A, A + STRIDE, … down and B, B + STRIDE, … across contribute."""
    DOWN: tl.constexpr = (TAPS - A + STRIDE - 1) // STRIDE  # number of these taps; may be 0
    ACROSS: tl.constexpr = (TAPS - B + STRIDE - 1) // STRIDE
    COUNT: tl.constexpr = DOWN * ACROSS * FEATURES if LINES == 1 or DOWN == 0 else ACROSS * FEATURES
    FIRST_ROW: tl.constexpr = (A + STRIDE * TOP - TOP) % STRIDE
    FIRST_COLUMN: tl.constexpr = (B + STRIDE * LEFT - LEFT) % STRIDE
    HIGH: tl.constexpr = (HEIGHT + STRIDE * LINES - 1) // (STRIDE * LINES)
    WIDE: tl.constexpr = (WIDTH + STRIDE - 1) // STRIDE
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    image, i, j = _place(pixel, HIGH, WIDE)
    i *= LINES
    w = FIRST_COLUMN + STRIDE * j
    known = (pixel < BATCH * HIGH * WIDE) & (w < WIDTH)
    row, column = i + (FIRST_ROW + TOP - A) // STRIDE, j + (FIRST_COLUMN + LEFT - B) // STRIDE
    start = ((image * OUT_HEIGHT + row) * OUT_WIDTH + column) * FEATURES
    c = block * COLUMNS + tl.arange(0, COLUMNS)
    totals = _zeros(LINES, PIXELS, COLUMNS)
    if STAGES == 0:
        for first in tl.static_range(0, COUNT, ROWS):
            totals = _input_gradient_rows(
                totals, dy, kernel, first, known, row, column, start, c, A, B, DOWN, ACROSS, CHANNELS, FEATURES, OUT_HEIGHT,
                OUT_WIDTH, TAPS, STRIDE, ROWS, LINES,
            )  # fmt: skip
    elif COUNT > 0:
        for first in tl.range(0, COUNT, ROWS, num_stages=STAGES):
            totals = _input_gradient_rows(
                totals, dy, kernel, first, known, row, column, start, c, A, B, DOWN, ACROSS, CHANNELS, FEATURES, OUT_HEIGHT,
                OUT_WIDTH, TAPS, STRIDE, ROWS, LINES,
            )  # fmt: skip
    for line in tl.static_range(LINES):
        h = FIRST_ROW + STRIDE * (i + line)
        at = ((image * HEIGHT + h) * WIDTH + w) * CHANNELS
        tl.store(
            dx + at[:, None] + c[None, :],
            totals[line].to(dx.dtype.element_ty),
            mask=(known & (h < HEIGHT))[:, None] & (c < CHANNELS)[None, :],
        )


@triton.jit
def input_gradient(
    dy, kernel, dx, BATCH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    FEATURES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr, TAPS: tl.constexpr, STRIDE: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LINES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dx from dy and the kernel. Programs: blocks of pixels of the input, blocks of channels x parts of pixels, trials.

    With a stride of s, only every s-th tap contributes to a pixel. So the pixels are divided into s * s parts; all pixels of a
    part have the same taps.
    """
    trial = tl.program_id(2).to(tl.int64)
    dy += trial * (BATCH * OUT_HEIGHT * OUT_WIDTH * FEATURES)
    kernel += trial * (TAPS * TAPS * CHANNELS * FEATURES)
    dx += trial * (BATCH * HEIGHT * WIDTH * CHANNELS)
    block = tl.program_id(1) // (STRIDE * STRIDE)
    for part in tl.static_range(STRIDE * STRIDE):
        if tl.program_id(1) % (STRIDE * STRIDE) == part:
            _input_gradient_part(
                dy, kernel, dx, block, part // STRIDE, part % STRIDE, BATCH, HEIGHT, WIDTH, CHANNELS, FEATURES, OUT_HEIGHT,
                OUT_WIDTH, TAPS, STRIDE, TOP, LEFT, PIXELS, ROWS, COLUMNS, LINES, STAGES,
            )  # fmt: skip


@triton.jit
def kernel_gradient(
    x, dy, sums, BATCH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    FEATURES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr, TAPS: tl.constexpr, STRIDE: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LINES: tl.constexpr, STAGES: tl.constexpr, TURNS: tl.constexpr,
):  # fmt: skip
    """Partial kernel gradients over shares of the pixels: float32 `[shares, T, k, k, C, D]`. The caller must sum the shares.

    Programs: shares of the pixels, blocks of rows x blocks of features, trials. TURNS: tiles of pixels in a share.
    """
    share, trial = tl.program_id(0), tl.program_id(2).to(tl.int64)
    x += trial * (BATCH * HEIGHT * WIDTH * CHANNELS)
    dy += trial * (BATCH * OUT_HEIGHT * OUT_WIDTH * FEATURES)
    sums += (share * tl.num_programs(2) + trial) * (TAPS * TAPS * CHANNELS * FEATURES)
    HIGH: tl.constexpr = (OUT_HEIGHT + LINES - 1) // LINES
    APART: tl.constexpr = TAPS if LINES > 1 else 1  # taps down that are not among the rows
    COUNT: tl.constexpr = TAPS * TAPS * CHANNELS // APART
    blocks = (FEATURES + COLUMNS - 1) // COLUMNS
    first = tl.program_id(1) // blocks * ROWS
    r = first + tl.arange(0, ROWS)
    d = tl.program_id(1) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    down, across, channel = _rows(first, ROWS, TAPS, CHANNELS, 1)
    totals = _zeros(APART, ROWS, COLUMNS)
    for turn in tl.range(0, TURNS, num_stages=STAGES):
        pixel = (share * TURNS + turn) * PIXELS + tl.arange(0, PIXELS)
        known = pixel < BATCH * HIGH * OUT_WIDTH
        image, block, place = _place(pixel, HIGH, OUT_WIDTH)
        row, column = block * (LINES * STRIDE) - TOP, place * STRIDE - LEFT
        start = ((image * HEIGHT + row) * WIDTH + column) * CHANNELS
        of_dy = ()
        for line in tl.static_range(LINES):
            within = known & (block * LINES + line < OUT_HEIGHT)
            at = (image * OUT_HEIGHT + block * LINES + line) * OUT_WIDTH + place
            mask = within[:, None] & (d < FEATURES)[None, :]
            of_dy = of_dy + (tl.load(dy + at[:, None] * FEATURES + d[None, :], mask=mask, other=0.0),)
        for line in tl.static_range(STRIDE * (LINES - 1) + APART):
            h, w = row[None, :] + (down + line), column[None, :] + across
            inside = known[None, :] & (h >= 0) & (h < HEIGHT) & (w >= 0) & (w < WIDTH)
            if COUNT % ROWS != 0:
                inside = inside & (r < COUNT)[:, None]
            step = ((down + line) * WIDTH + across) * CHANNELS + channel
            of_x = tl.load(x + start[None, :] + step, mask=inside, other=0.0)
            for result in tl.static_range(LINES):
                if line >= STRIDE * result and line - STRIDE * result < APART:
                    total = tl.dot(of_x, of_dy[result], totals[line - STRIDE * result], input_precision="ieee")
                    totals = _with(totals, line - STRIDE * result, total)
    for tap in tl.static_range(APART):
        tl.store(
            sums + (r + tap * COUNT)[:, None] * FEATURES + d[None, :],
            totals[tap],
            mask=(r < COUNT)[:, None] & (d < FEATURES)[None, :],
        )
