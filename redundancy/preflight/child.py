"""The process that compiles for a slice with libtpu: reads a request, writes the result. compile.py starts it.

It is a separate process, since libtpu's settings must be in the environment before JAX starts, and must not stay there.
"""

import json
import math
import re
import sys

import jax
from jax.experimental import topologies

from redundancy import config as config_lib
from redundancy.preflight import hlo
from redundancy.preflight.generations import parse_topology
from redundancy.training.mesh import make_mesh
from redundancy.training.programs import Programs


def _devices(name: str) -> list:
    topology = parse_topology(name)
    options = {"chip_config_name": topology.generation.chip_config} if topology.generation.chip_config else {}
    return topologies.get_topology_desc(name, platform="tpu", **options).devices


def _bytes(tree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _crosses_trials(collective: hlo.Collective, trials: int, data: int) -> bool:
    if not collective.groups:
        return trials > 1
    return any(len({device // data for device in group}) > 1 for group in collective.groups)


def _facts(compiled, trials: int, data: int, turns: int) -> dict:
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    used = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return {
        "hbm_used": used,
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
    """Facts about one program with `images` for each chip and step; or how much too much memory it needs.

    XLA counts a loop's body once, so its FLOPs and bytes are multiplied by the loop's `turns`: the micro-batches.
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
    """Compiles the programs that `request` names; see compile.run.

    Args:
      request: compile.Request as JSON.
      network: a module with the interface of models.ResNet, instead of the config's.
    """
    config = config_lib.resolve(request["config"])
    mesh = make_mesh(config, request["trials"], _devices(request["topology"]))
    trials, data = mesh.shape["trial"], mesh.shape["data"]
    programs = Programs(config, tuple(request["image"]), request["classes"], mesh, request["resident"])
    programs.model = network or programs.model
    state = programs.train_arguments(trials, 1, request["images"])[0]
    found = {
        "mesh": [trials, data],
        "parameter_bytes": _bytes(state["params"]) // trials,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state["params"])) // trials,
        "programs": {},
    }
    set_bytes = request["images"] * (math.prod(request["image"]) + 4) if request["resident"] else 0
    with jax.set_mesh(mesh):
        for name in request["programs"]:
            if name == "train":
                arguments = programs.train_arguments(trials, 1, request["images"])
                images, fixed = config.batch_size // data, _bytes(state) // trials + set_bytes
                turns = images // config.micro_batch if config.micro_batch else 1
                found["programs"][name] = _compile(programs.train, arguments, images, fixed, trials, data, turns)
            else:
                arguments = programs.embed_arguments(request["images"])
                images, fixed = programs.eval_batch_size // data, found["parameter_bytes"] + set_bytes
                found["programs"][name] = _compile(programs.embed, arguments, images, fixed, trials, data)
    return found


def main(network=None) -> None:
    """Reads the request from the file of the first argument, writes the result to that of the second."""
    with open(sys.argv[1]) as file:
        request = json.load(file)
    result = find(request, network)
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
