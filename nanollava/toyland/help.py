"""What a model of Toyland can be asked, in words: `/help` in the chat of sample.py prints it."""

from ..config import LlavaConfig
from .captions import WORDS
from .clip import VISION
from .scenes import COLORS, DISTANCES, KINDS, PLACES, SIDES, WEATHERS

# One question of every sort; they can be asked about any image of Toyland.
EXAMPLES = (
    "Describe this image.",
    "What color is the cat?",
    "Where is the house?",
    "Is the umbrella near or far away?",
    "Is there a dog?",
    "How many things are there?",
    "What is on the left?",
    "What is the weather like?",
    "Where was this picture taken?",
    "Can we build a snowman?",
)


def is_of_toyland(config: LlavaConfig) -> bool:
    """Whether a model sees through toy-clip. No published CLIP has its size."""
    return config.vision_config == VISION


def in_words(names: tuple[str, ...]) -> str:
    """Names of facts as the captions put them: "on the left, in the middle, on the right"."""
    return ", ".join([WORDS[name] for name in names])


def what_to_ask() -> str:
    """What exists in Toyland, questions that work, and what does not work."""
    examples = "\n".join([f"  {question}" for question in EXAMPLES])
    return f"""This model knows only Toyland, a small world of drawings. What there is:
  things     {", ".join(KINDS)}
  colors     {", ".join(COLORS)}
  sides      {in_words(SIDES)}
  distances  {in_words(DISTANCES)}
  places     {in_words(PLACES)}
  weather    {", ".join(WEATHERS)}
Photographs do not work: they need real weights (docs/weights.md).
Ask, in these words or in your own:
{examples}
Answers are short; add "In a sentence." for longer ones.
Then go on, for example with "And the house?" or "Where is it?"; /reset starts over.
For a reason ask "Can we build a snowman? Yes or no?", then "Why?"."""
