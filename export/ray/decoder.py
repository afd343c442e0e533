"""`python export/ray/decoder.py SETTINGS`: decodes pictures that come on standard input, one after the other.

A process of its own, as decoders are C code that strangers feed: what it takes in time and memory is bounded
from outside, and what kills it kills nothing else. SETTINGS: JSON of `Decoding`. Each message is its length
in eight bytes, big end first, and the bytes. A question is one byte, whether large pictures are decoded, and
a picture's file. An answer is "p" and the pixels, "e" and the reason why there are none, or "l": it is large.
"""

from __future__ import annotations

import io
import json
import resource
import struct
import sys
from dataclasses import asdict, dataclass
from typing import BinaryIO

from PIL import Image

from clipfast.errors import InputError
from clipfast.preprocess import Preprocess, available_formats

__all__ = ["ANY", "ERROR", "FORMATS", "LARGE", "LENGTH", "PIXELS", "SMALL", "Decoding"]

# What browsers and telephones send; their size and number of passes are known before anything is decoded.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF")
LENGTH = struct.Struct("!Q")
PIXELS, ERROR, LARGE = b"p", b"e", b"l"
ANY, SMALL = b"a", b"s"

_SMALL = 2**20  # pixels, which take some hundredths of a second

# Of address space: what Python and its libraries take, and for each pixel several forms of it at once.
_BASE, _OF_A_PIXEL = 2**30, 32


@dataclass(frozen=True)
class Decoding:
    """What a decoder does. preprocess: settings of `Preprocess`. max_pixels: of a picture, decoded."""

    preprocess: dict[str, object]
    max_pixels: int

    @property
    def memory(self) -> int:
        """Bytes of address space that a decoder may have."""
        return _BASE + _OF_A_PIXEL * self.max_pixels

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Decoding:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


def main(settings: Decoding, source: BinaryIO, out: BinaryIO) -> None:
    """Says that it is ready, by an empty message, and answers until the source ends."""
    resource.setrlimit(resource.RLIMIT_AS, (settings.memory, settings.memory))
    size = settings.preprocess["size"]
    assert isinstance(size, list)
    preprocess = Preprocess(**{**settings.preprocess, "size": tuple(size)})  # pyright: ignore[reportArgumentType]
    say(out, b"")
    while head := source.read(LENGTH.size):
        which, data = source.read(1), source.read(LENGTH.unpack(head)[0] - 1)
        try:
            if which == SMALL and is_large(data):
                say(out, LARGE)
                continue
            pixels = preprocess(data, max_pixels=settings.max_pixels, formats=FORMATS)
            answer = PIXELS + pixels.tobytes()
        except InputError as error:
            answer = ERROR + str(error).encode()
        say(out, answer)


def say(out: BinaryIO, message: bytes) -> None:
    """One message."""
    out.write(LENGTH.pack(len(message)) + message)
    out.flush()


def is_large(data: bytes) -> bool:
    """Whether a picture's header says that it has many pixels."""
    try:
        with Image.open(io.BytesIO(data), formats=available_formats(FORMATS)) as image:
            return image.width * image.height > _SMALL
    except Exception:  # what is wrong with it is told when it is decoded
        return False


if __name__ == "__main__":
    main(Decoding.from_json(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
