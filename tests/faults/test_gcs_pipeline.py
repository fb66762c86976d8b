"""The whole way with a workdir on gs://, by an emulator: through failing requests and an outage, to the same bytes."""

import collections
import contextlib
import re
import subprocess
import sys
import threading
import time

import faults_proxy
import gcs_emulator
import pytest

WORKDIR = f"gs://{gcs_emulator.BUCKET}/w"
# Few runs; all stages, Orbax's saving and restoring, and every kind of file take part.
FLAGS = (
    "--config=configs/digits.py:smoke", "--config.fractions=0.5", "--config.trials=1", "--config.checkpoint_every=20",
)  # fmt: skip
Ended = collections.namedtuple("Ended", "code errors objects proxy seconds")


@pytest.fixture(scope="module")
def command(digits_npz):
    return [sys.executable, "-m", "redundancy", "run", *FLAGS, f"--config.dataset={digits_npz}"]


@pytest.fixture(scope="module")
def local(command, child_env, repo, tmp_path_factory):
    """What must be the same wherever the workdir is: subsets and results of a run in a local folder."""
    workdir = tmp_path_factory.mktemp("local") / "w"
    done = subprocess.run(
        [*command, f"--workdir={workdir}"], cwd=repo, env=child_env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    paths = [*workdir.glob("subsets/*.parquet"), workdir / "results.csv"]
    assert len(paths) == 3
    return {f"w/{path.relative_to(workdir)}": path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def runs(local, command, child_env, repo):
    """Runs on gs:// that go on at the same time, since they wait most of it: by name, Ended."""

    def run(name, proxy, upstream):
        env = {**child_env, **gcs_emulator.environ(proxy.url), "NO_GCE_CHECK": "true"}
        if name == "failing":  # so that nobody waits for long where a connection is stalled
            env |= {"REDUNDANCY_STORAGE_TIMEOUT_S": "2", "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "2"}
        started = time.monotonic()
        done = subprocess.run(
            [*command, f"--workdir={WORKDIR}"], cwd=repo, env=env, capture_output=True, text=True, timeout=400
        )
        seconds = time.monotonic() - started
        ended[name] = Ended(done.returncode, done.stderr, gcs_emulator.objects(upstream, "w/"), proxy, seconds)

    def outage_in_the_middle(proxy):
        begun = threading.Event()

        def choose(request):
            if "/runs/semantic" in request.names and "/checkpoints/20/state" in request.names and not begun.is_set():
                begun.set()
                threading.Thread(target=proxy.outage, args=(30.0,)).start()

        return choose

    choosers = {
        "plain": lambda proxy: lambda _: None,
        "failing": lambda proxy: faults_proxy.share(0.05, few=("stall", "stuck"), seed=5),
        "outage": outage_in_the_middle,
        "late": lambda proxy: lambda _: None,
    }
    ended = {}
    with contextlib.ExitStack() as stack:
        threads = []
        for name, chooser in choosers.items():
            proxy = stack.enter_context(faults_proxy.running(stall=4.0))
            proxy.upstream = stack.enter_context(gcs_emulator.running(proxy.url))
            proxy.choose = chooser(proxy)
            if name == "late":  # Orbax looks for the folder that it has just written to
                proxy.list_delay, proxy.listed_at_once = 1.5, "checkpoints"
            threads.append(threading.Thread(target=run, args=(name, proxy, proxy.upstream)))
            threads[-1].start()
        for thread in threads:
            thread.join()
    return ended


def _same(ended, local):
    assert ended.code == 0, ended.errors
    assert {name: ended.objects[name] for name in ended.objects if name in local} == local
    assert {name for name in ended.objects if name.startswith("w/subsets/") and name.endswith(".parquet")} < set(local)
    assert "w/report/index.html" in ended.objects


@pytest.mark.soak
def test_a_run_on_gs_makes_the_same_subsets_and_results(runs, local):
    ended = runs["plain"]
    _same(ended, local)
    assert "trying again" not in ended.errors
    assert not ended.proxy.faults
    # TensorStore wrote the checkpoints, and read that of the model which embeds.
    assert any(re.search(r"w/runs/.*/checkpoints/20/state/.*ocdbt", name) for name in ended.objects)
    assert len(ended.proxy.requests) < 1500


@pytest.mark.soak
def test_a_run_ends_the_same_though_one_request_in_twenty_fails(runs, local):
    ended = runs["failing"]
    _same(ended, local)
    faults = ended.proxy.faults
    assert sum(faults.values()) > 0.03 * len(ended.proxy.requests)
    assert len(faults) > 8
    assert 1 <= ended.errors.count("trying again") < 2 + ended.seconds / 15


@pytest.mark.soak
def test_a_run_ends_the_same_through_an_outage_of_half_a_minute(runs, local):
    ended = runs["outage"]
    _same(ended, local)
    assert ended.proxy.faults == {"outage": 1}
    assert ended.seconds > 30
    assert 2 <= ended.errors.count("trying again") < 2 + ended.seconds / 15


@pytest.mark.soak
def test_listings_that_come_late_do_not_matter(runs, local):
    ended = runs["late"]
    _same(ended, local)
    assert ended.proxy.faults["stale listing"] > 10
