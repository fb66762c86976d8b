"""One run on several processes, as on several hosts: its results, and how it ends if a process is stopped or lost."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from redundancy.scoring import files
from redundancy.workdir import Workdir
from tests.ports import free_port
from tests.tiers import soaked
from tests.waiting import ending, wait_until

# Convolutions of XLA, whose compilations the processes share.
XLA = ("--config=configs/digits.py:smoke", "--config.formulation=xla")
SMOKE = (*XLA, "--config.steps=8")
# One training on all devices: many short steps, few lines.
LONG = (*XLA, "--config.steps=200", "--config.warmup_steps=20", "--config.log_every=20", "--config.checkpoint_every=25")
HEARTBEAT_S = 6


@contextlib.contextmanager
def started(count, arguments, repo, environment, folder, extra=()):
    """The command on `count` processes, `extra` being flags of all but the first; killed at the end if they still run."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    children = []
    with ending(children):
        for index in range(count):
            own = extra if index else ()
            command = [
                *(sys.executable, "-m", "redundancy"),
                *(
                    str(flag)
                    for flag in arguments
                    if not any(flag.partition("=")[0] == mine.partition("=")[0] for mine in own)
                ),
                *(f"--coordinator=127.0.0.1:{port}", f"--num-processes={count}", f"--process-id={index}"),
                *(f"--heartbeat-s={HEARTBEAT_S}", *own),
            ]
            with (folder / f"{index}.log").open("w") as log:
                children.append(subprocess.Popen(command, cwd=repo, env=environment, stdout=log, stderr=log))
        yield children


def ended(children, folder, timeout=300):
    """Exit codes and logs."""
    codes = [child.wait(timeout=timeout) for child in children]
    return codes, [(folder / f"{index}.log").read_text(errors="replace") for index in range(len(children))]


def wait_for(path, children, folder):
    wait_until(lambda: path.exists() or any(child.poll() is not None for child in children), f"no {path}", 300)
    assert path.exists(), ended(children, folder)


def curve(workdir):
    lines = [json.loads(line) for line in (workdir / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["accuracy"], line["learning_rate"]) for line in lines]


def outcome(workdir):
    files = [*(workdir / "subsets").glob("*.parquet"), *(workdir / "merges").rglob("*"), workdir / "results.csv"]
    return {str(path.relative_to(workdir)): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize("count", soaked(4))
def test_several_processes_make_what_one_makes(count, redundancy, digits_npz, repo, child_env, tmp_path):
    few = ("--config.embedding_parts=4", "--config.fractions=0.5", "--config.trials=1")
    arguments = ("run", *SMOKE, f"--config.dataset={digits_npz}", *few)
    alone = redundancy(*arguments, f"--workdir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    with started(count, [*arguments, f"--workdir={tmp_path}/w"], repo, child_env, tmp_path / "logs") as children:
        codes, logs = ended(children, tmp_path / "logs")
    assert codes == [0] * count, logs
    # Each embeds its own parts of the images, and links its own classes; the first alone writes what all share.
    for log in logs:
        assert re.search(r"embed end: (336|337|673|674)/\d+ images", log), log
        assert "link end" in log
    found, wanted = outcome(tmp_path / "w"), outcome(tmp_path / "alone")
    assert found.keys() == wanted.keys()
    # A trial that is spread over two devices sums in another order, so embeddings agree to rounding alone; which images
    # are kept does not hang on it here.
    embedded = json.loads((tmp_path / "w/embeddings/end/manifest.json").read_text())
    assert [part["rows"] for part in embedded["parts"]] == [337, 337, 337, 336]
    runs = [line.split(",")[:9] for line in found["results.csv"].decode().splitlines()]
    assert runs == [line.split(",")[:9] for line in wanted["results.csv"].decode().splitlines()]


@pytest.mark.soak
def test_two_processes_make_the_scores_of_one(redundancy, digits_npz, repo, child_env, tmp_path):
    few = ("--config.steps=45", "--config.score_trials=1", "--config.methods=el2n,aum")
    arguments = ("score", *XLA, f"--config.dataset={digits_npz}", *few)
    alone = redundancy(*arguments, f"--workdir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    with started(2, [*arguments, f"--workdir={tmp_path}/w"], repo, child_env, tmp_path / "logs") as children:
        codes, logs = ended(children, tmp_path / "logs")
    assert codes == [0, 0], logs
    for name in ("el2n", "aum"):
        found, wanted = (files.read(Workdir(str(tmp_path / folder)), name).values for folder in ("w", "alone"))
        assert np.median(np.abs(found - wanted)) < 1e-3 * np.median(np.abs(wanted)), name


@pytest.mark.soak
def test_stopped_and_killed_in_turn_two_processes_end_with_the_curve_of_an_unbroken_run(
    digits_npz, repo, child_env, tmp_path
):
    arguments = ["train", *LONG, f"--config.dataset={digits_npz}"]
    logs = tmp_path / "logs"

    def pair(workdir):
        return started(2, [*arguments, f"--workdir={tmp_path / workdir}"], repo, child_env, logs)

    with pair("unbroken") as children:
        codes, texts = ended(children, logs)
    assert codes == [0, 0], texts

    checkpoints = tmp_path / "w" / "pretrain" / "checkpoints"
    with pair("w") as children:
        wait_for(checkpoints / "25", children, logs)
        children[1].send_signal(signal.SIGTERM)
        codes, texts = ended(children, logs)
    assert codes == [75, 75], texts
    saved = [re.search(r"train: asked to end; saved step (\d+)$", text, re.MULTILINE)[1] for text in texts]
    assert saved[0] == saved[1]
    assert max(int(path.name) for path in checkpoints.iterdir()) == int(saved[0])

    with pair("w") as children:
        wait_for(checkpoints / str((int(saved[0]) // 25 + 1) * 25), children, logs)
        children[1].kill()
        began = time.monotonic()
        codes, texts = ended(children, logs)
    assert f"continues at step {saved[0]}" in texts[0]
    assert time.monotonic() - began < 90  # and not JAX's 100 s
    assert codes == [76, -9], texts
    last = texts[0].splitlines()[-1]
    assert last.startswith("redundancy: error: another process of this run was lost"), texts[0]
    assert "give the same command on every host again" in last

    with pair("w") as children:
        codes, texts = ended(children, logs)
    assert codes == [0, 0], texts
    assert len(curve(tmp_path / "w")) == 10
    assert curve(tmp_path / "w") == curve(tmp_path / "unbroken")


@pytest.mark.soak
def test_what_one_process_finds_wrong_ends_all_of_them_with_its_message(digits_npz, repo, child_env, tmp_path):
    arguments = ["train", *SMOKE, f"--config.dataset={digits_npz}", f"--workdir={tmp_path}/w"]
    logs = tmp_path / "logs"
    for extra, code, message in (
        ("--config.depth=14", 2, "another config. Differing: depth: 8 there, 14 here"),
        (f"--workdir={tmp_path}/other", 1, "other is not the folder that process 0 works in"),
    ):
        with started(2, arguments, repo, child_env, logs, extra=(extra,)) as children:
            codes, texts = ended(children, logs)
        assert codes == [code, code], texts
        assert all(message in text for text in texts), texts
        assert "process 1 failed: " in texts[0]
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-processes=2", "--process-id=0"], "without --coordinator"),
        (["--coordinator=127.0.0.1:1234", "--num-processes=2"], "--process-id, too"),
        (["--coordinator=127.0.0.1", "--num-processes=2", "--process-id=0"], "wanted HOST:PORT"),
        (["--coordinator=127.0.0.1:1234", "--num-processes=2", "--process-id=2"], "wanted 0…1"),
    ],
)
def test_flags_of_several_processes_are_checked(redundancy, tmp_path, flags, message):
    done = redundancy("train", *SMOKE, f"--workdir={tmp_path}/w", *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "w").exists()
