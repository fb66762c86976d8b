"""Sizes of convolutions with padding "SAME"."""


class Same:
    """Mixin: output size and padding of a convolution with the attributes height, width, taps and stride."""

    height: int
    width: int
    taps: int
    stride: int

    @property
    def out(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        return -(-self.height // self.stride), -(-self.width // self.stride)

    @property
    def before(self) -> tuple[int, int]:
        """Zeros above and on the left, as in XLA."""
        sides = zip(self.out, (self.height, self.width), strict=True)
        return tuple(max((count - 1) * self.stride + self.taps - size, 0) // 2 for count, size in sides)
