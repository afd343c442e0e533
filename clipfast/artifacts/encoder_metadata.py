"""What an exported image encoder says about itself: one versioned JSON text. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from ..errors import ArtifactError
from ..preprocess import Preprocess
from .fields import (
    COMMON,
    Field,
    Precision,
    check_fields,
    check_schema,
    is_integer,
    read_object,
    read_preprocess,
    written_preprocess,
)
from .ports import PixelType, Port, Ports

__all__ = ["EncoderMetadata", "is_encoder"]

_KIND, _SCHEMA = "an image encoder", 1

_FIELDS: dict[str, Field] = COMMON | {
    "width": ("a positive integer", lambda v: is_integer(v) and v > 0),
}


@dataclass(frozen=True, kw_only=True)
class EncoderMetadata:
    """All that an exported image encoder's file says about itself.

    batch: its size, None for any. pixels: the dtype that it takes. width: of an embedding, D. model_name,
    pretrained, weights_sha256, preprocess, precision, versions, license: see
    `clipfast.artifacts.metadata.Metadata`.
    """

    batch: int | None
    pixels: PixelType
    width: int
    model_name: str | None
    pretrained: str | None
    weights_sha256: str
    preprocess: Preprocess
    precision: Precision
    versions: dict[str, str]
    license: str

    @property
    def ports(self) -> tuple[Ports, Ports]:
        """The input and the output of the file."""
        pixels = Port("pixels", self.pixels, (self.batch, 3, *self.preprocess.size))
        return (pixels,), (Port("embedding", "float32", (self.batch, self.width)),)

    def to_json(self) -> str:
        """The JSON text; `from_json` gives equal metadata back."""
        values = {"kind": _KIND, "schema": _SCHEMA, **dataclasses.asdict(self)}
        values["preprocess"] = written_preprocess(values["preprocess"])
        return json.dumps(values, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> EncoderMetadata:
        """Reads what `to_json` wrote.

        Raises ArtifactError for anything else: no JSON, those of another kind of file, a newer schema, and
        fields that are missing, unknown, or of another type or value; the message names the field.
        """
        values = read_object(text)
        if not _is_encoder(values):
            raise ArtifactError("it holds no image encoder")
        del values["kind"]
        check_schema(values.pop("schema", None), {_SCHEMA})
        check_fields(values, _FIELDS)
        values["preprocess"] = read_preprocess(values["preprocess"])
        return cls(**values)


def is_encoder(text: str) -> bool:
    """Whether a file that carries this text says that it is an image encoder. Raises ArtifactError for a
    text that is no JSON object."""
    return _is_encoder(read_object(text))


def _is_encoder(values: dict[str, Any]) -> bool:
    return values.get("kind") == _KIND
