"""Runs the schedule on batches of any size: chunks, countered rows, memory, compiled towers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..config import CounterattackConfig
from ..encoders import CompiledEncoder, Encoder
from ..encoders.gradients import embed_with_gradient
from ..errors import OutOfMemoryError
from ..inputs.draws import Draw
from ..ops import Implementation
from . import schedule
from .cuda_graphs import Graphs
from .schedule import Defended, Probe

__all__ = ["Engine"]

# What fits the caches of two cores and still fills their vector units; benchmarks/README.md measures it.
_CPU_CHUNK = 8
_CUDA_CHUNK = 256
_CPU_MEMORY = 1 << 30

Tensors = tuple[Tensor, ...]


class Engine:
    """The counterattack over an encoder: `clipfast.reference`'s answers, each pass made once.

    encoder, drift_encoder: see `clipfast.encoders`; on `device`, for images of `image_size`. A
    `CompiledEncoder` runs at a few batch sizes that others are padded to; on a GPU each stage is then one
    CUDA graph. memory: bytes that saved activations may take (default 1 GiB on a CPU, half of what is free
    on a GPU); it bounds the chunk. implementation: of the operators between passes, see `clipfast.ops`.

    A batch runs in chunks: each is probed, its gate is read, and its countered rows wait with their saved
    activations until they fill a chunk of their own. Safe across threads: a call's state is its own.
    """

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
        self.config = config
        self.implementation: Implementation = implementation
        self._threshold = torch.tensor(config.tau_threshold, dtype=torch.float32, device=device)
        self.encoder = encoder
        self.drift_encoder = drift_encoder
        self.gates_first = schedule.gates_first(config, drift_encoder)
        self._compiles = isinstance(encoder, CompiledEncoder)
        self._graphs = Graphs() if self._compiles and device.type == "cuda" else None
        self._image = torch.full((1, 3, *image_size), 0.5, device=device)
        if memory is None:
            memory = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else _CPU_MEMORY
        limit = _CPU_CHUNK if device.type == "cpu" else _CUDA_CHUNK
        # A step holds the activations that it starts from beside those that it makes.
        self.chunk = max(1, min(limit, memory // (2 * self._saved_bytes(encoder))))
        if self._compiles:  # buckets are powers of two
            self.chunk = 1 << (self.chunk.bit_length() - 1)

    @torch.no_grad()
    def run(self, pixels: Tensor, noise: Tensor | Draw, *, with_delta: bool = True) -> Defended:
        """Defends pixels [N, 3, H, W], uint8 or float in [0, 1], contiguous; N at least 1.

        noise: float32, shaped as the pixels, within eps, contiguous; or a draw of it. An image with a pixel
        outside of [0, 1] has the drift NaN.

        Where memory runs out the chunk is halved once, with a warning; results so far are kept. Raises
        OutOfMemoryError where that was not enough.
        """
        batch = _Batch(self, pixels, noise, with_delta)
        try:
            batch.run(self.chunk)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            half = max(1, self.chunk // 2)
            warnings.warn(f"out of memory at {self.chunk} images a chunk: trying {half}", stacklevel=2)
            try:
                batch.run(half)
            except (MemoryError, RuntimeError) as again:
                if not _is_out_of_memory(again):
                    raise
                raise OutOfMemoryError(
                    f"out of memory at {half} images a chunk, with {batch.probed} of {len(pixels)} images "
                    "probed: expected room for the activations of one chunk"
                ) from again
        return batch.result()

    @torch.no_grad()
    def warmup(self, batch_sizes: Iterable[int]) -> None:
        """Compiles all that batches of these sizes run, so that no later call of such a size compiles."""
        sizes = {self._bucket(n) for size in batch_sizes for n in self.chunks(size, self.chunk)}
        if self._compiles:  # any number of a chunk's rows may be countered
            sizes = {1 << i for i in range(max(sizes).bit_length())}
        for n in sorted(sizes, reverse=True):
            pixels = self._image.expand(n, -1, -1, -1).contiguous()
            noise = torch.full_like(pixels, self.config.eps / 2)
            if not self.gates_first:
                self.counterattack(self.probe(pixels, noise)[2])
                continue
            clean = self.gate_by(pixels, noise)[2]
            self.pass_on(pixels, noise, clean)
            self.counterattack(self.probe_gated(pixels, noise, clean))
            self.embed(pixels)  # f(x) of images that pass, which a probe gives elsewhere

    def chunks(self, n: int, chunk: int) -> list[int]:
        """The sizes that n images are cut into: equal ones; where sizes are padded, full ones and a rest."""
        if self._compiles:
            return [min(chunk, n - i) for i in range(0, n, chunk)]
        parts = math.ceil(n / chunk)
        return [n // parts + (i < n % parts) for i in range(parts)]

    def probe(self, pixels: Tensor, noise: Tensor | Draw) -> tuple[Tensor, Tensor, Probe]:
        """tau [N], the countered, bool [N]; and f(x), f(x + d0) and the activations of the second."""

        def stage(pixels: Tensor, *noise: Tensor) -> Tensors:
            x, d = schedule.start(self.encoder, pixels, _noise(noise), self.config, self.implementation)
            probed = schedule.probe(self.encoder, x, d, double=self.encoder.prefers_double(len(x)))
            gated = schedule.gate(probed.clean, probed.noisy, self._threshold, self.implementation)
            return *gated, *schedule.flat(probed)

        tau, countered, *probed = self._at_bucket("probe", stage, pixels, *_tensors(noise))
        return tau, countered, schedule.unflat(probed)

    def counterattack(self, probed: Probe) -> tuple[Tensor, Tensor]:
        """f(x + delta) [N, D] and delta in layout, of countered images."""

        def stage(*tensors: Tensor) -> Tensors:
            probed = schedule.unflat(tensors)
            delta = schedule.counterattack(self.encoder, probed, self.config, self.implementation)
            return schedule.finish(self.encoder, probed.base, delta), delta

        embedding, delta = self._at_bucket("counterattack", stage, *schedule.flat(probed))
        return embedding, delta

    def gate_by(self, pixels: Tensor, noise: Tensor | Draw) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the gate measures [N], the countered, bool [N]; and f(x), unless a drift encoder measures."""
        own = self.drift_encoder is None
        encoder = self.encoder if self.drift_encoder is None else self.drift_encoder

        def stage(pixels: Tensor, *noise: Tensor) -> Tensors:
            gated = schedule.gate_by(
                encoder, pixels, _noise(noise), self._threshold, self.config, self.implementation
            )
            return gated if own else gated[:2]

        tau, countered, *clean = self._at_bucket("gate_by", stage, pixels, *_tensors(noise))
        return tau, countered, clean[0] if own else None

    def pass_on(self, pixels: Tensor, noise: Tensor | Draw, clean: Tensor | None) -> tuple[Tensor, Tensor]:
        """The embeddings [N, D] and perturbations in layout of images that `gate_by` let pass.

        clean: f(x) [N, D], where it is known.
        """

        def stage(pixels: Tensor, *others: Tensor) -> Tensors:
            clean, noise = _split(others, clean_first)
            x, d = schedule.start(self.encoder, pixels, noise, self.config, self.implementation)
            return schedule.pass_on(self.encoder, x, d, clean, self.config)

        clean_first = clean is not None
        embedding, delta = self._at_bucket("pass_on", stage, pixels, *_beside(clean, noise))
        return embedding, delta

    def probe_gated(self, pixels: Tensor, noise: Tensor | Draw, clean: Tensor | None) -> Probe:
        """The probe of images that `gate_by` held back. clean: f(x) [N, D], where it is known."""

        def stage(pixels: Tensor, *others: Tensor) -> Tensors:
            clean, noise = _split(others, clean_first)
            x, d = schedule.start(self.encoder, pixels, noise, self.config, self.implementation)
            double = self.encoder.prefers_double(len(x))
            return schedule.flat(schedule.probe(self.encoder, x, d, double=double, clean=clean))

        clean_first = clean is not None
        return schedule.unflat(self._at_bucket("probe_gated", stage, pixels, *_beside(clean, noise)))

    @torch.no_grad()
    def embed(self, pixels: Tensor) -> Tensor:
        """f(x) [N, D] of float32 pixels [N, 3, H, W]: undefended CLIP by the same encoder, in chunks."""

        def stage(pixels: Tensor) -> Tensors:
            return (self.encoder.embed(self.encoder.project(self.encoder.to_layout(pixels))),)

        chunks = pixels.split(self.chunks(len(pixels), self.chunk))
        return torch.cat([self._at_bucket("embed", stage, chunk)[0] for chunk in chunks])

    def embed_with_gradient(self, pixels: Tensor) -> Tensor:
        """f(x) [N, D] of float32 pixels [N, 3, H, W], in chunks, with its gradient to them, once.

        For attackers, whose batches come in any size: a compiled encoder runs as it was before.
        """
        encoder = self.encoder.eager if isinstance(self.encoder, CompiledEncoder) else self.encoder
        chunks = pixels.split(self.chunks(len(pixels), self.chunk))
        return torch.cat([embed_with_gradient(encoder, chunk) for chunk in chunks])

    def _bucket(self, n: int) -> int:
        return 1 << (n - 1).bit_length() if self._compiles else n

    def _at_bucket(self, name: str, stage: Callable[..., Tensors], *inputs: Tensor) -> Tensors:
        """Runs a stage at a compiled batch size: rows are repeated, and the copies' results dropped."""
        n = len(inputs[0])
        bucket = self._bucket(n)
        if bucket != n:
            rows = torch.arange(bucket, device=inputs[0].device) % n
            inputs = tuple(t.index_select(0, rows) for t in inputs)
        graphs, key = self._graphs, (name, bucket, *(t.dtype for t in inputs))
        outputs = stage(*inputs) if graphs is None else graphs.run(key, stage, *inputs)
        return outputs if bucket == n else tuple(t[:n] for t in outputs)

    @torch.no_grad()
    def _saved_bytes(self, encoder: Encoder) -> int:
        if isinstance(encoder, CompiledEncoder):
            encoder = encoder.eager
        x = encoder.to_layout(self._image)
        return sum(t.nbytes for t in encoder.forward(encoder.project(x), torch.zeros_like(x))[1])


class _Batch:
    """One call on its way: what is done, and the countered rows that wait. A failed step can be repeated."""

    def __init__(self, engine: Engine, pixels: Tensor, noise: Tensor | Draw, with_delta: bool) -> None:
        self.engine, self.pixels, self.noise = engine, pixels, noise
        self.probed = 0
        self._waiting: Probe | None = None
        self._rows = torch.empty(0, dtype=torch.int64, device=pixels.device)  # of the images that wait
        self._with_delta = with_delta
        self._tau: Tensor | None = None
        self._countered: Tensor | None = None
        self._embedding: Tensor | None = None
        self._clean: Tensor | None = None
        self._delta: Tensor | None = None

    def run(self, chunk: int) -> None:
        for size in self.engine.chunks(len(self.pixels) - self.probed, chunk):
            self._probe(self.probed + torch.arange(size, device=self.pixels.device))
            while len(self._rows) >= chunk:
                self._counterattack(chunk)
        while len(self._rows):
            self._counterattack(chunk)

    def result(self) -> Defended:
        assert self._tau is not None
        assert self._countered is not None
        assert self._embedding is not None
        assert self._clean is not None
        return Defended(self._embedding, self._clean, self._tau, self._countered, self._delta)

    def _probe(self, images: Tensor) -> None:
        engine, config = self.engine, self.engine.config
        first, n = self.probed, len(images)
        pixels, noise = self.pixels[first : first + n], _rows(self.noise, slice(first, first + n))
        if not engine.gates_first:
            tau, gated, held = engine.probe(pixels, noise)
            countered = gated.nonzero().flatten()  # the one host read
            if len(countered) < n:
                self._write(images, *schedule.passed(held, config))
            # A copy: with pass_through="clean" the embedding is the same tensor, and is written to later.
            self._clean = _written(self._clean, images, held.clean.clone(), len(self.pixels))
            if 0 < len(countered) < n:
                held = schedule.take(held, countered)
        else:
            tau, gated, known = engine.gate_by(pixels, noise)
            countered, others = gated.nonzero().flatten(), (~gated).nonzero().flatten()
            held = None
            if len(others):
                clean = None if known is None else known[others]
                embedding, delta = engine.pass_on(pixels[others], _rows(noise, others), clean)
                self._write(images[others], embedding, delta)
                if clean is None:
                    passes_clean = config.pass_through == "clean"
                    clean = embedding if passes_clean else torch.full_like(embedding, torch.nan)
                self._clean = _written(self._clean, images[others], clean, len(self.pixels))
            if len(countered):
                clean = None if known is None else known[countered]
                held = engine.probe_gated(pixels[countered], _rows(noise, countered), clean)
                self._clean = _written(self._clean, images[countered], held.clean, len(self.pixels))
        self._tau = _written(self._tau, images, tau, len(self.pixels))
        self._countered = _written(self._countered, images, gated, len(self.pixels))
        if held is not None and len(countered):
            self._waiting = held if self._waiting is None else _joined(self._waiting, held)
            self._rows = torch.cat([self._rows, images[countered]])
        self.probed += n

    def _counterattack(self, chunk: int) -> None:
        assert self._waiting is not None
        some = self._waiting if len(self._rows) <= chunk else _part(self._waiting, slice(chunk))
        embedding, delta = self.engine.counterattack(some)
        self._write(self._rows[:chunk], embedding, delta)
        rest = len(self._rows) > chunk
        self._waiting = _part(self._waiting, slice(chunk, None)) if rest else None
        self._rows = self._rows[chunk:]

    def _write(self, images: Tensor, embedding: Tensor, delta: Tensor) -> None:
        n = len(self.pixels)
        self._embedding = _written(self._embedding, images, embedding, n)
        if self._with_delta:
            self._delta = _written(self._delta, images, self.engine.encoder.from_layout(delta), n)


def _tensors(noise: Tensor | Draw) -> Tensors:
    return (noise,) if isinstance(noise, Tensor) else tuple(noise)


def _noise(tensors: Sequence[Tensor]) -> Tensor | Draw:
    """The noise of `_tensors`."""
    return tensors[0] if len(tensors) == 1 else Draw(*tensors)


def _beside(clean: Tensor | None, noise: Tensor | Draw) -> Tensors:
    return _tensors(noise) if clean is None else (clean, *_tensors(noise))


def _split(tensors: Sequence[Tensor], clean_first: bool) -> tuple[Tensor | None, Tensor | Draw]:
    """The two of `_beside`."""
    return (tensors[0], _noise(tensors[1:])) if clean_first else (None, _noise(tensors))


def _rows(noise: Tensor | Draw, rows: slice | Tensor) -> Tensor | Draw:
    return _noise([tensor[rows] for tensor in _tensors(noise)])


def _written(whole: Tensor | None, images: Tensor, rows: Tensor, n: int) -> Tensor:
    """`whole`, of n images, with some of its rows written; the rows themselves where they are all of them."""
    if len(rows) == n:
        return rows
    if whole is None:
        whole = rows.new_empty(n, *rows.shape[1:])
    whole[images] = rows
    return whole


def _part(probed: Probe, rows: slice) -> Probe:
    return schedule.unflat([t[rows] for t in schedule.flat(probed)])


def _joined(a: Probe, b: Probe) -> Probe:
    pairs = zip(schedule.flat(a), schedule.flat(b), strict=True)
    return schedule.unflat([torch.cat(pair) for pair in pairs])


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
