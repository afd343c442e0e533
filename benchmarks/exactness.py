"""How far float32 is from float64, by each form of product: `python benchmarks/exactness.py`, ViT-B/32.
`results/exactness.txt` is what it said.

Prints the largest error over the largest value of an embedding and of its gradient to the pixels, and the
largest relative error of tau.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from clipfast.bench.scenario import make_images, make_tower
from clipfast.encoders import make_encoder
from clipfast.encoders.linear import product_forms
from clipfast.models.tower import ImageTower
from clipfast.reference_stages import drift_of

Passes = tuple[Tensor, Tensor, Tensor]


def by_autograd(tower: ImageTower, x: Tensor, d: Tensor, cotangent: Tensor) -> Passes:
    """f(x), f(x + d), and the gradient of the second."""
    moved = (x + d).requires_grad_()
    noisy = tower(moved)
    gradient = torch.autograd.grad(noisy, moved, cotangent)[0]
    return tower(x).detach(), noisy.detach(), gradient


@torch.no_grad()
def by_encoder(tower: ImageTower, x: Tensor, d: Tensor, cotangent: Tensor, form: str) -> Passes:
    """The same by a form of products."""
    encoder = make_encoder(tower, tune=form)
    layout = encoder.to_layout(d)
    base = encoder.project(encoder.to_layout(x))
    noisy, saved = encoder.forward(base, layout)
    return encoder.embed(base), noisy, encoder.from_layout(encoder.input_gradient(saved, cotangent))


def errors(passes: Passes, exact: Passes) -> str:
    """Of an embedding, a gradient, and tau."""
    (clean, noisy, gradient), (exact_clean, exact_noisy, exact_gradient) = passes, exact
    embedding = (noisy - exact_noisy).abs().max() / exact_noisy.abs().max()
    pulled = (gradient - exact_gradient).abs().max() / exact_gradient.abs().max()
    tau = (drift_of(noisy, clean) / drift_of(exact_noisy, exact_clean) - 1).abs().max()
    return f"embedding {embedding:.1e}, gradient {pulled:.1e}, tau {tau:.1e}"


def main() -> None:
    """Prints a line a form."""
    tower = make_tower("ViT-B-32", torch.device("cpu"))
    images = make_images(tower, 4, 0)
    generator = torch.Generator().manual_seed(0)
    x, eps = images.pixels, images.config.eps
    d = torch.empty_like(x).uniform_(-eps, eps, generator=generator)
    cotangent = torch.randn(4, 512, generator=generator)
    exact = by_autograd(copy.deepcopy(tower).double(), x.double(), d.double(), cotangent.double())
    print("eager reference:", errors(by_autograd(tower, x, d, cotangent), exact))
    for form in product_forms(torch.float32):
        print(f"{form.name}:", errors(by_encoder(tower, x, d, cotangent, form.name), exact))


if __name__ == "__main__":
    main()
