"""The addresses of functions that are called over HTTP, as a part of an app's OpenAPI document."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from brolly.core.openapi import Json, Part
from brolly.functions.store import read_functions

_METHODS = ("get", "post", "put", "patch", "delete")
_SAID = (
    "Runs the app's own code, which decides what it takes and answers. Paths below this one reach it too. "
    "Errors of the server itself have the form of all others."
)


async def describe_functions(deps: Any, app: Any, _snapshot: Any, who: Any) -> Part:
    """The functions with an http trigger; to callers without a sign-in those that are open to them."""
    paths: dict[str, Json] = {}
    for function in (await read_functions(deps, app)).functions.values():
        trigger = function.trigger("http")
        if trigger is None:
            continue
        closed = trigger.config.get("auth", "required") == "required"
        if closed and who.kind == "anonymous":
            continue
        method = str(trigger.config.get("method") or "").lower()
        item = {
            each: _operation(function.name, function.description, each, closed, who.kind == "service")
            for each in _METHODS
            if method in ("", each)
        }
        if item:
            paths[f"/v1/{app.id}/fn/{quote(function.name, safe='')}"] = item
    return Part(paths, tags=({"name": "functions"},) if paths else ())


def _operation(name: str, description: str | None, method: str, closed: bool, keys: bool) -> Json:
    found: Json = {
        "operationId": f"fn_{method}_{name}",
        "tags": ["functions"],
        "summary": f"Run the function {name}",
        "description": f"{description} {_SAID}" if description else _SAID,
        "responses": {"default": {"description": "What the function answers."}},
    }
    if method in ("post", "put", "patch"):
        found["requestBody"] = {"required": False, "content": {"*/*": {}}}
    if closed:
        found["security"] = [{"accessToken": []}, *([{"serviceKey": []}] if keys else [])]
    return found
