"""The stage `embed`: runs every training image through the trained network and stores the pooled layers."""

import jax
import numpy as np
from absl import logging

from redundancy.data import shared_dataset
from redundancy.embedding import ids, write
from redundancy.runtime import processes
from redundancy.runtime.errors import WorkdirError
from redundancy.runtime.progress import Progress
from redundancy.training.checkpoints import Checkpoints
from redundancy.training.loop import PRETRAIN_SEED, Job, identity
from redundancy.training.mesh import make_mesh
from redundancy.training.trainer import Trainer
from redundancy.workdir import Workdir, need_manifest, read_manifest
from redundancy.workdir.table import full_schedule


def embed(config, workdir: Workdir) -> None:
    """Writes embeddings/LAYER/ for every configured layer. Existing parts are kept.

    If there are several processes, each makes its own parts on its own devices, and process 0 writes the manifests.

    Raises:
      WorkdirError: the stage train has not finished, or its checkpoint is missing, damaged or belongs to another config.
    """
    layers = [layer for layer in config.layers if read_manifest(workdir.embeddings(layer), parts=list) is None]
    if not layers:
        logging.info("embed: finished already")
        return
    trained = need_manifest(workdir.pretrain, "train", step=int)
    step, dataset = trained["step"], shared_dataset(config)
    workdir.claim_dataset(dataset.fingerprint, dataset.skipped)
    if isinstance(trained.get("fingerprint"), dict):
        workdir.check_fingerprint(trained["fingerprint"], dataset.fingerprint, f"{workdir.pretrain}/manifest.json")
    positions, labels = dataset.train.positions, dataset.train.labels
    parts = write.part_positions(positions, config.embedding_parts)
    # The checkpoint has the same name in every run, so the network is identified by its checksum.
    made_by = {"checkpoint": f"pretrain/checkpoints/{step}", "network": trained.get("network")}
    identities = {layer: {"layer": layer, **made_by, "fingerprint": dataset.fingerprint} for layer in layers}

    def done(index):
        return all(write.part_done(workdir.embeddings(layer), index, len(parts), identities[layer]) for layer in layers)

    def extract():
        own = range(processes.index(), len(parts), processes.count())
        missing = [index for index in own if not done(index)]
        if not missing:
            return
        # Uses only this process's devices, so that no process waits for another.
        trainer = Trainer(config, dataset, make_mesh(config, num_trials=1, devices=jax.local_devices()))
        checkpoints = Checkpoints(workdir.pretrain)
        if step not in checkpoints.steps():
            raise WorkdirError(
                f'{checkpoints.folder}/{step} is missing. Delete {workdir.pretrain} and run "redundancy train" again.'
            )
        job = Job("pretrain", workdir.pretrain, positions, PRETRAIN_SEED)
        of = identity(config, job, full_schedule(config, len(positions)))
        state = checkpoints.restore(step, trainer.init_state(PRETRAIN_SEED), of)
        checkpoints.close()
        total = sum(len(parts[index]) for index in own)
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
                    folder = workdir.embeddings(layer)
                    write.write_part(folder, index, len(parts), parts[index], part_labels, rows, identities[layer])

    def finish():
        names = dataset.file_names("train", positions)
        for layer in layers:
            folder = workdir.embeddings(layer)
            if names is not None:
                ids.write(folder, positions, ids.of_files(names), ids.tie(identities[layer]))
            write.finish(folder, len(parts), identities[layer], dataset.class_names, dataset.train.num_stored)

    processes.together(extract)
    processes.first(finish)
