"""`sweep --until`: rounds of trials, with made-up trainings, until a width or a verdict."""

import itertools
import re
import zlib

import numpy as np
import pytest
from pages import read_page
from synthetic import make_workdir, noise_images

from redundancy import config as config_lib
from redundancy import storage
from redundancy.cli import rounds
from redundancy.experiment import sweep
from redundancy.report import looks, noninferiority, statistics
from redundancy.report.stage import report
from redundancy.runtime.errors import ConfigError, WorkdirError
from redundancy.status.survey import survey
from redundancy.training.loop import digest, identity, result_path
from redundancy.workdir import rounds as record_lib
from redundancy.workdir import table
from redundancy.workdir.rounds import Goal, parse

pytestmark = pytest.mark.usefixtures("quick_pdfs")
TEST_SIZE = 10_000
FIELDS = dict(trials=4, fractions=(0.9, 0.5), report_classes=1)


@pytest.fixture
def trained(monkeypatch):
    """Trainings are made up: images cost a little, semantic less than random. Lists the names of the runs."""
    names = []

    def train_pack(trainer, jobs, size, schedule, what, profile):
        for job in jobs:
            names.append(job.name)
            cost = 0.02 * (1 - float(re.search(r"-(\d\.\d{4})-", job.name)[1])) * (2 if "random" in job.name else 1)
            chance = np.random.default_rng(zlib.crc32(job.name.encode()))
            common = np.random.default_rng(job.seed).normal(0, 0.004)
            correct = round(TEST_SIZE * (0.9 - cost + common + chance.normal(0, 0.002)))
            result = {
                **dict(test_accuracy=correct / TEST_SIZE, test_correct=correct, test_size=TEST_SIZE, test_loss=1.0),
                **dict(images=len(job.kept), steps=schedule.steps, training=digest(identity(trainer, job, schedule))),
            }
            storage.write_json(result_path(job.folder), result)
        return [result] * len(jobs)

    monkeypatch.setattr(sweep, "Trainer", lambda config, *_: config)
    monkeypatch.setattr(sweep, "train_pack", train_pack)
    return names


@pytest.fixture
def selected(tmp_path):
    """Config and workdir before the sweep."""
    config, workdir = make_workdir(tmp_path, *noise_images(60), **FIELDS)
    storage.remove(workdir.runs)
    storage.remove(workdir.results)
    return config, workdir


def until(config, workdir, goal):
    """As the command line runs it; the looks that were taken."""
    first, wanted = rounds.begin(config, workdir, goal)
    rounds.sweep_in_rounds(workdir.claim(first), workdir, wanted, sweep.sweep, lambda config: None)
    return [look["trials"] for look in record_lib.read(workdir)["taken"]]


def found(workdir, level):
    runs = statistics.parse_results(storage.read_bytes(workdir.results).decode())
    return [
        test for each in noninferiority.answers(statistics.summarise(runs, level), 0.002, level) for test in each.tests
    ]


@pytest.mark.soak
def test_until_a_width(selected, trained, caplog):
    caplog.set_level("INFO", logger="absl")
    config, workdir = selected
    taken = until(config, workdir, parse("0.15", 60, 5))
    last = taken[-1]
    assert taken[0] == 4
    assert all(first < second <= 2 * first for first, second in itertools.pairwise(taken))
    halves = [test.difference.half for test in found(workdir, looks.WIDTH_LEVEL)]
    assert len(halves) == 4
    assert max(halves) <= 0.0015
    assert len(trained) == len(set(trained)) == 5 * last
    said = [text for record in caplog.records if (text := record.getMessage()).startswith("sweep: after")]
    assert re.fullmatch(
        rf"sweep: after 4 trials the widest 95% interval is ±\S+ points \(\w+ 0\.\d000\), wanted ±0\.15; on to {taken[1]} trials",
        said[0],
    )
    assert said[-1].startswith(f"sweep: after {last} trials")
    assert said[-1].endswith("wanted ±0.15; ends here")
    assert storage.read_json(workdir.config)["config"]["trials"] == last
    # The same command has nothing to do, and other commands show all trials.
    trained.clear()
    assert until(config, workdir, parse("0.15", 60, 5)) == taken
    assert trained == []
    report(workdir.claim(config), workdir)
    page = read_page(workdir).words()
    assert f"{last} paired trials" in page
    assert "Looks. Trials were added in rounds until every interval was at most 0.15 points to each side" in page
    rows = survey(workdir.root)["sure"]["rows"]
    assert [row["high"] - row["low"] for row in rows] == pytest.approx([2 * half for half in halves])
    # A narrower width goes on from there.
    more = until(config, workdir, parse("0.12", 90, 5))
    assert more[: len(taken)] == taken
    assert more[-1] > last


def test_it_ends_at_the_most(selected, trained, caplog):
    caplog.set_level("INFO", logger="absl")
    assert until(*selected, parse("0.001", 9, 5)) == [4, 8, 9]
    assert "--most=9 reached; ends here" in caplog.text


@pytest.mark.soak
def test_until_a_verdict(selected, trained, caplog):
    caplog.set_level("INFO", logger="absl")
    config, workdir = selected
    goal = parse("verdict", 33, 4)
    taken = until(config, workdir, goal)
    planned = [4, 14, 23, 33]
    assert taken == planned[: len(taken)]
    level = looks.of_plan(planned)[len(taken) - 1]
    verdicts = [test.verdict for test in found(workdir, level)]
    assert noninferiority.CANNOT_TELL not in verdicts or taken == planned
    assert f"sweep: look {len(taken)} of 4 after {taken[-1]} trials: semantic 0.9000 {verdicts[0]}" in caplog.text
    report(workdir.claim(config), workdir)
    page = read_page(workdir).words()
    assert "looks were planned after 4, 14, 23 and 33 trials, and looks were taken after 4" in page
    assert f"by a one-sided paired t test at {100 * level:.3g}%" in page
    for other, what in (
        (
            parse("verdict", 40, 4),
            r"most: 33 there, 40 here; planned: .* there, .* here\. A plan cannot change after the first look",
        ),
        (parse("0.1", 33, 4), "until: 'verdict' there, '0.1' here"),
    ):
        with pytest.raises(WorkdirError, match=what):
            until(config, workdir, other)
    with pytest.raises(WorkdirError, match="least: 4 there, 5 here"):
        until(record_lib.with_trials(config, 5), workdir, goal)


def test_interrupted_in_a_round_it_goes_on(selected, trained, monkeypatch):
    config, workdir = selected
    once, train_pack = [], sweep.train_pack

    def dies(trainer, jobs, *arguments):
        if any(job.seed == 5 for job in jobs) and not once:
            once.append(True)
            raise KeyboardInterrupt
        return train_pack(trainer, jobs, *arguments)

    monkeypatch.setattr(sweep, "train_pack", dies)
    with pytest.raises(KeyboardInterrupt):
        until(config, workdir, parse("0.001", 9, 5))
    assert [look["trials"] for look in record_lib.read(workdir)["taken"]] == [4]
    assert workdir.claim(config).trials == 8
    report(workdir.claim(config), workdir)
    assert "This sweep is unfinished" in read_page(workdir).words()
    assert until(config, workdir, parse("0.001", 9, 5)) == [4, 8, 9]
    assert sorted(trained) == sorted(run.name for run in table.runs(record_lib.with_trials(config, 9)))
    changes = [each["changed"]["trials"] for each in storage.read_json(workdir.config)["asked"]]
    assert changes == [{"before": 4, "after": 8}, {"before": 8, "after": 9}]


@pytest.mark.parametrize(
    ("until", "most", "what"),
    [
        ("0", 40, r"--until=0: wanted points from 0.0001 to 100, .* for example 0.1; or verdict"),
        ("nan", 40, "wanted points"),
        ("select", 40, "wanted points"),
        ("0.1", None, r"--most is missing: the most trials that --until=0.1 may take, for example --most=40"),
    ],
)
def test_a_goal_that_is_none_is_an_error_with_what_is_wanted(until, most, what):
    with pytest.raises(ConfigError, match=what):
        parse(until, most, 5)
    assert parse("0.1", 40, 5) == Goal(0.1, 40, 5)
    assert parse("verdict", 40, 3) == Goal(None, 40, 3)


def test_a_goal_that_does_not_fit_the_config(selected):
    config, workdir = selected
    for trials, goal, what in (
        (4, Goal(0.1, 2, 5), "--most=2 is below config.trials, 4, which is the least. Raise --most."),
        (3, Goal(0.1, 9, 5), "config.trials is 3; --until=0.1 wants 4 or more"),
        (1, Goal(None, 9, 5), "config.trials is 1; --until=verdict wants 2 or more"),
    ):
        with pytest.raises(ConfigError, match=what):
            rounds.begin(record_lib.with_trials(config, trials), workdir, goal)
    whole = config_lib.resolve({**config_lib.to_json(config), "fractions": (1.0,)})
    with pytest.raises(ConfigError, match="a fraction below 1"):
        rounds.begin(whole, workdir, Goal(0.1, 9, 5))


def test_the_flags(redundancy, tmp_path):
    base = ("--config=digits:smoke", f"--workdir={tmp_path}/w")
    for command, flags, what in (
        ("sweep", ("--until=0.1",), "--most is missing"),
        ("sweep", ("--most=4",), "--most works only with --until."),
        ("sweep", ("--until=0.1", "--most=9", "--looks=3"), "--looks works only with --until=verdict"),
        ("sweep", ("--until=0.1", "--most=9", "--part=0/2"), "a part of a sweep does not know what the others find"),
        ("run", ("--until=0.1",), "--until=0.1 is no stage, and with run it names the last one: train, embed"),
        ("run", ("--most=9",), "--most is a flag of sweep, not of run"),
    ):
        done = redundancy(command, *base, *flags)
        assert (done.returncode, what in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "w").exists()
