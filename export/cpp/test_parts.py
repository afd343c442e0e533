"""What the C++ program does before a model answers: pixels, noise, and what an artifact says of itself."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_up_metadata import METADATA
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from clipfast.config import CounterattackConfig
from clipfast.preprocess import MAX_IMAGE_PIXELS, Preprocess

pytestmark = pytest.mark.timeout(1200)  # the first one builds


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A smooth picture with some grain; its transparency, where it has one, runs from side to side."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    image = Image.fromarray((smooth + rng.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8))
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize((width, height)))
    return image.convert(mode)


def deep_png(values: NDArray[np.uint16], color_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits a sample, [H, W, C]; Pillow writes none but grey ones."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def random_words(*shape: int) -> NDArray[np.uint16]:
    return np.random.default_rng(1).integers(0, 65536, shape, dtype=np.uint16)


def few_greys(bits: int) -> Image.Image:
    """Drawn rather than dithered; Pillow stores it with the given bits where it can."""
    image = Image.new("P", (96, 96))
    image.putpalette([value for i in range(2**bits) for value in (255 - 9 * i, 40 * i % 256, 13 * i % 256)])
    draw = ImageDraw.Draw(image)
    for i in range(2**bits):
        draw.rectangle((i * 5, i * 3, 95, 95), fill=i)
    return image


def keyed_words() -> NDArray[np.uint16]:
    """Deep colours of which every other one is (1, 2, 3), whose low bytes and high bytes differ."""
    words = random_words(96, 96, 3)
    words[::2] = (0x0101, 0x0202, 0x0303)
    return words


FORMATS = {
    "rgb.png": saved(photo(96, 96)),
    "grey.png": saved(photo(96, 96, "L")),
    "black and white.png": saved(photo(96, 96, "1")),
    "grey and alpha.png": saved(photo(96, 96, "LA")),
    "rgba.png": saved(photo(96, 96, "RGBA")),
    "palette.png": saved(photo(96, 96).quantize(200)),
    "palette of 4 bits.png": saved(few_greys(4), bits=4),
    "palette of 2 bits, transparent.png": saved(few_greys(2), bits=2, transparency=b"\x00\x80"),
    "transparent grey.png": saved(photo(96, 96, "L"), transparency=100),
    "transparent white.png": saved(photo(96, 96, "1"), transparency=255),
    "transparent colour.png": saved(few_greys(4).convert("RGB"), transparency=(255, 0, 0)),
    "deep grey.png": deep_png(random_words(96, 96, 1), 0),
    "deep grey, transparent.png": deep_png(keyed_words()[..., :1], 0, (b"tRNS", b"\x01\x01")),
    "deep rgb.png": deep_png(random_words(96, 96, 3), 2),
    "deep rgb, transparent.png": deep_png(keyed_words(), 2, (b"tRNS", b"\x01\x01\x02\x02\x03\x03")),
    "deep grey and alpha.png": deep_png(random_words(96, 96, 2), 4),
    "deep rgba.png": deep_png(random_words(96, 96, 4), 6),
    "444.jpg": saved(photo(96, 96), "JPEG", quality=80, subsampling=0),
    "422.jpg": saved(photo(96, 96), "JPEG", quality=80, subsampling=1),
    "420.jpg": saved(photo(96, 96), "JPEG", quality=80, subsampling=2),
    "progressive.jpg": saved(photo(96, 96), "JPEG", progressive=True),
    "grey.jpg": saved(photo(96, 96, "L"), "JPEG"),
    "broken metadata.jpg": saved(
        photo(96, 96), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 9
    ),
    "cmyk.jpg": saved(Image.merge("CMYK", photo(96, 96, "RGBA").split()), "JPEG"),
}


def pixels_of(parts, *files: Path, **settings: object) -> NDArray[np.int64]:
    result = parts("pixels", *files, **settings)
    assert not result.returncode, result.stderr
    preprocess = settings.get("preprocess", METADATA.preprocess)
    assert isinstance(preprocess, Preprocess)
    return np.frombuffer(result.stdout, np.uint8).reshape(len(files), 3, *preprocess.size).astype(int)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow's own
@pytest.mark.parametrize("name", FORMATS)
def test_decodes_as_python_to_the_bit(parts, tmp_path, name):
    file = tmp_path / name
    file.write_bytes(FORMATS[name])
    np.testing.assert_array_equal(pixels_of(parts, file)[0], METADATA.preprocess(file))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_every_exif_orientation_is_turned_upright(parts, tmp_path, form):
    files = []
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files.append(tmp_path / f"{orientation}.{form.lower()}")
        photo(96, 96).save(files[-1], exif=exif)
    got = pixels_of(parts, *files)
    np.testing.assert_array_equal(got, METADATA.preprocess.batch(files))
    assert len(np.unique(got, axis=0)) == 8


@pytest.mark.parametrize("size", [(96, 96), (48, 64)], ids=["square", "wide"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resizes_as_python_to_the_bit(parts, tmp_path, interpolation, resize_mode, size):
    preprocess = Preprocess(size=size, interpolation=interpolation, resize_mode=resize_mode, fill_color=7)
    shapes = [(100, 60), (37, 121), (97, 96), (96, 97), (20, 13), (641, 480), (1, 50), (96, 193), (200, 400)]
    files = [tmp_path / f"{width}x{height}.png" for width, height in shapes]
    for file, shape in zip(files, shapes, strict=True):
        photo(*shape).save(file)
    np.testing.assert_array_equal(pixels_of(parts, *files, preprocess=preprocess), preprocess.batch(files))


def many_scans() -> bytes:
    """A progressive JPEG whose first scan comes a hundred times."""
    whole = FORMATS["progressive.jpg"]
    start = whole.index(b"\xff\xda")
    end = whole.index(b"\xff\xc4", start)  # the next one's table
    return whole[:end] + whole[start:end] * 99 + whole[end:]


BROKEN = {
    "many scans.jpg": (many_scans(), "expected at most 100 scans, got more"),
    "empty.png": (b"", "expected an image, got zero bytes"),
    "text.png": (b"no picture", "not an image that this program reads (PNG, JPEG)"),
    "webp.webp": (saved(photo(96, 96), "WEBP"), "not an image that this program reads (PNG, JPEG)"),
    "truncated.png": (FORMATS["rgb.png"][:5000], "broken or truncated image"),
    "only a signature.png": (FORMATS["rgb.png"][:8], "broken or truncated image"),
    "flipped bit.png": (FORMATS["rgb.png"].replace(b"IHDR\0", b"IHDR\1"), "broken or truncated image"),
    "truncated.jpg": (FORMATS["420.jpg"][:1500], "broken or truncated image"),
    "only a start.jpg": (FORMATS["420.jpg"][:4], "broken or truncated image"),
    "large.png": (
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
        + struct.pack(">I", zlib.crc32(b"IHDR" + struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)))
        + FORMATS["rgb.png"][33:],
        f"expected at most {MAX_IMAGE_PIXELS} pixels, got more: a decompression bomb?",
    ),
    "narrow.png": (
        saved(Image.new("RGB", (1, 30000))),
        "too long and narrow, it would become 96 x 2880000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(parts, tmp_path, name):
    data, reason = BROKEN[name]
    file = tmp_path / name
    file.write_bytes(data)
    result = parts("pixels", file)
    assert result.returncode == 1
    assert result.stderr.decode().startswith(f"error: {file}: ")
    assert reason in result.stderr.decode()
    assert result.stderr.count(b"\n") == 1


def noise_of(parts, n: int, config: CounterattackConfig) -> NDArray[np.float32]:
    result = parts("noise", n, config=config)
    assert not result.returncode, result.stderr
    return np.frombuffer(result.stdout, np.float32).reshape(n, 3, 96, 96)


def test_linf_noise_is_uniform_within_eps_and_never_drawn_twice(parts):
    config = CounterattackConfig(eps=0.02)
    noise, again = noise_of(parts, 12, config), noise_of(parts, 1, config)
    assert np.abs(noise).max() <= np.float32(0.02)
    assert len(np.unique(np.concatenate([noise, again])[:, 0, :2], axis=0)) == 13
    counts, _ = np.histogram(noise, np.linspace(-0.02, 0.02, 41))
    expected = noise.size / 40
    # Chi-squared of 39 degrees of freedom: above 110 once in 10^8 runs.
    assert ((counts - expected) ** 2 / expected).sum() < 110


def test_l2_noise_is_a_normal_direction_of_a_uniform_length(parts):
    noise = noise_of(parts, 400, CounterattackConfig(eps=0.5, norm="l2")).astype(np.float64)
    lengths = np.sqrt(np.square(noise).sum(axis=(1, 2, 3)))
    assert lengths.max() <= 0.5 * (1 + 1e-6)
    # Six standard errors of a uniform length's mean and a bound that its largest one of 400 keeps.
    assert abs(lengths.mean() - 0.25) < 6 * 0.5 / np.sqrt(12 * 400)
    assert lengths.max() > 0.45
    directions = noise / lengths[:, None, None, None] * np.sqrt(noise[0].size)
    assert abs(np.mean(directions)) < 0.005
    assert abs(np.mean(directions**4) - 3) < 0.05


def changed(**fields: object) -> str:
    return json.dumps(json.loads(METADATA.to_json()) | fields)


def changed_inside(part: str, **fields: object) -> str:
    return changed(**{part: json.loads(METADATA.to_json())[part] | fields})


def without(*path: str) -> str:
    values = json.loads(METADATA.to_json())
    inner = values
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return json.dumps(values)


REFUSED = {
    "no JSON": ("{", "its metadata is no JSON"),
    "no object": ("[1]", "its metadata is no JSON object, but [1]"),
    "newer schema": (
        changed(schema=6),
        "its metadata has schema 6, this program reads up to 5: a newer one is needed",
    ),
    "older schema": (changed(schema=0), "its metadata has schema 0, this program reads [1,2,3,4,5]"),
    "schema type": (changed(schema="4"), "expected an integer as metadata field 'schema', got \"4\""),
    "profile": (changed(profile="x"), "expected 'serving' or 'lab' as metadata field 'profile', got \"x\""),
    "batch": (changed(batch=0), "expected a positive integer or null as metadata field 'batch', got 0"),
    "pixels": (changed(pixels="int8"), "expected 'float32' or 'uint8' as metadata field 'pixels'"),
    "outputs": (changed(outputs=["what"]), "expected a list of known outputs as metadata field 'outputs'"),
    "fewer outputs": (
        changed(outputs=["logits", "drift", "countered"]),
        "exported without the output undefended_logits, which this program's answers tell",
    ),
    "width": (changed(width=0), "expected a positive integer or null as metadata field 'width', got 0"),
    "static": (changed(static=1), "expected true or false as metadata field 'static', got 1"),
    "control characters": (changed(classnames=["a", "b\x1b[2J"]), "of one string or more, without control"),
    "turned around": (changed(classnames=["a", "b\u202e"]), "of one string or more, without control"),
    "second controls": (changed(classnames=["a", "b\x9b2J"]), "of one string or more, without control"),
    "classnames": (changed(classnames=[]), "control characters as metadata field 'classnames', got []"),
    "eps": (changed_inside("config", eps=-1), "a positive number as metadata field 'config.eps', got -1"),
    "norm": (changed_inside("config", norm="l1"), "expected 'linf' or 'l2' as metadata field 'config.norm'"),
    "no threshold": (without("config", "tau_threshold"), "metadata field 'config.tau_threshold' is missing"),
    "no preprocess": (without("preprocess"), "metadata field 'preprocess' is missing"),
    "size": (
        changed_inside("preprocess", size=[96]),
        "expected a list of two positive integers as metadata field 'preprocess.size', got [96]",
    ),
    "interpolation": (
        changed_inside("preprocess", interpolation="lanczos"),
        "expected 'bicubic' or 'bilinear' as metadata field 'preprocess.interpolation', got \"lanczos\"",
    ),
    "resize mode": (
        changed_inside("preprocess", resize_mode="tile"),
        "'shortest' or 'longest' or 'squash' as metadata field 'preprocess.resize_mode', got \"tile\"",
    ),
    "fill color": (
        changed_inside("preprocess", fill_color=256),
        "expected an integer from 0 to 255 as metadata field 'preprocess.fill_color', got 256",
    ),
    "colour order": (
        changed_inside("preprocess", color_order="BGR"),
        "expected 'RGB' as metadata field 'preprocess.color_order', got \"BGR\"",
    ),
    "range": (changed_inside("preprocess", range=[-1, 1]), "[0, 1] as metadata field 'preprocess.range'"),
    "unknown setting": (
        changed_inside("preprocess", sharpen=True),
        "unknown metadata field 'preprocess.sharpen'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_metadata_that_it_does_not_know_is_refused_by_name(parts, name):
    text, reason = REFUSED[name]
    result = parts("noise", 1, text=text)
    assert result.returncode == 1
    assert reason in result.stderr.decode()


@pytest.mark.parametrize("schema", [1, 2, 3, 4])
def test_the_schemas_before_are_read(parts, schema):
    values = json.loads(changed(schema=schema))
    since = ["gate_depth", "gate_tokens", "early_threshold"]
    since += ["gate_noise", "transform", "objective", "views", "view_weights"] if schema < 3 else []
    for setting in (*since, *(["momentum", "gate"] if schema == 1 else [])):
        del values["config"][setting]
    assert parts("noise", 1, text=json.dumps(values)).returncode == 0
