"""Compiled functions work without a writable folder, and none depends on another file."""

import ast
import os
import subprocess
import sys

import pytest


@pytest.mark.soak
def test_without_a_folder_for_the_cache():
    script = (
        "import numpy as np; from redundancy.linkage import chain, complete, counting, dissimilarity;"
        "print(dissimilarity.units(np.ones((2, 3), np.float32)).grid.shape)"
    )
    environ = {**os.environ, "NUMBA_CACHE_DIR": "/proc/none", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True)
    assert done.stdout.strip() == "(2, 3)", done.stderr


def test_compiled_functions_call_compiled_functions_of_their_own_file_alone(repo):
    # What is kept on disk is compiled anew when the function's own file changes, not when another does.
    compiled, calls = {}, []
    for path in (repo / "redundancy").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any("compiled" in ast.unparse(d) for d in node.decorator_list):
                compiled[node.name] = path
                calls += [
                    (path, call.func.id if isinstance(call.func, ast.Name) else call.func.attr)
                    for call in ast.walk(node)
                    if isinstance(call, ast.Call)
                ]
    assert len(compiled) > 8
    assert not [(path.name, name) for path, name in calls if compiled.get(name, path) != path]
