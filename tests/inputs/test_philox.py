import math

import numpy as np
import pytest

from clipfast.inputs.philox import content_seeds, l2_noise, linf_noise, philox

SHAPE = (3, 5, 7)  # odd, and no multiple of the four lanes
EPS = 4 / 255


def words(*values):
    return tuple(np.array([value], np.uint32) for value in values)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    # The known-answer vectors that the authors of Philox publish with Random123.
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    assert tuple(int(word[0]) for word in philox(words(*counter), words(*key))) == expected


def draw(kind, seed, images):
    return kind(np.full(len(images), seed, np.uint64), np.array(images, np.uint32), SHAPE, EPS)


def test_linf_values_follow_the_definition():
    seed, image, index = 0x123456789ABCDEF0, 6, 17
    lanes = philox(words(index // 4, image, 0, 0), words(seed & 0xFFFFFFFF, seed >> 32))
    word = int(lanes[index % 4][0])
    expected = np.float32((word >> 8) - 2**23) * np.float32(EPS * 2.0**-23)
    assert draw(linf_noise, seed, [image]).ravel()[index] == expected


@pytest.mark.parametrize("kind", [linf_noise, l2_noise])
def test_an_image_does_not_depend_on_its_neighbours(kind):
    together = draw(kind, 5, [0, 1, 2, 3])
    for i in range(4):
        np.testing.assert_array_equal(together[i], draw(kind, 5, [i])[0])
    assert len({image.tobytes() for image in together}) == 4
    assert not np.array_equal(together, draw(kind, 6, [0, 1, 2, 3]))
    high = draw(kind, 5 + (1 << 40), [0, 1, 2, 3])  # the seed's high word matters
    assert not np.array_equal(together, high)


def test_linf_is_uniform_within_eps():
    values = linf_noise(np.zeros(64, np.uint64), np.arange(64, dtype=np.uint32), (3, 16, 16), EPS)
    assert values.dtype == np.float32
    assert np.abs(values).max() <= EPS
    n = values.size
    assert abs(values.mean()) < 5 * EPS / math.sqrt(3 * n)
    assert values.std() == pytest.approx(EPS / math.sqrt(3), rel=0.01)
    counts, _ = np.histogram(values, 16, (-EPS, EPS))
    assert ((counts - n / 16) ** 2 / (n / 16)).sum() < 45  # chi-squared, 15 degrees: p about 1e-4


def test_l2_is_a_normal_direction_of_uniform_length():
    images = np.arange(400, dtype=np.uint32)
    values = l2_noise(np.zeros(400, np.uint64), images, SHAPE, EPS).reshape(400, -1)
    lengths = np.linalg.norm(values, axis=1)
    assert lengths.max() <= EPS * (1 + 1e-6)
    assert lengths.mean() == pytest.approx(EPS / 2, rel=0.1)
    assert lengths.std() == pytest.approx(EPS / math.sqrt(12), rel=0.1)
    word = int(philox(words(0, 7, 1, 0), words(0, 0))[0][0])  # stream 1 gives the length
    assert lengths[7] == pytest.approx(EPS * (word >> 8) * 2.0**-24, rel=1e-5)
    directions = values / lengths[:, None] * math.sqrt(values.shape[1])
    assert abs((directions**4).mean() - 3) < 0.15  # a normal's kurtosis, less what the sphere takes
    assert abs(directions.mean()) < 0.03


def test_content_seeds_follow_the_bytes_and_the_key():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, *SHAPE)).astype(np.float32) / np.float32(255)
    pixels[2] = pixels[0]
    seeds = content_seeds(pixels, b"k" * 16)
    assert seeds.dtype == np.uint64
    assert seeds[0] == seeds[2] != seeds[1]
    assert content_seeds(pixels[1:2], b"k" * 16)[0] == seeds[1]
    assert content_seeds(pixels, b"l" * 16)[0] != seeds[0]
    for step in (1 / 255, 1.1 / 65535):
        changed = pixels.copy()
        changed[0, 0, 0, 0] += np.float32(step)
        assert content_seeds(changed, b"k" * 16)[0] != seeds[0]


def test_what_no_picture_tells_apart_has_the_same_content():
    pixels = np.random.default_rng(0).integers(0, 256, (1, *SHAPE)).astype(np.float32) / np.float32(255)
    pixels[0, 0, 0, :3] = 0
    (seed,) = content_seeds(pixels, b"k" * 16)
    changed = np.nextafter(pixels, np.float32(1))  # one unit in the last place
    changed[0, 0, 0, :3] = (-0.0, 1e-42, 1e-30)
    assert content_seeds(changed, b"k" * 16)[0] == seed
