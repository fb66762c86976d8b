"""The convolutions of kernels.py as JAX functions: compiled for this processor and registered with XLA."""

import ctypes
import functools
import hashlib
import os
import pathlib
import re
import threading

import jax
import jax.numpy as jnp
import llvmlite
from llvmlite import binding, ir

from redundancy.models.cpu import kernels, objects
from redundancy.models.cpu.handler import TEXT, handler, interface_version
from redundancy.models.cpu.kernels import Shape, lanes

_WRITERS = {
    "forward": kernels.write_forward,
    "input_gradient": kernels.write_input_gradient,
    "kernel_gradient": kernels.write_kernel_gradient,
}
_LEVEL = 3  # optimisation level
_MOST_PARTS = 64
_PARTIAL_BYTES = 2**21  # limit for the partial sums of all parts together
_LOCK = threading.Lock()
_ALIVE = []  # keeps engines alive until the process ends, since XLA may call their code


def available() -> bool:
    """Whether convolutions can be compiled and called here."""
    return interface_version() is not None and os.name == "posix" and ctypes.sizeof(ctypes.c_void_p) == 8


@functools.cache
def _machine():
    for start in (binding.initialize_native_target, binding.initialize_native_asmprinter):
        start()
    features = binding.get_host_cpu_features()
    target = binding.Target.from_triple(binding.get_process_triple())
    wide = bool(features.get("avx512f"))
    return target.create_target_machine(binding.get_host_cpu_name(), features.flatten(), opt=_LEVEL), wide


def _text(kind: str, shape: Shape, wide: bool) -> str:
    """A handler and its kernel in LLVM's intermediate language."""
    module = ir.Module()
    scratch = _WRITERS[kind](module, "kernel", shape, wide)
    partial = 4 * shape.taps**2 * shape.channels * shape.features if kind == "kernel_gradient" else 0
    parts = max(8, min(_MOST_PARTS, _PARTIAL_BYTES // partial)) if partial else _MOST_PARTS
    text = str(module) + handler(scratch, partial, parts, lanes(shape.features) or 1)
    if wide:  # for some processors, LLVM prefers vectors of half this width
        text = re.sub(
            r"^(define [^{]*\))", r'\1 "prefer-vector-width"="512" "min-legal-vector-width"="512"', text, flags=re.M
        )
    return text


@functools.cache
def _writers() -> str:
    """Checksum of the sources that generate kernels. `_identity` uses it, because generating the kernels' text takes long."""
    digest = hashlib.sha256()
    for path in (__file__, kernels.__file__, TEXT):
        digest.update(hashlib.sha256(pathlib.Path(path).read_bytes()).digest())
    return digest.hexdigest()


def _identity(kind: str, shape: Shape, wide: bool) -> str:
    """A text that contains everything that the object code depends on."""
    return repr(
        (
            *(kind, shape, wide, _writers(), interface_version()),
            *(binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()),
            *(llvmlite.__version__, binding.llvm_version_info),
        )
    )


def _object(text: str) -> bytes:
    """Compiles the text of a module to object code."""
    machine, _ = _machine()
    parsed = binding.parse_assembly(text)
    parsed.verify()
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=_LEVEL))
    passes.getModulePassManager().run(parsed, passes)
    return machine.emit_object(parsed)


def _loaded(code: bytes) -> binding.ExecutionEngine:
    """Loads object code until the process ends."""
    machine, _ = _machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _ALIVE.append((engine, machine))
    return engine


def _compiled(kind: str, shape: Shape) -> int:
    """The address of a compiled handler."""
    _, wide = _machine()
    code = objects.kept(_identity(kind, shape, wide), lambda: _object(_text(kind, shape, wide)))
    return _loaded(code).get_function_address("handler")


@functools.cache
def _target(kind: str, shape: Shape) -> str:
    """Registers a compiled convolution with XLA and returns its name there."""
    fields = (shape.height, shape.width, shape.channels, shape.features, shape.taps, shape.stride)
    name = f"redundancy_{kind}_{'x'.join(map(str, fields))}"
    function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(_compiled(kind, shape))
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
    return name


def _call(kind: str, shape: Shape, result: tuple[int, ...], *arguments: jax.Array) -> jax.Array:
    with _LOCK:
        name = _target(kind, shape)
    # Under vmap, kernels are processed one after the other.
    call = jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(result, jnp.float32), vmap_method="sequential")
    return call(*arguments)


def forward(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution with padding "SAME".

    Args:
      x: `[B, H, W, C]` float32.
      kernel: `[t, t, C, D]` float32; `lanes(D)` must not be 0.
      stride: down and across.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), D]` float32.
    """
    shape = Shape(*x.shape[1:], kernel.shape[3], kernel.shape[0], stride)
    return _call("forward", shape, (x.shape[0], *shape.out, shape.features), x, kernel)


def input_gradient(gradient: jax.Array, kernel: jax.Array, size: tuple[int, int], stride: int) -> jax.Array:
    """The gradient of `forward` with respect to its input.

    Args:
      gradient: `[B, H', W', D]` float32.
      kernel: `[t, t, C, D]` float32; `lanes(C)` must not be 0.
      size: rows and columns of the input.
      stride: of the convolution.

    Returns:
      `[B, H, W, C]` float32.
    """
    shape = Shape(*size, *kernel.shape[2:], kernel.shape[0], stride)
    result = (gradient.shape[0], *size, shape.channels)
    return _call("input_gradient", shape, result, gradient, kernel.transpose(0, 1, 3, 2))


def kernel_gradient(x: jax.Array, gradient: jax.Array, taps: int, stride: int) -> jax.Array:
    """The gradient of `forward` with respect to its kernel, summed over the batch.

    Args:
      x: `[B, H, W, C]` float32.
      gradient: gradient of the output, `[B, H', W', D]` float32; `lanes(D)` must not be 0.
      taps: number of rows, and of columns, of the kernel.
      stride: of the convolution.

    Returns:
      `[taps, taps, C, D]` float32.
    """
    shape = Shape(*x.shape[1:], gradient.shape[3], taps, stride)
    return _call("kernel_gradient", shape, (taps, taps, shape.channels, shape.features), x, gradient)
