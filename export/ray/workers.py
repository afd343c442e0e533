"""The processes that classify for the endpoint, as a deployment of Ray Serve."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from answers import Answer, NoAnswer, answers, load
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from refusal import no_answer

__all__ = ["NAME", "Worker", "Workers"]

# The name of the deployment.
NAME = "Worker"

# A batch whose worker died goes to another once; a picture that kills workers must not kill them all.
_ATTEMPTS = 2


class Worker:
    """A process that holds the artifact and classifies one batch at a time."""

    def __init__(self, artifact: Path, sha256: str, threads: int, noise_key: Path | None, topk: int) -> None:
        self._classifier = load(artifact, sha256=sha256, threads=threads, noise_key=noise_key)
        self._topk = topk

    async def classify(self, pixels: NDArray[np.uint8]) -> list[Answer | NoAnswer]:
        """Answers for pixels, uint8 [N, 3, H, W], off the event loop, which says that the worker lives."""
        return await asyncio.to_thread(answers, self._classifier, pixels, topk=self._topk)


class Workers:
    """All workers, as the gateway sees them.

    handle: of their deployment.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def classify(self, pixels: NDArray[np.uint8]) -> Sequence[Answer | NoAnswer]:
        """Answers for pixels, uint8 [N, 3, H, W], from whichever worker is free; they go by shared memory.

        Raises Refusal with 503 where two die of it.
        """
        for _ in range(_ATTEMPTS):
            try:
                return await self._handle.classify.remote(pixels)
            except (RayError, RayServeException):
                continue
        raise no_answer()

    async def running(self) -> int:
        """How many have loaded the artifact and live, as Ray Serve's controller knows it."""
        status = await asyncio.to_thread(serve.status)
        return sum(
            count
            for application in status.applications.values()
            for name, deployment in application.deployments.items()
            for state, count in deployment.replica_states.items()
            if name == NAME and state == "RUNNING"
        )
