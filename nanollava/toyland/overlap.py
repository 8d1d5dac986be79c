"""Which questions the grammar can produce, and which are plain language.

Natural questions are scored only if the grammar cannot produce them, unseen wordings only if they
are not plain language."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, product

from ..errors import exit_with
from .captions import NUMBERS, WORDS, plural
from .grammar import BRITISH, CONTRACTIONS, OPENINGS, THANKS, all_forms, replace_words
from .plain import FORMS
from .qa import KIND_OF_WORD, member_of
from .scenes import COLORS, SIDES
from .wordings import (
    COUNTRIES,
    FOLLOW_UPS,
    GROUPS,
    NEIGHBOR_WORDS,
    NOT_IN_TOYLAND,
    OTHER_NAMES,
    SPOTS,
    STYLES,
    STYLES_BEFORE,
    WORDINGS,
)

# `pattern` writes "_" for what fills these slots, so one example stands for all.
EXAMPLES = {
    "names": "the cats",
    "kind": "cat",
    "a_kind": "a cat",
    "other_kind": "a dog",
    "color": "red",
    "other_color": "blue",
}
# `pattern` keeps the words of these, so each filling is tried. A name that says where the thing
# is, "the cat on the left", is left to `without_spots`.
CHOICES = {
    "spot": [form for spot in SPOTS.values() for part in spot for form in all_forms(part)],
    "where": [
        form for words in NEIGHBOR_WORDS.values() for part in words for form in all_forms(part)
    ],
    "name": ["the cat", *(f"the {member_of(group)}" for group in GROUPS)],
    "other": ["the dog", *(f"the {member_of(group)}" for group in GROUPS)],
    "group": list(GROUPS),
    "member": [member_of(group) for group in GROUPS],
    "way": ["left", "right"],
    "most": ["leftmost", "rightmost"],
    "number": list(NUMBERS[1:]),
    "other_number": list(NUMBERS[1:]),
    "country": list(COUNTRIES),
    "kinds": ["cats", "things", "objects", "red things", *GROUPS],
}
# The slots of plain language besides the side, which is tried with each of its words.
PLAIN_EXAMPLES = {
    "kind": "cat",
    "a_kind": "a cat",
    "kinds": "cats",
    "name": "the cat",
    "other": "the dog",
    "way": "left",
}
# Names of two words, "toy ball", and the kinds that they mean.
LONG_NAMES = {name: kind for kind, names in OTHER_NAMES.items() for name in names if " " in name}
OTHER_VALUES = {*NOT_IN_TOYLAND, *(plural(kind) for kind in NOT_IN_TOYLAND)}
VALUES = {*KIND_OF_WORD, *COLORS, *SIDES, *OTHER_VALUES}  # exchangeable words
VALUES |= {f"{word}s" for word in VALUES}  # "the person's color" without its apostrophe
ARTICLES = {"a", "an", "the"}


def without_opening(text: str) -> str:
    """A question in lower case without the words that `as_typed` puts before it: "so ", "ok, "."""
    for opening in OPENINGS:
        text = text.removeprefix(opening.lower())
    return text


def pattern(text: str) -> str:
    """What is left of a question when `as_typed` and the things it asks about do not count.

    "what colour is the red cat, please" and "What color is the dog?" have the same pattern.
    """
    # The steps of `as_typed` are undone from the last to the first.
    text = text.lower().replace("'", "")
    while (shorter := without_opening(text)) != text:  # a form may begin with one of its own
        text = shorter
    text = text.rstrip(".?!")
    for thanks in THANKS:
        text = text.removesuffix(thanks.lower().rstrip(".?!"))
    for american, british in BRITISH.items():
        text = text.replace(british.lower(), american.lower())
    for long, short in CONTRACTIONS.items():
        text = text.replace(short.lower().replace("'", ""), long.lower())
    text = replace_words(text, LONG_NAMES)
    kept = []
    for word in re.findall(r"[a-z]+", text):
        if word in ARTICLES or word == "please":
            continue
        if word not in VALUES:
            kept.append(word)
        elif kept[-1:] != ["_"]:  # "red cat" is one name
            kept.append("_")
    return " ".join(kept)


def filled(template: str) -> Iterator[str]:
    """Every form of a template with words in its slots."""
    slots = [slot for slot in CHOICES if f"{{{slot}}}" in template]
    for form in all_forms(template):
        for words in product(*(CHOICES[slot] for slot in slots)):
            chosen = dict(zip(slots, words, strict=True))
            yield form.format(**EXAMPLES, **chosen)


@lru_cache(maxsize=1)
def grammar_patterns() -> frozenset[str]:
    """The patterns of all forms, of those that are trained on and of the others."""
    patterns = set()
    for templates in (*WORDINGS.values(), *FOLLOW_UPS.values()):
        for template in templates:
            patterns |= {pattern(question) for question in filled(template)}
    return frozenset(patterns)


def patterns_of(templates: Iterable[str]) -> set[str]:
    """The patterns of all forms of templates without slots."""
    return {pattern(form) for template in templates for form in all_forms(template)}


@lru_cache(maxsize=1)
def requests_after() -> tuple[str, ...]:
    """The patterns of the requests that may follow a question: "Answer in one word."

    The longest come first, so that "only one word" is not cut to "only"."""
    templates = (*STYLES["word"], *STYLES["sentence"], *FOLLOW_UPS["yes or no"])
    return tuple(sorted(patterns_of(templates), key=len, reverse=True))


@lru_cache(maxsize=1)
def requests_before() -> frozenset[str]:
    """The patterns of the requests that may come before a question: "In one word"."""
    return frozenset(patterns_of((*STYLES_BEFORE["word"], *STYLES_BEFORE["sentence"])))


@lru_cache(maxsize=1)
def name_with_spot() -> re.Pattern:
    """Finds names such as "_ on _ side of this picture"."""
    spots = sorted(patterns_of(CHOICES["spot"]), key=len, reverse=True)  # the longest that fits
    return re.compile(rf"_ ({'|'.join(spots)})\b")


def without_request(words: str) -> str:
    """A pattern without the request for one word, a sentence, or yes or no at its end."""
    for request in requests_after():
        if words.endswith(f" {request}"):
            return words.removesuffix(f" {request}")
    return words


def without_request_before(question: str) -> str:
    """A question without the request before it: "In one word: ..." or "In one word, ..."."""
    marks = [mark.start() for mark in re.finditer("[:,]", question)]
    for mark in reversed(marks):  # a request may have a comma of its own: "One word, please:"
        if pattern(question[:mark]) in requests_before():
            return question[mark + 1 :].lstrip()
    return question


def without_spots(words: str, count: int = 0) -> str:
    """A pattern in which "the cat on the left" is as short as "the cat".

    The first `count` names are shortened; 0 means all, as in `re.sub`."""
    words = name_with_spot().sub("_", words, count)
    return re.sub("_( _)+", "_", words)


def possible_patterns(question: str) -> set[str]:
    """The pattern of a question, and those without its requests and the spots in its names."""
    patterns = {pattern(question), pattern(without_request_before(question))}
    patterns |= {without_request(words) for words in patterns}
    shorter = {without_spots(words) for words in patterns}
    shorter |= {without_spots(words, 1) for words in patterns}
    return patterns | shorter


def in_grammar(question: str) -> bool:
    """Whether the grammar can produce a question in these words, about whatever things."""
    return not possible_patterns(question).isdisjoint(grammar_patterns())


@lru_cache(maxsize=1)
def plain_patterns() -> frozenset[str]:
    """The patterns of plain language (`plain.py`)."""
    patterns = set()
    for form in chain.from_iterable(FORMS.values()):
        for side in SIDES:
            patterns.add(pattern(form.format(**PLAIN_EXAMPLES, side=WORDS[side])))
    return frozenset(patterns)


def in_plain_language(question: str) -> bool:
    """Whether a question has a form of plain language, which every model has learned."""
    return not possible_patterns(question).isdisjoint(plain_patterns())


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.toyland natural --help")
