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
    there may be at once. seconds: until a batch has its results; its items then get `late()`, and the
    worker is not given another batch before it is done with this one. Made and used inside one event loop.

    There is no timer: a lone item goes at once, and while all workers are busy the next batch grows.
    (`ray.serve.batch` closes a batch when its timer ends, busy workers or not: under load that leaves a queue
    of small batches.)
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        size: int,
        workers: int,
        seconds: float,
        late: Callable[[], Exception],
    ) -> None:
        self._run = run
        self._seconds = seconds
        self._late = late
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
            futures = [future for _, future in batch]
            running = asyncio.create_task(  # noqa: RUF006 (it is awaited below)
                self._finished([item for item, _ in batch])
            )
            if not (await asyncio.wait({running}, timeout=self._seconds))[0]:
                _fail(futures, self._late())
            results = await running
            if isinstance(results, Exception):
                _fail(futures, results)
                continue
            for future, result in zip(futures, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def _finished(self, items: list[Item]) -> Sequence[Result] | Exception:
        try:
            return await self._run(items)
        except Exception as error:
            return error


def _fail(futures: Sequence[asyncio.Future[Result]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
