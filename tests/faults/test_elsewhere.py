"""A sweep that stops after a time, is carried elsewhere without what it can do without, and is joined again."""

import json
import re
import shutil
import time

import pytest

FLAGS = (
    "--config=configs/digits.py:smoke", "--config.embedding_parts=2", "--config.pack=2", "--config.steps=12",
    "--config.checkpoint_every=5", "--config.log_every=4", "--config.trials=2",
)  # fmt: skip
KEPT = ("test_correct", "test_loss", "images", "steps", "training")


def results_of(workdir):
    found = {path.parent.name: json.loads(path.read_text()) for path in workdir.glob("runs/*/result.json")}
    return {name: {key: result[key] for key in KEPT} for name, result in found.items()}


def carry(workdir, copy):
    """Copies what docs/reliability.md names."""
    for path in workdir.rglob("*"):
        name = str(path.relative_to(workdir))
        if re.match(r"\.|pretrain|embeddings|merges", name) or path.is_dir():
            continue
        run = workdir / "runs" / name.split("/")[1] if name.startswith("runs/") else None
        if "/checkpoints/" in name and (run / "result.json").exists():
            continue
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy / name)


@pytest.mark.timeout(1800)
@pytest.mark.soak
def test_a_sweep_is_carried_elsewhere_and_joined(command_server, digits_npz, tmp_path):
    def run(command, workdir, *flags, **kill):
        argv = [command, *FLAGS, f"--config.dataset={digits_npz}", f"--workdir={workdir}", *flags]
        done, events = command_server.run(argv, root=workdir, **kill)
        return done.returncode, done.stdout + done.stderr, events

    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    status, log, _ = run("run", whole, "--until=select")
    assert status == 0, log
    shutil.copytree(whole, first)
    status, log, events = run("sweep", whole)
    assert status == 0, log
    # It is stopped three times within its packs, and elsewhere goes on from their checkpoints.
    for number in (1, 2, 3):
        status, log, _ = run("sweep", first, event=events * number // 24, signal="SIGTERM")
        assert status == 75, log[-3000:]
    second.mkdir()
    carry(first, second)
    assert any(second.glob("runs/*/result.json")) or any(second.glob("runs/*/checkpoints/*"))
    for part, workdir in (("0/2", first), ("1/2", second)):
        status, log, _ = run("sweep", workdir, f"--part={part}")
        assert status == 0, log
        assert not (workdir / "results.csv").exists()
    status, log, _ = run("sweep", second, f"--join={first}")
    assert status == 0, log
    assert "runs taken from" in log
    assert re.search(r"sweep: 0 of \d+ runs to do$", log, re.MULTILINE)
    assert (second / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    assert results_of(second) == results_of(whole)
    # Only the copy of it lacks the other's results.
    status, log, _ = run("sweep", first, f"--join={second}")
    assert status == 0, log
    assert (first / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_it_stops_before_the_time_is_over_and_goes_on(command_server, digits_npz, tmp_path):
    flags = ["--config.steps=20000" if flag.startswith("--config.steps") else flag for flag in FLAGS]
    argv = ["sweep", *flags, f"--config.dataset={digits_npz}", f"--workdir={tmp_path / 'w'}"]
    # The network that embeds needs no such length. Without it another length is no other experiment.
    short = ["--config.steps=12" if flag.startswith("--config.steps") else flag for flag in argv[1:]]
    assert command_server.run(["run", *short, "--until=select"])[0].returncode == 0
    for folder in ("pretrain", "embeddings", "merges"):
        shutil.rmtree(tmp_path / "w" / folder)
    steps = []
    for _ in range(3):
        began = time.monotonic()
        done, _ = command_server.run([*argv, "--stop-after=40s"])
        assert time.monotonic() - began < 42
        assert done.returncode == 75, done.stderr
        assert "ended as asked (--stop-after)" in done.stderr
        steps.append(
            sum(int(path.name) for path in (tmp_path / "w").glob("runs/*/checkpoints/*") if path.name.isdecimal())
        )
    assert sorted(set(steps)) == steps
