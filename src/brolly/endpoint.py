"""HTTP routes over tool actions: parse, run the same action as MCP does, respond."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import Tool
from brolly.deps import Deps

Arguments = dict[str, Any]
Endpoint = Callable[[Request], Awaitable[Response]]


def deps_of(request: Request) -> Deps:
    """What is open in this process."""
    return request.app.state.deps


def caller_of(request: Request) -> Caller:
    """Who asks; put there by the entrance."""
    return request.state.caller


async def json_body(request: Request) -> Arguments:
    """The body as an object; an empty one counts as absent."""
    body = await json_value(request)
    if body is None and not (await request.body()).strip():
        return {}
    if not isinstance(body, dict):
        raise AppError("VALIDATION_INVALID_SCHEMA", "The body must be a JSON object.")
    return body  # pyright: ignore[reportUnknownVariableType]


async def json_value(request: Request) -> Any:
    """The body as whatever JSON it is; None when it is empty."""
    raw = await request.body()
    if not raw.strip():
        return None
    try:
        return json.loads(raw)
    except ValueError as error:
        raise AppError("VALIDATION_INVALID_SCHEMA", f"The body is not JSON: {error}.") from None
    except RecursionError:
        raise AppError("VALIDATION_INVALID_SCHEMA", "The body is nested too deeply.") from None


def query_arguments(request: Request) -> Arguments:
    """The query parameters; one given twice is refused rather than half ignored."""
    pairs = request.query_params.multi_items()
    arguments = dict(pairs)
    if len(arguments) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise AppError("VALIDATION_INVALID_SCHEMA", f"Given more than once: {', '.join(twice)}.")
    return arguments


async def arguments_of(request: Request) -> Arguments:
    """Path, query and body together. A name in the path cannot be changed by the others."""
    arguments = query_arguments(request)
    if request.method in ("POST", "PATCH", "PUT"):
        arguments |= await json_body(request)
    clash = arguments.keys() & request.path_params.keys()
    if clash:
        raise AppError("VALIDATION_INVALID_SCHEMA", f"{', '.join(sorted(clash))} belongs in the path only.")
    return arguments | dict(request.path_params)


def endpoint(
    tool: Tool,
    label: str = "",
    *,
    status: int | Callable[[Any], int] = 200,
    rename: Mapping[str, str] | None = None,
    prepare: Callable[[Arguments], tuple[str, Arguments]] | None = None,
    shape: Callable[[Any], Any] | None = None,
) -> Endpoint:
    """A Starlette endpoint that runs an action of the tool.

    ``rename`` maps other clients' spellings to the action's parameters; ``prepare`` may
    choose the action by the arguments; ``shape`` makes the body from the result. Nothing
    is asked before destructive actions: a program with a key does what it is told.
    """

    async def run(request: Request) -> Response:
        arguments = await arguments_of(request)
        for theirs, ours in (rename or {}).items():
            if theirs in arguments:
                arguments.setdefault(ours, arguments.pop(theirs))
        chosen = label
        if prepare is not None:
            chosen, arguments = prepare(arguments)
        result = await tool.run(deps_of(request), caller_of(request), chosen, arguments)
        code = status if isinstance(status, int) else status(result)
        return JSONResponse(result if shape is None else shape(result), status_code=code)

    return run
