"""A question with its answer, in words: how things are named, and how answers are put.

`questions.py` asks about one scene, `dialogues.py` makes conversations of it.
"""

import random
import re
from dataclasses import dataclass

from .captions import NUMBERS, WORDS, listing, plural
from .captions import name as thing_name
from .grammar import as_sentence, as_typed, choose_form, expand, uncapitalized
from .scenes import KINDS, SIDES, Scene, Thing
from .wordings import GROUPS, NEIGHBOR_WORDS, OTHER_NAMES, SPOTS, STYLES, STYLES_BEFORE, WORDINGS

ONE_WORD = 0.05  # share of questions that ask for one word
ONE_SENTENCE = 0.07  # share of questions that ask for a sentence
REQUEST_FIRST = 0.3  # share of these requests that come before the question
OTHER_NAME = 0.3  # how often a kind with other names is called by one of them
GROUP_NAME = 0.3  # how often the only animal is also asked about as "the animal"


@dataclass(frozen=True)
class QA:
    """A question with its answer."""

    type: str  # one of TYPES, "detail" or "follow-up"
    question: str
    answer: str
    request: str = ""  # "word" or "sentence" if the question asks for such an answer


@dataclass(frozen=True)
class Answer:
    """A short answer, and the same as a sentence and in one word, where that makes sense."""

    short: str
    sentence: str = ""
    word: str = ""


class Writer:
    """Words questions at random; `split` is the split of the wordings (`grammar.split_of`)."""

    def __init__(self, rng: random.Random, split: str = "trained"):
        self.rng = rng
        self.split = split

    def fill(self, templates: tuple[str, ...], words: dict[str, str]) -> str:
        form = choose_form(templates, self.rng, self.split)
        return as_sentence(form.format(**words))

    def qa(self, type: str, wording: str, answer: Answer, **words: str) -> QA:
        """A question in one of the forms of a wording, some with a request for the answer's form.

        `words` fill the form's slots."""
        return self.with_style(type, self.fill(WORDINGS[wording], words), answer)

    def with_style(self, type: str, question: str, answer: Answer) -> QA:
        """Sometimes asks for one word or for a sentence as well, and answers in that form."""
        chance = self.rng.random()
        request = ""
        answer_text = answer.short
        if answer.word and chance < ONE_WORD:
            request = "word"
            answer_text = answer.word
        elif answer.sentence and ONE_WORD <= chance < ONE_WORD + ONE_SENTENCE:
            request = "sentence"
            answer_text = answer.sentence
        if request:
            question = self.with_request(question, request)
        return QA(type, as_typed(question, self.rng), answer_text, request)

    def with_request(self, question: str, request: str) -> str:
        """The question with a request for one "word" or a "sentence", before or after it."""
        is_one_sentence = re.search("[.?!:] ", question) is None
        if is_one_sentence and self.rng.random() < REQUEST_FIRST:
            words = self.fill(STYLES_BEFORE[request], {})
            if self.rng.random() < 0.5:
                return f"{words}: {question}"
            return f"{words}, {uncapitalized(question)}"
        return f"{question} {self.fill(STYLES[request], {})}"

    def kind(self, kind: str) -> str:
        """A kind's name, sometimes another one ("bike")."""
        if kind in OTHER_NAMES and self.rng.random() < OTHER_NAME:
            return self.rng.choice(OTHER_NAMES[kind])
        return kind

    def spot(self, spot: str) -> str:
        """A side or a distance in words."""
        return expand(self.rng.choice(SPOTS[spot]), self.rng)

    def where(self, where: str) -> str:
        """Where a thing is, seen from another one, in words."""
        return expand(self.rng.choice(NEIGHBOR_WORDS[where]), self.rng)


# Names and lists


def at_spot(facts: Scene, spot: str) -> list[Thing]:
    """The things on a side or at a distance."""
    return [thing for thing in facts.things if spot in (thing.side, thing.distance)]


def unique_names(facts: Scene, thing: Thing, writer: Writer, hidden: str = "") -> list[str]:
    """The names that fit this thing only: "the cat", "the red cat", "the cat on the left".

    The only thing of its group is sometimes called by that, "the animal". `hidden` is the fact that
    a name must not tell: "color" or "side"."""
    same_kind = facts.of_kind(thing.kind)
    kind = writer.kind(thing.kind)
    if len(same_kind) == 1:
        names = [f"the {kind}"]
        group = group_of(thing.kind)
        if group and len(of_group(facts, group)) == 1 and writer.rng.random() < GROUP_NAME:
            names.append(f"the {member_of(group)}")
        return names
    names = []
    same_color = [other for other in same_kind if other.color == thing.color]
    if len(same_color) == 1 and hidden != "color":
        names.append(f"the {thing.color} {kind}")
    same_side = [other for other in same_kind if other.side == thing.side]
    if len(same_side) == 1 and hidden != "side":
        names.append(f"the {kind} {writer.spot(thing.side)}")
    return names


def group_of(kind: str) -> str | None:
    """ "animals" for a cat, None for a kind in no group."""
    for group, kinds in GROUPS.items():
        if kind in kinds:
            return group
    return None


def of_group(facts: Scene, group: str) -> list[Thing]:
    return [thing for thing in facts.things if thing.kind in GROUPS[group]]


def member_of(group: str) -> str:
    """One of a group: "animal"."""
    return group.removesuffix("s")


def kinds_present(facts: Scene) -> list[str]:
    return list(dict.fromkeys(thing.kind for thing in facts.things))


def kinds_absent(facts: Scene) -> list[str]:
    present = kinds_present(facts)
    return [kind for kind in KINDS if kind not in present]


def list_names(things: list[Thing]) -> str:
    return listing([thing_name(thing) for thing in things])


def each_once(words: list[str]) -> list[str]:
    return list(dict.fromkeys(words))


def neighbors(thing: Thing, facts: Scene) -> dict[str, list[Thing]]:
    """What is where, seen from a thing: "behind" it and so on."""
    side = SIDES.index(thing.side)
    found: dict[str, list[Thing]] = {
        "to the left of": [],
        "to the right of": [],
        "next to": [],
    }
    if thing.distance == "near":
        found["behind"] = []
    else:
        found["in front of"] = []
    for other in facts.things:
        steps = SIDES.index(other.side) - side
        if steps < 0:
            found["to the left of"].append(other)
        if steps > 0:
            found["to the right of"].append(other)
        if abs(steps) == 1 and other.distance == thing.distance:
            found["next to"].append(other)
        if steps == 0 and other.distance != thing.distance:
            where = "behind" if thing.distance == "near" else "in front of"
            found[where].append(other)
    return found


# Answers


def attribute_answer(kind: str, things: list[Thing], words: list[str], one_word: str) -> Answer:
    """Where, how far or of what color the things are; `one_word` is used if there is one thing."""
    said = listing(each_once(words))
    if len(things) == 1:
        return Answer(said, f"The {kind} is {said}.", one_word)
    return Answer(said, f"The {plural(kind)} are {said}.")


def color_answer(kind: str, things: list[Thing]) -> Answer:
    colors = [thing.color for thing in things]
    return attribute_answer(kind, things, colors, things[0].color)


def position_answer(kind: str, things: list[Thing]) -> Answer:
    sides = [WORDS[thing.side] for thing in things]
    return attribute_answer(kind, things, sides, things[0].side)


def distance_answer(kind: str, things: list[Thing]) -> Answer:
    distances = [WORDS[thing.distance] for thing in things]
    return attribute_answer(kind, things, distances, things[0].distance)


def count_answer(things: list[Thing], one: str, many: str) -> Answer:
    number = NUMBERS[len(things)]
    if not things:
        return Answer(number, f"There are no {many}.", number)
    if len(things) == 1:
        return Answer(number, f"There is one {one}.", number)
    return Answer(number, f"There are {number} {many}.", number)


def presence_answer(is_there: bool, what: str) -> Answer:
    """`what` with its article, as in "a red cat"."""
    if is_there:
        return Answer("yes", f"Yes, there is {what}.", "yes")
    _, without_article = what.split(" ", 1)
    return Answer("no", f"No, there is no {without_article}.", "no")


def yes_or_no(is_true: bool) -> str:
    return "yes" if is_true else "no"


def yes_no_answer(is_true: bool) -> Answer:
    word = yes_or_no(is_true)
    return Answer(word, word=word)


def weather_answer(facts: Scene) -> Answer:
    weather = facts.weather
    if weather == "night":
        return Answer("a clear night", "It is a clear night.", "night")
    return Answer(weather, f"It is {weather}.", weather)


def place_answer(facts: Scene) -> Answer:
    where = WORDS[facts.place]
    return Answer(where, f"The picture was taken {where}.", facts.place)


def listed(things: list[Thing], where: str) -> Answer:
    """What there is at a spot, behind a thing, or in the whole image."""
    if not things:
        return Answer("nothing", f"There is nothing {where}.", "nothing")
    word = things[0].kind if len(things) == 1 else ""
    names = list_names(things)
    return Answer(names, f"There is {names} {where}.", word)


def no_such(what: str) -> Answer:
    """The answer to a question about something that is not there; `what` as in "dog"."""
    sentence = f"There is no {what}."
    return Answer(sentence, sentence, sentence)


def no_such_group(group: str) -> Answer:
    sentence = f"There are no {group}."
    return Answer(sentence, sentence)


# What a question is about

KIND_OF_WORD = {}  # every word for a kind, singular or plural
for _kind in KINDS:
    for _word in (_kind, *OTHER_NAMES.get(_kind, ())):
        KIND_OF_WORD[_word] = _kind
        KIND_OF_WORD[plural(_word)] = _kind
        KIND_OF_WORD[f"{_word}s"] = _kind  # "the puppys color" has lost its apostrophe


def kinds_in(qa: QA) -> set[str]:
    """The kinds of things that question and answer mention; a group mentions all its kinds."""
    words = set(re.findall(r"\w+", f"{qa.question} {qa.answer}".lower()))
    kinds = {KIND_OF_WORD[word] for word in words if word in KIND_OF_WORD}
    for group in GROUPS:
        if not words.isdisjoint((group, member_of(group))):
            kinds.update(GROUPS[group])
    return kinds
