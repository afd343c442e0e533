"""The HTTP endpoint: one gateway that reads, admits, decodes and batches, before workers that classify."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from admission import Admission, cost
from answers import Answer, NoAnswer
from batcher import Batcher
from metrics import Metrics
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST
from refusal import Refusal
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uploads import uploaded

from clipfast.artifacts.metadata import Metadata
from clipfast.errors import InputError

__all__ = ["Classifies", "Gateway", "Settings"]

# Decoders at work at once: each may hold a picture of max_pixels, several times over.
_DECODERS = 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator decides.

    workers: processes that classify. batch: pictures classified at once. budget: encoder passes that may be
    outstanding. max_bytes: of a request's body. max_pixels: of a picture, decoded. upload_seconds: until a
    body has come.
    """

    workers: int
    batch: int
    budget: int
    max_bytes: int
    max_pixels: int
    upload_seconds: float


class Classifies(Protocol):
    """What the gateway asks of the workers: see `workers.Workers`."""

    async def classify(self, pixels: NDArray[np.uint8]) -> Sequence[Answer | NoAnswer]:
        """A result for each picture of uint8 [N, 3, H, W]; raises Refusal where there is none for any."""
        ...

    async def running(self) -> int:
        """How many workers could be asked."""
        ...


class Gateway:
    """All requests go through this one process, so that what it counts and admits is the whole.

    metadata: of the artifact that the workers hold. Made inside an event loop. Raises InputError for a budget
    that lets nobody in.
    """

    def __init__(self, workers: Classifies, metadata: Metadata, settings: Settings) -> None:
        self._workers = workers
        self._metadata = metadata
        self._settings = settings
        self._admission = Admission(settings.budget, cost(metadata), workers=settings.workers)
        self._metrics = Metrics()
        self._metrics.budget.set(settings.budget)
        self._metrics.outstanding.set_function(lambda: self._admission.outstanding)
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
        self._batcher: Batcher[NDArray[np.uint8], Answer | NoAnswer] = Batcher(
            self._run, size=settings.batch, workers=settings.workers
        )

    def app(self) -> Starlette:
        """The paths that it answers."""
        return Starlette(
            routes=[
                Route("/classify", self.classify, methods=["POST"]),
                Route("/healthz", self.healthz),
                Route("/readyz", self.readyz),
                Route("/metrics", self.metrics),
            ]
        )

    async def classify(self, request: Request) -> Response:
        """The defended answer for one picture, or a reason why there is none; never the undefended answer."""
        try:
            response = JSONResponse(await self._classified(request))
        except Refusal as refusal:
            response = JSONResponse(
                {"error": refusal.reason}, status_code=refusal.status, headers=refusal.headers
            )
        self._metrics.requests.labels(str(response.status_code)).inc()
        return response

    async def healthz(self, _: Request) -> Response:
        """Whether this process answers at all."""
        return JSONResponse({"alive": True})

    async def readyz(self, _: Request) -> Response:
        """Whether a worker has loaded the artifact: 200, or 503."""
        running = await self._workers.running()
        return JSONResponse({"workers": running}, status_code=200 if running else 503)

    async def metrics(self, _: Request) -> Response:
        """Counts for Prometheus."""
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def _classified(self, request: Request) -> dict[str, object]:
        # Who would be shed need not send a body first; but a body that comes slowly holds no passes.
        if self._admission.full:
            raise self._shed()
        settings = self._settings
        data = await uploaded(request, limit=settings.max_bytes, seconds=settings.upload_seconds)
        if not self._admission.admit():
            raise self._shed()
        try:
            answer = await self._batcher.submit(await self._pixels(data))
        finally:
            self._admission.release()
        if not isinstance(answer, Answer):
            raise Refusal(500, f"the defence has no answer for this picture: {answer}")
        return {
            "top": [{"label": label, "probability": probability} for label, probability in answer.top],
            "drift": answer.drift,
            "countered": answer.countered,
            "changed": answer.changed,
            "calibrated": self._metadata.calibrated,
            "limits": self._metadata.limits,
        }

    def _shed(self) -> Refusal:
        self._metrics.shed.inc()
        wait = self._admission.retry_after
        return Refusal(503, "too much work is waiting; try again later", {"Retry-After": str(wait)})

    async def _pixels(self, data: bytes) -> NDArray[np.uint8]:
        """A picture uint8 [3, H, W], decoded off the event loop."""
        decode = partial(self._metadata.preprocess, data, max_pixels=self._settings.max_pixels)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, decode)
        except InputError as error:
            raise Refusal(422, str(error)) from error

    async def _run(self, pictures: list[NDArray[np.uint8]]) -> Sequence[Answer | NoAnswer]:
        """Results of one batch, counted."""
        start = time.perf_counter()
        results = await self._workers.classify(np.stack(pictures))
        seconds = time.perf_counter() - start
        self._metrics.batch.observe(len(pictures))
        answered = [result for result in results if isinstance(result, Answer)]
        for answer in answered:
            self._metrics.images.inc()
            self._metrics.countered.inc(answer.countered)
            self._metrics.changed.inc(answer.changed)
            self._metrics.drift.observe(answer.drift)
        if answered:
            self._admission.observe([answer.countered for answer in answered], seconds)
        return results
