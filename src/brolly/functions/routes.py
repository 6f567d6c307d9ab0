"""HTTP routes of functions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.endpoint import Arguments, arguments_of, caller_of, deps_of, endpoint, json_value
from brolly.functions import invoke, webhook
from brolly.functions.store import Function, Trigger, find_function
from brolly.functions.tail import follow
from brolly.functions.tool import (
    APP_ENV,
    DEPLOY_FUNCTION,
    FUNCTION_SETTINGS,
    INVOKE_FUNCTION,
    LIVE_LOG,
    MANAGE_FUNCTION,
)
from brolly.registry import App

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_STREAM = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
# The platform's own word about the caller; what a client sends under these names is not passed on.
_IDENTITY = (
    "x-user-id",
    "x-app-id",
    "x-butterbase-caller-type",
    "x-butterbase-caller-key-id",
    "x-butterbase-caller-scope",
)


async def _invoke(request: Request) -> Response:
    """Run the function; its answer goes out as it comes in."""
    deps, caller = deps_of(request), caller_of(request)
    name, refused = request.path_params["name"], getattr(request.state, "refused", None)
    try:
        app = await deps.registry.open(caller, request.path_params["app_id"])
    except AppError as error:
        raise refused or error from None
    function = await find_function(deps, app, name)
    trigger = function.trigger("http")
    if trigger is None:
        raise AppError(
            "RESOURCE_NOT_FOUND",
            f"The function {name} has no http trigger.",
            remediation="Add one with deploy_function and triggers.",
        )
    if (method := trigger.config.get("method")) and request.method not in (method.upper(), "OPTIONS"):
        return JSONResponse({"error": f"{request.method} is not allowed here"}, 405, {"Allow": method.upper()})
    # A function that asks for nobody's credential may have its own use of the header.
    if refused is not None and trigger.config.get("auth", "required") != "none":
        raise refused
    caller = invoke.admit(app, function, trigger, caller, request.headers.get("x-butterbase-as-user"))
    headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _IDENTITY]
    about = invoke.identity_headers(app, caller)
    path = request.path_params.get("rest", "")
    asked = invoke.Asked(
        request.method, f"/{path}" if path else "", request.url.query, [*headers, *about], await request.body()
    )
    return await _answer(deps, app, function, trigger, caller, asked)


async def _answer(
    deps: Deps, app: App, function: Function, trigger: Trigger, caller: Caller, asked: invoke.Asked
) -> Response:
    stack = AsyncExitStack()
    try:
        answer = await stack.enter_async_context(invoke.run(deps, app, function, trigger, caller, asked))
    except AppError as error:
        return _failure(error)
    kind = next((v for k, v in answer.headers if k.lower() == "content-type"), "")

    async def body() -> AsyncIterator[bytes]:
        async with stack:
            async for chunk in answer.body:
                yield chunk

    response = StreamingResponse(body(), answer.status)
    response.raw_headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in answer.headers]
    if kind.startswith("text/event-stream"):
        response.headers.update(_STREAM)
    return response


async def _invoke_as_owner(request: Request) -> Response:
    """Call it with the owner's key, whatever its triggers are."""
    arguments = {**request.path_params, "body": await json_value(request)}
    answer = await INVOKE_FUNCTION.run(deps_of(request), caller_of(request), "", arguments)
    if isinstance(answer["body"], str):
        return Response(answer["body"], answer["status"], media_type="text/plain")
    return JSONResponse(answer["body"], answer["status"])


async def _logs_stream(request: Request) -> Response:
    """The log while it grows, for the app's owner."""
    deps = deps_of(request)
    tail = await LIVE_LOG.run(deps, caller_of(request), "", await arguments_of(request))
    last = request.headers.get("last-event-id", "")
    after = int(last[:18]) if last.isascii() and last.isdigit() else None
    return StreamingResponse(follow(deps, tail, after), 200, _STREAM, "text/event-stream")


async def _webhook(request: Request) -> Response:
    """Let another service's request in by its signature."""
    deps, body, sender = deps_of(request), await request.body(), caller_of(request)
    name = request.path_params["name"]
    headers = {k.lower(): v for k, v in request.headers.items()}
    try:
        app, function, trigger = await webhook.open_webhook(deps, request.path_params["app_id"], name)
    except AppError as error:
        if error.status == 404:
            await deps.rates.admit(sender, request.scope)
        raise
    if not webhook.is_signed(deps, app, function, trigger, headers, body):
        await deps.rates.admit(sender, request.scope)
        return JSONResponse({"error": "signature verification failed"}, 401)
    await deps.rates.admit(webhook.counted_as(function), request.scope)
    key = webhook.key_of(function, trigger, headers)
    if key is not None and not await webhook.is_first(deps, app, function, key):
        return JSONResponse({"ok": True, "duplicate": True}, 200, {"x-butterbase-duplicate": "true"})
    provider = str(trigger.config.get("provider", "custom"))
    told = [("x-trigger-type", "webhook"), ("x-webhook-provider", provider)]
    kept = [(k, v) for k, v in request.headers.items() if k.lower() not in _IDENTITY]
    caller = webhook.caller_of(sender)
    asked = invoke.Asked("POST", "", request.url.query, [*kept, *told], body, {"provider": provider})
    try:
        response = await _answer(deps, app, function, trigger, caller, asked)
    except BaseException:
        if key is not None:
            with anyio.CancelScope(shield=True):
                await webhook.forget(deps, app, key)
        raise
    if key is not None:
        # Whatever is no success the sender repeats.
        await (webhook.forget if response.status_code >= 400 else webhook.keep)(deps, app, key)
    return response


def _failure(error: AppError) -> Response:
    """As the published product's clients read it."""
    if error.code == "FUNCTION_BUSY":
        return JSONResponse({"error": error.message}, 429, {"Retry-After": str(error.retry_after)})
    if error.code == "FUNCTION_TIMEOUT":
        return JSONResponse({"error": "function_timeout", "message": error.message}, 504)
    raise error


def _env(arguments: Arguments) -> Arguments:
    # Clients call it envVars.
    return {("env" if k == "envVars" else k): v for k, v in arguments.items()}


def _update_env(arguments: Arguments) -> tuple[str, Arguments]:
    return "update_env", _env(arguments)


def _update_app_env(arguments: Arguments) -> tuple[str, Arguments]:
    return "update", _env(arguments)


_APP = "/v1/{app_id}"
_ONE = _APP + "/functions/{function_name}"
routes = [
    Route(_APP + "/functions", endpoint(DEPLOY_FUNCTION), methods=["POST"]),
    Route(_APP + "/functions", endpoint(MANAGE_FUNCTION, "list"), methods=["GET"]),
    Route(_ONE, endpoint(MANAGE_FUNCTION, "get"), methods=["GET"]),
    Route(_ONE, endpoint(MANAGE_FUNCTION, "delete", shape=lambda _: {"success": True}), methods=["DELETE"]),
    Route(_ONE + "/env", endpoint(MANAGE_FUNCTION, prepare=_update_env), methods=["PATCH"]),
    Route(_ONE + "/settings", endpoint(FUNCTION_SETTINGS, "update"), methods=["PATCH"]),
    Route(_ONE + "/invoke", _invoke_as_owner, methods=["POST"]),
    Route(_ONE + "/logs/stream", _logs_stream, methods=["GET"]),
    Route(_ONE + "/logs", endpoint(MANAGE_FUNCTION, "get_logs"), methods=["GET"]),
    Route(_APP + "/env", endpoint(APP_ENV, "get"), methods=["GET"]),
    Route(_APP + "/env", endpoint(APP_ENV, prepare=_update_app_env), methods=["PATCH"]),
    Route(_APP + "/webhook/{name}", _webhook, methods=["POST"]),
    Route(_APP + "/fn/{name}", _invoke, methods=_METHODS),
    Route(_APP + "/fn/{name}/{rest:path}", _invoke, methods=_METHODS),
]
