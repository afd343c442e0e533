"""Requests that wait together are answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Batcher"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Hands what waits to whichever worker is free, up to `size` items at once, in order of arrival.

    run: turns N items into N results, in their order; an exception goes to all N. workers: how many runs
    there may be at once. Made and used inside one event loop.

    There is no timer: a lone item goes at once, and while all workers are busy the next batch grows.
    (`ray.serve.batch` closes a batch when its timer ends, busy workers or not: under load that leaves a queue
    of small batches.)
    """

    def __init__(
        self, run: Callable[[list[Item]], Awaitable[Sequence[Result]]], *, size: int, workers: int
    ) -> None:
        self._run = run
        self._size = size
        self._waiting: asyncio.Queue[tuple[Item, asyncio.Future[Result]]] = asyncio.Queue()
        self._loops = [asyncio.ensure_future(self._work()) for _ in range(workers)]

    async def submit(self, item: Item) -> Result:
        """An item's result; raises what `run` raised for its batch."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((item, future))
        return await future

    async def _work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._size and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            # Who gave up waiting costs nothing more.
            batch = [(item, future) for item, future in batch if not future.done()]
            if not batch:
                continue
            items = [item for item, _ in batch]
            try:
                results = await self._run(items)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
