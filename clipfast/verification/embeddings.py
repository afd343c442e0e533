"""Compares an exported image encoder's embeddings with those of the model that it was exported from."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..artifacts.encoder import ImageEncoder
from ..artifacts.fields import Precision
from ..artifacts.sessions.session import Session
from ..errors import ArtifactError, InputError
from ..inputs import arrays
from ..inputs.tensors import as_unit
from ..models.fingerprint import fingerprint
from ..models.tower import ImageTower
from .outcome import CheckRow, Verification, at_most
from .pictures import checked_pictures, drawn_pictures
from .sides import batch_sizes

__all__ = ["compare_embeddings"]

_PICTURES = 12
# Limits of the length of the difference over the embedding's length.
_LIMITS: dict[Precision, float] = {"fp32": 1e-5, "fp16": 5e-3}


def compare_embeddings(
    session: Session,
    progress: Callable[[str], object] | None = None,
    *,
    tower: ImageTower,
    images: arrays.Pixels | None = None,
) -> Verification:
    """Runs a file and the model on the same pictures, in each batch size, and compares their embeddings.

    Args:
        session: The loaded file.
        progress: Called with a message at each step.
        tower: The image tower that was exported.
        images: [N, 3, H, W], uint8, or float in [0, 1]. None takes twelve drawn pictures.

    Returns:
        A check for each batch size.

    Raises:
        ArtifactError: If the file is no image encoder, fails, gives embeddings that are not finite or
            have length 0, or was exported from other weights.
        InputError: If the images are not valid, or there are none.
    """
    encoder = ImageEncoder(session)
    here, said = fingerprint(tower.model.visual), encoder.metadata.weights_sha256
    if said != here:
        raise ArtifactError(
            f"{encoder.path} was exported from another model: its metadata has weights_sha256 {said}, "
            f"expected {here}"
        )
    if progress is not None:
        progress("comparing embeddings")
    device = next(tower.parameters()).device
    given = drawn_pictures(_PICTURES, tower.image_size) if images is None else images
    pictures = checked_pictures(given, tower.image_size, device)
    if encoder.metadata.pixels == "uint8":
        pictures = (pictures * 255).round().to(torch.uint8)
    with torch.no_grad():
        wanted = torch.cat([tower(as_unit(x)) for x in pictures.split(max(batch_sizes(None)))]).cpu()
    rows: list[CheckRow] = []
    for size in batch_sizes(encoder.metadata.batch):
        try:
            found = [encoder.encode_image(x.cpu().numpy()) for x in pictures.split(size)]
        except InputError as error:  # about the file's embeddings, because the pictures were checked
            raise ArtifactError(f"{encoder.path}: {error}") from error
        difference = torch.cat([torch.from_numpy(array) for array in found]) - wanted
        apart = difference.norm(dim=1) / wanted.norm(dim=1)
        rows += at_most(f"embedding, in batches of {size}", apart, _LIMITS[encoder.metadata.precision])
    return Verification(tuple(rows))
