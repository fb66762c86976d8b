"""The unfinished stages of a config, and the sizes that estimates need. Reads only manifests and shapes."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from redundancy import methods
from redundancy.data import Dataset
from redundancy.workdir import Workdir, read_manifest, table

if TYPE_CHECKING:  # a command that only links and selects does not import the training code
    from redundancy.training.programs import Programs


@dataclasses.dataclass(frozen=True)
class Network:
    """The network that is trained, and the sizes of its state and its forward pass.

    Attributes:
      programs: programs of each stage that trains or embeds.
      pack: trials that each of these stages trains at once.
      resident: images that each device holds.
      state: bytes of one trial's state.
      inference: bytes of the part of the state that a forward pass needs.
      largest: bytes of the largest output of a layer, for one image.
    """

    programs: Mapping[str, "Programs"]
    pack: Mapping[str, int]
    resident: int
    state: int
    inference: int
    largest: int


@dataclasses.dataclass(frozen=True)
class Work:
    """The unfinished stages, and the data and network that they work on.

    Attributes:
      config: resolved config.
      workdir: workdir of the config.
      todo: stages that are not finished, in order.
      counts: number of images of each label.
      dimensions: layer -> length of its embeddings, if known.
      dataset: None if no stage opens it.
      network: None if no stage trains or embeds.
    """

    config: Any
    workdir: Workdir
    todo: tuple[str, ...]
    counts: dict[int, int]
    dimensions: dict[str, int]
    dataset: Dataset | None
    network: Network | None

    @property
    def images(self) -> int:
        return sum(self.counts.values())

    @property
    def layers(self) -> list[str]:
        """Layers whose dimension is known."""
        return [layer for layer in self.config.layers if layer in self.dimensions]


def _network(config, dataset: Dataset, todo: tuple[str, ...]) -> tuple[Network, dict[str, int]]:
    """The network, and the length of each pooled layer. Initialises JAX's devices."""
    import jax
    import jax.numpy as jnp

    from redundancy.training.feed import resident_images
    from redundancy.training.memory import num_bytes
    from redundancy.training.mesh import make_mesh, pack_size
    from redundancy.training.packing import candidates
    from redundancy.training.programs import Programs

    num_images, shape, classes = len(dataset.train.positions), dataset.image_shape, len(dataset.class_names)
    table.check(config, num_images)
    num_runs, mesh = len(table.runs(config, num_images)), make_mesh(config, num_trials=1)
    single = Programs(config, shape, classes, mesh, dataset.resident)
    programs = {stage: single for stage in ("train", "embed") if stage in todo}
    pack = {stage: pack_size(config, mesh, 1) for stage in programs}
    if "score" in todo:
        mesh = make_mesh(config, num_trials=config.score_trials)
        smallest = candidates(config, mesh, config.score_trials)[0]
        stored = dataset.train.num_stored
        programs["score"] = Programs(config, shape, classes, mesh, dataset.resident, smallest.vmap, stored)
        pack["score"] = smallest.pack
    if "sweep" in todo:
        mesh = make_mesh(config, num_trials=num_runs)
        smallest = candidates(config, mesh, num_runs)[0]  # the sweep takes it if no larger one fits
        programs["sweep"] = Programs(config, shape, classes, mesh, dataset.resident, smallest.vmap)
        pack["sweep"] = smallest.pack
    state = jax.eval_shape(single.init, jax.ShapeDtypeStruct((), jnp.uint32))
    variables = {"params": state["params"], "batch_stats": state["batch_stats"]}
    (_, layers), inside = jax.eval_shape(
        lambda v, x: single.model.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"]),
        variables,
        jax.ShapeDtypeStruct((1, *shape), jnp.dtype(config.dtype)),
    )
    largest = max(map(num_bytes, jax.tree.leaves(inside)))
    network = Network(programs, pack, resident_images(dataset), num_bytes(state), num_bytes(variables), largest)
    return network, {name: layer.shape[1] for name, layer in layers.items()}


def work_of(config, workdir: Workdir, dataset: Dataset | None, todo: tuple[str, ...]) -> Work | None:
    """The work to do; None if neither a data set nor embeddings give its size (the stage then reports what is missing)."""
    todo = tuple(stage for stage in todo if stage != "score" or methods.scores(config))
    found = {
        layer: read_manifest(workdir.embeddings(layer), dimension=int, class_counts=dict) for layer in config.layers
    }
    manifests = {layer: manifest for layer, manifest in found.items() if manifest is not None}
    if dataset is not None:
        counts = dict(enumerate(np.bincount(dataset.train.labels).tolist()))
    elif manifests:
        counts = {int(label): n for label, n in next(iter(manifests.values()))["class_counts"].items()}
    else:
        return None
    trains = dataset is not None and {"train", "embed", "score", "sweep"} & {*todo}
    network, dimensions = _network(config, dataset, todo) if trains else (None, {})
    dimensions |= {layer: manifest["dimension"] for layer, manifest in manifests.items()}
    return Work(config, workdir, todo, {label: n for label, n in counts.items() if n}, dimensions, dataset, network)
