"""Whether what is left to do fits on the disk and in memory, estimated before any work. Compiles and writes nothing."""

from redundancy.estimates.check import check as check
