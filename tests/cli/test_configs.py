"""The command `configs`, and --config by name."""

import pytest

from redundancy.config import shipped
from tests.failing import fails


@pytest.mark.soak
def test_a_line_for_each(redundancy):
    done = redundancy("configs")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*shipped()]
    assert all(len(line.split()) > 4 for line in lines)
    assert "redundancy configs cifar10 > mine.py" in redundancy("configs", "--help").stdout


def test_one_starts_ones_own(redundancy, tmp_path, child_env, command_server):
    for name, path in shipped().items():
        done = redundancy("configs", name)
        assert (done.returncode, done.stdout) == (0, path.read_text())
    (tmp_path / "mine.py").write_text(redundancy("configs", "cifar100").stdout)
    flags = ("--config=mine.py:smoke", "--workdir=w", "--config.steps=0")
    done, _ = command_server.run(("train", *flags), env=child_env, cwd=tmp_path, seconds=100)
    fails(done, "config.steps is 0", code=2)


def test_mistakes(redundancy, tmp_path):
    fails(redundancy("configs", "cifar"), 'Did you mean "cifar10"?', code=2)
    fails(redundancy("configs", "digits", "cifar10"), "digits cifar10 is no name of a config", code=2)
    fails(redundancy("configs", "--config=digits"), "configs needs none", code=2)
    fails(redundancy("config"), 'Did you mean "configs"?', code=2)
    workdir = f"--workdir={tmp_path}/w"
    fails(redundancy("train", "--config=digit", workdir), 'no config of this name. Did you mean "digits"?', code=2)
    fails(redundancy("train", "--config=digits:smok", workdir), '"smoke"', code=2)


def test_a_name_works_from_any_folder(child_env, command_server, tmp_path):
    done, _ = command_server.run(
        ("link", "--config=embeddings", "--workdir=w"), env=child_env, cwd=tmp_path, seconds=100
    )
    fails(done, 'or "redundancy import"', code=1)
