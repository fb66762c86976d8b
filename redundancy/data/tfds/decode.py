"""Decodes, crops and resizes images inside a tf.data pipeline; of a JPEG, only what the crop needs is decoded."""

import dataclasses
import functools

import numpy as np

from redundancy.data.crops import RandomResizedCrop
from redundancy.data.resize import resize
from redundancy.data.tfds.quiet import tf

_RATIOS = (1, 2, 4, 8)
_JPEG = b"\xff\xd8\xff"


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Decodes images independently of each other; takes several per call, to save calls of Python."""

    channels: int  # 1, 3 or 4
    size: int  # side of the result in pixels; 0 keeps the size of images
    eval_crop: float = 1.0  # side of the centre square, as a share of the shorter side; used without `crop`
    crop: RandomResizedCrop | None = None

    def __call__(self, encoded: tf.Tensor, *draws: tf.Tensor) -> tf.Tensor:
        """Decodes string [k] to pixels uint8 [k, H, W, C]; k must be static. With a crop, *draws is float64 [k, TRIES, 4]."""
        return _traced(self)(encoded, *draws)

    def _decode(self, encoded, *draws):
        each = tf.unstack(encoded)
        if not self.size:
            return tf.stack([self._whole(one) for one in each])
        jpeg = tf.strings.substr(encoded, 0, len(_JPEG)) == _JPEG

        def all_jpeg():
            sides = tf.stack([_jpeg_sides(one) for one in each])
            boxes = self._boxes(sides, *draws)
            levels = self._levels(boxes)
            return tf.cond(
                tf.reduce_any(levels > 0),
                lambda: self._parts(each, sides, boxes, levels),
                lambda: self._full_size(each, sides, boxes),
            )

        def mixed():
            sides_of = tf.function(self._sides, autograph=False)
            sides = tf.stack([sides_of(one, flag) for one, flag in zip(each, tf.unstack(jpeg), strict=True)])
            boxes = self._boxes(sides, *draws)
            return self._parts(each, sides, boxes, tf.where(jpeg, self._levels(boxes), len(_RATIOS)))

        boxes, *parts = tf.cond(tf.reduce_all(jpeg), all_jpeg, mixed)
        return tf.numpy_function(lambda *given: self._resize(*given), [boxes, *parts], tf.uint8, stateful=False)

    def _resize(self, boxes, *parts):
        resized = np.empty((len(parts), self.size, self.size, self.channels), np.uint8)
        for row, (part, box) in enumerate(zip(parts, boxes, strict=True)):
            resized[row] = resize(part, box, self.size)
        return resized

    def _whole(self, encoded):
        image = tf.io.decode_image(encoded, self.channels, expand_animations=False)
        image.set_shape([None, None, self.channels])
        return image

    def _sides(self, encoded, jpeg):
        return tf.cond(jpeg, lambda: _jpeg_sides(encoded), lambda: tf.shape(self._whole(encoded))[:2])

    def _boxes(self, sides, *draws):
        """float64 [k, 4]: top, left, height, width, from RandomResizedCrop.windows or crops.centre_box."""
        sides = tf.cast(sides, tf.float64)
        if self.crop is None:
            side = self.eval_crop * tf.reduce_min(sides, 1, keepdims=True)
            return tf.concat([(sides - side) / 2, side, side], 1)
        (draws,) = draws
        tried = tf.round(draws[..., :2] * tf.sqrt(tf.reduce_prod(sides, 1))[:, None, None])
        fits = tf.reduce_all((tried >= 1) & (tried <= sides[:, None]), 2)
        first = tf.argmax(fits, 1)
        chosen = tf.gather(tried, first, batch_dims=1)
        corners = tf.floor(tf.gather(draws[..., 2:], first, batch_dims=1) * (sides - chosen + 1))
        limits = tf.constant([1 / self.crop.aspect[0], self.crop.aspect[1]], tf.float64)
        around = tf.minimum(sides, tf.maximum(tf.ones((), tf.float64), tf.round(sides[:, ::-1] * limits)))
        centred = tf.concat([tf.floor((sides - around) / 2), around], 1)
        return tf.where(tf.reduce_any(fits, 1)[:, None], tf.concat([corners, chosen], 1), centred)

    def _levels(self, boxes):
        """int32 [k]: index in _RATIOS of the greatest ratio that leaves enough pixels."""
        spare = 2 if self.crop is None else 1
        enough = tf.constant(_RATIOS[1:], tf.float64) * spare * self.size
        return tf.reduce_sum(tf.cast(tf.reduce_min(boxes[:, 2:], 1)[:, None] >= enough, tf.int32), 1)

    def _full_size(self, each, sides, boxes):
        """The boxes, relative to the decoded parts of the images, and these parts: uint8 [h, w, C] each."""
        low, extent = _windows(boxes, sides)
        windows = tf.unstack(tf.concat([low, extent], 1), len(each))
        parts = [self._jpeg(one, window, 1) for one, window in zip(each, windows, strict=True)]
        return [_from(low, boxes), *parts]

    def _parts(self, each, sides, boxes, levels):
        """As _full_size, with JPEGs decoded at their levels."""
        ratios = tf.gather(tf.constant([*_RATIOS, 1]), levels)[:, None]
        boxes = boxes / tf.cast(ratios, tf.float64)
        low, extent = _windows(boxes, (sides + ratios - 1) // ratios)
        windows = tf.unstack(tf.concat([low, extent], 1), len(each))
        part = tf.function(self._part, autograph=False)  # traced once for all images
        return [_from(low, boxes), *map(part, each, windows, tf.unstack(levels, len(each)))]

    def _part(self, encoded, window, level):
        branches = [functools.partial(self._jpeg, encoded, window, ratio) for ratio in _RATIOS]
        return tf.switch_case(level, [*branches, functools.partial(self._other, encoded, window)])

    def _jpeg(self, encoded, window, ratio):
        part = tf.image.decode_and_crop_jpeg(encoded, window, self.channels, ratio)
        return tf.ensure_shape(part, [None, None, self.channels])

    def _other(self, encoded, window):
        part = tf.slice(self._whole(encoded), [window[0], window[1], 0], [window[2], window[3], self.channels])
        return tf.ensure_shape(part, [None, None, self.channels])


@functools.lru_cache(maxsize=16)
def _traced(decoder: Decoder):
    """The decoder's graph, cached for all streams of a process, since tracing takes up to a second."""
    return tf.function(decoder._decode, autograph=False)


def _jpeg_sides(encoded):
    return tf.io.extract_jpeg_shape(encoded)[:2]


def _windows(boxes, sides):
    """For the pixels that contain the boxes, down and across: the first ones and their numbers, int32 [k, 2] each."""
    low = tf.cast(tf.floor(boxes[:, :2]), tf.int32)
    high = tf.minimum(sides, tf.cast(tf.math.ceil(boxes[:, :2] + boxes[:, 2:]), tf.int32))
    low = tf.minimum(low, high - 1)
    return low, high - low


def _from(low, boxes):
    return tf.concat([boxes[:, :2] - tf.cast(low, tf.float64), boxes[:, 2:]], 1)
