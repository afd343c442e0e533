"""From an HTTP request to the bytes of a picture, within limits."""

from __future__ import annotations

import asyncio
import contextlib

from refusal import Refusal
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message as Event

__all__ = ["Uploads"]

_FORM = "multipart/form-data"
_LINGERING = 4  # times the limit is read of a body that is refused


class Uploads:
    """All bodies that are on their way.

    limit: bytes of a body. seconds: until one has come. together: bytes of all that are there at once, so
    that slow ones cost little and many large ones no more than that. Used inside one event loop.
    """

    def __init__(self, *, limit: int, seconds: float, together: int) -> None:
        self._limit = limit
        self._seconds = seconds
        self._left = together

    async def read(self, request: Request) -> bytes:
        """The encoded picture in a request: its body (image/*), or the only file of a form.

        Raises Refusal with 400 for an empty or broken body, 408 for one that does not come in time, 413 for
        one that is larger than the limit (kept no further), 415 for another content type than image/* and
        multipart/form-data, and 503 where all bodies together are too many bytes.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _FORM and not kind.startswith("image/"):
            raise Refusal(415, f"expected a body of type image/* or {_FORM}, got {kind or 'none'}")
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and len(declared) < 20 and int(declared) > self._limit:
            await self._linger(request)
            raise Refusal(413, f"expected at most {self._limit} bytes, got {declared}")
        body = _Body(self, request)
        try:
            async with asyncio.timeout(self._seconds):
                bounded = Request(request.scope, body.receive)
                data = await (_file(bounded) if kind == _FORM else bounded.body())
        except ClientDisconnect as error:
            raise Refusal(400, "the body ended early") from error
        except TimeoutError as error:
            raise Refusal(408, f"expected the body within {self._seconds:g} seconds") from error
        finally:
            self._left += body.count
        if not data:
            raise Refusal(400, "expected a picture, got zero bytes")
        return data

    async def _linger(self, request: Request) -> None:
        """Reads a body that is refused and keeps none of it: who still sends would miss the answer."""
        with contextlib.suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(self._seconds):
                left = _LINGERING * self._limit
                async for piece in request.stream():
                    if (left := left - len(piece)) < 0:
                        break

    def take(self, count: int, whole: int) -> None:
        """Counts more bytes of a body, `whole` with them. Raises Refusal where they are too many."""
        if whole > self._limit:
            raise Refusal(413, f"expected at most {self._limit} bytes, got more")
        if count > self._left:
            raise Refusal(503, "too many bytes are on their way; try again later", {"Retry-After": "5"})
        self._left -= count


class _Body:
    """A request's body, as it comes. count: bytes of it that are counted among all."""

    def __init__(self, uploads: Uploads, request: Request) -> None:
        self._uploads, self._request = uploads, request
        self.count = 0

    async def receive(self) -> Event:
        event = await self._request.receive()
        more = len(event.get("body", b""))
        self._uploads.take(more, self.count + more)
        self.count += more
        return event


async def _file(request: Request) -> bytes:
    try:
        async with request.form(max_files=1, max_fields=1) as form:
            files = [part for part in form.values() if isinstance(part, UploadFile)]
            if len(files) != 1:
                raise Refusal(400, f"expected one file in the form, got {len(files)}")
            return await files[0].read()
    except HTTPException as error:
        raise Refusal(400, f"broken form: {error.detail}") from error
