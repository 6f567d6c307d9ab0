"""Resumable uploads as browsers' Uppy and tus-js-client speak them: tus 1.0.0.

With the extensions creation, creation-with-upload, expiration, checksum and termination.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator
from email.utils import format_datetime

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from brolly.blob.store import too_large
from brolly.core.errors import AppError, error_body
from brolly.endpoint import caller_of, deps_of
from brolly.incoming import chunks_of
from brolly.storage import resumable
from brolly.storage.access import Visit, visit
from brolly.storage.reservations import wish
from brolly.storage.resumable import Checksum, ChecksumError, DisconnectedError, Upload
from brolly.storage.routes import note

VERSION = "1.0.0"
PIECE = "application/offset+octet-stream"
_ALGORITHMS = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}
_NUMBER = re.compile(r"[0-9]{1,18}")
_LONGEST_METADATA = 8192
_NAMES = {"name": "filename", "filetype": "type", "contentType": "type", "content_type": "type"}
_DOCS = "Read the message; butterbase_docs explains resumable uploads under storage."


async def uploads(request: Request) -> Response:
    """Begin an upload, or say what this server understands."""
    if request.method == "OPTIONS":
        return _capabilities(request)
    _require_version(request)
    at = await _visit(request)
    upload = await _begun(request, at)
    headers = {"Location": f"{deps_of(request).settings.base_url}/storage/{at.app.id}/tus/{upload.file.id}"}
    if _is_piece(request):
        # What of the piece is refused does not undo the upload: the client asks how far it came.
        try:
            upload = await resumable.append(at, upload, 0, _body(request, upload, 0), _checksum(request))
        except ChecksumError:
            return _wrong_checksum(request, headers)
        except DisconnectedError:
            return Response(status_code=400, headers={"Connection": "close"})
    return Response(status_code=201, headers={**headers, **_progress(upload)})


async def _begun(request: Request, at: Visit) -> Upload:
    """The new upload, with its line in the audit log."""
    try:
        upload = await _begin(request, at)
    except AppError as refused:
        await note(at, "upload_url", None, refused)
        raise
    await note(at, "upload_url", str(upload.file.id), None)
    return upload


async def one_upload(request: Request) -> Response:
    """How far it has come, the next piece, or its end."""
    method = request.headers.get("x-http-method-override", request.method).upper()
    if method == "OPTIONS":
        return _capabilities(request)
    _require_version(request)
    at = await _visit(request)
    object_id = request.path_params["object_id"]
    if method == "HEAD":
        upload = await resumable.find_upload(at, object_id)
        headers = {**_progress(upload), "Upload-Length": str(upload.file.size_bytes), "Cache-Control": "no-store"}
        if upload.metadata:
            headers["Upload-Metadata"] = upload.metadata
        return Response(headers=headers)
    if method == "DELETE":
        return await _drop(at, object_id)
    if method != "PATCH":
        raise AppError("VALIDATION_INVALID_SCHEMA", f"An upload does not take {method[:20]!a}.", remediation=_DOCS)
    return await _append(request, at, object_id)


async def _append(request: Request, at: Visit, object_id: str) -> Response:
    if not _is_piece(request):
        return _refused(request, 415, f"A piece is sent as {PIECE}.")
    offset = _number(request, "Upload-Offset")
    upload = await resumable.find_upload(at, object_id)
    try:
        upload = await resumable.append(at, upload, offset, _body(request, upload, offset), _checksum(request))
    except ChecksumError:
        return _wrong_checksum(request, {})
    except DisconnectedError:
        return Response(status_code=400, headers={"Connection": "close"})
    return Response(status_code=204, headers=_progress(upload))


async def _drop(at: Visit, object_id: str) -> Response:
    error: AppError | None = None
    try:
        await resumable.drop(at, object_id)
    except AppError as refused:
        error = refused
        raise
    finally:
        await note(at, "delete", object_id, error)
    return Response(status_code=204, headers={"Tus-Resumable": VERSION})


async def _begin(request: Request, at: Visit) -> Upload:
    if "upload-defer-length" in request.headers:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA", "Room is reserved first, so Upload-Length must be known.", remediation=_DOCS
        )
    size = _number(request, "Upload-Length")
    if not size:
        raise AppError("VALIDATION_INVALID_SCHEMA", "A file has at least one byte.", remediation=_DOCS)
    text = request.headers.get("upload-metadata", "")
    facts = read_metadata(text)
    wanted = wish(
        at.app,
        facts.get("filename") or "file",
        facts.get("type") or "application/octet-stream",
        size,
        facts.get("folder", ""),
        facts.get("public", "") == "true",
    )
    return await resumable.begin(at, wanted, text)


def read_metadata(text: str) -> dict[str, str]:
    """``Upload-Metadata``: pairs of a name and a base64 value, separated by commas. Other names are kept unread."""
    if len(text) > _LONGEST_METADATA:
        raise AppError("VALIDATION_INVALID_SCHEMA", "Upload-Metadata is too long.", remediation=_DOCS)
    facts: dict[str, str] = {}
    for pair in text.split(","):
        name, _, value = pair.strip().partition(" ")
        try:
            facts.setdefault(_NAMES.get(name, name), base64.b64decode(value.strip(), validate=True).decode())
        except (binascii.Error, UnicodeDecodeError):
            raise AppError(
                "VALIDATION_INVALID_SCHEMA", f"Upload-Metadata {name[:60]!a} is not base64 of UTF-8.", remediation=_DOCS
            ) from None
    return facts


async def _visit(request: Request) -> Visit:
    deps, caller = deps_of(request), caller_of(request)
    role, user = (request.headers.get(f"x-butterbase-as-{name}") or None for name in ("role", "user"))
    at = await visit(deps, caller, request.path_params["app_id"], role, user)
    at.require_sender()
    if deps.settings.read_only or caller.read_only:
        raise AppError(
            "AUTH_FORBIDDEN",
            "This server or key is in read-only mode; no file is sent.",
            remediation="Use a server and key that are not read-only; manage_storage list works as it is.",
        )
    return at


async def _body(request: Request, upload: Upload, offset: int) -> AsyncIterator[bytes]:
    announced = request.headers.get("content-length", "")
    if _NUMBER.fullmatch(announced) and int(announced) > upload.file.size_bytes - offset:
        raise too_large(upload.file.size_bytes)
    try:
        async for chunk in chunks_of(request):
            yield chunk
    except ClientDisconnect:
        raise DisconnectedError from None


def _checksum(request: Request) -> Checksum | None:
    text = request.headers.get("upload-checksum")
    if text is None:
        return None
    algorithm, _, encoded = text.partition(" ")
    try:
        expected = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        expected = b""
    if _ALGORITHMS.get(algorithm) != len(expected):
        known = ", ".join(_ALGORITHMS)
        raise AppError(
            "VALIDATION_INVALID_SCHEMA", f"Upload-Checksum is one of {known}, then base64.", remediation=_DOCS
        )
    return Checksum(algorithm, expected)


def _number(request: Request, name: str) -> int:
    text = request.headers.get(name, "")
    if not _NUMBER.fullmatch(text):
        raise AppError("VALIDATION_INVALID_SCHEMA", f"{name} must be a number of bytes.", remediation=_DOCS)
    return int(text)


def _is_piece(request: Request) -> bool:
    return request.headers.get("content-type", "") == PIECE


def _require_version(request: Request) -> None:
    if request.headers.get("tus-resumable") != VERSION:
        raise AppError("VALIDATION_INVALID_SCHEMA", f"Tus-Resumable must be {VERSION}.", remediation=_DOCS)


def _progress(upload: Upload) -> dict[str, str]:
    headers = {
        "Tus-Resumable": VERSION,
        "Upload-Offset": str(upload.received),
        "X-Object-Id": str(upload.file.id),
    }
    if upload.file.expires_at is not None:
        headers["Upload-Expires"] = format_datetime(upload.file.expires_at, usegmt=True)
    return headers


def _capabilities(request: Request) -> Response:
    del request
    headers = {
        "Tus-Resumable": VERSION,
        "Tus-Version": VERSION,
        "Tus-Extension": "creation,creation-with-upload,expiration,checksum,termination",
        "Tus-Checksum-Algorithm": ",".join(_ALGORITHMS),
    }
    return Response(status_code=204, headers=headers)


def _refused(request: Request, status: int, message: str, code: str = "VALIDATION_INVALID_SCHEMA") -> Response:
    body = error_body(AppError(code, message, remediation=_DOCS), deps_of(request).settings.base_url)
    return JSONResponse(body, status, {"Tus-Resumable": VERSION})


def _wrong_checksum(request: Request, headers: dict[str, str]) -> Response:
    # The status that the protocol has for it.
    answer = _refused(request, 460, "The piece does not have its checksum.", "VALIDATION_INVALID_INPUT")
    answer.headers.update(headers)
    return answer


routes = [
    Route("/storage/{app_id}/tus", uploads, methods=["POST", "OPTIONS"]),
    Route("/storage/{app_id}/tus/{object_id}", one_upload, methods=["HEAD", "PATCH", "DELETE", "POST", "OPTIONS"]),
]
