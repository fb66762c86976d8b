"""The child process, started by compile.py, that compiles for a slice with libtpu, or for a GPU with XLA's plugin.

A separate process is necessary because libtpu's settings must be in the environment before JAX starts, and must not remain.
"""

import json
import math
import re
import sys
from collections import Counter

import jax
from jax.experimental import topologies

from redundancy import config as config_lib
from redundancy.models.flops import multiply_adds
from redundancy.preflight import gpus, hlo
from redundancy.preflight.generations import parse_topology
from redundancy.training.mesh import make_mesh
from redundancy.training.programs import Programs


def _devices(name: str) -> list:
    topology = parse_topology(name)
    if topology.gpu:
        return [gpus.device(topology.gpu)]
    options = {"chip_config_name": topology.generation.chip_config} if topology.generation.chip_config else {}
    return topologies.get_topology_desc(name, platform="tpu", **options).devices


def _bytes(tree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _crosses_trials(collective: hlo.Collective, trials: int, data: int) -> bool:
    if not collective.groups:
        return trials > 1
    return any(len({device // data for device in group}) > 1 for group in collective.groups)


def _used(memory) -> int:
    """Bytes that a program uses on a device."""
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )


def _gpu_facts(compiled, gpu: gpus.Gpu, flops: float, stored: float, turns: int) -> dict:
    """Facts about a program for a GPU, whose compiler does not count FLOPs.

    Args:
      stored: bytes of the resident set.
      turns: iterations of the program's loop, whose kernels its text contains only once.
    """
    memory, kernels = compiled.memory_analysis(), hlo.kernels(compiled.as_text(), stored)
    used = _used(memory)
    seconds, small = gpus.step_seconds(kernels, gpu)
    kinds = Counter(each.kind for each in kernels)
    return {
        "fits": used <= gpu.hbm_bytes,
        **({} if used <= gpu.hbm_bytes else {"needed": used, "message": "more than the memory"}),
        "hbm_used": used,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "flops": flops,
        "bytes_accessed": turns * sum(each.bytes for each in kernels),
        "collectives": [],
        "kernels": turns * len(kernels),
        "kinds": {kind: turns * count for kind, count in kinds.most_common()},
        "estimate_s": turns * seconds,
        "launch_share": small / seconds if seconds else 0.0,
    }


def _facts(compiled, trials: int, data: int, turns: int) -> dict:
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return {
        "hbm_used": _used(memory),
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "flops": cost["flops"] * turns,
        "bytes_accessed": cost["bytes accessed"] * turns,
        "collectives": [
            {
                "kind": found.kind,
                "bytes": found.bytes,
                "devices": max((len(group) for group in found.groups), default=trials * data),
                "crosses_trials": _crosses_trials(found, trials, data),
                "op_name": found.op_name,
            }
            for found in hlo.collectives(compiled.as_text())
        ],
    }


def _compile(program, arguments, images: int, fixed: int, trials: int, data: int, turns: int = 1) -> dict:
    """Facts about one program with `images` per chip and step; or the memory that it needs, if it does not fit.

    XLA counts the body of a loop once, so its FLOPs and bytes are multiplied by `turns`, the number of micro-batches.
    """
    facts = {"images_per_chip": images, "fixed": fixed}
    try:
        compiled = program.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        sizes = [float(size) * 1024 ** " KMGT".index(unit) for size, unit in re.findall(r"([\d.]+)([KMGT])\b", text)]
        return {**facts, "fits": False, "needed": max(sizes, default=0.0), "message": text.splitlines()[0]}
    return {**facts, "fits": True, **_facts(compiled, trials, data, turns)}


def find(request: dict, network=None) -> dict:
    """Compiles the programs that `request` names, see compile.run.

    Args:
      request: compile.Request as JSON.
      network: a module with the interface of models.ResNet, to use instead of the config's.
    """
    config = config_lib.resolve(request["config"])
    gpu, pack = parse_topology(request["topology"]).gpu, request["trials"]
    mesh = make_mesh(config, 1 if gpu else pack, _devices(request["topology"]))
    trials, data = mesh.shape["trial"], mesh.shape["data"]
    pack = pack if gpu else trials
    batched = gpu is not None and pack > 1 and config.pack_mode != "loop"
    programs = Programs(config, tuple(request["image"]), request["classes"], mesh, request["resident"], vmap=batched)
    programs.model = network or programs.model
    state = programs.train_arguments(pack, 1, request["images"])[0]
    found = {
        "mesh": [trials, data],
        "parameter_bytes": _bytes(state["params"]) // pack,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state["params"])) // pack,
        "programs": {},
    }
    pixels = request["images"] * math.prod(request["image"]) if request["resident"] else 0
    set_bytes = pixels + 4 * request["images"] if request["resident"] else 0
    with jax.set_mesh(mesh):
        for name in request["programs"]:
            if name == "train":
                program, arguments = programs.train, programs.train_arguments(pack, 1, request["images"])
                images, fixed = config.batch_size // data, _bytes(state) // trials + set_bytes
                turns = images // config.micro_batch if config.micro_batch else 1
                images, passes = pack * images // trials, 3
            else:
                program, arguments = programs.embed, programs.embed_arguments(request["images"])
                images, fixed = programs.eval_batch_size // data, found["parameter_bytes"] + set_bytes
                turns, passes = 1, 1
            if gpu:
                flops = 2 * passes * images * multiply_adds(programs.model, tuple(request["image"]))
                made = program.lower(*arguments).compile()
                turns *= 1 if batched or name != "train" else pack
                facts = {"images_per_chip": images, "fixed": fixed, **_gpu_facts(made, gpu, flops, pixels, turns)}
            else:
                facts = _compile(program, arguments, images, fixed, trials, data, turns)
            found["programs"][name] = facts
    return found


def main(network=None) -> None:
    """Reads the request from the file named by the first argument, writes the result to that named by the second."""
    with open(sys.argv[1]) as file:
        request = json.load(file)
    result = find(request, network)
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
