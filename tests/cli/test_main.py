"""The command line: its help, and its errors for mistakes. Every call is a separate process."""

import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from redundancy.cli import main
from redundancy.config import FIELDS, resolve
from redundancy.linkage import complete
from redundancy.methods.counts import class_counts
from redundancy.methods.semantic import semantic_subset
from redundancy.workdir import STAGES, Workdir
from tests.failing import fails

DIGITS = "--config=configs/digits.py:smoke"


def test_help_explains_the_way_through(redundancy):
    for flag in ("--help", "-h", "help"):
        done = redundancy(flag)
        assert done.returncode == 0
        assert all(f"\n  {stage} " in done.stdout for stage in (*STAGES, "run", "import", "export"))
        assert "--config digits " in done.stdout
        assert "--scheduler" in done.stdout
    for command, words in (("import", ("--columns", "--class-names", "--parts")), ("export", ("--dropped", "tfds"))):
        done = redundancy(command, "--help")
        assert done.returncode == 0
        assert done.stdout.startswith(f"redundancy {command}: ")
        assert all(word in done.stdout for word in words)


def test_full_help_lists_every_field(redundancy):
    done = redundancy("--helpfull")
    assert done.returncode == 0
    assert all(f"\n  {name} = " in done.stdout for name in FIELDS)


def test_mistakes_in_the_command_line(redundancy, tmp_path):
    workdir = f"--workdir={tmp_path / 'w'}"
    assert redundancy().returncode == 2
    fails(redundancy("trian", DIGITS, workdir), '"train"', code=2)
    fails(redundancy("train", workdir), "--config is missing", code=2)
    fails(redundancy("train", DIGITS), "--workdir is missing", code=2)
    unknown = redundancy("train", "--config=configs/digitz.py", workdir)
    fails(unknown, "no file configs/digitz.py", code=2)
    assert unknown.stderr.count("--config=") == 1  # absl's words are not before it
    fails(redundancy("train", DIGITS, workdir, "--config.stepz=3"), 'Did you mean "steps"?', code=2)
    fails(redundancy("train", DIGITS, workdir, "--config.steps=many"), "config.steps", "many", code=2)
    fails(redundancy("train", DIGITS, workdir, "--config.steps=0"), "config.steps is 0", code=2)
    fails(redundancy("train", "--config=configs/digits.py:smok", workdir), '"smoke"', code=2)
    fails(redundancy("train", DIGITS, workdir, "--workdirr=x"), "workdirr", code=2)
    fails(redundancy("train", DIGITS, workdir, "--config.fractions=90%"), "config.fractions", "For 90 %: 0.9", code=2)
    fails(redundancy("train", DIGITS, workdir, "--config.report_fraction=90%"), "For 90 %: 0.9", code=2)
    assert not (tmp_path / "w").exists()


def test_a_class_that_the_data_set_lacks_stops_a_run_before_it_trains(redundancy, tmp_path):
    done = redundancy("run", "--config=digits:smoke", f"--workdir={tmp_path}/w", "--config.report_classes=7,10")
    said = (
        "config.report_classes names '10', which is no class of the data set.",
        "Wanted: a number, or names out of 0, 1",
    )
    fails(done, *said, code=2)
    assert not (tmp_path / "w" / "pretrain").exists()


def test_a_platform_that_jax_lacks_is_no_bug(child_env):
    code = (
        "import jax\nfrom redundancy.cli.explain import verdict\n"
        "try:\n    jax.devices()\nexcept RuntimeError as error:\n    print(verdict(error)[1])"
    )
    env = {**child_env, "JAX_PLATFORMS": "gpux"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "JAX_PLATFORMS is 'gpux'; wanted cpu" in done.stdout, done.stderr
    assert "a bug" not in done.stdout


def test_a_pattern_without_quotes(redundancy, tmp_path):
    parts = [str(tmp_path / f"part-{number}.npy") for number in range(3)]
    for part in parts:
        np.save(part, np.ones((4, 2), np.float32))
    command = ("import", f"--workdir={tmp_path / 'w'}", "--embeddings")
    fails(redundancy(*command, *parts), "part-1.npy and 1 more stands without a flag", "quote the pattern", code=2)
    fails(
        redundancy(*command, *parts[:2], "--parts=1"), "part-1.npy stands without a flag", "quote the pattern", code=2
    )
    fails(redundancy("export", f"--workdir={tmp_path}", *parts), "part-0.npy and 2 more", "quote the pattern", code=2)
    fails(redundancy("link", "select"), "wanted one stage, got ['link', 'select']", code=2)


def test_flags_of_other_commands_and_those_missing(redundancy, tmp_path):
    workdir = f"--workdir={tmp_path / 'w'}"
    fails(redundancy("imprt", workdir), 'Did you mean "import"?', code=2)
    fails(redundancy("import", workdir), "--embeddings is missing", "redundancy import --workdir DIR", code=2)
    fails(redundancy("import", "--embeddings=E.npy"), "--workdir is missing", code=2)
    fails(redundancy("import", workdir, "--embeddings=E.npy", "--fraction=1"), "--fraction is a flag of export", code=2)
    fails(redundancy("import", workdir, "--embeddings=E.npy", "--parts=0"), "--parts=0", code=2)
    fails(redundancy("import", workdir, f"--embeddings={tmp_path}/E.npy"), "E.npy: there is no such file", code=2)
    export = ("export", workdir, "--fraction=0.9", "--format=npy", f"--output={tmp_path}/out")
    fails(redundancy(*export[:-1]), "--output is missing", code=2)
    fails(redundancy("status", workdir, DIGITS), "status needs none", code=2)
    fails(redundancy(*export, "--class-names=x"), "--class-names is a flag of import, not of export", code=2)
    fails(redundancy(*export, "--trial=first"), "--trial=first", code=2)
    fails(redundancy(*export, "--fraction=90%"), "--fraction is '90%'; wanted", "For 90 %: 0.9", code=2)
    fails(redundancy(*export, "--format=json"), "npy|txt|csv|parquet|folder|tfds", code=2)
    fails(redundancy(*export), "redundancy select", code=1)
    fails(redundancy("select", DIGITS, workdir, "--scheduler=local"), "a flag of link and run", code=2)
    fails(redundancy("run", DIGITS, workdir, "--scheduler=tpc://x"), "--scheduler=tpc://x", "tcp://HOST:PORT", code=2)
    np.save(tmp_path / "E.npy", np.ones((4, 2), np.float32))
    np.save(tmp_path / "Y.npy", np.zeros(4, int))
    files = (f"--embeddings={tmp_path}/E.npy", f"--labels={tmp_path}/Y.npy")
    fails(redundancy("import", workdir, *files, "--config=configs/embeddings.py"), "no data set", code=2)
    assert not (tmp_path / "w").exists()


def test_a_config_without_data_set_is_for_link_and_select(redundancy, tmp_path):
    for stage in ("train", "sweep", "run"):
        done = redundancy(stage, "--config=configs/embeddings.py", f"--workdir={tmp_path}/w")
        fails(done, "this config has no data set", f"{stage} needs one", code=2)
    fails(
        redundancy("link", "--config=configs/embeddings.py", f"--workdir={tmp_path}/w"),
        'or "redundancy import"',
        code=1,
    )


def test_from_embeddings_to_what_is_kept(redundancy, tmp_path):
    rng = np.random.default_rng(0)
    embeddings, labels = rng.normal(size=(120, 6)).astype(np.float32), rng.permutation(np.arange(120) % 3)
    np.save(tmp_path / "E.npy", embeddings)
    np.save(tmp_path / "Y.npy", labels)
    (tmp_path / "I.txt").write_text("".join(f"img/{row}.jpg\n" for row in range(120)))

    def command(line):
        words = line.replace("W", str(tmp_path / "w")).replace("FILE", str(tmp_path / "kept")).split()
        done = redundancy(*(str(tmp_path / word) if word in ("E.npy", "Y.npy", "I.txt") else word for word in words))
        assert done.returncode == 0, done.stderr
        return done

    command("import --workdir W --embeddings E.npy --labels Y.npy --ids I.txt")
    command("link --config configs/embeddings.py --workdir W")
    command("select --config configs/embeddings.py --workdir W --config.fractions=(0.9,0.5)")
    for form, ids in (("npy", "position"), ("txt", "auto"), ("parquet", "auto")):
        command(f"export --workdir W --fraction 0.9 --format {form} --image-ids {ids} --output FILE.{form}")
    counts = class_counts(np.bincount(labels), 0.9)
    expected = []
    for label, count in counts.items():
        rows = np.flatnonzero(labels == label)
        tree = complete.complete_linkage(embeddings[rows], len(rows) - count)
        kept, _, _ = semantic_subset(tree, embeddings[rows], count, "cosine_raw_mean")
        expected += rows[kept].tolist()
    kept = np.load(tmp_path / "kept.npy")
    assert kept.tolist() == sorted(expected)
    assert (tmp_path / "kept.txt").read_text().splitlines() == [f"img/{row}.jpg" for row in kept]
    assert pq.read_table(tmp_path / "kept.parquet")["position"].to_pylist() == kept.tolist()
    # More fractions later; a smaller one than the links are for is an error.
    command("select --config configs/embeddings.py --workdir W")
    assert {path.name for path in (tmp_path / "w" / "subsets").iterdir()} == {
        "manifest.json",
        *(f"semantic-{fraction:.4f}.parquet" for fraction in (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)),
    }
    refused = ("export", f"--workdir={tmp_path}/w", "--fraction=0.9", "--format=tfds", f"--output={tmp_path}/kept.tfds")
    fails(redundancy(*refused), "is not one of TFDS", code=1)
    smaller = ("select", "--config=configs/embeddings.py", f"--workdir={tmp_path}/w", "--config.fractions=0.3")
    fails(redundancy(*smaller), "0.3 needs more merges", code=1)
    command("import --workdir W --embeddings E.npy --labels Y.npy")
    np.save(tmp_path / "Y.npy", labels[::-1])
    again = ("import", f"--workdir={tmp_path}/w", f"--embeddings={tmp_path}/E.npy", f"--labels={tmp_path}/Y.npy")
    fails(redundancy(*again), "overwrites nothing", code=1)


def test_a_broken_config_file_is_named(redundancy, tmp_path):
    (tmp_path / "broken.py").write_text("def get_config(arg=''):\n    return 1 / 0\n")
    (tmp_path / "number.py").write_text("def get_config(arg=''):\n    return 3\n")
    fails(redundancy("train", f"--config={tmp_path}/broken.py", f"--workdir={tmp_path}/w"), "ZeroDivisionError")
    fails(redundancy("train", f"--config={tmp_path}/number.py", f"--workdir={tmp_path}/w"), "ConfigDict")


def test_debug_shows_the_trace(redundancy, tmp_path):
    done = redundancy("train", DIGITS, f"--workdir={tmp_path}/w", "--config.depth=9", "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


@pytest.mark.soak
def test_a_stage_before_its_turn_names_the_one_to_run(redundancy, tmp_path, digits_npz):
    flags = (DIGITS, f"--config.dataset={digits_npz}", f"--workdir={tmp_path}/w")
    fails(redundancy("embed", *flags), 'run "redundancy train"', code=1)
    fails(redundancy("link", *flags), 'run "redundancy embed"')
    fails(redundancy("select", *flags), "run")
    fails(redundancy("sweep", *flags), 'run "redundancy select"')
    fails(redundancy("report", *flags), "run")


@pytest.mark.soak
def test_another_config_in_the_same_workdir(redundancy, tmp_path, digits_npz):
    flags = (DIGITS, f"--config.dataset={digits_npz}", f"--workdir={tmp_path}/w")
    fails(redundancy("embed", *flags), "redundancy train")
    (tmp_path / "w" / "pretrain").mkdir()
    fails(
        redundancy("embed", *flags, "--config.lr_per_256=7"),
        "lr_per_256: 0.4 there, 7.0 here",
        "another --workdir",
        code=1,
    )
    # Nothing depends on the number of trials yet.
    fails(redundancy("embed", *flags, "--config.trials=7"), 'run "redundancy train"', code=1)


def test_an_unwritable_workdir(redundancy, tmp_path, digits_npz):
    (tmp_path / "file").write_text("not a folder")
    flags = (DIGITS, f"--config.dataset={digits_npz}")
    fails(redundancy("train", *flags, f"--workdir={tmp_path}/file/w"), "Not a directory", "--workdir")
    fails(redundancy("train", *flags, "--workdir=/proc/none"), "/proc/none")


@pytest.mark.soak
def test_a_full_disk_is_an_error_of_one_line_and_the_run_continues(redundancy, tmp_path, digits_npz):
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("size=1200k"):
        pytest.skip("mounting a small disk needs root")
    try:
        flags = (DIGITS, f"--config.dataset={digits_npz}", "--config.widths=(16,32,64)", f"--workdir={disk}/w")
        fails(redundancy("train", *flags), "checkpoints", "no space left", "Free some space", code=1)
        assert not (disk / "w" / "pretrain" / "manifest.json").exists()
        assert mount("remount", "size=4m")
        done = redundancy("train", *flags)
        assert done.returncode == 0, done.stderr
        # Room for the first files of the next stage, not for 674 embeddings of 64 numbers.
        assert mount("remount", f"size={shutil.disk_usage(disk).used // 1024 + 160}k")
        fails(redundancy("embed", *flags), "part-00000-of-00002.parquet", "No space left on device", code=1)
        assert not list((disk / "w").rglob("*.tmp"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.soak
def test_run_until_a_stage(redundancy, tmp_path, digits_npz):
    command = ("run", DIGITS, f"--config.dataset={digits_npz}", f"--workdir={tmp_path / 'w'}")
    done = redundancy(*command, "--until=embed")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "w").iterdir() if not path.name.startswith(".")) == [
        "config.json",
        "embeddings",
        "pretrain",
    ]
    assert "report:" not in done.stdout
    wrong = redundancy(*command, "--until=nowhere")
    assert wrong.returncode == 2
    assert "until" in wrong.stderr
    assert redundancy("train", *command[1:], "--until=embed").returncode == 2


def test_the_command_that_a_run_ends_with_names_a_subset_that_there_is():
    for fields, wanted in (
        ({"fractions": (0.5, 1 / 30), "report_fraction": 1 / 30}, "--fraction=0.0333 --method=semantic --format"),
        ({"fractions": (1.0, 0.5)}, "--fraction=0.5 "),
        ({"layers": ("start", "middle")}, "--method=semantic --layer=middle "),
        ({"methods": ("random",)}, "--method=random --trial=0 "),
    ):
        assert wanted in main.export_command(Workdir("/w"), resolve(fields))
