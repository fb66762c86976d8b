"""The launch configs that are shipped, and mistakes: each is reported in one line, before anything is created."""

import pathlib
import re
import runpy
import sys

import pytest

from launch import __main__ as command_line
from launch import spec
from launch.backends import backend, queued_resources
from launch.records import Policy
from redundancy.preflight import generations

CONFIGS = pathlib.Path(command_line.__file__).with_name("configs")
REDUNDANCY = ["run", "--config=configs/digits.py:smoke", "--workdir=gs://bucket/w"]
GOOD = ["--config.bucket=gs://bucket", "--config.budget_chip_hours=9"]


@pytest.fixture
def launch(capfd, monkeypatch, repo):
    """Runs a command line in this process: exit code, standard output, standard error. gcloud must not be called."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(repo)

    def attempt(*_, **__):
        raise AssertionError("gcloud was called")

    monkeypatch.setattr(queued_resources.Gcloud, "attempt", attempt)

    def run(*words):
        code = command_line.main(["launch", *words])
        return code, *capfd.readouterr()

    return run


def resolved(name, **fields):
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    for field, value in fields.items():
        config[field] = value
    return spec.resolve(config)


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS.glob("*.py")])
def test_the_shipped_configs(name):
    wanted = {} if name == "local" else {"bucket": "gs://bucket", "budget_chip_hours": 9.0}
    made = resolved(name, **wanted)
    assert backend(made).chips == (1 if name == "local" else 16)
    docstring = (CONFIGS / f"{name}.py").read_text().split('"""')[1]
    for field, _ in re.findall(r"--config\.(\w+)=(\S+)", docstring):
        assert hasattr(made, field)
    assert f"launch/configs/{name}.py" in docstring


@pytest.mark.parametrize(
    ("kind", "chips", "topology", "runtime"),
    [
        ("v4-8", 4, "v4:2x2x1", "tpu-ubuntu2204-base"),
        ("v4-16", 8, "v4:2x2x2", "tpu-ubuntu2204-base"),
        ("v4-32", 16, "v4:2x2x4", "tpu-ubuntu2204-base"),
        ("v4-1024", 512, "v4:8x8x8", "tpu-ubuntu2204-base"),
        ("v4-24", 12, None, "tpu-ubuntu2204-base"),
        ("v5litepod-1", 1, "v5e:1x1", "v2-alpha-tpuv5-lite"),
        ("v5litepod-4", 4, "v5e:2x2", "v2-alpha-tpuv5-lite"),
        ("v5litepod-16", 16, "v5e:4x4", "v2-alpha-tpuv5-lite"),
        ("v5litepod-256", 256, "v5e:16x16", "v2-alpha-tpuv5-lite"),
        ("v5p-8", 4, "v5p:2x2x1", "v2-alpha-tpuv5"),
        ("v5p-128", 64, "v5p:4x4x4", "v2-alpha-tpuv5"),
        ("v6e-8", 8, "v6e:2x4", "v2-alpha-tpuv6e"),
        ("v6e-256", 256, "v6e:16x16", "v2-alpha-tpuv6e"),
    ],
)
def test_accelerator_types(kind, chips, topology, runtime):
    made = backend(resolved("v5e_spot", bucket="gs://bucket", budget_chip_hours=9.0, accelerator_type=kind))
    assert (made.chips, made.topology, made.runtime) == (chips, topology, runtime)


@pytest.mark.parametrize("kind", queued_resources.TYPES)
def test_topologies_are_those_of_the_compiler(kind):
    _, _, generation, shapes = queued_resources.TYPES[kind]
    for chips, shape in shapes.items():
        assert generations.parse_topology(f"{generation}:{shape}").chips == chips


def test_several_zones_on_the_command_line():
    given = {"bucket": "gs://b-1", "budget_chip_hours": "9", "slices": "2", "spot": "false"}
    for zones in ("us-west4-a,us-east5-b", "('us-west4-a', 'us-east5-b')"):
        made = spec.load(f"{CONFIGS}/v6e.py", {**given, "zones": zones})
        assert made.zones == ("us-west4-a", "us-east5-b")
        assert (made.budget_chip_hours, made.slices, made.spot) == (9.0, 2, False)


def test_what_follows_from_a_spec():
    made = resolved(
        "v4_spot", bucket="gs://bucket/folder/", budget_chip_hours=64.0, slices=2, run="r", runtime_version="x"
    )
    assert made.root == "gs://bucket/folder/launch"
    made_of = backend(made)
    assert Policy.of(made, made_of.zones, made_of.chips).budget_s == 4 * 3600.0  # of all slices together
    assert made_of.runtime == "x"
    other = resolved("v4_spot", bucket="gs://bucket", budget_chip_hours=64.0, run="r")
    assert made.mark("r-1") != other.mark("r-1")
    local = resolved("local", hosts=3, bucket="/x")
    assert (backend(local).chips, Policy.of(local, ("local",), 3).budget_s) == (3, float("inf"))


BAD = {
    "an unknown field": (["--config.bukcet=gs://b"], 'config.bukcet is no field of a launch config. Did you mean "bucket"?'),
    "an environment variable": (["--config.env.A=b"], 'config.env.A is no field of a launch config. Did you mean "env"?'),
    "text for a number": (["--config.slices=two"], "slices is 'two' (str); wanted: a whole number (slices, each with"),
    "a fraction for a number": (["--config.slices=1.5"], "slices is 1.5 (float); wanted: a whole number"),
    "a number for a switch": (["--config.spot=3"], "spot is 3 (int); wanted: True or False"),
    "no slices": (["--config.slices=0"], "slices is 0 (int); wanted: a number from 1 to 1000"),
    "no time between looks": (["--config.poll_s=0"], "poll_s is 0 (int); wanted: a number above 0"),
    "not a number": (["--config.budget_chip_hours=nan"], "budget_chip_hours is 'nan' (str); wanted: a number"),
    "no bucket": (["--config.bucket="], "bucket is ''; wanted: gs://BUCKET"),
    "a folder for a slice": (["--config.bucket=/tmp/x"], "bucket is '/tmp/x'; wanted: gs://BUCKET"),
    "a bucket with a pattern": (["--config.bucket=gs://bucket/a*"], "bucket is 'gs://bucket/a*'"),
    "a bucket for a machine": (["--config.backend=local"], "bucket is 'gs://bucket'; wanted: a folder of this machine"),
    "no such backend": (["--config.backend=gke"], "backend is 'gke'; wanted: local or queued_resources"),
    "a zone twice": (["--config.zones=('us-west4-a','us-west4-a')"], "zones is ('us-west4-a', 'us-west4-a'); wanted: each zone once"),
    "a region for a zone": (["--config.zones=('us-west4',)"], "zones is ('us-west4',); wanted: for example"),
    "no zone": (["--config.zones=()"], "zones is ()"),
    "capitals": (["--config.run=MyRun"], "run is 'MyRun' (str); wanted: a to z"),
    "a long name": (["--config.run=" + "a" * 41], "at most 40"),
    "a name with a hyphen at its end": (["--config.run=a-"], "run is 'a-'"),
    "no budget": (["--config.budget_chip_hours=0"], "budget_chip_hours is 0.0; wanted: the most chip-hours"),
    "spot and reserved": (["--config.reserved=True"], "reserved is True; wanted: False if spot is True"),
    "hosts of a slice": (["--config.hosts=2"], "hosts is 2; wanted: 1"),
    "a later TPU": (["--config.accelerator_type=tpu7x-16"], "accelerator_type is 'tpu7x-16'; wanted: v4-N, v5litepod-N, v5p-N or v6e-N; TPU7x and later are not in the Cloud"),
    "v5e": (["--config.accelerator_type=v5e-16"], "accelerator_type is 'v5e-16'; wanted: v4-N, v5litepod-N"),
    "half a chip": (["--config.accelerator_type=v4-9"], "accelerator_type is 'v4-9'"),
    "no chip": (["--config.accelerator_type=v6e-0"], "accelerator_type is 'v6e-0'"),
    "a secret": ("config.env.WANDB_API_KEY = 'x'", "env has 'WANDB_API_KEY'; wanted: names of variables without secrets"),
    "no name of a variable": ("config.env['A B'] = 'x'", "env has 'A B'; wanted: names"),
    "a number for a variable": ("config.env.A = 1", "env is {'A': 1}; wanted: a dict of names and texts"),
    "a field in the file": ("config.zone = 'us-west4-a'", "config.zone is no field of a launch config. Did you mean \"zones\"?"),
    "a type in the file": ("config.slices = 2.5", "slices"),
    "texts in the file": ("config.zones = (1,)", "zones is [1] (list); wanted: a text"),
    "a fault in the file": ("config.run = nobody", "NameError: name 'nobody' is not defined"),
    "no grammar in the file": ("config.run =", "SyntaxError"),
    "not a config": ("return 3", "get_config returned int; wanted an ml_collections.ConfigDict"),
    "an argument": (["--config=launch/configs/v6e.py:x"], "get_config() takes 0 positional arguments"),
    "no such file": (["--config=launch/configs/v7.py"], "--config: there is no file 'launch/configs/v7.py'"),
    "no such flag": (["--delete"], "unrecognized arguments: --delete"),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "told"), BAD.values(), ids=BAD)
def test_mistakes_in_a_launch_config(launch, tmp_path, wrong, told):
    given = ["--config=launch/configs/v5e_spot.py", *GOOD]
    if isinstance(wrong, str):
        body = f"    config = defaults()\n    {wrong}\n    return config\n"
        (tmp_path / "own.py").write_text(f"from launch.spec import defaults\ndef get_config():\n{body}")
        given[0] = f"--config={tmp_path}/own.py"
        given = given if wrong.startswith("config.env") else given[:1]
        wrong = ["--config.zones=('us-west4-a',)"] if wrong.startswith("config.env") else []
    code, out, err = launch("run", *given, *wrong, "--", *REDUNDANCY)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"launch: error: [^\n]+\n", err)
    assert told in err


CLOUD = ["--config=launch/configs/v5e_spot.py", *GOOD]
LOCAL = ["--config=launch/configs/local.py", "--config.bucket=/tmp/nowhere"]
BAD_COMMANDS = {
    "nothing": (CLOUD, [], "there is no command after --"),
    "no workdir": (CLOUD, REDUNDANCY[:2], "the command has no --workdir"),
    "a workdir on the slice": (CLOUD, [*REDUNDANCY[:2], "--workdir", "/tmp/w"], "--workdir /tmp/w is on a host's disk"),
    "a workdir that is not told from here": (LOCAL, [*REDUNDANCY[:2], "--workdir=w"], "--workdir w is relative"),
    "a coordinator": (CLOUD, [*REDUNDANCY, "--coordinator=auto"], "--coordinator, --num-processes and --process-id"),
    "a number": (CLOUD, [*REDUNDANCY, "--process_id", "1"], "--coordinator, --num-processes and --process-id"),
    "the same twice": ([*CLOUD, "--config.slices=2"], REDUNDANCY, "slices is 2, but the command is the same on each"),
}


@pytest.mark.parametrize(("given", "command", "told"), BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_mistakes_in_the_command(launch, given, command, told):
    code, out, err = launch("plan", *given, "--", *command)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"launch: error: [^\n]+\n", err)
    assert told in err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["run", "--config=configs/digits.py", "--config.trails=3", "--workdir=gs://b/w"], 'Did you mean "trials"?'),
        (["run", "--config=configs/none.py", "--workdir=gs://b/w"], "there is no file configs/none.py"),
        (["trian", "--config=configs/digits.py", "--workdir=gs://b/w"], 'Did you mean "train"?'),
    ],
    ids=["a field", "a file", "a stage"],
)
def test_mistakes_that_redundancy_tells(launch, command, told):
    code, out, err = launch("run", *CLOUD, "--", *command)
    assert (code, out) == (2, "")
    assert told in err
    assert err.endswith("launch: error: the command after -- is wrong, see above; nothing was created.\n")
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rum", *CLOUD], "'rum' is no command. Did you mean \"run\"? Commands: plan, preflight, run, "),
        (["logs", *CLOUD], "logs wants the name of one run"),
        (["down", "a", "b", *CLOUD], "down wants the name of one run, which run and list print; found ['a', 'b']"),
        (["run", "a", *CLOUD, "--", *REDUNDANCY], "run takes no 'a'; the redundancy command comes after --"),
        (["list"], "--config is missing; for example --config launch/configs/v5e_spot.py"),
        (["logs", "r", "--host=-1", *CLOUD], "argument --host: '-1' is not the number of a host"),
        (["list", "--config"], "argument --config: expected one argument"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_mistakes_in_the_verb(launch, words, told):
    code, out, err = launch(*words)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--help"], 0), (["-h"], 0), (["run", "--help"], 0)])
def test_help(launch, words, code):
    found, out, err = launch(*words)
    assert (found, err) == (code, "")
    for verb in command_line.VERBS:
        assert re.search(rf"\b{verb}\b", out)
    for field in spec.defaults():
        assert re.search(rf"^  {field} +\S", out, re.M)
