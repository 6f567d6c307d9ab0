"""Events that wait for their function: kept until it has taken them, whatever becomes of the server meanwhile."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import anyio

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.functions import invoke
from brolly.functions.store import Trigger, functions_of, read_functions
from brolly.registry import App

log = logging.getLogger("brolly.functions")

LOOK_SECONDS = 2.0
AT_ONCE = 20
LEASE_SECONDS = 330.0
"""Longer than any call may take: what a server took with it into its end is tried again after it."""
PAUSES = (5, 30, 120, 600, 3600)
"""Seconds before the second and each later try; after the last the event is given up."""
PAUSED_SECONDS = 60

_ADD = (
    "insert into brolly.function_events (id, app_id, function_name, trigger, payload, due_at, xid) "
    "select e.id, $1, e.name, $2, $3::jsonb, now() + make_interval(secs => $4), $7 "
    "from unnest($5::uuid[], $6::text[]) as e (id, name)"
)
_TAKE = (
    "update brolly.function_events set attempts = attempts + 1, due_at = now() + make_interval(secs => $2) "
    "where id in (select id from brolly.function_events where due_at <= now() order by due_at limit $1 "
    "for update skip locked) returning id::text, app_id, function_name, trigger, payload::text, attempts, xid"
)
_DONE = "delete from brolly.function_events where id = $1"
_LATER = "update brolly.function_events set due_at = now() + make_interval(secs => $2) where id = $1"
_NOT_TRIED = (
    "update brolly.function_events set attempts = attempts - 1, "
    "due_at = now() + make_interval(secs => $2) where id = $1"
)
MY_TRANSACTION = "select pg_current_xact_id()::text"
# Numbers that were not given out yet are from before the database was restored.
_FATE = (
    "select case when $1::text::xid8 < pg_snapshot_xmax(pg_current_snapshot()) "
    "then coalesce(pg_xact_status($1::text::xid8), 'committed') else 'aborted' end"
)


@dataclass(frozen=True, slots=True)
class Event:
    """An event that this process has taken, and which try this is. ``xid``: it counts if this transaction committed."""

    id: str
    app_id: str
    function_name: str
    trigger: str
    payload: str
    attempts: int = 1
    xid: str | None = None


async def keep(
    deps: Deps, app: App, names: Sequence[str], trigger: str, payload: Mapping[str, Any], xid: str | None = None
) -> Callable[[], None]:
    """Keep the event for each of the functions, safe once this returns; what comes back begins to run them.

    ``xid`` is the transaction of the app's database in which it happened: what was rolled back is no event.
    """
    text = json.dumps(payload, default=str)
    events = [Event(str(uuid4()), app.id, name, trigger, text) for name in names]
    if events:
        ids = [event.id for event in events]
        await deps.control.execute(_ADD, app.id, trigger, text, LEASE_SECONDS, ids, list(names), xid)

    def begin() -> None:
        for event in events:
            deps.deno.start_soon(deliver, deps, event)

    return begin


async def deliver(deps: Deps, event: Event) -> None:
    """Run the function once; the event goes when it took it, and comes again later when it failed."""
    app = await deps.registry.find(event.app_id)
    if app is None or not await _is_time(deps, app, event):
        return
    function = (await read_functions(deps, app)).functions.get(event.function_name)
    trigger = function.trigger(event.trigger) if function and event.trigger == "s3_upload" else None
    if function is not None and event.trigger == "auth_hook":
        trigger = Trigger("auth_hook", {}, True)
    if function is None or trigger is None:
        # Deployed anew without the trigger, or deleted: nobody is left to be told.
        await deps.control.execute(_DONE, event.id)
        return
    about = {"idempotencyKey": event.id, "attempt": event.attempts}
    told = [("content-type", "application/json"), ("x-trigger-type", event.trigger), ("x-idempotency-key", event.id)]
    asked = invoke.Asked(headers=told, body=event.payload.encode(), about=about)
    try:
        async with invoke.run(deps, app, function, trigger, Caller("service"), asked) as answer:
            async for _ in answer.body:
                pass
        failed = answer.status >= 500
    except AppError as error:
        # The function's log has it; whoever set it off is long gone.
        log.info("%s of %s: %s", event.trigger, app.id, error.code)
        failed = True
    if not failed:
        await deps.control.execute(_DONE, event.id)
    elif event.attempts > len(PAUSES):
        log.warning("%s of %s: %s failed %d times", event.trigger, app.id, event.function_name, event.attempts)
        await deps.control.execute(_DONE, event.id)
    else:
        await deps.control.execute(_LATER, event.id, float(PAUSES[event.attempts - 1]))


async def _is_time(deps: Deps, app: App, event: Event) -> bool:
    """Whether the event may run now; else it is put off, or away when what it tells of was rolled back."""
    waits = app.status != "ready" or app.paused_at is not None
    if not waits and event.xid is not None:
        async with functions_of(deps, app) as connection:
            fate = await connection.fetchval(_FATE, event.xid)
        if fate == "aborted":
            await deps.control.execute(_DONE, event.id)
            return False
        waits = fate == "in progress"
    if waits:
        await deps.control.execute(_NOT_TRIED, event.id, float(PAUSED_SECONDS))
    return not waits


async def take_due(deps: Deps) -> list[Event]:
    """Events whose time has come, or whose server ended, taken by this process alone."""
    return [Event(**dict(row)) for row in await deps.control.fetch(_TAKE, AT_ONCE, LEASE_SECONDS)]


async def _deliver_alone(deps: Deps, event: Event) -> None:
    """An app's database that does not answer takes no other's event along; the lease brings this one again."""
    try:
        await deliver(deps, event)
    except AppError as error:
        log.warning("%s of %s waits: %s", event.trigger, event.app_id, error.message)


async def keep_delivering(deps: Deps) -> None:
    """Look every two seconds for what is due."""
    while True:
        async with anyio.create_task_group() as group:
            for event in await take_due(deps):
                group.start_soon(_deliver_alone, deps, event)
        await anyio.sleep(LOOK_SECONDS)
