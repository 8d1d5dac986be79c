"""Judges free answers about a scene: lenient about the form, strict about the facts.

An answer may be a word or a sentence. Clauses with a negation ("there is no dog") state no facts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .captions import plural
from .scenes import COLORS, KINDS, Scene

# Kinds that an answer may call by other words than their singular and plural.
KIND_WORDS = {
    "person": ("person", "people", "persons", "man", "woman", "somebody", "someone", "human"),
    "bicycle": ("bicycle", "bicycles", "bike", "bikes"),
    "boat": ("boat", "boats", "sailboat", "sailboats", "ship"),
}
# What an answer may call each value. No word occurs twice, not even under two attributes.
ACCEPTED_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "kind": {kind: KIND_WORDS.get(kind, (kind, plural(kind))) for kind in KINDS},
    "color": {color: (color,) for color in COLORS},
    "side": {
        "left": ("left",),
        "middle": ("middle", "center", "centre", "central"),
        "right": ("right",),
    },
    "distance": {
        "near": ("in front", "front", "foreground", "near", "nearby", "nearer", "close", "closer"),
        "far": ("far", "farther", "further", "distance", "distant", "background", "back"),
    },
    "place": {
        "park": ("park", "grass", "lawn", "meadow"),
        "beach": ("beach", "sand", "sandy", "shore", "seaside"),
        "street": ("street", "road"),
        "snow": ("snow", "snowy"),
    },
    "weather": {
        "sunny": ("sunny", "sun", "sunshine"),
        "rainy": ("rainy", "rain", "raining", "rains"),
        "cloudy": ("cloudy", "clouds", "overcast"),
        "night": ("night", "nighttime", "moon", "dark", "stars"),
    },
}


def values_by_word() -> dict[str, str]:
    """Every word of `ACCEPTED_WORDS`, of all attributes together, with its value."""
    result = {}
    for values in ACCEPTED_WORDS.values():
        for value, words in values.items():
            for word in words:
                result[word] = value
    return result


def any_word(values: dict[str, tuple[str, ...]]) -> re.Pattern:
    """Matches any word of an attribute."""
    words = [word for words_of_value in values.values() for word in words_of_value]
    return re.compile(rf"\b(?:{'|'.join(words)})\b")


VALUE_OF_WORD = values_by_word()
PATTERNS = {attribute: any_word(values) for attribute, values in ACCEPTED_WORDS.items()}

# Further words that explain how one can tell a place or a weather.
EVIDENCE = {
    "park": ("green", "tree", "trees", "bushes"),
    "beach": ("sea", "water", "waves", "ocean"),
    "street": ("asphalt", "lane", "pavement", "sidewalk", "houses", "buildings", "traffic"),
    "snow": ("white", "flakes", "snowflakes"),
    "sunny": ("bright", "blue", "shining", "light"),
    "rainy": ("drops", "wet", "falling"),
    "cloudy": ("gray", "grey", "cloud"),
    "night": ("black", "star", "sky"),
}
YES = ("yes", "yeah", "yep", "sure", "correct", "indeed")
NEGATIONS = {"no", "not", "nope", "none", "nothing", "nobody", "zero", "without", "neither", "0"}
NUMBER_OF_WORD = {
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "single": 1,
    "1": 1,
    "2": 2,
    "3": 3,
    "4": 4,
    "5": 5,
    "6": 6,
}
HONEST = re.compile(
    r"\bonly (know|see|understand|answer|talk)\b"
    r"|\b(can|could|do|does|am|is|are) not (\w+ )?"
    r"(know|known|tell|say|see|seen|show|shown|answer|able|sure|visible)\b"
    r"|\bno (idea|way to (know|tell))\b|\bnot (able|sure)\b|\bunable\b|\bimpossible to\b"
)
# An affirmation of what the model is: an answer to "who are you?".
SELF = re.compile(r"\bi am (a |an |the )?(\w+ ){0,3}(model|assistant|nanollava|llava)\b")

Fact = tuple[str, ...]


class Match(NamedTuple):
    """A word for a value, and where it is in the text."""

    start: int
    end: int
    value: str


def plain(text: str) -> str:
    """Lower case, without contractions of "not"; some set phrases in simpler words."""
    text = text.lower().replace("\u2019", "'")
    text = text.replace("can't", "can not").replace("cannot", "can not").replace("n't", " not")
    text = text.replace("i'm ", "i am ")
    text = re.sub(r"\brain ?clouds?\b", "rain", text)
    text = re.sub(r"\b(dark|gray|grey) clouds?\b", "clouds", text)
    return re.sub(r"(?<!the )right (?=in front|in the|here\b)", "", text)


def without_relations(text: str) -> str:
    """Drops what is relative to another thing: "left of the dog", "near the tree"."""
    image = r"(?:image|picture|photo|scene|frame|camera|viewer|us)\b"
    relation = (
        r"(?:left|right|in front|front) of|near|(?:close|closer) to|"
        r"(?:nearer|closer|farther|further)(?: away)? than"
    )
    return re.sub(rf"\b(?:{relation}) (?=(?:the|a|an) )(?!(?:the|a|an) {image})", "beside ", text)


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", plain(text))


def is_negated(text: str) -> bool:
    return not NEGATIONS.isdisjoint(words_of(text))


def starts_with_yes(text: str) -> bool:
    words = words_of(text)
    return bool(words) and words[0] in YES


def sentences(text: str) -> list[str]:
    return re.split(r"[.!?;:\n]+", plain(text))


def clauses(sentence: str) -> list[tuple[str, str]]:
    """(joint, clause) pairs; the joint is the comma or the word before the clause."""
    parts = re.split(r"(,|\b(?:and|but|while|with)\b)", sentence)
    result = []
    joint = ""
    for part in parts:
        if part in (",", "and", "but", "while", "with"):
            joint = part
        elif part.strip():
            result.append((joint, part.strip()))
    return result


def split_by_negation(text: str) -> tuple[str, str]:
    """The clauses that affirm something, and those that deny something, each as one text."""
    affirmed = []
    denied = []
    for sentence in sentences(text):
        for _, clause in clauses(sentence):
            if is_negated(clause):
                denied.append(clause)
            else:
                affirmed.append(clause)
    return ", ".join(affirmed), ", ".join(denied)


def matches(text: str, attribute: str) -> list[Match]:
    """Where the text names a value of an attribute, and which, in the order of the text."""
    result = []
    for match in PATTERNS[attribute].finditer(text):
        result.append(Match(*match.span(), VALUE_OF_WORD[match[0]]))
    return result


def values_in(text: str, attribute: str) -> set[str]:
    """The values of an attribute that a text names."""
    text = without_relations(plain(text))
    values = {match.value for match in matches(text, attribute)}
    if attribute == "weather" and len(values) > 1:
        values.discard("cloudy")  # there are clouds on sunny, rainy and dark images, too
    return values


def numbers_in(text: str) -> set[int]:
    """The numbers that a text names; "no", "none" or "not" is 0, and "a dog" alone is 1."""
    words = words_of(text)
    numbers = {NUMBER_OF_WORD[word] for word in words if word in NUMBER_OF_WORD}
    if is_negated(text):
        numbers.add(0)
    if not numbers and re.search(r"\b(a|an|just|only)\b", plain(text)) and values_in(text, "kind"):
        numbers.add(1)
    return numbers


# --- the facts that a text states ---


@dataclass
class Mention:
    """One or more things as a text names them; an empty string where it does not say."""

    kind: str
    color: str
    number: int = 1
    side: str = ""
    distance: str = ""


@dataclass
class Clause:
    joint: str
    text: str
    mentions: list[Mention]
    start: int  # of the first mention


def mentions_in(clause: str) -> tuple[list[Mention], int]:
    """The things that a clause names, with color and number, and where the first one is."""
    colors = "|".join(COLORS)
    result = []
    kinds = matches(clause, "kind")
    before_start = 0
    for start, end, kind in kinds:
        before = clause[before_start:start]
        before_start = end
        color = re.search(rf"\b({colors})( (?!a\b|an\b|the\b)\w+)? $", before)
        if not color:
            color = re.match(rf"(?: that| which)? (?:is|are) (?:\w+ )?({colors})\b", clause[end:])
        number = re.search(r"\b(two|three|four|2|3|4) (\w+ )?$", before)
        mention = Mention(kind, "")
        if color:
            mention.color = color[1]
        if number:
            mention.number = NUMBER_OF_WORD[number[1]]
        result.append(mention)
    if not kinds:
        return [], 0
    return result, kinds[0].start


def attach(parts: list[Clause], attribute: str, waiting: list[Mention]) -> None:
    """Gives side or distance to the things of one sentence.

    The words for them come after the things ("a cat and a dog on the left") or before ("on the
    left there are a cat and a dog"). `waiting` are things whose words may still follow.
    """
    leading = ""  # words that came before their things
    for part in parts:
        value_matches = matches(part.text, attribute)
        values = [match.value for match in value_matches]
        if not part.mentions:  # "on the left"
            if not values:
                continue
            if not waiting:
                leading = values[-1]
            set_all(waiting, attribute, values[-1])
            waiting = []
        elif not values:  # "a cat"
            if leading:
                set_all(part.mentions, attribute, leading)
            else:
                waiting = waiting + part.mentions
        elif len(values) == len(part.mentions):  # "a cat on the left"
            for mention, value in zip(part.mentions, values, strict=True):
                setattr(mention, attribute, value)
            leading = ""
            if value_matches[0].start < part.start:
                leading = values[-1]
            elif part.joint == "and":
                set_all(waiting, attribute, values[0])
            waiting = []
        elif len(values) == 1:  # "a cat beside a dog in front"
            set_all(part.mentions, attribute, values[0])
            waiting = []


def set_all(mentions: list[Mention], attribute: str, value: str) -> None:
    for mention in mentions:
        setattr(mention, attribute, value)


def read_mentions(text: str) -> list[Mention]:
    """All things that a text names."""
    mentions: list[Mention] = []
    for sentence in sentences(text):
        sentence = without_relations(sentence)
        parts = []
        named = []
        for joint, clause in clauses(sentence):
            if not is_negated(clause):
                parts.append(Clause(joint, clause, *mentions_in(clause)))
                named += parts[-1].mentions
        waiting = []
        if mentions and re.match(r"\s*(it|they)\b", sentence):
            waiting = [mentions[-1]]
        attach(parts, "side", list(waiting))
        attach(parts, "distance", list(waiting))
        mentions += named
    add_known_colors(mentions)
    return mentions


def add_known_colors(mentions: list[Mention]) -> None:
    """In "There is a red cat. The cat is on the left." the second cat is red as well."""
    for mention in mentions:
        colors = {other.color for other in mentions if other.kind == mention.kind} - {""}
        if not mention.color and len(colors) == 1:
            mention.color = colors.pop()


def facts_in_answer(text: str) -> set[Fact]:
    """The facts that a text states, as tuples that `is_true` understands."""
    facts: set[Fact] = set()
    affirmed, _ = split_by_negation(text)
    for attribute in ("place", "weather"):
        for value in values_in(affirmed, attribute):
            facts.add((attribute, value))
    for mention in read_mentions(text):
        thing = (mention.color, mention.kind)
        facts.add(("thing", *thing))
        if mention.side:
            facts.add(("side", *thing, mention.side))
        if mention.distance:
            facts.add(("distance", *thing, mention.distance))
        if mention.number > 1:
            facts.add(("number", *thing, str(mention.number)))
    total = re.search(r"\b(one|two|three|four|1|2|3|4) (things?|objects?|items?)\b", affirmed)
    if total:
        facts.add(("total", str(NUMBER_OF_WORD[total[1]])))
    return facts


def is_true(fact: Fact, scene: Scene) -> bool:
    name = fact[0]
    if name == "place":
        return fact[1] == scene.place
    if name == "weather":
        return fact[1] == scene.weather
    if name == "total":
        return fact[1] == str(len(scene.things))
    color, kind = fact[1:3]
    things = [thing for thing in scene.of_kind(kind) if color in ("", thing.color)]
    if name == "thing":
        return bool(things)
    if name == "number":
        return fact[3] == str(len(things))
    return any(getattr(thing, name) == fact[3] for thing in things)


def true_facts(scene: Scene) -> set[Fact]:
    """What a description should state: place, weather and each thing's color, kind and side."""
    facts: set[Fact] = {("place", scene.place), ("weather", scene.weather)}
    for thing in scene.things:
        facts.add(("thing", thing.color, thing.kind))
        facts.add(("side", thing.color, thing.kind, thing.side))
    return facts


def is_stated(fact: Fact, stated: set[Fact], scene: Scene) -> bool:
    """The side of the only cat counts as stated without the cat's color, too."""
    if fact in stated:
        return True
    if fact[0] != "side" or len(scene.of_kind(fact[2])) > 1:
        return False
    return ("side", "", *fact[2:]) in stated


def has_false_fact(text: str, scene: Scene) -> bool:
    return not all(is_true(fact, scene) for fact in facts_in_answer(text))


# --- judges: every function says whether an answer is right ---


def fact_shares(text: str, scene: Scene) -> tuple[float, float]:
    """The share of true among the stated facts, and of stated among the true facts."""
    stated = facts_in_answer(text)
    if not stated:
        return 0.0, 0.0
    number_true = sum(is_true(fact, scene) for fact in stated)
    expected = true_facts(scene)
    number_stated = sum(is_stated(fact, stated, scene) for fact in expected)
    return number_true / len(stated), number_stated / len(expected)


def describes(text: str, scene: Scene) -> bool:
    """Whether all that the text states is true, and it states at least 80% of what is true."""
    true_share, stated_share = fact_shares(text, scene)
    return true_share == 1 and stated_share >= 0.8


def names(text: str, attribute: str, values: Iterable[str]) -> bool:
    """Whether the text names exactly these values of an attribute."""
    return values_in(text, attribute) == set(values) and not is_negated(text)


def names_others(text: str, kinds: set[str], besides: str) -> bool:
    """Judges the answer to "what else is there besides the cat?"; it may name the cat, too."""
    return values_in(text, "kind") - {besides} == kinds and not is_negated(text)


def checks(text: str, attribute: str, asked: str, value: str) -> bool:
    """Judges the answer to "is it `asked`?": yes, or no, or the right value instead."""
    affirmed, _ = split_by_negation(text)
    named = values_in(affirmed, attribute)
    if not named <= {value}:
        return False
    if asked == value:
        return not is_negated(text) and (starts_with_yes(text) or bool(named))
    return not starts_with_yes(text) and (is_negated(text) or bool(named))


def says(text: str, yes: bool) -> bool:
    """Whether the text is clearly a yes (or clearly a no)."""
    if yes:
        return starts_with_yes(text) and not is_negated(text)
    return is_negated(text) and not starts_with_yes(text)


def confirms(text: str, kind: str) -> bool:
    """Whether the text says that there is a thing of this kind."""
    if is_negated(text):
        return False
    return starts_with_yes(text) or kind in values_in(text, "kind")


def denies(text: str, kind: str) -> bool:
    """Whether the text says that there is no thing of this kind."""
    affirmed, denied = split_by_negation(text)
    if kind in values_in(affirmed, "kind"):
        return False
    return says(text, yes=False) and values_in(denied, "kind") <= {kind}


def counts(text: str, number: int) -> bool:
    return numbers_in(text) == {number}


def counts_several(text: str, number: int) -> bool:
    """Judges the answer to "is there more than one?": yes, or no, or the number itself."""
    numbers = numbers_in(re.sub(r"more than (?:one|1|a)\b|at least (?:two|2)\b", "", plain(text)))
    numbers.discard(0)
    if not numbers <= {number}:
        return False
    if numbers and not is_negated(text) and not starts_with_yes(text):
        return True
    return says(text, yes=number > 1)


def knows_day(text: str, weather: str) -> bool:
    """Judges the answer to "is it day or night?" """
    weathers = values_in(text, "weather")
    says_day = not {"day", "daytime", "daylight"}.isdisjoint(words_of(text))
    if is_negated(text):
        return False
    if weather == "night":
        return weathers == {"night"} and not says_day
    return weathers <= {weather} and (says_day or bool(weathers))


def tells_side(text: str, direction: str) -> bool:
    """Judges the answer to "left or right of it?"; the words may come before "of the dog"."""
    sides = {match.value for match in matches(plain(text), "side")}
    return sides == {direction} and not is_negated(text)


def tells_which(text: str, kind: str, other: str, opposite: Iterable[str]) -> bool:
    """Whether the text picks the first of two kinds. `opposite` are the words of the opposite
    comparison: with one of them, the text must pick the second ("the dog is farther away")."""
    text = plain(text)
    first = re.split(r"\b(?:than|of|behind|but|while)\b|,", text)[0]
    expected = kind
    if not set(opposite).isdisjoint(words_of(text)):
        expected = other
    return names(first, "kind", {expected}) and not is_negated(text)


def tells_none(text: str, kind: str, is_count: bool) -> bool:
    """Judges the answer to a question about a thing that is not there.

    It must say so, in more than a word unless a number is asked for, and name no attribute.
    """
    if not denies(text, kind):
        return False
    for attribute in ("color", "side", "distance"):
        if values_in(text, attribute):
            return False
    if is_count:
        return numbers_in(text) == {0}
    says_what = re.search(r"\b(there|here|any|such|see|image|picture|photo|scene)\b", plain(text))
    return bool(says_what) or kind in values_in(text, "kind")


def explains(text: str, attribute: str, value: str) -> bool:
    """Judges the answer to "why?" after a question about the place or the weather."""
    named = values_in(text, attribute)
    evidence = {*ACCEPTED_WORDS[attribute][value], *EVIDENCE[value]}
    if len(values_in(text, "color")) > 2:
        return False  # a list of colors explains nothing
    return named <= {value} and not evidence.isdisjoint(words_of(text))


def is_honest(text: str) -> bool:
    """Whether the text says what the model knows, or that it cannot know this."""
    text = plain(text)
    return bool(HONEST.search(text)) or bool(SELF.search(text))
