"""`python export/ray/decoder.py SETTINGS`: decodes pictures that come on standard input, one after the other.

A process of its own, as decoders are C code that strangers feed: what it takes in time and memory is bounded
from outside, and what kills it kills nothing else. SETTINGS: JSON of `Decoding`. Each message is its length
in eight bytes, big end first, and the bytes: of a picture's file, and for an answer "p" and the pixels, or
"e" and the reason why there are none.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from dataclasses import asdict, dataclass
from typing import BinaryIO

from clipfast.errors import InputError
from clipfast.preprocess import Preprocess

__all__ = ["ERROR", "FORMATS", "LENGTH", "PIXELS", "Decoding"]

# What browsers and telephones send; their size and number of passes are known before anything is decoded.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF")
LENGTH = struct.Struct("!Q")
PIXELS, ERROR = b"p", b"e"

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
    out.write(LENGTH.pack(0))
    out.flush()
    while head := source.read(LENGTH.size):
        data = source.read(*LENGTH.unpack(head))
        try:
            pixels = preprocess(data, max_pixels=settings.max_pixels, formats=FORMATS)
            answer = PIXELS + pixels.tobytes()
        except InputError as error:
            answer = ERROR + str(error).encode()
        out.write(LENGTH.pack(len(answer)) + answer)
        out.flush()


if __name__ == "__main__":
    main(Decoding.from_json(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
