"""Pictures decoded by processes that may be killed."""

import asyncio
import io
import os
import signal
from pathlib import Path

import decoders
import numpy as np
import pytest
from decoder import Decoding, is_large
from decoders import Decoders
from PIL import Image
from refusal import Refusal

from clipfast.preprocess import Preprocess

PREPROCESS = Preprocess(size=(8, 8))
# Stands still at "slow", dies of "die", finds "large" large, and else answers by the first byte.
MADE_UP = """
import os, sys, time
def say(data):
    sys.stdout.buffer.write(len(data).to_bytes(8, "big") + data)
    sys.stdout.buffer.flush()
say(b"")
while head := sys.stdin.buffer.read(8):
    which, data = sys.stdin.buffer.read(1), sys.stdin.buffer.read(int.from_bytes(head, "big") - 1)
    if data == b"large" and which == b"s":
        say(b"l")
        continue
    if data in (b"slow", b"large"):
        time.sleep(100)
    if data == b"die":
        os._exit(1)
    say(b"p" + data[:1] * 192)
"""


def encoded(form="PNG", size=(16, 16), **options) -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(data, form, **options)
    return data.getvalue()


def run(scenario, number=1, **settings):
    async def inside():
        decode = Decoders(number, PREPROCESS, **{"max_pixels": 10_000, "seconds": 30, **settings})
        try:
            return await scenario(decode)
        finally:
            await decode.close()

    return asyncio.run(inside())


async def refused(decode, data) -> str:
    with pytest.raises(Refusal) as refusal:
        await decode(data)
    assert refusal.value.status == 422
    return refusal.value.reason


def children() -> list[int]:
    """Of this process, those that decode."""
    found = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [int(pid) for file in found for pid in file.read_text().split()]
    return [pid for pid in pids if b"decoder" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_pixels_are_the_library_s_and_reasons_too():
    async def scenario(decode):
        for form in ("PNG", "JPEG", "WEBP"):
            np.testing.assert_array_equal(await decode(encoded(form)), PREPROCESS(encoded(form)))
        (pid,) = children()
        assert "zero bytes" in await refused(decode, b"")
        assert "broken or truncated" in await refused(decode, encoded()[:60])
        assert "at most 10000 pixels, got more" in await refused(decode, encoded(size=(101, 100)))
        for form in ("BMP", "TIFF", "GIF", "ICO", "PPM", "TGA"):
            assert "not an image that is read (PNG, JPEG" in await refused(decode, encoded(form))
        assert children() == [pid]

    run(scenario)
    assert not children()


def test_what_a_decoder_may_take_is_bounded():
    async def scenario(decode):
        await decode(encoded())
        (pid,) = children()
        limits = Path(f"/proc/{pid}/limits").read_text()
        allowed = Decoding({}, 10_000).memory
        assert f"Max address space         {allowed} " in limits
        # What the library itself uses is well below.
        status = Path(f"/proc/{pid}/status").read_text()
        peak = int(status.partition("VmPeak:")[2].split()[0]) * 1024
        assert peak < allowed / 2

    run(scenario)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    (tmp_path / "decoder.py").write_text(MADE_UP)
    monkeypatch.setattr(decoders, "_PROGRAM", tmp_path / "decoder.py")


@pytest.mark.usefixtures("made_up")
def test_who_misses_the_deadline_is_replaced():
    async def scenario(decode):
        assert (await decode(b"a"))[0, 0, 0] == ord("a")
        first = children()
        assert "decoded within 1 seconds" in await refused(decode, b"slow")
        assert (await decode(b"b"))[0, 0, 0] == ord("b")
        assert len(children()) == 1
        assert children() != first
        assert "cannot be decoded" in await refused(decode, b"die")
        assert (await decode(b"c"))[0, 0, 0] == ord("c")
        os.kill(children()[0], signal.SIGKILL)
        await asyncio.sleep(0.1)
        assert (await decode(b"d"))[0, 0, 0] == ord("d")

    run(scenario, seconds=1)


@pytest.mark.usefixtures("made_up")
def test_one_that_stands_still_holds_up_no_other():
    async def scenario(decode):
        slow = asyncio.ensure_future(refused(decode, b"slow"))
        await asyncio.sleep(0.1)
        for _ in range(3):
            await decode(b"a")
        assert not slow.done()
        slow.cancel()  # a client that leaves
        await asyncio.wait({slow})
        together = await asyncio.gather(decode(b"b"), decode(b"c"), decode(b"d"))
        assert [pixels[0, 0, 0] for pixels in together] == list(b"bcd")
        assert len(children()) == 2

    run(scenario, number=2, seconds=20)


@pytest.mark.usefixtures("made_up")
def test_large_pictures_leave_a_decoder_to_the_others():
    async def scenario(decode):
        large = [asyncio.ensure_future(refused(decode, b"large")) for _ in range(4)]
        await asyncio.sleep(0.5)
        async with asyncio.timeout(10):
            for _ in range(5):
                assert (await decode(b"a"))[0, 0, 0] == ord("a")
        assert not any(one.done() for one in large)
        for one in large:
            one.cancel()
        await asyncio.wait(large)

    run(scenario, number=2, seconds=60)


def test_a_header_says_what_is_large():
    for form in ("PNG", "JPEG", "WEBP"):
        assert is_large(encoded(form, (1100, 1000)))
        assert not is_large(encoded(form, (1000, 1000)))
    assert not is_large(b"no picture")


def test_a_large_picture_is_decoded_all_the_same():
    async def scenario(decode):
        data = encoded(size=(1100, 1000))
        np.testing.assert_array_equal(await decode(data), PREPROCESS(data))

    run(scenario, max_pixels=2**21)
