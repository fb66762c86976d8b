"""Your own embeddings, clustered without opening a data set or training a network.

    redundancy import --workdir DIR --embeddings E.npy --labels Y.npy
    redundancy link   --config embeddings --workdir DIR
    redundancy select --config embeddings --workdir DIR
    redundancy export --workdir DIR --fraction 0.9 --format npy --output kept.npy

Makes one semantic subset for each fraction; the smallest fraction decides how far `link` goes. To train on the subsets,
import with the --config of the data set, and give that config to the stages.
"""

from redundancy.config import check_variant, defaults


def get_config(arg: str = ""):
    check_variant(arg, ())
    config = defaults()
    config.dataset = ""
    config.methods = ("semantic",)
    config.fractions = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
    return config
