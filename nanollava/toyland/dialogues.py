"""Conversations about a scene, and the three kinds of instruction data (paper, section 3)."""

import random
import re
from collections.abc import Callable
from functools import partial

from .captions import WORDS, plural, with_article
from .grammar import as_typed
from .qa import (
    QA,
    Answer,
    Writer,
    at_spot,
    color_answer,
    count_answer,
    distance_answer,
    kinds_absent,
    kinds_in,
    kinds_present,
    list_names,
    listed,
    neighbors,
    no_such,
    place_answer,
    position_answer,
    presence_answer,
    weather_answer,
    yes_no_answer,
)
from .questions import presence_question, questions, reasons, true_reasons
from .scenes import COLORS, DISTANCES, SIDES, Scene, Thing
from .teacher import detail, one_sentence
from .wordings import FOLLOW_UPS, WORDINGS

# Conversations whose questions answer none of each other


def words_of(*texts: str) -> set[str]:
    return set(re.findall(r"\w+", " ".join(texts).lower()))


# The words that tell a spot. Some have other meanings, too ("Am I right that ..."); then a question
# is left out that could have been asked.
SPOT_WORDS = frozenset("left right middle center centre near close front foreground far".split())
SPOT_WORDS |= frozenset("background back distance".split())


def is_about_side(qa: QA) -> bool:
    """Whether a relation names left or right; nearly all others are about distance and color."""
    return not words_of(qa.question, qa.answer).isdisjoint(("left", "right"))


def gives_away(earlier: QA, qa: QA) -> bool:
    """Whether an earlier turn states part of the answer: that a kind is there, its color or spot.

    A question of the same type about the same kinds counts as asked already."""
    earlier_kinds = kinds_in(earlier)
    kinds = kinds_in(qa)
    # Of the same type: it would be the same question again.
    if earlier.type == qa.type == "outside":
        return earlier.question == qa.question
    if earlier.type == qa.type == "relation":
        # Which is further left does not tell which is closer.
        return earlier_kinds == kinds and is_about_side(earlier) == is_about_side(qa)
    if earlier.type == qa.type:
        # Who has counted the plants knows something about the number of flowers.
        knows_part = qa.type in ("presence", "count") and not earlier_kinds.isdisjoint(kinds)
        return earlier_kinds == kinds or knows_part
    # Of another type: only what both speak of can be told.
    if {earlier.type, qa.type} in ({"reason", "weather"}, {"reason", "place"}):
        return True  # "Yes, because it is raining."
    if not earlier_kinds & kinds:
        return False
    if qa.type == "color":
        # "Is the red cat far away?" tells the color.
        colors = words_of(qa.answer) & set(COLORS)
        return not colors.isdisjoint(words_of(earlier.question, earlier.answer))
    if qa.type in ("position", "distance"):
        # "Is the cat on the left?" tells or nearly tells the side. So does what is there, and where
        # a thing is seen from another one. Lists are left out, to be safe.
        names_spot = not SPOT_WORDS.isdisjoint(words_of(earlier.question))
        return names_spot or earlier.type in ("what", "relation", "list")
    # Any mention tells that the kind is there.
    return True


# The types that a conversation may ask several times in a row (a drill), as long as no question
# answers another. The weaker a type's score was, the more often it is listed.
DRILLED = (
    ("relation",) * 14
    + ("what",) * 8
    + ("list", "presence") * 4
    + ("distance", "false premise") * 2
    + ("color", "position", "outside")
)
DRILL_LENGTH = 6


def question_types(facts: Scene, rng: random.Random, turns: int, inventory: float) -> list[str]:
    """The types of questions that a conversation tries to ask, in order.

    With probability `inventory` it only asks what is there and how many, otherwise about facts of
    all types.
    """
    if rng.random() < inventory:
        kinds = kinds_present(facts)
        mixed = rng.sample(("presence", "count") * 4, min(8, 2 * len(kinds)))
        return rng.choice((mixed, ["count"] * turns))
    look_ups = ("color", "position", "distance")
    if rng.random() < 0.75:
        drill = [rng.choice(DRILLED)] * DRILL_LENGTH
        return drill + rng.sample((*look_ups, "weather", "place", "outside"), 3)
    types = []
    if rng.random() < 0.6:
        types = rng.sample(("presence", "count", "what"), 3)
    others = ("relation", "weather", "place", "reason")
    others += ("what", "false premise", "list", "outside")
    types += rng.sample((*look_ups, "relation", *rng.sample(others, 4)), 8)  # all, shuffled
    types += rng.sample(look_ups, 3)
    return types


def balanced_answer(qa: QA) -> str:
    """The answer, as `pick_by_answer` balances it.

    Two things can be compared in many ways, and most answers name a thing. These count as one
    answer; else "yes" and "no" would hardly be heard."""
    if qa.type == "relation" and qa.answer not in ("yes", "no"):
        return "a thing or a place"
    return qa.answer


# Weight of "yes" in questions about presence: earlier turns rule out more questions with that
# answer than with "no".
YES_WEIGHT = 1.5


def pick_by_answer(qas: list[QA], rng: random.Random) -> QA:
    """First the answer, then the question: so "two" is as frequent as "none"."""
    answers = sorted({balanced_answer(qa) for qa in qas})
    weights = [1.0] * len(answers)
    if qas[0].type == "presence" and "yes" in answers:
        weights[answers.index("yes")] = YES_WEIGHT
    (answer,) = rng.choices(answers, weights)
    return rng.choice([qa for qa in qas if balanced_answer(qa) == answer])


def choose_turns(
    by_type: dict[str, list[QA]],
    types: list[str],
    turns: int,
    gives_away: Callable[[QA, QA], bool],
    pick: Callable[[list[QA]], QA],
) -> list[QA]:
    """At most `turns` questions, of the types in order, none of which the turns before it answer.

    So every answer must be looked up in the image."""
    chosen: list[QA] = []
    for type in types:
        if len(chosen) == turns:
            break
        fresh = []
        for qa in by_type[type]:
            if not any(gives_away(earlier, qa) for earlier in chosen):
                fresh.append(qa)
        if fresh:
            chosen.append(pick(fresh))
    if not chosen:
        return by_type["weather"][:1]
    return chosen


def conversation(
    facts: Scene, rng: random.Random, turns: int = 10, inventory: float = 0.2
) -> list[QA]:
    """At most `turns` short questions, none of which the turns before it answer."""
    by_type = questions(facts, rng)
    types = question_types(facts, rng, turns, inventory)
    return choose_turns(by_type, types, turns, gives_away, partial(pick_by_answer, rng=rng))


# Conversations whose later turns refer to earlier ones


ATTRIBUTES: dict[str, Callable[[str, list[Thing]], Answer]] = {
    "color": color_answer,
    "position": position_answer,
    "distance": distance_answer,
}


# How often a thing is compared with one of another color: most colors differ, and "no" would be
# the answer nearly always.
OTHER_COLOR = 0.25

# Umbrella, sunglasses, snowman and sea can be asked about in every scene.
REASONS_OF_EVERY_SCENE = 4


class Talk:
    """A dialogue about one kind of things after another, which `topic` names."""

    def __init__(self, facts: Scene, writer: Writer):
        self.facts = facts
        self.writer = writer
        self.rng = writer.rng
        self.qas: list[QA] = []
        self.topic = ""  # the kind that "it" means
        self.things: list[Thing] = []  # those that "it" or "they" mean
        self.known: set[str] = set()  # what has been asked about them
        self.asked = ""  # what the last turn asked; "And the dog?" asks it again, of another topic
        self.reasons: set[str] = set()  # the wordings of reasons that have been asked
        self.scene_known: set[str] = set()  # whether weather and place have been asked

    def add(self, qa: QA, asked: str) -> None:
        self.qas.append(qa)
        self.asked = asked
        self.known.add(asked)

    def about(self, kind: str, things: list[Thing]) -> None:
        self.topic = kind
        self.things = things
        self.known = set()

    def about_nothing(self) -> None:
        """The next turn has to name what it asks about."""
        self.about("", [])
        self.asked = ""

    def about_answer(self, things: list[Thing]) -> None:
        """The last answer listed these things; if that was one thing, "it" means it from now on."""
        if len(things) != 1:
            self.about_nothing()
            return
        self.about(things[0].kind, things)
        self.asked = "what"
        self.known = {"color"}

    def some_kind(self) -> str:
        """A kind to talk about; a quarter of the time one that is not there."""
        kinds = kinds_present(self.facts)
        if self.rng.random() < 0.25:
            kinds = kinds_absent(self.facts)
        others = [kind for kind in kinds if kind != self.topic]
        if not others:
            others = kinds_absent(self.facts)
        return self.rng.choice(others)

    def follow_up(self, wording: str, answer: Answer, **slots: str) -> QA:
        question = self.writer.fill(FOLLOW_UPS[wording], slots)
        return self.writer.with_style("follow-up", question, answer)

    # Opening turns

    def ask_presence(self) -> None:
        kind = self.some_kind()
        things = self.facts.of_kind(kind)
        self.about(kind, things)
        self.add(presence_question(self.writer, len(things) > 0, kind), "presence")

    def ask_attribute(self) -> None:
        """Color or position of the things of a kind."""
        kind = self.some_kind()
        self.about(kind, self.facts.of_kind(kind))
        attribute = self.rng.choice(("color", "position"))
        spoken = self.writer.kind(kind)
        if len(self.things) > 1:
            wording = f"{attribute} of several"
            slots = {"names": f"the {plural(spoken)}"}
        else:
            wording = attribute
            slots = {"name": f"the {spoken}"}
        type = attribute if self.things else "false premise"
        answer = self.answer_about(attribute)
        self.add(self.writer.qa(type, wording, answer, **slots), attribute)

    def ask_count(self) -> None:
        kind = self.some_kind()
        self.about(kind, self.facts.of_kind(kind))
        answer = count_answer(self.things, kind, plural(kind))
        kinds = plural(self.writer.kind(kind))
        self.add(self.writer.qa("count", "count", answer, kinds=kinds), "count")

    def ask_what(self) -> None:
        """What is at a spot where only one thing is; "it" is that thing, not its whole kind."""
        spots = []
        for spot in (*SIDES, *DISTANCES):
            if len(at_spot(self.facts, spot)) == 1:
                spots.append(spot)
        if not spots:
            self.ask_count()
            return
        spot = self.rng.choice(spots)
        things = at_spot(self.facts, spot)
        self.about(things[0].kind, things)
        answer = listed(things, WORDS[spot])
        self.add(self.writer.qa("what", "what", answer, spot=self.writer.spot(spot)), "what")
        self.known |= {"color", "position" if spot in SIDES else "distance"}

    def ask_reason(self) -> None:
        """A question that needs reasoning: answered yes or no and then why, or both at once."""
        true = true_reasons(self.facts)
        true.pop("who needs an umbrella", None)
        for wording in self.reasons:
            true.pop(wording)
        wording = self.rng.choice(list(true))
        self.reasons.add(wording)
        reason = true[wording]
        question = self.writer.fill(WORDINGS[wording], {})
        if self.rng.random() < 0.8:
            question += " " + self.writer.fill(FOLLOW_UPS["yes or no"], {})
            self.qas.append(QA("reason", as_typed(question, self.rng), reason.short))
            self.qas.append(self.follow_up("why", Answer(f"{reason.because}.")))
        else:
            self.qas.append(QA("reason", as_typed(question, self.rng), reason.answer))
        self.about_nothing()

    def open(self) -> None:
        if self.rng.random() < 0.15 and len(self.reasons) < REASONS_OF_EVERY_SCENE:
            self.ask_reason()
            return
        openings = (self.ask_presence, self.ask_attribute, self.ask_count, self.ask_what)
        self.rng.choice(openings)()

    # Later turns

    def answer_about(self, attribute: str) -> Answer:
        if not self.things:
            return no_such(self.topic)
        return ATTRIBUTES[attribute](self.topic, self.things)

    def ask_about_it(self) -> bool:
        """An attribute of the topic, which a pronoun names; of an absent one at most once."""
        if not self.things and self.asked != "presence":
            return False
        attributes = [name for name in ATTRIBUTES if name not in self.known]
        if len(self.things) > 1:
            attributes = [name for name in attributes if name != "distance"]
        if not attributes:
            return False
        attribute = self.rng.choice(attributes)
        wording = f"{attribute} of several" if len(self.things) > 1 else attribute
        self.add(self.follow_up(wording, self.answer_about(attribute)), attribute)
        return True

    def ask_whether(self) -> bool:
        """Whether the topic, one thing, has a color or is on a side."""
        if len(self.things) != 1:
            return False
        thing = self.things[0]
        attributes = [name for name in ("color", "position") if name not in self.known]
        if not attributes:
            return False
        attribute = self.rng.choice(attributes)
        self.known.add(attribute)
        if attribute == "color":
            guess = self.rng.choice((thing.color, self.rng.choice(COLORS)))
            answer = yes_no_answer(guess == thing.color)
            self.add(self.follow_up("is color", answer, color=guess), "whether")
        else:
            guess = self.rng.choice((thing.side, self.rng.choice(SIDES)))
            answer = yes_no_answer(guess == thing.side)
            spot = self.writer.spot(guess)
            self.add(self.follow_up("is at spot", answer, spot=spot), "whether")
        return True

    def ask_number(self) -> bool:
        """After "Is there a cat?": how many there are, or whether there are several."""
        if self.asked != "presence" or not self.things:
            return False
        if self.rng.random() < 0.3:
            self.add(self.follow_up("more", yes_no_answer(len(self.things) > 1)), "more")
            return True
        answer = count_answer(self.things, self.topic, plural(self.topic))
        self.add(self.follow_up("count", answer), "count")
        return True

    def ask_neighbor(self) -> bool:
        """What is behind the topic, and so on."""
        if len(self.things) != 1:
            return False
        around = neighbors(self.things[0], self.facts)
        where = self.rng.choice(list(around))
        answer = listed(around[where], f"{where} it")
        question = self.follow_up("neighbor", answer, where=self.writer.where(where))
        self.add(question, "neighbor")
        self.about_answer(around[where])
        return True

    def ask_comparison(self) -> bool:
        """Whether the topic, one thing, is left or right of another thing, closer, farther, or of
        the same color; nothing that an earlier turn has told."""
        if len(self.things) != 1:
            return False
        thing = self.things[0]
        others = []
        for other in self.facts.things:
            if other.kind != thing.kind and len(self.facts.of_kind(other.kind)) == 1:
                others.append(other)
        if not others:
            return False
        other = self.rng.choice(others)
        way = self.rng.choice(("left", "right"))
        comparisons = {}  # whether each of them is true, by wording
        if thing.color == other.color or self.rng.random() < OTHER_COLOR:
            comparisons["same color"] = thing.color == other.color
        if thing.side != other.side and "position" not in self.known:
            is_left = SIDES.index(thing.side) < SIDES.index(other.side)
            comparisons["side of other"] = is_left == (way == "left")
        if thing.distance != other.distance and "distance" not in self.known:
            is_closer = thing.distance == "near"
            comparisons["is closer"] = is_closer
            comparisons["is farther"] = not is_closer
        if not comparisons:
            return False
        wording = self.rng.choice(list(comparisons))
        answer = yes_no_answer(comparisons[wording])
        name = f"the {self.writer.kind(other.kind)}"
        self.qas.append(self.follow_up(wording, answer, name=name, way=way))
        self.about_nothing()  # "it" could mean either of the two
        return True

    def ask_scene(self) -> bool:
        """Weather or place, each once."""
        wordings = [name for name in ("weather", "place") if name not in self.scene_known]
        if not wordings:
            return False
        wording = self.rng.choice(wordings)
        self.scene_known.add(wording)
        answers = {"weather": weather_answer(self.facts), "place": place_answer(self.facts)}
        self.qas.append(self.follow_up(wording, answers[wording]))
        self.about_nothing()
        return True

    def ask_the_same(self) -> bool:
        """The last question about another kind: "And the dog?" """
        asked = self.asked
        # Drawn before the checks: to draw it after them would change all later draws, so the data.
        kind = self.some_kind()
        things = self.facts.of_kind(kind)
        if asked not in (*ATTRIBUTES, "presence", "count"):
            return False
        if asked in ATTRIBUTES and len(things) > 1:
            return False
        spoken = self.writer.kind(kind)
        slots = {
            "kind": spoken,
            "name": f"the {spoken}",
            "kinds": plural(spoken),
            "names": f"the {plural(spoken)}",
            "a_kind": with_article(spoken),
        }
        self.about(kind, things)
        if asked == "presence":
            answer = presence_answer(len(things) > 0, with_article(kind))
            self.add(self.follow_up("same presence", answer, **slots), asked)
        elif asked == "count":
            answer = count_answer(things, kind, plural(kind))
            self.add(self.follow_up("same for several", answer, **slots), asked)
        else:
            self.add(self.follow_up("same", self.answer_about(asked), **slots), asked)
        return True

    def ask_what_else(self) -> bool:
        """What there is besides the topic; only while nothing else has been mentioned."""
        if len(self.qas) != 1 or not self.things:
            return False
        others = [thing for thing in self.facts.things if thing not in self.things]
        answer = Answer("nothing else", "There is nothing else.")
        if others:
            names = list_names(others)
            answer = Answer(names, f"There is {names}.")
        self.qas.append(self.follow_up("else", answer))
        if others:
            self.about_answer(others)
        return True

    def go_on(self) -> bool:
        """One more turn; False if no turn fits."""
        ways = [self.ask_about_it, self.ask_about_it, self.ask_the_same, self.ask_number]
        ways += [self.ask_whether, self.ask_neighbor, self.ask_comparison, self.ask_scene]
        if self.rng.random() < 0.3:
            ways.insert(0, self.ask_what_else)
        else:
            self.rng.shuffle(ways)
        # Each of them adds a turn and returns True, or adds nothing.
        return any(add_turn() for add_turn in ways)


def follow_ups(
    facts: Scene, rng: random.Random, turns: int = 3, split: str = "trained"
) -> list[QA]:
    """A dialogue of `turns` turns in which later ones refer to earlier ones."""
    talk = Talk(facts, Writer(rng, split))
    talk.open()
    while len(talk.qas) < turns:
        if talk.topic == "" or not talk.go_on():
            talk.open()
    return talk.qas[:turns]


# Instruction data


def description(facts: Scene, rng: random.Random, split: str = "trained") -> QA:
    """The detailed description, or every fact in one sentence if that is what is asked for."""
    writer = Writer(rng, split)
    if rng.random() < 0.15:
        return writer.qa("detail", "sentence", Answer(one_sentence(facts)))
    return writer.qa("detail", "detail", Answer(detail(facts)))


def instructions(
    facts: Scene, rng: random.Random, response_type: str, inventory: float = 0.2
) -> list[QA]:
    """One sample of instruction data, of the type "conversation", "detail" or "complex".

    `inventory` is the share that only asks what is there and how many, of the conversations whose
    turns do not refer back. Raises ValueError for another type.
    """
    if response_type == "conversation":
        if rng.random() < 0.25:
            qas = follow_ups(facts, rng, turns=6)
        else:
            qas = conversation(facts, rng, inventory=inventory)
        # A description tells the answers of all questions, so none follows it.
        if rng.random() < 0.2:
            qas.append(description(facts, rng))
        return qas
    if response_type == "detail":
        return [description(facts, rng)]
    if response_type == "complex":
        qas = reasons(facts, Writer(rng))
        return rng.sample(qas, min(3, len(qas)))
    raise ValueError(
        f"instruction data {response_type!r}: expected 'conversation', 'detail' or 'complex'"
    )


def dialogue(context: str, qas: list[QA]) -> list[dict]:
    """Questions and answers in LLaVA's form, `context` on a line before the first question.

    The context is the image token, or for a language model a description of the scene."""
    turns = []
    for i, qa in enumerate(qas):
        question = qa.question
        if i == 0:
            question = f"{context}\n{question}"
        turns.append({"from": "human", "value": question})
        turns.append({"from": "gpt", "value": qa.answer})
    return turns
