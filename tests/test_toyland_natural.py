"""Toyland's natural questions: well-formed English, and judges that tell right from wrong."""

import json
import random
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from nanollava.conversation import IMAGE
from nanollava.toyland import judges, natural, natural_score, score
from nanollava.toyland import natural_wordings as wordings
from nanollava.toyland.captions import captions
from nanollava.toyland.scenes import COLORS, Scene, place_thing, scenes

ROOT = Path(__file__).resolve().parent.parent
ALL_COLORS = "Red, orange, yellow, green, blue, purple, white and black."
ALL_WORDS = (
    ALL_COLORS + " On the left, in the middle and on the right, near and far, in the park, at the "
    "beach, on the street and in the snow, sunny, rainy, cloudy and at night, one, two, three, "
    "four, a cat, a dog, a bird, a person, a car, a bicycle, a tree, a house, a boat, a flower."
)


def scene_of(*things: tuple[str, str, str, str], place="park", weather="sunny") -> Scene:
    rng = random.Random(0)
    return Scene(place, weather, tuple(place_thing(rng, *thing) for thing in things))


# A red cat near on the left, a blue dog far away on the right.
CAT_AND_DOG = scene_of(("cat", "red", "left", "near"), ("dog", "blue", "right", "far"))


@pytest.fixture(scope="module")
def questions() -> list[natural.Question]:
    """The questions of all types about 120 test scenes."""
    rng = random.Random(7)
    result = []
    for scene in scenes("test", 120, seed=7, unseen=False):
        for dialogue in natural.dialogues(scene, rng):
            result += dialogue
    return result


# --- questions ---


def test_all_types_occur(questions):
    assert {question.type for question in questions} == {*natural.TYPES, natural.OPENING}


def without_values(text: str) -> str:
    """A question without case, final punctuation and the words for things and their values."""
    text = text.lower().rstrip("?.")
    for values in judges.ACCEPTED_WORDS.values():
        for words in values.values():
            text = re.sub(rf"\b((a|an) )?({'|'.join(words)})\b", "_", text)
    return text


def test_every_type_has_at_least_25_wordings():
    rng = random.Random(3)
    forms: dict[str, set[str]] = {}
    for scene in scenes("test", 400, seed=3, unseen=False):
        for dialogue in natural.dialogues(scene, rng):
            for question in dialogue:
                forms.setdefault(question.type, set()).add(without_values(question.text))
    for type in natural.TYPES:
        assert len(forms[type]) >= 25, type


def test_wordings_of_a_list_are_different():
    for name, forms in vars(wordings).items():
        if isinstance(forms, tuple):
            simple = [re.sub(r"[^a-z{}_ ]", "", form.lower()) for form in forms]
            assert len(set(simple)) == len(simple), name


@pytest.mark.parametrize(
    "error",
    [
        r"\ba (?=[aeiou])",
        r"\ban (?![aeiou])",
        r"[{}]",
        r"  |^ | $",
        r"\bpersons\b",
        r"\bis there (two|three|four|some)\b",
        r"\bare there (a|an)\b",
        r"\b(a|an) \w*(cats|dogs|birds|people|cars|bicycles|bikes|trees|houses|balls|boats)\b",
        r"\bhow many (?!(\w+s|people|of|different)\b)",
        r"\b(a|an|the) (a|an|the)\b",
        r" [?.,]",
        r"[?.,]{2}",
    ],
)
def test_questions_are_well_formed(questions, error):
    for question in questions:
        assert not re.search(error, question.text.lower()), question.text


def test_the_same_seed_gives_the_same_questions():
    first = natural.dialogues(CAT_AND_DOG, random.Random(5))
    second = natural.dialogues(CAT_AND_DOG, random.Random(5))
    assert [[q.text for q in dialogue] for dialogue in first] == [
        [q.text for q in dialogue] for dialogue in second
    ]


def test_nothing_else_imports_the_wordings():
    """They measure generalization only as long as no training reads them."""
    importers = set()
    for path in (ROOT / "nanollava").rglob("*.py"):
        if re.search(r"import .*\bnatural\w*|from .*\bnatural\w* import", path.read_text()):
            importers.add(path.relative_to(ROOT / "nanollava").as_posix())
    toyland = {"toyland/natural.py", "toyland/natural_score.py", "toyland/__main__.py"}
    assert importers == {*toyland, "evals/connectors/runs.py"}  # which measures


# --- all judges ---


def test_expected_answers_are_right(questions):
    for question in questions:
        assert question.is_right(question.expected), (question.text, question.expected)


@pytest.mark.parametrize("answer", ["", " \n", ".", "?", "the", ALL_COLORS, ALL_WORDS])
def test_answers_without_a_decision_are_wrong(questions, answer):
    for question in questions:
        assert not question.is_right(answer), question


def test_a_fixed_answer_is_never_right_for_most_types(questions):
    """A model that ignores the image gets no more than yes/no and one value of each attribute."""
    for answer in ("Yes.", "No.", "none", "Blue.", "On the left."):
        right = [question.is_right(answer) for question in questions]
        assert sum(right) < 0.3 * len(right), answer


# --- each judge ---

PRESENCE = partial(judges.confirms, kind="dog")
ABSENCE = partial(judges.denies, kind="boat")
COLOR = partial(judges.names, attribute="color", values=["blue"])
SIDE = partial(judges.names, attribute="side", values=["right"])
MIDDLE = partial(judges.names, attribute="side", values=["middle"])
DISTANCE = partial(judges.names, attribute="distance", values=["far"])
PLACE = partial(judges.names, attribute="place", values=["street"])
RAIN = partial(judges.names, attribute="weather", values=["rainy"])
NIGHT = partial(judges.names, attribute="weather", values=["night"])
KIND = partial(judges.names, attribute="kind", values=["bicycle"])
IS_RED = partial(judges.checks, attribute="color", asked="red", value="blue")
IS_BLUE = partial(judges.checks, attribute="color", asked="blue", value="blue")
CLOSER = partial(judges.tells_which, kind="cat", other="dog", opposite=natural.FAR_WORDS)
NO_COLOR = partial(judges.tells_none, kind="dog", is_count=False)
NO_COUNT = partial(judges.tells_none, kind="dog", is_count=True)
SEVERAL = partial(judges.counts_several, number=2)
WHY_RAIN = partial(judges.explains, attribute="weather", value="rainy")

RIGHT = [
    (
        PRESENCE,
        "Yes yes, | Yes. | there is a dog | There's a blue dog on the left. | A dog. | Yeah",
    ),
    (ABSENCE, "no | No. | There is no boat. | No, there isn't. | I don't see a boat. | None."),
    (ABSENCE, "No, there is only a dog. | I can't see any boats here."),
    (COLOR, "blue | Blue. | The dog is blue. | it's blue! | A blue one"),
    (SIDE, "right | on the right | It is on the right side of the image. | far away on the right"),
    (MIDDLE, "middle | in the center | centre | It's right in front in the middle."),
    (DISTANCE, "far | far away | in the background | It is in the distance."),
    (PLACE, "street | on the street | It was taken on a road."),
    (RAIN, "rainy | it is raining | rain | under rain clouds | It rains. | on a rainy day"),
    (NIGHT, "night | at night | under the moon | It's dark. | on a dark night"),
    (KIND, "bicycle | a bike | There is a red bicycle. | the bicycle"),
    (IS_RED, "no | No, it is blue. | blue | It's not red. | No, it is not red, it is blue."),
    (IS_BLUE, "yes | Yes, it is blue. | blue | It is blue."),
    (partial(judges.counts, number=2), "two | 2 | Two dogs. | There are two."),
    (partial(judges.counts, number=1), "one | 1 | There is a dog. | Only one. | just one dog"),
    (partial(judges.counts, number=0), "0 | none | zero | no | There are no dogs."),
    (SEVERAL, "yes | Yes, two. | There are two dogs. | Yes, more than one."),
    (
        partial(judges.counts_several, number=1),
        "no | No, only one. | Just one. | not more than one",
    ),
    (partial(judges.says, yes=True), "yes | Yes, it is. | yeah"),
    (partial(judges.says, yes=False), "no | No, it is not. | it isn't"),
    (partial(judges.knows_day, weather="night"), "night | at night | It is night."),
    (partial(judges.knows_day, weather="rainy"), "day | during the day | on a rainy day"),
    (partial(judges.tells_side, direction="left"), "left | to the left | It is left of the dog."),
    (CLOSER, "cat | the cat | The cat is closer. | The cat is closer than the dog."),
    (CLOSER, "The dog is farther away than the cat. | the cat, because it is in front"),
    (NO_COLOR, "There is no dog. | no dog | There isn't one in the picture. | I don't see a dog."),
    (NO_COUNT, "none | 0 | zero | No dogs. | There are no dogs."),
    (WHY_RAIN, "because it is raining | I see drops. | there is rain and it's wet"),
    (judges.is_honest, "I only know colors. | I cannot know that. | I don't know."),
    (judges.is_honest, "The image does not show that. | I am a tiny toy model. | No idea!"),
    (partial(judges.names_others, kinds={"cat"}, besides="dog"), "a cat | a red cat and the dog"),
]
WRONG = [
    (PRESENCE, "no | There is no dog. | A cat. | on the left | yes, there is no dog | not here"),
    (ABSENCE, "yes | There is a boat. | Yes, a boat. | There is no cat. | boat | No, a boat."),
    (COLOR, "red | blue or red | not blue | It is a dog. | The dog is blue and white. | grey"),
    (SIDE, "left | in the middle | left or right | not on the right | to the right of the cat"),
    (MIDDLE, "left | in the park"),
    (DISTANCE, "near | in front | near or far | not far"),
    (PLACE, "in the park | at the beach or on the street | outside"),
    (RAIN, "sunny | cloudy | night | rainy and sunny | not raining"),
    (NIGHT, "sunny | cloudy | rainy | a sunny night"),
    (KIND, "a car | a bicycle and a car | no bicycle | red"),
    (IS_RED, "yes | red | No, it is green. | Yes, it is blue. | maybe"),
    (IS_BLUE, "no | red | Yes, it is red. | No, it is blue. | it is not blue"),
    (partial(judges.counts, number=2), "one | three | none | two or three | no"),
    (partial(judges.counts, number=1), "two | none | dog | zero"),
    (partial(judges.counts, number=0), "one | a dog | yes"),
    (SEVERAL, "no | one | three | Yes, three. | Only one."),
    (partial(judges.counts_several, number=1), "yes | two | No, two."),
    (partial(judges.says, yes=True), "no | blue | Yes, there is no dog. | maybe"),
    (partial(judges.says, yes=False), "yes | blue | yes, it is not"),
    (partial(judges.knows_day, weather="night"), "day | sunny | day or night | yes"),
    (partial(judges.knows_day, weather="rainy"), "night | on a sunny day | yes"),
    (partial(judges.tells_side, direction="left"), "right | left or right | yes | not left"),
    (CLOSER, "dog | The dog is closer. | the cat and the dog | yes | The cat is farther away."),
    (NO_COLOR, "none | no | red | There is a red dog. | There is no cat. | There is no red dog."),
    (NO_COLOR, "There is no dog on the left. | yes | The dog is not there, it is far away."),
    (NO_COUNT, "one | two | There is a dog. | yes"),
    (
        WHY_RAIN,
        "because it is sunny | no | yes | because of the rain and the sun | There is a cat.",
    ),
    (judges.is_honest, "Tom | yes | no | It is called Rex. | a cat | two"),
    (partial(judges.names_others, kinds={"cat"}, besides="dog"), "a dog | a boat | nothing"),
]


def cases(table):
    return [(judge, text.strip()) for judge, texts in table for text in texts.split("|")]


@pytest.mark.parametrize("judge, answer", cases(RIGHT))
def test_judges_accept_right_answers(judge, answer):
    assert judge(answer)


@pytest.mark.parametrize("judge, answer", cases(WRONG))
def test_judges_reject_wrong_answers(judge, answer):
    assert not judge(answer)


@pytest.mark.parametrize(
    "answer, is_right",
    [
        ("Yes, there is a red cat.", True),
        ("Yes, there is a cat on the left.", True),
        ("Yes, there is a blue cat.", False),
        ("Yes, there is a cat on the right.", False),
        ("Yes, there is a cat and a boat.", False),
    ],
)
def test_a_right_answer_with_a_false_fact_is_wrong(answer, is_right):
    judge = partial(judges.confirms, kind="cat")
    question = natural.Question("presence", "Is there a cat?", judge, "Yes.", CAT_AND_DOG)
    assert question.is_right(answer) == is_right


# --- descriptions ---


@pytest.mark.parametrize(
    "text",
    [
        "A red cat on the left and a blue dog on the right, in the park on a sunny day.",
        "In the park on a sunny day, on the left there is a red cat and on the right a blue dog.",
        "This is a park. It is sunny. A red cat is on the left. A blue dog is on the right.",
        "The picture shows a sunny park with two things: a red cat on the left, and, on the right, "
        "a blue dog.",
        "There is a cat. It is on the left. The cat is red. On the right is a dog, and the dog is "
        "blue. The sun shines in the park.",
        "On the right far away there is a blue dog, on the left in front there is a red cat, in "
        "the park under the sun.",
        "You can see a red cat on the left, to the left of a blue dog on the right. The place is a "
        "park and the weather is sunny. There is no boat.",
    ],
)
def test_true_descriptions_in_many_forms(text):
    assert judges.fact_shares(text, CAT_AND_DOG) == (1, 1)
    assert judges.describes(text, CAT_AND_DOG)


def test_things_before_a_shared_side():
    scene = scene_of(("cat", "red", "left", "near"), ("dog", "blue", "left", "far"))
    text = "A red cat and a blue dog on the left in the park on a sunny day."
    assert judges.fact_shares(text, scene) == (1, 1)
    text = "On the left there are a red cat and a blue dog. The sunny park has two things."
    assert judges.fact_shares(text, scene) == (1, 1)


@pytest.mark.parametrize(
    "text",
    [
        "A blue cat on the left and a red dog on the right, in the park on a sunny day.",
        "A red cat on the right and a blue dog on the left, in the park on a sunny day.",
        "A red cat on the left and a blue dog on the right, on the beach on a rainy day.",
        "A red cat on the left, in the park on a sunny day.",
        "A red cat and a blue dog in the park.",
        "Two red cats on the left, three blue dogs on the right, in the park on a sunny day.",
        "A red cat on the left, a blue dog on the right and a boat, in the park on a sunny day.",
        "A picture.",
        "in the park",
    ],
)
def test_false_and_incomplete_descriptions_are_wrong(text):
    assert not judges.describes(text, CAT_AND_DOG)


def test_captions_state_only_true_facts():
    """The first three name every thing with its color and side."""
    rng = random.Random(2)
    for scene in scenes("test", 200, seed=2, unseen=False):
        texts = captions(scene, rng)
        for text in texts:
            assert judges.fact_shares(text, scene)[0] == 1, text
        for text in texts[:3]:
            assert judges.fact_shares(text, scene) == (1, 1), text


def test_captions_of_another_scene_are_wrong():
    rng = random.Random(2)
    pool = list(scenes("test", 100, seed=2, unseen=False))
    for scene, other in zip(pool, pool[1:], strict=False):
        if scene.facts != other.facts:
            assert not judges.describes(captions(other, rng)[0], scene)


# --- the score ---


@pytest.fixture
def prompts(monkeypatch):
    """Replaces the model, which answers every turn with its number of turns; returns all turns."""
    asked = []

    def answer(model, tokenizer, image_config, pairs, template, **options):
        asked.extend([list(turns) for _, turns in pairs])
        return [f"answer {len(turns)}" for _, turns in pairs]

    monkeypatch.setattr(score, "answer_dialogues", answer)
    return asked


def test_later_turns_see_the_answers_of_the_model(prompts):
    natural_score.replies(None, None, None, count=3)
    longest = max(prompts, key=len)
    assert [turn["from"] for turn in longest] == ["human", "gpt"] * 2 + ["human"]
    assert longest[1]["value"] == "answer 1"
    assert longest[0]["value"].startswith(f"{IMAGE}\n")
    assert IMAGE not in longest[2]["value"]


def test_an_empty_answer_does_not_end_a_dialogue(monkeypatch):
    """A template has no form for it, so later turns see three dots."""
    longest = []

    def answer(model, tokenizer, image_config, pairs, template, **options):
        for _, turns in pairs:
            if len(turns) == 5:
                longest.append([turn["value"] for turn in turns])
        return ["" for _ in pairs]

    monkeypatch.setattr(score, "answer_dialogues", answer)
    answered = natural_score.replies(None, None, None, count=3)
    assert {reply.text for reply in answered} == {""}
    assert longest and all(values[1] == values[3] == "..." for values in longest)


def test_every_reply_belongs_to_its_question(prompts):
    answered = natural_score.replies(None, None, None, count=12)
    assert len(answered) == len(prompts)
    by_turn = {"answer 1": 0, "answer 3": 0, "answer 5": 0}
    for reply in answered:
        by_turn[reply.text] += 1
    assert by_turn["answer 3"] == by_turn["answer 5"] == 12


def test_only_test_scenes_are_used(prompts):
    for reply in natural_score.replies(None, None, None, count=20):
        scene = reply.question.scene
        assert scene is None or (scene.split == "test" and not scene.unseen)


def test_right_answers_score_one(questions):
    answered = [natural_score.Reply(question, question.expected) for question in questions]
    summary = natural_score.summarize(answered)
    assert summary["overall"] == 1
    assert set(summary["types"]) == set(natural.TYPES)
    assert summary["descriptions"] == {"true": 1, "stated": 1}
    assert natural_score.wrong_answers(answered) == ""


def test_the_table_has_a_row_for_every_type(questions):
    answered = [natural_score.Reply(question, "") for question in questions]
    lines = natural_score.table(natural_score.summarize(answered)).splitlines()
    for type in natural.TYPES:
        assert any(line.startswith(type) for line in lines), type
    assert lines[-2].split()[:2] == ["overall", "0.0"]


def test_wrong_answers_name_the_question_and_a_right_answer():
    judge = partial(judges.names, attribute="color", values=["red"])
    question = natural.Question("color", "What hue?", judge, "Red.", CAT_AND_DOG)
    lines = natural_score.wrong_answers([natural_score.Reply(question, "blue")])
    assert lines == "color | What hue? | blue | Red."


def test_questions_of_the_grammar_are_not_scored():
    judge = partial(judges.names, attribute="color", values=["red"])
    natural_one = natural.Question("color", "What hue?", judge, "Red.", CAT_AND_DOG)
    trained_one = replace(natural_one, text="what color is the dog")
    answered = [natural_score.Reply(question, "blue") for question in (natural_one, trained_one)]
    assert natural_score.wrong_answers(answered).count("\n") == 0
    assert [natural_score.is_scored(reply.question) for reply in answered] == [True, False]


def test_a_share_of_no_questions_is_none():
    judge = partial(judges.names, attribute="color", values=["red"])
    question = natural.Question("color", "What hue?", judge, "Red.", CAT_AND_DOG)
    summary = natural_score.summarize([natural_score.Reply(question, "red")])
    assert summary["descriptions"] == {"true": None, "stated": None}
    assert natural_score.summarize([])["overall"] is None
    json.dumps(summary, allow_nan=False)
    assert "describe" in natural_score.table(summary)


def test_color_words_are_those_of_the_scenes():
    assert tuple(judges.ACCEPTED_WORDS["color"]) == COLORS


@pytest.mark.parametrize("word", ["farther", "further", "farther away"])
def test_a_comparison_is_no_fact_about_the_image(word):
    """The near cat is not called far."""
    question = natural.Question("relation", "Which is nearer?", CLOSER, "The cat.", CAT_AND_DOG)
    assert question.is_right(f"The dog is {word} than the cat.")


def test_a_side_of_another_thing_is_no_side_of_the_image():
    scene = scene_of(("cat", "red", "middle", "near"), ("dog", "blue", "right", "near"))
    questions = []
    for seed in range(40):
        question = natural.side_relation(*scene.things, random.Random(seed))
        if question.expected == "To the left.":
            questions.append(question)
    assert questions
    assert all(question.is_right("The cat is to the left.") for question in questions)
