"""The stage `embed`: every training image through the trained network, pooled layers into the sharded store."""

import numpy as np
from absl import logging

from redundancy.data import shared_dataset
from redundancy.embedding import store
from redundancy.errors import WorkdirError
from redundancy.progress import Progress
from redundancy.training.checkpoints import Checkpoints
from redundancy.training.loop import PRETRAIN_SEED
from redundancy.training.mesh import make_mesh
from redundancy.training.trainer import Trainer
from redundancy.workdir import Workdir, need_manifest, read_manifest


def embed(config, workdir: Workdir) -> None:
    """Writes embeddings/LAYER/ for every configured layer. Parts that are there already are kept."""
    layers = [layer for layer in config.layers if read_manifest(workdir.embeddings(layer), parts=list) is None]
    if not layers:
        logging.info("embed: finished already")
        return
    step = need_manifest(workdir.pretrain, "train", step=int)["step"]
    dataset = shared_dataset(config)
    workdir.claim_dataset(dataset.fingerprint)
    positions, labels = dataset.train.positions, dataset.train.labels
    parts = store.part_positions(positions, config.embedding_parts)
    identities = {
        layer: {"layer": layer, "checkpoint": f"pretrain/checkpoints/{step}", "fingerprint": dataset.fingerprint}
        for layer in layers
    }

    def done(index):
        return all(store.part_done(workdir.embeddings(layer), index, len(parts), identities[layer]) for layer in layers)

    missing = [index for index in range(len(parts)) if not done(index)]
    if missing:
        trainer = Trainer(config, dataset, make_mesh(config, num_trials=1))
        checkpoints = Checkpoints(workdir.pretrain)
        if step not in checkpoints.steps():
            raise WorkdirError(
                f'{checkpoints.folder}/{step} is missing. Delete {workdir.pretrain} and run "redundancy train" again.'
            )
        state = checkpoints.restore(step, trainer.init_state(PRETRAIN_SEED))
        checkpoints.close()
        total = sum(len(part) for part in parts)
        todo = sum(len(parts[index]) for index in missing)
        with Progress("embed " + ", ".join(layers), total, "images", done=total - todo) as progress:
            for index in missing:
                batches = []
                for batch in trainer.embed(state, parts[index]):
                    batches.append(batch)
                    progress.advance(len(batch["end"]))
                part_labels = labels[np.searchsorted(positions, parts[index])]
                for layer in layers:
                    rows = np.concatenate([batch[layer] for batch in batches])
                    store.write_part(
                        workdir.embeddings(layer),
                        index,
                        len(parts),
                        parts[index],
                        part_labels,
                        rows,
                        identities[layer],
                    )
    for layer in layers:
        store.finish(
            workdir.embeddings(layer), len(parts), identities[layer], dataset.class_names, dataset.train.num_stored
        )
