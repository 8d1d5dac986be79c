"""The wordings of the teacher's questions, and its answers to questions that need reasoning.

The tiny language model learned exactly these words: another wording needs new weights.
"""

from dataclasses import dataclass

# Every kind of question in several wordings; the teacher picks one at random. Words in braces are
# filled in: `kind` is "cat", `kinds` "cats", `name` "the red cat", `side` "on the left".
WORDINGS: dict[str, tuple[str, ...]] = {
    # One thing and its color; the second when the kind occurs more than once.
    "color": (
        "What color is the {kind}?",
        "Which color does the {kind} have?",
        "Tell me the color of the {kind}.",
        "The {kind} is of what color?",
    ),
    "color of one": (
        "What color is the {kind} {side}?",
        "Tell me the color of the {kind} {side}.",
    ),
    "position": (
        "Where is {name}?",
        "On which side is {name}?",
        "In which part of the picture is {name}?",
        "Where can I see {name}?",
    ),
    "distance": (
        "Is {name} in front or far away?",
        "How far away is {name}?",
        "Is {name} far away or in front?",
    ),
    "what": (
        "What is {side}?",
        "What do you see {side}?",
        "Which thing is {side} of the picture?",
        "Name the thing {side}.",
    ),
    "count": (
        "How many {kinds} are there?",
        "How many {kinds} do you see?",
        "Count the {kinds}.",
    ),
    "count of all": (
        "How many things are there?",
        "How many things do you see in all?",
    ),
    "presence": (
        "Is there {a_kind}?",
        "Do you see {a_kind}?",
        "Does the picture show {a_kind}?",
        "Is {a_kind} in the picture?",
    ),
    "presence of color": (
        "Is there {a_kind}?",
        "Do you see {a_kind}?",
        "Does the picture show {a_kind}?",
    ),
    # Two things compared.
    "side of other": (
        "Is {name} to the {way} of {other}?",
        "Is {name} more to the {way} than {other}?",
    ),
    "closer": (
        "Which is closer, {name} or {other}?",
        "What is closer to us, {name} or {other}?",
    ),
    # The whole image.
    "weather": (
        "What is the weather like?",
        "How is the weather?",
        "Which weather do you see?",
        "Describe the weather.",
    ),
    "place": (
        "Where was this picture taken?",
        "Which place is this?",
        "Where are we?",
        "What place does the picture show?",
    ),
    # Questions that need reasoning; REASONS has their answers.
    "who needs an umbrella": (
        "Who needs an umbrella and why?",
        "Who should take an umbrella and why?",
    ),
    "umbrella": (
        "Does anyone need an umbrella?",
        "Is an umbrella of use now?",
    ),
    "boat": (
        "Can the boat sail here?",
        "Is this a good place for sailing the boat?",
    ),
    "bicycle": (
        "Is it a good time to ride the bicycle?",
        "Would you ride the bicycle now?",
    ),
    "car": (
        "Should the car turn on its lights?",
        "Does the car need its lights?",
    ),
    "dog and ball": (
        "Can a dog play with a ball here?",
        "Could a dog chase a ball here?",
    ),
    "bird": (
        "Can the bird sit in a tree?",
        "Is there a tree for the bird?",
    ),
    "sunglasses": (
        "Would sunglasses help?",
        "Is it good to wear sunglasses?",
    ),
    "snowman": (
        "Can we build a snowman here?",
        "Is there snow for a snowman?",
    ),
    "sea": (
        "Can we build a sand castle?",
        "Could we swim in the sea here?",
    ),
    # The detailed description.
    "detail": (
        "Describe the picture in detail.",
        "What do you see in this picture? Tell me everything.",
        "Give a detailed description of the picture.",
        "Tell me all about this picture.",
        "Describe everything that you see.",
    ),
}


@dataclass(frozen=True)
class Reason:
    """An answer, and the words that must all hold in a scene for it to be true.

    A word is a kind of thing in the scene, its place or its weather; "people" means at least two
    persons."""

    needs: frozenset[str]
    answer: str


def reason(needs: str, answer: str) -> Reason:
    return Reason(frozenset(needs.split()), answer)


# The answers to every question that needs reasoning. The first one whose words all hold is true, so
# the special cases stand before the general one; if none holds, the question is not asked.
REASONS: dict[str, tuple[Reason, ...]] = {
    "who needs an umbrella": (
        reason("rainy people", "the people, because it is raining."),
        reason("rainy person", "the person, because it is raining."),
    ),
    "umbrella": (
        reason("night", "no, because it is not raining."),
        reason("sunny", "no, because the sun is shining."),
        reason("cloudy", "no, because it is cloudy."),
    ),
    "boat": (
        reason("boat beach", "yes, because there is the sea."),
        reason("boat park", "no, because there is no water in the park."),
        reason("boat street", "no, because there is no water on the street."),
        reason("boat snow", "no, because there is no water in the snow."),
    ),
    "bicycle": (
        reason("bicycle rainy", "no, because it is raining."),
        reason("bicycle night", "no, because it is dark."),
        reason("bicycle snow", "no, because the snow is slippery."),
        reason("bicycle beach", "no, because the sand is soft."),
        reason("bicycle", "yes, because the way is dry and bright."),
    ),
    "car": (
        reason("car night", "yes, because it is dark."),
        reason("car rainy", "yes, because it is raining."),
        reason("car", "no, because it is bright."),
    ),
    "dog and ball": (
        reason("dog ball", "yes, because both are here."),
        reason("dog", "no, because there is no ball."),
        reason("ball", "no, because there is no dog."),
    ),
    "bird": (
        reason("bird tree", "yes, because there is a tree."),
        reason("bird", "no, because there is no tree."),
    ),
    "sunglasses": (
        reason("sunny", "yes, because the sun is shining."),
        reason("rainy", "no, because it is raining."),
        reason("cloudy", "no, because it is cloudy."),
        reason("night", "no, because it is dark."),
    ),
    "snowman": (
        reason("snow", "yes, because there is snow here."),
        reason("park", "no, because this is a park."),
        reason("beach", "no, because this is a beach."),
        reason("street", "no, because this is a street."),
    ),
    "sea": (
        reason("beach", "yes, because this is a beach."),
        reason("park", "no, because this is a park."),
        reason("street", "no, because this is a street."),
        reason("snow", "no, because there is snow here."),
    ),
}
