"""Captions and boxes: all that a text-only judge or teacher knows of an image."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import read_json, read_json_lines
from ..schema import check_value, optional, require, short

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
        rows = {}
        for where, row in read_json_lines(paths[0]):
            rows[where] = row
    elif len(paths) == 2:
        rows = read_coco(paths[0], paths[1])
    else:
        raise UserError(f"{' '.join(paths)}: expected one JSONL file, or COCO's two JSON files")
    contexts: dict[str, Context] = {}
    for where, row in rows.items():
        context = make_context(row, where)
        name = Path(context.image).stem
        if name in contexts:
            raise UserError(f"{where}: image = {short(context.image)}; a second image of this name")
        contexts[name] = context
    return contexts


def make_context(row: dict, where: str) -> Context:
    """Build the context of one row; UserError if it has no captions or a bad box."""
    image = require(row, "image", str, where)
    if not Path(image).stem.isprintable():  # the answers file is read by these names
        raise UserError(
            f"{where}: image = {short(image)}; expected a printable name, without control "
            "characters and with plain spaces only"
        )
    captions = optional(row, "captions", list[str], where)
    if not captions:
        captions = [optional(row, "caption", str, where, default="")]
    captions = [caption for caption in captions if caption.strip()]
    if not captions:
        raise UserError(f"{where}: no captions")
    boxes = optional(row, "boxes", list, where)
    if not boxes:
        boxes = []
        for i, box in enumerate(optional(row, "instances", list[dict], where, default=[])):
            category = require(box, "category", str, f"{where}: instances[{i}]")
            boxes.append((category, require(box, "bbox", list, f"{where}: instances[{i}]")))
    for i, box in enumerate(boxes):
        check_box(box, f"{where}: box {i}")
    return Context(image, captions, boxes)


def check_box(box, where: str) -> None:
    """Raise a UserError unless this is a category with four corners in fractions."""
    if not isinstance(box, list | tuple) or len(box) != 2:
        raise UserError(f"{where} = {short(box)}; expected a category and its corners")
    check_value(box[0], str, f"{where}: category")
    corners = check_value(box[1], list[float], where)
    problem = f"{where} = {short(corners)}; expected 0 <= x1 <= x2 <= 1 and the same for y"
    if len(corners) != 4:
        raise UserError(problem)
    x1, y1, x2, y2 = corners
    if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
        raise UserError(problem)


def read_coco(captions_path: str, instances_path: str) -> dict[str, dict]:
    """Rows of the images in COCO's captions file, with boxes from its instances file.

    Each comes with the words that name it in error messages.
    """
    captions_file = read_json(captions_path)
    instances_file = read_json(instances_path)
    try:
        images = read_coco_captions(captions_file, captions_path)
        add_coco_boxes(images, instances_file, instances_path)
    except UserError as error:
        raise UserError(f"not COCO's captions and instances files: {error}") from None
    return {f"{captions_path}: image {id}": image for id, image in images.items()}


def read_coco_captions(content: dict, path: str) -> dict[int, dict]:
    """The images of COCO's captions file by id: name, size and captions."""
    images: dict[int, dict] = {}
    for i, image in enumerate(require(content, "images", list[dict], path)):
        where = f"{path}: images[{i}]"
        id = require(image, "id", int, where)
        if id in images:
            raise UserError(f"{where}: a second image with id {id}")
        images[id] = {
            "image": require(image, "file_name", str, where),
            "width": require(image, "width", float, where, minimum=1),
            "height": require(image, "height", float, where, minimum=1),
            "captions": [],
            "boxes": [],
        }
    for i, annotation in enumerate(require(content, "annotations", list[dict], path)):
        where = f"{path}: annotations[{i}]"
        id = require(annotation, "image_id", int, where)
        if id not in images:
            raise UserError(f"{where}: image_id = {id} is not among the images")
        images[id]["captions"].append(require(annotation, "caption", str, where).strip())
    return images


def add_coco_boxes(images: dict[int, dict], content: dict, path: str) -> None:
    """Add the boxes of COCO's instances file to the images."""
    categories: dict[int, str] = {}
    for i, category in enumerate(require(content, "categories", list[dict], path)):
        where = f"{path}: categories[{i}]"
        categories[require(category, "id", int, where)] = require(category, "name", str, where)
    for i, annotation in enumerate(require(content, "annotations", list[dict], path)):
        where = f"{path}: annotations[{i}]"
        image = images.get(require(annotation, "image_id", int, where))
        if image is None:
            continue  # the instances file may cover more images
        category_id = require(annotation, "category_id", int, where)
        if category_id not in categories:
            raise UserError(f"{where}: category_id = {category_id} is not among the categories")
        bbox = require(annotation, "bbox", list[float], where)
        if len(bbox) != 4:
            raise UserError(f"{where}: bbox = {short(bbox)}; expected x, y, width and height")
        x, y, w, h = bbox  # pixels: the upper left corner, width and height
        W = image["width"]
        H = image["height"]
        corners = [x / W, y / H, (x + w) / W, (y + h) / H]
        corners = [round(value, 3) for value in corners]
        image["boxes"].append((categories[category_id], corners))
