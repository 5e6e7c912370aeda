"""Draw the scenes of ``make_scenes``, and their labels with the same strokes."""

from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

CONCEPTS = ("sky", "road", "grass", "tree", "house", "bus", "car", "taxi")
SUB_CONCEPTS = {
    "sky": ("clear", "sunset"),
    "tree": ("broadleaf", "conifer"),
    "house": ("brick", "plaster"),
    "bus": ("green", "red"),
    "car": ("far", "near"),
    "taxi": ("far", "near"),
}
LABELS = {concept: number for number, concept in enumerate(("background", *CONCEPTS))}

# An odd factor puts the center of an image pixel at the center of a canvas pixel, for the labels.
SUPERSAMPLING = 3
ROAD_EDGE = 0.72
PAINTS = ((206, 172, 44), (214, 182, 54), (198, 164, 38))
GLASS = (64, 84, 102)
RUBBER = (28, 28, 32)


class Canvas:
    """An RGB image and its label image, drawn together in perspective.

    A point on the ground is ``(x, s)``. `s` is the inverse distance, 1 at the lower edge of the
    image and 0 at the horizon. `x` is the distance from the axis of the road in image heights at
    ``s = 1``.
    """

    def __init__(self, image_size, horizon, vanishing):
        self.height, self.width = image_size
        self.horizon, self.vanishing = horizon, vanishing
        size = (self.width * SUPERSAMPLING, self.height * SUPERSAMPLING)
        self.unit = size[1]
        self.right = self.width / self.height / 2
        self.image, self.label_image = Image.new("RGB", size), Image.new("L", size)
        self._brush = ImageDraw.Draw(self.image)
        self._label_brush = ImageDraw.Draw(self.label_image)

    def ground(self, x, s):
        """Return the position of the ground point (x, s) on the canvas, in image heights."""
        return self.vanishing + x * s, self.horizon + (1 - self.horizon) * s

    def polygon(self, points, color, label=None):
        """Fill a polygon in image heights. Without a label, the labels do not change."""
        pixels = [((x + self.right) * self.unit, y * self.unit) for x, y in points]
        self._brush.polygon(pixels, fill=color)
        if label is not None:
            self._label_brush.polygon(pixels, fill=LABELS[label])

    def read(self):
        """Return the antialiased image (H, W, 3) and labels (H, W) of uint8, 0 for no concept."""
        center = slice(SUPERSAMPLING // 2, None, SUPERSAMPLING)
        labels = np.asarray(self.label_image)[center, center].copy()
        return np.array(self.image.reduce(SUPERSAMPLING)), labels


class Pen:
    """Pen for the parts of one object in its own coordinates: u to the right, v upward."""

    def __init__(self, canvas, project, label):
        self.canvas, self.project, self.label = canvas, project, label

    @classmethod
    def flat(cls, canvas, x, y, unit, label):
        """Return a pen for the picture plane, with origin (x, y) and unit in image heights."""

        def project(u, v):
            return x + u * unit, y - v * unit

        return cls(canvas, project, label)

    @classmethod
    def upright(cls, canvas, x, s, size, label):
        """Return a pen for a plane that faces the camera at (x, s), with the unit `size`."""
        return cls.flat(canvas, *canvas.ground(x, s), size * s, label)

    @classmethod
    def receding(cls, canvas, x, near, far, label):
        """Return a pen for a wall along the road, u from 0 at s = `near` to 1 at s = `far`."""

        def project(u, v):
            s = 1 / ((1 - u) / near + u / far)
            left, base = canvas.ground(x, s)
            return left, base - v * s

        return cls(canvas, project, label)

    def inside(self):
        """Return a pen for details inside the outline, where the label exists already."""
        return Pen(self.canvas, self.project, None)

    def polygon(self, points, color):
        """Fill the polygon through (u, v) points."""
        self.canvas.polygon([self.project(u, v) for u, v in points], color, self.label)

    def box(self, u0, v0, u1, v1, color, *, corner=0.0):
        """Fill a box whose corners are cut by `corner`."""
        if not corner:
            self.polygon([(u0, v0), (u1, v0), (u1, v1), (u0, v1)], color)
            return
        c = corner
        points = [(u0 + c, v0), (u1 - c, v0), (u1, v0 + c), (u1, v1 - c)]
        points += [(u1 - c, v1), (u0 + c, v1), (u0, v1 - c), (u0, v0 + c)]
        self.polygon(points, color)

    def ellipse(self, u, v, ru, rv, color):
        """Fill an ellipse of center (u, v) and radii (ru, rv)."""
        angles = [2 * pi * k / 18 for k in range(18)]
        points = [(u + ru * cos(angle), v + rv * sin(angle)) for angle in angles]
        self.polygon(points, color)


def shade(color, factor):
    """Return a darker (factor < 1) or lighter color."""
    return tuple(int(min(255, channel * factor)) for channel in color)


def mix(first, second, share):
    """Return a color between two colors. `share` is the weight of the second."""
    return tuple(int(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def draw_sky(canvas, rng, kind):
    """Draw gradient and clouds, and the sun in a sunset."""
    top, low, cloud = {
        "clear": ((78, 142, 216), (196, 224, 244), (246, 249, 252)),
        "sunset": ((92, 72, 134), (252, 176, 104), (238, 134, 118)),
    }[kind]
    bands = 24
    edges = [canvas.horizon * band / bands for band in range(bands + 1)]
    _fill_across(canvas, 0.0, 1.01, low, "sky")
    for band in range(bands):
        _fill_across(canvas, edges[band], edges[band + 1], mix(top, low, band / (bands - 1)))
    if kind == "sunset":
        sun = Pen.flat(canvas, rng.uniform(-0.6, 0.6) * canvas.right, canvas.horizon, 1, None)
        sun.ellipse(0, 0.1, 0.095, 0.095, (253, 198, 122))
        sun.ellipse(0, 0.1, 0.070, 0.070, (254, 226, 158))
    for _ in range(rng.integers(2, 5)):
        _draw_cloud(canvas, rng, mix(cloud, low, rng.uniform(0.0, 0.35)))


def _fill_across(canvas, top, bottom, color, label=None):
    right = canvas.right
    canvas.polygon([(-right, top), (right, top), (right, bottom), (-right, bottom)], color, label)


def _draw_cloud(canvas, rng, color):
    x, y, size = rng.uniform(-1, 1), rng.uniform(0.03, 0.24), rng.uniform(0.06, 0.11)
    pen = Pen.flat(canvas, x * canvas.right, y, size, None)
    for u, v, radius in ((-1.1, 0.0, 0.45), (-0.3, 0.2, 0.7), (0.6, 0.1, 0.55), (1.3, -0.05, 0.35)):
        pen.ellipse(u, v, radius * 1.3, radius * 0.62, color)


def draw_ground(canvas, rng):
    """Draw hills and pavement (no concept), grass and the marked road."""
    _draw_hills(canvas, rng)
    meadow = (98 + int(rng.integers(-8, 9)), 146, 66)
    bands = 8
    edges = [canvas.ground(0, (band / bands) ** 1.6)[1] for band in range(bands + 1)]
    _fill_across(canvas, canvas.horizon, 1.01, meadow, "grass")
    for band in range(bands):
        _fill_across(canvas, edges[band], edges[band + 1], shade(meadow, 1.08 - 0.03 * band))
    for _ in range(40):
        pen = Pen.upright(canvas, rng.uniform(-3, 3), rng.uniform(0.12, 1.0), 0.03, None)
        blades = [(-0.5, 0), (-0.7, 1), (-0.1, 0.3), (0.1, 1.2), (0.3, 0.3), (0.8, 0.9), (0.5, 0)]
        pen.polygon(blades, shade(meadow, rng.uniform(0.72, 0.9)))
    _draw_road(canvas, rng)


def _draw_hills(canvas, rng):
    right, foot = canvas.right, canvas.horizon + 0.01
    for height, color in ((0.075, (142, 160, 178)), (0.04, (116, 140, 142))):
        ys = canvas.horizon - height * rng.uniform(0.35, 1.0, size=9)
        ridge = zip(np.linspace(-right, right, 9).tolist(), ys.tolist(), strict=True)
        canvas.polygon([*ridge, (right, foot), (-right, foot)], color, "background")


def _draw_road(canvas, rng):
    gray = int(rng.integers(84, 100))
    paint = (216, 216, 210)
    for side in (-1, 1):
        _strip(canvas, side * ROAD_EDGE, side * 0.86, 0.02, 1.02, (176, 172, 164), "background")
    _strip(canvas, -ROAD_EDGE, ROAD_EDGE, 0.02, 1.02, (gray, gray, gray + 6), "road")
    for side in (-1, 1):
        _strip(canvas, side * 0.68, side * 0.70, 0.02, 1.02, paint)
    phase = rng.uniform()
    for dash in range(12):
        # Dashes have equal lengths on the ground, so in the distance 1 / s.
        start, end = (1 / (0.5 + 0.55 * (dash + phase + shift)) for shift in (0.0, 0.5))
        for x in (-0.235, 0.235):
            _strip(canvas, x - 0.012, x + 0.012, end, start, paint)


def _strip(canvas, x0, x1, s0, s1, color, label=None):
    corners = ((x0, s0), (x1, s0), (x1, s1), (x0, s1))
    canvas.polygon([canvas.ground(x, s) for x, s in corners], color, label)


def draw_tree(canvas, rng, x, s, kind):
    """Draw a round broadleaf or a pointed conifer."""
    pen = Pen.upright(canvas, x, s, rng.uniform(0.85, 1.1), "tree")
    _draw_shadow(pen, 0.32)
    pen.box(-0.05, 0, 0.05, 0.4, (96, 68, 46))
    draw_crown = {"broadleaf": _draw_leaves, "conifer": _draw_needles}[kind]
    draw_crown(pen, rng.uniform(0.9, 1.1))


def _draw_shadow(pen, radius):
    pen.inside().ellipse(0, 0, radius, radius * 0.13, (58, 60, 58))


def _draw_leaves(pen, light):
    leaf, inside = shade((88, 158, 70), light), pen.inside()
    crown = ((0, 0.62, 0.30), (-0.2, 0.52, 0.2), (0.21, 0.54, 0.19), (0.02, 0.85, 0.21))
    for u, v, radius in crown:
        pen.ellipse(u, v, radius, radius * 0.92, shade(leaf, 0.82))
    for u, v, radius in crown:
        inside.ellipse(u - 0.03, v + 0.05, radius * 0.72, radius * 0.62, leaf)


def _draw_needles(pen, light):
    needles, inside = shade((26, 84, 70), light), pen.inside()
    for v, width in ((0.18, 0.33), (0.48, 0.26), (0.78, 0.18)):
        pen.polygon([(-width, v), (width, v), (0, v + 0.52)], needles)
        inside.polygon([(0.02, v), (width, v), (0, v + 0.52)], shade(needles, 0.74))


def draw_house(canvas, rng, x, s, kind):
    """Draw a house of brick or plaster, whose wall along the road is at `x`."""
    wide, high, light = rng.uniform(0.6, 0.75), rng.uniform(0.55, 0.65), rng.uniform(0.94, 1.06)
    outward = wide if x > 0 else -wide
    front = Pen.upright(canvas, x + outward / 2, s, 1, "house")
    side = Pen.receding(canvas, x, s, 0.68 * s, "house")
    if kind == "brick":
        _draw_gable(canvas, x, s, outward, high)
        _draw_brick(front, side, wide / 2, high, shade((166, 78, 58), light))
        _draw_windows(front, side, wide / 2, high, stories=2)
    else:
        high += 0.28
        _draw_plaster(front, side, wide / 2, high, shade((236, 224, 196), light))
        _draw_windows(front, side, wide / 2, high, stories=3)


def _draw_gable(canvas, x, s, outward, high):
    """Draw the roof plane over the wall along the road, from the eaves to the ridge."""
    ridge, back = x + outward / 2, 0.68 * s
    corners = []
    for place, depth, v in ((x, s, 0), (ridge, s, 0.3), (ridge, back, 0.3), (x, back, 0)):
        left, base = canvas.ground(place, depth)
        corners.append((left, base - (high + v) * depth))
    canvas.polygon(corners, (110, 48, 44), "house")


def _draw_brick(front, side, half, high, wall):
    side.box(0, 0, 1, high, shade(wall, 0.8))
    front.polygon([(-half, 0), (half, 0), (half, high), (0, high + 0.3), (-half, high)], wall)
    inside = front.inside()
    for course in range(1, 9):
        v = high * course / 9
        inside.box(-half, v - 0.006, half, v + 0.006, shade(wall, 0.84))


def _draw_plaster(front, side, half, high, wall):
    side.box(0, 0, 1, high, shade(wall, 0.8))
    front.box(-half, 0, half, high, wall)
    side.box(0, high - 0.05, 1, high + 0.02, (98, 106, 118))
    front.box(-half - 0.02, high - 0.05, half + 0.02, high + 0.02, (120, 128, 140))


def _draw_windows(front, side, half, high, stories):
    pane, frame = (74, 96, 118), (232, 232, 228)
    front, side = front.inside(), side.inside()
    for story in range(stories):
        v = high * (story + 0.32) / stories
        top = v + 0.14
        for u in (-0.55 * half, 0.55 * half):
            front.box(u - 0.075, v - 0.015, u + 0.075, top + 0.015, frame)
            front.box(u - 0.06, v, u + 0.06, top, pane)
        for u in (0.12, 0.58):
            side.box(u, v, u + 0.26, top, shade(pane, 0.85))


def draw_car(canvas, rng, x, s, *, sign):
    """Draw the rear of a car, or of a taxi if it has a `sign` on the roof."""
    paint = shade(PAINTS[rng.integers(len(PAINTS))], rng.uniform(0.92, 1.06))
    pen = Pen.upright(canvas, x, s, 0.44, "taxi" if sign else "car")
    _draw_shadow(pen, 0.58)
    _draw_wheels(pen, 0.4)
    pen.polygon([(-0.43, 0.46), (0.43, 0.46), (0.31, 0.79), (-0.31, 0.79)], shade(paint, 0.9))
    pen.box(-0.5, 0.12, 0.5, 0.5, paint, corner=0.06)
    if sign:
        pen.box(-0.08, 0.78, 0.08, 0.85, (234, 212, 120))
    _draw_car_details(pen.inside(), paint)


def _draw_wheels(pen, place):
    for u in (-place, place):
        pen.box(u - 0.09, 0, u + 0.09, 0.2, RUBBER, corner=0.03)


def _draw_car_details(pen, paint):
    pen.polygon([(-0.36, 0.49), (0.36, 0.49), (0.27, 0.73), (-0.27, 0.73)], GLASS)
    pen.polygon([(-0.30, 0.49), (-0.1, 0.49), (-0.03, 0.73), (-0.2, 0.73)], shade(GLASS, 1.35))
    pen.box(-0.5, 0.12, 0.5, 0.22, shade(paint, 0.62), corner=0.04)
    for u in (-0.4, 0.4):
        pen.box(u - 0.075, 0.32, u + 0.075, 0.43, (214, 30, 30))
        pen.box(u - 0.075, 0.28, u + 0.075, 0.32, (250, 190, 90))
    pen.box(-0.14, 0.25, 0.14, 0.34, (236, 236, 226))


def draw_bus(canvas, rng, x, s, kind):
    """Draw the rear of a bus in its red or green livery."""
    body, band = {
        "red": ((190, 34, 38), (246, 230, 206)),
        "green": ((240, 242, 236), (22, 138, 98)),
    }[kind]
    body = shade(body, rng.uniform(0.95, 1.05))
    pen = Pen.upright(canvas, x, s, 0.48, "bus")
    _draw_shadow(pen, 0.56)
    _draw_wheels(pen, 0.36)
    pen.box(-0.5, 0.1, 0.5, 1.5, body, corner=0.06)
    _draw_bus_details(pen.inside(), body, band)


def _draw_bus_details(pen, body, band):
    pen.box(-0.5, 0.5, 0.5, 0.72, band)
    pen.box(-0.5, 0.1, 0.5, 0.24, shade(band, 0.8), corner=0.03)
    pen.box(-0.4, 0.8, 0.4, 1.2, GLASS, corner=0.05)
    pen.polygon([(-0.34, 0.82), (-0.1, 0.82), (0.04, 1.18), (-0.2, 1.18)], shade(GLASS, 1.35))
    pen.box(-0.36, 1.27, 0.36, 1.42, (30, 30, 34))
    pen.box(-0.28, 1.31, 0.14, 1.38, (250, 176, 50))
    pen.box(-0.3, 0.28, 0.3, 0.42, shade(body, 0.7))
    for u in (-0.42, 0.42):
        pen.box(u - 0.05, 0.28, u + 0.05, 0.44, (230, 50, 36))
