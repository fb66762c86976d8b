"""Embeddings of your own, clustered without any training: no data set is opened, no network trained.

    redundancy import --workdir DIR --embeddings E.npy --labels Y.npy
    redundancy link   --config configs/embeddings.py --workdir DIR
    redundancy select --config configs/embeddings.py --workdir DIR
    redundancy export --workdir DIR --fraction 0.9 --format npy --output kept.npy

One semantic subset of each fraction; the smallest fraction says how far down `link` goes. To train on the subsets,
import with the --config of the data set and give that one to the stages.
"""

from redundancy.config import check_variant, defaults


def get_config(arg: str = ""):
    check_variant(arg, ())
    config = defaults()
    config.dataset = ""
    config.methods = ("semantic",)
    config.fractions = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
    return config
