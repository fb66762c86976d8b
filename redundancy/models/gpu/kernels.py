"""Convolutions of a pack and their gradients as Triton kernels: products of matrices that are not stored in memory.

A convolution of one trial is the product of `[pixels, rows]` and `[rows, columns]`. A row is one channel at one tap of the
kernel, so the convolution sums over rows; columns are the channels of the result. Each program computes one tile of one
trial's result. It loads the elements of the large matrix from the images; elements in the padding are 0. The kernel gradient
sums over pixels instead, and rows are an axis of its result.

Arrays are `[T, B, H, W, C]`, kernels `[T, k, k, C, D]`, in bfloat16 or float32. Sums are float32, in a fixed order.

Constants of all kernels: sizes as in shape.py (OUT_…: of the output; TOP, LEFT: zeros before); PIXELS, ROWS, COLUMNS: size
of a tile; STAGES: tiles that are loaded ahead, 0 to unroll the loop over rows.
"""

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
def _forward_rows(
    total, x, kernel, first, known, row, column, start, d, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    FEATURES: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Adds the product of some rows to `total`."""
    down, across, channel = _rows(first, ROWS, TAPS, CHANNELS, 0)
    r = first + tl.arange(0, ROWS)
    h, w = row[:, None] + down, column[:, None] + across
    inside = known[:, None] & (h >= 0) & (h < HEIGHT) & (w >= 0) & (w < WIDTH)
    if TAPS * TAPS * CHANNELS % ROWS != 0:
        inside = inside & (r < TAPS * TAPS * CHANNELS)[None, :]
    of_x = tl.load(x + start[:, None] + ((down * WIDTH + across) * CHANNELS + channel), mask=inside, other=0.0)
    known_weights = (r < TAPS * TAPS * CHANNELS)[:, None] & (d < FEATURES)[None, :]
    weights = tl.load(kernel + r[:, None] * FEATURES + d[None, :], mask=known_weights, other=0.0)
    return tl.dot(of_x, weights, total, input_precision="ieee")


@triton.jit
def forward(
    x, kernel, y, BATCH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    FEATURES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr, TAPS: tl.constexpr, STRIDE: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """y = x * kernel. Programs: blocks of pixels of the output, blocks of features, trials."""
    trial = tl.program_id(2).to(tl.int64)
    x += trial * (BATCH * HEIGHT * WIDTH * CHANNELS)
    kernel += trial * (TAPS * TAPS * CHANNELS * FEATURES)
    y += trial * (BATCH * OUT_HEIGHT * OUT_WIDTH * FEATURES)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    d = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = pixel < BATCH * OUT_HEIGHT * OUT_WIDTH
    image, row, column = _place(pixel, OUT_HEIGHT, OUT_WIDTH)
    row, column = row * STRIDE - TOP, column * STRIDE - LEFT
    start = ((image * HEIGHT + row) * WIDTH + column) * CHANNELS
    total = tl.zeros((PIXELS, COLUMNS), tl.float32)
    if STAGES == 0:
        for first in tl.static_range(0, TAPS * TAPS * CHANNELS, ROWS):
            total = _forward_rows(
                total, x, kernel, first, known, row, column, start, d, HEIGHT, WIDTH, CHANNELS, FEATURES, TAPS, ROWS
            )
    else:
        for first in tl.range(0, TAPS * TAPS * CHANNELS, ROWS, num_stages=STAGES):
            total = _forward_rows(
                total, x, kernel, first, known, row, column, start, d, HEIGHT, WIDTH, CHANNELS, FEATURES, TAPS, ROWS
            )
    tl.store(
        y + pixel[:, None] * FEATURES + d[None, :],
        total.to(y.dtype.element_ty),
        mask=known[:, None] & (d < FEATURES)[None, :],
    )


@triton.jit
def _input_gradient_rows(
    total, dy, kernel, first, known, row, column, start, c, A: tl.constexpr, B: tl.constexpr, DOWN: tl.constexpr,
    ACROSS: tl.constexpr, CHANNELS: tl.constexpr, FEATURES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Adds the product of some rows, each a feature at a tap, to `total`."""
    down, across, feature = _rows(first, ROWS, ACROSS, FEATURES, 0)
    r = first + tl.arange(0, ROWS)
    h, w = row[:, None] - down, column[:, None] - across
    inside = known[:, None] & (h >= 0) & (h < OUT_HEIGHT) & (w >= 0) & (w < OUT_WIDTH)
    if DOWN * ACROSS * FEATURES % ROWS != 0:
        inside = inside & (r < DOWN * ACROSS * FEATURES)[None, :]
    of_dy = tl.load(dy + start[:, None] + (feature - (down * OUT_WIDTH + across) * FEATURES), mask=inside, other=0.0)
    down, across, feature = _rows(first, ROWS, ACROSS, FEATURES, 1)
    tap = (A + STRIDE * down) * TAPS + B + STRIDE * across
    known_weights = (r < DOWN * ACROSS * FEATURES)[:, None] & (c < CHANNELS)[None, :]
    weights = tl.load(kernel + ((tap * CHANNELS + c[None, :]) * FEATURES + feature), mask=known_weights, other=0.0)
    return tl.dot(of_dy, weights, total, input_precision="ieee")


@triton.jit
def _input_gradient_part(
    dy, kernel, dx, block, A: tl.constexpr, B: tl.constexpr, BATCH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr, FEATURES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr, TAPS: tl.constexpr,
    STRIDE: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Computes the pixels to which taps A, A + STRIDE, … down and B, B + STRIDE, … across contribute."""
    DOWN: tl.constexpr = (TAPS - A + STRIDE - 1) // STRIDE  # number of these taps; may be 0
    ACROSS: tl.constexpr = (TAPS - B + STRIDE - 1) // STRIDE
    FIRST_ROW: tl.constexpr = (A + STRIDE * TOP - TOP) % STRIDE
    FIRST_COLUMN: tl.constexpr = (B + STRIDE * LEFT - LEFT) % STRIDE
    HIGH: tl.constexpr = (HEIGHT + STRIDE - 1) // STRIDE
    WIDE: tl.constexpr = (WIDTH + STRIDE - 1) // STRIDE
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    image, i, j = _place(pixel, HIGH, WIDE)
    h, w = FIRST_ROW + STRIDE * i, FIRST_COLUMN + STRIDE * j
    known = (pixel < BATCH * HIGH * WIDE) & (h < HEIGHT) & (w < WIDTH)
    row, column = i + (FIRST_ROW + TOP - A) // STRIDE, j + (FIRST_COLUMN + LEFT - B) // STRIDE
    start = ((image * OUT_HEIGHT + row) * OUT_WIDTH + column) * FEATURES
    c = block * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((PIXELS, COLUMNS), tl.float32)
    if STAGES == 0:
        for first in tl.static_range(0, DOWN * ACROSS * FEATURES, ROWS):
            total = _input_gradient_rows(
                total, dy, kernel, first, known, row, column, start, c, A, B, DOWN, ACROSS, CHANNELS, FEATURES, OUT_HEIGHT,
                OUT_WIDTH, TAPS, STRIDE, ROWS,
            )  # fmt: skip
    elif DOWN * ACROSS > 0:
        for first in tl.range(0, DOWN * ACROSS * FEATURES, ROWS, num_stages=STAGES):
            total = _input_gradient_rows(
                total, dy, kernel, first, known, row, column, start, c, A, B, DOWN, ACROSS, CHANNELS, FEATURES, OUT_HEIGHT,
                OUT_WIDTH, TAPS, STRIDE, ROWS,
            )  # fmt: skip
    at = ((image * HEIGHT + h) * WIDTH + w) * CHANNELS
    tl.store(
        dx + at[:, None] + c[None, :], total.to(dx.dtype.element_ty), mask=known[:, None] & (c < CHANNELS)[None, :]
    )


@triton.jit
def input_gradient(
    dy, kernel, dx, BATCH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    FEATURES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr, TAPS: tl.constexpr, STRIDE: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
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
                OUT_WIDTH, TAPS, STRIDE, TOP, LEFT, PIXELS, ROWS, COLUMNS, STAGES,
            )  # fmt: skip


@triton.jit
def kernel_gradient(
    x, dy, sums, BATCH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    FEATURES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr, TAPS: tl.constexpr, STRIDE: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STAGES: tl.constexpr, TURNS: tl.constexpr,
):  # fmt: skip
    """Partial kernel gradients over shares of the pixels: float32 `[shares, T, k, k, C, D]`. The caller must sum the shares.

    Programs: shares of the pixels, blocks of rows x blocks of features, trials. TURNS: tiles of pixels in a share.
    """
    share, trial = tl.program_id(0), tl.program_id(2).to(tl.int64)
    x += trial * (BATCH * HEIGHT * WIDTH * CHANNELS)
    dy += trial * (BATCH * OUT_HEIGHT * OUT_WIDTH * FEATURES)
    sums += (share * tl.num_programs(2) + trial) * (TAPS * TAPS * CHANNELS * FEATURES)
    blocks = (FEATURES + COLUMNS - 1) // COLUMNS
    first = tl.program_id(1) // blocks * ROWS
    r = first + tl.arange(0, ROWS)
    d = tl.program_id(1) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    down, across, channel = _rows(first, ROWS, TAPS, CHANNELS, 1)
    step = (down * WIDTH + across) * CHANNELS + channel
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for turn in tl.range(0, TURNS, num_stages=STAGES):
        pixel = (share * TURNS + turn) * PIXELS + tl.arange(0, PIXELS)
        known = pixel < BATCH * OUT_HEIGHT * OUT_WIDTH
        image, row, column = _place(pixel, OUT_HEIGHT, OUT_WIDTH)
        row, column = row * STRIDE - TOP, column * STRIDE - LEFT
        start = ((image * HEIGHT + row) * WIDTH + column) * CHANNELS
        h, w = row[None, :] + down, column[None, :] + across
        inside = known[None, :] & (h >= 0) & (h < HEIGHT) & (w >= 0) & (w < WIDTH)
        if TAPS * TAPS * CHANNELS % ROWS != 0:
            inside = inside & (r < TAPS * TAPS * CHANNELS)[:, None]
        of_x = tl.load(x + start[None, :] + step, mask=inside, other=0.0)
        of_dy = tl.load(
            dy + pixel[:, None] * FEATURES + d[None, :], mask=known[:, None] & (d < FEATURES)[None, :], other=0.0
        )
        total = tl.dot(of_x, of_dy, total, input_precision="ieee")
    tl.store(
        sums + r[:, None] * FEATURES + d[None, :],
        total,
        mask=(r < TAPS * TAPS * CHANNELS)[:, None] & (d < FEATURES)[None, :],
    )
