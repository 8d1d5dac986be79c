"""A pen that draws inside a box of an image, and the few color rules that all drawings share."""

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]  # each from 0 to 255
Box = tuple[float, float, float, float]  # (x1, y1, x2, y2), y pointing down
Point = tuple[float, float]

WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)


def mix(a: RGB, b: RGB, t: float) -> RGB:
    """The color between a (t = 0) and b (t = 1)."""
    return tuple(round(x + (y - x) * t) for x, y in zip(a, b, strict=True))


def scale(color: RGB, brightness: float) -> RGB:
    """The color times `brightness`: darker below 1, lighter above."""
    return tuple(min(255, round(value * brightness)) for value in color)


def is_white(color: RGB) -> bool:
    return sum(color) > 640


def is_black(color: RGB) -> bool:
    return sum(color) < 200


def outline_of(color: RGB) -> RGB:
    """The color of a thing's outline: darker than the thing, but lighter than a black one."""
    if is_black(color):
        return (150, 150, 158)
    return scale(color, 0.55)


class Pen:
    """Draws shapes inside a box of a square image.

    All coordinates are fractions of the box: (0, 0) is its upper left corner, (1, 1) its lower
    right one. A radius is a fraction of the box's height; line widths and roundings are fractions
    of its shorter side. Angles are in degrees, clockwise from three o'clock. An outline of None
    means no outline.
    """

    def __init__(self, image: Image.Image, box: Box = WHOLE_IMAGE):
        x1, y1, x2, y2 = box
        self.image = image
        self.draw = ImageDraw.Draw(image)
        self.left = x1 * image.width
        self.top = y1 * image.width
        self.width = (x2 - x1) * image.width
        self.height = (y2 - y1) * image.width
        self.short_side = min(self.width, self.height)
        self.outline_width = max(1, round(self.short_side * 0.028))  # pixels

    def inside(self, x: float, y: float, width: float, height: float) -> "Pen":
        """A pen for another box of the same image, in fractions of the whole image."""
        return Pen(self.image, (x, y, x + width, y + height))

    def point(self, x: float, y: float) -> Point:
        """Fractions of the box to pixels of the image."""
        return self.left + x * self.width, self.top + y * self.height

    def corners(self, box: Box) -> list[Point]:
        x1, y1, x2, y2 = box
        return [self.point(x1, y1), self.point(x2, y2)]

    def line_width(self, width: float) -> int:
        return max(1, round(width * self.short_side))

    def oval(self, box: Box, fill: RGB, outline: RGB | None = None) -> None:
        self.draw.ellipse(self.corners(box), fill, outline, self.outline_width)

    def disc(
        self,
        center: Point,
        radius: float,
        fill: RGB,
        outline: RGB | None = None,
        stretch: float = 1,
    ) -> None:
        """A circle, or with `stretch` an ellipse that is so many times as wide as high."""
        x, y = self.point(*center)
        radius_y = radius * self.height
        radius_x = radius_y * stretch
        corners = [x - radius_x, y - radius_y, x + radius_x, y + radius_y]
        self.draw.ellipse(corners, fill, outline, self.outline_width)

    def ring(self, center: Point, radius: float, color: RGB, width: float) -> None:
        """A circle without an inside; its outer edge lies at `radius`."""
        x, y = self.point(*center)
        radius = radius * self.height
        corners = [x - radius, y - radius, x + radius, y + radius]
        self.draw.ellipse(corners, None, color, self.line_width(width))

    def rectangle(
        self, box: Box, fill: RGB, outline: RGB | None = None, rounding: float = 0
    ) -> None:
        radius = rounding * self.short_side
        self.draw.rounded_rectangle(self.corners(box), radius, fill, outline, self.outline_width)

    def slice(
        self, box: Box, start: float, end: float, fill: RGB, outline: RGB | None = None
    ) -> None:
        """The part between two angles of the oval in `box`, as a slice of a pie."""
        self.draw.pieslice(self.corners(box), start, end, fill, outline, self.outline_width)

    def arc(
        self, box: Box, start: float, end: float, color: RGB, width: float | None = None
    ) -> None:
        """The line of an oval between two angles; without `width` it is as wide as an outline.

        Here `width` is a fraction of the height."""
        pixels = self.outline_width
        if width is not None:
            pixels = max(1, round(width * self.height))
        self.draw.arc(self.corners(box), start, end, color, pixels)

    def polygon(self, points: list[Point], fill: RGB, outline: RGB | None = None) -> None:
        points = [self.point(x, y) for x, y in points]
        self.draw.polygon(points, fill)
        if outline is not None:
            closed = [*points, *points[:2]]  # the second point again, to round the first corner
            self.draw.line(closed, outline, self.outline_width, joint="curve")

    def line(self, points: list[Point], color: RGB, width: float, round_ends: bool = True) -> None:
        points = [self.point(x, y) for x, y in points]
        pixels = self.line_width(width)
        self.draw.line(points, color, pixels, joint="curve")
        if round_ends:
            half = pixels / 2
            for x, y in (points[0], points[-1]):
                self.draw.ellipse([x - half, y - half, x + half, y + half], color)

    def stroke(
        self, start: Point, length: float, direction: Point, color: RGB, width: float | None = None
    ) -> None:
        """A straight line from `start`; its length is a fraction of the box's height.

        Without `width` it is the thinnest line that is still visible in the final image."""
        x, y = self.point(*start)
        dx, dy = direction
        length = length * self.height
        pixels = max(1, self.image.width // 250)
        if width is not None:
            pixels = self.line_width(width)
        self.draw.line([x, y, x + length * dx, y + length * dy], color, pixels)

    def bar(self, box: Box, fill: RGB) -> None:
        """A rectangle with square corners and no outline."""
        self.draw.rectangle(self.corners(box), fill)

    def gradient(self, top: RGB, bottom: RGB, y1: float, y2: float, bands: int = 24) -> None:
        """Fills the rows from y1 to y2 with bands whose color runs from `top` to `bottom`."""
        for i in range(bands):
            band_top = y1 + (y2 - y1) * i / bands
            band_bottom = y1 + (y2 - y1) * (i + 1) / bands
            self.bar((0, band_top, 1, band_bottom), mix(top, bottom, i / (bands - 1)))
