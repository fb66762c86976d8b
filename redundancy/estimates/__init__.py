"""Estimates, before any work, whether the remaining work fits on the disk and in memory. Compiles and writes nothing."""

from redundancy.estimates.check import check as check
