"""What a Toyland image shows: a place, a weather and one to four colored things.

Also decides which split (train, validation, test) a scene belongs to.
"""

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
SPLITS = ("train", "validation", "test")

# The facts that describe one thing, with their possible values.
FACTS = {"kind": KINDS, "color": COLORS, "side": SIDES, "distance": DISTANCES}
# Where a thing can be. A scene uses each slot at most once.
SLOTS = [(side, distance) for side in SIDES for distance in DISTANCES]
SKIES = [(place, weather) for place in PLACES for weather in WEATHERS]

# One color of every kind never occurs in training and validation. Only the test split shows these
# combinations: it measures whether a model can combine a known kind with a known color.
UNSEEN = frozenset((kind, COLORS[(3 * i + 1) % len(COLORS)]) for i, kind in enumerate(KINDS))


@dataclass(frozen=True)
class Cell:
    """The room for a thing, in fractions of the image; y points down."""

    max_width: float
    max_height: float
    foot: float  # y of the thing's lower edge


CELLS = {"near": Cell(0.33, 0.42, 0.95), "far": Cell(0.26, 0.31, 0.56)}
EDGE = 0.005  # the least space between a thing and the left or right edge of the image


@dataclass(frozen=True)
class Thing:
    """One object; `box` is (x1, y1, x2, y2) in fractions of the image, y pointing down."""

    kind: str
    color: str
    side: str
    distance: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """`seed` decides only the look (clouds, stars, grass), never the facts."""

    place: str
    weather: str
    things: tuple[Thing, ...]
    seed: int = 0

    @property
    def facts(self) -> tuple:
        """Everything that can be said about the scene; scenes with equal facts read the same."""
        things = [(thing.kind, thing.color, thing.side, thing.distance) for thing in self.things]
        return (self.place, self.weather, *sorted(things))

    def of_kind(self, kind: str) -> list[Thing]:
        return [thing for thing in self.things if thing.kind == kind]

    @property
    def unseen(self) -> bool:
        """Whether the scene has a combination of kind and color that never occurs in training."""
        return any((thing.kind, thing.color) in UNSEEN for thing in self.things)

    @property
    def split(self) -> str:
        """The one split this scene may appear in: 80% train, 10% validation, 10% test.

        A hash of the facts decides, so no two splits share a scene."""
        if self.unseen:
            return "test"
        bucket = hashlib.sha256(repr(self.facts).encode()).digest()[0] % 10
        if bucket < 8:
            return "train"
        if bucket == 8:
            return "validation"
        return "test"


def place_thing(rng: random.Random, kind: str, color: str, side: str, distance: str) -> Thing:
    """Puts a thing into its slot with a varied size and position."""
    cell = CELLS[distance]
    largest_height = min(cell.max_height, cell.max_width / ASPECT[kind])
    height = largest_height * rng.uniform(0.88, 1.0)
    width = height * ASPECT[kind]

    slot_center = (SIDES.index(side) + 0.5) / len(SIDES)
    center = slot_center + rng.uniform(-0.03, 0.03)
    leftmost = width / 2 + EDGE
    rightmost = 1 - width / 2 - EDGE
    center = min(max(center, leftmost), rightmost)
    foot = cell.foot + rng.uniform(-0.025, 0.025)

    corners = (center - width / 2, foot - height, center + width / 2, foot)
    box = tuple(round(corner, 3) for corner in corners)
    return Thing(kind, color, side, distance, box)


def near_first(thing: Thing) -> tuple[int, int]:
    """Sort key: near things before far ones, and from left to right."""
    return DISTANCES.index(thing.distance), SIDES.index(thing.side)


MAX_THINGS = 4  # in one image


def random_scene(rng: random.Random) -> Scene:
    """Any scene, of any split."""
    count = rng.choices(range(1, MAX_THINGS + 1), weights=(2, 4, 5, 3))[0]
    slots = rng.sample(SLOTS, count)
    kinds = rng.sample(KINDS, count)
    if count > 1 and rng.random() < 0.35:
        # Several things of one kind, so that counting means something.
        kinds = [kinds[0]] * count
        rng.randint(2, count)  # not used; without it every seed would give other scenes
    rng.shuffle(kinds)
    things = []
    for kind, (side, distance) in zip(kinds, slots, strict=True):
        color = rng.choice(COLORS)
        things.append(place_thing(rng, kind, color, side, distance))
    things.sort(key=near_first)
    place = rng.choice(PLACES)
    weather = rng.choice(WEATHERS)
    return Scene(place, weather, tuple(things), seed=rng.randrange(2**31))


def scenes(split: str, count: int, seed: int = 0, unseen: bool | None = None) -> Iterator[Scene]:
    """Yields `count` scenes of a split, the same ones for the same seed.

    In the test split `unseen` asks for scenes with (True) or without (False) a combination that
    never occurs in training. Raises ValueError for an unknown split, and for a split without them.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if unseen and split != "test":
        raise ValueError(f"split {split!r} has no unseen combinations; only 'test' has")
    rng = random.Random(f"toyland/{split}/{unseen}/{seed}")
    while count > 0:
        scene = random_scene(rng)
        if scene.split == split and unseen in (None, scene.unseen):
            count -= 1
            yield scene
