"""Estimates the device memory of a training before anything is compiled, to check whether a pack fits."""

import math

import jax
import jax.numpy as jnp

from redundancy.models.flops import once
from redundancy.runtime import machine
from redundancy.runtime.errors import ConfigError
from redundancy.runtime.sizes import binary
from redundancy.training.programs import Programs

_SHARE = 0.9  # share of a device's memory that a plan may use
# XLA keeps only part of the values that autodiff saves for the backward pass, and recomputes the rest: it keeps a half to
# two thirds of ResNet-32's on CPU, a fifth of ResNet-101's on TPU (from compiled programs). The estimate errs on the low side.
_KEPT = {"cpu": 0.5}
_KEPT_ELSEWHERE = 0.2
_COPIES = 4  # arrays as large as the parameters: old parameters, new parameters, momentum and gradient


def num_bytes(tree) -> int:
    """Total bytes of the arrays, or shapes of arrays, in a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@once
def _activations(model, images: int, image_shape: tuple[int, int, int], dtype: str) -> int:
    """Bytes that the forward pass of that many images saves for the backward pass."""
    x = jax.ShapeDtypeStruct((images, *image_shape), jnp.dtype(dtype))
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)

    def residuals(params, batch_stats, x):
        def logits(params):
            (out, _), _ = model.apply(
                {"params": params, "batch_stats": batch_stats}, x, train=True, mutable=["batch_stats"]
            )
            return out

        return jax.vjp(logits, params)[1]

    return num_bytes(jax.eval_shape(residuals, variables["params"], variables["batch_stats"], x))


def device_memory(device) -> int:
    """Available bytes of one device; for a CPU device, its share of the machine's available memory."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return machine.available_memory() // jax.local_device_count()


def estimate(programs: Programs, pack: int, num_images: int) -> dict[str, int]:
    """Bytes on each device while a pack trains.

    Args:
      programs: programs of the training.
      pack: trials, a multiple of the mesh's trial axis.
      num_images: images of both splits on the device; 0 for a streamed set.

    Returns:
      bytes of images, state and activations. Their sum is a rough estimate: compilers need more memory in some places and
      less in others.
    """
    config, mesh = programs.config, programs.mesh
    here = pack // mesh.shape["trial"]
    share = -(-config.batch_size // mesh.shape["data"])
    state = jax.eval_shape(programs.init, jax.ShapeDtypeStruct((), jnp.uint32))
    beside = num_bytes(state["batch_stats"]) + num_bytes(state.get("tally", {}))
    at_once = here if programs.vmap else 1
    together = share if programs.unroll else min(share, config.micro_batch or share)
    model = programs.model.clone(bn_group_size=0)  # a share of a batch need not be a multiple of the group size
    kept = _KEPT.get(mesh.devices.flat[0].platform, _KEPT_ELSEWHERE)
    pixels = math.prod(programs.image_shape)
    streamed = 0 if programs.resident else 3 * here * programs.block * share * pixels
    return {
        "images": num_images * pixels + streamed,
        "state": here * (_COPIES * num_bytes(state["params"]) + beside),
        "activations": int(kept * at_once * _activations(model, together, programs.image_shape, config.dtype)),
    }


def check_fits(programs: Programs, pack: int, num_images: int) -> None:
    """Raises ConfigError if a pack does not fit in the devices' memory; `num_images` as for `estimate`."""
    wanted = estimate(programs, pack, num_images)
    device = programs.mesh.local_devices[0]
    have = device_memory(device)
    if sum(wanted.values()) <= _SHARE * have:
        return

    parts = [f"{name} {binary(size, 2)}" for name, size in wanted.items()]
    ways = ["lower config.batch_size or config.widths", "use more devices"]
    if not programs.unroll:
        ways.insert(0, "set config.micro_batch, or lower it")
    if pack > programs.mesh.shape["trial"]:
        ways.insert(0, f"lower config.pack, which is {programs.config.pack}")
    if programs.resident and wanted["images"] > 0.3 * have:
        ways.insert(0, "stream the images with --config.resident_mb=0")
    raise ConfigError(
        f"a pack of {pack} trials with batch_size {programs.config.batch_size} needs about {binary(sum(wanted.values()), 2)} "
        f"on each {device.device_kind} ({', '.join(parts)}), which has {binary(have, 2)}: {'; '.join(ways)}."
    )
