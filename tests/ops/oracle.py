"""The operators as their docstrings have them, in float64 and NumPy: what every form is held to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def perturb(pixels: NDArray, noise: Floats, patch: tuple[int, int] | None) -> tuple[Floats, Floats]:
    x = pixels / 255 if pixels.dtype == np.uint8 else pixels.astype(np.float64)
    x[~((x >= 0) & (x <= 1))] = np.nan
    d = _inside(x, noise)
    return (x, d) if patch is None else (_patches(x, *patch), _patches(d, *patch))


def drift_gate(clean: Floats, noisy: Floats, threshold: float) -> tuple[Floats, NDArray[np.bool_]]:
    with np.errstate(divide="ignore", invalid="ignore"):
        tau = np.sqrt(((noisy - clean) ** 2).sum(1) / (clean**2).sum(1))
    return tau, tau < threshold


def cotangent(embedding: Floats, clean: Floats) -> tuple[Floats, Floats]:
    distance = np.sqrt(((embedding - clean) ** 2).sum(1))
    with np.errstate(invalid="ignore"):
        unit = (embedding - clean) / distance[:, None]
    unit[distance == 0] = 0
    return unit, 2 * distance


def ascend(
    x: Floats,
    d: Floats,
    gradient: Floats,
    total: Floats | None,
    scale: Floats | None,
    *,
    weight_before: float,
    weight: float,
    eps: float,
    step_size: float,
) -> tuple[Floats, Floats]:
    """In l2 where a scale is given."""
    before = total if total is not None else d * weight_before
    if scale is None:
        moved = np.clip(d + step_size * np.sign(gradient), -eps, eps)
    else:
        moved = d.copy()
        for i in range(len(x)):
            g = gradient[i] * scale[i]
            moved[i] += step_size * g / (np.sqrt((g**2).sum()) + 1e-10)
            length = np.sqrt((moved[i] ** 2).sum())
            if not length <= eps:
                moved[i] *= eps / length
    moved = _inside(x, moved)
    return moved, before + weight * moved


def zero_shot_head(embedding: Floats, class_weights: Floats, scale: float) -> Floats:
    length = np.sqrt((embedding**2).sum(1, keepdims=True))
    return np.einsum("bd,dc->bc", embedding / np.maximum(length, 1e-12), class_weights) * scale


def _inside(x: Floats, d: Floats) -> Floats:
    return np.clip(x + d, 0, 1) - x


def _patches(pixels: Floats, height: int, width: int) -> Floats:
    """By rows of patches; a patch by channels, then by rows of pixels."""
    corners = np.ndindex(pixels.shape[2] // height, pixels.shape[3] // width)
    cut = [pixels[:, :, i * height :, j * width :][:, :, :height, :width] for i, j in corners]
    return np.stack([patch.reshape(len(pixels), 3 * height * width) for patch in cut], axis=1)
