"""How a process runs: on one machine or several, until it is preempted; its errors and what it may use."""
