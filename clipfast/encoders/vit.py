"""open_clip's VisionTransformer as pure functions: its embedding, and its gradient to the pixels.

Both are written out, without autograd. It is a vision transformer as in CLIP (Radford et al., ICML 2021):
patch projection, pre-norm residual blocks, class token or mean. CLIP's normalisation is folded into the
patch projection. Layer scale and the queries' scaling are folded into their linears, and QuickGELU's
1.702 into both linears of its MLP, which leaves SiLU. With class-token pooling the last block runs for
that token alone, apart from its keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from open_clip.transformer import (
    LayerNorm,
    LayerNormFp32,
    LayerScale,
    PatchDropout,
    QuickGELU,
    ResidualAttentionBlock,
    VisionTransformer,
)
from torch import Tensor, nn

from ..measurement.trials import fastest
from ..torch_private import AttentionOutput, forward_hooks, forward_pre_hooks, softmax_backward
from .attention import attend, attend_saving, attention_gradient
from .base import CPU_CHUNK, Saved
from .linear import FrozenLinear, first_choice
from .product_trials import Layer, Tune, choose_products

__all__ = ["VitEncoder"]

_QUICK = 1.702
_NORM_SAVES, _LAST_BLOCK_SAVES = 3, 10  # tensors
_DOUBLE_UP_TO = 256  # rows; benchmarks/README.md
_TRIED, _DOUBLED = 2, (1, 2, 4)  # blocks whose layers are tried, images that are tried in a double batch
_aten = torch.ops.aten


class _Norm:
    """Layer normalisation of float32 [..., W] over its last axis."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.weight, self.bias, self.eps = norm.weight.detach(), norm.bias.detach(), norm.eps
        self.shape = list(norm.normalized_shape)

    def __call__(self, x: Tensor) -> tuple[Tensor, Saved]:
        y, mean, rstd = torch.native_layer_norm(x, self.shape, self.weight, self.bias, self.eps)
        return y, (x, mean, rstd)

    def input_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        x, mean, rstd = saved
        return _aten.native_layer_norm_backward(
            g.to(x.dtype), x, self.shape, mean, rstd, self.weight, self.bias, [True, False, False]
        )[0]


class _Activation:
    """GELU (erf or tanh), or SiLU for a QuickGELU whose factor is folded into the linears around it."""

    def __init__(self, approximate: str | None) -> None:
        self.approximate = approximate

    def __call__(self, h: Tensor) -> Tensor:
        if self.approximate is None:
            return _aten.silu(h)
        return _aten.gelu(h, approximate=self.approximate)

    def input_gradient(self, h: Tensor, g: Tensor) -> Tensor:
        if self.approximate is None:
            return _aten.silu_backward(g, h)
        return _aten.gelu_backward(g, h, approximate=self.approximate)


@dataclass
class _Mlp:
    norm: _Norm
    fc1: FrozenLinear
    activation: _Activation
    fc2: FrozenLinear

    def __call__(self, x: Tensor) -> tuple[Tensor, Saved]:
        y, normed = self.norm(x)
        h = self.fc1(y)
        return x + self.fc2(self.activation(h)), (*normed, h)

    def input_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        *normed, h = saved
        gh = self.activation.input_gradient(h, self.fc2.input_gradient(g))
        return g + self.norm.input_gradient(tuple(normed), self.fc1.input_gradient(gh))


@dataclass
class _Block:
    heads: int
    flash: bool
    norm: _Norm
    qkv: FrozenLinear
    out: FrozenLinear
    mlp: _Mlp

    def embed(self, x: Tensor) -> Tensor:
        x = x + self.out(attend(self.qkv(self.norm(x)[0]), self.heads, flash=self.flash))
        return self.mlp(x)[0]

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        y, normed = self.norm(x)
        attended, attention = attend_saving(self.qkv(y), self.heads, flash=self.flash)
        z, mlp = self.mlp(x + self.out(attended))
        return z, (*normed, *mlp, *attention)

    def input_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        normed, mlp, attention = saved[:3], saved[3:7], saved[7:]
        g = self.mlp.input_gradient(mlp, g)
        gqkv = attention_gradient(attention, self.out.input_gradient(g), self.heads)
        return g + self.norm.input_gradient(normed, self.qkv.input_gradient(gqkv))


@dataclass
class _LastBlock:
    """The last block under class-token pooling: [B, T, W] -> [B, W].

    With a single query, neither keys nor values need to be computed. q . (W_k y) is (W_k^T q) . y; a bias
    of the keys adds a constant, which softmax ignores. sum_t p_t (W_v y_t + b_v) is W_v sum_t p_t y_t +
    b_v.
    """

    heads: int
    norm: _Norm
    q: FrozenLinear
    k_weight: Tensor  # [H, D, W]
    v_weight: Tensor  # [H, D, W]
    out: FrozenLinear  # with the values' bias passed through it
    mlp: _Mlp

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        y, normed = self.norm(x)
        y = y.to(self.k_weight.dtype)
        q = self.q(y[:, 0]).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # [H, B, D]
        k = (q @ self.k_weight).transpose(0, 1)  # [B, H, W]
        p = torch.softmax(k @ y.mT, -1)  # [B, H, T]
        v = (p @ y).transpose(0, 1) @ self.v_weight.mT  # [H, B, D]
        z, mlp = self.mlp(x[:, 0] + self.out(v.transpose(0, 1).flatten(1)))
        return z, (*normed, *mlp, y, k, p)

    def input_gradient(self, saved: Saved, g: Tensor) -> Tensor:
        normed, mlp, (y, k, p) = saved[:3], saved[3:7], saved[7:]
        g = self.mlp.input_gradient(mlp, g)  # [B, W]
        gv = self.out.input_gradient(g).unflatten(-1, (self.heads, -1)).transpose(0, 1) @ self.v_weight
        gv = gv.transpose(0, 1)  # [B, H, W]
        ds = softmax_backward(gv @ y.mT, p, -1, p.dtype)
        gq = ((ds @ y).transpose(0, 1) @ self.k_weight.mT).transpose(0, 1).flatten(1)
        gy = torch.cat([p, ds], dim=1).mT @ torch.cat([gv, k], dim=1)
        gy = torch.cat([gy[:, :1] + self.q.input_gradient(gq)[:, None], gy[:, 1:]], dim=1)
        gx = self.norm.input_gradient(normed, gy)
        return torch.cat([gx[:, :1] + g[:, None], gx[:, 1:]], dim=1)


class VitEncoder:
    """The explicit form of `Encoder`; its layout is [N, patches, 3 * P * Q] for patches of P x Q pixels.

    The residual stream, normalisations, the clean patch projection, the head and all embeddings are
    float32 (or float64 of a float64 tower). With packed weights on a CPU, attention can use PyTorch's
    flash kernel.

    Args:
        visual: An open_clip VisionTransformer that `covers` accepts. CLIP's normalisation is read from
            its image_mean and image_std.
        dtype: Of the large products' operands.
        pack: Whether to re-lay the weights for CPU products, which makes copies of them. Exporters trace
            the plain form.
        tune: How the forms of products, attention and batches are chosen on a CPU. True tries them, which
            takes a second or two the first time; see `clipfast.measurement.trials`. False takes the forms
            that benchmarks/README.md found the fastest; a name takes that form of products ("split",
            "mkl", "onednn" or "plain").

    Raises:
        InputError: If `tune` is the name of a form that is unknown or not right on this CPU.

    Attributes:
        form: "explicit".
        dtype: As given.
        patch_size: (P, Q), the height and width of a patch in pixels.
        grid_size: (rows, columns) of patches.
    """

    form = "explicit"

    def __init__(
        self,
        visual: nn.Module,
        *,
        dtype: torch.dtype = torch.float32,
        pack: bool = True,
        tune: Tune = True,
    ) -> None:
        tower: Any = visual
        self.dtype = dtype
        self._on_cpu = on_cpu = pack and tower.conv1.weight.device.type == "cpu"
        self.patch_size: tuple[int, int] | None
        self.patch_size = self._patch_size = tuple(tower.patch_size)
        self.grid_size: tuple[int, int] = tuple(tower.grid_size)
        self._averages = tower.pool_type == "avg"
        self._norm_after_pool = tower.final_ln_after_pool

        blocks = list(tower.transformer.resblocks)
        self.blocks = len(blocks)
        tokens = self.grid_size[0] * self.grid_size[1] + 1
        choices = {}
        if on_cpu:
            tried = [layer for block in blocks[:_TRIED] for layer in _layers(block)]
            choices = choose_products(tried, dtype, few=tokens, many=CPU_CHUNK * tokens, tune=tune)

        def linear(weight: Tensor, bias: Tensor | None, of: torch.dtype = dtype) -> FrozenLinear:
            choice = choices.get((weight.shape[0], weight.shape[1])) if of == dtype else None
            if on_cpu and choice is None:
                choice = first_choice(of)
            return FrozenLinear(weight, bias, of, choice)

        std = torch.tensor(tower.image_std, dtype=torch.float64, device=tower.conv1.weight.device)
        mean = torch.tensor(tower.image_mean, dtype=torch.float64, device=std.device)
        kernel = tower.conv1.weight.detach().double() / std[:, None, None]  # [W, 3, P, P]
        bias = -(kernel * mean[:, None, None]).sum(dim=(1, 2, 3))
        positions = tower.positional_embedding.detach()  # [1 + patches, W]
        exact = torch.promote_types(tower.conv1.weight.dtype, torch.float32)
        kernel, bias = kernel.flatten(1).to(exact), bias.to(exact)
        self._patch = linear(kernel, None)
        self._project = self._patch if dtype == exact else linear(kernel, None, exact)
        self._class_token = (tower.class_embedding.detach() + positions[0])[None, None]
        self._positions = positions[1:] + bias
        self._norm_pre = _Norm(tower.ln_pre) if isinstance(tower.ln_pre, nn.LayerNorm) else None
        self._blocks = [
            _block(block, linear, on_cpu) for block in (blocks if self._averages else blocks[:-1])
        ]
        self._last = None if self._averages else _last_block(blocks[-1], linear, dtype)
        self._norm_post = _Norm(tower.ln_post)
        self._head = linear(tower.proj.detach().t(), None, exact)
        self.chunk, self._doubles = CPU_CHUNK, {}
        if on_cpu and tune is True and self._blocks:
            self._try_batches(tokens, tower.conv1.weight.shape[0])

    @staticmethod
    def covers(visual: nn.Module) -> bool:
        """Returns whether the explicit form knows every part of a tower, and computes it unchanged."""
        if type(visual) is not VisionTransformer or _is_altered(visual):
            return False
        tower: Any = visual
        (height, width), (rows, columns) = tower.image_size, tower.grid_size
        norms = [tower.ln_post, *(n for b in tower.transformer.resblocks for n in (b.ln_1, b.ln_2))]
        norms += [] if isinstance(tower.ln_pre, nn.Identity) else [tower.ln_pre]
        return (
            tower.attn_pool is None
            and tower.pool_type in ("tok", "avg")
            and (isinstance(tower.patch_dropout, nn.Identity) or type(tower.patch_dropout) is PatchDropout)
            and isinstance(tower.proj, Tensor)
            and type(tower.conv1) is nn.Conv2d
            and tower.conv1.bias is None
            and (height, width) == (rows * tower.patch_size[0], columns * tower.patch_size[1])
            and all(type(norm) in (LayerNorm, LayerNormFp32, nn.LayerNorm) for norm in norms)
            and all(norm.weight is not None and norm.bias is not None for norm in norms)
            and len(tower.transformer.resblocks) > 0
            and all(_covers_block(block) for block in tower.transformer.resblocks)
        )

    def to_layout(self, pixels: Tensor) -> Tensor:
        """Takes pixels [N, 3, H, W] to patches [N, patches, 3 * P * Q]."""
        (rows, columns), (height, width) = self.grid_size, self._patch_size
        patches = pixels.reshape(-1, 3, rows, height, columns, width)
        return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def from_layout(self, state: Tensor) -> Tensor:
        """Takes patches [N, patches, 3 * P * Q] back to pixels [N, 3, H, W]."""
        (rows, columns), (height, width) = self.grid_size, self._patch_size
        patches = state.reshape(-1, rows, columns, 3, height, width)
        return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def project(self, x: Tensor) -> Tensor:
        """Computes the projected patches of x in layout, with positions: float32 [N, patches, W]."""
        return self._project(x) + self._positions

    def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
        """Computes f(x + d), or f(x) without d.

        Args:
            base: What `project` gives of x, float32 [N, patches, W].
            d: A perturbation, [N, patches, 3 * P * Q].

        Returns:
            The embedding before L2 normalisation, float32 [N, D].
        """
        return self.embed_from(self.embed_until(base if d is None else base + self._patch(d), 0), 0)

    def embed_until(self, base: Tensor, depth: int) -> Tensor:
        """Computes the tokens of x after a block.

        Args:
            base: What `project` gives of x, float32 [N, patches, W].
            depth: The number of blocks to run, from 0 to blocks - 1.

        Returns:
            The tokens, float32 [N, 1 + patches, W], the class token first.
        """
        x = self._tokens(base)
        if self._norm_pre is not None:
            x = self._norm_pre(x)[0]
        for block in self._blocks[:depth]:
            x = block.embed(x)
        return x

    def embed_from(self, tokens: Tensor, depth: int) -> Tensor:
        """Computes f(x) [N, D] of the tokens that `embed_until` gave for that depth."""
        x = tokens
        for block in self._blocks[depth:]:
            x = block.embed(x)
        if self._last is not None:
            x = self._last.forward(x)[0]
        return self._pool(x)[0]

    def forward(self, base: Tensor, d: Tensor) -> tuple[Tensor, Saved]:
        """Computes f(x + d), and saves what `input_gradient` needs.

        Args:
            base: What `project` gives of x, float32 [N, patches, W].
            d: A perturbation, [N, patches, 3 * P * Q].

        Returns:
            The embedding, float32 [N, D], and the saved tensors, each with the batch first.
        """
        return self._forward(self._tokens(base + self._patch(d)))

    def forward_pair(self, base: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Saved]:
        """Computes f(x) and f(x + d) in one batch of twice the size, and saves for the second.

        Args:
            base: What `project` gives of x, float32 [N, patches, W].
            d: A perturbation, [N, patches, 3 * P * Q].

        Returns:
            f(x) and f(x + d), float32 [N, D], and what `input_gradient` needs of f(x + d).
        """
        n = base.shape[0]
        embedding, saved = self._forward(self._tokens(torch.cat([base, base + self._patch(d)])))
        return embedding[:n], embedding[n:], tuple(tensor[n:] for tensor in saved)

    def prefers_double(self, n: int) -> bool:
        """Returns whether `forward_pair` is faster for n images than `embed` and `forward`.

        With packed weights on a CPU it is so only for batches too small to fill the vector units, as a
        double batch saves the activations of both halves.
        """
        if not self._on_cpu:
            return True
        tried = next((count for count in self._doubles if n <= count), None)
        return n * (len(self._positions) + 1) <= _DOUBLE_UP_TO if tried is None else self._doubles[tried]

    def input_gradient(self, saved: Saved, cotangent: Tensor) -> Tensor:
        """Takes the cotangent of f(x + d) back to d.

        Args:
            saved: What `forward` or `forward_pair` saved, or rows of it.
            cotangent: The gradient of the embedding, float32 [N, D].

        Returns:
            The gradient of d, `dtype` [N, patches, 3 * P * Q].
        """
        stem, blocks, last, pooled = self._parts(saved)
        g = self._pool_gradient(pooled, cotangent)
        if self._last is not None:
            g = self._last.input_gradient(last, g)
        for block, activations in zip(reversed(self._blocks), reversed(blocks), strict=True):
            g = block.input_gradient(activations, g)
        if self._norm_pre is not None:
            g = self._norm_pre.input_gradient(stem, g)
        return self._patch.input_gradient(g[:, 1:])

    @torch.no_grad()
    def _try_batches(self, tokens: int, width: int) -> None:
        """Tries what a block runs the fastest in: attention, double batches or two, chunks."""
        block, heads = self._blocks[0], self._blocks[0].heads
        name = f"{str(self.dtype).removeprefix('torch.')}, {tokens} x {width}"
        x = torch.randn(2 * CPU_CHUNK, tokens, width, generator=torch.Generator().manual_seed(0))
        qkv = block.qkv(block.norm(x[:CPU_CHUNK])[0])
        attentions = {
            "flash": lambda: attend(qkv, heads, flash=True),
            "plain": lambda: attend(qkv, heads, flash=False),
        }
        what = f"attention {name}, {heads} heads"
        flash = fastest(what, attentions, preferred="flash", seconds=0.05, worth_it=0.9)
        for each in self._blocks:
            each.flash = flash == "flash"

        def in_two(n: int) -> None:
            block.embed(x[:n])
            block.forward(x[:n])

        for n in _DOUBLED:
            forms = {"double": partial(block.forward, x[: 2 * n]), "two passes": partial(in_two, n)}
            usual = "double" if n * tokens <= _DOUBLE_UP_TO else "two passes"
            what = f"double batch {name}, {n} images"
            taken = fastest(what, forms, preferred=usual, seconds=0.05, worth_it=0.93)
            self._doubles[n] = taken == "double"

        sizes = {str(n): n for n in (CPU_CHUNK, 2 * CPU_CHUNK)}
        chunks = {size: partial(block.embed, x[:n]) for size, n in sizes.items()}
        # A larger chunk holds more memory, and a batch rarely fills it.
        chunk = fastest(
            f"chunk {name}", chunks, preferred=str(CPU_CHUNK), seconds=0.1, worth_it=0.9, images=sizes
        )
        self.chunk = int(chunk)

    def _tokens(self, patches: Tensor) -> Tensor:
        return torch.cat([self._class_token.expand(patches.shape[0], -1, -1), patches], dim=1)

    def _forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        saved: list[Tensor] = []
        if self._norm_pre is not None:
            x, normed = self._norm_pre(x)
            saved += normed
        for block in self._blocks:
            x, activations = block.forward(x)
            saved += activations
        if self._last is not None:
            x, activations = self._last.forward(x)
            saved += activations
        x, normed = self._pool(x)
        return x, (*saved, *normed)

    def _pool(self, x: Tensor) -> tuple[Tensor, Saved]:
        """The last tokens -> the embedding [N, D]; after a shortened last block, of one token, [B, W]."""
        if self._averages and self._norm_after_pool:
            x = x[:, 1:].mean(dim=1)
        y, normed = self._norm_post(x)
        if self._averages and not self._norm_after_pool:
            y = y[:, 1:].mean(dim=1)
        return self._head(y), normed

    def _pool_gradient(self, saved: Saved, cotangent: Tensor) -> Tensor:
        g = self._head.input_gradient(cotangent)
        if not self._averages:
            return self._norm_post.input_gradient(saved, g)
        if self._norm_after_pool:
            return self._spread(self._norm_post.input_gradient(saved, g))
        return self._norm_post.input_gradient(saved, self._spread(g))

    def _spread(self, g: Tensor) -> Tensor:
        """The gradient of a mean over patches, [N, W] -> that of all tokens; the class token's is 0."""
        patches = self.grid_size[0] * self.grid_size[1]
        spread = (g / patches)[:, None].expand(-1, patches, -1)
        return torch.cat([torch.zeros_like(g)[:, None], spread], dim=1)

    def _parts(self, saved: Saved) -> tuple[Saved, list[Saved], Saved, Saved]:
        """Splits saved activations into those of ln_pre, the blocks, the last block, and the pooling."""
        stem, end = 0 if self._norm_pre is None else _NORM_SAVES, len(saved) - _NORM_SAVES
        last = end - (0 if self._last is None else _LAST_BLOCK_SAVES)
        each = (last - stem) // max(1, len(self._blocks))
        blocks = [saved[start : start + each] for start in range(stem, last, each or 1)]
        return saved[:stem], blocks, saved[last:end], saved[end:]


_Linear = Callable[[Tensor, Tensor | None], FrozenLinear]


def _layers(block: Any) -> list[Layer]:
    """A block's layers as the tower has them: of the shapes that its products have."""
    attention, mlp = block.attn, block.mlp
    return [
        Layer(attention.in_proj_weight.detach(), attention.in_proj_bias.detach()),
        *(
            Layer(layer.weight.detach(), layer.bias.detach())
            for layer in (attention.out_proj, mlp.c_fc, mlp.c_proj)
        ),
    ]


def _block(block: Any, linear: _Linear, flash: bool) -> _Block:
    weight, bias, out = _attention_weights(block)
    heads = block.attn.num_heads
    return _Block(heads, flash, _Norm(block.ln_1), linear(weight, bias), linear(*out), _mlp(block, linear))


def _last_block(block: Any, linear: _Linear, dtype: torch.dtype) -> _LastBlock:
    weight, bias, (out_weight, out_bias) = _attention_weights(block)
    heads, width = block.attn.num_heads, weight.shape[1]
    q, k, v = weight.split(width)
    return _LastBlock(
        heads,
        _Norm(block.ln_1),
        linear(q, bias[:width]),
        k.to(dtype).unflatten(0, (heads, -1)),
        v.to(dtype).unflatten(0, (heads, -1)),
        linear(out_weight, out_bias + out_weight @ bias[2 * width :]),
        _mlp(block, linear),
    )


def _attention_weights(block: Any) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Weight and bias of q, k and v, with queries scaled; and those of the output, with layer scale."""
    attention = block.attn
    scale = torch.ones_like(attention.in_proj_bias)
    scale[: attention.embed_dim] = attention.head_dim**-0.5
    weight, bias = attention.in_proj_weight.detach() * scale[:, None], attention.in_proj_bias.detach() * scale
    return weight, bias, _scaled(attention.out_proj, block.ls_1)


def _mlp(block: Any, linear: _Linear) -> _Mlp:
    fc1, activation = block.mlp.c_fc, block.mlp.gelu
    weight, bias = _scaled(block.mlp.c_proj, block.ls_2)
    if isinstance(activation, nn.GELU):
        up = linear(fc1.weight, fc1.bias)
        return _Mlp(_Norm(block.ln_2), up, _Activation(activation.approximate), linear(weight, bias))
    up = linear(fc1.weight.detach() * _QUICK, fc1.bias.detach() * _QUICK)
    return _Mlp(_Norm(block.ln_2), up, _Activation(None), linear(weight / _QUICK, bias))


def _scaled(layer: nn.Linear, layer_scale: nn.Module) -> tuple[Tensor, Tensor]:
    gamma = layer_scale.gamma.detach() if isinstance(layer_scale, LayerScale) else None
    weight, bias = layer.weight.detach(), layer.bias.detach()
    return (weight, bias) if gamma is None else (weight * gamma[:, None], bias * gamma)


def _is_altered(visual: nn.Module) -> bool:
    """Whether modules do something else than their weights say, or are of an unsupported precision."""
    return (
        visual.training
        or any(forward_hooks(module) or forward_pre_hooks(module) for module in visual.modules())
        or {p.dtype for p in visual.parameters()} not in ({torch.float32}, {torch.float64})
    )


def _covers_block(block: Any) -> bool:
    attention = getattr(block, "attn", None)
    return (
        type(block) is ResidualAttentionBlock
        and type(attention) is nn.MultiheadAttention
        and attention.in_proj_weight is not None
        and attention.in_proj_bias is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and type(attention.out_proj) is AttentionOutput
        and type(block.mlp.c_fc) is type(block.mlp.c_proj) is nn.Linear
        and [name for name, _ in block.mlp.named_children()] == ["c_fc", "gelu", "c_proj"]
        and type(block.mlp.gelu) in (nn.GELU, QuickGELU)
        and all(type(scale) in (nn.Identity, LayerScale) for scale in (block.ls_1, block.ls_2))
    )
