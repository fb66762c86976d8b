"""CIFAR-100 as in the paper's section 4.1: the recipe of cifar10 on 100 classes.

    redundancy run --config cifar100 --workdir DIR --config.data_dir=TFDS_DIR

The paper finds no redundancy here, only a small advantage over random subsets. Assumed numbers, `:quick` and
`:smoke`: as in cifar10.
"""

from redundancy.config import load


def get_config(arg: str = ""):
    config = load(f"cifar10:{arg}")
    config.dataset = "cifar100"
    config.mean, config.std = (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)
    return config
