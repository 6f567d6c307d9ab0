"""Which tables of an app are recorded: switch it on and off, and look whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.pg.catalog import Snapshot, Table
from brolly.pg.pool import Connection
from brolly.pg.snapshot import read_snapshot
from brolly.realtime import capture
from brolly.realtime.feed import feed_of
from brolly.registry import App

_LOCK = "select pg_advisory_xact_lock(hashtextextended('brolly-structure', 0))"
_REMEMBER = "insert into brolly.realtime_work (app_id) values ($1) on conflict do nothing"


class Tables(AppParams):
    """Some of the app's tables."""

    tables: list[str] = Field(min_length=1, max_length=100)


async def configure(deps: Deps, caller: Caller, params: Tables) -> dict[str, Any]:
    """Record every change of these tables; puts back triggers that were lost. All of them or none."""
    app = await deps.registry.get(caller, params.app_id)
    names = list(dict.fromkeys(params.tables))
    # First, so that what is recorded is trimmed, whatever happens in between.
    await deps.control.execute(_REMEMBER, app.id)
    async with deps.pools.owner(app) as conn, conn.transaction():
        await conn.execute(_LOCK)
        snapshot = await read_snapshot(conn)
        tables = _recordable(snapshot, names)
        for table in tables:
            await capture.record(conn, table.name, table.oid)
        await capture.reconcile(conn)
    result: dict[str, Any] = {"configured": [{"table": name, "status": "enabled"} for name in names]}
    warnings = [
        f"No row-level security on {table.name}: every signed-in user hears all of its changes, anonymous callers "
        f"none. If that is not meant, call manage_rls enable with table_name {table.name} and add policies."
        for table in tables
        if not table.rls_enabled
    ]
    return result | ({"warnings": warnings} if warnings else {})


def _recordable(snapshot: Snapshot, names: Sequence[str]) -> list[Table]:
    """The tables; raises with all names that are none, or with the reason why one cannot be recorded."""
    if missing := [name for name in names if snapshot.relation(name) is None]:
        raise AppError(
            "VALIDATION_TABLE_NOT_FOUND",
            f"There is no table {', '.join(repr(name[:63]) for name in missing[:20])}. Nothing was changed.",
            details={"missing_tables": missing, "tables": sorted(snapshot.tables)[:50]},
        )
    if views := [name for name in names if name in snapshot.views]:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"{', '.join(views)} cannot be recorded: rows change in tables, not in views. Nothing was changed.",
            remediation="Call manage_realtime configure with the tables that the view reads; manage_schema get shows "
            "its query.",
            details={"views": views},
        )
    tables = [snapshot.tables[name] for name in names]
    if unkeyed := [table.name for table in tables if not table.primary_key]:
        raise AppError(
            "STATE_PREREQUISITE_MISSING",
            f"{', '.join(unkeyed)} cannot be recorded without a primary key: nobody could tell to which row a change "
            "belongs. Nothing was changed.",
            remediation="Give the table a primary key with manage_schema apply, then repeat manage_realtime configure.",
            details={"tables_without_primary_key": unkeyed},
        )
    return tables


async def disable(deps: Deps, caller: Caller, params: Tables) -> dict[str, Any]:
    """Record these tables no longer. What was recorded is kept for its time."""
    app = await deps.registry.get(caller, params.app_id)
    names = list(dict.fromkeys(params.tables))
    async with deps.pools.owner(app) as conn, conn.transaction():
        await conn.execute(_LOCK)
        missing = [name for name in names if not await capture.stop(conn, name)]
        if missing:
            raise AppError(
                "VALIDATION_TABLE_NOT_FOUND",
                f"Not recorded: {', '.join(repr(name[:63]) for name in missing[:20])}. Nothing was changed.",
                remediation="Call manage_realtime get for the tables that are.",
                details={"missing_tables": missing},
            )
    return {"disabled": [{"table": name, "status": "disabled"} for name in names]}


async def get(deps: Deps, caller: Caller, params: AppParams) -> dict[str, Any]:
    """Each recorded table and whether every change of it is recorded."""
    app = await deps.registry.get(caller, params.app_id)
    async with deps.pools.owner(app) as conn:
        states = await capture.read_state(conn)
    result: dict[str, Any] = {
        "app_id": app.id,
        "tables": [_shown(state) for state in states],
        "active_connection": feed_of(deps).active(app.id),
        "websocket_url": f"{deps.settings.base_url}/v1/{app.id}/realtime".replace("http", "ws", 1),
    }
    if any(state.drift for state in states):
        result["warnings"] = ["Changes of tables with drift are not delivered; manage_realtime configure mends that."]
    return result


def _shown(state: capture.Recorded) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "table_name": state.name,
        "enabled": True,
        "events": list(capture.EVENTS),
        "trigger_installed": state.installed,
        "drift": not state.installed,
        "created_at": iso(state.created_at),
        "updated_at": iso(state.updated_at),
    }
    return shown | ({"reason": state.drift} if state.drift else {})


async def structure_changed(conn: Connection) -> None:
    """What a change of the app's tables calls in its own transaction: no row of a table made anew goes unrecorded."""
    await capture.reconcile(conn)


async def repair(deps: Deps, app: App) -> list[str]:
    """Put back what something else than this server took away; the tables for which that was needed."""
    async with deps.pools.owner(app) as conn, conn.transaction():
        await conn.execute(_LOCK)
        return await capture.reconcile(conn)
