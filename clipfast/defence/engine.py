"""Runs the schedule on batches of any size: chunks, compiled towers, CUDA graphs, warm-up."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..config import CounterattackConfig
from ..encoders import CompiledEncoder, Encoder
from ..encoders.gradients import embed_with_gradient
from ..errors import OutOfMemoryError
from ..inputs.draws import fresh
from ..inputs.noise import Noise
from ..ops import Implementation
from ..reference import Counterattacked
from .batch import Batch
from .cuda_graphs import Graphs
from .rows import leaves, mapped, selected
from .schedule import Schedule, probe, start
from .transforming import transforms_of

__all__ = ["Engine"]

_CUDA_CHUNK = 256
_CPU_MEMORY = 3 << 29
# At most so many chunks' activations are held at once: see `clipfast.defence.batch`.
_CHUNKS_HELD = 3


class Engine:
    """The counterattack over an encoder: `clipfast.reference`'s answers, with each pass made once.

    Safe across threads: a call's state is its own. A `CompiledEncoder` runs at a few batch sizes, to
    which others are padded; on a GPU each stage is then one CUDA graph.

    Args:
        encoder: The image tower, see `clipfast.encoders`; on `device`, for images of `image_size`.
        config: Settings of the defence.
        image_size: (height, width) of the pixels.
        device: Where the encoders' weights are.
        drift_encoder: The tower that the gate measures with, if it is another one.
        memory: Bytes that saved activations may take; by default 1.5 GiB on a CPU, half of what is free
            on a GPU. It bounds the size of chunks.
        implementation: Of the operators between passes, see `clipfast.ops`.

    Attributes:
        marks_pixels: True: an image with a pixel outside of [0, 1] gets the drift NaN.
        config: As given.
        encoder: As given.
        drift_encoder: As given.
        schedule: The passes and their order.
        chunk: The size of chunks, in images. Halved when memory runs out.

    Raises:
        InputError: If a transform of the config does not fit the image size.
    """

    marks_pixels = True

    def __init__(
        self,
        encoder: Encoder,
        config: CounterattackConfig,
        *,
        image_size: tuple[int, int],
        device: torch.device,
        drift_encoder: Encoder | None = None,
        memory: int | None = None,
        implementation: Implementation = "auto",
    ) -> None:
        self.config, self.encoder, self.drift_encoder = config, encoder, drift_encoder
        self._compiles = isinstance(encoder, CompiledEncoder)
        self._graphs = Graphs() if self._compiles and device.type == "cuda" else None
        self._image = torch.full((1, 3, *image_size), 0.5, device=device)
        self.schedule = Schedule(
            encoder,
            config,
            torch.tensor(config.tau_threshold, dtype=torch.float32, device=device),
            drift_encoder=drift_encoder,
            implementation=implementation,
            run=self._at_bucket,
            transforms=transforms_of(config, image_size, device),
        )
        if memory is None:
            memory = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else _CPU_MEMORY
        limit = encoder.chunk if device.type == "cpu" else _CUDA_CHUNK
        fits = memory // (_CHUNKS_HELD * self._held_bytes(encoder))
        if encoder.prefers_double(min(limit, fits)):  # a double batch saves both halves
            fits //= 2
        self.chunk = max(1, min(limit, fits))
        if self._compiles:  # buckets are powers of two
            self.chunk = 1 << (self.chunk.bit_length() - 1)

    @torch.no_grad()
    def run(
        self,
        pixels: Tensor,
        noise: Noise[Tensor],
        *,
        with_delta: bool = True,
        with_clean: bool = False,
        with_answer: bool = True,
    ) -> Counterattacked:
        """Defends a batch of images.

        An image with a pixel outside of [0, 1] has the drift NaN. If memory runs out, the chunk is
        halved, for later calls too, with a warning; results so far are kept.

        Args:
            pixels: [N, 3, H, W], uint8 or float in [0, 1], contiguous; N at least 1.
            noise: The noise of the N images, within eps, contiguous.
            with_delta: Whether to give the perturbations. If not, delta has no rows.
            with_clean: Whether to give f(x) of every image. If not, it is NaN for images of which it was
                not needed.
            with_answer: Whether to answer countered images. If not, their embedding is NaN.

        Raises:
            OutOfMemoryError: If a chunk of one image does not fit.
        """
        batch = Batch(
            self.schedule,
            pixels,
            noise,
            with_delta=with_delta,
            with_clean=with_clean,
            with_answer=with_answer,
        )
        chunk = self.chunk
        while reason := _out_of_memory(batch.run, self.chunks, chunk):
            if chunk == 1:
                raise OutOfMemoryError(
                    f"out of memory at one image a chunk, with {batch.probed} of {len(pixels)} images "
                    f"probed: expected room for the activations of one image ({reason})"
                )
            warnings.warn(f"out of memory at {chunk} images a chunk: trying {chunk // 2}", stacklevel=2)
            chunk //= 2
            self.chunk = min(self.chunk, chunk)
        return batch.result()

    @torch.no_grad()
    def warmup(self, batch_sizes: Iterable[int]) -> None:
        """Compiles and captures all that batches of these sizes run, so that no later call has to.

        That holds for pixels of both dtypes, and for noise that is given as for noise that is drawn.
        """
        chunks = {n for size in batch_sizes for n in self.chunks(size, self.chunk)}
        for n in chunks:
            for pixels, noise in self._kinds_of_input(n):
                start(self.encoder, pixels, noise, self.config, self.schedule.implementation)
        sizes = {self._bucket(n) for n in chunks}
        if self._compiles:  # any number of a chunk's rows may be countered
            sizes = {1 << i for i in range(max(sizes).bit_length())}
        for n in sorted(sizes, reverse=True):
            pixels = self._image.expand(n, -1, -1, -1).contiguous()
            self.schedule.every_stage(pixels, Noise(torch.full_like(pixels, self.config.eps / 2)))

    def chunks(self, n: int, chunk: int) -> list[int]:
        """Returns the sizes of the chunks that n images are cut into.

        They are as equal as can be. If sizes are padded (a compiled encoder), they are full ones and a
        rest.

        Args:
            n: Number of images.
            chunk: The largest size of a chunk.
        """
        if self._compiles:
            return [min(chunk, n - i) for i in range(0, n, chunk)]
        parts = math.ceil(n / chunk)
        return [n // parts + (i < n % parts) for i in range(parts)]

    @property
    def gate_blocks(self) -> int:
        """Of the tower that the gate measures by: how many blocks it can run apart."""
        return (self.drift_encoder or self.encoder).blocks

    @torch.no_grad()
    def embed(self, pixels: Tensor) -> Tensor:
        """Computes f(x) of pixels, in chunks: undefended CLIP by the same encoder.

        Args:
            pixels: float32 [N, 3, H, W] in [0, 1].

        Returns:
            f(x), [N, D].
        """
        chunks = pixels.split(self.chunks(len(pixels), self.chunk))
        return torch.cat([self.schedule.embed(self.encoder.to_layout(chunk)) for chunk in chunks])

    @property
    def has_exact_gradient(self) -> bool:
        """Whether `embed_with_gradient` is in float32 and costs one pass in each direction."""
        return self.encoder.form != "autograd" and self.encoder.dtype == torch.float32

    def embed_with_gradient(self, pixels: Tensor) -> Tensor:
        """Computes f(x) [N, D] of float32 pixels [N, 3, H, W], with a gradient that can be taken once.

        It runs in chunks. It is for attackers, whose batches come in any size: a compiled encoder runs
        uncompiled.
        """
        encoder = self.encoder.eager if isinstance(self.encoder, CompiledEncoder) else self.encoder
        chunks = pixels.split(self.chunks(len(pixels), self.chunk))
        return torch.cat([embed_with_gradient(encoder, chunk) for chunk in chunks])

    def _kinds_of_input(self, n: int) -> Iterator[tuple[Tensor, Noise[Tensor]]]:
        """Grey pictures in every form that `run` is given."""
        pixels = self._image.expand(n, -1, -1, -1).contiguous()
        for kind in (pixels, (pixels * 255).to(torch.uint8)):
            yield kind, fresh(n, pixels.device)
            yield kind, Noise(torch.full_like(pixels, self.config.eps / 2))

    def _bucket(self, n: int) -> int:
        return 1 << (n - 1).bit_length() if self._compiles else n

    def _at_bucket(self, name: str, stage: Callable[..., Any], *inputs: Any) -> Any:
        """Runs a stage at a compiled batch size: rows are repeated, and the results of copies dropped."""
        first = leaves(inputs)[0]
        n = len(first)
        bucket = self._bucket(n)
        if bucket != n:
            inputs = selected(inputs, torch.arange(bucket, device=first.device) % n)
        if self._graphs is not None:
            stage = partial(self._graphs.run, (name, bucket), stage)
        outputs = stage(*inputs)
        return outputs if bucket == n else mapped(lambda t: t[:n], outputs)

    @torch.no_grad()
    def _held_bytes(self, encoder: Encoder) -> int:
        """What is held of one image between the gate and the loop."""
        if isinstance(encoder, CompiledEncoder):
            encoder = encoder.eager
        x = encoder.to_layout(self._image)
        return sum(t.nbytes for t in leaves(probe(encoder, x, torch.zeros_like(x), double=False)))


def _out_of_memory(call: Callable[..., None], *args: Any) -> str | None:
    """Why a call ran out of memory, or None if it did not; any other error is raised.

    The error itself is not kept, as its traceback holds all that the call had made.
    """
    try:
        call(*args)
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and "can't allocate memory" not in str(error):
            raise
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None
