"""Captions and boxes: all that a text-only judge or teacher knows of an image."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import read_json
from .answers import read_rows

Box = tuple[str, list[float]]  # category, [x1, y1, x2, y2] in fractions of width and height


@dataclass(frozen=True)
class Context:
    """One image in words."""

    image: str  # file name
    captions: list[str]
    boxes: list[Box]

    def __str__(self) -> str:
        """The text that judge and teacher read: captions, an empty line, one box per line."""
        lines = list(self.captions)
        if self.boxes:
            lines.append("")
        for category, corners in self.boxes:
            lines.append(f"{category}: {list(corners)}")
        return "\n".join(lines)


def read_contexts(paths: list[str]) -> dict[str, Context]:
    """Read the contexts of images, by file name without its extension.

    `paths` is one JSONL file with `captions` and `boxes` (Toyland) or `instances` (LLaVA) or with
    a `caption` alone (In-the-Wild), or COCO's captions_*.json and instances_*.json, in this order.
    """
    if len(paths) == 1:
        rows = list(read_rows(paths[0], "image").values())
    elif len(paths) == 2:
        rows = read_coco(paths[0], paths[1])
    else:
        raise UserError(f"{' '.join(paths)}: expected one JSONL file, or COCO's two JSON files")
    contexts: dict[str, Context] = {}
    for row in rows:
        try:
            context = make_context(row)
            name = Path(context.image).stem
            if name in contexts:
                raise ValueError("a second image of this name")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            problem = f"{type(error).__name__} {error} in {str(row)[:200]}"
            raise UserError(f"{' '.join(paths)}: {problem}") from None
        contexts[name] = context
    return contexts


def make_context(row: dict) -> Context:
    """Build the context of one row; ValueError if it has no captions or a bad box."""
    captions = row.get("captions")
    if not captions:
        captions = [row.get("caption") or ""]
    captions = [caption for caption in captions if caption.strip()]
    if not captions:
        raise ValueError("no captions")
    boxes = row.get("boxes")
    if not boxes:
        boxes = [(box["category"], box["bbox"]) for box in row.get("instances", ())]
    for _, (x1, y1, x2, y2) in boxes:
        if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
            problem = "expected 0 <= x1 <= x2 <= 1 and the same for y"
            raise ValueError(f"box {[x1, y1, x2, y2]}: {problem}")
    return Context(row["image"], captions, boxes)


def read_coco(captions_path: str, instances_path: str) -> list[dict]:
    """Rows of the images in COCO's captions file, with boxes from its instances file."""
    captions = read_json(captions_path)
    instances = read_json(instances_path)
    rows: dict[int, dict] = {}
    try:
        for image in captions["images"]:
            rows[image["id"]] = {"image": image["file_name"], "captions": [], "boxes": []}
        for annotation in captions["annotations"]:
            rows[annotation["image_id"]]["captions"].append(annotation["caption"].strip())
        sizes = {image["id"]: (image["width"], image["height"]) for image in captions["images"]}
        categories = {row["id"]: row["name"] for row in instances["categories"]}
        for annotation in instances["annotations"]:
            image_id = annotation["image_id"]
            if image_id not in rows:
                continue
            W, H = sizes[image_id]
            x, y, w, h = annotation["bbox"]  # pixels: the upper left corner, width and height
            corners = [x / W, y / H, (x + w) / W, (y + h) / H]
            corners = [round(value, 3) for value in corners]
            rows[image_id]["boxes"].append((categories[annotation["category_id"]], corners))
    except (ValueError, LookupError, TypeError, AttributeError, ZeroDivisionError) as error:
        problem = f"not COCO's captions and instances files ({type(error).__name__}: {error})"
        raise UserError(f"{captions_path} {instances_path}: {problem}") from None
    return list(rows.values())
