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
        ({"instances": [{**DOG, "bbox": [0.5, 0.2]}]}, "ValueError"),
        ({"instances": [{"bbox": [0, 0, 1, 1]}]}, "KeyError 'category'"),
        ({"image": None}, "TypeError"),
    ],
)
def test_bad_rows_are_refused(tmp_path, change, message):
    path = write_rows(tmp_path / "c.jsonl", {**ROW, **change})
    with pytest.raises(UserError, match=message):
        read_contexts([str(path)])


def test_two_images_of_one_name_are_refused(tmp_path):
    rows = [{"image": f"{folder}/7.jpg", "caption": "A dog."} for folder in ("a", "b")]
    path = write_rows(tmp_path / "c.jsonl", *rows)
    with pytest.raises(UserError, match="a second image of this name"):
        read_contexts([str(path)])


@pytest.mark.parametrize("paths", [["none.jsonl"], ["none.json", "nor.json"]])
def test_missing_files(paths):
    with pytest.raises(UserError, match=rf"^{paths[0]}: (cannot be read|no such file)"):
        read_contexts(paths)


def test_three_files_are_refused():
    with pytest.raises(UserError, match="expected one JSONL file, or COCO's two"):
        read_contexts(["a", "b", "c"])
