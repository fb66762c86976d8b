"""Fields of a config about the network."""

import functools

from redundancy.config.field import MOST_IMAGES, Field, below_one, between, one_of
from redundancy.runtime.errors import ConfigError

FORMS = ("cifar", "imagenet")
IMAGENET_DEPTHS = (18, 34, 50, 101, 152)
KERNEL_INITS = ("he_fan_in", "he_fan_out")
CLASSIFIER_INITS = ("lecun", "normal_0.01", "zeros")
DTYPES = ("float32", "bfloat16")

_field = functools.partial(Field, "Model")

FIELDS: dict[str, Field] = {
    "form": _field(
        "cifar",
        "form of the ResNet v2: 'cifar' has three stages of basic blocks; 'imagenet' has a 7x7 stem, max-pooling and four "
        "stages, with bottlenecks from depth 50 on",
        **one_of(FORMS),
    ),
    "depth": _field(
        32,
        "layers of the ResNet v2: 6n+2 (8, 14, 20, 32, 44, 56, 110 …) in the form 'cifar'; 18, 34, 50, 101 or 152 in "
        "the form 'imagenet'",
        **between(8, 2000),
    ),
    "widths": _field(
        (16, 32, 64),
        "channels of the residual stages, three or (in the form 'imagenet') four; the output of a bottleneck has four times as "
        "many",
        "three or four numbers from 1 to 8192",
        lambda value: len(value) in (3, 4) and all(1 <= item <= 8192 for item in value),
        int,
    ),
    "dtype": _field(
        "float32",
        "type that convolutions compute in; parameters, statistics, logits and loss are float32",
        **one_of(DTYPES),
    ),
    "kernel_init": _field(
        "he_fan_out",
        "initialisation of convolutions: normal distribution of He et al. 2015, by the number of a unit's inputs or, as in the "
        "code of ResNet's authors, of its outputs",
        **one_of(KERNEL_INITS),
    ),
    "classifier_init": _field(
        "lecun",
        "initialisation of the classifier's kernel: LeCun's normal distribution, Goyal et al.'s with standard deviation 0.01, or "
        "zeros",
        **one_of(CLASSIFIER_INITS),
    ),
    "classifier_bias": _field(True, "whether the classifier has a bias, which starts at zero"),
    "zero_init_residual": _field(
        False,
        "whether the last convolution of every residual branch is initialised to zero, so that blocks start as the identity "
        "(in a v1 network this is done with the branch's last BatchNorm scale: Goyal et al., section 5.1)",
    ),
    "bn_group_size": _field(
        0,
        "number of images over which BatchNorm computes its statistics; 0 is the whole batch",
        **between(0, MOST_IMAGES),
    ),
    "bn_momentum": _field(
        0.9,
        "share of BatchNorm's running statistics kept at each step",
        **below_one(),
    ),
}


def check(config) -> None:
    """Raises ConfigError for inconsistent fields."""
    if config.form == "cifar":
        if config.depth % 6 != 2:
            raise ConfigError(
                f"config.depth is {config.depth}; in the form 'cifar' wanted: 8, 14, 20, 26, 32 or another number of "
                "the form 6n+2 (ResNet-50 and the like: --config.form=imagenet)."
            )
    elif config.depth not in IMAGENET_DEPTHS:
        raise ConfigError(
            f"config.depth is {config.depth}; in the form 'imagenet' wanted one of "
            f"{', '.join(map(str, IMAGENET_DEPTHS))} (ResNet-32 and the like: --config.form=cifar)."
        )
    wanted = 3 if config.form == "cifar" else 4
    if len(config.widths) != wanted:
        raise ConfigError(
            f"config.widths has {len(config.widths)} numbers; the form {config.form!r} has {wanted} stages: wanted as "
            "many, for example " + ("(16, 32, 64)." if wanted == 3 else "(64, 128, 256, 512).")
        )
