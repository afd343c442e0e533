from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipfast import InputError
from clipfast.preprocess import MAX_IMAGE_PIXELS, Preprocess, image_files, look_for_images, open_image


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + rng.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)], ids=["square", "wide"])
@pytest.mark.parametrize(
    "shape", [(100, 60), (37, 121), (32, 32), (20, 13), (33, 32), (641, 480)], ids=lambda s: f"{s[0]}x{s[1]}"
)
def test_equals_open_clip_to_the_bit(resize_mode, interpolation, size, shape):
    image = photo(*shape)
    transform = open_clip.image_transform(
        size, is_train=False, mean=(0, 0, 0), std=(1, 1, 1),
        resize_mode=resize_mode, interpolation=interpolation, fill_color=7,
    )  # fmt: skip
    ours = Preprocess(size=size, interpolation=interpolation, resize_mode=resize_mode, fill_color=7)
    expected = transform(image)
    got = torch.from_numpy(ours(image)).float() / 255
    assert torch.equal(got, expected)


def test_settings_come_from_the_model(tiny_clip):
    tiny_clip.visual.preprocess_cfg = {
        "size": (32, 48), "interpolation": "bilinear", "resize_mode": "squash", "fill_color": 3,
    }  # fmt: skip
    expected = Preprocess(size=(32, 48), interpolation="bilinear", resize_mode="squash", fill_color=3)
    assert Preprocess.from_open_clip(tiny_clip) == expected


def test_every_exif_orientation_is_turned_upright():
    upright = np.asarray(photo(40, 30))
    # EXIF orientation: how the stored picture came from the upright one (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.fromarray(np.ascontiguousarray(pixels)), exif=exif)
        np.testing.assert_array_equal(np.asarray(open_image(data)), upright, err_msg=str(orientation))


def test_transparency_shows_white():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:2, :, 3] = 255
    rgba[2, :, 3] = 128
    flat = np.asarray(open_image(encoded(Image.fromarray(rgba))))
    assert (flat[:2] == (200, 0, 0)).all()
    assert (flat[3] == 255).all()
    assert abs(int(flat[2, 0, 1]) - 127) <= 1
    for mode in ("LA", "La", "PA", "RGBa"):
        image = Image.fromarray(rgba)
        image = image.convert("LA").convert(mode) if mode == "La" else image.convert(mode)
        assert (np.asarray(open_image(image))[3] == 255).all(), mode


def test_palette_with_transparent_index_shows_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30] + [0] * 750)
    image.putpixel((0, 0), 0)
    flat = np.asarray(open_image(encoded(image, transparency=0)))
    assert tuple(flat[0, 0]) == (255, 255, 255)
    assert tuple(flat[1, 1]) == (10, 200, 30)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_colour_modes_give_the_colour(mode):
    source = Image.new("RGB", (8, 8), (250, 250, 250))
    if mode == "LAB":
        image = Image.new("LAB", (8, 8), (251, 128, 128))
    else:
        image = source.convert(mode, palette=Image.Palette.ADAPTIVE)
    result = open_image(image)
    assert result.mode == "RGB"
    assert np.abs(np.asarray(result).astype(int) - 250).max() <= 6


def test_deep_greys_are_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    expected = np.array([0, 1, 128, 255])
    sixteen = open_image(encoded(Image.fromarray(values)))
    np.testing.assert_array_equal(np.asarray(sixteen)[0, :, 0], expected)
    wide = Image.fromarray(values.astype(np.int32))
    np.testing.assert_array_equal(np.asarray(open_image(wide))[0, :, 0], expected)
    floats = Image.fromarray((values / 65535).astype(np.float32))
    np.testing.assert_array_equal(np.asarray(open_image(floats))[0, :, 0], expected)
    with pytest.raises(InputError, match=r"F pixels from 0 to 1, .*255"):
        open_image(Image.fromarray(np.full((2, 2), 255, np.float32)))


def test_arrays():
    colour = np.asarray(photo(8, 6))
    np.testing.assert_array_equal(np.asarray(open_image(colour)), colour)
    np.testing.assert_array_equal(np.asarray(open_image(colour.astype(np.float64) / 255)), colour)
    np.testing.assert_array_equal(np.asarray(open_image(colour[..., :1]))[..., 2], colour[..., 0])
    for bad, named in [
        (np.zeros((2, 2, 5), np.uint8), r"\(2, 2, 5\)"),
        (np.zeros((0, 2, 3), np.uint8), r"\(0, 2, 3\)"),
        (np.zeros((2, 2, 3), np.int64), "int64"),
        (np.full((2, 2, 3), 1.5), r"from 1.5 to 1.5; this looks like a float image in \[0, 255\]"),
        (np.full((2, 2, 3), np.nan), "NaN"),
    ]:
        with pytest.raises(InputError, match=named):
            open_image(bad)


def bomb() -> bytes:
    side = int(MAX_IMAGE_PIXELS**0.5) + 1

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pieces = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "zero bytes"),
        (b"no image at all", "not an image"),
        (encoded(photo(64, 64))[:700], "broken or truncated"),
        (encoded(photo(64, 64), "JPEG")[:900], "broken or truncated"),
        (bomb(), "decompression bomb"),
    ],
    ids=["empty", "text", "png", "jpeg", "bomb"],
)
def test_broken_files_are_named(tmp_path, data, named):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=named) as error:
        open_image(path)
    assert "picture.png" in str(error.value)


def test_pil_images_are_guarded_like_files(tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(encoded(photo(64, 64), "JPEG")[:900])
    with Image.open(path) as lazy, pytest.raises(InputError, match="the given image: broken or truncated"):
        open_image(lazy)
    with pytest.raises(InputError, match="decompression bomb"):
        open_image(Image.new("1", (MAX_IMAGE_PIXELS // 1000 + 1, 1000)))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_caller_may_allow_fewer_pixels_and_not_more(monkeypatch):
    picture = encoded(photo(64, 64))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    for data, allowed in ((picture, 64 * 64 - 1), (bomb(), 10**12)):
        with pytest.raises(InputError, match=f"at most {min(allowed, MAX_IMAGE_PIXELS)} pixels, got more"):
            open_image(data, max_pixels=allowed)
    monkeypatch.undo()
    transform = Preprocess(size=(32, 32))
    assert open_image(picture, max_pixels=64 * 64).size == (64, 64)
    transform(Image.new("RGB", (1, 64)), max_pixels=32 * 2048)
    with pytest.raises(InputError, match="it would become 32 x 2048"):
        transform(Image.new("RGB", (1, 64)), max_pixels=32 * 2048 - 1)


def test_a_caller_may_allow_fewer_formats(tmp_path):
    picture = encoded(photo(16, 16), "BMP")
    open_image(picture)
    with pytest.raises(InputError, match=r"not an image that is read \(PNG, JPEG\)"):
        open_image(picture, formats=["JPEG", "PNG"])
    (tmp_path / "a.png").write_bytes(picture)
    with pytest.raises(InputError, match=r"a\.png: not an image that is read \(PNG, JPEG\)"):
        Preprocess(size=(8, 8))(tmp_path / "a.png", formats=["JPEG", "PNG"])
    with pytest.raises(InputError, match=r"expected formats of PNG, JPEG, .*, got EPS"):
        open_image(picture, formats=["PNG", "EPS"])


def scans(times: int) -> bytes:
    """A progressive JPEG whose first scan comes several times."""
    whole = encoded(photo(64, 64), "JPEG", progressive=True)
    start = whole.index(b"\xff\xda")
    end = whole.index(b"\xff\xc4", start)  # the next one's table
    return whole[:end] + whole[start:end] * (times - 1) + whole[end:]


def test_a_jpeg_of_many_scans_is_not_decoded(monkeypatch, tmp_path):
    plain = encoded(photo(64, 64), "JPEG", progressive=True)
    usual = plain.count(b"\xff\xda")
    assert usual > 5
    np.testing.assert_array_equal(open_image(scans(100 - usual + 1)), open_image(plain))
    (tmp_path / "many.jpg").write_bytes(scans(100 - usual + 2))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    for source in (tmp_path / "many.jpg", (tmp_path / "many.jpg").read_bytes()):
        with pytest.raises(InputError, match="expected at most 100 scans, got more"):
            open_image(source)


def icon(*pictures: bytes) -> bytes:
    """An icon whose table says 16 x 16 of each, whatever it is."""
    start, table = 6 + 16 * len(pictures), b""
    for picture in pictures:
        table += struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(picture), start)
        start += len(picture)
    return struct.pack("<HHH", 0, 1, len(pictures)) + table + b"".join(pictures)


def test_an_icon_is_as_large_as_what_is_in_it(monkeypatch):
    small = encoded(Image.new("RGBA", (16, 16), "red"))
    assert np.asarray(open_image(icon(small, small)))[3, 3].tolist() == [255, 0, 0]
    assert open_image(encoded(Image.new("RGBA", (32, 32)), "ICO", bitmap_format="bmp")).size == (32, 32)
    large = encoded(Image.new("RGBA", (1000, 1000), "red"))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    bitmap = struct.pack("<IiiHHIIiiII", 40, 1000, 2000, 1, 32, 0, 0, 0, 0, 0, 0)
    for pictures in ((large,), (small, large), (bitmap,)):
        with pytest.raises(InputError, match="at most 100000 pixels, got more"):
            open_image(icon(*pictures), max_pixels=100_000)
    with pytest.raises(InputError, match="broken or truncated"):
        open_image(icon(small)[:20])


def test_an_icon_is_not_taken_for_a_targa():
    """Which has no signature, so that half of all files may be one."""
    data = icon(encoded(photo(16, 16)))
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "ICO"
    np.testing.assert_array_equal(open_image(data), open_image(encoded(photo(16, 16))))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow's own
@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
def test_broken_metadata_are_no_broken_picture(form):
    whole = photo(24, 16)
    options = {"lossless": True} if form == "WEBP" else {}
    plain = encoded(whole, form, **options)
    for exif in (
        b"Exif\0\0MM\0*\0\0\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 9,
        b"rubbish",
    ):
        broken = encoded(whole, form, exif=exif, **options)
        np.testing.assert_array_equal(open_image(broken), open_image(plain), err_msg=repr(exif))


def test_transparent_deep_greys_show_white():
    values = np.array([[0, 300], [40000, 65535]], np.uint16)
    data = encoded(Image.fromarray(values), transparency=300)
    assert np.asarray(open_image(data))[..., 0].tolist() == [[0, 255], [156, 255]]


def test_a_tiff_of_twelve_bits_is_as_bright_as_it_is():
    """Two values of 12 bits, 4095 and 2048, in three bytes."""
    packed = bytes([0xFF, 0xF8, 0x00])
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag == 273 else 3, 1, value) for tag, value in tags)
    data = (
        b"II*\0" + struct.pack("<I", 12) + packed + b"\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    )
    assert np.asarray(open_image(data))[0, :, 0].tolist() == [255, 128]


def test_integers_made_of_eight_bits_keep_their_brightness():
    picture = photo(8, 8).convert("L")
    np.testing.assert_array_equal(open_image(picture.convert("I")), open_image(picture))


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_long_and_narrow_pictures_cannot_exhaust_memory(resize_mode):
    strip = Image.new("RGB", (1, 1_000_000))
    ours = Preprocess(size=(96, 96), resize_mode=resize_mode)
    if resize_mode == "shortest":
        with pytest.raises(InputError, match=r"the given image: .* got 1 x 1000000: too long and narrow"):
            ours(strip)
    else:
        assert ours(strip).shape == (3, 96, 96)


def test_missing_files_and_foreign_types_are_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*gone.png"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match="got int"):
        open_image(3)


def test_image_files_lists_folders_in_order(tmp_path):
    for name in ("b.png", "a.jpg", "sub/c.webp", "notes.txt", "paper.pdf", "figure.eps"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listed = [p.relative_to(tmp_path).as_posix() for p in image_files([tmp_path])]
    assert listed == ["a.jpg", "b.png", "sub/c.webp"]
    assert list(image_files([tmp_path / "notes.txt"])) == [tmp_path / "notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found none"):
        list(image_files([tmp_path / "empty"]))
    with pytest.raises(InputError, match="no such file"):
        list(image_files([tmp_path / "gone"]))


def test_what_is_left_out_is_said(tmp_path, caplog):
    for name in ("a.png", "b.HEIC", "notes.txt", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "linked.png").symlink_to(tmp_path / "a.png")
    found = look_for_images(tmp_path)
    assert [file.name for file in found.files] == ["a.png", "linked.png", "c.png"]
    said = sorted(str(error).removeprefix(f"{tmp_path}/") for error in found.left_out)
    assert said == [
        "b.HEIC: clipfast does not read files of .heic",
        "gone.png: a link that leads nowhere",
        "loop.png: a link that leads nowhere",
        "round: a link to a folder, which is not followed",
    ]
    assert list(image_files([tmp_path])) == found.files
    assert all(name in caplog.text for name in ("b.HEIC", "gone.png", "loop.png", "round"))
    for name in ("a" * 300, "a\0b", "loop.png"):
        (error,) = look_for_images(tmp_path / name).left_out
        assert "no such file or folder" in str(error)


def test_a_folder_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    found = look_for_images(tmp_path)
    assert found.files == [tmp_path / "a.png"]
    assert [str(error) for error in found.left_out] == [
        f"cannot read the folder {tmp_path}/closed: Permission denied"
    ]


@pytest.mark.parametrize("source", ["one.png", b"one", Path("one.png")], ids=lambda s: type(s).__name__)
def test_a_batch_is_no_single_image(source):
    with pytest.raises(InputError, match="expected a list of images, got one"):
        Preprocess(size=(16, 16)).batch(source)


def test_batch_stacks_and_may_be_empty():
    ours = Preprocess(size=(16, 16))
    assert ours.batch([]).shape == (0, 3, 16, 16)
    images = [photo(20, 30), photo(16, 16, 1)]
    batch = ours.batch(images)
    assert batch.dtype == np.uint8
    for image, row in zip(images, batch, strict=True):
        np.testing.assert_array_equal(row, ours(image))


@pytest.mark.parametrize(
    "values", [{"size": (0, 3)}, {"interpolation": "nearest"}, {"resize_mode": "crop"}], ids=str
)
def test_unknown_settings_are_errors(values):
    with pytest.raises(InputError, match=next(iter(values))):
        Preprocess(**values)
