"""What functions did: noted in memory, written in batches, read back by their owner."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4
from weakref import WeakKeyDictionary

import anyio
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.functions.store import functions_of, missing
from brolly.registry import App, Registry

FLUSH_SECONDS = 0.5
MOST_WAITING = 5_000
TRIM_SECONDS = 3600.0
MOST_LINES = 100
LONGEST_TEXT = 10_000
_LEVELS = ("debug", "info", "warn", "error")

_INSERT = (
    "insert into functions.invocations (token, function_id, started_at, trigger, caller, method, path, status, "
    "duration_ms, error, stack, lines) select e.* from jsonb_to_recordset($1::jsonb) as e (token uuid, "
    "function_id uuid, started_at timestamptz, trigger text, caller text, method text, path text, status integer, "
    "duration_ms real, error text, stack text, lines jsonb) "
    "where exists (select 1 from functions.functions f where f.id = e.function_id) "
    "order by e.started_at on conflict (token) do update set lines = excluded.lines"
)
_TRIM_LOG = (
    "delete from functions.invocations where id in (select id from functions.invocations "
    "where started_at < now() - make_interval(days => $1) order by started_at limit 10000)"
)
_TRIM_CLAIMS = (
    "delete from functions.claims where (scope, key) in (select scope, key from functions.claims "
    "where expires_at < now() order by expires_at limit 10000)"
)
_READ = (
    "select i.id, i.started_at, i.trigger, i.caller, i.method, i.path, i.status, i.duration_ms, i.error, i.stack, "
    "i.lines::text from functions.invocations i join functions.functions f on f.id = i.function_id "
    "where f.name = $1 and ($2 or f.deleted_at is null) and ($3::timestamptz is null or i.started_at >= $3) "
    "and (not $4 or i.status >= 400 or i.error is not null) and ($5::bigint is null or i.id > $5) "
    "and i.started_at > now() - make_interval(days => $7) "
    "order by i.id {order} limit $6"
)
_LATEST = (
    "select coalesce(max(i.id), 0) from functions.invocations i join functions.functions f on f.id = i.function_id "
    "where f.name = $1 and f.deleted_at is null"
)


@dataclass(slots=True)
class Entry:
    """One invocation. It is written once it is done, and again when lines come afterwards."""

    app: App
    function_id: str
    trigger: str
    caller: str
    method: str
    path: str
    waiting: dict[str, Entry] = field(repr=False)
    token: str = field(default_factory=lambda: str(uuid4()))
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    status: int = 0
    error: str | None = None
    stack: str | None = None
    duration_ms: float = 0.0
    lines: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    done: bool = False

    def append(self, lines: Sequence[Mapping[str, Any]], cut: int = 0) -> None:
        """Console lines, as far as there is room."""
        for line in lines[: max(MOST_LINES - len(self.lines), 0)]:
            said = {k: _clean(str(line.get(k, ""))) for k in ("level", "message", "timestamp")}
            # A module has a say in what its isolate sends.
            level = said["level"] if said["level"] in _LEVELS else "info"
            self.lines.append({**said, "level": level, "timestamp": said["timestamp"][:40]})
        if cut and len(self.lines) <= MOST_LINES:
            note = {"level": "warn", "message": f"{cut} more lines were not kept.", "timestamp": ""}
            self.lines.append({**note, "timestamp": iso(datetime.now(UTC)) or ""})
        if self.done:
            self._keep()

    def end(self, status: int, error: str | None = None, stack: str | None = None) -> None:
        """The invocation is over."""
        self.status, self.done = status, True
        self.error, self.stack = error and _clean(error), stack and _clean(stack)
        self.duration_ms = (datetime.now(UTC) - self.started_at).total_seconds() * 1000
        self._keep()

    def _keep(self) -> None:
        if len(self.waiting) < MOST_WAITING:
            self.waiting[self.token] = self

    def record(self) -> dict[str, Any]:
        """The row."""
        names = ("token", "function_id", "trigger", "caller", "method", "path", "status", "error", "stack", "lines")
        row = {name: getattr(self, name) for name in names}
        return {**row, "started_at": self.started_at.isoformat(), "duration_ms": round(self.duration_ms, 2)}


def _clean(text: str) -> str:
    # Postgres keeps no zero byte, and half a character is no text.
    return text[:LONGEST_TEXT].replace("\0", "�").encode("utf-8", "replace").decode()


_TRIMMED: WeakKeyDictionary[Registry, dict[str, float]] = WeakKeyDictionary()
_WAITING: WeakKeyDictionary[Registry, dict[str, Entry]] = WeakKeyDictionary()


def waiting_of(deps: Deps) -> dict[str, Entry]:
    """Entries of this process that are not yet written, by token."""
    return _WAITING.setdefault(deps.registry, {})


async def flush(deps: Deps) -> None:
    """Write what is waiting; what an app's database does not take now waits on."""
    waiting = waiting_of(deps)
    batch = dict(waiting)
    waiting.clear()
    by_app: dict[str, list[Entry]] = defaultdict(list)
    for entry in batch.values():
        by_app[entry.app.id].append(entry)
    for entries in by_app.values():
        app = await deps.registry.find(entries[0].app.id)
        if app is None or app.status != "ready":
            continue
        try:
            async with functions_of(deps, app, durable=False) as connection:
                await connection.execute(_INSERT, json.dumps([entry.record() for entry in entries]))
                if _is_time_to_trim(deps, app):
                    await connection.execute(_TRIM_LOG, deps.settings.function_log_days)
                    await connection.execute(_TRIM_CLAIMS)
        except AppError:
            waiting.update({entry.token: entry for entry in entries if len(waiting) < MOST_WAITING})


def _is_time_to_trim(deps: Deps, app: App) -> bool:
    """Once an hour for an app whose functions are called; what is older is not shown anyway."""
    trimmed = _TRIMMED.setdefault(deps.registry, {})
    now = anyio.current_time()
    if now - trimmed.get(app.id, -TRIM_SECONDS) < TRIM_SECONDS:
        return False
    trimmed[app.id] = now
    if len(trimmed) > MOST_WAITING:
        trimmed.clear()
    return True


async def keep_flushing(deps: Deps) -> None:
    """Write every half second, and once more at the end."""
    try:
        while True:
            await anyio.sleep(FLUSH_SECONDS)
            if waiting_of(deps):
                await flush(deps)
    finally:
        with anyio.move_on_after(2, shield=True):
            await flush(deps)


class GetLogs(AppParams):
    """Parameters of get_logs."""

    function_name: str
    limit: int = Field(100, ge=1, le=1000)
    since: datetime | None = None
    level: Literal["error", "all"] = "all"
    include_deleted: SkipJsonSchema[bool] = False


async def get_logs(deps: Deps, caller: Caller, params: GetLogs) -> dict[str, Any]:
    """What the function did, newest first."""
    app = await deps.registry.get(caller, params.app_id)
    await flush(deps)
    rows = await read(deps, app, params, limit=params.limit + 1)
    if not rows:
        async with functions_of(deps, app) as connection:
            known = await connection.fetchval(
                "select 1 from functions.functions where name = $1 and ($2 or deleted_at is null)",
                params.function_name,
                params.include_deleted,
            )
        if not known:
            raise missing(params.function_name)
    # What functions print may repeat what users sent.
    return {
        "logs": [shown(row) for row in rows[: params.limit]],
        "hasMore": len(rows) > params.limit,
        "untrusted": True,
    }


async def latest(deps: Deps, app: App, name: str) -> int:
    """The id of the newest row of the function's log; 0 when there is none."""
    async with functions_of(deps, app) as connection:
        return await connection.fetchval(_LATEST, name)


async def read(deps: Deps, app: App, params: GetLogs, *, limit: int, after: int | None = None) -> list[Any]:
    """Rows of the log, newest first; those ``after`` an id oldest first."""
    since = params.since
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    async with functions_of(deps, app) as connection:
        return await connection.fetch(
            _READ.format(order="desc" if after is None else "asc"),
            params.function_name,
            params.include_deleted,
            since,
            params.level == "error",
            after,
            limit,
            deps.settings.function_log_days,
        )


def shown(row: Any) -> dict[str, Any]:
    """A row of the log as clients know it."""
    return {
        "timestamp": iso(row["started_at"]),
        "trigger": row["trigger"],
        "caller": row["caller"],
        "method": row["method"],
        "path": row["path"],
        "statusCode": row["status"],
        "duration": round(row["duration_ms"], 1),
        "memoryUsed": None,
        "error": row["error"],
        "stack": row["stack"],
        "consoleLogs": json.loads(row["lines"]),
    }
