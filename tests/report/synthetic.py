"""A workdir as the sweep leaves it, without training: pixels as embeddings, real groups, made-up accuracies."""

import csv
import io

import numpy as np

from redundancy import config as config_lib
from redundancy import storage
from redundancy.data import open_dataset
from redundancy.embedding import ids, write
from redundancy.experiment import results
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.selection.subset import Subset, write_subset
from redundancy.workdir import Workdir, read_manifest, subset_name, table, write_manifest

TEST_SIZE = 360
NETWORK = "0" * 64  # checksum of the network that the embeddings are said to be of


def noise_images(count: int, shape=(8, 8, 1), classes: int = 2, seed: int = 0):
    """uint8 [count, H, W, C] near a few prototypes of each class, and int64 labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    prototypes = rng.integers(0, 256, (classes, max(1, count // classes // 3), *shape))
    chosen = prototypes[labels, rng.integers(0, prototypes.shape[1], count)]
    return np.clip(chosen + rng.normal(0, 12, chosen.shape), 0, 255).astype(np.uint8), labels


def pixels(images):
    """Images uint8 [n, H, W, C] as vectors float32 [n, H * W * C]."""
    return images.reshape(len(images), -1).astype(np.float32) / 255 + 0.01


def _write_embeddings(workdir, layer, dataset, embed):
    embeddings = embed(dataset.read("train", dataset.train.positions))
    identity = {"layer": layer, "checkpoint": "none", "network": NETWORK, "fingerprint": dataset.fingerprint}
    folder = workdir.embeddings(layer)
    write.write_part(folder, 0, 1, dataset.train.positions, dataset.train.labels, embeddings, identity)
    if (names := dataset.file_names("train", dataset.train.positions)) is not None:
        ids.write(folder, dataset.train.positions, ids.of_files(names), ids.tie(identity))
    write.finish(folder, 1, identity, dataset.class_names, dataset.train.num_stored)


def _write_results(workdir, config, full_size):
    """results.csv of the config's table; accuracy falls as images go, a little less for semantic."""
    rng = np.random.default_rng(0)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, results.COLUMNS, lineterminator="\n")
    writer.writeheader()
    by_trial = rng.normal(0, 0.003, config.trials)
    for run in table.runs(config):
        cost = {"full": 0.0, "semantic": 0.04}.get(run.method, 0.07) * (1 - run.fraction)
        correct = round(TEST_SIZE * min(1.0, 0.972 - cost + by_trial[run.trial] + rng.normal(0, 0.002)))
        values = dict.fromkeys(results.COLUMNS, 0)
        values |= dict(
            run=run.name, method=run.method, layer=run.layer, fraction=config_lib.fraction_name(run.fraction)
        )
        values |= dict(size=max(1, round(run.fraction * full_size)), trial=run.trial, steps=run.steps)
        values |= dict(test_accuracy=correct / TEST_SIZE, test_correct=correct, test_size=TEST_SIZE)
        writer.writerow(values)
    storage.write_text(workdir.results, buffer.getvalue())


def _write_subsets(workdir, config, dataset, group):
    """The same groups, kept image first, at every fraction, without clustering."""
    positions, kept = dataset.train.positions, np.zeros(len(group), bool)
    kept[np.unique(group, return_index=True)[1]] = True
    metadata = dict(method="semantic", layer="end", rule=config.rule, num_stored=len(group), size=int(kept.sum()))
    metadata |= dict(fingerprint=dataset.fingerprint)
    files = []
    for fraction in config.fractions:
        subset = Subset(
            positions, dataset.train.labels, group, kept, np.where(kept, 0, 0.1), {**metadata, "fraction": fraction}
        )
        path = workdir.subset(subset_name("semantic", fraction))
        shown = {"method": "semantic", "layer": "end", "fraction": fraction, "trial": None}
        files.append({"file": path.rsplit("/", 1)[-1], "sha256": write_subset(path, subset), **shown})
    write_manifest(workdir.subsets, {"inputs": {}, "files": files})


def make_workdir(root, images, labels, class_names=None, workdir_root=None, group=None, embed=pixels, **fields):
    """Makes a workdir (default: root/work) for images uint8 [n, H, W, C] and labels int [n].

    Groups come from the stages link and select on what `embed` makes of the images, or are the given ones, int [n].

    Returns:
      its config and itself.
    """
    names = {} if class_names is None else {"class_names": np.array(class_names)}
    data = str(root / "images.npz")
    test = slice(0, min(len(images), 2000))
    np.savez(
        data, train_images=images, train_labels=labels, test_images=images[test], test_labels=labels[test], **names
    )
    config = config_lib.resolve({"dataset": data, "trials": 3, "fractions": (0.9, 0.6), **fields})
    workdir = Workdir(workdir_root or str(root / "work"))
    workdir.claim(config)
    dataset = open_dataset(config)
    workdir.claim_dataset(dataset.fingerprint)
    for layer in config.layers:
        _write_embeddings(workdir, layer, dataset, embed)
    if group is None:
        link(config, workdir)
        select(config, workdir)
    else:
        _write_subsets(workdir, config, dataset, group)
    _write_results(workdir, config, len(images))
    write_manifest(workdir.runs, {"results_sha256": storage.sha256(workdir.results)})
    return config, workdir


def unfinish(config, workdir):
    """Gives the runs of results.csv folders of their own, and takes the sweep's manifest away."""
    files = read_manifest(workdir.subsets)["files"]
    sha256 = {entry["file"].removesuffix(".parquet"): entry["sha256"] for entry in files}
    rows = {row["run"]: row for row in csv.DictReader(io.StringIO(storage.read_bytes(workdir.results).decode()))}
    for run in table.runs(config):
        row, claim = rows[run.name], {"method": run.method, "subset_sha256": run.subset and sha256[run.subset]}
        storage.write_json(f"{workdir.run(run.name)}/run.json", claim)
        numbers = dict(test_accuracy=float(row["test_accuracy"]), test_size=int(row["test_size"]))
        storage.write_json(workdir.result(run.name), {"images": int(row["size"]), **numbers})
    storage.remove(storage.join(workdir.runs, "manifest.json"))
    storage.remove(workdir.results)
