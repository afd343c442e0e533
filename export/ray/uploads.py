"""From an HTTP request to the bytes of a picture, within limits."""

from __future__ import annotations

import asyncio

from refusal import Refusal
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message as Event

__all__ = ["uploaded"]

_FORM = "multipart/form-data"


async def uploaded(request: Request, *, limit: int, seconds: float) -> bytes:
    """The encoded picture in a request: its body (image/*), or the only file of a form (multipart/form-data).

    limit: bytes of the body. seconds: until it has come. Raises Refusal with 400 for an empty or broken body,
    408 for one that does not come in time, 413 for one that is larger (read no further), and 415 for
    another content type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM and not kind.startswith("image/"):
        raise Refusal(415, f"expected a body of type image/* or {_FORM}, got {kind or 'none'}")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise Refusal(413, f"expected at most {limit} bytes, got {declared}")
    bounded = _bounded(request, limit)
    try:
        async with asyncio.timeout(seconds):
            data = await (_file(bounded) if kind == _FORM else bounded.body())
    except ClientDisconnect as error:
        raise Refusal(400, "the body ended early") from error
    except TimeoutError as error:
        raise Refusal(408, f"expected the body within {seconds:g} seconds") from error
    if not data:
        raise Refusal(400, "expected a picture, got zero bytes")
    return data


def _bounded(request: Request, limit: int) -> Request:
    """The same request, whose body ends with a Refusal after `limit` bytes, whatever its headers say."""
    count = 0

    async def receive() -> Event:
        nonlocal count
        event = await request.receive()
        count += len(event.get("body", b""))
        if count > limit:
            raise Refusal(413, f"expected at most {limit} bytes, got more")
        return event

    return Request(request.scope, receive)


async def _file(request: Request) -> bytes:
    try:
        async with request.form(max_files=1, max_fields=1) as form:
            files = [part for part in form.values() if isinstance(part, UploadFile)]
            if len(files) != 1:
                raise Refusal(400, f"expected one file in the form, got {len(files)}")
            return await files[0].read()
    except HTTPException as error:
        raise Refusal(400, f"broken form: {error.detail}") from error
