"""The environment of a process: runs of one or several processes, preemption, errors, available cores, memory and devices."""
