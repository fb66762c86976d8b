"""Exact complete linkage of one class: arrays in, merges and groups out. Knows nothing of files, processes and progress bars."""
