"""Image encoders read from exported files: numpy in, embeddings out. Needs no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..inputs import arrays
from ..preprocess import Preprocess
from .encoder_metadata import EncoderMetadata
from .running import check_ports, pixels_taken, read_metadata, run_in_batches
from .sessions.session import Session

__all__ = ["ImageEncoder"]


class ImageEncoder:
    """A CLIP model's image tower read from an exported file, over any runtime: undefended, for search.

    Many threads may call `encode_image` of one encoder at once.

    Args:
        session: The file, loaded in its runtime.

    Attributes:
        path: The exported file.
        metadata: What the file says about itself.

    Raises:
        ArtifactError: If the file carries no metadata of an image encoder, its metadata has a newer
            schema, or its inputs and outputs are not those of its metadata.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.path = session.path
        self.metadata = read_metadata(session, EncoderMetadata.from_json)
        inputs, self._outputs = self.metadata.ports
        check_ports(session, inputs, self._outputs)

    @property
    def preprocess(self) -> Preprocess:
        """The transform from image files to the pixels that the file takes."""
        return self.metadata.preprocess

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pixels that the file takes."""
        return self.metadata.preprocess.size

    def encode_image(self, pixels: arrays.Pixels, *, normalize: bool = False) -> NDArray[np.float32]:
        """Returns the embeddings of pixels.

        Args:
            pixels: [N, 3, H, W], uint8, or float in [0, 1]. N may be 0.
            normalize: Whether embeddings are scaled to length 1, as by `normalize` of open_clip's
                `encode_image`.

        Returns:
            float32 [N, D].

        Raises:
            InputError: If the pixels are not valid, are floats although the file takes uint8, or have an
                embedding that is not finite or has length 0.
            ArtifactError: If the file fails, or gives an output other than its metadata names.
        """
        x = pixels_taken(self.path, pixels, self.image_size, self.metadata.pixels)
        answer = run_in_batches(self._session, {"pixels": x}, self._outputs, batch=self.metadata.batch)
        embedding: NDArray[np.float32] = answer["embedding"]
        lengths = np.linalg.norm(embedding, axis=1, keepdims=True)
        usable = np.isfinite(lengths) & (lengths > 0)
        if not usable.all():
            rows = np.flatnonzero(~usable)[:4]
            raise InputError(f"the model gives no usable embedding for the images {rows.tolist()}")
        return embedding / lengths if normalize else embedding

    def __repr__(self) -> str:
        height, width = self.image_size
        return (
            f"{type(self).__name__}({str(self.path)!r}, {height} x {width} pixels as "
            f"{self.metadata.pixels}, embeddings of {self.metadata.width})"
        )
