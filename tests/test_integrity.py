"""Every artifact of a finished workdir, damaged in many ways: a clear error, or the same results as without damage."""

import gc
import logging
import pathlib
import re
import shutil

import jax
import numpy as np
import pyarrow as pa
import pytest
from finished_run import finished, quick_programs, run_stages, small_config

from redundancy import storage
from redundancy.embedding import ids
from redundancy.export.command import Request, export
from redundancy.importing.stage import Request as Import
from redundancy.importing.stage import import_embeddings
from redundancy.linkage import batches
from redundancy.runtime.errors import DataError, UserError
from redundancy.selection import merges, tasks
from redundancy.selection.link import link
from redundancy.training.checkpoints import Checkpoints
from redundancy.workdir import STAGES, Workdir

PART, OTHER_PART = "part-00000-of-00002.parquet", "part-00001-of-00002.parquet"
ADVICE = r"[Dd]elete|[Rr]estore|[Bb]ring|[Uu]se these values|[Rr]un \"redundancy"
UP_TO_SWEEP = STAGES[:-1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits_npz):
    """A finished run, and the same with another seed: (config, Workdir) each. All is compiled by quick programs."""
    with quick_programs():
        yield [finished(tmp_path_factory.getbasetemp(), digits_npz, seed) for seed in (0, 1)]


@pytest.fixture
def copy(runs, tmp_path):
    """The first run's config and a copy of its workdir."""
    shutil.copytree(runs[0][1].root, tmp_path / "w")
    return runs[0][0], Workdir(str(tmp_path / "w"))


@pytest.fixture
def quiet_orbax():
    """Collects what Orbax leaves of failed reads here, and hides the warnings about it."""
    logger = logging.getLogger("asyncio")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    gc.collect()
    logger.setLevel(level)


def contents(workdir, *patterns):
    """Files that must be as in the unbroken run; by default subsets and results."""
    root = pathlib.Path(workdir.root)
    files = [path for pattern in patterns or ("subsets/*.parquet", "results.csv") for path in root.glob(pattern)]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def remove(workdir, *names):
    for name in names:
        storage.remove(workdir.path(name))


def replace(path, data):
    """Puts bytes, or a copy of another folder, in the place of a file or folder; None puts nothing there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if isinstance(data, pathlib.Path):
        shutil.copytree(data, path)
    elif data is not None:
        path.write_bytes(data)


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]


def flips(data, count, seed=0):
    """The data with one bit flipped, in the middle and at `count` other places."""
    places = np.random.default_rng(seed).choice(len(data), min(count, len(data)), replace=False)
    return [flipped(data, int(at)) for at in (len(data) // 2, *places)]


def error_of(function, *arguments):
    """The message of the UserError that a call raises; None if it succeeds."""
    try:
        function(*arguments)
    except UserError as error:
        return str(error)
    return None


def check_error(error, path):
    """The error names the file, its folder or the manifest there, and a way out."""
    assert str(path) in error or f"{path.parent}/manifest.json" in error or str(path.parent) in error, error
    assert re.search(ADVICE, error), error


# For each artifact, what is removed so that the artifact is read again.
READ_AGAIN = {
    "config.json": (),
    "pretrain/manifest.json": ("embeddings", "merges", "subsets"),
    f"embeddings/end/{PART}": ("merges", "subsets"),
    "embeddings/end/manifest.json": ("merges", "subsets"),
    "merges/end/part-00003-of-00010.parquet": ("subsets",),
    "merges/end/manifest.json": ("subsets",),
    "subsets/semantic-0.5000.parquet": (),
    "subsets/random-0.5000-trial0.parquet": (),
    "subsets/manifest.json": (),
    "runs/full-1.0000-trial0/run.json": (),
    "runs/semantic-0.5000-trial0/run.json": (),
    "runs/full-1.0000-trial0/result.json": ("runs/manifest.json", "results.csv"),
    "runs/semantic-0.5000-trial0/result.json": ("runs/manifest.json", "results.csv"),
    "runs/manifest.json": (),
    "results.csv": (),
}


@pytest.mark.parametrize("name", READ_AGAIN)
def test_a_damaged_file_is_named_or_made_again(copy, runs, name):
    config, workdir = copy
    path = pathlib.Path(workdir.root, name)
    whole, other = path.read_bytes(), pathlib.Path(runs[1][1].root, name).read_bytes()
    shapes = (b"{}", b"[]") if name.endswith("manifest.json") else ()
    for data in (*flips(whole, 6, len(name)), whole[: len(whole) // 2], b"", other, None, *shapes):
        remove(workdir, *READ_AGAIN[name])
        replace(path, data)
        error = error_of(run_stages, config, workdir, *UP_TO_SWEEP)
        if error is None:
            assert data not in shapes
            assert contents(workdir) == contents(runs[0][1])
        else:
            check_error(error, path)


@pytest.mark.parametrize(
    ("one", "other", "read_again"),
    [
        (f"embeddings/end/{PART}", f"embeddings/end/{OTHER_PART}", ("merges", "subsets")),
        ("merges/end/part-00000-of-00010.parquet", "merges/end/part-00001-of-00010.parquet", ("subsets",)),
        ("subsets/semantic-0.5000.parquet", "subsets/random-0.5000-trial0.parquet", ()),
        ("runs/full-1.0000-trial0/result.json", "runs/semantic-0.5000-trial0/result.json", ("runs/manifest.json",)),
        ("runs/random-0.5000-trial0/run.json", "runs/semantic-0.5000-trial0/run.json", ()),
    ],
)
def test_two_files_in_each_others_place(copy, one, other, read_again):
    config, workdir = copy
    first, second = (pathlib.Path(workdir.root, name) for name in (one, other))
    remove(workdir, *read_again)
    data = first.read_bytes()
    replace(first, second.read_bytes())
    replace(second, data)
    error = error_of(run_stages, config, workdir, *UP_TO_SWEEP)
    check_error(error, first if str(first) in error else second)


def follow(error, workdir):
    """Deletes what the error says to delete; where it says "it", the first file that it names."""
    paths = [found.rstrip(".,;:") for found in re.findall(rf"{re.escape(workdir.root)}/\S+", error)]
    advised = re.search(r"[Dd]elete (.*?)(?=(?:,? and| to) (?:run|make|train|give)|;|, or bring|$)", error)[1]
    chosen = [path for path in paths if path in advised] or paths[:1]
    for path in chosen:
        storage.remove(path)


@pytest.mark.parametrize(
    ("name", "read_again"),
    [
        ("pretrain/manifest.json", ("embeddings", "merges", "subsets")),
        ("pretrain/checkpoints/6", ("embeddings", "merges", "subsets")),
        (f"embeddings/end/{PART}", ("merges", "subsets")),
        ("merges/end/part-00003-of-00010.parquet", ("subsets",)),
        ("subsets/semantic-0.5000.parquet", ()),
        ("subsets/manifest.json", ()),
        ("runs/semantic-0.5000-trial0/run.json", ()),
        ("runs/semantic-0.5000-trial0/result.json", ("runs/manifest.json",)),
        ("runs/manifest.json", ()),
    ],
)
@pytest.mark.soak
def test_following_the_advice_gives_the_results_of_an_unbroken_run(copy, runs, quiet_orbax, name, read_again):
    config, workdir = copy
    path, other = pathlib.Path(workdir.root, name), pathlib.Path(runs[1][1].root, name)
    remove(workdir, *read_again)
    replace(path, other if other.is_dir() else path.read_bytes()[:-20])
    error = error_of(run_stages, config, workdir, *UP_TO_SWEEP)
    check_error(error, path)
    follow(error, workdir)
    run_stages(config, workdir, *UP_TO_SWEEP)
    assert contents(workdir) == contents(runs[0][1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Orbax's own event loop
@pytest.mark.soak
def test_a_damaged_checkpoint_is_named_or_read_as_it_was(copy, quiet_orbax):
    _, workdir = copy

    def state():
        opened = Checkpoints(workdir.pretrain)
        try:
            return None if 6 not in opened.steps() else opened.restore(6, like)
        finally:
            opened.close()

    opened = Checkpoints(workdir.pretrain)
    like = jax.tree.map(np.zeros_like, opened._manager.restore(6)["state"])
    opened.close()
    whole, errors = jax.tree.leaves(state()), []
    files = [path for path in pathlib.Path(workdir.pretrain, "checkpoints/6").rglob("*") if path.is_file()]
    for path in sorted(files):
        data = path.read_bytes()
        for damaged in (*flips(data, 3), data[: len(data) // 2], None):
            replace(path, damaged)
            found = []
            error = error_of(lambda found=found: found.append(state()))
            if error is not None:
                errors.append(error)
            elif found[0] is not None:
                assert all(map(np.array_equal, jax.tree.leaves(found[0]), whole)), path
            replace(path, data)
    assert len(errors) > len(files)
    for error in errors:
        check_error(error, pathlib.Path(workdir.pretrain, "checkpoints/6"))


def test_embeddings_of_another_run_are_made_again(copy, runs):
    config, workdir = copy
    whole = contents(workdir, "embeddings/end/*")
    remove(workdir, "merges", "subsets", "embeddings/end/manifest.json")
    theirs = pathlib.Path(runs[1][1].embeddings("end"), PART).read_bytes()
    replace(pathlib.Path(workdir.embeddings("end"), PART), theirs)
    replace(pathlib.Path(workdir.embeddings("end"), OTHER_PART), flips(whole[f"embeddings/end/{OTHER_PART}"], 0)[0])
    run_stages(config, workdir, *UP_TO_SWEEP)
    assert contents(workdir, "embeddings/end/*") == whole
    assert contents(workdir) == contents(runs[0][1])


@pytest.mark.parametrize("name", ["embeddings/end", "merges/end", "subsets"])
@pytest.mark.parametrize("swept", [False, True])
def test_a_folder_of_another_run_is_refused(copy, runs, name, swept):
    config, workdir = copy
    later = {"embeddings/end": ("merges", "subsets"), "merges/end": ("subsets",), "subsets": ()}[name]
    remove(workdir, *later, *(() if swept else ("runs", "results.csv", "report")))
    folder = pathlib.Path(workdir.root, name)
    replace(folder, pathlib.Path(runs[1][1].root, name))
    error = error_of(run_stages, config, workdir, *UP_TO_SWEEP)
    check_error(error, folder / "manifest.json")


def test_classes_that_are_damaged_while_linking_are_linked_again(copy, monkeypatch):
    config, workdir = copy
    folder, whole = workdir.merges("end"), contents(workdir, "merges/end/*")
    remove(workdir, "merges", "subsets")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(batches, "TOGETHER", 0)
    with monkeypatch.context() as patch:
        patch.setattr(merges, "pack", killed)
        with pytest.raises(KeyboardInterrupt):
            link(config, workdir)
    files = sorted(pathlib.Path(merges.scratch(folder)).iterdir())
    assert len(files) == 10
    for number, path in enumerate(files[:6]):
        replace(path, flips(path.read_bytes(), 1, number)[1])
    replace(files[6], files[7].read_bytes())
    replace(files[7], files[8].read_bytes()[:50])
    link(config, workdir)
    assert contents(workdir, "merges/end/*") == whole


def test_a_worker_does_not_read_embeddings_that_were_exchanged_meanwhile(copy, runs):
    _, workdir = copy
    folder, theirs = workdir.embeddings("end"), pathlib.Path(runs[1][1].embeddings("end"))
    manifest = storage.join(folder, "manifest.json")

    def task(label):
        return tasks.ClassTask(folder, storage.sha256(manifest), workdir.path("elsewhere"), (label,), (10,), (2,))

    replace(pathlib.Path(folder, PART), (theirs / PART).read_bytes())
    with pytest.raises(DataError, match=rf"{PART} is not the file that the manifest names.*Delete .*{PART}"):
        tasks.link_class(task(0))
    begun = task(1)
    for name in (PART, OTHER_PART, "manifest.json"):
        replace(pathlib.Path(folder, name), (theirs / name).read_bytes())
    with pytest.raises(DataError, match=rf"{manifest} has changed since the stage began"):
        tasks.link_class(begun)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A workdir of imported embeddings with ids, linked and selected."""
    root = tmp_path_factory.mktemp("imported")
    np.save(root / "E.npy", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    np.save(root / "Y.npy", np.arange(60) % 2)
    (root / "I.txt").write_text("".join(f"image {row}\n" for row in range(60)))
    config, workdir = small_config(""), Workdir(str(root / "w"))
    import_embeddings(Import(str(root / "E.npy"), str(root / "Y.npy"), ids=str(root / "I.txt")), workdir)
    run_stages(config, workdir, "link", "select")
    return workdir


@pytest.mark.parametrize(
    "name",
    [
        "subsets/manifest.json",
        "subsets/semantic-0.5000.parquet",
        "embeddings/end/manifest.json",
        "embeddings/end/ids.parquet",
        "embeddings/end/ids.json",
    ],
)
def test_an_export_is_right_or_an_error(imported, tmp_path, name):
    shutil.copytree(imported.root, tmp_path / "w")
    workdir, output, path = Workdir(str(tmp_path / "w")), tmp_path / "kept.txt", tmp_path / "w" / name
    request = Request(0.5, "txt", str(output))
    export(request, workdir)
    right, whole = output.read_bytes(), path.read_bytes()
    assert right.startswith(b"image ")
    for data in (*flips(whole, 30), whole[:-30], b"", None):
        replace(path, data)
        output.unlink(missing_ok=True)
        error = error_of(export, request, workdir)
        if error is None:
            assert output.read_bytes() == right
        else:
            assert not output.exists()
            check_error(error, path)


def test_ids_of_another_import_of_the_same_embeddings_are_an_error(imported, tmp_path):
    shutil.copytree(imported.root, tmp_path / "w")
    workdir = Workdir(str(tmp_path / "w"))
    folder = workdir.embeddings("end")
    content = storage.read_json(storage.join(folder, "manifest.json"))["checkpoint"]["sha256"]
    theirs = str(tmp_path / "theirs")
    ids.write(theirs, np.arange(60), pa.array([f"photo {row}" for row in range(60)]), content)
    replace(pathlib.Path(ids.path(folder)), pathlib.Path(ids.path(theirs)).read_bytes())
    with pytest.raises(DataError, match=r"ids\.parquet holds other ids than .*ids\.json"):
        export(Request(0.5, "txt", str(tmp_path / "kept.txt")), workdir)
