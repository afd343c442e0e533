from __future__ import annotations

import numpy as np
import pytest

from clipfast.models.shapes import CLASSNAMES, COLOURS, KINDS, SHAPES, UNSEEN_PAIRS, class_index, draw


def test_equal_seeds_draw_equal_pictures():
    first, second, other = draw(12, seed=(3, 1)), draw(12, seed=(3, 1)), draw(12, seed=(3, 2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert not np.array_equal(first.pixels, other.pixels)
    assert first.pixels.shape == (12, 3, 96, 96)
    assert first.pixels.dtype == np.uint8


def test_labels_name_the_shape_and_the_colour():
    drawn = draw(50, seed=0)
    for shape, colour, label in zip(drawn.shapes, drawn.colours, drawn.labels, strict=True):
        assert CLASSNAMES[label] == f"{list(COLOURS)[colour]} {SHAPES[shape]}"
    assert len(set(CLASSNAMES)) == 120
    index = class_index(np.arange(12).repeat(10), np.tile(np.arange(10), 12))
    np.testing.assert_array_equal(index, np.arange(120))


def test_the_fill_has_the_named_colour():
    drawn = draw(300, seed=4, kinds={"plain": 1.0})
    palette = np.array(list(COLOURS.values()))
    for pixels, colour in zip(drawn.pixels, drawn.colours, strict=True):
        distance = np.abs(pixels.transpose(1, 2, 0) / 255 - palette[colour]).max(axis=2)
        assert (distance < 0.16).mean() > 0.01


def test_unseen_pairs_can_be_left_out():
    drawn = draw(3000, seed=1, unseen_pairs=False, size=8)
    pairs = set(zip(drawn.shapes.tolist(), drawn.colours.tolist(), strict=True))
    assert not pairs & set(UNSEEN_PAIRS)
    assert len(pairs) == 120 - len(UNSEEN_PAIRS)
    everything = draw(3000, seed=1, size=8)
    assert set(UNSEEN_PAIRS) <= set(zip(everything.shapes.tolist(), everything.colours.tolist(), strict=True))
    assert {shape for shape, _ in UNSEEN_PAIRS} == set(range(12))


def test_kinds_follow_the_mix_and_look_as_named():
    drawn = draw(4000, seed=2, kinds={"plain": 3, "noise": 1}, size=8)
    assert {KINDS[kind] for kind in drawn.kinds} == {"plain", "noise"}
    assert (drawn.kinds == KINDS.index("plain")).mean() == pytest.approx(0.75, abs=0.03)
    corners = {}
    for kind in KINDS:
        pixels = draw(80, seed=5, kinds={kind: 1.0}).pixels.astype(int)
        corners[kind] = np.abs(np.diff(pixels[:, :, 0, :], axis=2)).mean()  # along the top edge
    assert corners["plain"] < corners["gradient"] < corners["noise"]
    assert corners["plain"] < corners["texture"]
    with pytest.raises(ValueError, match="stripes"):
        draw(1, seed=0, kinds={"stripes": 1.0})


# Areas over the squared radius, from each outline's own geometry.
AREAS = {
    "circle": np.pi,
    "square": 2.0,
    "triangle": 3 * 3**0.5 / 4,
    "diamond": 2 * 0.62,
    "hexagon": 3 * 3**0.5 / 2,
    "star": 5 * 0.42 * np.sin(np.pi / 5),
    "cross": 2 * (2 * 0.36) * 2 - (2 * 0.36) ** 2,
    "ring": np.pi * (1 - 0.55**2),
    "arrow": 0.8 * 1.0 + 0.6 * 0.95,
    "flower": np.pi * (0.76**2 + 0.24**2 / 2),
}


@pytest.mark.parametrize("shape", AREAS)
def test_shapes_cover_their_area(shape):
    from clipfast.models import shapes

    class Centred:
        """A generator whose every uniform draw is its middle: upright, centred, unstretched."""

        def uniform(self, low, high, size=None):
            return np.full(size, (low + high) / 2)

    size = 400
    cover = shapes._coverage(Centred(), np.array([SHAPES.index(shape)]), size)[0]
    radius = 0.31 * size
    assert cover.sum() / radius**2 == pytest.approx(AREAS[shape], rel=0.01)
    np.testing.assert_allclose(cover[:, : size // 2], cover[:, : size // 2 - 1 : -1], atol=0.35)
