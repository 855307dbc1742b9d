"""Flat illustrations of the demo shop's products, drawn with Pillow.

Every drawing works on a square of 100 x 100 units and is handed a `Pen`, which knows the product's colour and
pattern; `draw` picks the drawing of a product type, puts it on a pastel background and returns the picture.
No fonts, no files: the same arguments and the same random state always give the same pixels.
"""

import math
import random
import re
from collections.abc import Callable
from operator import mul

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Point = tuple[float, float]
Rgb = tuple[int, int, int]
Shape = str | list[Point]
Area = tuple[int, int, int, int]
SIZE = 224  # pixels a side of a finished picture
SIDE = SIZE * 3  # drawn three times larger, then reduced
UNIT = SIDE / 100
CRISP = [max(0, min(255, (v - 128) * 4 + 128)) for v in range(256)]  # makes a blurred edge sharp again
SHADE, GLEAM = [round(v * 0.22) for v in range(256)], [round(v * 0.24) for v in range(256)]
# Each shade with the second colours its patterns are printed in.
COLOURS: dict[str, tuple[Rgb, tuple[Rgb, ...]]] = {
    "white": ((250, 249, 246), ((122, 138, 168), (222, 142, 128))),
    "cream": ((243, 226, 184), ((204, 128, 88), (128, 156, 176))),
    "grey": ((154, 160, 168), ((244, 244, 242), (92, 98, 108))),
    "black": ((44, 43, 50), ((240, 236, 228), (226, 194, 146))),
    "navy": ((34, 48, 96), ((242, 238, 228), (236, 200, 120))),
    "blue": ((62, 124, 214), ((246, 247, 250), (176, 212, 250))),
    "green": ((58, 156, 92), ((244, 246, 232), (176, 224, 176))),
    "olive": ((116, 116, 52), ((240, 234, 206), (196, 190, 120))),
    "yellow": ((250, 208, 56), ((255, 252, 238), (214, 146, 28))),
    "orange": ((240, 130, 44), ((255, 246, 230), (255, 206, 140))),
    "red": ((216, 46, 56), ((252, 240, 232), (250, 176, 168))),
    "burgundy": ((112, 24, 52), ((244, 224, 216), (206, 140, 140))),
    "pink": ((246, 156, 184), ((255, 246, 246), (206, 84, 128))),
    "purple": ((124, 82, 176), ((244, 238, 250), (202, 172, 236))),
    "brown": ((132, 84, 52), ((244, 230, 208), (204, 164, 120))),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "floral", "zigzag", "stars", "hearts")
BACKGROUNDS: tuple[Rgb, ...] = (
    (251, 236, 226),
    (228, 240, 247),
    (230, 243, 232),
    (240, 234, 248),
    (252, 243, 216),
    (250, 231, 236),
    (232, 236, 242),
)
WHITE, INK = (255, 255, 255), (38, 30, 48)
WOOD, DARK_WOOD, STEEL, GOLD = (206, 156, 106), (150, 104, 68), (188, 195, 205), (220, 178, 96)
SOLE, LEAF, DARK_LEAF, SOIL = (247, 245, 240), (104, 168, 112), (66, 128, 88), (96, 70, 56)


def mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    """The colour a `share` (0 to 1) of the way from `one` to `other`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def path(text: str) -> list[Point]:
    """Points along an SVG path of absolute M, L, Q and C commands, in units."""
    points: list[Point] = []
    for command, numbers in re.findall(r"([MLQC])([^MLQC]*)", text):
        values = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        knots = list(zip(values[::2], values[1::2], strict=True))
        degree = {"M": 1, "L": 1, "Q": 2, "C": 3}[command]
        for first in range(0, len(knots), degree):
            if degree == 1:
                points.append(knots[first])
            else:
                points += _bezier([points[-1], *knots[first : first + degree]])
    return points


def _weights(degree: int, steps: int = 12) -> list[list[float]]:
    shares = [step / steps for step in range(1, steps + 1)]
    return [[math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)] for t in shares]


BEZIER = {degree: _weights(degree) for degree in (2, 3)}


def _bezier(knots: list[Point]) -> list[Point]:
    xs, ys = zip(*knots, strict=True)
    return [(sum(map(mul, row, xs)), sum(map(mul, row, ys))) for row in BEZIER[len(knots) - 1]]


def mirror(points: list[Point]) -> list[Point]:
    """The points seen in a mirror standing at the middle of the square."""
    return [(100 - x, y) for x, y in points]


def both(text: str) -> list[Point]:
    """A symmetric outline from the path of its right half, top middle to bottom middle."""
    half = path(text)
    return half + mirror(half)[::-1]


def ellipse(x: float, y: float, rx: float, ry: float | None = None, start: float = 0, end: float = 360) -> list[Point]:
    """An ellipse, or the part between two angles in degrees (0 points right, 90 down)."""
    ry = rx if ry is None else ry
    angles = [math.radians(start + (end - start) * step / 60) for step in range(61)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def box(x0: float, y0: float, x1: float, y1: float, r: float = 0) -> list[Point]:
    """A rectangle with corners of radius `r`."""
    if not r:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    corners = ((x1 - r, y0 + r, -90), (x1 - r, y1 - r, 0), (x0 + r, y1 - r, 90), (x0 + r, y0 + r, 180))
    return [point for x, y, turn in corners for point in ellipse(x, y, r, r, turn, turn + 90)[::6]]


def star(x: float, y: float, r: float, points: int = 5, inner: float = 0.45, turn: float = -90) -> list[Point]:
    """A star; with many points a sunburst."""
    spikes = [(r if k % 2 == 0 else r * inner, math.radians(turn + 180 * k / points)) for k in range(2 * points)]
    return [(x + reach * math.cos(angle), y + reach * math.sin(angle)) for reach, angle in spikes]


def heart(x: float, y: float, r: float) -> list[Point]:
    angles = [math.tau * step / 24 for step in range(24)]
    return [
        (
            x + r * math.sin(a) ** 3,
            y - r * (13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16,
        )
        for a in angles
    ]


def leaf(x: float, y: float, length: float, angle: float, width: float = 0.36) -> list[Point]:
    """A pointed leaf from its stalk at (x, y), `angle` in degrees (-90 points up)."""
    outline = path(f"M0,0 C{0.3 * length},{-width * length} {0.75 * length},{-width * length} {length},0") + path(
        f"M{length},0 C{0.75 * length},{width * length} {0.3 * length},{width * length} 0,0"
    )
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return [(x + a * c - b * s, y + a * s + b * c) for a, b in outline]


def texture(pattern: str, colour: Rgb, second: Rgb, rng: random.Random) -> Image.Image:
    """The cloth a product is cut from: `pattern` in two colours over the whole square, always mostly `colour`."""
    cloth = Image.new("RGB", (SIDE, SIDE), colour)
    pen = ImageDraw.Draw(cloth)
    scale, x0, y0 = UNIT * rng.uniform(0.9, 1.15), rng.uniform(0, 10) * UNIT, rng.uniform(0, 10) * UNIT
    if pattern in ("striped", "checked"):
        pitch = (10.5 if pattern == "striped" else 12) * scale
        width = pitch * (0.4 if pattern == "striped" else 0.38)
        upright = rng.random() < 0.4
        starts = [x0 + k * pitch - pitch for k in range(int(SIDE / pitch) + 2)]
        across = [(0, start, SIDE, start + width) for start in starts]
        down = [(start, 0, start + width, SIDE) for start in starts]
        if pattern == "striped":
            for band in down if upright else across:
                pen.rectangle(band, fill=second)
        else:
            for band in across + down:
                pen.rectangle(band, fill=mix(colour, second, 0.5))
            for top in starts:
                for left in starts:
                    pen.rectangle((left, top, left + width, top + width), fill=second)
    elif pattern == "zigzag":
        pitch, reach = 12 * scale, 3.2 * scale
        for row in range(-1, int(SIDE / pitch) + 2):
            line = [(k * 5 * scale, y0 + row * pitch + (reach if k % 2 else -reach)) for k in range(-1, 26)]
            pen.line(line, fill=second, width=round(2.8 * scale), joint="curve")
    elif pattern != "plain":
        _scatter(pen, pattern, colour, second, scale, x0, y0)
    return cloth


def _scatter(pen: ImageDraw.ImageDraw, pattern: str, colour: Rgb, second: Rgb, scale: float, x0: float, y0: float):
    pitch = {"dotted": 9.5, "floral": 15, "stars": 13, "hearts": 12.5}[pattern] * scale
    heart_of_flower = mix(second, (250, 196, 60), 0.9) if sum(second) > 560 else mix(second, WHITE, 0.7)
    for row in range(-1, int(SIDE / pitch * 1.2) + 2):
        for column in range(-1, int(SIDE / pitch) + 2):
            x, y = x0 + (column + row % 2 / 2) * pitch, y0 + row * pitch * 0.86
            if pattern == "dotted":
                r = 2.3 * scale
                pen.ellipse((x - r, y - r, x + r, y + r), fill=second)
            elif pattern == "stars":
                pen.polygon(star(x, y, 4.2 * scale, turn=-90 + 14 * (row % 3 - 1)), fill=second)
            elif pattern == "hearts":
                pen.polygon(heart(x, y, 3.3 * scale), fill=second)
            else:
                turn, r = 36 * ((row + column) % 2), 2.0 * scale
                for angle in (20, 200):
                    pen.polygon(leaf(x, y, 7.2 * scale, angle + turn, 0.24), fill=mix(second, DARK_LEAF, 0.7))
                for petal in range(5):
                    a = math.radians(turn + 72 * petal - 90)
                    px, py = x + 2.5 * scale * math.cos(a), y + 2.5 * scale * math.sin(a)
                    pen.ellipse((px - r, py - r, px + r, py + r), fill=second)
                r = 1.35 * scale
                pen.ellipse((x - r, y - r, x + r, y + r), fill=heart_of_flower)


class Pen:
    """Draws one product on a transparent square of 100 x 100 units.

    Args:
        colour (`tuple`): the product's colour, RGB from 0 to 255.
        second (`tuple`): the colour of its pattern.
        pattern (`str`): one of `PATTERNS`.
        rng (`random.Random`): source of the small differences in place, size and tilt.
    """

    def __init__(self, colour: Rgb, second: Rgb, pattern: str, rng: random.Random) -> None:
        self.colour, self.second, self.pattern = colour, second, pattern
        self.cloth = texture(pattern, colour, second, rng)
        self.image = Image.new("RGB", (SIDE, SIDE), mix(colour, INK, 0.25))
        self.alpha = Image.new("L", (SIDE, SIDE))
        self.dark, self.light = Image.new("L", (SIZE, SIZE)), Image.new("L", (SIZE, SIZE))
        self.ground: tuple[float, float, float] | None = None  # left, right and height of the foot, if it stands
        self.size, self.tilt = rng.uniform(0.93, 1.04), rng.uniform(-3, 3)
        self.move = rng.uniform(-2.5, 2.5), rng.uniform(-2, 2)
        self.dim, self.pale = sum(colour) < 240, sum(colour) > 640
        self.trim = second if pattern != "plain" else self.shade(0.22)

    def shade(self, share: float) -> Rgb:
        """The product's colour, darker by `share` (0 to 1), or lighter if `share` is negative."""
        if share > 0:
            return mix(self.colour, WHITE, share * 0.4) if self.dim else mix(self.colour, INK, share)
        return mix(self.colour, WHITE, -share)

    def stand(self, left: float, right: float, y: float) -> None:
        """The product stands upright on the ground at height `y` instead of lying flat."""
        self.ground, self.tilt = (left, right, y), 0

    def fill(
        self,
        shape: Shape,
        paint: Rgb | None = None,
        *,
        form: str = "edge",
        soften: float = 0,
        inside: Shape | None = None,
        opacity: float = 1,
        twin: bool = False,
    ) -> None:
        """Paints a closed shape.

        Args:
            shape (`str` or `list[tuple]`): its outline, as an SVG path or as points, in units.
            paint (`tuple`): its colour; by default the product's own colour and pattern.
            form (`str`): its lighting: `edge` (cloth), `round` (a cylinder) or `flat`.
            soften (`float`): radius in units by which its corners are rounded.
            inside (`str` or `list[tuple]`): paint only what lies inside this outline as well.
            opacity (`float`): 1 covers; less is a veil over what was painted before, and needs a `paint`.
            twin (`bool`): paint it once more, seen in a mirror at the middle of the square.
        """
        for outline in self._traces(shape, twin):
            area = _area(outline, 3 * soften * UNIT + 3)
            mask = _stencil(outline, area)
            if soften:
                mask = mask.filter(ImageFilter.BoxBlur(soften * UNIT)).point(CRISP)
            if inside:
                mask = ImageChops.multiply(mask, _stencil(self._traces(inside)[0], area))
            self._paste(mask, area, paint, form, opacity)

    def line(
        self,
        shape: Shape,
        width: float,
        paint: Rgb | None = None,
        *,
        form: str = "flat",
        opacity: float = 1,
        twin: bool = False,
    ) -> None:
        """Paints a line with round ends, `width` units thick. The other arguments are those of `fill`."""
        r = width * UNIT * self.size / 2
        for trace in self._traces(shape, twin):
            area = _area(trace, r + 3)
            mask = _stencil(_ribbon(trace, r), area)
            for x, y in (trace[0], trace[-1]):
                x, y = x - area[0], y - area[1]
                ImageDraw.Draw(mask).ellipse((x - r, y - r, x + r, y + r), fill=255)
            self._paste(mask, area, paint, form, opacity)

    def seam(self, shape: Shape, width: float = 0.7, opacity: float = 0.3, twin: bool = False) -> None:
        """A thin stitched line: dark on light colours, light on dark ones."""
        paint, opacity = (WHITE, opacity * 0.8) if self.dim else (INK, opacity)
        self.line(shape, width, paint, opacity=opacity, twin=twin)

    def fold(self, shape: Shape, opacity: float = 0.1, twin: bool = False) -> None:
        """A darker veil: a crease or the shadow of another part."""
        self.fill(shape, INK, form="flat", opacity=opacity, twin=twin)

    def _traces(self, shape: Shape, twin: bool = False) -> list[list[Point]]:
        points = path(shape) if isinstance(shape, str) else shape
        c, s = math.cos(math.radians(self.tilt)) * self.size, math.sin(math.radians(self.tilt)) * self.size
        mx, my = self.move
        return [
            [
                (((x - 50) * c - (y - 50) * s + 50 + mx) * UNIT, ((x - 50) * s + (y - 50) * c + 50 + my) * UNIT)
                for x, y in side
            ]
            for side in ([points, mirror(points)] if twin else [points])
        ]

    def _paste(self, mask: Image.Image, area: Area, paint: Rgb | None, form: str, opacity: float) -> None:
        if opacity < 1:
            mask = ImageChops.multiply(mask, self.alpha.crop(area)).point([round(v * opacity) for v in range(256)])
            self.image.paste(paint, area, mask)
            return
        self.image.paste(self.cloth.crop(area) if paint is None else paint, area, mask)
        self.alpha.paste(255, area, mask)
        small, corner = mask.reduce(3), (area[0] // 3, area[1] // 3)
        dark, light = LIGHTING[form](small)
        self.dark.paste(dark, corner, small)
        self.light.paste(light, corner, small)


def _area(points: list[Point], pad: float) -> Area:
    """The points' bounding box in whole steps of three pixels, within the square."""
    xs, ys = zip(*points, strict=True)
    low = [max(0, math.floor((min(axis) - pad) / 3) * 3) for axis in (xs, ys)]
    high = [min(SIDE, math.ceil((max(axis) + pad) / 3) * 3) for axis in (xs, ys)]
    return (*low, *high)


def _stencil(points: list[Point], area: Area) -> Image.Image:
    mask = Image.new("L", (area[2] - area[0], area[3] - area[1]))
    ImageDraw.Draw(mask).polygon([(x - area[0], y - area[1]) for x, y in points], fill=255)
    return mask


def _ribbon(trace: list[Point], r: float) -> list[Point]:
    """The outline of a line of half width `r`."""
    left, right = [], []
    for k, (x, y) in enumerate(trace):
        (ax, ay), (bx, by) = trace[max(k - 1, 0)], trace[min(k + 1, len(trace) - 1)]
        length = math.hypot(bx - ax, by - ay) or 1
        nx, ny = (ay - by) / length * r, (bx - ax) / length * r
        left.append((x + nx, y + ny))
        right.append((x - nx, y - ny))
    return left + right[::-1]


def _edge_light(mask: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Shade along the lower right rim, gleam along the upper left one."""
    rims = []
    for shift, ramp in ((-5, SHADE), (3, GLEAM)):
        moved = Image.new("L", mask.size)
        moved.paste(mask, (shift, shift))
        rims.append(ImageChops.subtract(mask, moved).filter(ImageFilter.BoxBlur(3)).point(ramp))
    return tuple(rims)


def _round_light(mask: Image.Image) -> tuple[Image.Image, Image.Image]:
    """A cylinder lit from the left."""
    left, _, right, _ = mask.getbbox() or (0, 0, 1, 1)
    places = [(x - left) / max(right - left, 1) for x in range(mask.width)]
    dark = bytes(round(255 * min(1, 0.84 * max(0, t - 0.5) ** 1.5 + 0.5 * max(0, 0.12 - t))) for t in places)
    light = bytes(round(255 * 0.3 * math.exp(-(((t - 0.24) / 0.1) ** 2))) for t in places)
    rows = [Image.frombytes("L", (mask.width, 1), row) for row in (dark, light)]
    return tuple(row.resize(mask.size, Image.Resampling.NEAREST) for row in rows)


LIGHTING = {"edge": _edge_light, "round": _round_light, "flat": lambda mask: (0, 0)}


def t_shirt(pen: Pen, rng: random.Random) -> None:
    hem, reach, drop = rng.uniform(81, 87), rng.uniform(87, 92), rng.uniform(44, 50)
    half = path(f"M50,{rng.choice((30, 36))} Q58,{rng.choice((31, 33))} 61,19")
    neck = mirror(half)[::-1] + half
    body = neck + path(f"M61,19 L70,21.5 Q74,23 74,28 L72,42 L73,{hem} Q50,{hem + 3} 27,{hem} L28,42 L26,28")
    pen.fill("M39,19 Q50,23 61,19 L58,33 L42,33", pen.shade(0.4), form="flat")
    pen.fill(f"M66,20 Q74,22 77,27 L{reach},{drop} L{reach - 11},{drop + 7} L70,42", soften=0.8, twin=True)
    pen.fill(body + path("M26,28 Q26,23 30,21.5"), soften=0.5)
    pen.line(neck[1:-1], 2.4, pen.shade(0.2))
    pen.seam([(reach - 1.5, drop - 2.2), (reach - 12, drop + 4.4)], twin=True)
    pen.seam(f"M28,{hem - 3} Q50,{hem} 72,{hem - 3}")
    pen.fold("M72,44 Q66,52 69,66 Q72,58 72.5,50")
    pen.fold(f"M28,46 Q33,56 31,{hem - 12} Q29,66 27.6,54", 0.08)


def shirt(pen: Pen, rng: random.Random) -> None:
    hem, cuff = rng.uniform(84, 88), rng.uniform(70, 78)
    band = f"M87.5,{cuff} L88.5,{cuff + 6} L77.5,{cuff + 9} L76.5,{cuff + 3}"
    pen.fill(f"M66,20 Q75,22 78,30 L87,{cuff} L77,{cuff + 3} L69,44", soften=0.6, twin=True)
    pen.fill(band, pen.shade(0.12), soften=0.5, twin=True)
    pen.fill("M40,16 Q50,12 60,16 L56,30 L44,30", pen.shade(0.4), form="flat")
    pen.fill(both(f"M50,31 L60,17 L70,21 Q74,23 74,29 L72,44 L73,{hem - 6} Q64,{hem + 4} 50,{hem}"), soften=0.5)
    pen.fold(box(46.6, 31, 47.6, hem - 0.5), 0.16)
    pen.fold(box(52.4, 31, 53.4, hem - 0.5))
    for y in range(38, int(hem) - 4, 9):
        pen.fill(ellipse(50, y, 1.25), mix(pen.trim, WHITE, 0.55), form="flat")
    pen.fill("M60.5,14.5 L66,23 L57,34 L50,28 Q56,24 60.5,14.5", pen.shade(0.14), soften=0.5, twin=True)
    if rng.random() < 0.6:
        pen.fill("M58,43 L68,43 L68,52 L63,55 L58,52", soften=0.4)
        pen.seam([(58, 45), (68, 45)])
    pen.fold(f"M28,48 Q34,60 32,{hem - 14} Q29,66 28,54", 0.08)


def hoodie(pen: Pen, rng: random.Random) -> None:
    hem, cuff, pocket = rng.uniform(80, 84), rng.uniform(70, 76), rng.uniform(56, 60)
    band = f"M89,{cuff} L89,{cuff + 6} L78,{cuff + 9} L77,{cuff + 3}"
    pen.fill(f"M66,26 Q77,28 80,38 L89,{cuff} L77,{cuff + 3} L69,48", soften=1, twin=True)
    pen.fill(band, pen.shade(0.22), soften=0.6, twin=True)
    pen.fill(both(f"M50,26 L64,24 Q75,27 75,36 L73,50 L74,{hem} L50,{hem}"), soften=0.8)
    pen.fill(box(27, hem - 1, 73, hem + 6, 1.5), pen.shade(0.22))
    pen.fill(both("M50,10 Q66,10 70,26 Q66,36 50,44"), soften=1)
    pen.fill(both("M50,17 Q60,17 62,26 Q60,33 50,40"), pen.shade(0.45), form="flat", soften=0.8)
    pen.fill(both(f"M50,{pocket} L62,{pocket} L69,{pocket + 12} L69,{hem - 3} L50,{hem - 3}"), soften=0.5)
    pen.seam([(62, pocket), (69, pocket + 12)], 0.9, twin=True)
    for x, end in ((45.5, rng.uniform(52, 55)), (54.5, rng.uniform(51, 54))):
        pen.line(f"M{x},37 Q{x + 0.8},45 {x},{end}", 1.3, mix(pen.colour, WHITE, 0.75))


def dress(pen: Pen, rng: random.Random) -> None:
    hem, flare, waist = rng.uniform(82, 89), rng.uniform(76, 84), rng.uniform(44, 48)
    top = f"M50,27 Q56,26 58,15 L64,16 Q63,27 66,33 L62,{waist} L50,{waist}"
    swing = f"M50,{waist} L62,{waist} C66,{waist + 14} {flare},{hem - 20} {flare},{hem - 2} Q64,{hem + 4} 50,{hem}"
    belt = f"M50,{waist - 2} L62.6,{waist - 2.5} L62.6,{waist + 2.5} L50,{waist + 3}"
    bow = f"M50,{waist} L43,{waist - 4} L43,{waist + 4} L50,{waist} L57,{waist + 4} L57,{waist - 4}"
    if rng.random() < 0.5:
        pen.fill("M60,17 Q70,19 74,32 L65,36 L60,28", soften=0.8, twin=True)
    pen.fill(both(top), soften=0.5)
    pen.fill(both(swing), soften=0.5)
    for x in (7, 12):
        foot = 50 + x * (flare - 50) / 14
        pleat = f"M{50 + x * 0.6},{waist + 3} Q{50 + x},{waist + 20} {foot},{hem - 1} L{foot - 3},{hem - 1}"
        pen.fold(pleat, twin=True)
    pen.fill(both(belt), pen.shade(0.3), soften=0.4)
    pen.fill(bow, pen.shade(0.3), soften=0.5)
    pen.fill(ellipse(50, waist, 1.8), pen.shade(0.42))


def trousers(pen: Pen, rng: random.Random) -> None:
    hem, wide, cuff = rng.uniform(86, 90), rng.uniform(66, 72), rng.random() < 0.5
    pen.fill(f"M50,15 L66,15 L70,38 L{wide},{hem} L{wide - 14},{hem} L50.5,40", soften=0.4, twin=True)
    pen.fold([(60, 30), (wide - 6, hem - 1), (wide - 8, hem - 1)], 0.14, twin=True)
    pen.fill(box(33.6, 12, 66.4, 18, 1), pen.shade(0.18))
    pen.seam([(50, 18), (50, 40)], 0.8, 0.4)
    pen.seam("M53,18 L53,30 Q53,33 50,34")
    pen.seam("M59,18 Q60,25 67.5,26", 0.9, 0.4, twin=True)
    pen.fill(ellipse(50, 15, 1.3), GOLD)
    pen.fill(box(59.1, 11.4, 60.9, 18.6, 0.4), pen.shade(0.3), twin=True)
    if cuff:
        pen.fill(box(wide - 14.8, hem - 5, wide + 0.8, hem + 1), pen.shade(0.12), twin=True)


def shorts(pen: Pen, rng: random.Random) -> None:
    hem, wide = rng.uniform(66, 76), rng.uniform(76, 82)
    pen.fill(f"M50,27 L69,27 L{wide},{hem} Q66,{hem + 4} 54,{hem + 3} L50.3,50", soften=0.5, twin=True)
    pen.fold(f"M64,36 Q67,50 {wide - 10},{hem} L{wide - 13},{hem}", twin=True)
    pen.seam(f"M{wide - 1},{hem - 4} Q66,{hem} 54,{hem - 1}", twin=True)
    pen.seam("M61,32 Q62,40 72,42", 0.9, 0.4, twin=True)
    pen.seam([(50, 30), (50, 50)], 0.8, 0.4)
    pen.fill(box(30, 23, 70, 31, 2), pen.shade(0.15))
    for x in range(33, 70, 3):
        pen.seam([(x, 24.5), (x, 29.5)], 0.6, 0.25)
    pen.line("M50,28 C42,24 42,36 49,30 Q46,38 45,44", 1.3, SOLE)
    pen.line("M50,28 C58,24 58,36 51,30 Q55,38 55,43", 1.3, SOLE)


def skirt(pen: Pen, rng: random.Random) -> None:
    hem, flare, pleats = rng.uniform(72, 86), rng.uniform(78, 86), rng.choice((3, 4, 5))
    pen.fill(both(f"M50,22 L65,22 Q70,36 {flare},{hem - 4} Q68,{hem + 4} 50,{hem + 4}"), soften=0.4)
    for k in range(-pleats, pleats + 1):
        share = k / pleats
        top, foot, low = 50 + 13 * share, 50 + (flare - 54) * share, hem + 3.5 - 5 * share**2
        pen.fold(f"M{top},27 Q{top + (foot - top) * 0.3},{hem * 0.6} {foot},{low} L{foot - 3.4},{low}", 0.12)
    pen.fill(box(34.4, 18, 65.6, 25, 1.2), pen.shade(0.2))
    pen.fill(ellipse(60, 21.5, 1.5), GOLD)


def socks(pen: Pen, rng: random.Random) -> None:
    top = rng.uniform(12, 24)
    outline = path(f"M48,{top} L66,{top} L66,54 Q67,60 74,65 L84,72 Q91,78 86,85 Q80,91 71,87 L52,76 Q46,71 47,60")
    for shift, lift in ((-20, -2), (0, 0)):
        sock = [(x + shift, y + lift) for x, y in outline]
        pen.fill(sock, soften=1)
        pen.fill(ellipse(88 + shift, 84 + lift, 13), pen.trim, inside=sock)
        pen.fill(ellipse(47 + shift, 72 + lift, 11), pen.trim, inside=sock)
        pen.fill(box(47 + shift, top - 1 + lift, 67 + shift, top + 8 + lift, 1.5), pen.shade(0.15))
        for x in range(50, 66, 3):
            pen.seam([(x + shift, top + 1 + lift), (x + shift, top + 6 + lift)], 0.6, 0.25)


def scarf(pen: Pen, rng: random.Random) -> None:
    short, long = rng.uniform(68, 76), rng.uniform(78, 82)
    for left, right, y, tail in (
        (54, 70, short, f"M50,38 L64,36 L70,{short} L54,{short + 1}"),
        (31, 49, long, f"M36,40 L52,38 L49,{long + 1} L31,{long}"),
    ):
        for k in range(7):
            x = left + 1.2 + (right - left - 2.4) * k / 6
            pen.line([(x, y - 1), (x + rng.uniform(-0.8, 0.8), y + 7)], 1.3, pen.trim)
        pen.fill(tail, soften=0.5)
        pen.seam([(left + 0.5, y - 4), (right - 0.5, y - 4)])
    pen.fold(f"M57,42 Q59,56 60,{short - 4} L57,{short - 4}")
    pen.fold(f"M44,44 Q42,60 41,{long - 4} L38,{long - 4}")
    pen.fill(ellipse(50, 22, 21, 9), pen.shade(0.4), form="flat")
    pen.fill("M26,22 Q28,14 34,15 Q33,27 50,29 Q67,27 66,15 Q72,14 74,22 Q76,40 58,45 L42,46 Q24,40 26,22", soften=1)
    pen.fold("M30,22 Q34,36 48,40 Q36,38 29,26", 0.16)
    pen.fold("M70,22 Q66,33 54,37 Q66,36 72,27", 0.16)
    pen.fill("M38,33 Q46,37 54,36 L53,51 Q44,52 37,48", soften=1)


def beanie(pen: Pen, rng: random.Random) -> None:
    tall, brim = rng.uniform(15, 22), rng.uniform(12, 17)
    if rng.random() < 0.7:
        pen.fill(star(50, tall + 3, 12, 22, 0.82), pen.trim, soften=0.5)
    pen.fill(f"M20,70 C18,{tall} 36,{tall + 4} 50,{tall + 4} C64,{tall + 4} 82,{tall} 80,70", soften=0.6)
    for x in (-18, -9, 0, 9, 18):
        pen.seam(f"M{50 + x * 0.3},{tall + 9} Q{50 + x * 1.3},40 {50 + x * 1.4},70", 0.7, 0.16)
    pen.fill(box(17, 80 - brim, 83, 80, 4), pen.shade(0.16))
    for x in range(21, 82, 4):
        pen.seam([(x, 82 - brim), (x, 78)], 0.9, 0.22)


def mittens(pen: Pen, rng: random.Random) -> None:
    tip, cuff, reach = rng.uniform(17, 23), rng.uniform(66, 70), rng.uniform(40, 45)
    pen.line(f"M68,62 Q57,58 56.5,{reach}", 9, form="edge", twin=True)
    pen.fill(f"M62,{cuff} L61,38 C60,{tip - 6} 88,{tip - 6} 88,40 L87,{cuff}", soften=0.8, twin=True)
    pen.fill(box(60.5, cuff - 1, 88.5, cuff + 14, 2.5), pen.trim, twin=True)
    for x in range(64, 87, 4):
        pen.fold(box(x, cuff + 1, x + 1, cuff + 12), 0.16, twin=True)


def umbrella(pen: Pen, rng: random.Random) -> None:
    top, dip, hook = rng.uniform(14, 18), rng.uniform(47, 50), rng.choice((13, -13))
    pen.line([(50, top - 5), (50, 30)], 2, STEEL)
    pen.line([(50, 40), (50, 80)], 2.2, STEEL)
    pen.line(f"M50,70 L50,80 C50,91 {50 + hook},91 {50 + hook},80", 4, WOOD, form="edge")
    edge = f"M8,54 Q15,{dip} 22,54 Q36,{dip} 50,54 Q64,{dip} 78,54 Q85,{dip} 92,54"
    pen.fill(f"{edge} C90,30 72,{top} 50,{top} C28,{top} 10,30 8,54", soften=0.3)
    pen.fold(f"M50,{top} C36,22 24,36 22,54 Q15,{dip} 8,54 C10,30 28,{top} 50,{top}", 0.06)
    pen.fold(f"M50,{top} C64,22 76,36 78,54 Q85,{dip} 92,54 C90,30 72,{top} 50,{top}", 0.16)
    pen.seam(f"M50,{top} C36,22 24,36 22,54", 0.9, 0.35, twin=True)
    pen.seam([(50, top), (50, 54)], 0.9, 0.35)


def sneakers(pen: Pen, rng: random.Random) -> None:
    pen.stand(12, 90, 78)
    up = rng.uniform(0, 6)
    upper = f"M14,69 Q16,56 14,{44 - up} Q18,{38 - up} 23,{42 - up} Q30,{50 - up} 40,{44 - up}"
    upper += f" L47,{36 - up} L53,{39 - up} Q58,52 74,56 Q89,60 90,70"
    pen.fill(f"M42,48 L46,{33 - up} Q51,{31 - up} 55,{36 - up} L58,50", pen.shade(0.3), soften=0.8)
    pen.fill(upper, soften=0.6)
    pen.fill("M74,54 Q88,56 93,72 L70,72 Q78,64 72,55", SOLE, inside=upper)
    pen.fill(f"M10,72 L10,{40 - up} L23,{42 - up} Q22,56 28,72", pen.shade(0.25), inside=upper)
    for k in range(4):
        x, y = 48 + 5.3 * k, 44 - up * (1 - k / 4) + 3.6 * k
        pen.line([(x - 4, y + 4.5), (x + 4, y)], 1.9, pen.shade(0.25) if pen.pale else SOLE)
    pen.fill("M11,68 Q50,72 92,68 Q95,72 93,76 Q92,79 88,79 L16,79 Q10,78 11,68", SOLE, soften=0.5)
    pen.line([(13, 75.4), (91.5, 75.4)], 1.1, pen.shade(0.1))


def boots(pen: Pen, rng: random.Random) -> None:
    pen.stand(20, 88, 84)
    top, laces = rng.uniform(14, 24), rng.random() < 0.6
    upper = f"M25,{top} Q39,{top + 3} 54,{top} L55,48 Q58,55 70,58 Q88,62 87.5,75 L22,75 Q25,56 25,{top}"
    pen.line(f"M27,{top + 2} C24,{top - 8} 33,{top - 8} 31,{top + 2}", 2, pen.shade(0.35))
    pen.fill("M22,77 L42,77 L41,85 L23,85", DARK_WOOD, soften=0.4)
    pen.fill("M21,74 L88,74 Q90,80 84,80.5 L23,80.5", INK, soften=0.5)
    pen.fill(upper, soften=0.5)
    pen.fill("M76,57 Q92,60 92,78 L72,78 Q80,68 74,58", pen.shade(0.18), inside=upper)
    pen.fill(box(24, top - 2, 56, top + 7), pen.shade(0.3), inside=upper)
    if laces:
        for k in range(5):
            y = 30 + 6 * k
            pen.line([(47 + k * 0.4, y + 2), (55.5 + k * 1.5, y)], 1.6, GOLD)
        pen.seam("M44,28 Q45,46 50,58 L62,64", 0.8)
    else:
        pen.fill(f"M34,{top + 7} L46,{top + 7} Q45,44 43,54 L37,54 Q35,40 34,{top + 7}", pen.shade(0.45), form="flat")
    pen.line([(22, 75), (88, 75)], 1.4, mix(DARK_WOOD, WHITE, 0.3))


def backpack(pen: Pen, rng: random.Random) -> None:
    top, pocket = rng.uniform(20, 26), rng.uniform(54, 58)
    pen.line("M70,34 C84,42 84,66 76,82", 4.5, pen.shade(0.3), form="edge", twin=True)
    pen.fill(box(70, 58, 80, 82, 4), pen.shade(0.15), twin=True)
    pen.line(f"M42,{top + 2} C42,{top - 11} 58,{top - 11} 58,{top + 2}", 3.4, pen.shade(0.35))
    pen.fill(both(f"M50,{top} Q72,{top} 73,{top + 22} L75,82 Q75,88 68,88 L50,88"), soften=0.8)
    zip_line = path(f"M50,{top + 7} Q65,{top + 7} 66,{top + 22} L66.5,{pocket - 5}")
    pen.seam(zip_line, 1.2, 0.4, twin=True)
    pen.fill(box(31, pocket, 69, 84, 5))
    pen.line([(35, pocket + 6), (65, pocket + 6)], 1.6, pen.shade(0.4))
    pen.line([(62, pocket + 6), (63, pocket + 11)], 1.7, GOLD)
    pen.fill(box(45, top + 13, 55, top + 20, 1), WOOD)
    if rng.random() < 0.5:
        pen.fill(box(59.2, pocket - 9, 62.8, pocket + 3, 1), WOOD, twin=True)


def tote_bag(pen: Pen, rng: random.Random) -> None:
    top, reach, wide = rng.uniform(34, 40), rng.uniform(-2, 10), rng.uniform(25, 29)
    handle = WOOD if rng.random() < 0.5 else pen.shade(0.18)
    strap = path(f"M36,{top + 8} C36,{reach} 64,{reach} 64,{top + 8}")
    pen.line([(x, y - 3) for x, y in strap], 3.2, mix(handle, INK, 0.3))
    pen.fill(both(f"M50,{top} L{50 + wide},{top} L{52 + wide},88 Q{52 + wide},91 {48 + wide},91 L50,91"), soften=0.5)
    pen.line(strap, 3.4, handle, form="edge")
    pen.fill(box(61.6, top + 4, 66.4, top + 13, 0.8), handle, twin=True)
    pen.seam([(50.5 - wide, top + 3), (49.5 + wide, top + 3)])
    pen.fold(f"M31,{top + 16} Q34,66 30,86 Q28,66 31,{top + 16}", 0.08)
    pen.fold(f"M71,{top + 16} Q67,66 72,88 Q75,66 71,{top + 16}", 0.08)


def suitcase(pen: Pen, rng: random.Random) -> None:
    pen.stand(26, 74, 90)
    top, rise, ribs = rng.uniform(28, 34), rng.uniform(7, 12), rng.random() < 0.5
    shell = box(24, top, 76, 85, 7)
    pen.line([(60, top + 2), (60, rise)], 2, STEEL, twin=True)
    pen.fill(box(37, rise - 2.5, 63, rise + 3, 2.4), INK)
    pen.fill(ellipse(67, 87.5, 3.6), INK, twin=True)
    pen.fill(ellipse(67, 87.5, 1.4), STEEL, form="flat", twin=True)
    pen.fill(shell)
    if ribs:
        for x in (54.6, 64):
            pen.fold(box(x - 0.8, top + 6, x + 0.8, 79, 0.8), 0.22, twin=True)
    else:
        pen.fill(box(62.8, top, 67.2, 85), WOOD, twin=True)
        pen.fill(box(63.4, 48, 66.6, 54, 0.5), GOLD, twin=True)
    for y in (top + 4.5, 80.5):
        pen.fill(ellipse(71.5, y, 7.5), pen.shade(0.3), inside=shell)
        pen.fill(ellipse(28.5, y, 7.5), pen.shade(0.3), inside=shell)
    pen.line(f"M44,{top + 1} L44,{top - 3} L56,{top - 3} L56,{top + 1}", 2.2, pen.shade(0.45))


def mug(pen: Pen, rng: random.Random) -> None:
    top, half, taper = rng.uniform(26, 34), rng.uniform(22, 26), rng.uniform(0, 4)
    side = rng.choice((1, -1))
    x, low, foot = 50 - 6 * side, 82, half - taper
    pen.stand(x - foot, x + foot, low + 2)
    ear = (
        f"M{x + side * (half - 2)},{top + 12} C{x + side * (half + 21)},{top + 8} {x + side * (half + 19)},{low - 10}"
    )
    pen.line(f"{ear} {x + side * (half - 5)},{low - 13}", 6, pen.shade(0.08), form="edge")
    cup = f"M{x - half},{top} L{x - foot},{low - 7} Q{x - foot},{low} {x - foot + 8},{low + 1} Q{x},{low + 5}"
    cup += f" {x + foot - 8},{low + 1} Q{x + foot},{low} {x + foot},{low - 7} L{x + half},{top}"
    pen.fill(cup, form="round")
    pen.fill(ellipse(x, top, half, 6), pen.shade(-0.28), form="flat")
    pen.fill(ellipse(x, top + 0.6, half - 2, 4.6), mix(pen.colour, INK, 0.35), form="flat")
    if rng.random() < 0.5:
        pen.fill(ellipse(x, top + 2.6, half - 5, 2.6), (122, 78, 52), form="flat")


def bowl(pen: Pen, rng: random.Random) -> None:
    top, half, deep = rng.uniform(38, 46), rng.uniform(35, 40), rng.uniform(72, 80)
    pen.stand(34, 66, deep + 6)
    right, rim = 50 + half, ellipse(50, top + 0.8, half - 2.4, 7.6)
    pen.fill(
        f"M38,{deep - 4} L62,{deep - 4} L64,{deep + 5} Q50,{deep + 8} 36,{deep + 5}", pen.shade(0.25), form="round"
    )
    pen.fill(
        both(f"M50,{top} L{right},{top} C{right},{deep - 8} {50 + half / 2},{deep + 1} 50,{deep + 1}"), form="round"
    )
    pen.fill(ellipse(50, top, half, 9.5), pen.shade(-0.3), form="flat")
    pen.fill(rim, mix(pen.colour, INK, 0.28), form="flat")
    pen.fill(ellipse(50, top + 3, half - 9, 4.6), mix(pen.colour, INK, 0.16), form="flat", inside=rim)


def bottle(pen: Pen, rng: random.Random) -> None:
    half, neck, top = rng.uniform(12, 16), rng.uniform(6.5, 8.5), rng.uniform(26, 34)
    cap = WOOD if rng.random() < 0.5 else pen.shade(0.35)
    pen.stand(50 - half, 50 + half, 91)
    pen.fill(box(50 - neck, 16, 50 + neck, top + 2), STEEL, form="round")
    shoulder = f"M50,{top - 6} L{50 + neck},{top - 6} Q{51 + neck},{top} {49 + half},{top + 7} Q{50 + half},{top + 10}"
    body = f"{shoulder} {50 + half},{top + 14} L{50 + half},88 Q{50 + half},92 {47 + half},92 L50,92"
    pen.fill(both(body), form="round", soften=0.4)
    pen.fill(box(49 - neck, 10, 51 + neck, 19, 1.6), cap, form="round")
    if rng.random() < 0.6:
        pen.line(f"M{52 - neck},11 C{50 - neck},2 {50 + neck},2 {48 + neck},11", 2.2, cap)
    pen.fold(box(50 - half, 86, 50 + half, 87), 0.25)


def teapot(pen: Pen, rng: random.Random) -> None:
    rx, ry, low = rng.uniform(24, 28), rng.uniform(19, 23), 80
    turn, y = rng.choice((list, mirror)), low - ry
    handle = WOOD if rng.random() < 0.5 else pen.shade(0.08)
    spout = path(f"M70,{y - 2} Q80,{y - 3} 83,{y - 17} L90,{y - 19} Q89,{y + 6} 70,{y + 11}")
    pen.stand(34, 66, low + 2)
    pen.fill(turn(spout), pen.shade(0.08), soften=0.7)
    pen.line(turn(path(f"M28,{y - 9} C6,{y - 20} 6,{y + 16} 28,{y + 9}")), 5, handle, form="edge")
    pen.fill(box(37, low - 4, 63, low + 3, 1.5), pen.shade(0.3), form="round")
    pen.fill(ellipse(50, y, rx, ry), form="round")
    pen.fill(ellipse(50, y - ry + 3, 15, 7, 180, 360), pen.shade(0.12), form="round")
    pen.line([(35, y - ry + 3.4), (65, y - ry + 3.4)], 2, pen.shade(0.28))
    pen.fill(ellipse(50, y - ry - 6, 3.8), WOOD if pen.pattern == "plain" else pen.trim)


def apron(pen: Pen, rng: random.Random) -> None:
    hem, waist, pocket = rng.uniform(80, 87), rng.uniform(46, 50), rng.uniform(56, 60)
    tie, low = pen.shade(0.35) if pen.pale else SOLE, pocket + 17
    pen.line("M39,28 C36,4 64,4 61,28", 2.4, tie)
    pen.line(f"M77,{waist + 1} C86,{waist} 88,{waist + 8} 84,{waist + 20}", 2.2, tie, twin=True)
    pen.fill(both(f"M50,26 L63,26 Q64,{waist - 6} 78,{waist} L79,{hem - 6} Q78,{hem} 70,{hem} L50,{hem}"), soften=0.5)
    pen.seam(f"M50,29 L60.5,29 Q62,{waist - 4} 75.5,{waist + 2} L76.5,{hem - 3} L50,{hem - 3}", twin=True)
    pen.fill(
        both(f"M50,{pocket} L67,{pocket} L67,{low - 4} Q66,{low} 62,{low} L50,{low}"), pen.shade(0.14), soften=0.4
    )
    pen.seam([(50, pocket + 1), (50, low - 1)])
    pen.line([(33.5, pocket + 1), (66.5, pocket + 1)], 1.6, pen.trim)


def lamp(pen: Pen, rng: random.Random) -> None:
    top, low, narrow, wide = rng.uniform(12, 17), rng.uniform(44, 50), rng.uniform(12, 22), rng.uniform(26, 32)
    gourd = f"M50,{low + 8} L54,{low + 8} C54,{low + 16} 67,{low + 16} 66,78 Q64,88 56,90 L50,90"
    base = rng.choice((gourd, f"M50,{low + 8} L55,{low + 8} L63,88 L50,89", "M50,84 Q64,84 66,90 L50,91"))
    shade = (
        f"M{50 - narrow},{top} Q50,{top - 3} {50 + narrow},{top} L{50 + wide},{low} Q50,{low + 6} {50 - wide},{low}"
    )
    pen.stand(34, 66, 90)
    pen.line([(50, low - 4), (50, 86)], 2.4, GOLD)
    pen.fill(both(base), rng.choice((WOOD, SOLE, GOLD)), form="round", soften=0.6)
    pen.fill(ellipse(50, low, wide, 3.4), (255, 240, 190), form="flat")
    pen.fill(shade, form="round")
    pen.line(f"M{50.6 - wide},{low - 0.4} Q50,{low + 5.4} {49.4 + wide},{low - 0.4}", 1.4, pen.trim)


def chair(pen: Pen, rng: random.Random) -> None:
    top, curve, buttons = rng.uniform(10, 16), rng.uniform(1.5, 4.5), rng.random() < 0.5
    wood = rng.choice((WOOD, DARK_WOOD, mix(WOOD, WHITE, 0.3)))
    pen.stand(26, 74, 90)
    pen.line([(65, 58), (67, 84)], 3, mix(wood, INK, 0.3), twin=True)
    pen.line([(64, 40), (64, 60)], 3.4, wood, form="edge", twin=True)
    pen.fill(both(f"M50,{top} Q{66 + curve},{top} {68 + curve},{top + 8} L66,44 Q65,48 60,48 L50,48"), soften=1)
    pen.fill(both("M50,54 L66,54 Q70,55 73,64 Q74,70 68,70 L50,70"), soften=1)
    pen.fold("M28,65 Q50,68 72,65 L73,68 Q72,70 68,70 L32,70 Q27,70 28,65", 0.18)
    pen.line([(69, 70), (72.5, 90)], 3.8, wood, form="edge", twin=True)
    for x, y in ((42, 24), (58, 24), (50, 33), (42, 41), (58, 41)) if buttons else ():
        pen.fill(ellipse(x, y, 1), pen.shade(0.4), form="flat")


def sofa(pen: Pen, rng: random.Random) -> None:
    top, arm, seats = rng.uniform(30, 36), rng.uniform(46, 51), rng.choice((2, 3))
    pen.stand(10, 90, 82)
    pen.fill("M80,75 L86,75 L84.6,83 L81.4,83", WOOD, twin=True)
    pen.fill(box(15, top, 85, 70, 8))
    for k in range(1, seats):
        x = 15 + 70 * k / seats
        pen.seam([(x, top + 2), (x, 57)], 0.7, 0.25)
    pen.fold(box(15, 52, 85, 62), 0.14)
    pen.fill(box(12, 64, 88, 78, 3))
    pen.fold(box(12, 64, 88, 78, 3), 0.22)
    for k in range(seats):
        seat = box(20 + 60 * k / seats, 57, 20 + 60 * (k + 1) / seats, 69, 3.5)
        pen.fill(seat)
        pen.seam(seat + seat[:1], 0.6, 0.25)
    rest = box(78.5, arm, 92, 78, 6)
    pen.fill(rest, twin=True)
    pen.seam(rest + rest[:1], 0.6, 0.25, twin=True)
    if rng.random() < 0.6:
        x = rng.choice((27, 60))
        pillow = f"M{x},42 Q{x + 7},44 {x + 14},41 Q{x + 12.5},49 {x + 14},57 Q{x + 7},55 {x},57 Q{x + 1.5},49 {x},42"
        pen.fill(pillow, mix(pen.second, SOLE, 0.3), soften=0.6)


def cushion(pen: Pen, rng: random.Random) -> None:
    bow, tall, tassels = rng.uniform(5, 9), rng.uniform(28, 33), rng.random() < 0.4
    a, b = 50 - tall, 50 + tall
    for x, y in ((16, a), (84, a), (16, b), (84, b)) if tassels else ():
        for turn in (-30, 0, 30):
            angle = math.atan2(y - 50, x - 50) + math.radians(turn)
            pen.line([(x, y), (x + 7 * math.cos(angle), y + 7 * math.sin(angle))], 1.5, pen.trim)
    outline = path(f"M15,{a} Q50,{a + bow} 85,{a} Q{85 - bow},50 85,{b} Q50,{b - bow} 15,{b} Q{15 + bow},50 15,{a}")
    pen.fill(outline, soften=2)
    pen.seam([(50 + (x - 50) * 0.94, 50 + (y - 50) * 0.94) for x, y in outline], 1, 0.22)
    pen.fold("M78,29 Q69,32 64,43 Q74,38 78,29", twin=True)
    pen.fold("M75,73 Q67,70 60,59 Q70,63 75,73", twin=True)


def vase(pen: Pen, rng: random.Random) -> None:
    neck, body, top, belly = rng.uniform(6, 9), rng.uniform(17, 23), rng.uniform(40, 48), rng.uniform(12, 22)
    pen.stand(50 - body * 0.6, 50 + body * 0.6, 91)
    for k, (lean, tall) in enumerate(((-16, 20), (-5, 10), (7, 14), (18, 22))):
        x, y = 50 + lean + rng.uniform(-2, 2), tall + rng.uniform(-3, 3)
        pen.line(f"M50,{top + 4} Q{50 + lean * 0.3},{top - 12} {x},{y}", 1, DARK_LEAF)
        for share in (0.35, 0.6, 0.85):
            px, py = 50 + lean * share * share, top + (y - top) * share
            for angle in (-150 + lean, -30 + lean):
                pen.fill(leaf(px, py, 9 - 3 * share, angle), mix(LEAF, WHITE, 0.25 * (k % 2)), form="flat")
        pen.fill(leaf(x, y + 2, 7, -90 + lean), LEAF, form="flat")
    waist, wide = top + belly, 50 + body
    throat = f"M50,{top} L{52 + neck},{top} Q{50 + neck},{top + 5} {50 + neck},{top + 8} C{50 + neck},{waist}"
    jar = (
        f"{throat} {wide},{waist - 2} {wide},{waist + 12} C{wide},84 {50 + body * 0.6},88 {50 + body * 0.55},92 L50,93"
    )
    pen.fill(both(jar), form="round")
    pen.fill(ellipse(50, top, neck + 2, 1.9), pen.shade(0.35), form="flat")


def rug(pen: Pen, rng: random.Random) -> None:
    near, far, top = rng.uniform(38, 41), rng.uniform(25, 29), rng.uniform(28, 34)
    pen.tilt = 0
    for k in range(25):
        share = k / 24 * 2 - 1
        for half, y, step in ((far, top, -4), (near, 76, 6)):
            x = 50 + share * (half - 0.8)
            fringe = [(x, y), (x + share * 1.2 + rng.uniform(-0.5, 0.5), y + step)]
            pen.line(fringe, 1.1, mix(pen.trim, SOLE, 0.4))
    pen.fill(both(f"M50,{top} L{50 + far},{top} L{50 + near},76 L50,76"))
    for inset, width in ((4, 1.5), (6.5, 0.7)):
        pen.line(
            f"M50,{top + inset} L{51 + far - inset},{top + inset} L{49 + near - inset},{76 - inset} L50,{76 - inset}",
            width,
            pen.trim,
            twin=True,
        )


def plant_pot(pen: Pen, rng: random.Random) -> None:
    top, half, plant = rng.uniform(54, 60), rng.uniform(19, 23), rng.choice(("bush", "blades", "cactus"))
    pen.stand(50 - half * 0.7, 50 + half * 0.7, 91)
    if plant == "bush":
        for k, angle in enumerate((-165, -15, -145, -35, -125, -55, -105, -75, -90)):
            length = (24 + 2.3 * k) * rng.uniform(0.92, 1.06)
            pen.fill(leaf(50 + (angle + 90) * 0.07, top, length, angle, 0.26), (DARK_LEAF, LEAF)[k % 2])
    elif plant == "blades":
        for k, lean in enumerate((-22, 20, -11, 11, 0)):
            length = rng.uniform(40, 47) - abs(lean) * 0.3
            pen.fill(leaf(50 + lean * 0.5, top + 4, length, -90 + lean, 0.12), (DARK_LEAF, LEAF)[k % 2])
    else:
        pen.fill(box(41, 14, 59, top + 4, 9), LEAF)
        pen.line(f"M58,{top - 12} L66,{top - 12} Q71,{top - 12} 71,{top - 17} L71,{top - 24}", 8, LEAF, form="edge")
        pen.line(f"M42,{top - 8} L33,{top - 8} Q29,{top - 8} 29,{top - 13} L29,{top - 18}", 8, LEAF, form="edge")
        for x in (46, 50, 54):
            pen.line([(x, 20), (x, top)], 0.7, DARK_LEAF)
        pen.fill(star(50, 14, 5, 6, 0.6), (248, 226, 220), soften=0.6)
    low = 50 + half * 0.66
    pen.fill(ellipse(50, top, half, 3.5), SOIL, form="flat")
    pen.fill(both(f"M50,{top} L{48 + half},{top} L{low},88 Q{low},92 {low - 4},92 L50,92.5"), form="round")
    pen.fill(box(49 - half, top - 2, 51 + half, top + 8, 1.6), form="round")
    pen.fold(box(51 - half, top + 8, 49 + half, top + 9.6), 0.2)


def clock(pen: Pen, rng: random.Random) -> None:
    bells, r = rng.random() < 0.5, rng.uniform(32, 35)
    y, face = 54 if bells else 50, 0.62 * r

    def hand(angle: float, near: float, far: float, width: float) -> None:
        c, s = math.cos(math.radians(angle)) * face, math.sin(math.radians(angle)) * face
        pen.line([(50 + near * c, y + near * s), (50 + far * c, y + far * s)], width, INK)

    if bells:
        pen.stand(26, 74, y + r + 4)
        pen.line([(50 + r * 0.55, y + r * 0.7), (50 + r * 0.72, y + r + 3)], 4, pen.shade(0.35), twin=True)
        pen.fill(ellipse(50 + r * 0.62, y - r * 0.86, 9), pen.shade(0.2), twin=True)
        pen.line([(50, y - r), (50, y - r - 8)], 3, STEEL)
    pen.fill(ellipse(50, y, r))
    pen.fill(ellipse(50, y, face + 1.6), pen.shade(0.3), form="flat")
    pen.fill(ellipse(50, y, face), (255, 253, 247), form="flat")
    for hour in range(12):
        hand(30 * hour, 0.8 if hour % 3 else 0.72, 0.9, 0.9 if hour % 3 else 1.5)
    hand(rng.uniform(0, 360), 0, 0.5, 2.2)
    hand(rng.uniform(0, 360), 0, 0.74, 1.5)
    pen.fill(ellipse(50, y, 2), GOLD if pen.dim else pen.shade(0.1), form="flat")


def curtains(pen: Pen, rng: random.Random) -> None:
    pen.tilt, low, tie = 0, rng.uniform(84, 90), rng.uniform(52, 60)
    pen.fill(box(26, 20, 74, 74), WHITE)
    pen.fill(box(28, 22, 72, 72), (204, 228, 244), form="flat")
    pen.fill("M28,72 L28,60 Q40,50 52,60 Q62,52 72,58 L72,72", (176, 212, 182), form="flat")
    pen.fill(box(49, 22, 51, 72), WHITE, form="flat")
    pen.fill(box(28, 44, 72, 46), WHITE, form="flat")
    panel = f"M51,15 C53,36 64,46 73,{tie} Q67,72 67,{low} L88,{low} Q92,70 84,{tie} Q88,40 87,15"
    pen.fill(panel, soften=0.3, twin=True)
    for k, x in enumerate((58, 66, 74, 81)):
        knot, foot = 75 + 2.4 * k, 70.5 + 4.5 * k
        crease = f"M{x},16 Q{x + 4},38 {knot},{tie} Q{foot - 1},72 {foot},{low} L{foot - 2.4},{low}"
        pen.fold(f"{crease} Q{foot - 4},72 {knot - 1.4},{tie} Q{x},38 {x - 2.4},16", 0.13, twin=True)
    band = f"M72,{tie - 3} Q79,{tie} 85.5,{tie - 3} L85.5,{tie + 2} Q79,{tie + 5} 71.5,{tie + 2}"
    pen.fill(band, GOLD if pen.pattern == "plain" else pen.trim, soften=0.4, twin=True)
    pen.line([(8, 13), (92, 13)], 2.6, WOOD, form="edge")
    pen.fill(ellipse(93, 13, 3), WOOD, twin=True)
    for x in (55, 62, 69, 76, 83):
        pen.line(ellipse(x, 13.5, 1.9, 2.6), 0.9, GOLD, twin=True)


DRAWINGS: dict[str, Callable[[Pen, random.Random], None]] = {
    "t-shirt": t_shirt,
    "shirt": shirt,
    "hoodie": hoodie,
    "dress": dress,
    "trousers": trousers,
    "shorts": shorts,
    "skirt": skirt,
    "socks": socks,
    "scarf": scarf,
    "beanie": beanie,
    "mittens": mittens,
    "umbrella": umbrella,
    "sneakers": sneakers,
    "boots": boots,
    "backpack": backpack,
    "tote bag": tote_bag,
    "suitcase": suitcase,
    "mug": mug,
    "bowl": bowl,
    "bottle": bottle,
    "teapot": teapot,
    "apron": apron,
    "lamp": lamp,
    "chair": chair,
    "sofa": sofa,
    "cushion": cushion,
    "vase": vase,
    "rug": rug,
    "plant pot": plant_pot,
    "clock": clock,
    "curtains": curtains,
}


def _finish(pen: Pen, rng: random.Random) -> Image.Image:
    """The drawing on its background: a pastel disc, a shadow on the ground or behind the product, and the lighting."""
    tint = rng.choice(BACKGROUNDS)
    if pen.pale:
        tint = mix(tint, INK, 0.08)
    scene = Image.new("RGB", (SIDE, SIDE), mix(tint, WHITE, 0.62))
    x, y = ((50 + move) * UNIT for move in pen.move)
    r = 43 * UNIT
    ImageDraw.Draw(scene).ellipse((x - r, y - r, x + r, y + r), fill=tint)
    scene.paste(pen.image, (0, 0), pen.alpha)
    scene = scene.resize((SIZE, SIZE), Image.Resampling.LANCZOS)

    alpha, shadow = pen.alpha.reduce(3), Image.new("L", (SIZE, SIZE))
    step = SIZE / 100
    if pen.ground:
        left, right, foot = pen.ground
        (left, foot), (right, _) = ((px / 3, py / 3) for px, py in pen._traces([(left, foot), (right, foot)])[0])
        box = (left - 3 * step, foot - 2.2 * step, right + 5 * step, foot + 2.6 * step)
        ImageDraw.Draw(shadow).ellipse(box, fill=128)
        shadow = shadow.filter(ImageFilter.GaussianBlur(1.4 * step))
    else:
        shadow.paste(128, (round(1.1 * step), round(2.2 * step)), alpha)
        shadow = shadow.filter(ImageFilter.GaussianBlur(2 * step))
    scene.paste(mix(tint, INK, 0.62), (0, 0), ImageChops.multiply(shadow, ImageChops.invert(alpha)))
    scene.paste(INK, (0, 0), pen.dark)
    scene.paste(WHITE, (0, 0), pen.light)
    return scene


def draw(kind: str, colour: str, pattern: str, model: random.Random, rng: random.Random) -> Image.Image:
    """One product picture.

    Args:
        kind (`str`): a key of `DRAWINGS`.
        colour (`str`): a key of `COLOURS`.
        pattern (`str`): one of `PATTERNS`.
        model (`random.Random`): state of the product's model (its proportions); the same state, the same model.
        rng (`random.Random`): state of this very picture (background, place, size, tilt, second colour, pattern).

    Returns:
        RGB picture of `SIZE` x `SIZE` pixels.
    """
    main, seconds = COLOURS[colour]
    pen = Pen(main, rng.choice(seconds), pattern, rng)
    DRAWINGS[kind](pen, model)
    return _finish(pen, rng)
