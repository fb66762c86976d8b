"""Training: packs of trials on a mesh ("trial", "data"), checkpoints, metrics."""

from redundancy.runtime import machine

# Must run before JAX starts its threads, hence here. Not done with an accelerator: there many threads decode images, which is
# faster without it.
if not machine.has_accelerator():
    machine.keep_freed_memory()
