"""From a config file to a running Cloud TPU slice, and back after every preemption: `python -m launch --help`."""
