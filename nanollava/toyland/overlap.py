"""Which questions the grammar can produce. The natural questions that are scored are others."""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import product

from ..errors import exit_with
from .captions import NUMBERS, plural
from .grammar import BRITISH, CONTRACTIONS, OPENINGS, all_forms
from .qa import KIND_OF_WORD, member_of
from .scenes import COLORS, SIDES
from .wordings import FOLLOW_UPS, GROUPS, NEIGHBOR_WORDS, NOT_IN_TOYLAND, SPOTS, WORDINGS

# An example of what fills a slot of a template.
EXAMPLES = {
    "other": "the dog",
    "names": "the cats",
    "kind": "cat",
    "a_kind": "a cat",
    "other_kind": "a dog",
    "color": "red",
    "other_color": "blue",
    "way": "left",
    "country": "France",
    "other_number": "three",
}
# Slots whose fillings `pattern` tells apart, with all their fillings.
CHOICES = {
    "spot": [form for spot in SPOTS.values() for part in spot for form in all_forms(part)],
    "where": [
        form for words in NEIGHBOR_WORDS.values() for part in words for form in all_forms(part)
    ],
    "name": ["the cat", *(f"the {member_of(group)}" for group in GROUPS)],
    "group": list(GROUPS),
    "member": [member_of(group) for group in GROUPS],
    "most": ["leftmost", "rightmost"],
    "number": list(NUMBERS[1:]),
    "kinds": ["cats", "things", "objects", "red things", *GROUPS],
}
OTHER_VALUES = {"toy", *NOT_IN_TOYLAND, *(plural(kind) for kind in NOT_IN_TOYLAND)}
VALUES = {*KIND_OF_WORD, *COLORS, *SIDES, *OTHER_VALUES}  # exchangeable words
ARTICLES = {"a", "an", "the"}


def pattern(text: str) -> str:
    """What is left of a question when `as_typed` and the things it asks about do not count.

    "what colour is the red cat, please" and "What color is the dog?" have the same pattern.
    """
    text = text.lower()
    for opening in OPENINGS:
        text = text.removeprefix(opening.lower())
    for long, short in CONTRACTIONS.items():
        text = text.replace(short.lower(), long.lower())
    for american, british in BRITISH.items():
        text = text.replace(british.lower(), american.lower())
    kept = []
    for word in re.findall(r"[a-z']+", text):
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


def in_grammar(question: str) -> bool:
    """Whether the grammar can produce a question in these words, about whatever things."""
    return pattern(question) in grammar_patterns()


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.toyland natural --help")
