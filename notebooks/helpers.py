"""Drawing for the notebooks: images, patches and matrices, in colors safe for the color-blind."""

import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

# Okabe and Ito's palette. Sequential maps are "viridis" or "cividis", diverging ones "PuOr".
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PINK = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
PALETTE = [BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK, YELLOW]
ROOT = Path(__file__).resolve().parents[1]


def setup(seed: int = 0) -> None:
    """Make `nanollava` and `checkpoints/` reachable from anywhere; set the seed and the style."""
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    torch.manual_seed(seed)
    look = {
        "figure.dpi": 90,
        "font.size": 9,
        "axes.titlesize": 10,
        "figure.constrained_layout.use": True,
    }
    look |= {"axes.spines.top": False, "axes.spines.right": False, "image.cmap": "viridis"}
    plt.rcParams.update(look, **{"axes.prop_cycle": plt.cycler(color=PALETTE)})


def array(x) -> np.ndarray:
    return x.detach().float().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def picture(ax, image, title: str = "", grid: int = 0) -> None:
    """An image (H, W, 3) without axes; `grid` draws the lines between grid x grid patches."""
    image = np.asarray(image)
    ax.imshow(image, interpolation="nearest")
    ax.set(xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(False)
    for i in range(1, grid):
        position = i * len(image) / grid - 0.5
        ax.axhline(position, color="white", lw=0.6)
        ax.axvline(position, color="white", lw=0.6)


def box(ax, image, corners, text: str = "", color: str = YELLOW) -> None:
    """A box (x1, y1, x2, y2) in fractions of the image, with a word above it."""
    size = len(np.asarray(image))
    x1, y1, x2, y2 = (v * size - 0.5 for v in corners)
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec="black", lw=2.6))
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=color, lw=1.4))
    label = dict(boxstyle="round,pad=0.15", fc="black", ec="none", alpha=0.75)
    middle = min(max((x1 + x2) / 2, 0.17 * size), 0.83 * size)
    if text:
        ax.text(
            middle,
            y1 - 0.01 * size,
            text,
            color="white",
            ha="center",
            va="bottom",
            fontsize=8,
            bbox=label,
        )


def mark(ax, image, patch: int, grid: int, color: str = RED) -> None:
    """A frame around one patch, counted in reading order."""
    side = len(np.asarray(image)) / grid
    corner = (patch % grid * side - 0.5, patch // grid * side - 0.5)
    ax.add_patch(Rectangle(corner, side, side, fill=False, ec=color, lw=2))


def patch_heat(ax, image, values, title: str = "", vmin=0.0, vmax=None, cmap="viridis", alpha=0.72):
    """Values of the patches (P,) as colors over the gray image; returns what a color bar needs."""
    image = np.asarray(image)
    values = array(values)
    grid = round(values.size**0.5)
    size = len(image)
    gray = image.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8)
    ax.imshow(gray, interpolation="nearest")
    extent = (-0.5, size - 0.5, size - 0.5, -0.5)
    shown = ax.imshow(
        values.reshape(grid, grid), cmap, alpha=alpha, extent=extent, vmin=vmin, vmax=vmax
    )
    ax.set(xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(False)
    return shown


def patch_words(
    ax, image, words: list[str], title: str = "", strong=None, fontsize: float = 6.5
) -> None:
    """One word per patch over the faded image; black and bold where `strong` is true, else gray."""
    image = np.asarray(image)
    grid = round(len(words) ** 0.5)
    side = len(image) / grid
    picture(ax, (0.45 * image + 0.55 * 255).astype(np.uint8), title, grid)
    for i, word in enumerate(words):
        bold = strong is None or bool(strong[i])
        x, y = (i % grid + 0.5) * side - 0.5, (i // grid + 0.5) * side - 0.5
        look = dict(color="black" if bold else "#666666", weight="bold" if bold else "normal")
        ax.text(x, y, word, ha="center", va="center", fontsize=fontsize, **look)


def matrix(
    ax,
    values,
    rows=None,
    columns=None,
    title: str = "",
    form: str = "",
    cmap="viridis",
    vmin=None,
    vmax=None,
):
    """A heat map with words beside rows and below columns; `form` (".2f") prints the numbers."""
    values = array(values)
    shown = ax.imshow(values, cmap, vmin=vmin, vmax=vmax, aspect="auto")
    ax.set(title=title)
    ax.spines[:].set_visible(False)
    for axis, words, turn in ((ax.yaxis, rows, 0), (ax.xaxis, columns, 90)):
        axis.set_ticks(range(len(words or [])), words or [], rotation=turn)
        axis.set_tick_params(length=0)
    if form:
        for (y, x), value in np.ndenumerate(values):
            red, green, blue, _ = shown.cmap(shown.norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            color = "white" if dark else "black"
            ax.text(x, y, format(value, form), ha="center", va="center", color=color, fontsize=7)
    return shown


# --- 05 to 10


def token_view(
    texts, trained, values=None, note="filled and bold: trained; pale: read, not trained", width=9.0
):
    """Tokens as boxes in reading order, trained ones filled; `values` as a bar under each."""
    char, pad, row = 5.6 / 72, 0.1, 0.62 if values is not None else 0.36  # inches
    places, x, line = [], 0.0, 0
    for text in texts:
        wide = max(1, len(text)) * char + pad
        if x + wide > width:
            x, line = 0.0, line + 1
        places.append((x, line, wide))
        x += wide + 0.04
    high = (line + 1) * row
    fig = plt.figure(figsize=(width, high + 0.3), layout="none")
    ax = fig.add_axes((0, 0, 1, high / (high + 0.3)), xlim=(0, width), ylim=(high, 0))
    ax.axis("off")
    top = 1 if values is None else max(v for v in values if v is not None)
    for i, ((x, line, wide), text, own) in enumerate(zip(places, texts, trained, strict=True)):
        y = line * row + 0.02
        face, edge = (BLUE, BLUE) if own else ("#F2F2F2", "#C8C8C8")
        ax.add_patch(Rectangle((x, y), wide, 0.26, fc=face, ec=edge, lw=0.8))
        look = dict(color="white", weight="bold") if own else dict(color="#444444")
        ax.text(
            x + wide / 2,
            y + 0.135,
            text,
            family="monospace",
            fontsize=9,
            ha="center",
            va="center",
            **look,
        )
        if values is not None and values[i] is not None:
            ax.add_patch(Rectangle((x, y + 0.28), wide, 0.3 * values[i] / top, fc=ORANGE))
    fig.text(0.0, 1, note, fontsize=9, va="top")
    return fig
