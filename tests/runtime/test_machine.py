"""Memory limits of containers, on files as the kernel shows them."""

import platform
import subprocess
import sys

import pytest

from redundancy.runtime import machine


def _group(folder, names, **values):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (values["limit"], values["used"]), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {values['cached']}\n")


@pytest.mark.parametrize(
    ("line", "top", "names"),
    [
        ("0::/a/b", "", ("memory.max", "memory.current")),
        ("4:memory:/a/b", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ],
)
def test_the_least_of_all_groups_counts(tmp_path, line, top, names):
    groups = tmp_path / "cgroup"
    groups.write_text(f"7:pids:/x\n{line}\n")
    root = tmp_path / "fs"
    _group(root / top / "a" / "b", names, limit=1000, used=300, cached=100)
    _group(root / top / "a", names, limit=900, used=500, cached=0)
    _group(root / top, names, limit="max", used=500, cached=0)
    assert sorted(machine._limits(str(root), str(groups))) == [400, 800]


def test_no_groups_no_limit(tmp_path):
    assert machine._limits(str(tmp_path), str(tmp_path / "none")) == []


def test_this_machine(monkeypatch):
    everything = machine.available_memory()
    assert everything > 0
    monkeypatch.setattr(machine, "_limits", lambda: [12345, 99999])
    assert machine.available_memory() == 12345
    monkeypatch.delenv("NPROC", raising=False)
    there = machine.cores()
    monkeypatch.setenv("NPROC", "1")
    assert machine.cores() == 1 <= there


def test_freed_memory_is_kept():
    code = (
        "from redundancy.runtime import machine\n"
        "import numpy as np, resource\n"
        "kept = machine.keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "np.ones(1 << 24, np.uint8); np.ones(1 << 24, np.uint8)\n"
        "before = faults(); np.ones(1 << 24, np.uint8); print(kept, faults() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    assert kept == "True" or platform.libc_ver()[0] != "glibc"
    assert kept == "False" or int(faults) < 1000  # 16 MiB are 4,096 pages
