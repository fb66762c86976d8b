"""The blocks of docs/python.md do what the page says: they are run in their order, each where its packages are installed."""

import ast
import importlib.util
import pathlib
import re

import numpy as np
import pytest

import redundancy
from redundancy import config as config_lib
from redundancy.importing.stage import Request, import_embeddings
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.workdir import Workdir

TEXT = (pathlib.Path(__file__).resolve().parents[2] / "docs/python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def needs(block):
    """The packages that a block imports."""
    found = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found


def there(package):
    return importlib.util.find_spec(package) is not None


def run(*wanted):
    """Names after all blocks up to the last that imports one of `wanted`; blocks of other packages that lack are passed over."""
    last = max(at for at, block in enumerate(BLOCKS) if needs(block) & {*wanted})
    names = {}
    for block in BLOCKS[: last + 1]:
        if all(map(there, needs(block))):
            exec(compile(block, "docs/python.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))


def test_the_page_names_all_that_is_offered():
    for name in redundancy.__all__:
        assert re.search(rf"`{name}\b", TEXT), name


def test_with_pytorch():
    torch = pytest.importorskip("torch")
    names = run("torch")
    assert len(names["train"]) == len(names["kept"]) == 1617
    assert torch.equal(names["train"][5][0], torch.from_numpy(names["images"][names["kept"][5]]))
    assert sum(len(labels) for _, labels in names["loader"]) == 1617


def test_with_hugging_face():
    pytest.importorskip("datasets")
    names = run("datasets")
    assert names["train"]["label"][:] == names["labels"][names["kept"]].tolist()
    assert names["train"][5]["pixels"] == names["images"][names["kept"][5]].tolist()


def test_a_model_and_a_workdir(tmp_path):
    """The workdir is made of the page's own embeddings, by the stages of the command line."""
    names = {}
    exec(BLOCKS[0], names)
    np.save("E.npy", names["embeddings"])
    np.save("Y.npy", names["labels"])
    config, workdir = config_lib.resolve({"fractions": (0.9,), "trials": 1}), Workdir(str(tmp_path / "DIR"))
    workdir.claim(config)
    import_embeddings(Request("E.npy", "Y.npy"), workdir)
    link(config, workdir)
    select(config, workdir)
    names = run("redundancy")
    assert names["sizes_kept"] == {0.95: 1707, 0.9: 1617, 0.8: 1438, 0.7: 1258}
    assert [*names["widest"].values()] == sorted(names["widest"].values())
    assert len(names["largest"]) == names["sizes"].max() > 1
    assert np.array_equal(names["kept"], names["again"])
    assert np.array_equal(names["kept"], names["model"].cut(0.9).kept_)
    assert names["merges"].height[0] == names["model"].heights_[0]
