"""Training: packs of trials on a mesh ("trial", "data"), checkpoints, metrics."""

from redundancy.runtime import machine

# Works only before JAX starts its threads, and so here. Where there is an accelerator, the host's memory is for decoding
# images in many threads, which does better without.
if not machine.has_accelerator():
    machine.keep_freed_memory()
