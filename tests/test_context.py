"""Captions and boxes of images, from every file format that has them."""

import json

import pytest
from jsonl import write_rows

from nanollava.errors import UserError
from nanollava.evals.context import Context, read_contexts

DOG = {"category": "dog", "bbox": [0.1, 0.25, 0.5, 1.0]}
ROW = {"image": "000000000007.jpg", "captions": ["Two dogs on a sofa."], "instances": [DOG]}


def test_the_text_has_captions_an_empty_line_and_boxes():
    context = Context("7.jpg", ["Two dogs on a sofa.", "Dogs asleep."], [("dog", [0.1, 0, 1, 1])])
    assert str(context) == "Two dogs on a sofa.\nDogs asleep.\n\ndog: [0.1, 0, 1, 1]"


def test_the_text_without_boxes_is_the_captions():
    assert str(Context("7.jpg", ["A dog."], [])) == "A dog."


@pytest.mark.parametrize(
    ("row", "captions", "boxes"),
    [
        (ROW, ["Two dogs on a sofa."], [("dog", [0.1, 0.25, 0.5, 1.0])]),
        (
            {"image": "7.jpg", "captions": ["A dog.", " "], "boxes": [["dog", [0, 0, 1, 1]]]},
            ["A dog."],
            [["dog", [0, 0, 1, 1]]],
        ),
        ({"id": 1, "image": "7.jpg", "caption": "A wall in Rome."}, ["A wall in Rome."], []),
    ],
    ids=["LLaVA", "Toyland", "In-the-Wild"],
)
def test_jsonl_files(tmp_path, row, captions, boxes):
    (context,) = read_contexts([str(write_rows(tmp_path / "c.jsonl", row))]).values()
    assert context == Context(row["image"], captions, boxes)


def test_coco_boxes_become_corners_in_fractions(tmp_path):
    """COCO gives pixels: x and y of the upper left corner, width and height."""
    images = [{"id": 7, "file_name": "COCO_val2014_000000000007.jpg", "width": 640, "height": 480}]
    captions = [
        {"image_id": 7, "caption": " Two dogs on a sofa. "},
        {"image_id": 7, "caption": "Dogs asleep."},
    ]
    boxes = [
        {"image_id": 7, "category_id": 18, "bbox": [64, 120, 256, 360]},
        {"image_id": 8, "category_id": 18},
    ]
    captions_path = tmp_path / "captions.json"
    captions_path.write_text(json.dumps({"images": images, "annotations": captions}))
    instances_path = tmp_path / "instances.json"
    categories = [{"id": 18, "name": "dog"}]
    instances_path.write_text(json.dumps({"annotations": boxes, "categories": categories}))
    contexts = read_contexts([str(captions_path), str(instances_path)])
    assert list(contexts) == ["COCO_val2014_000000000007"]
    context = contexts["COCO_val2014_000000000007"]
    assert context.captions == ["Two dogs on a sofa.", "Dogs asleep."]
    assert context.boxes == [("dog", [0.1, 0.25, 0.5, 1.0])]


def test_coco_files_in_the_wrong_order_are_refused(tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('{"images": [], "annotations": []}')
    with pytest.raises(UserError, match="not COCO's captions and instances files.*categories"):
        read_contexts([str(tmp_path / "a.json"), str(tmp_path / "b.json")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captions": []}, "no captions"),
        ({"captions": ["", " "]}, "no captions"),
        ({"instances": [{**DOG, "bbox": [0.1, 0.2, 1.3, 0.4]}]}, "expected 0 <= x1 <= x2 <= 1"),
        ({"instances": [{**DOG, "bbox": [0.5, 0.2, 0.3, 0.4]}]}, "expected 0 <= x1 <= x2 <= 1"),
        ({"instances": [{**DOG, "bbox": [0.5, 0.2]}]}, "expected 0 <= x1 <= x2 <= 1"),
        ({"instances": [{"bbox": [0, 0, 1, 1]}]}, r"instances\[0\]: no 'category'"),
        ({"instances": [{**DOG, "bbox": [0, 0, 1, float("nan")]}]}, r"\[3\] = nan; expected a fin"),
        ({"instances": [{**DOG, "bbox": "0011"}]}, "bbox = '0011'; expected a list"),
        ({"instances": {"category": "dog"}}, "instances = .*; expected a list"),
        ({"boxes": [["dog"]]}, "box 0 = .*; expected a category and its corners"),
        ({"boxes": [7]}, "box 0 = 7; expected a category and its corners"),
        ({"boxes": [[7, [0, 0, 1, 1]]]}, "box 0: category = 7; expected a text"),
        ({"captions": "A dog."}, "captions = 'A dog.'; expected a list"),
        ({"captions": ["A dog.", None]}, r"captions\[1\] = None; expected a text"),
        ({"captions": None, "caption": 5}, "caption = 5; expected a text"),
        ({"captions": ["half a character: \ud83d"]}, r"captions\[0\] = .*; expected a text"),
        ({"image": None}, "image = None; expected a text"),
        ({"image": "10\u202fAM.png"}, "image = .*; expected a printable name"),
    ],
)
def test_bad_rows_are_refused(tmp_path, change, message):
    path = write_rows(tmp_path / "c.jsonl", {**ROW, **change})
    with pytest.raises(UserError, match=rf"^{path}, line 1.*{message}") as error:
        read_contexts([str(path)])
    assert "\n" not in str(error.value)


COCO = {
    "images": [{"id": 7, "file_name": "7.jpg", "width": 640, "height": 480}],
    "annotations": [{"image_id": 7, "caption": "A dog."}],
}
COCO_BOXES = {
    "categories": [{"id": 18, "name": "dog"}],
    "annotations": [{"image_id": 7, "category_id": 18, "bbox": [64, 120, 256, 360]}],
}


@pytest.mark.parametrize(
    ("file", "part", "change", "message"),
    [
        ("captions", "images", {"id": "7"}, r"images\[0\]: id = '7'; expected a whole number"),
        ("captions", "images", {"width": 0}, r"images\[0\]: width = 0; expected at least 1"),
        ("captions", "images", {"file_name": None}, r"images\[0\]: file_name = None; expected"),
        ("captions", "annotations", {"image_id": 8}, "image_id = 8 is not among the images"),
        ("captions", "annotations", {"caption": ["A dog."]}, "caption = .*; expected a text"),
        ("instances", "categories", {"name": 5}, r"categories\[0\]: name = 5; expected a text"),
        ("instances", "annotations", {"category_id": 3}, "category_id = 3 is not among the cat"),
        ("instances", "annotations", {"bbox": [1, 2, 3]}, "bbox = .*; expected x, y, width and"),
        ("instances", "annotations", {"bbox": [1, 2, 3, 1e999]}, r"bbox\[3\] = inf; expected a"),
        ("instances", "annotations", {"bbox": [1, 2, 3, 4000]}, "expected 0 <= x1 <= x2 <= 1"),
    ],
)
def test_bad_coco_values_are_refused(tmp_path, file, part, change, message):
    values = {"captions": dict(COCO), "instances": dict(COCO_BOXES)}
    values[file][part] = [{**values[file][part][0], **change}]
    paths = []
    for name, content in values.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        paths.append(str(tmp_path / f"{name}.json"))
    with pytest.raises(UserError, match=message) as error:
        read_contexts(paths)
    assert "\n" not in str(error.value)


def test_two_images_of_one_name_are_refused(tmp_path):
    rows = [{"image": f"{folder}/7.jpg", "caption": "A dog."} for folder in ("a", "b")]
    path = write_rows(tmp_path / "c.jsonl", *rows)
    with pytest.raises(UserError, match="a second image of this name"):
        read_contexts([str(path)])


@pytest.mark.parametrize("paths", [["none.jsonl"], ["none.json", "nor.json"]])
def test_missing_files(paths):
    with pytest.raises(UserError, match=rf"^{paths[0]}: no such file"):
        read_contexts(paths)


def test_three_files_are_refused():
    with pytest.raises(UserError, match="expected one JSONL file, or COCO's two"):
        read_contexts(["a", "b", "c"])
