"""The kernels of the Triton form and what launches them. Arguments are those of the operators' schemas.

Nothing waits for the GPU, so that a CUDA graph can hold the launches. Offsets into a batch are int64.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["ascend", "cotangent", "drift_gate", "perturb", "zero_shot_head"]

# 8 elements a thread of 4 warps: two vectors of 16 bytes in float32.
_BLOCK = 1024
_ROW_BLOCK = 512
_HEAD_BLOCKS = {"row_block": 16, "column_block": 32, "inner_block": 64}

_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
_STEP = tl.constexpr(2.0**-24)
_TWO_PI = tl.constexpr(2 * math.pi)
_NAN = tl.constexpr(math.nan)
_INFINITY = tl.constexpr(math.inf)


def perturb(
    pixels: Tensor, noise: Tensor | None, seeds: Tensor | None, images: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    """Launches the kernels of `clipfast.ops.perturb`.

    Args:
        pixels: [B, 3, H, W], uint8 or float in [0, 1].
        noise: float32, shaped as the pixels, or None.
        seeds: int64 [B], or None.
        images: int64 [B], or None.
        options: eps, patch_height, patch_width and l2, as in the schema; patch_height 0 means the layout
            of the pixels.
    """
    eps, patch_height, patch_width, l2 = options
    shape = pixels.shape
    batch, channels, height, width = shape
    if patch_height:
        patches = (height // patch_height) * (width // patch_width)
        shape = (batch, patches, channels * patch_height * patch_width)
    x, d = (pixels.new_empty(shape, dtype=torch.float32) for _ in range(2))
    if not x.numel():
        return x, d
    size = channels * height * width
    blocks = triton.cdiv(size, _BLOCK)
    squares = d.new_empty(batch, blocks) if l2 and noise is None else None
    grid = (batch * blocks,)
    patch = {"patch_height": patch_height, "patch_width": patch_width}
    arguments = (pixels, noise, seeds, images, x, d, squares, eps * 2.0**-23, size, blocks)
    _launch(_perturb, grid, *arguments, height=height, width=width, **patch, block=_BLOCK)
    if squares is not None:
        arguments = (x, d, seeds, images, squares, eps * 2.0**-24, size, blocks)
        _launch(_scale_normals, grid, *arguments, block=_BLOCK, parts=triton.next_power_of_2(blocks))
    return x, d


def drift_gate(clean: Tensor, noisy: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Launches the kernel of `clipfast.ops.drift_gate`.

    Args:
        clean: f(x), [B, D].
        noisy: f(x + d0), [B, D].
        threshold: float32, a scalar or [B].
    """
    batch, width = clean.shape
    tau = clean.new_empty(batch, dtype=torch.float32)
    countered = clean.new_empty(batch, dtype=torch.bool)
    if batch:
        sizes = {"width": width, "one_each": threshold.ndim > 0, "block": _ROW_BLOCK}
        _launch(_drift_gate, (batch,), clean, noisy, threshold, tau, countered, **sizes)
    return tau, countered


def cotangent(embedding: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Launches the kernel of `clipfast.ops.cotangent`.

    Args:
        embedding: f(x + d), [B, D].
        clean: f(x), [B, D].
    """
    batch, width = clean.shape
    direction = torch.empty_like(clean, dtype=torch.float32)
    scale = clean.new_empty(batch, dtype=torch.float32)
    if batch:
        _launch(_cotangent, (batch,), embedding, clean, direction, scale, width=width, block=_ROW_BLOCK)
    return direction, scale


def ascend(
    x: Tensor, d: Tensor, gradient: Tensor, total: Tensor | None, scale: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    """Launches the kernels of `clipfast.ops.ascend`.

    Args:
        x: float32 [B, ...].
        d: float32, shaped as x.
        gradient: Shaped as x.
        total: float32, shaped as x, or None.
        scale: float32 [B]; read in l2 alone.
        options: weight_before, weight, eps, step_size, l2 and last, as in the schema.
    """
    weight_before, weight, eps, step_size, l2, last = options
    new_d, new_total = None if last else torch.empty_like(d), torch.empty_like(d)
    if d.numel():
        # In l-inf no element depends on another, so that all images are taken as one.
        batch = len(d) if l2 else 1
        size = d.numel() // batch
        blocks = triton.cdiv(size, _BLOCK)
        grid = (batch * blocks,)
        products = d.new_empty(3, batch, blocks) if l2 else None
        if l2:
            _launch(_products, grid, d, gradient, products, size, blocks, block=_BLOCK)
        tensors = (x, d, gradient, total, scale, products, new_d, new_total)
        numbers = (weight_before, weight, eps, step_size, size, blocks)
        parts = triton.next_power_of_2(blocks) if l2 else 1
        _launch(_ascend, grid, *tensors, *numbers, l2=l2, block=_BLOCK, parts=parts)
    return d.new_empty(0) if new_d is None else new_d, new_total


def zero_shot_head(embedding: Tensor, class_weights: Tensor, scale: Tensor) -> Tensor:
    """Launches the kernel of `clipfast.ops.zero_shot_head`.

    Args:
        embedding: float32 [B, D].
        class_weights: float32 [D, C].
        scale: float32, a scalar.
    """
    (batch, width), classes = embedding.shape, class_weights.shape[1]
    logits = embedding.new_empty(batch, classes)
    if logits.numel():
        grid = (
            triton.cdiv(batch, _HEAD_BLOCKS["row_block"]),
            triton.cdiv(classes, _HEAD_BLOCKS["column_block"]),
        )
        tensors = (embedding, class_weights, scale, logits)
        _launch(_zero_shot_head, grid, *tensors, batch, classes, width=width, **_HEAD_BLOCKS)
    return logits


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: int) -> None:
    """Launches a kernel on the device of its first argument, a tensor."""
    # A fused multiply-add rounds once where the other forms round twice.
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants, enable_fp_fusion=False)


@triton.jit(do_not_specialize=["blocks"])
def _perturb(
    pixels,
    noise,
    seeds,
    images,
    x_out,
    d_out,
    squares,
    noise_step,
    size,
    blocks,
    height: tl.constexpr,
    width: tl.constexpr,
    patch_height: tl.constexpr,
    patch_width: tl.constexpr,
    block: tl.constexpr,
):
    """Stores x and d; or x, raw normals in place of d, and each block's sum of their squares."""
    image, index, inside = _elements(size, blocks, block)
    x = tl.load(pixels + image * size + index, mask=inside, other=0).to(tl.float32)
    if pixels.dtype.element_ty == tl.uint8:
        x = tl.div_rn(x, 255.0)
    else:
        x = tl.where((x >= 0.0) & (x <= 1.0), x, _NAN)
    if noise is not None:
        d = _into_bounds(tl.load(noise + image * size + index, mask=inside, other=0.0), x)
    else:
        first = tl.program_id(0) % blocks * (block // 4)
        w0, w1, w2, w3 = _words(seeds, images, image, first + tl.arange(0, block // 4), 0)
        if squares is not None:
            n0, n1 = _normals(w0, w1)
            n2, n3 = _normals(w2, w3)
            d = tl.where(inside, _in_turn(n0, n1, n2, n3), 0.0)
            tl.store(squares + tl.program_id(0), tl.sum(d * d))
        else:
            grid = (_in_turn(w0, w1, w2, w3) >> 8).to(tl.int32) - (1 << 23)
            d = _into_bounds(grid.to(tl.float32) * noise_step, x)
    place = image * size + _place(index.to(tl.int32), height, width, patch_height, patch_width)
    tl.store(x_out + place, x, mask=inside)
    tl.store(d_out + place, d, mask=inside)


@triton.jit(do_not_specialize=["blocks"])
def _scale_normals(
    x_in,
    d,
    seeds,
    images,
    squares,
    radius_step,
    size,
    blocks,
    block: tl.constexpr,
    parts: tl.constexpr,
):
    """Scales raw normals to noise of its length in l2, within the bounds of pixels; in place."""
    image, index, inside = _elements(size, blocks, block)
    place = image * size + index
    word, _, _, _ = _words(seeds, images, image, 0, 1)
    radius = (word >> 8).to(tl.float32) * radius_step
    factor = tl.div_rn(radius, tl.sqrt_rn(_sum(squares, image, blocks, parts)))
    x = tl.load(x_in + place, mask=inside, other=0.0)
    normals = tl.load(d + place, mask=inside, other=0.0)
    tl.store(d + place, _into_bounds(normals * factor, x), mask=inside)


@triton.jit
def _drift_gate(
    clean,
    noisy,
    threshold,
    tau_out,
    countered,
    width: tl.constexpr,
    one_each: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    drift = tl.zeros([block], tl.float32)
    length = tl.zeros([block], tl.float32)
    for start in range(0, width, block):
        column = start + tl.arange(0, block)
        c = tl.load(clean + row * width + column, mask=column < width, other=0.0).to(tl.float32)
        n = tl.load(noisy + row * width + column, mask=column < width, other=0.0).to(tl.float32)
        drift += (n - c) * (n - c)
        length += c * c
    tau = tl.div_rn(tl.sqrt_rn(tl.sum(drift)), tl.sqrt_rn(tl.sum(length)))
    tl.store(tau_out + row, tau)
    limit = threshold + row if one_each else threshold
    tl.store(countered + row, tau < tl.load(limit).to(tl.float32))


@triton.jit
def _cotangent(embedding, clean, direction, scale, width: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros([block], tl.float32)
    for start in range(0, width, block):
        difference = _difference(embedding, clean, row, start + tl.arange(0, block), width)
        squares += difference * difference
    distance = _max(tl.sqrt_rn(tl.sum(squares)), _TINY)
    tl.store(scale + row, 2.0 * distance)
    for start in range(0, width, block):
        column = start + tl.arange(0, block)
        difference = _difference(embedding, clean, row, column, width)
        tl.store(direction + row * width + column, tl.div_rn(difference, distance), mask=column < width)


@triton.jit(do_not_specialize=["blocks"])
def _products(d_in, gradient, products, size, blocks, block: tl.constexpr):
    """Each block's part of g.g, then of d.g, then of d.d."""
    image, index, inside = _elements(size, blocks, block)
    d = tl.load(d_in + image * size + index, mask=inside, other=0.0)
    g = tl.load(gradient + image * size + index, mask=inside, other=0.0).to(tl.float32)
    part, parts = products + tl.program_id(0), tl.num_programs(0)
    tl.store(part, tl.sum(g * g))
    tl.store(part + parts, tl.sum(d * g))
    tl.store(part + 2 * parts, tl.sum(d * d))


@triton.jit(do_not_specialize=["blocks"])
def _ascend(
    x_in,
    d_in,
    gradient,
    total_in,
    scale,
    products,
    d_out,
    total_out,
    weight_before,
    weight,
    eps,
    step_size,
    size,
    blocks,
    l2: tl.constexpr,
    block: tl.constexpr,
    parts: tl.constexpr,
):
    image, index, inside = _elements(size, blocks, block)
    place = image * size + index
    x = tl.load(x_in + place, mask=inside, other=0.0)
    d = tl.load(d_in + place, mask=inside, other=0.0)
    g = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    total = weight_before * d if total_in is None else tl.load(total_in + place, mask=inside, other=0.0)
    if l2:
        gg = _sum(products, image, blocks, parts)
        dg = _sum(products + tl.num_programs(0), image, blocks, parts)
        dd = _sum(products + 2 * tl.num_programs(0), image, blocks, parts)
        a = tl.div_rn(step_size, tl.sqrt_rn(gg) + tl.div_rn(1e-10, tl.load(scale + image)))
        # ||d + a g||, without another pass; rounding may leave its square a little below 0.
        length = tl.sqrt_rn(_max(dd + a * (dg + dg + a * gg), 0.0))
        factor = tl.div_rn(eps, _max(_max(length, eps), _TINY))
        d = (d + a * g) * tl.where(length < _INFINITY, factor, _NAN)
    else:
        # sign(NaN) is NaN.
        d += step_size * tl.where(g > 0.0, 1.0, tl.where(g < 0.0, -1.0, g))
        d = _min(_max(d, -eps), eps)
    d = _into_bounds(d, x)
    if d_out is not None:
        tl.store(d_out + place, d, mask=inside)
    tl.store(total_out + place, total + weight * d, mask=inside)


@triton.jit(do_not_specialize=["batch"])
def _zero_shot_head(
    embedding,
    class_weights,
    scale,
    logits,
    batch,
    classes,
    width: tl.constexpr,
    row_block: tl.constexpr,
    column_block: tl.constexpr,
    inner_block: tl.constexpr,
):
    row = (tl.program_id(0) * row_block + tl.arange(0, row_block)).to(tl.int64)[:, None]
    column = (tl.program_id(1) * column_block + tl.arange(0, column_block))[None, :]
    products = tl.zeros([row_block, column_block], tl.float32)
    squares = tl.zeros([row_block], tl.float32)
    for start in range(0, width, inner_block):
        inner = start + tl.arange(0, inner_block)
        across, down = inner[None, :], inner.to(tl.int64)[:, None]
        f = tl.load(embedding + row * width + across, mask=(row < batch) & (across < width), other=0.0)
        w = tl.load(
            class_weights + down * classes + column, mask=(down < width) & (column < classes), other=0.0
        )
        products = tl.dot(f, w, products, input_precision="ieee")
        squares += tl.sum(f * f, axis=1)
    factor = tl.div_rn(tl.load(scale), _max(tl.sqrt_rn(squares), 1e-12))
    inside = (row < batch) & (column < classes)
    tl.store(logits + row * classes + column, factor[:, None] * products, mask=inside)


@triton.jit
def _elements(size, blocks, block: tl.constexpr):
    """This program's image, the indices of its elements there, and which of them exist."""
    image = (tl.program_id(0) // blocks).to(tl.int64)
    index = (tl.program_id(0) % blocks).to(tl.int64) * block + tl.arange(0, block)
    return image, index, index < size


@triton.jit
def _place(
    index,
    height: tl.constexpr,
    width: tl.constexpr,
    patch_height: tl.constexpr,
    patch_width: tl.constexpr,
):
    """Where an element of [3, H, W] lies in the layout of the patches."""
    if patch_height > 0:
        # Each remainder is taken of the index itself, so that Triton sees that stores can be vectors.
        patch_row = index // (width * patch_height) % (height // patch_height)
        patch = patch_row * (width // patch_width) + index // patch_width % (width // patch_width)
        row = (patch * 3 + index // (height * width)) * patch_height + index // width % patch_height
        index = row * patch_width + index % patch_width
    return index


@triton.jit
def _words(seeds, images, image, counter, stream):
    """Blocks of Philox 4x32-10, as `clipfast.inputs.philox` counts them."""
    return tl.philox(tl.load(seeds + image), counter, tl.load(images + image).to(tl.int32), stream, 0)


@triton.jit
def _normals(first, second):
    """Box-Muller: a pair of normals from a pair of words."""
    # (0, 1], so that its log is finite.
    uniform = ((first >> 8) + 1).to(tl.float32) * _STEP
    angle = (second >> 8).to(tl.float32) * _STEP * _TWO_PI
    length = tl.sqrt_rn(-2.0 * tl.log(uniform))
    return length * tl.cos(angle), length * tl.sin(angle)


@triton.jit
def _in_turn(a, b, c, d):
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@triton.jit
def _difference(a, b, row, column, width):
    left = tl.load(a + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    right = tl.load(b + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    return left - right


@triton.jit
def _sum(sums, image, blocks, parts: tl.constexpr):
    """An image's sum from those of its blocks, always in one order."""
    part = tl.arange(0, parts)
    return tl.sum(tl.load(sums + image * blocks + part, mask=part < blocks, other=0.0))


@triton.jit
def _into_bounds(d, x):
    return _min(_max(d, -x), 1.0 - x)


@triton.jit
def _max(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _min(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
