"""The README's Python blocks do what it says of them."""

import re
import shlex
import textwrap

import numpy as np
import pytest


def blocks(repo):
    """Indented Python blocks of the README."""
    text = (repo / "README.md").read_text()
    found = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, flags=re.MULTILINE)
    return [textwrap.dedent(block) for block in found if re.search(r"^ {4}(import|from) ", block, flags=re.MULTILINE)]


@pytest.mark.slow
def test_own_embeddings_are_clustered_and_read_back(repo, redundancy, tmp_path):
    (reading,) = blocks(repo)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, size=300)
    np.save(tmp_path / "E.npy", rng.normal(size=(300, 12)).astype(np.float32))
    np.save(tmp_path / "Y.npy", labels)
    (tmp_path / "I.txt").write_text("".join(f"image {row}\n" for row in range(300)))
    section = (repo / "README.md").read_text().split("## Your own embeddings")[1].split("\n## ")[0]
    commands = re.findall(r"^ {4}redundancy (.*)$", section, flags=re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["import", "link", "select", "export"]
    for command in commands:
        words = [
            re.sub(r"^(DIR|E\.npy|Y\.npy|I\.txt|kept\.txt)$", rf"{tmp_path}/\1", word) for word in shlex.split(command)
        ]
        done = redundancy(*words)
        assert done.returncode == 0, done.stderr
    names = {}
    exec(reading.replace("DIR", f"{tmp_path}/DIR"), names)
    assert (tmp_path / "kept.txt").read_text().splitlines() == [f"image {position}" for position in names["kept"]]
    assert len(names["kept"]) == 270
    counts = np.bincount(labels)
    kept = np.bincount(labels[names["kept"]])
    assert np.all(np.abs(kept - 0.9 * counts) < 1)


def test_every_config_and_stage_is_listed(repo):
    text = (repo / "README.md").read_text()
    for path in (repo / "configs").glob("*.py"):
        assert f"configs/{path.name}" in text
    for stage in ("train", "embed", "link", "select", "sweep", "report", "run", "import", "export"):
        assert f"| `{stage}` |" in text
