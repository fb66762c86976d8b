"""Figures made of images: redundant groups with the kept image framed (Figures 1, 3, 6, 11), and pairs beside their
nearest neighbour outside (Figure 12). Pure: images in, bytes out."""

import dataclasses
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle

from redundancy.report import images
from redundancy.report.figures import INK, KEPT, STYLE, Plot, finish, new_figure, printable

_WIDTH = 7.0  # inches, a page's text
_COLUMNS = 14  # tiles in a line
_GAP = 0.12  # between images of a group, of a tile
_GROUP_GAP = 0.55
_LINE_GAP = 0.35
_TITLE = 0.75
_SIDE = 96  # pixels that larger images are reduced to


@dataclasses.dataclass(frozen=True)
class Block:
    """A title over groups of images uint8 [H, W, C], with a caption of each image or none; of the first `framed` groups
    (None: of all) the first image is framed."""

    title: str
    groups: Sequence[Sequence[np.ndarray]]
    captions: Sequence[Sequence[str]] = ()
    framed: int | None = None


def _layout(blocks: Sequence[Block], lines: int, beside: bool) -> tuple[list[tuple], list[tuple], float]:
    """Tiles (x, y, image, framed, caption), titles (x, y, text), and the height, in tiles.

    Groups are set in lines like words; `beside` sets blocks so, too.
    """
    tiles, titles = [], []
    captioned = any(block.captions for block in blocks)
    line = 1 + _LINE_GAP + 0.35 * captioned
    x, y = 0.0, 0.0
    for number, block in enumerate(blocks):
        width = sum(len(group) * (1 + _GAP) + _GROUP_GAP for group in block.groups)
        if beside and number and x + width - _GROUP_GAP <= _COLUMNS:
            y -= _TITLE
        elif number:
            x, y = 0.0, y + line
        if not beside:
            x = 0.0
        titles.append((x, y + 0.5, printable(block.title, 40)))
        y += _TITLE
        used, framed = 1, len(block.groups) if block.framed is None else block.framed
        for index, group in enumerate(block.groups):
            if x and x + len(group) * (1 + _GAP) - _GAP > _COLUMNS and not beside:
                if used == lines:
                    break
                x, y, used = 0.0, y + line, used + 1
            for place, image in enumerate(group):
                caption = block.captions[index][place] if block.captions else ""
                tiles.append((x, y, image, place == 0 and index < framed, caption))
                x += 1 + _GAP
            x += _GROUP_GAP
    return tiles, titles, y + line


def gallery_plot(blocks: Sequence[Block], name: str, lines: int = 3, beside: bool = False) -> Plot:
    """Groups of images under titles, the first of each group framed green.

    Args:
      blocks: at least one, with at least one group.
      name: of the figure.
      lines: of groups under one title at most.
      beside: whether blocks stand side by side if they fit.
    """
    tiles, titles, height = _layout(blocks, lines, beside)
    pictures = [images.reduced(image, _SIDE) for _, _, image, *_ in tiles]
    rows, columns = pictures[0].shape[:2]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(_WIDTH, _WIDTH / _COLUMNS * height * (rows / columns), layout=None)
        axes = figure.add_axes((0.005, 0, 0.99, 1))
        axes.set(xlim=(-0.08, _COLUMNS + 0.08), ylim=(height, -0.05))
        axes.axis("off")
        # One image and one collection: drawing hundreds of artists takes seconds.
        canvas = np.zeros((round(height * rows) + 1, round((_COLUMNS + 0.1) * columns) + 1, 4), np.uint8)
        frames = []
        for (x, y, _, framed, caption), picture in zip(tiles, pictures, strict=True):
            top, left = round(y * rows), round(x * columns)
            part = canvas[top : top + rows, left : left + columns]
            part[..., :3] = picture[: part.shape[0], : part.shape[1]]
            part[..., 3] = 255
            if framed:
                frames.append(Rectangle((left / columns, top / rows), 1, 1))
            if caption:
                at = (left / columns + 0.5, top / rows + 1.32)
                axes.text(*at, caption, ha="center", fontsize=6.5, parse_math=False)
        extent = (0, canvas.shape[1] / columns, canvas.shape[0] / rows, 0)
        axes.imshow(canvas, extent=extent, interpolation="none", aspect="auto", zorder=1)
        axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor=KEPT, linewidth=1.8, zorder=2))
        for x, y, title in titles:
            axes.text(x, y, title, fontsize=9, fontweight="bold", color=INK, parse_math=False)
        return finish(figure, name, "Redundant groups; the image framed green is kept.")
