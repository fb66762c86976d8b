"""The README's Python blocks do what it says of them."""

import re
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
    reading, writing = blocks(repo)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, size=300).astype(np.int32)
    names = {
        "positions": np.arange(300),
        "labels": labels,
        "embeddings": rng.normal(size=(300, 12)).astype(np.float32),
        "class_names": ["a", "b", "c", "d"],
    }
    exec(writing.split("redundancy link")[0].replace("DIR", str(tmp_path)), names)
    for stage in ("link", "select"):
        assert f"redundancy {stage} " in (repo / "README.md").read_text()
        done = redundancy(stage, "--config=configs/digits.py", f"--workdir={tmp_path}")
        assert done.returncode == 0, done.stderr
    exec(reading.replace("DIR", str(tmp_path)), names)
    assert len(names["kept"]) == 270
    counts = np.bincount(labels)
    kept = np.bincount(labels[names["kept"]])
    assert np.all(np.abs(kept - 0.9 * counts) < 1)


def test_every_config_and_stage_is_listed(repo):
    text = (repo / "README.md").read_text()
    for path in (repo / "configs").glob("*.py"):
        assert f"configs/{path.name}" in text
    for stage in ("train", "embed", "link", "select", "sweep", "report", "run"):
        assert f"| `{stage}` |" in text
