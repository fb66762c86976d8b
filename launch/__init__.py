"""Starts runs on Cloud TPU slices from a config file, and restarts them after every preemption: `python -m launch --help`."""
