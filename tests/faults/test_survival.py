"""Killed at random moments, many times, a run ends with the artifacts of an unbroken one.

KILLS=500 makes many more of them; the seed is that of the moments.
"""

import collections
import itertools
import json
import os
import random
import re
import shutil

import pytest

from redundancy.workdir import STAGES

KILLS = int(os.environ.get("KILLS", "24"))
SEED = int(os.environ.get("KILL_SEED", "1"))
SMALL = (
    "--config=configs/digits.py:smoke", "--config.embedding_parts=4", "--config.pack=2", "--config.steps=12",
    "--config.checkpoint_every=5", "--config.log_every=4",
)  # fmt: skip


def run(server, argv, workdir, **kill):
    """Exit code (negative for a signal), what it wrote, and how many times it touched a file of the workdir."""
    done, events = server.run([*argv, f"--workdir={workdir}"], root=workdir, **kill)
    return done.returncode, done.stdout + done.stderr, events


def artifacts(workdir):
    """What a kill must not change: merges, subsets, results, and what every run came to, step by step."""
    found = {}
    for path in sorted(workdir.rglob("*")):
        name = str(path.relative_to(workdir))
        if re.match(r"(embeddings|merges|subsets)/|results\.csv$|runs/manifest\.json$", name) and path.is_file():
            found[name] = path.read_bytes()
        elif path.name == "result.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key in KEPT}
        elif path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: line[key] for key in ("step", "loss", "accuracy", "learning_rate")} for line in lines]
    return found


KEPT = ("test_correct", "test_loss", "images", "steps", "training")


def leftovers(workdir):
    return [
        str(path) for path in workdir.rglob("*") if path.name.endswith(".tmp") or "orbax-checkpoint-tmp" in path.name
    ]


def last_stage(log):
    stages = re.findall(r" stage (\w+)$", log, re.MULTILINE)
    return stages[-1] if stages else "start"


@pytest.mark.soak
@pytest.mark.timeout(900 + 20 * KILLS)
def test_killed_at_random_moments_it_ends_with_the_artifacts_of_an_unbroken_run(server, digits_npz, tmp_path, capsys):
    killed("resident", KILLS * 3 // 4, server, digits_npz, tmp_path, capsys)


def killed(feed, kills, server, digits_npz, tmp_path, capsys):
    """Kills a run again and again, and compares what it ends with with what an unbroken one does."""
    argv = ["run", *SMALL, f"--config.dataset={digits_npz}"]
    if feed == "streamed":
        argv += ["--config.resident_mb=0", "--config.augmentation=crop_flip"]
    status, log, events = run(server, argv, tmp_path / "unbroken")
    assert status == 0, log
    unbroken = artifacts(tmp_path / "unbroken")
    assert len([name for name in unbroken if name.endswith("metrics.jsonl")]) == 11

    w = tmp_path / "w"

    def check_end(*moment):
        found = artifacts(w)
        assert found.keys() == unbroken.keys()
        assert [name for name in unbroken if found[name] != unbroken[name]] == [], moment
        assert leftovers(w) == []
        assert not (w / ".lock").exists()
        shutil.rmtree(w)

    chance, done, ends, where = random.Random(f"{SEED} {feed} {kills}"), 0, 0, collections.Counter()
    while done < kills or w.exists():
        kind = "SIGTERM" if chance.random() < 0.2 else "SIGKILL"
        # Most at a write, a rename or a removal, the others between any two instructions.
        at = (
            {"event": chance.randint(1, events // 5)} if chance.random() < 0.75 else {"seconds": chance.uniform(0.3, 4)}
        )
        status, log, _ = run(server, argv, w, **(at if done < kills else {}), signal=kind)
        assert status in (0, -9 if kind == "SIGKILL" else 75), (at, kind, log[-3000:])
        assert "Traceback" not in log, log[-3000:]
        if status:
            done += 1
            where[f"{last_stage(log)} {kind}"] += 1
            continue
        check_end(done, at)
        ends += 1
    hit = {name.split()[0] for name in where}
    stages = [stage for stage in STAGES if stage != "score"]  # no method of the config reads one
    for before, stage in itertools.pairwise(stages) if kills > 4 else ():
        if stage not in hit:  # so short that no random moment lay in it: one of its first is chosen
            assert run(server, [*argv, f"--until={before}"], w)[0] == 0
            log = ""
            for event in itertools.count(1):
                if last_stage(log) == stage:
                    break
                status, log, _ = run(server, argv, w, event=event, signal="SIGKILL")
                assert status == -9, log
            where[f"{stage} SIGKILL"] += 1
            assert run(server, argv, w)[0] == 0
            check_end(stage)
            done, ends = done + 1, ends + 1
    with capsys.disabled():
        shown = ", ".join(f"{name} {count}" for name, count in sorted(where.items()))
        print(
            f"\n{feed}: {done} kills ({shown}); {ends} runs ended, all with the artifacts of the unbroken one", end=""
        )


@pytest.mark.soak
@pytest.mark.timeout(900 + 20 * KILLS)
def test_killed_while_it_grows_it_ends_as_if_it_had_not_been(server, digits_npz, tmp_path, capsys):
    argv = ["run", *SMALL, f"--config.dataset={digits_npz}", "--config.report_classes=1"]
    first = [*argv, "--config.fractions=0.9", "--config.trials=1", "--config.methods=semantic"]
    grown = [*argv, "--config.fractions=0.9,0.6", "--config.trials=2", "--config.layers=end,start"]
    small, unbroken, w = tmp_path / "small", tmp_path / "unbroken", tmp_path / "w"
    status, log, _ = run(server, first, small)
    assert status == 0, log
    shutil.copytree(small, unbroken)
    status, log, events = run(server, grown, unbroken)
    assert status == 0, log
    wanted, before = artifacts(unbroken), artifacts(small)
    status, log, _ = run(server, grown, tmp_path / "once")
    assert status == 0, log
    assert (tmp_path / "once" / "results.csv").read_bytes() == wanted["results.csv"]

    chance, done, ends, where = random.Random(SEED), 0, 0, collections.Counter()
    while done < KILLS // 3 or w.exists():
        if not w.exists():
            shutil.copytree(small, w)
        at = {"event": chance.randint(1, events // 3)} if done < KILLS // 3 else {}
        status, log, _ = run(server, grown, w, **at, signal="SIGKILL")
        assert status in (0, -9), (at, log[-3000:])
        assert "Traceback" not in log, log[-3000:]
        if status:
            done += 1
            where[last_stage(log)] += 1
            continue
        found = artifacts(w)
        assert found.keys() == wanted.keys()
        assert [name for name in wanted if found[name] != wanted[name]] == [], done
        assert [name for name in before if name.startswith("runs/semantic") and found[name] != before[name]] == []
        assert leftovers(w) == []
        shutil.rmtree(w)
        ends += 1
    with capsys.disabled():
        shown = ", ".join(f"{name} {count}" for name, count in sorted(where.items()))
        print(f"\n{done} kills while growing ({shown}); {ends} ended as the unbroken one", end="")
