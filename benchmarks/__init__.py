"""Measurements beside named peers; each prints its ratio to them. See benchmarks/README.md."""
