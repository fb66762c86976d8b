"""Compiles a config for a TPU slice on a machine without TPUs, and reports memory, times and collectives."""
