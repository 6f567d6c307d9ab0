"""Calling functions: who may, for whom they run, and what comes back."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, cast

import anyio
from pydantic import Field, WithJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.engines.deno import Answer, Invocation, Program
from brolly.functions.calls import FunctionCalls, InvokeOther
from brolly.functions.environment import env_of
from brolly.functions.logs import Entry, waiting_of
from brolly.functions.service import program_of, url_of
from brolly.functions.store import Function, Trigger, find_function, read_functions
from brolly.registry import App

_TYPES = {"service": "service_key", "user": "end_user_jwt", "anonymous": "anonymous"}
LONGEST_ANSWER = 1_000_000
LONGEST_FAILURE = 200_000


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a function, from wherever it comes. ``path`` follows the function's name."""

    method: str = "POST"
    path: str = ""
    query: str = ""
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    depth: int = 0


class InvokeFunction(AppParams):
    """Parameters of invoke_function."""

    function_name: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    body: Annotated[Any, WithJsonSchema({"type": "object"})] = None
    headers: dict[str, str] = Field(default_factory=dict[str, str])


def admit(app: App, function: Function, trigger: Trigger, caller: Caller, as_user: str | None) -> Caller:
    """For whom the function runs, by its http or websocket trigger; raises when this caller may not call it."""
    if as_user is not None:
        caller = _impersonated(app, function, caller, as_user)
    if caller.kind == "anonymous" and trigger.config.get("auth", "required") == "required":
        raise AppError(
            "AUTH_REQUIRED",
            f"The function {function.name} needs a signed-in user, or a service key.",
            remediation='Send an access token, or deploy it with deploy_function and auth: "none" in the config of '
            "its http trigger.",
        )
    return caller


def _impersonated(app: App, function: Function, caller: Caller, user_id: str) -> Caller:
    if caller.kind != "service" or app.id not in caller.app_scopes:
        raise AppError(
            "AUTH_IMPERSONATION_FORBIDDEN",
            "X-Butterbase-As-User needs a service key that is limited to this app.",
            remediation="Make one with manage_auth_config generate_service_key and app_id.",
        )
    if not function.options.get("allow_service_key_impersonation", True):
        raise AppError(
            "AUTH_IMPERSONATION_DISABLED",
            f"The function {function.name} lets no service key act as a user.",
            remediation="Deploy it with deploy_function and allow_service_key_impersonation: true.",
        )
    return caller.simulate("user", user_id)


def acting(caller: Caller, trigger: Trigger) -> Caller:
    """Who ``ctx.db`` acts for."""
    if trigger.type in ("http", "websocket") and trigger.config.get("run_as") != "service":
        return caller
    return service_caller(caller)


def service_caller(caller: Caller) -> Caller:
    """The app itself, with where the call came from."""
    return Caller("service", request_id=caller.request_id, ip=caller.ip, user_agent=caller.user_agent)


def _about(caller: Caller, trigger: Trigger, asked: Asked) -> dict[str, Any]:
    user = {**caller.claims, "id": caller.user_id} if caller.kind == "user" else None
    scope = sorted(caller.app_scopes)[0] if caller.app_scopes else None
    kind = "loopback" if asked.depth else _TYPES[caller.kind]
    return {
        "user": user,
        "caller": {"type": kind, "keyId": caller.key_id, "scope": scope},
        "trigger": {"type": trigger.type, **asked.about},
    }


@asynccontextmanager
async def run(
    deps: Deps, app: App, function: Function, trigger: Trigger, caller: Caller, asked: Asked
) -> AsyncGenerator[Answer]:
    """The function's answer while it comes in; every call leaves a row in its log."""
    entry = Entry(
        app,
        function.id,
        trigger.type,
        _TYPES[caller.kind],
        asked.method[:20],
        asked.path[:500] or "/",
        waiting_of(deps),
    )
    runs_for = acting(caller, trigger)
    calls = FunctionCalls(deps, app, function, runs_for, entry, invoke_other, asked.depth)
    url = url_of(deps, app, function.name) + asked.path + (f"?{asked.query}" if asked.query else "")
    invocation = Invocation(asked.method, url, asked.headers, asked.body, _about(caller, trigger, asked), calls)
    try:
        async with deps.deno.invoke(await _program(deps, app, function), invocation) as answer:
            entry.append(answer.lines, answer.lines_cut)
            yield await _failed(answer, entry) if answer.failed else answer
            if not entry.done:
                entry.end(answer.status)
    except AppError as error:
        entry.end(error.status, f"{error.code}: {error.message}")
        raise
    except anyio.get_cancelled_exc_class():
        entry.end(499, "The caller went away.")
        raise


async def _program(deps: Deps, app: App, function: Function) -> Program:
    """What Deno runs, made once for each state of the app: unsealing takes as long as a short call."""
    known = await read_functions(deps, app)
    if known.functions.get(function.name) is not function:
        return program_of(deps, app, function, await env_of(deps, app, function))
    if (program := known.programs.get(function.name)) is None:
        program = program_of(deps, app, function, await env_of(deps, app, function))
        known.programs[function.name] = program
    return program


async def _failed(answer: Answer, entry: Entry) -> Answer:
    told = _words(await _beginning(answer))
    entry.end(500, told.get("message"), told.get("stack"))
    shown = {"error": told.get("message"), "stack": told.get("stack")}
    shown |= {k: told[k] for k in ("code", "remediation") if told.get(k)}
    body = json.dumps(shown).encode()

    async def once() -> AsyncGenerator[bytes]:
        yield body

    return replace(answer, status=500, headers=[("content-type", "application/json")], body=once())


async def _beginning(answer: Answer) -> bytes:
    """As much as our own word for a failure may have: what else code sends in its place has no end."""
    raw = b""
    async for chunk in answer.body:
        raw += chunk
        if len(raw) > LONGEST_FAILURE:
            break
    return raw


def _words(raw: bytes) -> dict[str, str]:
    try:
        told: Any = json.loads(raw)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        return {"message": "The function failed without a word."}
    return {str(k): str(v) for k, v in cast(dict[Any, Any], told).items() if v is not None}


async def whole(answer: Answer) -> bytes:
    """The whole body; raises when it is longer than an answer to a tool may be."""
    parts: list[bytes] = []
    size = 0
    async for chunk in answer.body:
        size += len(chunk)
        if size > LONGEST_ANSWER:
            raise AppError(
                "REQUEST_TOO_LARGE",
                f"The function answers more than {LONGEST_ANSWER} bytes.",
                remediation="Call it over HTTP at its url, which manage_function get shows.",
            )
        parts.append(chunk)
    return b"".join(parts)


def _told(answer: Answer, body: bytes) -> dict[str, Any]:
    kind = next((v for k, v in answer.headers if k.lower() == "content-type"), "")
    shown: Any
    try:
        text = body.decode()
        shown = json.loads(text) if "json" in kind and text else text
    except (UnicodeDecodeError, ValueError, RecursionError):
        shown = base64.b64encode(body).decode()
    return {"status": answer.status, "headers": dict(answer.headers), "body": shown}


def _sent(body: Any) -> tuple[bytes, str]:
    if body is None:
        return b"", ""
    if isinstance(body, str):
        return body.encode(), "text/plain;charset=UTF-8"
    return json.dumps(body).encode(), "application/json"


def _with_type(headers: Mapping[str, str], kind: str) -> list[tuple[str, str]]:
    pairs = [(k.lower(), v) for k, v in headers.items()]
    if kind and not any(k == "content-type" for k, _ in pairs):
        pairs.append(("content-type", kind))
    return pairs


async def invoke_function(deps: Deps, caller: Caller, params: InvokeFunction) -> dict[str, Any]:
    """Call a function as its owner; whatever it answers is a result."""
    app = await deps.registry.serving(caller, params.app_id)
    function = await find_function(deps, app, params.function_name)
    trigger = function.trigger("http") or Trigger("http", {}, True)
    body, kind = _sent(_parsed(params.body))
    if params.method == "GET":
        body = b""
    pairs = _with_type(params.headers, kind)
    as_user = next((v for k, v in pairs if k == "x-butterbase-as-user"), None)
    caller = admit(app, function, trigger, caller, as_user)
    started = anyio.current_time()
    asked = Asked(params.method, headers=pairs, body=body)
    async with run(deps, app, function, trigger, caller, asked) as answer:
        told = _told(answer, await whole(answer))
    # What a function answers may repeat what users sent.
    return {**told, "duration_ms": round((anyio.current_time() - started) * 1000, 1), "untrusted": True}


def _parsed(body: Any) -> Any:
    """Models send an object as its text now and then."""
    if isinstance(body, str) and body[:1] in "{[":
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return body
    return body


async def invoke_other(deps: Deps, app: App, caller: Caller, params: InvokeOther, depth: int) -> dict[str, Any]:
    """A function calls another one, for the same caller, whatever its http trigger says."""
    function = await find_function(deps, app, params.name)
    body, kind = _sent(params.body)
    method = str(params.options.get("method", "POST")).upper()
    given: Any = params.options.get("headers")
    pairs = cast(dict[Any, Any], given if isinstance(given, dict) else {})
    headers = _with_type({str(k): str(v) for k, v in pairs.items()}, kind)
    trigger = Trigger("http", {"run_as": "caller"}, True)
    asked = Asked(method, headers=headers, body=b"" if method in ("GET", "HEAD") else body, depth=depth)
    async with run(deps, app, function, trigger, caller, asked) as answer:
        return _told(answer, await whole(answer))


def identity_headers(app: App, caller: Caller) -> list[tuple[str, str]]:
    """What a handler may read of the caller in its request."""
    told = {
        "x-app-id": app.id,
        "x-user-id": caller.user_id,
        "x-butterbase-caller-type": _TYPES[caller.kind],
        "x-butterbase-caller-key-id": caller.key_id,
        "x-butterbase-caller-scope": f"app:{sorted(caller.app_scopes)[0]}" if caller.app_scopes else None,
    }
    return [(name, value) for name, value in told.items() if value]
