"""The bytes behind the folder store's signed URLs: PUT, GET and HEAD as an S3 service answers them."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from brolly.blob.delivery import safe_content_type
from brolly.blob.folder import FolderStore
from brolly.blob.signing import PATH, Grant
from brolly.blob.store import Stat, incomplete, missing, too_large
from brolly.core.errors import AppError, error_body
from brolly.endpoint import deps_of
from brolly.incoming import chunks_of
from brolly.storage.reservations import arrived

_RANGE = re.compile(r"bytes=[ \t]*(\d*)-(\d*)[ \t]*")
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "ETag, Content-Length, Content-Range, Content-Disposition, Accept-Ranges",
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, PUT",
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Max-Age": "3600",
}
_REFUSED = "VALIDATION_INVALID_INPUT"


async def signed_object(request: Request) -> Response:
    """One object, for whoever holds a URL that was signed for it."""
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=_CORS | _PREFLIGHT)
    deps = deps_of(request)
    try:
        if not isinstance(deps.blob, FolderStore):
            raise missing(request.path_params["key"])
        method = "GET" if request.method == "HEAD" else request.method
        grant = deps.blob.signer.verify(method, request.path_params["key"], request.url.query)
        if method == "PUT":
            return await _receive(request, deps.blob, grant)
        return await _deliver(request, deps.blob, grant)
    except AppError as error:
        headers = dict(_CORS)
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        if request.method == "PUT":
            # The bytes that were not read would be taken for the next request.
            headers["Connection"] = "close"
        return JSONResponse(error_body(error, deps.settings.base_url), error.status, headers)
    except ClientDisconnect:
        return Response(status_code=400, headers={"Connection": "close"})


async def _receive(request: Request, store: FolderStore, grant: Grant) -> Response:
    content_type = request.headers.get("content-type", "")
    if content_type != grant.content_type:
        raise AppError(
            _REFUSED,
            f"The Content-Type is not the one that was declared, {grant.content_type}.",
            remediation="Send the headers that came with the URL; butterbase_docs explains files under storage.",
        )
    if "content-encoding" in request.headers:
        raise AppError(
            _REFUSED,
            "The bytes are stored as they come, so Content-Encoding cannot be kept.",
            remediation="Send the file without Content-Encoding; butterbase_docs explains files under storage.",
        )
    announced = request.headers.get("content-length")
    if announced is not None and announced.isdigit() and int(announced) != grant.size:
        raise too_large(grant.size) if int(announced) > grant.size else incomplete(int(announced), grant.size)
    stat = await store.write(
        grant.key, chunks_of(request), content_type=content_type, size=grant.size, sha256=grant.sha256
    )
    if not await arrived(deps_of(request), grant.key, stat):
        # It was deleted meanwhile, or its time is over.
        await store.delete([grant.key])
        raise missing(grant.key)
    return Response(headers={**_CORS, "ETag": f'"{stat.etag}"'})


async def _deliver(request: Request, store: FolderStore, grant: Grant) -> Response:
    # Given on to the response, which outlives this function.
    async with AsyncExitStack() as stack:
        content = await stack.enter_async_context(store.opened(grant.key))
        stat = content.stat
        headers = _facts(stat, grant)
        status = _condition(request.headers, stat)
        if status is not None:
            return Response(status_code=status, headers=headers)
        span = _span(request.headers, stat)
        if span is None:
            headers["Content-Range"] = f"bytes */{stat.size}"
            return Response(status_code=416, headers=headers)
        start, end, partial = span
        headers["Content-Length"] = str(end - start)
        if partial:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{stat.size}"
        status = 206 if partial else 200
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        return _Delivery(content.chunks(start, end), status, headers, stack.pop_all())


def _facts(stat: Stat, grant: Grant) -> dict[str, str]:
    content_type = safe_content_type(grant.content_type or stat.content_type)
    headers = {
        **_CORS,
        "ETag": f'"{stat.etag}"',
        "Last-Modified": format_datetime(stat.modified, usegmt=True),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Type": content_type,
        "Content-Disposition": grant.disposition or "attachment",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "cross-origin",
    }
    if content_type != "application/pdf":
        # Browsers' PDF viewers do not start in a sandbox.
        headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    return headers


def _condition(headers: Headers, stat: Stat) -> int | None:
    """The status that a condition of RFC 9110 section 13 asks for instead of the bytes."""
    if (match := headers.get("if-match")) is not None:
        if not _names(match, stat.etag):
            return 412
    elif (since := _date(headers.get("if-unmodified-since"))) and _seconds(stat) > since:
        return 412
    if (none := headers.get("if-none-match")) is not None:
        return 304 if _names(none, stat.etag) else None
    if (since := _date(headers.get("if-modified-since"))) and _seconds(stat) <= since:
        return 304
    return None


def _names(listed: str, etag: str) -> bool:
    return listed.strip() == "*" or any(
        each.strip().removeprefix("W/").strip('"') == etag for each in listed.split(",")
    )


def _date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC) if text else None
    except (ValueError, OverflowError):
        return None


def _seconds(stat: Stat) -> datetime:
    return stat.modified.replace(microsecond=0)


def _same_version(headers: Headers, stat: Stat) -> bool:
    version = headers.get("if-range")
    if version is None:
        return True
    if version.startswith('"'):
        return version.strip('"') == stat.etag
    return _date(version) == _seconds(stat)


def _span(headers: Headers, stat: Stat) -> tuple[int, int, bool] | None:
    """First byte, the one after the last, and whether a range was asked for; None when no byte of it exists.

    Several ranges, other units and malformed ones are passed over, as RFC 9110 allows and S3 does.
    """
    found = _RANGE.fullmatch(headers.get("range", ""))
    whole = (0, stat.size, False)
    if found is None or not (found[1] or found[2]) or not _same_version(headers, stat):
        return whole
    # No file is longer than 18 digits; a longer number must not cost the time of reading it.
    first, last = (int(text[:18]) if text else None for text in found.groups())
    if first is None:
        length = min(last or 0, stat.size)
        return (stat.size - length, stat.size, True) if length else None
    if last is not None and last < first:
        return whole
    if first >= stat.size:
        return None
    return first, min(stat.size, stat.size if last is None else last + 1), True


class _Delivery(StreamingResponse):
    """The bytes, read as fast as the client takes them; the file is closed however it ends."""

    def __init__(
        self, chunks: AsyncGenerator[bytes], status: int, headers: Mapping[str, str], stack: AsyncExitStack
    ) -> None:
        super().__init__(chunks, status, headers)
        self._stack = stack
        stack.push_async_callback(chunks.aclose)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


routes = [Route(PATH + "{key:path}", signed_object, methods=["GET", "HEAD", "PUT", "OPTIONS"])]
