"""The fields a config may have, their types and defaults, and what is wrong with a given one.

Knows nothing of files and data sets: what can be said of a config alone is said here, before any work.
"""

import dataclasses
import enum
import functools
import json
import numbers
import re
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from redundancy.runtime.errors import ConfigError, nearest
from redundancy.selection import methods

LAYERS = ("start", "middle", "end")
RULES = ("cosine_raw_mean", "cosine_unit_mean", "medoid", "minimax")
AUGMENTATIONS = ("none", "flip", "crop", "crop_flip", "resized_crop", "resized_crop_flip")
FORMS = ("cifar", "imagenet")
IMAGENET_DEPTHS = (18, 34, 50, 101, 152)
KERNEL_INITS = ("he_fan_in", "he_fan_out")
CLASSIFIER_INITS = ("lecun", "normal_0.01", "zeros")
BUDGETS = ("steps", "epochs")
DTYPES = ("float32", "bfloat16")
PACK_MODES = ("auto", "loop", "vmap")
FORMULATIONS = ("auto", "xla", "cpu")
BAD_IMAGES = ("stop", "skip")


class Affects(enum.Flag):
    """What changes with the value of a field.

    Attributes:
      NOTHING: the field says where a data set lies or how it is read; its fingerprint says which it is.
      IDENTITY: which training it is: which checkpoints it continues, and which result is its own.
      NETWORK: pretrain/, and the embeddings that its network made.
      EMBEDDINGS: the files that hold these embeddings.
      RUNS: runs/ and results.csv.
      REPORT: report/.
      COMPARISON: whether the results of two workdirs are those of one experiment.
      HOW: how a training is computed and written. All of a workdir's trainings have it in common.
      RESULT: what a training is.
    """

    NOTHING = 0
    IDENTITY = enum.auto()
    NETWORK = enum.auto()
    EMBEDDINGS = enum.auto()
    RUNS = enum.auto()
    REPORT = enum.auto()
    COMPARISON = enum.auto()
    HOW = NETWORK | RUNS
    RESULT = IDENTITY | HOW | COMPARISON


@dataclasses.dataclass(frozen=True)
class Field:
    """One field: its default (whose type is the field's type), what it means, and its own check.

    The default of a field that is added must do what the program did without it: configs, checkpoints and results that
    lack the field count as having its default.

    Attributes:
      section: heading under which the field is listed.
      default: value of a config that does not set it; () stands for a tuple of `item`.
      doc: what it means, with its unit.
      wanted: the allowed values in words, for the error message.
      check: value -> whether it is allowed.
      item: type of the items, where the field is a tuple.
      affects: what depends on it; unless said otherwise, all that a training makes.
    """

    section: str
    default: Any
    doc: str
    wanted: str = ""
    check: Callable[[Any], bool] = lambda value: True
    item: type | None = None
    affects: Affects = Affects.RESULT


# Bounds are there to tell a slip of the pen before work begins, or before memory ends: no experiment comes near them.
_MOST = 2**31 - 1  # steps and seeds are int32 on devices
_MOST_IMAGES = 2**24  # of a batch
_MOST_TRAININGS = 100_000
_LONGEST = 4096  # characters of a text, as of a path on Linux
_MOST_SHOWN = 200  # characters of a wrong value in a message
# Neither JSON nor a path can hold some of these, and none is in a name on purpose.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def fraction_name(fraction: float) -> str:
    """A fraction as names and tables have it: to four decimals, which are all that tells it from another."""
    return f"{fraction:.4f}"


def same_fraction(first: float, second: float) -> bool:
    """Whether two fractions have the same name."""
    return fraction_name(first) == fraction_name(second)


def _between(low, high=_MOST):
    return dict(wanted=f"a number from {low} to {high}", check=lambda value: low <= value <= high)


def _all_between(low, high):
    return dict(
        wanted=f"numbers from {low} to {high}",
        check=lambda value: all(low <= item <= high for item in value),
        item=float,
    )


def _one_of(names):
    return dict(wanted="one of " + ", ".join(names), check=lambda value: value in names)


def _some_of(names):
    return dict(
        item=str,
        wanted="one or more different names out of " + ", ".join(names),
        check=lambda value: 0 < len(set(value)) == len(value) and all(name in names for name in value),
    )


_how = functools.partial(Field, "Training", affects=Affects.HOW)
_length = functools.partial(Field, "Training", affects=Affects.HOW | Affects.COMPARISON)
_in_table = functools.partial(Field, "Experiment", affects=Affects.RUNS)
_reported = functools.partial(Field, "Report", affects=Affects.REPORT)

FIELDS: dict[str, Field] = {
    # Data
    "dataset": Field(
        "Data",
        "digits",
        "TFDS name (builder, builder/config, builder:version), folder of images, or .npz file; '' is none: link and "
        "select alone, on imported embeddings",
        affects=Affects.IDENTITY | Affects.HOW,
    ),
    "data_dir": Field(
        "Data", "", "where TFDS keeps prepared data sets; '' is TFDS's own default", affects=Affects.NOTHING
    ),
    "train_split": Field("Data", "train", "split that is trained on and pruned", "a split's name", bool),
    "test_split": Field(
        "Data",
        "auto",
        "split that accuracy is measured on; 'auto' is test, else validation or val, else held out; '' holds out",
    ),
    "holdout": Field(
        "Data",
        0.2,
        "share of each class of the train split held out for measuring where there is no test split",
        "a number above 0 and below 1",
        lambda value: 0 < value < 1,
    ),
    "image_size": Field(
        "Data",
        0,
        "side in pixels that images are resized and cropped to; 0 keeps them as stored",
        **_between(0, 16_384),
    ),
    "resident_mb": Field(
        "Data",
        2048,
        "MB of decoded images up to which a set lives on the device; above it streams",
        **_between(0),
        affects=Affects.HOW,
    ),
    "bad_images": Field(
        "Data",
        "stop",
        "what becomes of files of a folder of images that cannot be decoded: 'stop' names them in one error; 'skip' leaves "
        "them out, before positions are given, and lists them",
        **_one_of(BAD_IMAGES),
        affects=Affects.NOTHING,
    ),
    "mean": Field("Data", (0.5,), "mean of pixel / 255, one or one per channel", **_all_between(-1000, 1000)),
    "std": Field(
        "Data", (0.25,), "standard deviation of pixel / 255, one or one per channel", **_all_between(0.0001, 1000)
    ),
    "augmentation": Field(
        "Data",
        "crop_flip",
        "random change of each training image; resized_crop is Inception's crop of any size and aspect",
        **_one_of(AUGMENTATIONS),
    ),
    "pad": Field("Data", 4, "pixels of zero padding before the random crop", **_between(0, 4096)),
    "crop_area": Field(
        "Data",
        (0.08, 1.0),
        "least and greatest share of the image's area that a resized_crop takes",
        "two numbers above 0 and up to 1, the second not below the first",
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1,
        float,
    ),
    "crop_aspect": Field(
        "Data",
        (3 / 4, 4 / 3),
        "least and greatest width by height of a resized_crop",
        "two numbers from 0.1 to 10, the second not below the first",
        lambda value: len(value) == 2 and 0.1 <= value[0] <= value[1] <= 10,
        float,
    ),
    "eval_crop": Field(
        "Data",
        1.0,
        "image_size by the side that an image's shorter side is resized to before its centre is cut out, unless a "
        "resized_crop is; 0.875 is 224 of 256",
        "a number from 0.1 to 1",
        lambda value: 0.1 <= value <= 1,
    ),
    # Model
    "form": Field(
        "Model",
        "cifar",
        "of the ResNet v2: 'cifar' has three stages of basic blocks; 'imagenet' a 7x7 stem, max-pooling and four "
        "stages, of bottlenecks from depth 50 on",
        **_one_of(FORMS),
    ),
    "depth": Field(
        "Model",
        32,
        "layers of the ResNet v2: 6n+2 (8, 14, 20, 32, 44, 56, 110 …) in the form 'cifar'; 18, 34, 50, 101 or 152 in "
        "the form 'imagenet'",
        **_between(8, 2000),
    ),
    "widths": Field(
        "Model",
        (16, 32, 64),
        "channels of the residual stages, three or (in the form 'imagenet') four; a bottleneck puts out four times as many",
        "three or four numbers from 1 to 8192",
        lambda value: len(value) in (3, 4) and all(1 <= item <= 8192 for item in value),
        int,
    ),
    "dtype": Field(
        "Model",
        "float32",
        "type that convolutions compute in; parameters, statistics, logits and loss are float32",
        **_one_of(DTYPES),
    ),
    "kernel_init": Field(
        "Model",
        "he_fan_out",
        "of convolutions: He et al. 2015's normal distribution over the inputs or, as in the code of ResNets' authors, "
        "the outputs of a unit",
        **_one_of(KERNEL_INITS),
    ),
    "classifier_init": Field(
        "Model",
        "lecun",
        "of the classifier's kernel: LeCun's normal distribution, Goyal et al.'s of standard deviation 0.01, or zeros",
        **_one_of(CLASSIFIER_INITS),
    ),
    "classifier_bias": Field("Model", True, "whether the classifier has a bias, which starts at zero"),
    "zero_init_residual": Field(
        "Model",
        False,
        "whether the last convolution of every residual branch starts at zero, so that blocks start as the identity "
        "(in a v1 network it is the branch's last BatchNorm scale: Goyal et al., section 5.1)",
    ),
    "bn_group_size": Field(
        "Model",
        0,
        "images over which BatchNorm takes its statistics; 0 is the whole batch",
        **_between(0, _MOST_IMAGES),
    ),
    "bn_momentum": Field(
        "Model",
        0.9,
        "share of BatchNorm's running statistics kept at each step",
        "a number from 0 up to, not including, 1",
        lambda value: 0 <= value < 1,
    ),
    # Training; a training's identity has the schedule in place of the fields that it follows from
    "steps": _length(100_000, "steps of one training on the full set; not used where epochs is set", **_between(1)),
    "epochs": _length(
        0.0, "epochs of one training on the full set, in place of steps; 0 uses steps", **_between(0, 100_000)
    ),
    "budget": Field(
        "Training",
        "steps",
        "what subsets share with the full set: 'steps' the same steps, 'epochs' the same epochs",
        **_one_of(BUDGETS),
        affects=Affects.RUNS | Affects.COMPARISON,
    ),
    "batch_size": Field("Training", 128, "images of one step and one trial", **_between(1, _MOST_IMAGES)),
    "lr_per_256": Field(
        "Training",
        0.2,
        "learning rate for 256 images a step; the peak is lr_per_256 x batch_size / 256 (Goyal et al., section 2.1)",
        "a number above 0, from 1e-12 to 1e36",
        lambda value: 1e-12 <= value <= 1e36,
    ),
    "warmup_steps": _length(2500, "steps of linear warm-up from 0; not used where warmup_epochs is set", **_between(0)),
    "warmup_epochs": _length(
        0.0, "epochs of linear warm-up, in place of warmup_steps; 0 uses warmup_steps", **_between(0, 100_000)
    ),
    "micro_batch": Field(
        "Training",
        0,
        "images of a device's share of the batch that are computed at a time, their gradients summed; 0 is all. A "
        "multiple of bn_group_size, so that nothing changes but memory and speed",
        **_between(0, _MOST_IMAGES),
    ),
    "label_smoothing": Field(
        "Training",
        0.0,
        "share of each label's weight that is spread over all classes",
        "a number from 0 up to, not including, 1",
        lambda value: 0 <= value < 1,
    ),
    "momentum": Field(
        "Training",
        0.9,
        "momentum of SGD",
        "a number from 0 up to, not including, 1",
        lambda value: 0 <= value < 1,
    ),
    "nesterov": Field("Training", False, "whether the momentum is Nesterov's"),
    "l2": Field(
        "Training",
        1e-4,
        "factor of the L2 penalty's gradient, on kernels alone (no bias, no BatchNorm)",
        **_between(0, 1000),
    ),
    "seed": Field("Training", 0, "seed of everything random", **_between(0)),
    "eval_batch_size": _how(500, "images of one evaluation or embedding step", **_between(1, _MOST_IMAGES)),
    "log_every": _how(100, "steps between two lines of metrics", **_between(1)),
    "checkpoint_every": _how(5000, "steps between two checkpoints", **_between(1)),
    "checkpoints_kept": _how(
        2, "checkpoints that each run keeps, the newest", "a whole number from 1 to 1000", lambda n: 1 <= n <= 1000
    ),
    "data_parallel": _how(0, "devices that share one trial's batch; 0 spreads trials first", **_between(0, 65_536)),
    "pack": _how(0, "trials trained in one program; 0 is one per device", **_between(0, 10_000)),
    "pack_mode": _how(
        "auto",
        "how a device trains several trials of a pack: 'loop' one after the other, 'vmap' as one batched network; "
        "'auto' is what was measured to be faster on its platform",
        **_one_of(PACK_MODES),
    ),
    "formulation": _how(
        "auto",
        "how convolutions and BatchNorm are computed: 'xla', or on CPUs 'cpu', by kernels of our own; 'auto' is what was "
        "measured to be faster on the platform; they agree to rounding",
        **_one_of(FORMULATIONS),
    ),
    "steps_per_dispatch": _how(
        0, "steps in one device program; 0 is 1 on CPU and for streamed sets, 50 elsewhere", **_between(0, 10_000)
    ),
    # Selection
    "layers": Field(
        "Selection",
        ("end",),
        "layers whose pooled output is embedded and clustered",
        **_some_of(LAYERS),
        affects=Affects.RUNS,
    ),
    "embedding_parts": Field(
        "Selection",
        8,
        "files that each layer's embeddings are written in",
        **_between(1, 10_000),
        affects=Affects.EMBEDDINGS,
    ),
    "rule": Field(
        "Selection",
        "cosine_raw_mean",
        "which image of a redundant group is kept",
        **_one_of(RULES),
        affects=Affects.RUNS | Affects.COMPARISON,
    ),
    # Experiment
    "fractions": _in_table(
        (0.95, 0.9, 0.8, 0.7, 0.6, 0.5),
        "kept shares of the full set to compare with it",
        "one or more different numbers above 0 and up to 1, told apart by four decimals, and not more than 1000 of them",
        lambda value: (
            len(value) <= 1000
            and all(0.0001 <= item <= 1 for item in value)
            and 0 < len(set(map(fraction_name, value))) == len(value)
        ),
        float,
    ),
    "methods": _in_table(methods.DEFAULT, "ways of choosing what is kept", **_some_of(methods.METHODS)),
    "trials": _in_table(10, "trainings of each method and fraction, with paired seeds", **_between(1, 10_000)),
    # Report
    "report_fraction": _reported(
        0.9,
        "kept share whose groups the report shows; the nearest of `fractions` is taken",
        "a number above 0 and up to 1",
        lambda value: 0 < value <= 1,
    ),
    "report_margin": _reported(
        0.002,
        "loss of test accuracy up to which a subset counts as no worse than the full set, as a share: 0.002 is 0.2 "
        "points; to be chosen before the results are seen",
        **_between(0.00001, 0.1),
    ),
    "report_classes": _reported(0, "classes whose groups the report shows at most; 0 is all", **_between(0, 100_000)),
    "report_groups": _reported(
        0,
        "redundant groups of a class and fraction that the report shows with pictures at most; 0 is as many as keep the "
        "page small",
        **_between(0, 100_000),
    ),
}


def defaults() -> ml_collections.ConfigDict:
    """A config with every field at its default, for configs/*.py to start from."""
    config = ml_collections.ConfigDict()
    for name, field in FIELDS.items():
        config[name] = field.default
    return config


def describe() -> str:
    """The fields as text, by section: name, default, meaning."""
    lines, section = [], None
    for name, field in FIELDS.items():
        if field.section != section:
            section = field.section
            lines += ["", section]
        lines.append(f"  {name + ' = ' + repr(field.default):<44} {field.doc}")
    return "\n".join(lines) + "\n"


def check_variant(arg: str, known: tuple[str, ...]) -> None:
    """Raises ConfigError where a config file's argument is none of `known` and not empty."""
    if arg and arg not in known:
        raise ConfigError(
            f"the config has no argument {arg!r}.{nearest(arg, known)} Arguments: {', '.join(known) or 'none'}."
        )


def _shown(value: Any) -> str:
    """A wrong value as one short line."""
    try:
        text = " ".join(repr(value).split())
    # Python refuses to write out integers of thousands of digits; other objects may raise anything.
    except Exception as error:
        text = f"a value that cannot be shown: {type(error).__name__}"
    text = CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _convert(name: str, field: Field, value: Any) -> Any:
    """`value` in the type of the field; raises ConfigError where it has another."""

    def fail(wanted):
        raise ConfigError(f"config.{name} is {_shown(value)} ({type(value).__name__}); wanted: {wanted} ({field.doc}).")

    def scalar(item, kind):
        if isinstance(item, numbers.Real) and not isinstance(item, bool):  # NumPy's too
            try:
                if kind is float:
                    return float(item)
                if kind is int and item == int(item):
                    return int(item)
            except (OverflowError, ValueError):
                fail("a number within the range of floats")
        if kind is str and isinstance(item, str):
            if found := CONTROLS.search(item):
                fail(f"a text without control characters and broken UTF-8 ({found[0]!r})")
            if len(item) > _LONGEST:
                fail(f"a text of at most {_LONGEST} characters")
            return str(item)
        if type(item) is not kind:
            fail({float: "a number", int: "a whole number", str: "a text", bool: "True or False"}[kind])
        return item

    if isinstance(field.default, tuple):
        if isinstance(value, (str, int, float)):
            value = (value,)
        if not isinstance(value, (tuple, list)):
            fail(f"a tuple of {field.item.__name__}")
        if field.item is str:
            # On the command line "start,end" arrives as one text.
            value = [
                part for item in value for part in (item.replace(" ", "").split(",") if type(item) is str else [item])
            ]
        converted = tuple(scalar(item, field.item) for item in value)
    else:
        converted = scalar(value, type(field.default))
    numbers_there = converted if isinstance(converted, tuple) else (converted,)
    if any(isinstance(item, float) and not abs(item) < float("inf") for item in numbers_there):
        fail("finite numbers")
    if not field.check(converted):
        fail(field.wanted)
    return converted


def _check_together(config: ml_collections.ConfigDict) -> None:
    """What no field shows alone."""
    _check_network(config)
    chosen = sum(len(method.layers(config)) for method in methods.chosen(config))
    trainings = config.trials * (1 + chosen * len(config.fractions))
    if trainings > _MOST_TRAININGS:
        raise ConfigError(
            f"config.trials is {config.trials} and config.fractions has {len(config.fractions)} numbers: {trainings} trainings; "
            f"wanted at most {_MOST_TRAININGS}. Lower config.trials, or give fewer fractions."
        )
    if not (config.epochs or config.warmup_epochs) and config.warmup_steps > config.steps:
        raise ConfigError(
            f"config.warmup_steps is {config.warmup_steps}, more than config.steps, {config.steps}; "
            "lower warmup_steps or raise steps."
        )
    if not (config.epochs or config.warmup_epochs) and config.budget == "epochs":
        least = min(config.fractions)
        steps = max(1, round(config.steps * least))
        if config.warmup_steps > steps:
            raise ConfigError(
                f"config.warmup_steps is {config.warmup_steps}, but with config.budget 'epochs' a training on {least:g} of "
                f"the set lasts {steps} steps; lower warmup_steps, give warmup_epochs, which shrink with "
                "the subset, or set budget to 'steps'."
            )
    if config.epochs and config.warmup_epochs > config.epochs:
        raise ConfigError(
            f"config.warmup_epochs is {config.warmup_epochs}, more than config.epochs, {config.epochs}; "
            "lower warmup_epochs or raise epochs."
        )
    if "resized_crop" in config.augmentation and not config.image_size:
        raise ConfigError(
            f"config.augmentation is {config.augmentation!r}, but config.image_size is 0; set the side in pixels that "
            "crops are resized to, for example --config.image_size=224."
        )
    if config.bn_group_size and config.batch_size % config.bn_group_size:
        raise ConfigError(
            f"config.bn_group_size is {config.bn_group_size} and does not divide config.batch_size, "
            f"{config.batch_size}; choose a divisor, or 0 for the whole batch."
        )
    if config.micro_batch:
        if config.batch_size % config.micro_batch:
            raise ConfigError(
                f"config.micro_batch is {config.micro_batch} and does not divide config.batch_size, "
                f"{config.batch_size}; choose a divisor, or 0 for the whole batch."
            )
        if not config.bn_group_size or config.micro_batch % config.bn_group_size:
            raise ConfigError(
                f"config.micro_batch is {config.micro_batch} and config.bn_group_size {config.bn_group_size}; wanted "
                "whole BatchNorm groups: set bn_group_size to a divisor of micro_batch."
            )
    for name in ("mean", "std"):
        if len(config[name]) not in (1, 3):
            raise ConfigError(f"config.{name} has {len(config[name])} numbers; wanted: one for all channels or three.")


def _check_network(config: ml_collections.ConfigDict) -> None:
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


def resolve(given: Mapping[str, Any] | ml_collections.ConfigDict) -> ml_collections.FrozenConfigDict:
    """The complete, checked config: `given` over the defaults.

    Raises:
      ConfigError: an unknown field (with the nearest right name), a value of the wrong type or out of range.
    """
    config = defaults()
    for name in given:
        if name not in FIELDS:
            text = isinstance(name, str)
            near = nearest(name, FIELDS) if text else ""
            shown = name if text and name.isidentifier() else _shown(name)
            raise ConfigError(f"config.{shown} is not a field.{near} Fields: {', '.join(FIELDS)}.")
        try:
            value = given[name]
        # A placeholder that nobody filled in, or a reference that cannot be computed.
        except Exception as error:
            raise ConfigError(f"config.{name} has no value ({_shown(error)}); give it one.") from error
        with config.ignore_type():
            config[name] = _convert(name, FIELDS[name], value)
    _check_together(config)
    return ml_collections.FrozenConfigDict(config)


def need_dataset(config: Mapping[str, Any], what: str) -> None:
    """Raises ConfigError where the config has no data set; `what` needs one."""
    if not config["dataset"]:
        raise ConfigError(
            f"config.dataset is '': this config has no data set, and {what} needs one. With imported embeddings alone "
            "there are link, select and export; for the other stages give the config of the embeddings' data set, or "
            "--config.dataset."
        )


def to_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as JSON types (tuples become lists), fields in the order of FIELDS."""
    return json.loads(json.dumps({name: config[name] for name in FIELDS}))


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names of the fields whose values differ between two configs in JSON form, those missing in one included."""
    absent = object()
    return [name for name in sorted({*first, *second}) if first.get(name, absent) != second.get(name, absent)]


# An identity always has these fields. A field that was added later is left out at its default, so that the identity is the
# one of before. Nothing is ever added here.
_ALWAYS = {
    "dataset", "train_split", "test_split", "holdout", "image_size", "mean", "std", "augmentation", "pad", "crop_area",
    "crop_aspect", "eval_crop", "form", "depth", "widths", "dtype", "kernel_init", "classifier_init", "classifier_bias",
    "zero_init_residual", "bn_group_size", "bn_momentum", "batch_size", "lr_per_256", "micro_batch", "label_smoothing",
    "momentum", "nesterov", "l2", "seed",
}  # fmt: skip


def left_out() -> dict[str, Any]:
    """What an identity means by fields that it leaves out: their defaults."""
    default = to_json(defaults())
    of_trainings = [name for name, field in FIELDS.items() if Affects.IDENTITY in field.affects]
    return {f"config.{name}": default[name] for name in of_trainings if name not in _ALWAYS}


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's share of the identity of its trainings, in JSON form."""
    config, absent = to_json(config), left_out()
    fields = {f"config.{name}": config[name] for name, field in FIELDS.items() if Affects.IDENTITY in field.affects}
    return {name: value for name, value in fields.items() if name not in absent or value != absent[name]}
