"""Sizes of a pack's convolution with padding "SAME"."""

import dataclasses

from redundancy.models.same import Same


@dataclasses.dataclass(frozen=True)
class Shape(Same):
    """A convolution of every trial of a pack.

    Attributes:
      trials: networks of the pack, each with a kernel of its own.
      batch: images of each trial.
      height, width: of the input, pixels.
      channels, features: of the input and of the output.
      taps: number of rows, and of columns, of the kernel.
      stride: between two outputs, down and across.
    """

    trials: int
    batch: int
    height: int
    width: int
    channels: int
    features: int
    taps: int
    stride: int

    @classmethod
    def of(cls, x: tuple[int, ...], kernel: tuple[int, ...], stride: int) -> "Shape":
        """Makes it from the shapes of the input, `[T, B, H, W, C]`, and of the kernels, `[T, k, k, C, D]`."""
        return cls(*x, kernel[4], kernel[1], stride)

    @property
    def x(self) -> tuple[int, ...]:
        """`[T, B, H, W, C]`."""
        return self.trials, self.batch, self.height, self.width, self.channels

    @property
    def kernel(self) -> tuple[int, ...]:
        """`[T, k, k, C, D]`."""
        return self.trials, self.taps, self.taps, self.channels, self.features

    @property
    def y(self) -> tuple[int, ...]:
        """`[T, B, H', W', D]`."""
        return self.trials, self.batch, *self.out, self.features
