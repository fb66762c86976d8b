"""The command `preflight`: prints memory and cost of a config's programs on a TPU slice or a GPU."""

import dataclasses
import json

from absl import logging

from redundancy.config import need_dataset
from redundancy.preflight import compile as compile_lib
from redundancy.preflight import report
from redundancy.preflight.generations import parse_topology
from redundancy.preflight.shapes import shapes
from redundancy.runtime.errors import UserError


class DoesNotFitError(UserError):
    """A program needs more memory than a chip has."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """The command's flags.

    Attributes:
      topology: slice or GPU, such as v5e:16x16 or h100.
      image_size, classes: side of images and number of classes, to use instead of those of the config and the data set.
      trials: number of simultaneous trainings; 1 as in the stage train.
      json: whether to print JSON instead of text.
    """

    topology: str
    image_size: int | None = None
    classes: int | None = None
    trials: int = 1
    json: bool = False


def preflight(given: Flags, config) -> None:
    """Compiles the config's training and embedding step for the slice and prints facts for each chip.

    Raises:
      ConfigError: a flag is wrong, or does not suit the config.
      CompileError: the compiler is missing, or the compilation failed.
      DoesNotFitError: a program needs too much memory; raised after the facts are printed.
    """
    topology = parse_topology(given.topology)
    need_dataset(config, "preflight")
    request = compile_lib.Request(config, topology, shapes(config, given.image_size, given.classes), given.trials)
    compile_lib.check(request)
    compile_lib.need_compiler(topology)
    logging.info("preflight: compiling for %s, some minutes for a deep network", topology.name)
    result = report.summary(request, compile_lib.run(request))
    print(json.dumps(result, indent=1) if given.json else report.text(result))
    if problem := report.problem(result):
        raise DoesNotFitError(problem)
