"""What a Toyland picture shows: a place, a weather and one to four coloured things, and which split a scene belongs to."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

# The kinds of things, each with its width over its height.
ASPECT = {
    "cat": 0.95,
    "dog": 1.2,
    "bird": 1.15,
    "person": 0.55,
    "car": 1.45,
    "bicycle": 1.3,
    "tree": 0.75,
    "house": 1.05,
    "umbrella": 0.95,
    "ball": 1.0,
    "boat": 1.15,
    "flower": 0.7,
}
KINDS = tuple(ASPECT)
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
PLACES = ("park", "beach", "street", "snow")
WEATHERS = ("sunny", "rainy", "cloudy", "night")
SIDES = ("left", "middle", "right")
DISTANCES = ("near", "far")
FACTS = dict(kind=KINDS, color=COLORS, side=SIDES, distance=DISTANCES)  # what a thing is told by
SLOTS = [(side, distance) for side in SIDES for distance in DISTANCES]
SKIES = [(place, weather) for place in PLACES for weather in WEATHERS]
SPLITS = ("train", "validation", "test")

# One colour of every kind is kept out of training and validation: only the test split shows these combinations.
UNSEEN = frozenset((kind, COLORS[(3 * i + 1) % len(COLORS)]) for i, kind in enumerate(KINDS))

# Largest width and height of a thing, and where its foot stands, in fractions of the picture (y points down).
CELL = {"near": (0.33, 0.42, 0.95), "far": (0.26, 0.31, 0.56)}


@dataclass(frozen=True)
class Thing:
    """One object; `box` is (x1, y1, x2, y2) in fractions of the picture, y pointing down."""

    kind: str
    color: str
    side: str
    distance: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """`seed` decides the look alone (clouds, stars, grass), never the facts."""

    place: str
    weather: str
    things: tuple[Thing, ...]
    seed: int = 0

    @property
    def facts(self) -> tuple:
        """Everything that can be said of the scene: two scenes with equal facts are the same scene to a reader."""
        return (
            self.place,
            self.weather,
            *sorted((t.kind, t.color, t.side, t.distance) for t in self.things),
        )

    def of_kind(self, kind: str) -> list[Thing]:
        return [t for t in self.things if t.kind == kind]

    @property
    def unseen(self) -> bool:
        """Whether a kind and colour meet here that never meet in training."""
        return any((t.kind, t.color) in UNSEEN for t in self.things)

    @property
    def split(self) -> str:
        """The one split this scene may appear in, by a hash of its facts: 80% train, 10% validation, 10% test."""
        if self.unseen:
            return "test"
        bucket = hashlib.sha256(repr(self.facts).encode()).digest()[0] % 10
        return "train" if bucket < 8 else "validation" if bucket == 8 else "test"


def place_thing(rng: random.Random, kind: str, color: str, side: str, distance: str) -> Thing:
    """Puts a thing into its slot with a varied size and position."""
    width, height, foot = CELL[distance]
    height = min(height, width / ASPECT[kind]) * rng.uniform(0.88, 1.0)
    width = height * ASPECT[kind]
    center = (SIDES.index(side) + 0.5) / 3 + rng.uniform(-0.03, 0.03)
    center = min(max(center, width / 2 + 0.005), 1 - width / 2 - 0.005)
    foot += rng.uniform(-0.025, 0.025)
    box = (center - width / 2, foot - height, center + width / 2, foot)
    return Thing(kind, color, side, distance, tuple(round(v, 3) for v in box))


def random_scene(rng: random.Random) -> Scene:
    """Any scene, of any split."""
    count = rng.choices((1, 2, 3, 4), weights=(2, 4, 5, 3))[0]
    slots, kinds = rng.sample(SLOTS, count), rng.sample(KINDS, count)
    if count > 1 and rng.random() < 0.35:  # several of a kind, so that counting means something
        kinds = ([kinds[0]] * count + kinds[rng.randint(2, count) :])[:count]
    rng.shuffle(kinds)
    things = [
        place_thing(rng, k, rng.choice(COLORS), *slot) for k, slot in zip(kinds, slots, strict=True)
    ]
    things.sort(
        key=lambda t: (DISTANCES.index(t.distance), SIDES.index(t.side))
    )  # near first, left to right
    return Scene(rng.choice(PLACES), rng.choice(WEATHERS), tuple(things), rng.randrange(2**31))


def scenes(split: str, count: int, seed: int = 0, unseen: bool | None = None) -> Iterator[Scene]:
    """Yields `count` scenes of a split, the same ones for the same seed; in the test split `unseen` asks for scenes
    with (True) or without (False) a combination kept out of training."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    rng = random.Random(f"toyland/{split}/{unseen}/{seed}")
    while count > 0:
        scene = random_scene(rng)
        if scene.split == split and unseen in (None, scene.unseen):
            count -= 1
            yield scene
