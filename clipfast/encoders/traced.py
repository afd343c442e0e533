"""Any image tower, from a trace of its forward pass and of the gradient to its pixels.

The trace is made by `make_fx` over autograd, and is cut by its data flow: what depends on the cotangent
is the backward pass, and what that reads of the forward pass is saved. It is made for two batch sizes. A
number that differs between the two is a multiple of the batch size, so that no other dimension is ever
mistaken for it.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ..models.tower import ImageTower
from ..torch_private import OpOverload, reshape_alias, trace, unsafe_view
from .autograd import embedding_and_gradient
from .base import PixelEncoder, Saved

__all__ = ["TracedEncoder", "TracingError"]

_aten = torch.ops.aten
_BATCHES = (5, 7)  # those traced
_CHECKED = 3  # the batch of the check: another size, to find what depends on the batch size wrongly
_TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}
_VIEWS = (_aten.view.default, unsafe_view.default, reshape_alias.default)


class TracingError(RuntimeError):
    """A tower cannot be traced, or its trace is not the tower; the message says why."""


class TracedEncoder(PixelEncoder):
    """The traced form of `Encoder`; its layout is [N, 3, H, W], in the tower's dtype.

    Args:
        tower: An image tower in eval mode with float32 or float64 weights, which are shared and not
            copied. The trace has the hooks and settings that the tower has now.

    Attributes:
        form: "traced".

    Raises:
        TracingError: If the tower is in training mode or has weights of another dtype; if tracing fails;
            if the trace does not give the tower's embedding and autograd's gradient; or if an image's
            gradient depends on the rest of its batch.
    """

    form = "traced"

    def __init__(self, tower: ImageTower) -> None:
        weights = next(tower.parameters())
        if weights.dtype not in _TOLERANCES:
            raise TracingError(f"expected float32 or float64 weights, got {weights.dtype}")
        if any(module.training for module in tower.model.visual.modules()):
            raise TracingError("expected a tower in eval mode, got one in training mode")
        self._tower = tower
        check = _Check(tower, weights)
        try:
            with torch.inference_mode(False), _plain_attention():
                halves = _split(*(check.trace(batch) for batch in _BATCHES))
                self._embed, self._forward, self._backward = halves
                fault = check.fault(self)
        except TracingError:
            raise
        except Exception as error:  # tracing runs the tower's own code and much of PyTorch's
            raise TracingError(f"{type(error).__name__}: {error}") from error
        if fault:
            raise TracingError(fault)

    @torch.no_grad()
    def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
        """Computes f(x + d), or f(x) without d, by the tower itself with its own attention kernels.

        An exported graph has the trace instead, which can take 0 images.

        Args:
            base: x, [N, 3, H, W].
            d: A perturbation, [N, 3, H, W].

        Returns:
            The embedding, [N, D].
        """
        x = base if d is None else base + d
        return self._embed(x) if torch.compiler.is_exporting() else self._tower(x)

    @torch.no_grad()
    def forward(self, base: Tensor, d: Tensor) -> tuple[Tensor, Saved]:
        """Computes f(x + d), and saves what `input_gradient` needs.

        Args:
            base: x, [N, 3, H, W].
            d: A perturbation, [N, 3, H, W].

        Returns:
            The embedding, [N, D], and the saved tensors, each with the batch first.
        """
        embedding, *saved = self._forward(base + d)
        return embedding, tuple(saved)

    @torch.no_grad()
    def input_gradient(self, saved: Saved, cotangent: Tensor) -> Tensor:
        """Takes the cotangent of f(x + d) back to d.

        Args:
            saved: What `forward` saved, or rows of it.
            cotangent: The gradient of the embedding, [N, D].

        Returns:
            The gradient of d, [N, 3, H, W].
        """
        return self._backward(*saved, cotangent)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as plain products and a softmax, whose gradients are plain too."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Check:
    """A tower on a small random batch, where its traces must give what it gives."""

    def __init__(self, tower: ImageTower, weights: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator).to(weights)

        self.tower = tower
        self.x = uniform(_CHECKED, 3, *tower.image_size)
        self.d = 0.02 * uniform(*self.x.shape) - 0.01
        with torch.no_grad():
            width = tower(self.x).shape[1]
        self.cotangent = uniform(_CHECKED, width) - 0.5

    def trace(self, batch: int) -> fx.GraphModule:
        """(pixels, cotangent) -> (embedding, gradient), for one batch size."""
        inputs = tuple(t.new_empty(batch, *t.shape[1:]) for t in (self.x, self.cotangent))

        def both(pixels: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
            with _WithoutAliases():
                embedding, pull = torch.func.vjp(self.tower, pixels)[:2]
                return embedding, pull(cotangent)[0]

        decompositions = {
            _aten.native_batch_norm_backward.default: _batch_norm_gradient,
            _aten.roll.default: _rolled,
        }
        return trace(torch.func.functionalize(both), inputs, decompositions)

    def fault(self, encoder: TracedEncoder) -> str | None:
        """What is wrong with a trace, if anything."""
        expected = embedding_and_gradient(self.tower, self.x + self.d, self.cotangent)
        embedding, saved = encoder.forward(self.x, self.d)
        gradient = encoder.input_gradient(saved, self.cotangent)
        rows = torch.tensor([2, 0], device=self.x.device)
        held = tuple(tensor.index_select(0, rows) for tensor in saved)
        some = encoder.input_gradient(held, self.cotangent[rows])
        for what, ours, theirs in (
            ("embedding", encoder._embed(self.x + self.d).detach(), expected[0]),
            ("embedding", embedding, expected[0]),
            ("gradient", gradient, expected[1]),
            ("gradient of some rows", some, expected[1][rows]),
        ):
            error, scale = (ours - theirs).abs().max().item(), theirs.abs().max().item()
            if not error <= _TOLERANCES[self.x.dtype] * scale:
                return f"the {what} of the trace is off by {error:.3g} of {scale:.3g}"
            if scale == 0:
                return f"the {what} is zero for random pixels, which leaves nothing to check"
        return None


class _WithoutAliases(TorchFunctionMode):
    """Replaces what autograd would differentiate by strides: writes in place, and one kind of pooling.

    Code that reads an activation's input again, as its output, then gets wrong results; the check finds
    that.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("inplace"):
            kwargs["inplace"] = False
        if func is F.adaptive_avg_pool2d and args[1:] in ((1,), ((1, 1),)):
            return args[0].mean(dim=(-2, -1), keepdim=True)
        return func(*args, **kwargs)


def _batch_norm_gradient(
    g: Tensor,
    x: Tensor,  # noqa: ARG001
    weight: Tensor | None,
    running_mean: Tensor,  # noqa: ARG001
    running_var: Tensor,
    save_mean: Tensor | None,  # noqa: ARG001
    save_invstd: Tensor | None,  # noqa: ARG001
    train: bool,
    eps: float,
    output_mask: list[bool],
) -> Any:
    """Frozen batch normalisation is a scaling: its gradient needs no input, which need not be saved."""
    if train or output_mask[1] or output_mask[2]:
        return NotImplemented
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    return g * scale.reshape(-1, *(1 for _ in g.shape[2:])), None, None


def _rolled(x: Tensor, shifts: list[int], dims: list[int]) -> Tensor:
    """The roll of a tensor by parts, as torch.export cannot tell whether a tensor has any elements."""
    for shift, dim in zip(shifts, dims, strict=True):
        cut = -shift % x.shape[dim]
        x = torch.cat([x.narrow(dim, cut, x.shape[dim] - cut), x.narrow(dim, 0, cut)], dim=dim)
    return x


@dataclass(frozen=True)
class _Size:
    """A number that is `times` the batch size."""

    times: int

    @classmethod
    def of(cls, one: int, other: int) -> _Size:
        times, rest = divmod(one, _BATCHES[0])
        if rest or other != times * _BATCHES[1]:
            raise TracingError(f"{one} and {other} for batches of {_BATCHES[0]} and {_BATCHES[1]}")
        return cls(times)


@dataclass(frozen=True)
class _Part:
    """A saved activation: the value of a node, and the axis that runs over `times` entries an image."""

    node: fx.Node
    axis: int
    times: int


class _Trace:
    """The traces for two batch sizes as one; arguments that depend on the batch size are named by it."""

    def __init__(self, one: fx.GraphModule, other: fx.GraphModule) -> None:
        self.module = one
        self.nodes = list(one.graph.nodes)
        twins = list(other.graph.nodes)
        if [(n.op, n.target) for n in self.nodes] != [(n.op, n.target) for n in twins]:
            raise TracingError("the operations depend on the batch size")
        self._twin = dict(zip(self.nodes, twins, strict=True))
        self.args = {n: self._merged([n.args, n.kwargs], [t.args, t.kwargs]) for n, t in self._twin.items()}
        for node, twin in self._twin.items():
            if node.target in _VIEWS:  # a size of -1 is undefined for a batch of 0 images
                shapes = [list(n.meta["val"].shape) for n in (node, twin)]
                self.args[node] = [(node.args[0], self._merged(*shapes)), {}]
            if node.op == "get_attr" and not _same(_attribute(one, node), _attribute(other, twin)):
                raise TracingError("a constant depends on the batch size")
        self.pixels, self.cotangent = (n for n in self.nodes if n.op == "placeholder")
        self.embedding, self.gradient = self.args[self.nodes[-1]][0][0]
        sized = {node for node in self.nodes if _has_size(self.args[node])}
        self.on_batch = self.dependents({self.pixels, *sized})

    def dependents(self, sources: set[fx.Node]) -> set[fx.Node]:
        """The nodes whose values depend on those of some."""
        found = set(sources)
        for node in self.nodes:
            if any(n in found for n in node.all_input_nodes):
                found.add(node)
        return found

    def is_cheap_view(self, node: fx.Node) -> bool:
        """Whether a value is a view of one that is no larger, which is then saved once for all views.

        Not if the view's batch axis holds images alone and the other's does not: its order is then
        unknown.
        """
        if not (isinstance(node.target, OpOverload) and node.target.is_view):
            return False
        (source,) = node.all_input_nodes
        if not isinstance(node.meta["val"], Tensor) or source.meta["val"].numel() > node.meta["val"].numel():
            return False
        return source not in self.on_batch or self.part(node).times > 1 or self.part(source).times == 1

    def part(self, node: fx.Node) -> _Part:
        """The value of a node as an activation to save."""
        one, other = node.meta["val"].shape, self._twin[node].meta["val"].shape
        axes = [axis for axis in range(len(one)) if one[axis] != other[axis]]
        if len(axes) != 1:
            raise TracingError(f"{node} has {len(axes)} axes that depend on the batch size, not one")
        return _Part(node, axes[0], _Size.of(one[axes[0]], other[axes[0]]).times)

    def _merged(self, one: Any, other: Any) -> Any:
        if isinstance(one, fx.Node):
            if self._twin[one] is not other:
                raise TracingError("the data flow depends on the batch size")
            return one
        if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
            return type(one)(self._merged(*pair) for pair in zip(one, other, strict=True))
        if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            return {key: self._merged(value, other[key]) for key, value in one.items()}
        if type(one) is int and type(other) is int and one != other:
            return _Size.of(one, other)
        if one != other:
            raise TracingError(f"an argument depends on the batch size: {one} and {other}")
        return one


def _has_size(value: Any) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return isinstance(value, _Size)
    return any(_has_size(v) for v in value)


def _attribute(module: fx.GraphModule, node: fx.Node) -> Tensor:
    return operator.attrgetter(str(node.target))(module)


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other))


def _split(
    one: fx.GraphModule, other: fx.GraphModule
) -> tuple[fx.GraphModule, fx.GraphModule, fx.GraphModule]:
    """Graphs: pixels -> embedding; pixels -> (embedding, *saved); (*saved, cotangent) -> gradient."""
    trace = _Trace(one, other)
    on_cotangent = trace.dependents({trace.cotangent})
    if trace.gradient not in on_cotangent or trace.embedding in on_cotangent:
        raise TracingError("the embedding and the gradient are not those of a forward and a backward pass")

    def is_saved(node: fx.Node) -> bool:
        # What depends on the number of images alone (a pooler's queries) may be dear, and is saved too.
        return node in trace.on_batch and node not in on_cotangent and not trace.is_cheap_view(node)

    read, kept = _ancestors([trace.gradient], is_saved)
    parts = [trace.part(node) for node in trace.nodes if node in kept]

    embed = _Half(trace, [trace.pixels])
    embed.copy(_ancestors([trace.embedding], lambda node: node is trace.pixels)[0])
    embed.graph.output(embed.copies[trace.embedding])

    forward = _Half(trace, [trace.pixels])
    forward.copy(_ancestors([trace.embedding, *kept], lambda node: node is trace.pixels)[0])
    saved = [forward.batch_first(part) for part in parts]
    forward.graph.output((forward.copies[trace.embedding], *saved))

    backward = _Half(trace, [*(part.node for part in parts), trace.cotangent])
    for part in parts:
        backward.as_traced(part)
    backward.copy(read)
    backward.graph.output(backward.copies[trace.gradient])
    return embed.module(), forward.module(), backward.module()


def _ancestors(
    nodes: Iterable[fx.Node], stops: Callable[[fx.Node], bool]
) -> tuple[set[fx.Node], set[fx.Node]]:
    """What some nodes are computed from, themselves included; and where the search for it stopped."""
    found: set[fx.Node] = set()
    ends: set[fx.Node] = set()
    left = list(nodes)
    while left:
        node = left.pop()
        if stops(node):
            ends.add(node)
        elif node not in found:
            found.add(node)
            left += node.all_input_nodes
    return found, ends


class _Half:
    """A graph under construction from nodes of a trace."""

    def __init__(self, trace: _Trace, inputs: list[fx.Node]) -> None:
        self.trace = trace
        self.graph = fx.Graph()
        self.copies = {node: self.graph.placeholder(node.name) for node in inputs}
        self._sizes: dict[_Size, fx.Node] = {}
        batch = self.graph.call_function(_aten.sym_size.int, (self.copies[inputs[-1]], 0))
        self._sizes[_Size(1)] = batch

    def copy(self, nodes: set[fx.Node]) -> None:
        """Take over nodes of the trace, all that they read being there."""
        for node in self.trace.nodes:
            if node not in nodes or node in self.copies:
                continue
            if "as_strided" in str(node.target):
                raise TracingError("as_strided reads memory, whose layout may differ")
            args, kwargs = self._filled(self.trace.args[node])
            # Gathered rows are contiguous even if the tensor was not, so that a view may need a copy.
            target = _aten.reshape.default if node.target in _VIEWS else node.target
            self.copies[node] = self.graph.create_node(node.op, target, args, kwargs, node.name)

    def batch_first(self, part: _Part) -> fx.Node:
        """A value as it is saved: [N, ...]."""
        value = self.copies[part.node]
        if part.axis:
            value = self.graph.call_function(_aten.movedim.int, (value, part.axis, 0))
        if part.times > 1:
            value = self.graph.call_function(_aten.unflatten.int, (value, 0, [-1, part.times]))
        return value

    def as_traced(self, part: _Part) -> None:
        """The inverse of `batch_first`, on an input."""
        value = self.copies[part.node]
        if part.times > 1:
            value = self.graph.call_function(_aten.flatten.using_ints, (value, 0, 1))
        if part.axis:
            value = self.graph.call_function(_aten.movedim.int, (value, 0, part.axis))
        self.copies[part.node] = value

    def module(self) -> fx.GraphModule:
        """The finished graph, sharing the weights of the trace."""
        return fx.GraphModule(self.trace.module, self.graph)

    def _filled(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.copies[value]
        if isinstance(value, _Size):
            return self._size(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._filled(v) for v in value)
        if isinstance(value, dict):
            return {key: self._filled(v) for key, v in value.items()}
        return value

    def _size(self, size: _Size) -> fx.Node:
        if size not in self._sizes:
            self._sizes[size] = self.graph.call_function(operator.mul, (self._sizes[_Size(1)], size.times))
        return self._sizes[size]
