"""CIFAR-100 as in the paper's section 4.1: the recipe of configs/cifar10.py on 100 classes.

    redundancy run --config configs/cifar100.py --workdir DIR --config.data_dir=TFDS_DIR

The paper finds no redundancy here, only a small advantage over random subsets. Assumed numbers, `:quick` and
`:smoke`: as in configs/cifar10.py.
"""

import pathlib
import runpy

_CIFAR10 = runpy.run_path(str(pathlib.Path(__file__).with_name("cifar10.py")))


def get_config(arg: str = ""):
    config = _CIFAR10["get_config"](arg)
    config.dataset = "cifar100"
    config.mean, config.std = (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)
    return config
