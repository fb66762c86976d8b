"""Direct convolutions for CPUs, as functions in LLVM's intermediate language that compute some images of a batch.

Sums of 16 pixels by 16 channels stay in vector registers during the loops over taps and channels. Array layouts do not change;
images are only copied to add a border of zeros. Knows nothing of XLA and threads, see handler.ll.
"""

import contextlib
import dataclasses
from collections.abc import Sequence

from llvmlite import ir

from redundancy.models.same import Same

_INT, _FLOAT, _POINTER = ir.IntType(64), ir.FloatType(), ir.PointerType()


def lanes(channels: int) -> int:
    """Channels in a vector, which LLVM splits into the processor's vectors; 0 if there is no kernel for `channels`."""
    return next((count for count in (16, 8, 4) if channels % count == 0), 0)


@dataclasses.dataclass(frozen=True)
class Shape(Same):
    """A convolution with padding "SAME".

    Attributes:
      height, width: of the input, pixels.
      channels, features: of the input and of the output.
      taps: number of rows, and of columns, of the kernel.
      stride: between two outputs, down and across.
    """

    height: int
    width: int
    channels: int
    features: int
    taps: int
    stride: int


@dataclasses.dataclass(frozen=True)
class Axis:
    """The inputs and taps of the kernel that contribute to an output, along one axis.

    Output `start + i * step`, for i below `count`, is a sum over j below `taps` of input `i * stride + source + j * turn`
    times tap `tap + j * tap_step`.
    """

    count: int
    start: int
    step: int
    stride: int
    taps: int
    source: int
    turn: int
    tap: int
    tap_step: int

    @property
    def sources(self) -> range:
        """All inputs from the first to the last needed one, including those beyond the border."""
        ends = [
            self.source + j * self.turn + i for j in (0, self.taps - 1) for i in (0, (self.count - 1) * self.stride)
        ]
        return range(min(ends), max(ends) + 1) if self.taps and self.count else range(0)


def _forward_axis(shape: Shape, axis: int) -> Axis:
    return Axis(shape.out[axis], 0, 1, shape.stride, shape.taps, -shape.before[axis], 1, 0, 1)


def _transposed_axes(shape: Shape, axis: int) -> list[Axis]:
    """Axes of the gradient with respect to the input: one for each offset of an input between two outputs."""
    size, stride, before = (shape.height, shape.width)[axis], shape.stride, shape.before[axis]
    axes = []
    for place in range(min(stride, size)):
        # Output i + (place + before - k) / stride, if that is an integer, used tap k for input i * stride + place.
        first = (place + before) % stride
        taps = len(range(first, shape.taps, stride))
        source = (place + before - first) // stride
        axes.append(Axis(len(range(place, size, stride)), place, stride, 1, taps, source, -1, first, stride))
    return axes


@dataclasses.dataclass(frozen=True)
class _Padded:
    """An image of `rows` x `columns` x `channels` with a border as wide as `down` and `across` need."""

    rows: int
    columns: int
    channels: int
    above: int
    left: int
    all_rows: int
    all_columns: int

    @classmethod
    def of(cls, size: tuple[int, int], channels: int, down: Sequence[Axis], across: Sequence[Axis]) -> "_Padded":
        found = []
        for side, axes in zip(size, (down, across), strict=True):
            before = max(0, *(-axis.sources.start for axis in axes))
            found.append((before, before + max(side, *(axis.sources.stop for axis in axes))))
        return cls(*size, channels, found[0][0], found[1][0], found[0][1], found[1][1])

    @property
    def scratch_bytes(self) -> int:
        return 4 * self.all_rows * self.all_columns * self.channels


class _Writer:
    """An IRBuilder with loops, and arithmetic on addresses of float32."""

    def __init__(self, module: ir.Module, name: str, lanes: int):
        self.lanes, self.kind = lanes, ir.VectorType(_FLOAT, lanes)
        kinds = [_POINTER] * 4 + [_INT] * 2
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))

    def int(self, value: int) -> ir.Constant:
        return ir.Constant(_INT, value)

    @contextlib.contextmanager
    def loop(self, start, stop, step: int = 1):
        """The counter of `for counter in range(start, stop, step)`, int64."""
        b, counter = self.b, self.local(_INT)
        b.store(self._value(start), counter)
        head, body, end = (b.append_basic_block(name) for name in ("head", "body", "end"))
        b.branch(head)
        b.position_at_end(head)
        now = b.load(counter, typ=_INT)
        b.cbranch(b.icmp_signed("<", now, self._value(stop)), body, end)
        b.position_at_end(body)
        yield now
        b.store(b.add(now, self.int(step)), counter)
        b.branch(head)
        b.position_at_end(end)

    @contextlib.contextmanager
    def covering(self, size: int, step: int):
        """Starts of blocks of `step` that cover 0..size-1; the last block begins earlier if `step` does not divide `size`."""
        with self.loop(0, size, step) as start:
            latest = self.int(size - step)
            yield self.b.select(self.b.icmp_signed("<", start, latest), start, latest)

    def local(self, kind) -> ir.Value:
        """A local variable, which the optimiser puts in a register."""
        with self.b.goto_entry_block():
            return self.b.alloca(kind)

    def sum(self, *terms):
        total = self._value(terms[0])
        for term in terms[1:]:
            total = self.b.add(total, self._value(term))
        return total

    def times(self, value, factor: int):
        return self.b.mul(self._value(value), self.int(factor))

    def at(self, pointer, offset):
        """The address `offset` floats after `pointer`."""
        return self.b.gep(pointer, [self._value(offset)], source_etype=_FLOAT)

    def vector(self, pointer):
        return self.b.load(pointer, align=4, typ=self.kind)

    def splat(self, pointer):
        number, undefined = self.b.load(pointer, align=4, typ=_FLOAT), ir.Constant(self.kind, ir.Undefined)
        one = self.b.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        return self.b.shuffle_vector(
            one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        )

    def add_product(self, total, x, y):
        fma = self.intrinsic(f"llvm.fma.v{self.lanes}f32", self.kind, [self.kind] * 3)
        self.b.store(self.b.call(fma, [x, y, self.b.load(total, typ=self.kind)]), total)

    def intrinsic(self, name: str, result, kinds) -> ir.Function:
        found = self.b.module.globals.get(name)
        return found or ir.Function(self.b.module, ir.FunctionType(result, kinds), name)

    def pad(self, image, scratch, padded: _Padded) -> None:
        """Copies an image into `scratch`, within its border of zeros."""
        row = padded.columns * padded.channels
        flag = ir.IntType(1)
        copy = self.intrinsic("llvm.memcpy.p0.p0.i64", ir.VoidType(), [_POINTER, _POINTER, _INT, flag])
        with self.loop(0, padded.rows) as y:
            start = self.times(self.sum(y, padded.above), padded.all_columns)
            target = self.at(scratch, self.times(self.sum(start, padded.left), padded.channels))
            source = self.at(image, self.times(y, row))
            self.b.call(copy, [target, source, self.int(4 * row), ir.Constant(flag, 0)])

    def _value(self, value):
        return self.int(value) if isinstance(value, int) else value


def _divisor(number: int, most: int) -> int:
    return max(each for each in range(1, most + 1) if number % each == 0)


def _write_sums(w: _Writer, padded: _Padded, axes: Sequence[tuple[Axis, Axis]], shape: Shape, size, features, wide):
    """Writes code for outputs of `size` x `features` from padded inputs, for each pair (down, across) in `axes`."""
    x, kernel, out, scratch, first, last = w.function.args
    channels, most = padded.channels, 16 if wide else 4
    unrolled = _divisor(channels, 16)

    def block(down: Axis, across: Axis, y, column, feature, image_out, totals):
        for total in totals.values():
            w.b.store(ir.Constant(w.kind, None), total)
        with w.loop(0, down.taps) as j, w.loop(0, across.taps) as k:
            row = w.sum(w.times(y, down.stride), w.times(j, down.turn), down.source + padded.above)
            pixel = w.sum(w.times(column, across.stride), w.times(k, across.turn), across.source + padded.left)
            source = w.at(scratch, w.times(w.sum(w.times(row, padded.all_columns), pixel), channels))
            tap = w.sum(w.times(j, down.tap_step * shape.taps), w.times(k, across.tap_step))
            tap = w.sum(tap, down.tap * shape.taps + across.tap)
            weights = w.at(kernel, w.sum(w.times(tap, channels * features), feature))
            with w.loop(0, channels, unrolled) as channel:
                for c in range(unrolled):
                    loaded = w.vector(w.at(weights, w.times(w.sum(channel, c), features)))
                    for (p, q), total in totals.items():
                        offset = (p * down.stride * padded.all_columns + q * across.stride) * channels + c
                        w.add_product(total, w.splat(w.at(source, w.sum(channel, offset))), loaded)
        for (p, q), total in totals.items():
            line = w.sum(w.times(w.sum(y, p), down.step), down.start)
            pixel = w.sum(w.times(w.sum(column, q), across.step), across.start)
            place = w.sum(w.times(w.sum(w.times(line, size[1]), pixel), features), feature)
            w.b.store(w.b.load(total, typ=w.kind), w.at(image_out, place), align=4)

    with w.loop(first, last) as image:
        w.pad(w.at(x, w.times(image, padded.rows * padded.columns * channels)), scratch, padded)
        image_out = w.at(out, w.times(image, size[0] * size[1] * features))
        for down, across in axes:
            columns = min(across.count, most)
            rows = min(down.count, most // columns)
            totals = {(p, q): w.local(w.kind) for p in range(rows) for q in range(columns)}
            with (
                w.loop(0, features, w.lanes) as feature,
                w.covering(down.count, rows) as y,
                w.covering(across.count, columns) as column,
            ):
                block(down, across, y, column, feature, image_out, totals)
    w.b.ret_void()


def write_forward(module: ir.Module, name: str, shape: Shape, wide: bool) -> int:
    """Writes `name(x, kernel, out, scratch, first, last)`: the outputs of images first..last-1.

    Args:
      module: module to write to.
      name: name of the function.
      shape: shape of the convolution; `lanes` of its features must not be 0.
      wide: whether there are 32 registers of 512 bits, rather than 16 of 256.

    Returns:
      bytes that `scratch` needs, initially zeros.
    """
    down, across = _forward_axis(shape, 0), _forward_axis(shape, 1)
    padded = _Padded.of((shape.height, shape.width), shape.channels, [down], [across])
    w = _Writer(module, name, lanes(shape.features))
    _write_sums(w, padded, [(down, across)], shape, shape.out, shape.features, wide)
    return padded.scratch_bytes


def write_input_gradient(module: ir.Module, name: str, shape: Shape, wide: bool) -> int:
    """Writes `name(gradient of the output, transposed kernel, out, scratch, first, last)`: the gradient of the input.

    The kernel is `[taps, taps, features, channels]` here, and `lanes` of the channels must not be 0. Arguments and
    result are as for write_forward.
    """
    down, across = _transposed_axes(shape, 0), _transposed_axes(shape, 1)
    padded = _Padded.of(shape.out, shape.features, down, across)
    axes = [(one, other) for one in down for other in across]
    size = (shape.height, shape.width)
    _write_sums(_Writer(module, name, lanes(shape.channels)), padded, axes, shape, size, shape.channels, wide)
    return padded.scratch_bytes


def write_kernel_gradient(module: ir.Module, name: str, shape: Shape, wide: bool) -> int:
    """Writes `name(x, gradient of the output, out, scratch, first, last)`: adds some images' part of the kernel's gradient.

    Arguments and result are as for write_forward.
    """
    w = _Writer(module, name, lanes(shape.features))
    x, gradient, out, scratch, first, last = w.function.args
    down, across = _forward_axis(shape, 0), _forward_axis(shape, 1)
    padded = _Padded.of((shape.height, shape.width), shape.channels, [down], [across])
    (rows, columns), channels, features, taps = shape.out, shape.channels, shape.features, shape.taps
    most = 16 if wide else 4
    together = taps if channels * taps <= most else 1
    count = channels if together > 1 else _divisor(channels, most)
    totals = {(t, c): w.local(w.kind) for t in range(together) for c in range(count)}

    with w.loop(first, last) as image:
        w.pad(w.at(x, w.times(image, shape.height * shape.width * channels)), scratch, padded)
        image_gradient = w.at(gradient, w.times(image, rows * columns * features))
        with (
            w.loop(0, taps) as j,
            w.loop(0, taps, together) as k,
            w.loop(0, channels, count) as channel,
            w.loop(0, features, w.lanes) as feature,
        ):
            tap = w.sum(w.times(j, taps), k)
            target = w.at(out, w.sum(w.times(w.sum(w.times(tap, channels), channel), features), feature))
            places = [(total, w.at(target, (t * channels + c) * features)) for (t, c), total in totals.items()]
            for total, place in places:
                w.b.store(w.vector(place), total)
            with w.loop(0, rows) as y:
                row = w.sum(w.times(y, shape.stride), j, down.source + padded.above)
                start = w.sum(w.times(row, padded.all_columns), k, across.source + padded.left)
                source = w.at(scratch, w.sum(w.times(start, channels), channel))
                of_row = w.at(image_gradient, w.sum(w.times(y, columns * features), feature))
                with w.loop(0, columns) as column:
                    pixel = w.at(source, w.times(column, shape.stride * channels))
                    of_pixel = w.vector(w.at(of_row, w.times(column, features)))
                    for (t, c), total in totals.items():
                        w.add_product(total, w.splat(w.at(pixel, t * channels + c)), of_pixel)
            for total, place in places:
                w.b.store(w.b.load(total, typ=w.kind), place, align=4)
    w.b.ret_void()
    return padded.scratch_bytes
