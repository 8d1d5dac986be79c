"""For the notebooks: comparing, checking exercises, drawing in colors safe for the color-blind."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette. Sequential maps are "viridis" or "cividis", diverging ones "PuOr".
BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
RED = "#D55E00"
PINK = "#CC79A7"
PALETTE = [BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK, YELLOW]
ROOT = Path(__file__).resolve().parents[1]


def setup(seed: int = 0) -> None:
    """Make `nanollava` and `checkpoints/` reachable from anywhere; set the seed and the style.

    Says what holds for all numbers below, so that a reader need not look here.
    """
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    torch.manual_seed(seed)
    style = {
        "figure.dpi": 90,
        "font.size": 9,
        "axes.titlesize": 10,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": plt.cycler(color=PALETTE),
        "image.cmap": "viridis",
    }
    plt.rcParams.update(style)
    print(f"random seed {seed}; all numbers are float32, on the CPU, unless stated otherwise")


def compare(name: str, mine, package, atol: float = 1e-5, rtol: float = 1e-5) -> None:
    """Asserts that two tensors are equal up to rounding; prints shape and largest difference."""
    mine = torch.as_tensor(mine).detach()
    package = torch.as_tensor(package).detach()
    torch.testing.assert_close(mine, package, atol=atol, rtol=rtol)
    difference = 0.0
    if mine.numel() > 0:
        difference = (mine.double() - package.double()).abs().max().item()
    shape = " x ".join(map(str, mine.shape)) or "one number"
    print(f"{name}: {shape}, largest difference {difference:.1e}")


@contextmanager
def check(name: str) -> Iterator[None]:
    """Tests the function that the reader writes in an exercise, and says how it went.

    An error does not stop the notebook, so all cells can be run at once.
    """
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        print(f"{name}: not yet. {type(error).__name__}: {lines[0]}")
    else:
        print(f"{name}: passed")


def sliders(draw, **ranges: tuple[float, float, float]) -> None:
    """Calls `draw` with its defaults; live, again for each move of a slider (least, most, step).

    Without ipywidgets, and where notebooks are run by execute.py, the first figure stays.
    """
    if "NANOLLAVA_STATIC" in os.environ:
        draw()
        return
    try:
        import ipywidgets
    except ImportError:
        draw()
        return
    ipywidgets.interact(draw, **ranges)


def training_sample(
    turns: list[dict], pixel_values, tokenizer, image_token_id: int, num_patches: int
) -> dict[str, torch.Tensor]:
    """A training sample (notebook 5): ids and labels of the turns, and pixels if there are any."""
    # Imported here: `setup` makes the package reachable first.
    from nanollava.conversation import encode, expand

    ids, labels = encode(turns, tokenizer)
    ids, labels = expand(ids, labels, image_token_id, num_patches)
    sample = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
    if pixel_values is not None:
        sample["pixel_values"] = pixel_values
    return sample


@torch.no_grad()
def log_probability(assistant, requests: list[tuple]) -> torch.Tensor:
    """log p(answer | image, question), summed over the answer's tokens, of (image or None,
    question, answer) requests: (requests,)."""
    # Imported here: `setup` makes the package reachable first.
    from nanollava.data import collate
    from nanollava.image import preprocess

    model = assistant.model
    num_patches = model.config.vision_config.num_patches
    image_token_id = model.config.image_token_id
    samples = []
    for image, question, answer in requests:
        pixel_values = None
        if image is not None:
            question = f"<image>\n{question}"
            pixel_values = preprocess(image, assistant.image_config)[None]
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        sample = training_sample(
            turns, pixel_values, assistant.tokenizer, image_token_id, num_patches
        )
        samples.append(sample)
    batch = collate(samples)
    log_p = model(batch["input_ids"], batch.get("pixel_values"))[:, :-1].log_softmax(-1)
    labels = batch["labels"][:, 1:]
    chosen = log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0]  # (B, T - 1)
    return chosen.masked_fill(labels == -100, 0).sum(1)


def parameter_count(module: torch.nn.Module) -> int:
    """The number of numbers in all weights of a module."""
    count = 0
    for weight in module.parameters():
        count += weight.numel()
    return count


def toyland_pixel_values(scenes) -> torch.Tensor:
    """Toyland scenes as the vision tower reads them: (scenes, 3, 100, 100)."""
    # Imported here: `setup` makes the package reachable first.
    from nanollava.toyland.clip import pixels, to_pixel_values

    images = []
    for scene in scenes:
        images.append(pixels(scene))
    return to_pixel_values(torch.tensor(np.stack(images)))


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple]:
    """The shape of each tensor, by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def rounded(values: dict, digits: int | None = None) -> dict:
    """The values of a dict, rounded for printing; to whole numbers without `digits`."""
    return {name: round(value, digits) for name, value in values.items()}


def array(x) -> np.ndarray:
    """A tensor, list or array as an array."""
    if isinstance(x, torch.Tensor):
        return x.detach().float().cpu().numpy()
    return np.asarray(x)


def hide_axes(ax) -> None:
    """No ticks and no frame."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def panel(width: float, height: float):
    """The axes of a new figure; its size in inches."""
    _, ax = plt.subplots(figsize=(width, height))
    return ax


def panels(count: int, width: float, height: float, **options) -> np.ndarray:
    """The axes of a new figure with `count` panels side by side; its size in inches."""
    _, axes = plt.subplots(1, count, figsize=(width, height), **options)
    return axes


def color_bar(shown, label: str = "", **options) -> None:
    """A color bar beside the axes of an image or heat map, or beside all axes in `ax`."""
    options.setdefault("ax", shown.axes)
    shown.figure.colorbar(shown, label=label, **options)


def picture(ax, image, title: str = "", grid: int = 0) -> None:
    """An image (H, W, 3) without axes; `grid` draws the lines between grid x grid patches."""
    image = np.asarray(image)
    ax.imshow(image, interpolation="nearest")
    ax.set_title(title)
    hide_axes(ax)
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
    if text:
        label = dict(boxstyle="round,pad=0.15", fc="black", ec="none", alpha=0.75)
        style = dict(color="white", ha="center", va="bottom", fontsize=8, bbox=label)
        middle = min(max((x1 + x2) / 2, 0.17 * size), 0.83 * size)  # inside the image
        ax.text(middle, y1 - 0.01 * size, text, **style)


def patches_inside(corners, grid: int) -> torch.Tensor:
    """Which of grid x grid patches have their center in a box (x1, y1, x2, y2): (P,), in bools."""
    x1, y1, x2, y2 = corners
    center = (torch.arange(grid) + 0.5) / grid
    rows = (center > y1) & (center < y2)
    columns = (center > x1) & (center < x2)
    return (rows[:, None] & columns[None]).flatten()


def mark(ax, image, patch: int, grid: int, color: str = RED) -> None:
    """A frame around one patch, counted in reading order."""
    side = len(np.asarray(image)) / grid
    row, column = divmod(patch, grid)
    corner = (column * side - 0.5, row * side - 0.5)
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
    ax.set_title(title)
    hide_axes(ax)
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
        row, column = divmod(i, grid)
        x = (column + 0.5) * side - 0.5
        y = (row + 0.5) * side - 0.5
        style = dict(color="#666666", weight="normal")
        if strong is None or bool(strong[i]):
            style = dict(color="black", weight="bold")
        ax.text(x, y, word, ha="center", va="center", fontsize=fontsize, **style)


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
    label_ticks(ax.yaxis, rows or [], rotation=0)
    label_ticks(ax.xaxis, columns or [], rotation=90)
    if form:
        for (y, x), value in np.ndenumerate(values):
            red, green, blue, _ = shown.cmap(shown.norm(value))
            brightness = 0.3 * red + 0.59 * green + 0.11 * blue
            color = "white" if brightness < 0.5 else "black"
            ax.text(x, y, format(value, form), ha="center", va="center", color=color, fontsize=7)
    return shown


def weights(ax, values, title: str = "", xlabel: str = "key", ylabel: str = "query"):
    """Weights or a mask (T, S) as a heat map from 0 to 1; returns what a color bar needs."""
    shown = ax.imshow(values, "cividis", vmin=0, vmax=1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator("auto", integer=True))  # positions
    ax.set_title(title)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return shown


def stacked_bar(
    ax, x: float, sizes: dict[str, float], colors: dict[str, str], labels: bool, alpha: float = 1.0
) -> None:
    """Sizes one above the other at `x`; `labels` names them in the legend."""
    below = 0.0
    for name, color in colors.items():
        size = sizes[name]
        style = dict(color=color, edgecolor="white", lw=0.4, alpha=alpha)
        bar = ax.bar(x, size, 0.75, bottom=below, **style)
        if labels:
            bar.set_label(name)
        below += size


def label_ticks(axis, words: list[str], rotation: float) -> None:
    """A word at each whole number of an axis."""
    axis.set_ticks(range(len(words)), words, rotation=rotation)
    axis.set_tick_params(length=0)


def token_view(
    texts, trained, values=None, note="filled and bold: trained; pale: read, not trained", width=9.0
):
    """Tokens as boxes in reading order, trained ones filled; `values` as a bar under each."""
    row_height = 0.36 if values is None else 0.62  # inches, as `width`
    boxes = token_boxes(texts, width)
    last_line = boxes[-1][1]
    height = (last_line + 1) * row_height
    fig = plt.figure(figsize=(width, height + 0.3), layout="none")
    ax = fig.add_axes((0, 0, 1, height / (height + 0.3)), xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    for (x, line, box_width), text, is_trained in zip(boxes, texts, trained, strict=True):
        draw_token(ax, x, line * row_height + 0.02, box_width, text, is_trained)
    if values is not None:
        largest = max(value for value in values if value is not None)
        for (x, line, box_width), value in zip(boxes, values, strict=True):
            if value is not None:
                y = line * row_height + 0.30
                ax.add_patch(Rectangle((x, y), box_width, 0.3 * value / largest, fc=ORANGE))
    fig.text(0.0, 1, note, fontsize=9, va="top")
    return fig


def token_boxes(texts: list[str], width: float) -> list[tuple[float, int, float]]:
    """Left edge, line and width of a box for each text, wrapped at `width` inches."""
    character = 5.6 / 72  # inches
    boxes = []
    x = 0.0
    line = 0
    for text in texts:
        box_width = max(1, len(text)) * character + 0.1
        if x + box_width > width:
            x = 0.0
            line += 1
        boxes.append((x, line, box_width))
        x += box_width + 0.04
    return boxes


def draw_token(ax, x: float, y: float, width: float, text: str, is_trained: bool) -> None:
    """One box of `token_view`; x, y and width in inches."""
    box_style = dict(fc="#F2F2F2", ec="#C8C8C8", lw=0.8)
    text_style = dict(color="#444444")
    if is_trained:
        box_style = dict(fc=BLUE, ec=BLUE, lw=0.8)
        text_style = dict(color="white", weight="bold")
    ax.add_patch(Rectangle((x, y), width, 0.26, **box_style))
    middle = (x + width / 2, y + 0.135)
    style = dict(family="monospace", fontsize=9, ha="center", va="center", **text_style)
    ax.text(*middle, text, **style)


def token_rows(rows: dict[str, list[str]], width: float = 9.0, label_width: float = 1.1):
    """The tokens of one text, cut in several ways: a line of boxes for each, beside its name."""
    character = 5.6 / 72  # inches
    row_height = 0.36
    height = len(rows) * row_height
    fig = plt.figure(figsize=(width, height), layout="none")
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    for line, (name, texts) in enumerate(rows.items()):
        y = line * row_height + 0.05
        ax.text(0, y + 0.14, name, va="center", fontsize=9)
        x = label_width
        for i, text in enumerate(texts):
            box_width = len(text) * character + 0.06
            color = "#CFE8F7" if i % 2 else "#F7E3BF"
            ax.add_patch(Rectangle((x, y), box_width, 0.26, fc=color, ec="#AAAAAA", lw=0.6))
            middle = (x + box_width / 2, y + 0.135)
            ax.text(*middle, text, family="monospace", fontsize=9, ha="center", va="center")
            x += box_width + 0.02
    return fig
