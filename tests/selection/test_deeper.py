"""Merges that are made deeper for a smaller fraction: subsets cut before stay, whenever the work was interrupted."""

import dataclasses
import functools

import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.selection import merges
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.workdir import read_manifest
from tests.selection.conftest import write_store


def _with(config, **fields):
    return config_lib.resolve({**config, **fields})


def files(workdir, *folders):
    names = [f"{folder}/{name}" for folder in folders for name in storage.listing.list_files(workdir.path(folder))]
    return {name: storage.read_bytes(workdir.path(name)) for name in names}


def test_merges_are_made_deeper_and_subsets_that_are_there_stay(synthetic):
    config, workdir = synthetic(fractions=(0.9,))
    link(config, workdir)
    select(config, workdir)
    before = files(workdir, "subsets")
    smaller = _with(config, fractions=(0.5,))
    with pytest.raises(WorkdirError, match=r'fractions \[0.9\], and 0.5 needs more merges. Run "redundancy link" with'):
        select(smaller, workdir)
    assert files(workdir, "subsets") == before
    link(smaller, workdir)
    once = synthetic("once", fractions=(0.5,))
    link(*once)
    assert files(workdir, "merges") == files(once[1], "merges")
    deeper = files(workdir, "merges")
    link(config, workdir)  # larger fractions need no other merges
    assert files(workdir, "merges") == deeper
    select(_with(config, fractions=(0.9, 0.5)), workdir)
    after = files(workdir, "subsets")
    del before["subsets/manifest.json"]
    assert after.items() >= before.items()
    both = synthetic("both", fractions=(0.9, 0.5))
    link(*both)
    select(*both)
    whole = files(both[1], "subsets")
    del after["subsets/manifest.json"], whole["subsets/manifest.json"]
    assert after == whole


@pytest.mark.parametrize("at", range(7))
def test_interrupted_at_any_file_it_goes_on(synthetic, monkeypatch, at):
    config, workdir = synthetic(fractions=(0.9,), methods=("semantic",))
    link(config, workdir)
    select(config, workdir)
    smaller, written = _with(config, fractions=(0.9, 0.5)), []

    def dies(original, *arguments):
        written.append(arguments)
        if len(written) > at:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        for module, name in ((storage, "write_parquet"), (merges, "write_manifest"), (storage, "remove")):
            patch.setattr(module, name, functools.partial(dies, getattr(module, name)))
        with pytest.raises(KeyboardInterrupt):
            link(smaller, workdir)
    link(smaller, workdir)
    select(smaller, workdir)
    once = synthetic("once", fractions=(0.9, 0.5), methods=("semantic",))
    link(*once)
    select(*once)
    assert files(workdir, "merges", "subsets").keys() == files(once[1], "merges", "subsets").keys()
    assert files(workdir, "merges") == files(once[1], "merges")


def test_merges_of_other_embeddings_are_no_deeper_ones(synthetic):
    config, workdir = synthetic(fractions=(0.9,))
    link(config, workdir)
    select(config, workdir)
    manifest = storage.join(workdir.merges("end"), "manifest.json")
    storage.write_json(manifest, {**read_manifest(workdir.merges("end")), "embeddings": "0" * 64})
    with pytest.raises(WorkdirError, match="subsets was made from other merges/end than the present ones"):
        select(_with(config, fractions=(0.95,)), workdir)
    storage.remove(workdir.embeddings("end"))
    write_store(workdir, "end", (30, 1, 12, 7), 5, 3, seed=8)
    with pytest.raises(WorkdirError, match="merges/end was made from other embeddings"):
        link(_with(config, fractions=(0.5,)), workdir)


def test_deeper_merges_must_begin_with_those_that_are_there(synthetic, monkeypatch):
    config, workdir = synthetic(fractions=(0.9,))
    link(config, workdir)
    before, read = files(workdir, "merges"), merges.read

    def others(*arguments):
        found = read(*arguments)
        return dataclasses.replace(found, merges=dataclasses.replace(found.merges, left=np.roll(found.merges.left, 1)))

    monkeypatch.setattr(merges, "read", others)
    with pytest.raises(DataError, match="the new merges of label 0 differ from those that are there"):
        link(_with(config, fractions=(0.5,)), workdir)
    assert files(workdir, "merges").items() >= before.items()
