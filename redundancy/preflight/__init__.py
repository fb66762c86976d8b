"""What a TPU slice would do with a config, found out by compiling for it on a machine that has none."""
