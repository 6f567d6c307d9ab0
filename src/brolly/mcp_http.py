"""``/mcp`` over HTTP: a bearer key for every request, Host and Origin checked, limits that clients ask for."""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from brolly.authorization.asked import SCOPES, issuer, resource_of
from brolly.authorization.service import caller_of_access_token, is_access_token
from brolly.core.caller import Caller, anonymous
from brolly.core.errors import AppError, error_body
from brolly.core.settings import APP_ID
from brolly.core.tool import READ_BY_CLIENT
from brolly.deps import Deps
from brolly.identity import authorization_of, identify
from brolly.mcp_exchange import Exchanges
from brolly.mcp_server import BrollyServer, no_tool

METADATA_PATH = "/.well-known/oauth-protected-resource"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_PARAMETERS = {"read_only": "x-brolly-read-only", "tools": "x-brolly-tools", "app": "x-brolly-app"}


def with_parameters(headers: Mapping[str, str], query: str) -> Mapping[str, str]:
    """The headers, narrowed by the URL's ``read_only``, ``tools`` and ``app``.

    Any other parameter is refused by name: a mistyped one must not turn read-only into read-write.
    """
    narrowed = dict(headers)
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _PARAMETERS:
            near = difflib.get_close_matches(name, _PARAMETERS, 1)
            raise AppError(
                "VALIDATION_INVALID_SCHEMA",
                f"/mcp takes no parameter {name!r}." + (f" Did you mean {near[0]}?" if near else ""),
                remediation="Use /mcp?read_only=true, /mcp?app=app_… or /mcp?tools=manage_schema,select_rows.",
            )
        if name == "read_only" and value not in ("true", "1", "false", "0"):
            raise AppError("VALIDATION_INVALID_SCHEMA", f"read_only is {value!r}; expected true or false.")
        # What a header narrows already, the URL does not widen.
        if value not in ("false", "0") and not (name != "read_only" and narrowed.get(_PARAMETERS[name])):
            narrowed[_PARAMETERS[name]] = value
    return narrowed


class McpEntrance:
    """``/mcp`` over HTTP: stateless, a bearer key for every request, Host and Origin checked."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self.server = BrollyServer(deps)
        settings = deps.settings
        hosts = [*LOCAL_HOSTS, *(f"{h}:*" for h in LOCAL_HOSTS), *settings.allowed_hosts]
        public = settings.base_url.split("://", 1)[-1].split("/", 1)[0]
        self.server.streamable_http_app(
            stateless_http=True,
            # One answer, no stream, which took a quarter of a call's time; see Exchanges for who wants progress.
            json_response=True,
            transport_security=TransportSecuritySettings(
                allowed_hosts=list(dict.fromkeys([*hosts, public])),
                # Pages on this machine may ask; they still need a key. Any other origin is the operator's choice.
                allowed_origins=[*(f"http://{h}:*" for h in LOCAL_HOSTS), *settings.allowed_origins],
            ),
        )
        self._app = Exchanges(self.server.session_manager)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Accept requests for the block."""
        async with self._app.running():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(("/mcp", "/.well-known/")):
            await self._not_found(scope, receive, send)
            return
        if scope["path"] in (METADATA_PATH, f"{METADATA_PATH}/mcp"):
            await JSONResponse(self._metadata())(scope, receive, send)
            return
        if scope["path"] != "/mcp":
            await self._not_found(scope, receive, send)
            return
        if scope["method"] not in ("POST", "DELETE"):
            await JSONResponse(
                {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "Method not allowed."}},
                405,
                {"Allow": "POST, DELETE"},
            )(scope, receive, send)
            return
        try:
            scope["state"]["caller"] = await self._identify(scope)
        except AppError as error:
            await self._refuse(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _identify(self, scope: Scope) -> Caller:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        client = scope.get("client")
        origin = {
            "request_id": scope["state"].get("request_id", ""),
            "ip": client[0] if client else None,
            "user_agent": headers.get("user-agent", "")[:200] or None,
        }
        try:
            caller = await self._holder(authorization_of(scope["headers"]), origin)
        except AppError as error:
            if error.status == 401:
                await self._deps.rates.admit(anonymous(**origin), scope)
            raise
        await self._deps.rates.admit(caller, scope)
        if caller.kind != "service":
            raise AppError("AUTH_REQUIRED", "The MCP endpoint needs a service key.")
        headers = with_parameters(headers, scope["query_string"].decode("latin-1"))
        limits = self._limits(headers)
        if caller.read_only:
            limits -= {READ_BY_CLIENT}
        caller = replace(caller, scopes=caller.scopes | limits)
        app_id = headers.get(_PARAMETERS["app"])
        if app_id is None:
            return caller
        # Empty, as from a variable that is not set, must not mean every app.
        if not APP_ID.fullmatch(app_id):
            raise AppError("VALIDATION_INVALID_SCHEMA", f"app is {app_id[:70]!r}; expected the id of an app, app_….")
        return caller.hold(app_id)

    async def _holder(self, authorization: str | None, origin: Mapping[str, Any]) -> Caller:
        """Whose key it is, or whose access token: those are for this entrance and for no other."""
        if authorization is None or not is_access_token(authorization):
            return await identify(self._deps, authorization, **origin)
        caller = await caller_of_access_token(self._deps, authorization, resource_of(self._deps), **origin)
        if caller is None:
            raise AppError("AUTH_INVALID_TOKEN", "The access token is unknown, revoked or expired.")
        return caller

    def _limits(self, headers: Mapping[str, str]) -> frozenset[str]:
        """What a client asks to be held to, as ``brolly mcp --read-only`` does. It only ever narrows."""
        limits = {"read", READ_BY_CLIENT} if headers.get("x-brolly-read-only", "") not in ("", "0") else set[str]()
        for name in filter(None, headers.get("x-brolly-tools", "").split(",")):
            full = name if name in self._deps.tools else f"manage_{name}"
            if full not in self._deps.tools:
                raise no_tool(name, list(self._deps.tools))
            limits.add(f"tool:{full}")
        return frozenset(limits)

    def _refuse(self, error: AppError) -> JSONResponse:
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
        if error.status == 401:
            where = self._deps.settings.base_url + METADATA_PATH
            wrong = "" if error.code == "AUTH_REQUIRED" else ', error="invalid_token"'
            headers["WWW-Authenticate"] = f'Bearer realm="brolly", resource_metadata="{where}", scope="mcp"{wrong}'
        return JSONResponse(error_body(error, self._deps.settings.base_url), error.status, headers)

    def _metadata(self) -> dict[str, Any]:
        """RFC 9728: how to get in. The authorization server is this one; keys of the owner's work without."""
        base = self._deps.settings.base_url
        return {
            "resource": resource_of(self._deps),
            "resource_name": "Brolly",
            "authorization_servers": [issuer(self._deps)],
            "bearer_methods_supported": ["header"],
            "scopes_supported": list(SCOPES),
            "resource_documentation": f"{base}/docs/errors#auth-required",
        }

    async def _not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        what = f"Route {scope['method']}:{scope['path']} not found"
        body = {"message": what, "error": "Not Found", "statusCode": 404}
        await JSONResponse(body, 404)(scope, receive, send)
