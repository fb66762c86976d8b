"""Sizes of the cases of `benchmarks.selection`, in full and with --quick."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
      cifar10, imagenet: number of classes and images of each.
      sample: ImageNet-like classes that the peers get.
      large: images of the one large class.
      half: images of the class of which half is kept; 0 for none.
      pairs: images of the case pairs.
      near: images of the classes of 64 numbers of the case near, ascending.
      near_wide: images of its classes of 512 and 768 numbers.
      million: images of the case million.
      repeats: counted repetitions.
      peers_in_large: whether the large classes are given to the peers.
      memory_in: cases whose peak memory is measured.
      children: child processes at a time for that.
    """

    cifar10: tuple[int, int]
    imagenet: tuple[int, int]
    sample: int
    large: tuple[int, ...]
    half: int
    pairs: tuple[int, ...]
    near: tuple[int, ...]
    near_wide: tuple[int, ...]
    million: int
    repeats: int
    peers_in_large: bool
    memory_in: tuple[str, ...]
    children: int

    def scaled(self, scale: float) -> "Sizes":
        """The same with fewer images to a class."""

        def of(n):
            return max(20, round(scale * n))

        return dataclasses.replace(
            self,
            cifar10=(self.cifar10[0], of(self.cifar10[1])),
            imagenet=(self.imagenet[0], of(self.imagenet[1])),
            large=tuple(map(of, self.large)),
            half=of(self.half) if self.half else 0,
            pairs=tuple(map(of, self.pairs)),
            near=tuple(map(of, self.near)),
            near_wide=tuple(map(of, self.near_wide)),
            million=of(self.million),
        )


FULL = Sizes(
    cifar10=(10, 5_000),
    imagenet=(1_000, 1_300),
    sample=10,
    large=(20_000, 50_000, 100_000, 200_000),
    half=50_000,
    pairs=(20_000, 50_000),
    near=(50_000, 200_000, 1_000_000, 2_000_000),
    near_wide=(20_000, 50_000),
    million=1_000_000,
    repeats=5,
    peers_in_large=True,
    memory_in=("cifar10", "imagenet", "large", "pairs", "near"),
    children=1,
)
QUICK = Sizes(
    cifar10=(1, 5_000),
    imagenet=(1, 1_300),
    sample=1,
    large=(5_000, 20_000),
    half=0,
    pairs=(10_000,),
    near=(20_000, 40_000),
    near_wide=(20_000,),
    million=1_000_000,
    repeats=3,
    peers_in_large=False,
    memory_in=("cifar10", "large"),
    children=2,
)
