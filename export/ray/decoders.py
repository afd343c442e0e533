"""Pictures decoded by processes that have a deadline, and are replaced when they miss it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import asdict
from pathlib import Path

import numpy as np
from decoder import ANY, LARGE, LENGTH, PIXELS, SMALL, Decoding
from numpy.typing import NDArray
from refusal import Refusal

from clipfast.preprocess import Preprocess

__all__ = ["Decoders"]

_PROGRAM = Path(__file__).with_name("decoder.py")


class Decoders:
    """So many processes that decode, one picture at a time each.

    Large pictures take all of them but one, so that others need not wait for them. preprocess: what a picture
    becomes. max_pixels: of a picture, decoded. seconds: that one may take. Made and used inside one event
    loop.
    """

    def __init__(self, number: int, preprocess: Preprocess, *, max_pixels: int, seconds: float) -> None:
        self._settings = Decoding(asdict(preprocess), max_pixels)
        self._shape = (3, *preprocess.size)
        self._seconds = seconds
        # A semaphore serves in order; who waits on a queue may be overtaken again and again.
        self._number = number
        self._free = asyncio.Semaphore(number)
        self._large = asyncio.Semaphore(max(1, number - 1))
        self._idle: list[Process | None] = [None] * number  # started when one is needed

    async def __call__(self, data: bytes) -> NDArray[np.uint8]:
        """A picture's pixels, uint8 [3, H, W].

        Raises Refusal with 422 for what is no picture or takes too long, and for one that a decoder dies of.
        """
        answer = await self._answer(SMALL + data)
        if answer == LARGE:
            async with self._large:
                answer = await self._answer(ANY + data)
        if answer[:1] != PIXELS:
            raise Refusal(422, answer[1:].decode())
        return np.frombuffer(answer, np.uint8, offset=1).reshape(self._shape)

    async def _answer(self, question: bytes) -> bytes:
        """Of the first process that is free."""
        async with self._free:
            process = self._idle.pop()
            try:
                if process is None or process.returncode is not None:
                    process = await self._start()
                return await self._asked(process, question)
            except BaseException:
                if process is not None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    process = None
                raise
            finally:
                self._idle.append(process)

    async def close(self) -> None:
        """Ends the processes; those at work first finish."""
        for _ in range(self._number):
            await self._free.acquire()
        for process in self._idle:
            if process is not None and process.stdin is not None:
                process.stdin.close()
                await process.wait()

    async def _start(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(_PROGRAM),
            self._settings.to_json(),
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # whose threads' buffers are address space
        )
        assert process.stdout is not None
        await process.stdout.readexactly(LENGTH.size)
        return process

    async def _asked(self, process: Process, question: bytes) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._seconds):
                process.stdin.write(LENGTH.pack(len(question)) + question)
                await process.stdin.drain()
                (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
                return await process.stdout.readexactly(length)
        except TimeoutError as error:
            raise Refusal(
                422, f"expected a picture that is decoded within {self._seconds:g} seconds"
            ) from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Refusal(422, "this picture cannot be decoded") from error
