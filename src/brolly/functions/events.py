"""Functions that other slices set off: after a sign-in or an upload, when nobody waits, and by events of sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pydantic import JsonValue

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.functions import invoke
from brolly.functions.outbox import MY_TRANSACTION, keep
from brolly.functions.store import Function, Trigger, read_functions
from brolly.pg.pool import Connection
from brolly.registry import App


async def keep_auth_hook(
    deps: Deps, app: App, connection: Connection, payload: Mapping[str, Any]
) -> Callable[[], None]:
    """Keep ``{event, user, isNewUser, provider}`` for the app's auth hook; to run it once the connection's transaction
    has committed, call what comes back. Without that call it runs after the lease, if there was a commit at all.
    """
    # Whether there is such a function is looked up when it is to run: here a connection of the app is taken already.
    names = [app.auth_hook_function] if app.auth_hook_function is not None else []
    return await keep(deps, app, names, "auth_hook", payload, await connection.fetchval(MY_TRANSACTION))


async def object_uploaded(deps: Deps, app: App, payload: Mapping[str, Any]) -> None:
    """Run the functions whose s3_upload trigger takes this object: its metadata. Returns once it is kept."""
    found = (await read_functions(deps, app)).functions
    names = [name for name, f in found.items() if (t := f.trigger("s3_upload")) is not None and _takes(t, payload)]
    (await keep(deps, app, names, "s3_upload", payload))()


async def run_event(
    deps: Deps, app: App, caller: Caller, event: str, payload: JsonValue, channel: str | None = None
) -> JsonValue:
    """Run the function whose websocket trigger has that event, for that caller; what it answers, parsed if it is JSON.

    The handler gets ``{event, payload}`` as its body and ``ctx.trigger`` = ``{type: "websocket", event, channel?}``.
    Whatever it returns is its answer, whichever the status. Raises ``RESOURCE_NOT_FOUND`` ("No handler for event: …",
    the message that clients know), ``AUTH_REQUIRED`` where the trigger asks for a user, ``FUNCTION_FAILED`` when the
    handler threw, and what any call raises (``FUNCTION_TIMEOUT``, ``FUNCTION_BUSY``, ``REQUEST_TOO_LARGE``, …).
    The function's log has each call. Bounding the rate and the size of messages is for who calls this.
    """
    found = await _listens(deps, app, event)
    if found is None:
        raise AppError(
            "RESOURCE_NOT_FOUND",
            f"No handler for event: {event[:100]}",
            remediation="Deploy a function with deploy_function and a websocket trigger with that event.",
        )
    function, trigger = found
    caller = invoke.admit(app, function, trigger, caller, None)
    about: dict[str, Any] = {"event": event} | ({"channel": channel} if channel is not None else {})
    asked = invoke.Asked(
        headers=[("content-type", "application/json"), ("x-trigger-type", "websocket")],
        body=json.dumps({"event": event, "payload": payload}).encode(),
        about=about,
    )
    async with invoke.run(deps, app, function, trigger, caller, asked) as answer:
        raw = await invoke.whole(answer)
    if answer.failed:
        raise AppError("FUNCTION_FAILED", f"The function {function.name} failed at the event {event[:100]}.")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw.decode("utf-8", "replace")


async def _listens(deps: Deps, app: App, event: str) -> tuple[Function, Trigger] | None:
    # deploy_function keeps an event to one function; of two that came at the same moment the first by name.
    for _, function in sorted((await read_functions(deps, app)).functions.items()):
        trigger = function.trigger("websocket")
        if trigger is not None and trigger.config.get("event") == event:
            return function, trigger
    return None


def _takes(trigger: Trigger, payload: Mapping[str, Any]) -> bool:
    wanted, prefix = trigger.config.get("content_type"), trigger.config.get("prefix")
    if wanted and not fnmatchcase(str(payload.get("content_type", "")), str(wanted)):
        return False
    # A folder ends with its slash.
    return not prefix or f"{payload.get('folder') or ''}{payload.get('filename', '')}".startswith(prefix.lstrip("/"))
