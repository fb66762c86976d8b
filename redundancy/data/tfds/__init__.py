"""Data sets of TensorFlow Datasets: found, prepared, and read through tf.data."""
