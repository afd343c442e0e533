"""The HTTP endpoint: one gateway that reads, admits, decodes and batches, before workers that classify."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from admission import Admission, cost
from answers import Answer, NoAnswer
from batcher import Batcher
from decoders import Decoders
from metrics import Metrics
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST
from refusal import Refusal, no_answer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uploads import Uploads

from clipfast.artifacts.metadata import Metadata
from clipfast.errors import ArtifactError

__all__ = ["Classifies", "Gateway", "Settings"]

# Processes that decode: each may hold a picture of max_pixels, several times over.
_DECODERS = 2

# Bytes of all bodies on their way, and requests for answers in work, each of which is some kilobytes.
_BODIES, _REQUESTS = 2**28, 4096

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator decides.

    workers: processes that classify. batch: pictures classified at once. budget: encoder passes that may be
    outstanding. max_bytes: of a request's body. max_pixels: of a picture, decoded. upload_seconds: until a
    body has come. decode_seconds: until a picture is decoded. answer_seconds: until a batch has its answer.
    """

    workers: int
    batch: int
    budget: int
    max_bytes: int
    max_pixels: int
    upload_seconds: float
    decode_seconds: float
    answer_seconds: float


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
        self._requests = 0
        self._uploads = Uploads(
            limit=settings.max_bytes,
            seconds=settings.upload_seconds,
            together=max(_BODIES, settings.max_bytes),
        )
        self._decoders = Decoders(
            _DECODERS,
            metadata.preprocess,
            max_pixels=settings.max_pixels,
            seconds=settings.decode_seconds,
        )
        self._batcher: Batcher[NDArray[np.uint8], Answer | NoAnswer] = Batcher(
            self._run,
            size=settings.batch,
            workers=settings.workers,
            seconds=settings.answer_seconds,
            late=no_answer,
        )

    def app(self) -> Starlette:
        """The paths that it answers."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await self._decoders.close()

        return Starlette(
            lifespan=lifespan,
            routes=[
                Route("/classify", self.classify, methods=["POST"]),
                Route("/healthz", self.healthz),
                Route("/readyz", self.readyz),
                Route("/metrics", self.metrics),
            ],
        )

    async def classify(self, request: Request) -> Response:
        """The defended answer for one picture, or a reason why there is none; never the undefended answer."""
        self._requests += 1
        try:
            response = JSONResponse(await self._classified(request))
        except Refusal as refusal:
            response = JSONResponse(
                {"error": refusal.reason}, status_code=refusal.status, headers=refusal.headers
            )
        finally:
            self._requests -= 1
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
        if self._admission.full or self._requests > _REQUESTS:
            raise self._shed()
        data = await self._uploads.read(request)
        if not self._admission.admit():
            raise self._shed()
        try:
            answer = await self._batcher.submit(await self._decoders(data))
        finally:
            self._admission.release()
        if isinstance(answer, ArtifactError):  # its text names the file
            _log.error("no answer: %s", answer)
            raise Refusal(500, "the defence has no answer for this picture: the classifier failed")
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
