"""Cached kernels give the same bits as compiled ones; a damaged cache only costs time."""

import ctypes
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from llvmlite import binding

from redundancy.models.cpu import calls, objects
from redundancy.models.cpu.kernels import Shape
from redundancy.storage import cache_folder

SHAPE = Shape(5, 6, 8, 16, 3, 1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "redundancy" / "kernels"


@pytest.fixture
def made(monkeypatch):
    """Grows with each kernel that is compiled."""
    seen, unpatched = [], calls._object
    monkeypatch.setattr(calls, "_object", lambda text: seen.append(text) or unpatched(text))
    return seen


def result(kind="forward"):
    """What the kernel computes of fixed numbers, by calling it directly."""
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        load = calls._loaded
        patch.setattr(calls, "_loaded", lambda code: loaded.append(load(code)) or loaded[0])
        assert calls._compiled(kind, SHAPE)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 2)(
        loaded[0].get_function_address("kernel")
    )
    rng = np.random.default_rng(0)
    pixels = 2 * SHAPE.height * SHAPE.width
    sizes = {"x": pixels * SHAPE.channels, "kernel": 9 * SHAPE.channels * SHAPE.features, "dy": pixels * SHAPE.features}
    first, second, out = {
        "forward": ("x", "kernel", "dy"),
        "input_gradient": ("dy", "kernel", "x"),
        "kernel_gradient": ("x", "dy", "kernel"),
    }[kind]
    arrays = [rng.standard_normal(sizes[name]).astype(np.float32) for name in (first, second)]
    arrays += [np.zeros(sizes[out], np.float32), np.zeros(2**16, np.uint8)]
    function(*(array.ctypes.data for array in arrays), 0, 2)
    assert np.ptp(arrays[2]) > 1
    return arrays[2].tobytes()


@pytest.mark.parametrize("kind", ["forward", "input_gradient", "kernel_gradient"])
def test_kept_kernels_compute_the_same_bits(folder, made, monkeypatch, kind):
    first = result(kind)
    assert [len(list(folder.iterdir())), len(made)] == [1, 1]
    assert result(kind) == first
    assert len(made) == 1
    monkeypatch.setattr(cache_folder, "cache_folder", lambda: None)
    assert result(kind) == first
    assert len(made) == 2


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "longer", "of another kernel", "folder"])
def test_a_damaged_file_is_compiled_anew(folder, made, damage):
    first = result()
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    if damage == "of another kernel":
        result("kernel_gradient")
        (other,) = {*folder.iterdir()} - {path}
        path.write_bytes(other.read_bytes())
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes(
            {"truncated": whole[:middle], "empty": b"", "flipped": flipped, "longer": whole + b"\0"}[damage]
        )
    compiled = len(made)
    assert result() == first
    assert len(made) == compiled + 1
    if damage != "folder":
        assert path.read_bytes() == whole
        assert result() == first
        assert len(made) == compiled + 1


@pytest.mark.parametrize(
    ("where", "what", "other"),
    [
        (binding, "get_host_cpu_name", lambda: "znver1"),
        (binding, "get_host_cpu_features", lambda: binding.FeatureMap({"avx2": True})),
        (binding, "get_process_triple", lambda: "aarch64-unknown-linux-gnu"),
        (binding, "llvm_version_info", (1, 0, 0)),
        (calls, "interface_version", lambda: 99),
        (calls, "_writers", lambda: "of another version"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_processor_compiler_or_version_has_kernels_of_its_own(folder, made, monkeypatch, where, what, other):
    first = result()  # the processor that is compiled for is known from here on
    monkeypatch.setattr(where, what, other)
    assert result() == first
    assert [len(made), len(list(folder.iterdir()))] == [2, 2]


def test_without_a_folder_kernels_are_compiled_every_time(tmp_path, made, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made in it, not even by root
    assert result() == result()
    assert len(made) == 2


def test_a_folder_that_cannot_be_written_is_read(folder, made, monkeypatch):
    first = result()

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    assert result() == first
    assert len(made) == 1
    assert result("kernel_gradient") == result("kernel_gradient")
    assert [len(made), len(list(folder.iterdir()))] == [3, 1]


def test_a_folder_that_others_may_write_to_is_left_alone(folder, made, monkeypatch):
    first = result()
    folder.chmod(0o777)
    assert result() == first
    assert len(made) == 2
    folder.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert result() == first
    assert [len(made), len(list(folder.iterdir()))] == [3, 1]


def test_the_oldest_files_go(folder, monkeypatch):
    monkeypatch.setattr(objects, "MOST_FILES", 3)
    for number in range(6):
        assert objects.kept(f"kernel {number}", lambda number=number: bytes([number])) == bytes([number])
        for path in folder.iterdir():
            os.utime(path, (0, path.stat().st_mtime - 10))
    found = {path.name.split(".")[0] for path in folder.iterdir()}
    assert found == {hashlib.sha256(f"kernel {number}".encode()).hexdigest() for number in (3, 4, 5)}


@pytest.mark.soak
def test_processes_share_what_one_compiled(repo, tmp_path):
    script = """
import hashlib, jax, jax.numpy as jnp
from redundancy.models.cpu import calls
from redundancy.models.convolution import convolve
made, unpatched = [], calls._object
calls._object = lambda text: made.append(text) or unpatched(text)
x, kernel = jnp.sin(jnp.arange(2. * 7 * 6 * 8)).reshape(2, 7, 6, 8), jnp.cos(jnp.arange(9. * 8 * 16)).reshape(3, 3, 8, 16)
loss = lambda x, k: (convolve(x, k, (2, 2), "cpu") ** 2).sum()
grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(x, kernel)
print(len(made), hashlib.sha256(b"".join(bytes(each) for each in jax.tree.leaves(grads))).hexdigest())
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    found = [
        subprocess.run(
            [sys.executable, "-c", script], cwd=repo, env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert [count for count, _ in found] == ["3", "0"]
    assert found[0][1] == found[1][1]
