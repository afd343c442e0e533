"""CUDA graphs of functions at fixed shapes: captured once, replayed from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor

from .rows import leaves, mapped, refilled

__all__ = ["CudaGraph", "Graph", "Graphs"]

Tensors = tuple[Tensor, ...]


class Graph(Protocol):
    """A function bound to its inputs' memory: `replay` reads `inputs` and fills `outputs`.

    Attributes:
        inputs: The tensors that it reads.
        outputs: The tensors that it fills.
    """

    inputs: Tensors
    outputs: Tensors

    def replay(self) -> None:
        """Runs the function again on what `inputs` hold now."""
        ...


class CudaGraph:
    """A function of CUDA tensors as one graph, captured over copies of its first inputs.

    Args:
        function: A function of tensors that gives tensors, with no shape that depends on a value.
        inputs: Its first inputs.

    Attributes:
        inputs: Copies of the first inputs, which a replay reads.
        outputs: What a replay fills.
    """

    def __init__(self, function: Callable[..., Tensors], inputs: Tensors) -> None:
        self.inputs = tuple(tensor.clone() for tensor in inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries allocate their workspaces before the capture
            for _ in range(2):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self.outputs = function(*self.inputs)

    def replay(self) -> None:
        """Runs the function again on what `inputs` hold now."""
        self._graph.replay()


class Graphs:
    """Captured functions by key.

    Args:
        capture: Makes a `Graph` of a function and its first inputs.
    """

    def __init__(self, capture: Callable[[Callable[..., Tensors], Tensors], Graph] = CudaGraph) -> None:
        self._capture = capture
        self._graphs: dict[Hashable, tuple[Graph, Any]] = {}  # a graph, and its outputs in their structure
        # One lock for all: graphs share a memory pool's stream order, and no other work may run during a
        # capture.
        self._lock = threading.Lock()
        self._idle: torch.Event | None = None

    def run(self, key: Hashable, function: Callable[..., Any], *inputs: Any) -> Any:
        """Computes function(*inputs) by the graph of a key, which is captured now if there is none.

        Args:
            key: Names the function and the shapes of its inputs.
            function: A function of structures of tensors (see `clipfast.defence.rows`).
            inputs: Its inputs, alike for all calls of a key.

        Returns:
            The function's result, in copies that no later call overwrites.
        """
        with self._lock:
            tensors = leaves(inputs)
            on_gpu = tensors[0].is_cuda
            if on_gpu and self._idle is not None:  # a caller on another stream may still copy its outputs
                self._idle.wait()
            if key not in self._graphs:
                shape: list[Any] = []

                def flat(*tensors: Tensor) -> Tensors:
                    shape[:] = [function(*refilled(inputs, iter(tensors)))]
                    return leaves(shape[0])

                graph = self._capture(flat, tensors)
                self._graphs[key] = graph, refilled(shape[0], iter(graph.outputs))
            graph, structure = self._graphs[key]
            for static, tensor in zip(graph.inputs, tensors, strict=True):
                static.copy_(tensor)
            graph.replay()
            outputs = mapped(torch.clone, structure)
            if on_gpu:
                self._idle = torch.Event("cuda")
                self._idle.record()
            return outputs

    def __len__(self) -> int:
        return len(self._graphs)
