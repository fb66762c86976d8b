"""Training batches of JPEGs from disk: this package's streams beside tf.data pipelines and a PyTorch-style loader.

    python -m benchmarks.input [--quick] [--json] [--only NAME …] [--images FOLDER] [--size 224]

Each makes batches of random-resized crops of the same files with all cores. Compared are the images/s after an uncounted
start; a ratio above 1 means that ours makes more. Without --images the photographs are synthetic: noise of all scales at
500 x 375 pixels, about 100 kB each, similar to ImageNet's.
"""

import contextlib
import io
import itertools
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import common
from benchmarks.common import say
from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.data.crops import RandomResizedCrop
from redundancy.data.tfds.quiet import tf, tfds

_PACKAGES = ("numpy", "tensorflow", "tensorflow-datasets", "pillow", "numba", "torch")
_CASES = ("tfds", "folder", "subset")
_BATCH, _SHARDS, _WARM_UP = 64, 16, 3
_AREA, _ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_NOTES = (
    "ours: uint8, antialiased bilinear. Flips and normalisation are left to the device.",
    "flax's example: as_dataset(shuffle_files, SkipDecoding), repeat, shuffle(16 batches), sample_distorted_bounding_box, "
    "decode_and_crop_jpeg, bicubic resize, flip, float32 normalisation, batch, prefetch(2).",
    "lean tf.data: the same up to the resize, which is bilinear (not antialiased); then uint8; no flip, no normalisation.",
    "plain tf.data: as lean, but decodes the whole image and then crops it.",
    "TensorFlow's sampler draws smaller crops on the average (0.46 of the area, ours and the loader's 0.54).",
    "PyTorch-style loader: Pillow decodes whole images, crops and resizes (bilinear), worker processes = cores, uint8.",
    "subset: ratio is the time of a full pass over that of a pass over a tenth of the images; 10 is ideal.",
)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def photograph(number: int) -> bytes:
    """A JPEG of 500 x 375 with detail at all scales."""
    rng = np.random.default_rng(number)
    image = np.zeros((375, 500, 3), np.float32)
    for level in range(8):
        shape = (375 >> level) + 2, (500 >> level) + 2
        noise = Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        image += (np.asarray(noise, np.float32) - 128) * min(0.7, 0.1 * 1.6**level)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(image + 128, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Photographs(tfds.core.GeneratorBasedBuilder):
    """JPEG files as a TFDS data set in several shards."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, files: Sequence[pathlib.Path], count: int, **kwargs):
        self._files, self._count = files, count
        super().__init__(**kwargs)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=2),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number, file in zip(range(self._count), itertools.cycle(self._files), strict=False):
            yield number, {"image": file, "label": number % 2, "file_name": f"{number}.JPEG"}


class Inputs:
    """The same photographs as a folder and as a TFDS data set, and endless batches of them by each program."""

    def __init__(self, root: pathlib.Path, files: list[pathlib.Path], count: int, size: int):
        self.size, self.crop = size, RandomResizedCrop(_AREA, _ASPECT)
        self.builder = Photographs(files, count, data_dir=str(root / "tfds"))
        tfds.disable_progress_bar()
        # Standard output is for the result, but TFDS writes to it.
        with contextlib.redirect_stdout(sys.stderr):
            self.builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=_SHARDS))
        self.files = []
        for number, file in zip(range(count), itertools.cycle(files), strict=False):
            link = root / "folder" / str(number % 2) / f"{number}.JPEG"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
            self.files.append(str(link))
        fields = {"image_size": size, "augmentation": "resized_crop_flip", "test_split": ""}
        self.tfds = open_dataset(config_lib.resolve({"dataset": str(self.builder.data_path), **fields}))
        self.folder = open_dataset(config_lib.resolve({"dataset": str(root / "folder"), **fields}))

    def ours(self, dataset, every: int = 1) -> Iterator:
        positions = dataset.train.positions[::every]
        return dataset.stream("train", positions, _BATCH, seed=(0,), crop=self.crop)

    def tf_data(self, example: Callable) -> Iterator:
        read = self.builder.as_dataset(
            split="train", shuffle_files=True, decoders={"image": tfds.decode.SkipDecoding()}
        )
        shuffled = read.repeat().shuffle(16 * _BATCH, seed=0)
        return shuffled.map(example, tf.data.AUTOTUNE).batch(_BATCH, True).prefetch(2).as_numpy_iterator()

    def flax(self) -> Iterator:
        def example(features):
            image = self._resized(self._distorted(features["image"]), tf.image.ResizeMethod.BICUBIC)
            image = tf.image.random_flip_left_right(image)
            return (image - tf.constant(_MEAN)) / tf.constant(_STD), features["label"]

        return self.tf_data(example)

    def lean(self) -> Iterator:
        def example(features):
            return tf.cast(self._resized(self._distorted(features["image"])), tf.uint8), features["label"]

        return self.tf_data(example)

    def plain(self) -> Iterator:
        def example(features):
            image = tf.io.decode_jpeg(features["image"], channels=3)
            begin, extent = self._sampled(tf.shape(image))
            return tf.cast(self._resized(tf.slice(image, begin, extent)), tf.uint8), features["label"]

        return self.tf_data(example)

    def torch(self) -> Iterator:
        import torch

        files, size = self.files, self.size

        def stacked(examples):
            images, labels = zip(*examples, strict=True)
            return np.stack(images), np.array(labels)

        class Crops(torch.utils.data.Dataset):
            def __len__(self):
                return len(files)

            def __getitem__(self, index):
                with Image.open(files[index]) as image:
                    image = image.convert("RGB")
                rng = np.random.default_rng()
                box = _pillow_crop(rng, *image.size)
                return np.asarray(image.crop(box).resize((size, size), Image.Resampling.BILINEAR)), index % 2

        def endless():
            while True:
                yield from torch.utils.data.DataLoader(
                    Crops(), _BATCH, True, num_workers=_cores(), drop_last=True, collate_fn=stacked
                )

        return endless()

    def _sampled(self, shape):
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            min_object_covered=0.1,
            aspect_ratio_range=_ASPECT,
            area_range=_AREA,
            max_attempts=10,
        )
        return begin, extent

    def _distorted(self, encoded):
        begin, extent = self._sampled(tf.io.extract_jpeg_shape(encoded))
        return tf.image.decode_and_crop_jpeg(encoded, tf.concat([begin[:2], extent[:2]], 0), channels=3)

    def _resized(self, image, method=tf.image.ResizeMethod.BILINEAR):
        return tf.image.resize(image, [self.size, self.size], method)


def _pillow_crop(rng, width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area, aspect = width * height * rng.uniform(*_AREA), np.exp(rng.uniform(*np.log(_ASPECT)))
        across, down = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left, top = rng.integers(width - across + 1), rng.integers(height - down + 1)
            return left, top, left + across, top + down
    return 0, 0, width, height


def _seconds(make: Callable[[], Iterator], batches: int) -> tuple[float, float]:
    """Seconds for `batches` batches, and seconds until the first one."""
    start = time.perf_counter()
    stream = make()
    for _ in range(_WARM_UP):
        next(stream)
    begin = time.perf_counter()
    for _ in range(batches):
        next(stream)
    end = time.perf_counter()
    if hasattr(stream, "close"):
        stream.close()
    return end - begin, begin - start


def compare(ours: Callable, peers: dict[str, Callable], batches: int, repeats: int) -> dict[str, Any]:
    """Entries by name: ours and the peers in turn, each making the same number of images."""
    times: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    first = {}
    for number in range(repeats):
        for name, make in {"ours": ours, **peers}.items():
            seconds, until = _seconds(make, batches)
            times[name].append(seconds)
            first.setdefault(name, until)
            say(f"{number + 1}/{repeats} {name}: {batches * _BATCH / seconds:,.0f} images/s")
    entries = {}
    for name, seconds in times.items():
        median = statistics.median(seconds)
        entries[name] = {
            "median_s": median,
            "seconds": seconds,
            "first_call_s": first[name],
            "images_per_second_and_core": batches * _BATCH / median / _cores(),
        }
        if name != "ours":
            ratios = [peer / of_ours for peer, of_ours in zip(seconds, times["ours"], strict=True)]
            entries[name] |= {"ratios": ratios, "ratio": statistics.median(ratios)}
    return entries


def subset(inputs: Inputs, batches: int, repeats: int) -> dict[str, Any]:
    """Times of a pass over all images and of one over every tenth image."""
    entries: dict[str, Any] = {}
    size = len(inputs.tfds.train.positions)
    for name, every in (("a tenth", 10), ("all", 1)):
        passed = -(-size // every) / (batches * _BATCH)
        seconds = [
            _seconds(lambda every=every: inputs.ours(inputs.tfds, every), batches)[0] * passed for _ in range(repeats)
        ]
        entries[name] = {"median_s": statistics.median(seconds), "seconds": seconds}
    ratios = [full / part for full, part in zip(entries["all"]["seconds"], entries["a tenth"]["seconds"], strict=True)]
    entries["all"] |= {"ratios": ratios, "ratio": statistics.median(ratios)}
    return entries


def measure(
    files: list[pathlib.Path],
    only: Sequence[str],
    count: int,
    size: int,
    batches: int,
    repeats: int,
    loader: bool = True,
) -> dict[str, Any]:
    """The result with all cases. Writes the data of all programs to a temporary folder first."""
    cases: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if not files:
            say("making photographs")
            for number in range(min(count, 256)):
                files.append(root / f"{number}.JPEG")
                files[-1].write_bytes(photograph(number))
        say(f"writing {count} images as a TFDS data set and a folder")
        inputs = Inputs(root, files, count, size)
        sizes = {
            "images": count,
            "different_files": len(files),
            "mean_bytes": round(statistics.mean(file.stat().st_size for file in files)),
            "size": size,
            "batch": _BATCH,
        }
        peers = {"flax's example": inputs.flax, "lean tf.data": inputs.lean, "plain tf.data": inputs.plain}
        torch = {"PyTorch-style loader": inputs.torch} if loader and common.version("torch") else {}
        if "tfds" in only:
            cases["tfds"] = {"results": compare(lambda: inputs.ours(inputs.tfds), peers | torch, batches, repeats)}
        if "folder" in only:
            cases["folder"] = {"results": compare(lambda: inputs.ours(inputs.folder), torch, batches, repeats)}
        if "subset" in only:
            cases["subset"] = {"results": subset(inputs, batches, repeats)}
    return {name: case | {"sizes": sizes} for name, case in cases.items()}


def _remark(entry) -> str:
    rate = entry.get("images_per_second_and_core")
    return "" if rate is None else f"{common.significant(rate)} images/s and core"


def main(arguments: Sequence[str]) -> None:
    flags = common.parser(__doc__, _CASES)
    flags.add_argument("--images", type=pathlib.Path, help="folder of JPEGs, at any depth")
    flags.add_argument("--size", type=int, default=224, help="side of the crops, pixels")
    given = flags.parse_args(arguments)
    files = []
    if given.images:
        files = sorted(file for file in given.images.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
        if not files:
            flags.error(f"--images {given.images}: no .jpg or .jpeg file in it")
    count, batches, repeats = (1024, 32, 2) if given.quick else (4096, 64, 5)
    result = common.header("input", arguments, _PACKAGES)
    result["cases"] = measure(files, given.only or _CASES, count, given.size, batches, repeats)
    result["ratios"] = {
        name: {by: entry["ratio"] for by, entry in case["results"].items() if "ratio" in entry}
        for name, case in result["cases"].items()
    }
    print(json.dumps(result, indent=1) if given.json else common.text(result, _remark, _NOTES))


if __name__ == "__main__":
    main(sys.argv[1:])
