"""Training: packs of trials on a mesh ("trial", "data"), checkpoints, metrics."""

from redundancy.runtime import machine

# Works only before JAX starts its threads, hence here. On hosts with an accelerator many threads decode images, which is
# faster without it.
if not machine.has_accelerator():
    machine.keep_freed_memory()
