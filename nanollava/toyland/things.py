"""The twelve kinds of things, one function each, drawn from back to front.

Every function draws in the unit square of the thing's box: (0, 0) is the upper left corner, (1, 1)
the lower right one. `color` is the thing's own color. Where a part would vanish on a black or a
white thing, it gets another color there.
"""

from collections.abc import Callable

from .pen import RGB, Pen, is_black, is_white, mix, outline_of, scale

SKIN = (244, 200, 164)
DARK = (20, 20, 20)
GLASS = (202, 230, 246)
LAMP_LIGHT = (255, 244, 190)
TIRE = (52, 52, 58)


def cat(pen: Pen, color: RGB) -> None:
    outline = outline_of(color)
    belly = scale(color, 1.25)
    if is_black(color):
        belly = (92, 92, 100)
    tail = [(0.74, 0.9), (0.95, 0.8), (0.93, 0.5), (0.97, 0.36)]
    pen.line(tail, outline, width=0.12)
    pen.line(tail, color, width=0.08)
    pen.oval((0.16, 0.42, 0.84, 1), color, outline)
    pen.oval((0.36, 0.62, 0.64, 0.99), belly)
    # Ears, then the head over them.
    pen.polygon([(0.14, 0.3), (0.13, 0), (0.42, 0.14)], color, outline)
    pen.polygon([(0.86, 0.3), (0.87, 0), (0.58, 0.14)], color, outline)
    pen.oval((0.08, 0.1, 0.92, 0.6), color, outline)
    # Eyes and nose.
    pen.oval((0.25, 0.26, 0.39, 0.41), (250, 250, 200), outline)
    pen.oval((0.295, 0.27, 0.345, 0.4), DARK)
    pen.oval((0.61, 0.26, 0.75, 0.41), (250, 250, 200), outline)
    pen.oval((0.655, 0.27, 0.705, 0.4), DARK)
    pen.polygon([(0.45, 0.43), (0.55, 0.43), (0.5, 0.49)], (240, 140, 150))
    # Whiskers.
    pen.line([(0.36, 0.47), (0, 0.44)], outline, width=0.015)
    pen.line([(0.64, 0.47), (1, 0.44)], outline, width=0.015)
    pen.line([(0.36, 0.47), (0, 0.5)], outline, width=0.015)
    pen.line([(0.64, 0.47), (1, 0.5)], outline, width=0.015)


def dog(pen: Pen, color: RGB) -> None:
    outline = outline_of(color)
    ear = scale(color, 0.66)
    eye = DARK
    if is_black(color):
        ear = (90, 90, 98)
        eye = (240, 240, 240)
    collar = (60, 90, 190)  # never the color of the dog
    if color[0] < 200:
        collar = (206, 64, 60)
    tail = [(0.1, 0.5), (0.03, 0.24)]
    pen.line(tail, outline, width=0.12)
    pen.line(tail, color, width=0.08)
    # Legs, body, head, snout.
    pen.rectangle((0.1, 0.6, 0.21, 1), color, outline, rounding=0.04)
    pen.rectangle((0.24, 0.6, 0.35, 1), color, outline, rounding=0.04)
    pen.rectangle((0.5, 0.6, 0.61, 1), color, outline, rounding=0.04)
    pen.rectangle((0.64, 0.6, 0.75, 1), color, outline, rounding=0.04)
    pen.rectangle((0.06, 0.4, 0.76, 0.76), color, outline, rounding=0.16)
    pen.oval((0.52, 0.04, 0.9, 0.5), color, outline)
    pen.rectangle((0.76, 0.24, 1, 0.44), color, outline, rounding=0.09)
    # Nose, ear, eye, collar.
    pen.oval((0.92, 0.22, 1, 0.32), (30, 30, 34))
    pen.oval((0.49, 0.05, 0.64, 0.46), ear, outline)
    pen.oval((0.71, 0.17, 0.78, 0.26), eye)
    pen.rectangle((0.55, 0.45, 0.75, 0.52), collar, rounding=0.02)


def bird(pen: Pen, color: RGB) -> None:
    outline = outline_of(color)
    wing = scale(color, 0.72)
    eye = DARK
    if is_black(color):
        wing = (92, 92, 100)
        eye = (245, 245, 245)
    leg = (214, 130, 40)
    pen.line([(0.42, 0.74), (0.42, 0.97), (0.51, 0.98)], leg, width=0.035)
    pen.line([(0.54, 0.74), (0.54, 0.97), (0.63, 0.98)], leg, width=0.035)
    # Tail, body, beak, head.
    pen.polygon([(0.2, 0.46), (0, 0.3), (0.02, 0.56), (0.22, 0.68)], color, outline)
    pen.oval((0.1, 0.28, 0.76, 0.82), color, outline)
    beak = [(0.83, 0.16), (1, 0.25), (0.83, 0.32)]
    pen.polygon(beak, (250, 170, 30), (190, 110, 20))
    pen.oval((0.52, 0.01, 0.88, 0.44), color, outline)
    pen.polygon([(0.24, 0.42), (0.6, 0.44), (0.44, 0.7), (0.14, 0.76)], wing, outline)
    pen.oval((0.7, 0.13, 0.78, 0.23), eye)


def person(pen: Pen, color: RGB) -> None:
    outline = outline_of(color)
    trousers = scale(color, 0.7)
    if is_black(color):
        trousers = (84, 84, 92)
    shoe = (70, 54, 44)
    pen.rectangle((0.26, 0.62, 0.47, 0.98), trousers, outline, rounding=0.05)
    pen.rectangle((0.23, 0.94, 0.5, 1), shoe, rounding=0.05)
    pen.rectangle((0.53, 0.62, 0.74, 0.98), trousers, outline, rounding=0.05)
    pen.rectangle((0.5, 0.94, 0.77, 1), shoe, rounding=0.05)
    # Arms with hands, then the body over them.
    left_arm = [(0.26, 0.37), (0.09, 0.6)]
    right_arm = [(0.74, 0.37), (0.91, 0.6)]
    pen.line(left_arm, outline, width=0.2)
    pen.line(right_arm, outline, width=0.2)
    pen.line(left_arm, color, width=0.15)
    pen.line(right_arm, color, width=0.15)
    pen.disc((0.09, 0.61), 0.04, SKIN)
    pen.disc((0.91, 0.61), 0.04, SKIN)
    pen.rectangle((0.22, 0.3, 0.78, 0.68), color, outline, rounding=0.16)
    # Head, hair, eyes, mouth.
    pen.disc((0.5, 0.155), 0.15, SKIN, (150, 104, 74))
    pen.slice((0.21, 0, 0.79, 0.3), 180, 360, (92, 60, 40))
    pen.disc((0.41, 0.175), 0.018, (30, 30, 30))
    pen.disc((0.59, 0.175), 0.018, (30, 30, 30))
    pen.line([(0.42, 0.23), (0.5, 0.245), (0.58, 0.23)], (190, 80, 70), width=0.03)


def car(pen: Pen, color: RGB) -> None:
    outline = outline_of(color)
    # Roof and its two windows, body, headlight, the line between the doors.
    pen.polygon([(0.2, 0.42), (0.32, 0.02), (0.68, 0.02), (0.84, 0.42)], color, outline)
    pen.polygon([(0.27, 0.4), (0.36, 0.12), (0.48, 0.12), (0.48, 0.4)], GLASS, outline)
    pen.polygon([(0.53, 0.4), (0.53, 0.12), (0.65, 0.12), (0.76, 0.4)], GLASS, outline)
    pen.rectangle((0, 0.38, 1, 0.82), color, outline, rounding=0.16)
    pen.oval((0.93, 0.46, 0.995, 0.6), (255, 240, 170), outline)
    pen.line([(0.5, 0.44), (0.5, 0.76)], outline, width=0.02)
    for center in ((0.24, 0.79), (0.76, 0.79)):
        pen.disc(center, 0.21, TIRE, (24, 24, 28))
        pen.disc(center, 0.09, (206, 208, 214))


def bicycle(pen: Pen, color: RGB) -> None:
    outline = outline_of(color)
    grip = TIRE
    if is_black(color):
        grip = (210, 210, 216)
    for wheel in ((0.235, 0.7), (0.765, 0.7)):
        pen.ring(wheel, 0.3, outline, width=0.13)
        pen.ring(wheel, 0.285, color, width=0.08)
        pen.disc(wheel, 0.035, outline)
    frame = [(0.22, 0.7), (0.4, 0.3), (0.68, 0.3), (0.46, 0.72), (0.22, 0.7)]
    seat_post = [(0.46, 0.72), (0.38, 0.22)]
    fork = [(0.765, 0.7), (0.66, 0.08)]
    for tube in (frame, seat_post, fork):
        pen.line(tube, outline, width=0.13)
    for tube in (frame, seat_post, fork):
        pen.line(tube, color, width=0.09)
    pen.line([(0.56, 0.06), (0.76, 0.06)], grip, width=0.07)
    pen.rectangle((0.28, 0.15, 0.48, 0.23), grip, rounding=0.03)


def tree(pen: Pen, color: RGB) -> None:
    outline = outline_of(color)
    light = scale(color, 1.18)
    if is_black(color):
        light = (72, 72, 80)
    trunk = [(0.42, 0.5), (0.58, 0.5), (0.66, 1), (0.34, 1)]
    pen.polygon(trunk, (128, 86, 52), (84, 54, 30))
    # Four ovals with outlines, then four without, which cover the lines inside the crown.
    pen.oval((0, 0.26, 0.56, 0.66), color, outline)
    pen.oval((0.44, 0.26, 1, 0.66), color, outline)
    pen.oval((0.14, 0, 0.86, 0.5), color, outline)
    pen.oval((0.2, 0.3, 0.8, 0.72), color, outline)
    pen.oval((0.04, 0.29, 0.52, 0.63), color)
    pen.oval((0.48, 0.29, 0.96, 0.63), color)
    pen.oval((0.18, 0.03, 0.82, 0.47), color)
    pen.oval((0.24, 0.33, 0.76, 0.69), color)
    # Spots of light.
    pen.oval((0.28, 0.18, 0.38, 0.25), light)
    pen.oval((0.62, 0.12, 0.72, 0.19), light)
    pen.oval((0.5, 0.36, 0.6, 0.43), light)
    pen.oval((0.2, 0.42, 0.3, 0.49), light)
    pen.oval((0.76, 0.4, 0.86, 0.47), light)


def house(pen: Pen, color: RGB) -> None:
    outline = outline_of(color)
    # Chimney, walls, roof, door.
    pen.rectangle((0.7, 0.06, 0.82, 0.4), (150, 84, 66), (96, 50, 38))
    pen.rectangle((0.09, 0.38, 0.91, 1), color, outline)
    pen.polygon([(0, 0.44), (0.5, 0), (1, 0.44)], (122, 76, 62), (84, 48, 38))
    pen.rectangle((0.4, 0.62, 0.6, 1), (108, 70, 46), (70, 42, 26))
    # Two windows, each with a bar down the middle.
    pen.rectangle((0.16, 0.54, 0.33, 0.74), LAMP_LIGHT, outline)
    pen.line([(0.245, 0.55), (0.245, 0.73)], outline, width=0.015)
    pen.rectangle((0.68, 0.54, 0.85, 0.74), LAMP_LIGHT, outline)
    pen.line([(0.765, 0.55), (0.765, 0.73)], outline, width=0.015)


def umbrella(pen: Pen, color: RGB) -> None:
    outline = outline_of(color)
    inside = scale(color, 0.7)
    if is_black(color):
        inside = (88, 88, 96)
    stick = [(0.5, 0), (0.5, 0.88), (0.56, 0.97), (0.66, 0.96), (0.69, 0.86)]
    pen.line(stick, (104, 72, 50), width=0.05)
    pen.slice((0, 0.04, 1, 1.02), 180, 360, color, outline)
    for left, right in ((0.01, 0.24), (0.26, 0.49), (0.51, 0.74), (0.76, 0.99)):
        pen.oval((left, 0.47, right, 0.6), inside)
    pen.arc((0.25, 0.04, 0.75, 1.02), 180, 360, outline)


def ball(pen: Pen, color: RGB) -> None:
    stripe = (250, 250, 250)
    if is_white(color):
        stripe = (120, 170, 220)
    shine = mix(color, (255, 255, 255), 0.7)
    pen.oval((0, 0, 1, 1), color, outline_of(color))
    pen.arc((0.02, 0.34, 0.98, 1.2), 200, 340, stripe, width=0.1)
    pen.oval((0.2, 0.1, 0.42, 0.26), shine)


def boat(pen: Pen, color: RGB) -> None:
    outline = outline_of(color)
    stripe = (250, 246, 234)
    if is_white(color):
        stripe = (140, 160, 190)
    pen.line([(0.48, 0.04), (0.48, 0.72)], (96, 66, 44), width=0.045)
    pen.polygon([(0.52, 0.02), (0.52, 0.6), (0.96, 0.6)], color, outline)
    second_sail = [(0.44, 0.12), (0.44, 0.6), (0.1, 0.6)]
    pen.polygon(second_sail, (250, 246, 234), (170, 164, 150))
    pen.polygon([(0, 0.66), (1, 0.66), (0.82, 1), (0.18, 1)], color, outline)
    pen.line([(0.08, 0.76), (0.92, 0.76)], stripe, width=0.03)


def flower(pen: Pen, color: RGB) -> None:
    outline = outline_of(color)
    heart = (130, 74, 40)  # never the color of the petals
    if color[2] > 100 or color[1] < 140:
        heart = (250, 206, 70)
    leaf = (70, 150, 66)
    leaf_outline = (46, 104, 48)
    pen.line([(0.5, 0.5), (0.5, 0.98)], (52, 122, 56), width=0.08)
    left_leaf = [(0.5, 0.92), (0.12, 0.68), (0.06, 0.82), (0.3, 0.95)]
    right_leaf = [(0.5, 0.86), (0.88, 0.62), (0.94, 0.76), (0.7, 0.89)]
    pen.polygon(left_leaf, leaf, leaf_outline)
    pen.polygon(right_leaf, leaf, leaf_outline)
    # Five petals, then the heart.
    pen.oval((0.27, -0.01, 0.73, 0.28), color, outline)
    pen.oval((0.54, 0.08, 1, 0.37), color, outline)
    pen.oval((0.47, 0.29, 0.93, 0.58), color, outline)
    pen.oval((0.07, 0.29, 0.53, 0.58), color, outline)
    pen.oval((0, 0.08, 0.46, 0.37), color, outline)
    pen.oval((0.34, 0.2, 0.66, 0.42), heart, outline)


THINGS: dict[str, Callable[[Pen, RGB], None]] = {
    "cat": cat,
    "dog": dog,
    "bird": bird,
    "person": person,
    "car": car,
    "bicycle": bicycle,
    "tree": tree,
    "house": house,
    "umbrella": umbrella,
    "ball": ball,
    "boat": boat,
    "flower": flower,
}
