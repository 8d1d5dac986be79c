"""What the teacher is told for each kind of instruction data, with one worked example."""

KINDS = ("conversation", "detail", "complex")

# The teacher sees captions and boxes, and must write as if it saw the image.
_NOTES = """\
What you see is given as several short sentences by different people, then as a list of objects \
with their positions: left, top, right and bottom edge in fractions of the image's width and \
height, so that [0.0, 0.0, 0.5, 1.0] is its left half."""

_HIDE_NOTES = """\
- Never reveal that you were given notes: do not mention sentences, captions, lists, boxes, \
coordinates or numbers of edges."""

CONVERSATION = f"""\
You look at an image and answer somebody's questions about it. {_NOTES} Write the conversation \
between that person and you.

Rules:
- Ask about what can be seen: which objects there are, how many, their colors, what they do, where \
they are, and how they relate to each other. Include one or two questions that need some thought \
about what is seen, if there is a certain answer.
- Ask only questions with one certain answer in what you were given: about an object that is \
certainly there, or one that certainly is not. Leave out everything you would have to guess.
{_HIDE_NOTES} Speak of left, right, top, bottom, near and far instead. Count objects by the list \
only if the list can be complete.
- Answer in whole sentences, as a helpful assistant who looks at the image.
- Write three to six questions, each after a line `Question:`, and each answer after a line \
`Answer:`, with a line `===` between any two of them, and nothing else."""

DETAIL = f"""\
You look at an image and describe it to somebody who cannot see it. {_NOTES}

Rules:
- Begin with what the image shows as a whole, then go through its objects: what they are, how \
many, what they look like and do, where they are, and how they relate to each other. Use the \
positions to say what is left, right, in front or behind, large or small.
- State only what you were given or what follows from it. Where two sentences disagree, leave the \
point out.
{_HIDE_NOTES}
- Write one to three paragraphs of plain text, and nothing else."""

COMPLEX = f"""\
You look at an image and are asked a question about it that takes thought. {_NOTES} Write the \
question and your answer.

Rules:
- Ask for something that cannot simply be seen but follows from what is seen together with \
knowledge of the world: why something is as it is, what will happen next, what to watch out for, \
what one would need, what makes the scene special.
- The question itself must not describe the image, and must be clear to somebody who looks at it.
- Answer step by step: name what in the image supports the conclusion, then conclude. Write one or \
two paragraphs.
- Use only what you were given and what everybody knows. Do not invent names, places or events.
{_HIDE_NOTES}
- Write a line `Question:` with the question below it, a line `===`, a line `Answer:` with the \
answer below it, and nothing else."""

SYSTEM = {"conversation": CONVERSATION, "detail": DETAIL, "complex": COMPLEX}

EXAMPLE_CONTEXT = """\
A girl in a green coat throws bread to some ducks.
A child feeding ducks at the edge of a pond.
Three ducks swim towards a little girl.
A small girl stands on a wooden jetty by the water.
A kid with birds on a lake in autumn.

person: [0.112, 0.208, 0.341, 0.874]
bird: [0.487, 0.603, 0.592, 0.701]
bird: [0.618, 0.577, 0.709, 0.662]
bird: [0.803, 0.641, 0.911, 0.748]"""

EXAMPLE_ANSWER = {
    "conversation": """\
Question:
What is the girl doing?
===
Answer:
The girl is feeding ducks. She throws bread to them from the edge of the water.
===
Question:
How many ducks are there?
===
Answer:
There are three ducks on the water.
===
Question:
On which side of the image does the girl stand?
===
Answer:
She stands on the left, and the ducks are to the right of her.
===
Question:
What color is her coat?
===
Answer:
Her coat is green.
===
Question:
Why do the ducks swim towards the girl?
===
Answer:
They come for the bread that she throws into the water.""",
    "detail": """\
The image shows an autumn day at the water, where a small girl feeds ducks. She stands on a wooden \
jetty on the left side and takes up most of the height of the image. She wears a green coat and is \
throwing bread.

Three ducks swim on the water to the right of her, in the lower part of the image. Two of them are \
close together near the middle, one slightly behind the other. The third is further to the right \
and nearest to the bottom edge. All of them are on their way to the girl and her bread.""",
    "complex": """\
Question:
What should an adult who comes along with the girl watch out for?
===
Answer:
The girl stands on a jetty, right at the edge of the water, and she is small. While she throws \
bread she looks at the ducks and not at her feet, and wet wood in autumn is slippery. So the adult \
should stay within reach of her and make sure that she does not lean over the edge.

The ducks matter as well. They already swim towards her, and more bread brings them closer. A lot \
of bread is not good for water birds, so it would be wise to let her throw only a little of it.""",
}

# The questions that a detailed description answers; one is drawn for each image.
DETAIL_QUESTIONS = [
    "Describe this picture in detail.",
    "What does the picture show? Go through all of it.",
    "Write a full description of this photo.",
    "Tell me everything that can be seen here.",
    "Give a thorough account of this image.",
    "What is going on in this picture, from front to back?",
    "Describe the scene and where everything in it is.",
    "Please put this image into words, leaving nothing important out.",
    "I cannot see the picture. Tell me what is in it, in detail.",
    "Walk me through this picture.",
    "Explain what is visible in this photograph, detail by detail.",
    "How would you describe this image to somebody on the phone?",
]


def messages(kind: str, context: str) -> list[dict]:
    """The chat messages that ask for one kind of data about an image with this context."""
    return [
        {"role": "system", "content": SYSTEM[kind]},
        {"role": "user", "content": EXAMPLE_CONTEXT},
        {"role": "assistant", "content": EXAMPLE_ANSWER[kind]},
        {"role": "user", "content": context},
    ]
