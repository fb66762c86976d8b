"""The inputs of the stages link and select: opens embeddings and merges, and checks that they belong together."""

from collections.abc import Mapping, Sequence
from typing import Any

from redundancy import storage
from redundancy.embedding.store import EmbeddingStore
from redundancy.runtime.errors import WorkdirError
from redundancy.workdir import Workdir, finished, read_manifest


def manifest_sha256(folder: str) -> str | None:
    path = storage.join(folder, "manifest.json")
    return storage.sha256(path) if storage.exists(path) else None


def open_store(workdir: Workdir, layer: str) -> EmbeddingStore:
    """Opens a layer's store; raises WorkdirError if it is of another data set, DataError if its labels are not the set's."""
    store = EmbeddingStore(workdir.embeddings(layer))
    if store.layer != layer:
        raise WorkdirError(
            f"{store.folder} holds embeddings of the layer {store.layer!r}; wanted {layer!r}, as the folder's name says. "
            "Bring the right files back, or make them again."
        )
    network, trained = store.manifest.get("network"), (read_manifest(workdir.pretrain) or {}).get("network")
    if None not in (network, trained) and network != trained:
        raise WorkdirError(
            f"{store.folder}/manifest.json: these embeddings were made by another network ({network[:12]}…) than the one in "
            f'{workdir.pretrain} ({trained[:12]}…). Delete {store.folder} and run "redundancy embed" again, or bring the right '
            "files back."
        )
    dataset = workdir.dataset_fingerprint()
    if dataset is not None:
        where = storage.join(store.folder, "manifest.json")
        workdir.check_fingerprint(store.manifest["fingerprint"] or {}, dataset, where)
        store.check_labels(dataset)
    return store


def check_embeddings(folder: str, manifest: Mapping[str, Any], embeddings: str | None) -> None:
    """Raises WorkdirError if finished merges were made from other embeddings than the present ones (None: unknown)."""
    if embeddings is not None and manifest["embeddings"] != embeddings:
        raise WorkdirError(
            f"{folder} was made from other embeddings (their manifest's SHA-256 was {manifest['embeddings'][:12]}…, "
            f'now it is {embeddings[:12]}…). Delete {folder} and run "redundancy link" again.'
        )


def check_depth(folder: str, manifest: Mapping[str, Any], fractions: Sequence[float]) -> None:
    """Raises WorkdirError if finished merges are too few for some of the fractions."""
    if finished.too_shallow(manifest, fractions):
        raise WorkdirError(
            f"{folder} was linked for fractions {manifest['fractions']}, and {min(fractions)} needs more merges. "
            'Run "redundancy link" with these --config.fractions first: it deepens them.'
        )


def are_those(workdir: Workdir, layer: str, recorded: Mapping[str, Any]) -> bool:
    """Whether subsets were cut from the finished merges of a layer, or from shallower ones of the same embeddings.

    Args:
      recorded: the field `inputs` in the manifest of the subsets.
    """
    folder = workdir.merges(layer)
    if recorded.get(f"merges/{layer}") in (None, manifest_sha256(folder)):
        return True
    manifest, embeddings = read_manifest(folder, embeddings=str), recorded.get(f"embeddings/{layer}")
    return embeddings is not None and (manifest or {}).get("embeddings") == embeddings
