"""Templates with alternatives: one question in the many ways that people ask it.

`(a|b)` is either a or b, and may be nested; `(a|)` is a or nothing, and `(a||)` is nothing two
times out of three. `$image` stands for the entry "image" of SYNONYMS. Words in braces, such as
`{kind}`, are filled in with `str.format`.
"""

import hashlib
import random
import re
from collections.abc import Iterator

WORDING_SPLITS = ("trained", "unseen")  # the split of wordings, in addition to the one of scenes

SYNONYMS = {
    "image": "(picture|image|photo|scene)",
    "in_image": "in (this|the) $image",
    "here": "( $in_image| here||)",
    "tell": "((Can|Could) you tell me|Tell me|Please tell me|Do you know|I want to know|Say)",
    "do_you_see": "((do|can) you see|can you (spot|find|make out))",
    "which": "(which|what)",
    "Which": "(Which|What)",
    "thing": "(thing|object)",
    "things": "(things|objects|items)",
}
GROUP = re.compile(r"\(([^()]*)\)")  # an innermost group
SPACES = re.compile(r" +(?=[ ,.:?!])")  # spaces before a space or a punctuation mark


def with_synonyms(template: str) -> str:
    """The template with every `$name` replaced by its alternatives."""
    while "$" in template:
        template = re.sub(r"\$(\w+)", lambda match: SYNONYMS[match[1]], template)
    return template


def tidy(text: str) -> str:
    """The text with single spaces, and none before a punctuation mark."""
    return SPACES.sub("", text).strip()


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def uncapitalized(text: str) -> str:
    """The text without its capital letter; "I" and "OK" keep theirs."""
    if text.startswith(("I ", "I'", "OK")):
        return text
    return text[:1].lower() + text[1:]


def as_sentence(text: str) -> str:
    """With a capital letter, and a question mark where `$tell` made a question of it."""
    text = capitalized(text)
    if text.startswith(("Can ", "Could ", "Do you ")) and text.endswith("."):
        return text[:-1] + "?"
    return text


def expand(template: str, rng: random.Random) -> str:
    """One random form of a template."""
    text = with_synonyms(template)
    while (group := GROUP.search(text)) is not None:
        choice = rng.choice(group[1].split("|"))
        text = text[: group.start()] + choice + text[group.end() :]
    return tidy(text)


def all_forms(template: str) -> Iterator[str]:
    """Every form of a template, some of them possibly twice."""
    text = with_synonyms(template)
    group = GROUP.search(text)
    if group is None:
        yield tidy(text)
        return
    for choice in group[1].split("|"):
        yield from all_forms(text[: group.start()] + choice + text[group.end() :])


def split_of(form: str) -> str:
    """Whether a form is trained on: a hash of its words decides, and about a fifth is unseen.

    Capitals and punctuation do not count, as people leave them out."""
    words = " ".join(re.findall(r"\w+", form.lower()))
    bucket = hashlib.sha256(words.encode()).digest()[0] % 5
    return "unseen" if bucket == 0 else "trained"


def choose_form(templates: tuple[str, ...], rng: random.Random, split: str) -> str:
    """A random form of the templates that belongs to the split."""
    while True:
        form = expand(rng.choice(templates), rng)
        if split_of(form) == split:
            return form


# How people type

CONTRACTIONS = {
    "What is ": "What's ",
    "Where is ": "Where's ",
    "How is ": "How's ",
    "Who is ": "Who's ",
    "There is ": "There's ",
    "color is the ": "color's the ",
}
BRITISH = {"color": "colour", "Color": "Colour", "gray": "grey", "center": "centre"}
OPENINGS = (
    "Hey, ",
    "Hi, ",
    "Hi! ",
    "Hello. ",
    "OK, ",
    "Well, ",
    "Hmm, ",
    "So ",
    "And ",
    "Now ",
    "Look at the picture. ",
    "Look at this image. ",
    "Please answer: ",
    "Question: ",
    "Quick question: ",
    "One more question: ",
)
PLEASE = (", please", " please")
THANKS = (" Thanks!", " Thank you.", " Thanks.")


def replace_words(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


def as_typed(text: str, rng: random.Random) -> str:
    """The question as somebody might type it.

    With contractions, British words, "please", thanks and an opening; without capitals, apostrophes
    and the final mark. At least half of all questions stay as they are. Very short ones ("Hello!",
    "Why?") get neither an opening nor "please" nor thanks."""
    if rng.random() < 0.5:
        return text
    if rng.random() < 0.4:
        text = replace_words(text, CONTRACTIONS)
    if rng.random() < 0.3:
        text = replace_words(text, BRITISH)
    is_long = len(text.split()) > 3
    if rng.random() < 0.1 and is_long and "please" not in text.lower():
        text = text[:-1] + rng.choice(PLEASE) + text[-1]
    if rng.random() < 0.08 and is_long:
        text += rng.choice(THANKS)
    if rng.random() < 0.2 and is_long:
        opening = rng.choice(OPENINGS)
        ends_sentence = opening.endswith((". ", "! ", ": "))
        text = opening + (text if ends_sentence else uncapitalized(text))
    if rng.random() < 0.5:
        text = text.lower()
        if rng.random() < 0.3:
            text = text.replace("'", "")
    if rng.random() < 0.4:
        text = text.rstrip(".?!")
    return text
