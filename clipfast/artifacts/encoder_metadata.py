"""The metadata of an exported image encoder: one versioned JSON text. Needs no torch."""

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

    Attributes:
        batch: The batch size, or None for any.
        pixels: The dtype of the pixels that the file takes.
        width: The number of elements D of an embedding.
        model_name: open_clip's name of the model, or None if it has none.
        pretrained: open_clip's name of the weights, or None if they have none.
        weights_sha256: The `clipfast.models.fingerprint.fingerprint` of the image tower, 64 hexadecimal
            digits.
        preprocess: The transform from image files to pixels.
        precision: The number format of the operands of large matrix products.
        versions: The versions of the packages that exported the file, "clipfast" and "torch" among them.
        license: The licence of the weights.
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
        """The input `pixels` [N, 3, H, W] and the output `embedding`, float32 [N, D]."""
        pixels = Port("pixels", self.pixels, (self.batch, 3, *self.preprocess.size))
        return (pixels,), (Port("embedding", "float32", (self.batch, self.width)),)

    def to_json(self) -> str:
        """Returns the metadata as JSON text, from which `from_json` builds equal metadata.

        Raises:
            ValueError: If a number is not finite.
        """
        values = {"kind": _KIND, "schema": _SCHEMA, **dataclasses.asdict(self)}
        values["preprocess"] = written_preprocess(values["preprocess"])
        return json.dumps(values, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> EncoderMetadata:
        """Reads the text that `to_json` wrote.

        Raises:
            ArtifactError: If the text is not a JSON object, is of another kind of file, or has a newer or
                unknown schema; or a field is missing, unknown, or of another type or value. The message
                names the field.
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
    """Returns whether a metadata text says that its file is an image encoder.

    Raises:
        ArtifactError: If the text is not a JSON object.
    """
    return _is_encoder(read_object(text))


def _is_encoder(values: dict[str, Any]) -> bool:
    return values.get("kind") == _KIND
