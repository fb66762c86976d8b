"""Which convolutions are fastest for a pack on the GPU at hand: XLA's under vmap, or ours, and in which tiles.

    python -m benchmarks.packed [--quick] [--json] [--only steps|kernels] [--form cifar|imagenet] [--depth N] [--trials T]
      [--batch B]

Whole training steps of a pack of ResNets on CIFAR's or ImageNet's shape by XLA's convolutions and by ours; every kernel of that
network in several tiles, beside XLA's convolution; and the steps again in the fastest tiles. Ends within three minutes, for
ImageNet within nine (--seconds). What was fastest is written to the user's cache folder, where trainings on such a card find
it. A ratio is the time of XLA's convolutions over that of ours; above 1 ours is faster.
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import gc
import json
import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

from benchmarks import common
from benchmarks.common import say
from redundancy import config as config_lib
from redundancy import storage
from redundancy.models import gpu, make_model
from redundancy.models.flops import equations
from redundancy.models.gpu import cards, tiles
from redundancy.models.gpu.calls import call_of
from redundancy.models.gpu.shape import Shape
from redundancy.models.gpu.tiles import Tile
from redundancy.training.mesh import make_mesh
from redundancy.training.packing import Packing, images_per_second
from redundancy.training.programs import Programs

_PACKAGES = ("jax", "jaxlib", "jax-triton", "triton", "flax", "redundancy")
_FORMS = {  # fields of the config, and sizes of an image
    "cifar": ({"augmentation": "crop_flip", "pad": 4}, (32, 32, 3)),
    "imagenet": ({"form": "imagenet", "widths": (64, 128, 256, 512)}, (224, 224, 3)),
}
_AT_ONCE = 10  # calls in one program, of different arrays: single ones would measure the way to the device
_MOST_UNROLLED = 18  # products in a kernel without a loop; Triton needs seconds for more
_MOST_ERROR = {"bfloat16": 0.02, "float32": 1e-3}  # of a result's greatest value


_noted = Primitive("noted_convolution")
_noted.def_abstract_eval(lambda *_, kind, shape, result, dtype: jax.core.ShapedArray(result, dtype))


class Recorder:
    """Puts a note of its kind and shape in the place of each convolution of a pack; nothing can be computed with it."""

    def forward(self, x, kernel, stride):
        shape = Shape.of(x.shape, kernel.shape, stride)
        return _noted.bind(x, kernel, kind="forward", shape=shape, result=shape.y, dtype=x.dtype)

    def input_gradient(self, dy, kernel, size, stride):
        shape = Shape.of((*dy.shape[:2], *size, kernel.shape[3]), kernel.shape, stride)
        return _noted.bind(dy, kernel, kind="input_gradient", shape=shape, result=shape.x, dtype=dy.dtype)

    def kernel_gradient(self, x, dy, taps, stride):
        shape = Shape.of(x.shape, (x.shape[0], taps, taps, x.shape[4], dy.shape[4]), stride)
        return _noted.bind(x, dy, kind="kernel_gradient", shape=shape, result=shape.kernel, dtype=jnp.dtype("float32"))


def convolutions(model, trials: int, batch: int, image_shape: tuple[int, int, int]) -> Counter:
    """How often a training step of a pack has each kind of convolution and shape; nothing is computed."""
    model = model.clone(formulation="packed", packs=Recorder())
    images = jax.ShapeDtypeStruct((trials, batch, *image_shape), jnp.dtype(model.dtype))
    variables = jax.eval_shape(
        jax.vmap(lambda x: model.init(jax.random.key(0), x[:1], train=False)),
        jax.ShapeDtypeStruct((trials, 1, *image_shape), jnp.float32),
    )

    def loss(params, rest, images):
        (logits, _), _ = model.apply({"params": params, **rest}, images, train=True, mutable=["batch_stats"])
        return logits.sum()

    rest = {name: variables[name] for name in variables if name != "params"}
    step = jax.make_jaxpr(jax.vmap(jax.grad(loss)))(variables["params"], rest, images)
    found = [each.params for each in equations(step.jaxpr) if each.primitive.name == _noted.name]
    stem = Shape(trials, batch, *image_shape, model.widths[0], *((7, 2) if model.imagenet_stem else (3, 1)))
    times = Counter((each["kind"], each["shape"]) for each in found)
    return Counter({key: count for key, count in times.items() if key != ("input_gradient", stem)})


def variations(kind: str, shape: Shape, tile: Tile) -> list[Tile]:
    """The tile, others that differ from it in one thing, and some that compute several lines of pixels together."""
    summed, of_taps = shape.features if kind == "input_gradient" else shape.channels, shape.taps**2
    changes = [{"pixels": 2 * tile.pixels}, {"pixels": tile.pixels // 2}, {"warps": 2 * tile.warps}]
    changes += [{"warps": tile.warps // 2}, {"rows": 2 * tile.rows}]
    if kind == "kernel_gradient":
        changes += [{"shares": 2 * tile.shares}, {"shares": tile.shares // 2}, {"stages": 2}]
        small = min(64, tile.columns)  # 16 rows a warp
        narrow = {"rows": small, "warps": small // 16, "pixels": min(tile.pixels, 2048 // tile.columns), "stages": 2}
        lines = [{**narrow, "lines": 2}, {**narrow, "lines": 4}, {**narrow, "lines": 4, "shares": 2 * tile.shares}]
        lines += [{"lines": 2, "stages": 2}]
    else:
        if tile.stages == 0:
            changes += [{"stages": 3}]
        elif of_taps * summed <= _MOST_UNROLLED * tile.rows:
            changes += [{"stages": 0}]
        # 64 sums a thread; with more the compiler runs out of registers. Four warps together take 64 pixels at least.
        forms = [(2, 8), (4, 8), *([(4, 2), (8, 2)] if tile.columns < 64 else [(2, 4)])]
        sizes = [(count, warps, 64 * 32 * warps // (count * tile.columns)) for count, warps in forms]
        lines = [
            {"lines": count, "warps": warps, "pixels": pixels}
            for count, warps, pixels in sizes
            if pixels >= (16 if warps < 4 else 16 * warps)
        ]
    if 1 < shape.taps <= 3:  # of one tap no line is needed twice, of many the sums are too many
        rows = min(tile.rows, tiles.power(shape.taps * summed, 16, 64))
        changes += [{**change, "rows": min(rows, change.get("rows", rows))} for change in lines]
    others = [dataclasses.replace(tile, **change) for change in changes]
    return [
        tile,
        *(
            each
            for each in others
            if min(each.pixels, each.rows) >= 16 and max(each.pixels, each.rows) <= 512 and 1 <= each.warps <= 8
        ),
    ]


def _arrays(kind: str, shape: Shape, dtype, seed: int) -> tuple[jax.Array, jax.Array]:
    sizes = {"forward": (shape.x, shape.kernel), "input_gradient": (shape.y, shape.kernel)}
    keys = jax.random.split(jax.random.key(seed), 2)
    pair = sizes.get(kind, (shape.x, shape.y))
    return tuple(jax.random.normal(key, size, dtype) for key, size in zip(keys, pair, strict=True))


def by_xla(kind: str, shape: Shape) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """XLA's convolution of a pack, or a gradient of it, as `vmap` makes it."""

    def one(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (shape.stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def of_kind(first, second):
        if kind == "forward":
            return one(first, second)
        if kind == "input_gradient":
            x = jax.ShapeDtypeStruct(shape.x[1:], first.dtype)
            return jax.linear_transpose(lambda x: one(x, second), x)(first)[0]
        kernel = jax.ShapeDtypeStruct(shape.kernel[1:], first.dtype)
        return jax.linear_transpose(lambda kernel: one(first, kernel), kernel)(second)[0]

    return jax.vmap(of_kind)


def by_kernel(kernels: gpu.Kernels, kind: str, shape: Shape, dtype, tile: Tile) -> Callable:
    """One of ours in a tile."""
    call = call_of(kind, shape, jnp.dtype(dtype), tile)

    def function(first, second):
        result = kernels.run(call, first, second)
        return result.sum(0) if kind == "kernel_gradient" else result

    return function


@contextlib.contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """Lets several threads compile by Triton. In Python 3.11 a collection within ast.parse makes another thread's parse fail."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _compiled(function: Callable, pairs: list):
    """Compiles as many calls as there are pairs into one program; the reason as text if that fails."""
    try:
        return jax.jit(lambda pairs: [function(*pair) for pair in pairs]).lower(pairs).compile()
    except Exception as error:  # a tile that does not fit the card's shared memory or Triton's rules
        return _reason(error)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _microseconds(program, pairs: list) -> float:
    """Of one call, the median of five programs."""
    jax.block_until_ready(program(pairs))
    seconds = [common.timed(lambda: jax.block_until_ready(program(pairs)))[0] for _ in range(5)]
    return 1e6 * statistics.median(seconds) / len(pairs)


def of_kernel(kernels: gpu.Kernels, kind: str, shape: Shape, dtype, quick: bool) -> dict[str, Any]:
    """Microseconds of XLA's convolution and of ours by tile, the fastest, and how far ours are from float32's."""
    wide = dtype == jnp.float32
    pairs = [_arrays(kind, shape, dtype, seed) for seed in range(_AT_ONCE)]
    tried = variations(kind, shape, tiles.usual(kind, shape, wide, kernels.card.capability))
    tried = tried[:2] if quick else tried
    functions = [by_xla(kind, shape), *(by_kernel(kernels, kind, shape, dtype, tile) for tile in tried)]
    with collecting_no_garbage(), concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        programs = list(pool.map(lambda function: _compiled(function, pairs), functions))
    with jax.default_matmul_precision("highest"):
        exact = by_xla(kind, shape)(*(array.astype(jnp.float32) for array in pairs[0]))
    found, errors = [], []
    for program in programs:
        try:
            us = program if isinstance(program, str) else _microseconds(program, pairs)
            if not isinstance(us, str):
                difference = jnp.abs(program(pairs)[0].astype(jnp.float32) - exact).max()
                errors.append(float(difference / jnp.abs(exact).max()))
                if not errors[-1] <= _MOST_ERROR[jnp.dtype(dtype).name]:
                    us = f"wrong by {errors[-1]:.2g} of the greatest value"
        except jax.errors.JaxRuntimeError as error:
            us = _reason(error)
        found.append(us)
    rates = {each: us for each, us in zip([None, *tried], found, strict=True) if not isinstance(us, str)}
    best = min(rates, key=rates.get, default=None)
    ours = [us for tile, us in rates.items() if tile is not None]
    return {
        "xla_us": found[0],
        "us": min(ours, default=None),
        "usual_us": found[1],
        "tile": dataclasses.asdict(best) if best else None,
        "greatest_error": max(errors, key=lambda error: (error != error, error), default=None),
        "tried": [{**dataclasses.asdict(tile), "us": us} for tile, us in zip(tried, found[1:], strict=True)],
    }


def _step(fields: Mapping[str, Any], trials: int, formulation: str) -> dict[str, Any]:
    """Images/s of training steps of a pack, and seconds until they are measured."""
    config = config_lib.resolve({**fields, "formulation": formulation})
    began, image = time.perf_counter(), _FORMS[config.form][1]
    programs = Programs(config, image, 10, make_mesh(config, trials, jax.devices()[:1]), resident=True, vmap=True)
    rate = images_per_second(programs, Packing(trials, True), 4096)
    say(f"steps, {formulation}: {rate:,.0f} images/s")
    return {
        "images_per_second": rate,
        "median_s": trials * config.batch_size / rate,
        "all_s": time.perf_counter() - began,
    }


def _moved(item: tuple[tuple[str, Shape], int]) -> int:
    """Numbers that a step's convolutions of one kind and shape take and give."""
    (_, shape), count = item
    return count * (math.prod(shape.x) + math.prod(shape.y))


def measure(flags, kernels: gpu.Kernels) -> dict[str, Any]:
    """Cases and ratios, as for JSON; writes the choices."""
    began, card = time.perf_counter(), kernels.card.kind
    path = tiles.path(card)
    fields, image = _FORMS[flags.form]
    fields = {
        **{**fields, "depth": flags.depth, "dtype": flags.dtype, "pack": flags.trials},
        **{"batch_size": flags.batch, "steps_per_dispatch": 10 if flags.quick or flags.form == "imagenet" else 50},
    }
    only = flags.only or ["steps", "kernels"]
    cases, ratios, kept = {}, {}, {}
    steps = {name: _step(fields, flags.trials, name) for name in (("xla", "packed") if "steps" in only else ())}
    dtype = jnp.dtype(flags.dtype)
    times = convolutions(make_model(config_lib.resolve(fields), 10), flags.trials, flags.batch, image)
    if "kernels" in only:
        for (kind, shape), count in sorted(times.items(), key=_moved, reverse=True):
            if time.perf_counter() - began > flags.seconds - (steps["packed"]["all_s"] if steps else 0):
                say("the time is over: the other kernels keep their tiles")
                break
            name = tiles.key(kind, shape, dtype == jnp.float32)
            found = of_kernel(kernels, kind, shape, dtype, flags.quick) | {"times": count}
            kept[name] = {"tile": found["tile"], "us": found["us"], "xla_us": found["xla_us"]}
            cases[name] = {"results": {"ours": found}}
            if all(isinstance(found[each], float) for each in ("us", "xla_us")):
                ratios[name] = found["xla_us"] / found["us"]
            say(f"{name}: XLA {found['xla_us']}, ours {found['us']} us")
    known = tiles.chosen(card)
    choice = {**known, "card": card, "tiles": {**known.get("tiles", {}), **kept}}
    _write(path, choice)
    if steps and kept:
        steps["packed, these tiles"] = _step(fields, flags.trials, "packed")
    if steps:
        best = max(steps, key=lambda name: steps[name]["images_per_second"])
        if best == "packed":  # its tiles were the usual ones: the single kernels' times were misleading
            choice["tiles"] = known.get("tiles", {})
        if flags.form == "cifar":  # which every network follows unless its config says otherwise
            choice |= {"form": "xla" if best == "xla" else "packed", "steps": steps}
        elif best == "xla":
            choice["tiles"] |= {tiles.key(*key, dtype == jnp.float32): {"tile": None} for key in times}
        ratios |= {
            f"step/{name}": entry["images_per_second"] / steps["xla"]["images_per_second"]
            for name, entry in steps.items()
        }
        cases["step"] = {"results": steps}
    choice["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    _write(path, choice)
    return {"ratios": ratios, "cases": cases, "choice": path, "seconds": time.perf_counter() - began}


def _write(path: str | None, choice: Mapping[str, Any]) -> None:
    """Keeps the choice, which the next trace of this process finds too."""
    if path is not None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        storage.write_bytes(path, json.dumps(choice, indent=1).encode())
    tiles.chosen.cache_clear()


def remark(entry: Mapping[str, Any]) -> str:
    """Images a second, or microseconds by either."""
    if "images_per_second" in entry:
        return f"{entry['images_per_second']:,.0f} images/s"
    return (
        f"{entry['times']} x; XLA {entry['xla_us']} us, ours {entry['us']} us, greatest error {entry['greatest_error']}"
    )


def main(arguments: Sequence[str]) -> None:
    """Measures what the flags ask for and prints it."""
    parser = common.parser(__doc__, ["steps", "kernels"])
    parser.add_argument("--form", choices=list(_FORMS), default="cifar")
    parser.add_argument("--depth", type=int, help="layers of the ResNet; default 32, for ImageNet 50")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--batch", type=int, help="images of a trial; default 128, for ImageNet 32")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--seconds", type=float, help="of all; default 170, for ImageNet 500")
    flags = parser.parse_args(arguments)
    usual = {"cifar": (32, 128, 170), "imagenet": (50, 32, 500)}[flags.form]
    flags.depth, flags.batch, flags.seconds = (
        given or other for given, other in zip((flags.depth, flags.batch, flags.seconds), usual, strict=True)
    )
    device = jax.devices()[0]
    card = cards.card_of(device)
    if reason := cards.obstacle(card):
        raise SystemExit(f"benchmarks.packed wants a GPU and jax_triton, but on {device.device_kind!r} {reason}")
    result = common.header("packed", arguments, _PACKAGES) | measure(flags, gpu.Kernels(card))
    print(json.dumps(result, indent=2) if flags.json else common.text(result, remark, [f"choice: {result['choice']}"]))
    say("done")


if __name__ == "__main__":
    main(sys.argv[1:])
