"""Where a deployment's zip is sent: a signed URL of our own, so that the size is bounded with every kind of store."""

from __future__ import annotations

import hmac
import secrets
import time
from hashlib import sha256
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from brolly.core.errors import AppError, error_body
from brolly.core.tokens import derive
from brolly.deps import Deps
from brolly.endpoint import deps_of
from brolly.hosting.deployments import Deployment
from brolly.hosting.names import upload_name
from brolly.incoming import chunks_of

PATH = "/uploads/"
UPLOAD_SECONDS = 900
CONTENT_TYPES = ("application/zip", "application/x-zip-compressed", "application/octet-stream")
_CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "ETag"}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "PUT",
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Max-Age": "3600",
}
_RENEW = "Call create_frontend_deployment for a new uploadUrl, and send the zip there."


def _signature(deps: Deps, deployment_id: UUID, expires: int, size: int) -> str:
    key = bytes.fromhex(derive(deps.secret, "deployment-uploads"))
    return hmac.new(key, f"{deployment_id}\n{expires}\n{size}".encode(), sha256).hexdigest()


def upload_url(deps: Deps, deployment: Deployment, most_bytes: int) -> str:
    """The URL to PUT a zip of at most so many bytes to, once or again until it expires or the deployment starts."""
    expires = int(deployment.upload_expires_at.timestamp())
    query = {"expires": expires, "size": most_bytes}
    signature = _signature(deps, deployment.id, expires, most_bytes)
    return f"{deps.settings.base_url}{PATH}{deployment.id}?{urlencode({**query, 'signature': signature})}"


def _granted(deps: Deps, request: Request) -> tuple[UUID, int]:
    """Which deployment the URL is for, and how many bytes it may bring; the same refusal for all that is wrong."""
    query = request.query_params
    try:
        deployment_id = UUID(request.path_params["deployment_id"])
        expires, size = int(query.get("expires", "")[:18]), int(query.get("size", "")[:18])
    except ValueError:
        raise AppError("AUTH_FORBIDDEN", "The URL's signature is not valid.", remediation=_RENEW) from None
    expected = _signature(deps, deployment_id, expires, size)
    if not hmac.compare_digest(query.get("signature", "").encode(), expected.encode()):
        raise AppError("AUTH_FORBIDDEN", "The URL's signature is not valid.", remediation=_RENEW)
    if expires <= time.time():
        raise AppError("AUTH_FORBIDDEN", "The upload URL has expired.", remediation=_RENEW)
    return deployment_id, size


async def receive(request: Request) -> Response:
    """Take the zip in, whole or not at all."""
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=_CORS | _PREFLIGHT)
    deps = deps_of(request)
    try:
        deployment_id, most = _granted(deps, request)
        return Response(headers={**_CORS, "ETag": f'"{await _store(deps, request, deployment_id, most)}"'})
    except AppError as error:
        # The bytes that were not read would be taken for the next request.
        headers = {**_CORS, "Connection": "close"}
        return JSONResponse(error_body(error, deps.settings.base_url), error.status, headers)
    except ClientDisconnect:
        return Response(status_code=400, headers={"Connection": "close"})


async def _store(deps: Deps, request: Request, deployment_id: UUID, most: int) -> str:
    kind = request.headers.get("content-type", "application/zip").partition(";")[0].strip().lower()
    if kind not in CONTENT_TYPES or "content-encoding" in request.headers:
        raise AppError(
            "VALIDATION_INVALID_INPUT",
            f"A zip is expected, with Content-Type: application/zip, not {kind[:80]!r}.",
            remediation="Send the zip as it is, with Content-Type: application/zip; create_frontend_deployment's page "
            "shows how.",
        )
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:18]) > most:
        raise _too_large(most)
    app_id = await deps.control.fetchval(
        "select app_id from brolly.deployments where id = $1 and status = 'WAITING'", deployment_id
    )
    if app_id is None:
        raise _started()
    # A name of its own for each try: what was sent completely is never changed by what comes after.
    key = upload_name(app_id, deployment_id, secrets.token_hex(4))
    try:
        stat = await deps.blob.write(key, chunks_of(request), content_type="application/zip", limit=most)
    except AppError as error:
        raise _too_large(most) if error.code == "REQUEST_TOO_LARGE" else error from None
    former = await deps.control.fetchrow(
        "update brolly.deployments d set upload_key = $2, upload_bytes = $3, updated_at = now() "
        "from (select id, upload_key from brolly.deployments where id = $1 for update) as old "
        "where d.id = old.id and d.status = 'WAITING' returning old.upload_key as key",
        deployment_id,
        key,
        stat.size,
    )
    await deps.blob.delete([key if former is None else former["key"]] if former is None or former["key"] else [])
    if former is None:
        raise _started()
    return stat.etag


def _started() -> AppError:
    return AppError(
        "STATE_INVALID_TRANSITION",
        "The deployment was started, or is gone; its zip cannot be replaced any more.",
        remediation=_RENEW,
    )


def _too_large(most: int) -> AppError:
    return AppError(
        "REQUEST_TOO_LARGE",
        f"The zip is larger than {most} bytes ({most // 1_048_576} MB).",
        remediation="Leave out what visitors do not need (source maps, node_modules), then call "
        "create_frontend_deployment again; the operator can raise BROLLY_DEPLOYMENT_LIMIT_MB.",
        details={"maxSizeBytes": most},
    )


routes = [Route(PATH + "{deployment_id}", receive, methods=["PUT", "OPTIONS"])]
