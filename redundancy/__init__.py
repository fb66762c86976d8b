"""Finds the images a labelled data set does not need, and shows what leaving them out costs."""

__version__ = "0.1.0"
