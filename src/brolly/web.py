"""The HTTP entrance: request id, body limit, caller, CORS, errors; then the slices' routes and /mcp."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, cast

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from brolly import __version__
from brolly.blob.health import StoreHealth
from brolly.body_limit import BodyLimit
from brolly.core import postgrest
from brolly.core.caller import anonymous
from brolly.core.errors import AppError, error_body
from brolly.core.reserved import ROUTE_WORDS
from brolly.deps import Deps
from brolly.hosting.entrance import SiteEntrance
from brolly.hosting.quick import QuickFiles
from brolly.identity import authorization_of, identify, take_token
from brolly.mcp_http import McpEntrance

log = logging.getLogger("brolly.http")

_APP_PREFIXES = ("v1", "auth", "storage")
# Signed URLs carry their own authority: no credentials are looked at, any page may use one that it was given.
_SIGNED = ("/objects/", "/uploads/")
_NO_CALLER = ("/mcp", "/health", "/.well-known/", *_SIGNED)
# Who sends a webhook is known by its signature. What it has in Authorization is between it and the function, and
# the route counts: what is signed for the function, what is not for the address.
_WEBHOOK = re.compile(r"/v1/[^/]+/webhook/")
# Here a credential that does not hold is looked at by the route, which may not need one.
_OWN_CREDENTIALS = re.compile(r"/auth/|/oauth/|/v1/[^/]+/fn/")
_CORS_METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
_CORS_HEADERS = (
    "Content-Type, Authorization, Prefer, Range, X-Signup-Source, X-Signup-Referrer, "
    "X-Organization-Id, X-Butterbase-As-Role, X-Butterbase-As-User, If-None-Match, "
    "Accept-Profile, Content-Profile, Range-Unit, X-Client-Info, X-Retry-Count, apikey, "
    "Tus-Resumable, Upload-Length, Upload-Offset, Upload-Metadata, Upload-Checksum, X-HTTP-Method-Override"
)
_CORS_EXPOSED = (
    "Content-Range, ETag, Link, Location, Preference-Applied, X-Next-Cursor, X-Embedded-Limits, X-Request-Id, "
    "Retry-After, "
    "Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, "
    "Upload-Offset, Upload-Length, Upload-Expires, Upload-Metadata, X-Object-Id, "
    "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
)


def error_response(deps: Deps, error: AppError, asked: Scope) -> JSONResponse:
    """The one error shape as a response; where PostgREST's clients ask, with the keys that these read."""
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="brolly"'
    body = error_body(error, deps.settings.base_url)
    if postgrest.reads_keys(asked["path"], Headers(scope=asked)):
        body |= postgrest.error_keys(error, asked["path"])
    return JSONResponse(body, error.status, headers)


def header(scope: Scope, wanted: bytes) -> str | None:
    """The first header of that name, which is written in small letters."""
    for name, value in scope["headers"]:
        if name == wanted:
            return value.decode("latin-1")
    return None


class RequestScope:
    """Outermost: gives the request an id and a log line, and turns what is unexpected into INTERNAL_ERROR."""

    def __init__(self, app: ASGIApp, deps: Deps) -> None:
        self.app, self.deps = app, deps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        id_header = (b"x-request-id", request_id.encode())
        started, status = time.perf_counter(), 0

        async def tracked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                limits = scope["state"].get("rate_limit", ())
                message["headers"] = [*message["headers"], id_header, *limits]
            await send(message)

        try:
            await self.app(scope, receive, tracked)
        except Exception as error:
            ours = error if isinstance(error, AppError) else internal_error(request_id, error)
            if status:
                raise
            await error_response(self.deps, ours, scope)(scope, receive, tracked)
        finally:
            took = (time.perf_counter() - started) * 1000
            # The path is the client's text: escaped, so that it cannot forge a line.
            log.info("%s %s %s %.1fms %s", scope["method"], ascii(scope["path"])[1:-1], status, took, request_id)


def internal_error(request_id: str, error: Exception) -> AppError:
    """Log what happened under an id; the answer carries the id alone."""
    log.error("unexpected error %s", request_id, exc_info=error)
    return AppError("INTERNAL_ERROR", f"Something went wrong here (error id {request_id}).", details={"id": request_id})


class Cors:
    """Answers for an app's routes by that app's own list, for the others by the operator's.

    A list that is read per request is right at once on every replica.
    """

    def __init__(self, app: ASGIApp, deps: Deps) -> None:
        self.app, self.deps = app, deps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = header(scope, b"origin") if scope["type"] == "http" else None
        if origin is None or scope["path"].startswith(_SIGNED):
            await self.app(scope, receive, send)
            return
        allowed = origin in await self._allowed(scope["path"])
        asked = Headers(scope=scope).get("access-control-request-method")
        if scope["method"] == "OPTIONS" and asked is not None:
            await Response(status_code=204, headers=self._headers(origin) if allowed else {"Vary": "Origin"})(
                scope, receive, send
            )
            return

        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.add_vary_header("Origin")
                if allowed:
                    headers["Access-Control-Allow-Origin"] = origin
                    headers["Access-Control-Allow-Credentials"] = "true"
                    headers["Access-Control-Expose-Headers"] = _CORS_EXPOSED
            await send(message)

        try:
            await self.app(scope, receive, with_headers)
        except AppError as error:
            if started:
                raise
            # What an entrance refuses must be readable to the page, or it cannot tell 401 from 429.
            await error_response(self.deps, error, scope)(scope, receive, with_headers)

    async def _allowed(self, path: str) -> tuple[str, ...]:
        parts = path.split("/", 3)
        if len(parts) > 2 and parts[1] in _APP_PREFIXES and parts[2].startswith("app_"):
            app = await self.deps.registry.find(parts[2])
            return app.allowed_origins if app else ()
        return self.deps.settings.allowed_origins

    def _headers(self, origin: str) -> dict[str, str]:
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Allow-Methods": _CORS_METHODS,
            "Access-Control-Allow-Headers": _CORS_HEADERS,
            "Access-Control-Max-Age": "600",
            "Vary": "Origin",
        }


class Identity:
    """Puts the ``Caller`` into the request's state. /mcp answers for itself, with its own metadata."""

    def __init__(self, app: ASGIApp, deps: Deps) -> None:
        self.app, self.deps = app, deps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._look_at_socket(scope)
        elif scope["type"] == "http" and _WEBHOOK.match(scope["path"]):
            scope["state"]["caller"] = anonymous(**origin_of(scope))
        elif scope["type"] == "http" and not scope["path"].startswith(_NO_CALLER):
            try:
                caller = scope["state"]["caller"] = await caller_of_scope(self.deps, scope)
            except AppError as error:
                if error.status != 401:
                    raise
                # Clients send their old token along when they sign in again or renew it. The routes that
                # need a signed-in user raise what was wrong with it.
                caller = anonymous(**origin_of(scope))
                scope["state"] |= {"caller": caller, "refused": error}
            await self.deps.rates.admit(caller, scope)
            if "refused" in scope["state"] and not _OWN_CREDENTIALS.match(scope["path"]):
                raise scope["state"]["refused"]
        await self.app(scope, receive, send)

    async def _look_at_socket(self, scope: Scope) -> None:
        """As for a request; a token in the query counts, since pages cannot send a header with a WebSocket.

        What is wrong is left to the route: a page learns the reason only from a socket that was accepted. The route
        also gets ``identify``, with which a caller can be made of a newer token.
        """
        state, origin = scope["state"], origin_of(scope)

        async def identify_token(token: str) -> Any:
            return await identify(self.deps, f"Bearer {token}", **origin)

        state |= {"caller": anonymous(**origin), "identify": identify_token}
        try:
            token = take_token(scope)
            state["caller"] = await (identify_token(token) if token else caller_of_scope(self.deps, scope))
        except AppError as error:
            state["refused"] = error
        try:
            await self.deps.rates.admit(state["caller"], scope)
        except AppError as error:
            state["refused"] = error


class Shortcut:
    """Leads requests for rows past the table of routes, at whose end they would be found.

    ``last`` are the routes that take any name, ``/v1/{app_id}/{table}`` and what lies below; a path whose
    third part another feature's route begins with goes the usual way, as does what they do not answer.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], last: Sequence[BaseRoute]) -> None:
        self.app = app
        paths = [route.path.split("/") for route in routes if isinstance(route, Route)]
        self._taken = {parts[3] for parts in paths if len(parts) > 3 and parts[1] == "v1"} | ROUTE_WORDS
        self._ways = {
            len(parts): (tuple(part.strip("{}") for part in parts[2:]), route.methods or set[str](), route.app)
            for route in last
            if isinstance(route, Route) and (parts := route.path.split("/"))[:4] == ["", "v1", "{app_id}", "{table}"]
        }
        if any(part.startswith("{") for part in self._taken):
            self._ways = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"] if scope["type"] == "http" else ""
        parts = path.split("/")
        way = self._ways.get(len(parts))
        if way is None or parts[1] != "v1" or parts[3] in self._taken or not all(parts[2:]):
            await self.app(scope, receive, send)
            return
        names, methods, found = way
        if scope["method"] not in methods or not parts[2].startswith("app_"):
            await self.app(scope, receive, send)
            return
        scope["path_params"] = dict(zip(names, parts[2:], strict=True))
        await found(scope, receive, send)


def origin_of(scope: Scope) -> dict[str, Any]:
    """Where an ASGI request comes from, as a ``Caller`` has it."""
    client = scope.get("client")
    return {
        "request_id": scope["state"].get("request_id", ""),
        "ip": client[0] if client else None,
        "user_agent": (header(scope, b"user-agent") or "")[:200] or None,
    }


async def caller_of_scope(deps: Deps, scope: Scope) -> Any:
    """The caller of an ASGI request."""
    return await identify(deps, authorization_of(scope["headers"]), **origin_of(scope))


SERVICE = "control-api"
"""What the published clients expect the health routes to name."""


def refuse_parameters(request: Request) -> None:
    """Raise for any query parameter: one that is passed over may be a mistyped one that was meant to hold."""
    if request.query_params:
        names = ", ".join(sorted(request.query_params))
        raise AppError("VALIDATION_INVALID_SCHEMA", f"{request.url.path} takes no parameters, but was given: {names}.")


async def _health(request: Request) -> Response:
    refuse_parameters(request)
    return JSONResponse({"status": "ok", "service": SERVICE, "version": __version__})


async def _root(_request: Request) -> Response:
    return RedirectResponse("/docs", 302)


async def _ready(request: Request) -> Response:
    refuse_parameters(request)
    deps: Deps = request.app.state.deps
    await deps.control.fetchval("select 1")
    # Without its files a server still answers for rows: another one would be no better off.
    checks = {"database": "ok", "files": await request.app.state.store_health.ask()}
    return JSONResponse({"status": "ready", "service": SERVICE, "checks": checks})


async def _app_error(request: Request, error: Exception) -> Response:
    return error_response(request.app.state.deps, cast(AppError, error), request.scope)


async def _http_error(request: Request, error: Exception) -> Response:
    error = cast(HTTPException, error)
    if error.status_code == 404:
        what = f"Route {request.method}:{request.url.path} not found"
        return JSONResponse({"message": what, "error": "Not Found", "statusCode": 404}, 404)
    body = {"message": f"{request.method} is not allowed here", "error": error.detail, "statusCode": error.status_code}
    return JSONResponse(body, error.status_code, error.headers)


def build_web(deps: Deps, lifespan: Callable[[], AbstractAsyncContextManager[None]] | None = None) -> Starlette:
    """The ASGI application over open ``Deps``. ``lifespan`` wraps the time for which it serves."""
    mcp = McpEntrance(deps)

    @asynccontextmanager
    async def life(_app: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(mcp.running())
            for part in deps.slices:
                if part.serving is not None:
                    await stack.enter_async_context(part.serving(deps))
            if lifespan is not None:
                await stack.enter_async_context(lifespan())
            yield

    routes: list[BaseRoute] = [Route("/", _root), Route("/health", _health), Route("/health/ready", _ready)]
    last: list[BaseRoute] = []
    for part in deps.slices:
        routes += part.routes
        last += part.last_routes
    web = Starlette(
        routes=[*routes, *last, Mount("", app=mcp)],
        lifespan=life,
        middleware=[
            Middleware(RequestScope, deps=deps),
            Middleware(SiteEntrance, deps=deps),
            Middleware(Cors, deps=deps),
            Middleware(BodyLimit, settings=deps.settings),
            Middleware(Identity, deps=deps),
            Middleware(Shortcut, routes=routes, last=last),
        ],
        exception_handlers={AppError: _app_error, HTTPException: _http_error},
    )
    web.middleware_stack = QuickFiles(web.build_middleware_stack(), deps)
    web.router.redirect_slashes = False
    web.state.deps = deps
    web.state.store_health = StoreHealth(deps.blob)
    return web
