"""The grammar of Toyland's questions: templates, the split of their forms, and how people type."""

import random

import pytest

from nanollava.toyland.grammar import (
    BRITISH,
    CONTRACTIONS,
    OPENINGS,
    PLEASE,
    SYNONYMS,
    THANKS,
    all_forms,
    as_sentence,
    as_typed,
    choose_form,
    expand,
    split_of,
    uncapitalized,
)
from nanollava.toyland.more_wordings import MORE_FOLLOW_UPS, MORE_WORDINGS
from nanollava.toyland.wordings import (
    BASIC_FOLLOW_UPS,
    BASIC_WORDINGS,
    FOLLOW_UPS,
    NEIGHBOR_WORDS,
    SPOTS,
    STYLES,
    STYLES_BEFORE,
    WORDINGS,
)

TABLES = {
    "wordings": WORDINGS,
    "follow-ups": FOLLOW_UPS,
    "styles": STYLES,
    "styles before": STYLES_BEFORE,
}
# (table, wording) for every wording there is.
ALL_WORDINGS = [(table, wording) for table in TABLES for wording in TABLES[table]]

QUESTIONS = (
    "What is the color of the cat?",
    "Where is the gray dog?",
    "How is the weather in the center of the picture?",
    "Tell me what color the cat is.",
    "Is there a cat? One word.",
)


def forms_of(templates: tuple[str, ...]) -> set[str]:
    forms = set()
    for template in templates:
        forms.update(all_forms(template))
    return forms


def typed(question: str, count: int = 400) -> list[str]:
    rng = random.Random(0)
    return [as_typed(question, rng) for _ in range(count)]


# Templates


def test_a_group_is_one_of_its_alternatives():
    assert list(all_forms("a (b|c) d")) == ["a b d", "a c d"]


def test_two_groups_are_combined():
    assert list(all_forms("(a|b) (c|d)")) == ["a c", "a d", "b c", "b d"]


def test_groups_can_be_nested():
    assert set(all_forms("(a (b|c)|d) e")) == {"a b e", "a c e", "d e"}


def test_an_optional_part_leaves_no_space():
    assert set(all_forms("Is it (very|) cold (today|)?")) == {
        "Is it very cold today?",
        "Is it very cold?",
        "Is it cold today?",
        "Is it cold?",
    }


def test_a_synonym_stands_for_its_alternatives():
    expected = {"this picture", "this image", "this photo", "this scene"}
    assert set(all_forms("this $image")) == expected


def test_a_synonym_may_contain_another():
    forms = set(all_forms("a cat$here"))
    assert {"a cat", "a cat here", "a cat in this picture", "a cat in the photo"} <= forms


def test_slots_stay():
    assert set(all_forms("(Is|Was) {name} {color}?")) == {
        "Is {name} {color}?",
        "Was {name} {color}?",
    }


def test_a_random_form_is_one_of_all_forms():
    template = "$tell (where {name} is|the (place|position) of {name})$here."
    forms = set(all_forms(template))
    rng = random.Random(0)
    drawn = {expand(template, rng) for _ in range(200)}
    assert drawn <= forms
    assert len(drawn) > 50


def test_every_alternative_is_drawn():
    rng = random.Random(0)
    assert {expand("(a|b (c|))", rng) for _ in range(100)} == {"a", "b", "b c"}


@pytest.mark.parametrize("name", SYNONYMS)
def test_synonyms_are_well_formed(name):
    for form in all_forms("$" + name.replace(" ", "_")):
        assert not set(form) & set("()|$")


@pytest.mark.parametrize(("table", "wording"), ALL_WORDINGS)
def test_wordings_are_well_formed(table, wording):
    for form in forms_of(TABLES[table][wording]):
        assert not set(form) & set("()|$"), form
        assert "  " not in form


@pytest.mark.parametrize("where", NEIGHBOR_WORDS)
def test_words_for_neighbors_are_well_formed(where):
    for form in forms_of(NEIGHBOR_WORDS[where]):
        assert not set(form) & set("()|$"), form


@pytest.mark.parametrize("spot", SPOTS)
def test_spots_are_well_formed(spot):
    for form in forms_of(SPOTS[spot]):
        assert not set(form) & set("()|$"), form


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("where is it?", "Where is it?"),
        ("Can you tell me where it is.", "Can you tell me where it is?"),
        ("Do you know its color.", "Do you know its color?"),
        ("Tell me where it is.", "Tell me where it is."),
    ],
)
def test_a_sentence_has_a_capital_letter_and_the_right_mark(text, sentence):
    assert as_sentence(text) == sentence


@pytest.mark.parametrize(
    ("text", "inside"),
    [("Where is it?", "where is it?"), ("I'd like to know.", "I'd like to know."), ("OK", "OK")],
)
def test_a_sentence_that_continues_another_has_no_capital_letter(text, inside):
    assert uncapitalized(text) == inside


# Trained and unseen forms


@pytest.mark.parametrize(("table", "wording"), ALL_WORDINGS)
def test_every_wording_has_trained_and_unseen_forms(table, wording):
    splits = {split_of(form) for form in forms_of(TABLES[table][wording])}
    assert splits == {"trained", "unseen"}


def test_the_split_of_a_form_never_changes():
    """The shipped weights were trained on this split."""
    assert split_of("What color is {name}?") == "trained"
    assert split_of("Where is {name} here?") == "unseen"


def test_about_a_fifth_of_all_forms_is_unseen():
    splits = []
    for templates in WORDINGS.values():
        splits += [split_of(form) for form in sorted(forms_of(templates))]
    assert 0.18 < splits.count("unseen") / len(splits) < 0.24


@pytest.mark.parametrize("wording", ["color", "position", "count", "detail", "outside"])
def test_a_trained_form_is_never_unseen(wording):
    rng = random.Random(0)
    trained = {choose_form(WORDINGS[wording], rng, "trained") for _ in range(500)}
    unseen = {choose_form(WORDINGS[wording], rng, "unseen") for _ in range(500)}
    assert len(trained) > 50
    assert len(unseen) > 10
    assert not trained & unseen


@pytest.mark.parametrize(
    "wording", ["color", "position", "count", "presence", "weather", "place", "list", "detail"]
)
def test_the_main_questions_have_hundreds_of_forms(wording):
    assert len(forms_of(WORDINGS[wording])) >= 200


# How people type


def in_plain_words(text: str) -> str:
    """The text without all that `as_typed` may change."""
    text = text.lower().replace("'", "")
    for opening in OPENINGS:
        text = text.removeprefix(opening.lower())
    text = text.rstrip(".?!")
    for thanks in THANKS:
        text = text.removesuffix(thanks.lower().rstrip(".!")).rstrip(".?!")
    for please in PLEASE:
        text = text.removesuffix(please)
    for full, short in CONTRACTIONS.items():
        text = text.replace(short.lower().replace("'", ""), full.lower())
    for american, british in BRITISH.items():
        text = text.replace(british.lower(), american.lower())
    return text


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_typed_question_still_asks_the_same(question):
    for text in typed(question):
        assert in_plain_words(text) == in_plain_words(question)


@pytest.mark.parametrize("question", QUESTIONS)
def test_about_half_of_all_questions_stay_as_they_are(question):
    assert 0.45 < typed(question).count(question) / 400 < 0.75


@pytest.mark.parametrize(
    "part",
    [
        "What's ",
        "what's ",
        "whats ",
        "colour",
        "please",
        "Hey, ",
        "Look at the picture. ",
        "hank",
    ],
)
def test_a_way_of_typing_occurs(part):
    assert any(part in text for text in typed("What is the color of the cat?"))


def test_some_questions_have_no_capital_and_no_final_mark():
    texts = typed("Where is the cat?")
    assert "where is the cat?" in texts
    assert "Where is the cat" in texts
    assert "where is the cat" in texts


@pytest.mark.parametrize(
    "basic, more", [(BASIC_WORDINGS, MORE_WORDINGS), (BASIC_FOLLOW_UPS, MORE_FOLLOW_UPS)]
)
def test_no_template_is_left_out(basic, more):
    """`joined` adds templates to questions that exist; those of others would be lost."""
    assert set(more) <= set(basic)
