"""A renderer of labelled pictures: coloured shapes on plain, gradient, textured and noisy grounds.

The bundled model learned on these pictures, and the demo and the tests draw fresh ones. Every shape is a
radial profile (the distance from its centre to its outline, by angle), less an optional round hole. A
batch of mixed shapes is so drawn by one table look-up per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CLASSNAMES",
    "COLOURS",
    "KINDS",
    "SHAPES",
    "UNSEEN_PAIRS",
    "Pictures",
    "class_index",
    "draw",
]

SHAPES = (
    "circle", "square", "triangle", "diamond", "hexagon", "star",
    "heart", "cross", "flower", "ring", "crescent", "arrow",
)  # fmt: skip

COLOURS = {
    "red": (0.86, 0.12, 0.12),
    "orange": (0.96, 0.54, 0.10),
    "yellow": (0.95, 0.88, 0.18),
    "green": (0.15, 0.60, 0.22),
    "blue": (0.14, 0.30, 0.86),
    "purple": (0.50, 0.16, 0.66),
    "pink": (0.96, 0.56, 0.76),
    "brown": (0.45, 0.27, 0.13),
    "black": (0.06, 0.06, 0.07),
    "white": (0.95, 0.95, 0.95),
}

KINDS = ("plain", "gradient", "texture", "noise")

CLASSNAMES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)

# One colour of each shape never appears in training: these 12 of the 120 classes have to be composed.
UNSEEN_PAIRS = tuple((shape, (3 * shape + 1) % len(COLOURS)) for shape in range(len(SHAPES)))

_ANGLES = 2048

# Distances between fill and ground colour, Euclidean in RGB.
_LEAST_CONTRAST, _FAINT_CONTRAST, _FAINT_SHARE = 0.16, 0.40, 0.35
_PALETTE = np.array(list(COLOURS.values()), np.float32)


@dataclass(frozen=True)
class Pictures:
    """A drawn batch of N pictures.

    Attributes:
        pixels: uint8 [N, 3, S, S].
        shapes: int64 [N], indices into SHAPES.
        colours: int64 [N], indices into COLOURS.
        kinds: int64 [N], indices into KINDS.
    """

    pixels: NDArray[np.uint8]
    shapes: NDArray[np.int64]
    colours: NDArray[np.int64]
    kinds: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The pictures' classes: int64 [N], indices into CLASSNAMES."""
        return class_index(self.shapes, self.colours)


def class_index(shape: NDArray[np.int64], colour: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the index in CLASSNAMES of a shape and a colour.

    Args:
        shape: int64, indices into SHAPES.
        colour: int64, indices into COLOURS, of the same array shape.
    """
    return shape * len(COLOURS) + colour


def draw(
    n: int,
    *,
    seed: int | tuple[int, ...],
    kinds: dict[str, float] | None = None,
    unseen_pairs: bool = True,
    size: int = 96,
) -> Pictures:
    """Draws n pictures.

    Args:
        n: Number of pictures.
        seed: Equal seeds give equal pictures.
        kinds: The mix of grounds, as weights by name; by default all of KINDS equally.
        unseen_pairs: Whether the pairs of shape and colour that were held out of training may appear.
        size: Height and width in pixels.

    Raises:
        ValueError: If a kind is unknown.
    """
    unknown = set(kinds or ()) - set(KINDS)
    if unknown:
        raise ValueError(f"kinds must be among {KINDS}, got {sorted(unknown)}")
    rng = np.random.default_rng(seed)
    weights = np.array([1.0 if kinds is None else kinds.get(kind, 0.0) for kind in KINDS])
    pairs = [
        (shape, colour)
        for shape in range(len(SHAPES))
        for colour in range(len(COLOURS))
        if unseen_pairs or (shape, colour) not in UNSEEN_PAIRS
    ]
    shapes, colours = np.array(pairs)[rng.integers(len(pairs), size=n)].reshape(n, 2).T
    kind = rng.choice(len(KINDS), size=n, p=weights / weights.sum())
    fill = _jitter(rng, _PALETTE[colours])
    picture = _grounds(rng, fill, kind, size)
    cover = _coverage(rng, shapes, size)[:, None]
    picture += cover * (fill[:, :, None, None] - picture)
    sigma = np.where(kind == KINDS.index("noise"), rng.uniform(2, 6, n) / 255, 0)
    noisy = sigma > 0
    if noisy.any():
        shape = (int(noisy.sum()), *picture.shape[1:])
        grain = rng.standard_normal(shape, dtype=np.float32)
        picture[noisy] += grain * sigma[noisy, None, None, None].astype(np.float32)
    pixels = np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
    return Pictures(pixels, shapes.astype(np.int64), colours.astype(np.int64), kind.astype(np.int64))


def _jitter(rng: np.random.Generator, rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    brightness = rng.uniform(0.92, 1.05, (len(rgb), 1))
    tint = rng.uniform(-0.04, 0.04, rgb.shape)
    return (rgb * brightness + tint).clip(0, 1).astype(np.float32)


def _grounds(
    rng: np.random.Generator, fill: NDArray[np.float32], kind: NDArray[np.int64], size: int
) -> NDArray[np.float32]:
    """Two ground colours a picture, blended by a ramp or a pattern; some are close to the fill."""
    n = len(fill)
    candidates = rng.uniform(0, 1, (n, 24, 3)).astype(np.float32)
    faint = rng.random(n) < _FAINT_SHARE
    offsets = rng.standard_normal((n, 24, 3), dtype=np.float32)
    lengths = rng.uniform(_LEAST_CONTRAST, _FAINT_CONTRAST, (n, 24, 1)).astype(np.float32)
    offsets *= lengths / np.linalg.norm(offsets, axis=2, keepdims=True)
    candidates[faint] = (fill[:, None] + offsets)[faint].clip(0, 1)
    # A stable sort on "too close to the fill" brings the first two acceptable candidates to the front.
    too_close = np.linalg.norm(candidates - fill[:, None], axis=2) < 0.9 * _LEAST_CONTRAST
    order = np.argsort(too_close, axis=1, kind="stable")
    first = candidates[np.arange(n), order[:, 0]]
    second = candidates[np.arange(n), order[:, 1]]
    near = first + 0.45 * (second - first)  # a pattern of moderate contrast
    texture = kind == KINDS.index("texture")
    second = np.where(texture[:, None], near, second)

    y, x = np.meshgrid(*2 * [np.linspace(-0.5, 0.5, size, dtype=np.float32)], indexing="ij")
    angle = rng.uniform(0, 2 * np.pi, n).astype(np.float32)[:, None, None]
    u = x * np.cos(angle) + y * np.sin(angle)
    blend = u + 0.5
    if texture.any():
        v = (y * np.cos(angle) - x * np.sin(angle))[texture]
        periods = rng.uniform(4, 10, (len(v), 1, 1)).astype(np.float32) * 2 * np.pi
        waves = np.sin(u[texture] * periods)
        checks = rng.random(len(v)) < 0.5
        waves[checks] *= np.sin(v[checks] * periods[checks])
        blend[texture] = 0.5 + 0.5 * np.tanh(3 * waves)
    blend[kind == KINDS.index("plain")] = 0
    blend = blend.clip(0, 1)[:, None]
    ground = first[:, :, None, None] + blend * (second - first)[:, :, None, None]
    return ground.astype(np.float32)


def _coverage(rng: np.random.Generator, shapes: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """The share of each pixel that the shape covers, anti-aliased over one pixel: [N, S, S]."""
    n = len(shapes)
    radius = rng.uniform(0.20, 0.42, n) * size
    room = np.maximum(size / 2 - radius * 0.9, 0)
    centre = size / 2 + rng.uniform(-1, 1, (2, n)) * room
    turn = rng.uniform(-15, 15, n) * np.pi / 180
    stretch = rng.uniform(0.92, 1.08, n)

    axis = np.arange(size, dtype=np.float32) + 0.5

    def column(values: NDArray[np.float64]) -> NDArray[np.float32]:
        return values.astype(np.float32)[:, None, None]

    dx = (axis[None, None, :] - column(centre[0])) / column(radius * stretch)
    dy = (axis[None, :, None] - column(centre[1])) / column(radius / stretch)
    x = dx * column(np.cos(turn)) + dy * column(np.sin(turn))
    y = dy * column(np.cos(turn)) - dx * column(np.sin(turn))
    index = np.floor(np.arctan2(y, x) * np.float32(_ANGLES / (2 * np.pi))).astype(np.int32) % _ANGLES
    outline, slant = (table[shapes[:, None, None], index] for table in (_OUTLINES, _SLANTS))
    inside = (outline - np.hypot(x, y)) * slant
    hole = _HOLES[shapes]
    holed = hole[:, 0] > 0
    to_hole = np.hypot(x[holed] - hole[holed, 1, None, None], y[holed]) - hole[holed, 0, None, None]
    inside[holed] = np.minimum(inside[holed], to_hole)
    return (inside * column(radius) + 0.5).clip(0, 1).astype(np.float32)


def _polygon(vertices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The radial profile of a polygon that is star-shaped about the origin: [ANGLES]."""
    theta = (np.arange(_ANGLES) + 0.5) * 2 * np.pi / _ANGLES
    ray = np.stack([np.cos(theta), np.sin(theta)])
    start, edge = vertices, np.roll(vertices, -1, axis=0) - vertices
    # Solve r * ray = start + t * edge for every edge and angle, by Cramer's rule.
    denominator = ray[0] * edge[:, 1:] - ray[1] * edge[:, :1]
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (start[:, :1] * edge[:, 1:] - start[:, 1:] * edge[:, :1]) / denominator
        t = (start[:, :1] * ray[1] - start[:, 1:] * ray[0]) / denominator
    hit = (t >= -1e-9) & (t <= 1 + 1e-9) & (r > 0)
    return np.where(hit, r, 0).max(axis=0)


def _regular(corners: int, inner: float | None = None, phase: float = -np.pi / 2) -> NDArray[np.float64]:
    """A regular polygon, or a star with its notches at the radius `inner`."""
    count = corners if inner is None else 2 * corners
    angle = phase + np.arange(count) * 2 * np.pi / count
    radius = np.ones(count) if inner is None else np.where(np.arange(count) % 2, inner, 1.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _profiles() -> NDArray[np.float32]:
    theta = (np.arange(_ANGLES) + 0.5) * 2 * np.pi / _ANGLES
    t = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    heart_y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    heart = np.stack([16 * np.sin(t) ** 3, -heart_y], axis=1) / 17
    w = 0.36  # half the width of a cross's arm
    arms = np.array([(w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1)])
    cross = np.concatenate([arms, -arms])
    arrow = np.array([(0, -0.95), (0.8, 0.05), (0.3, 0.05), (0.3, 1), (-0.3, 1), (-0.3, 0.05), (-0.8, 0.05)])
    disc = np.ones(_ANGLES)
    profiles = {
        "circle": disc,
        "square": _polygon(_regular(4, phase=np.pi / 4)),
        "triangle": _polygon(_regular(3)),
        "diamond": _polygon(_regular(4) * (0.62, 1.0)),
        "hexagon": _polygon(_regular(6)),
        "star": _polygon(_regular(5, inner=0.42)),
        "heart": _polygon(heart),
        "cross": _polygon(cross),
        "flower": 0.76 + 0.24 * np.cos(5 * theta + np.pi / 2),
        "ring": disc,
        "crescent": disc,
        "arrow": _polygon(arrow),
    }
    return np.stack([profiles[shape] for shape in SHAPES]).astype(np.float32)


def _holes() -> NDArray[np.float32]:
    """Radius and x offset of each shape's round hole; radius 0 where it has none: [SHAPES, 2]."""
    holes = np.zeros((len(SHAPES), 2), np.float32)
    holes[SHAPES.index("ring")] = (0.55, 0.0)
    holes[SHAPES.index("crescent")] = (0.80, 0.45)
    return holes


_OUTLINES = _profiles()
# cos of the angle between ray and outline normal: turns a radial distance into a normal distance.
_SLANTS = 1 / np.sqrt(1 + (np.gradient(_OUTLINES, 2 * np.pi / _ANGLES, axis=1) / _OUTLINES) ** 2)
_SLANTS = np.maximum(_SLANTS, 0.2).astype(np.float32)
_HOLES = _holes()
