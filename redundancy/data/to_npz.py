"""Writes a data set as an .npz file, for machines without TensorFlow.

python -m redundancy.data.to_npz cifar10 cifar10.npz --data_dir TFDS_DIR
"""

import argparse
import io
import sys

import numpy as np

from redundancy import storage
from redundancy.config import resolve
from redundancy.data.sources import open_dataset
from redundancy.runtime.errors import ConfigError, UserError
from redundancy.runtime.paths import given_path


def to_npz(config, path: str) -> None:
    """Writes both splits of the data set that a resolved config names, decoded (and resized), to `path`."""
    if storage.exists(path):
        raise ConfigError(f"{path} is there already; give the path of a new file.")
    dataset = open_dataset(config)
    arrays = {"class_names": np.array(dataset.class_names)}
    for split in (dataset.train, dataset.test):
        arrays[f"{split.name}_images"] = dataset.read(split.name, split.positions)
        arrays[f"{split.name}_labels"] = split.labels
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    storage.write_bytes(path, buffer.getvalue())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="as config.dataset")
    parser.add_argument("path", help="the .npz file to write")
    for name in ("data_dir", "train_split", "test_split"):
        parser.add_argument(f"--{name}", help=f"as config.{name}")
    parser.add_argument("--image_size", type=int, help="as config.image_size")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    path = given.pop("path")
    try:
        to_npz(resolve(given), given_path("path", path))
    except UserError as error:
        print(f"to_npz: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
