"""Every C++ operator on odd shapes, for AddressSanitizer: `python touch_memory.py LIBRARY`."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch

from clipfast.ops.split_linear import split_linear, to_blocks

torch.ops.load_library(Path(sys.argv[1]))
operators = torch.ops.clipfast
LOW_AND_FLOAT = (torch.float32, torch.bfloat16, torch.float16)
SIZES = (((5, 7), (0, 0)), ((5, 7), (5, 7)), ((30, 42), (6, 14)), ((30, 42), (1, 1)), ((64, 64), (32, 16)))
EPS, STEP = 0.1, 0.01

for batch, ((height, width), patch), l2 in itertools.product((1, 3), SIZES, (False, True)):
    seeds, images = torch.arange(batch) - 1, torch.arange(batch)
    pixels = torch.rand(batch, 3, height, width)
    noise = EPS * pixels
    for given in ((255 * pixels).byte(), *(pixels.to(dtype) for dtype in LOW_AND_FLOAT)):
        operators.perturb(given, noise, None, None, EPS, *patch, l2)
        operators.perturb(given, None, seeds, images, EPS, *patch, l2)
    x, d = operators.perturb(pixels, noise, None, None, EPS, *patch, l2)
    scale = torch.rand(batch) if l2 else None
    for dtype, total, last in itertools.product(LOW_AND_FLOAT, (None, d), (False, True)):
        operators.ascend(x, d, x.to(dtype), total, scale, 0.1, 0.2, EPS, STEP, l2, last)

for batch, width in itertools.product((0, 1, 3, 65), (1, 5, 16, 33, 512)):
    for dtype in LOW_AND_FLOAT:
        clean, noisy = torch.randn(2, batch, width).to(dtype)
        operators.drift_gate(clean, noisy, torch.tensor(0.1))
        operators.cotangent(noisy, clean)
    for classes in (1, 7, 1000):
        operators.zero_shot_head(torch.randn(batch, width), torch.randn(width, classes), torch.tensor(100.0))

if torch.cpu._is_amx_tile_supported():
    for rows, columns, out in ((1, 1, 1), (5, 31, 33), (33, 64, 96), (48, 65, 47), (225, 1025, 70)):
        x, weight, bias = torch.randn(rows, columns), torch.randn(out, columns), torch.randn(out)
        split_linear(x, to_blocks(weight), bias, out, transposed=False)
        split_linear(x, to_blocks(weight.t()), None, out, transposed=True)
print("all operators ran")
