"""The HTTP route of an app's OpenAPI document."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brolly.data.openapi import document
from brolly.data.query_string import refuse
from brolly.data.visit import visit
from brolly.endpoint import caller_of, deps_of

_VARY = "Authorization, X-Butterbase-As-Role, X-Butterbase-As-User"


async def _document(request: Request) -> Response:
    if request.query_params:
        raise refuse("openapi.json takes no parameters.")
    headers = request.headers
    role, user = headers.get("x-butterbase-as-role") or None, headers.get("x-butterbase-as-user") or None
    at = await visit(deps_of(request), caller_of(request), request.path_params["app_id"], role, user)
    found = await document(at)
    known = {"ETag": found.tag, "Cache-Control": "private, no-cache", "Vary": _VARY}
    if found.tag in (part.strip() for part in headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=known)
    return Response(found.body, headers=known, media_type="application/json")


routes = [
    Route(
        "/v1/{app_id}/openapi.json",
        _document,
        methods=["GET"],
        middleware=[Middleware(GZipMiddleware, minimum_size=4096, compresslevel=4)],
    )
]
