"""Paths as people give them, and processes without some of the standard streams. Every call is a process of its own."""

import shlex
import subprocess
import sys

import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy.cli import main
from redundancy.importing.stage import Request, import_embeddings
from redundancy.runtime.errors import ConfigError
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.workdir import Workdir
from tests.conftest import REPO
from tests.failing import fails


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir with the subset 0.9 of imported embeddings."""
    folder = tmp_path_factory.mktemp("finished")
    np.save(folder / "e.npy", np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    np.save(folder / "y.npy", np.repeat([0, 1], 20))
    config = config_lib.resolve({"dataset": "", "fractions": (0.9,)})
    workdir = Workdir(str(folder / "w"))
    import_embeddings(Request(str(folder / "e.npy"), str(folder / "y.npy")), workdir, None)
    workdir.claim(config)
    link(config, workdir)
    select(config, workdir)
    return workdir.root


PATHS = {
    "status": ("workdir",),
    "browse": ("workdir",),
    "import": ("workdir", "embeddings", "labels", "ids", "class-names"),
    "export": ("workdir", "output"),
    "link": ("workdir", "config.dataset", "config.data_dir"),
    "report": ("compare", "output"),
}


@pytest.mark.parametrize(("command", "flag"), [(command, flag) for command, flags in PATHS.items() for flag in flags])
def test_a_path_with_one_slash_after_its_scheme(redundancy, tmp_path, command, flag):
    given = {
        "workdir": tmp_path / "w",
        "embeddings": "e.npy",
        "fraction": 0.9,
        "format": "txt",
        "output": tmp_path / "o",
    }
    of = {
        "import": ("workdir", "embeddings"),
        "export": tuple(given)[:1] + tuple(given)[2:],
        "link": ("workdir",),
        "report": (),
    }
    flags = {name: given[name] for name in of.get(command, ("workdir",))} | {flag: "gs:/bucket/x"}
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    if command == "link":
        arguments.insert(0, "--config=configs/embeddings.py")
    elif command == "report":
        arguments = ["--compare", "gs:/bucket/x", "b"] if flag == "compare" else ["--compare", "a", "b", *arguments]
    fails(redundancy(command, *arguments), f"{flag}=gs:/bucket/x: a URL has two slashes", "gs://bucket/x", code=2)
    assert not any(tmp_path.iterdir())


@pytest.mark.soak
def test_the_home_folder_in_every_path(child_env, command_server, tmp_path):
    """Runs in a folder of its own, in which no folder ~ may appear."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    env = {**child_env, "HOME": str(home)}
    rng = np.random.default_rng(0)
    np.save(home / "e.npy", rng.normal(size=(40, 3)).astype(np.float32))
    np.save(home / "y.npy", np.repeat([0, 1], 20))
    (home / "ids.txt").write_text("".join(f"image {number}\n" for number in range(40)))
    (home / "names.txt").write_text("ape\nbee\n")

    def run(*arguments):
        done, _ = command_server.run(arguments, env=env, seconds=300, cwd=str(here))
        assert done.returncode == 0, done.stderr

    config = f"--config={REPO}/configs/embeddings.py"
    run(
        "import",
        "--workdir=~/w",
        "--embeddings=~/e.npy",
        "--labels=~/y.npy",
        "--ids=~/ids.txt",
        "--class-names=~/names.txt",
    )
    for stage in ("link", "select"):
        run(stage, config, "--workdir", "~/w")
    run("status", "--workdir=~/w")
    run("export", "--workdir=~/w", "--fraction=0.9", "--format=txt", "--output=~/kept.txt")
    assert (home / "kept.txt").read_text().startswith("image ")
    assert not any(here.iterdir())


ALL = "<&- >&- 2>&-"


@pytest.mark.parametrize(
    ("command", "closed"),
    [*(("export", closed) for closed in ("<&-", ">&-", "2>&-", ALL)), ("status", ALL), ("--help", ">&-")],
)
def test_closed_standard_streams(child_env, finished, tmp_path, command, closed):
    arguments = {
        "status": f"status --workdir {finished}",
        "export": f"export --workdir {finished} --fraction 0.9 --format txt --output {tmp_path}/kept.txt",
        "--help": "--help",
    }[command]
    line = f"{shlex.quote(sys.executable)} -m redundancy {arguments} {closed}"
    done = subprocess.run(["bash", "-c", line], env=child_env, capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    if command == "export":
        assert (tmp_path / "kept.txt").read_text().splitlines()[0] == "0"


def test_a_reader_that_goes_and_a_full_disk(child_env):
    help_all = f"{shlex.quote(sys.executable)} -m redundancy --helpfull"
    for line, code in ((f"{help_all} | true; exit ${{PIPESTATUS[0]}}", 141), (f"{help_all} > /dev/full", 1)):
        done = subprocess.run(["bash", "-c", line], env=child_env, capture_output=True, text=True, cwd=REPO)
        assert "Traceback" not in done.stderr
        assert done.returncode in (code, 0 if code == 141 else code), (
            done.stderr
        )  # 0: all was written before the reader went
    assert "No space left on device" in done.stderr


def test_a_workdir_among_the_images_and_a_flag_given_twice(redundancy, tmp_path):
    (tmp_path / "set" / "ape").mkdir(parents=True)
    fails(
        redundancy("train", f"--config=folder:{tmp_path}/set:smoke", f"--workdir={tmp_path}/set/w"),
        "lies in the data set's folder", code=2,
    )  # fmt: skip
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["ape"]
    twice = ("import", f"--workdir={tmp_path}/w", "--embeddings=a.npy", "--embeddings", "b.npy")
    fails(redundancy(*twice), "--embeddings is given twice", "quoted pattern", code=2)


def test_an_npz_file_is_not_replaced(tmp_path, child_env):
    path = tmp_path / "keep.npz"
    path.write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "redundancy.data.to_npz", "digits", str(path)], env=child_env, capture_output=True, text=True,
        cwd=REPO,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert path.read_text() == "mine"


def test_workdirs_that_only_seem_to_lie_among_the_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    for dataset, workdir in (("cifar10", "cifar10/w"), (".", "gs://bucket/w"), (".", "file:///elsewhere/w"), ("", "w")):
        main.check_apart(dataset, workdir)
    with pytest.raises(ConfigError, match="lies in the data set's folder"):
        main.check_apart("./cifar10", "cifar10/w")


def test_debug_shows_where_a_file_is_missing(child_env, tmp_path):
    line = [sys.executable, "-m", "redundancy", "import", f"--workdir={tmp_path}/f/w", "--embeddings=e.npy", "--debug"]
    (tmp_path / "f").write_text("no folder")
    done = subprocess.run(line, env=child_env, capture_output=True, text=True, cwd=REPO)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "standard output" not in done.stderr
