"""Labelled image sets behind one interface: positions, labels, pixels by position, and streams of batches."""

from redundancy.data.dataset import Dataset, Split
from redundancy.data.sources import open_dataset, shared_dataset

__all__ = ["Dataset", "Split", "open_dataset", "shared_dataset"]
