"""Training: packs of trials on a mesh ("trial", "data"), checkpoints, metrics."""
