"""Declarative schema: read the tables, preview a change, apply it in one transaction, list what was applied."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.pg.catalog import Snapshot
from brolly.pg.identifiers import quote
from brolly.pg.pool import Connection
from brolly.pg.session import as_caller
from brolly.pg.snapshot import read_snapshot
from brolly.registry import App
from brolly.schema.advice import advise, large_tables, unused_indexes
from brolly.schema.description import describe, known, open_tables
from brolly.schema.diff import make_plan
from brolly.schema.document import Document, parse_document
from brolly.schema.failures import steps_blocked
from brolly.schema.outcome import Outcome, outcomes, review
from brolly.schema.plan import Block, Loss, Plan, Rows, Step
from brolly.schema.probe import ask
from brolly.schema.problems import refuse
from brolly.schema.questions import questions
from brolly.schema.trial import printed_queries, run_step, try_out
from brolly.schema.typescript import typescript
from brolly.schema.widened import widened

# One change of an app's structure at a time, whether of its tables or of their policies.
_LOCK = "select pg_advisory_xact_lock(hashtextextended('brolly-structure', 0))"
_SETTINGS = (
    "select set_config('search_path', 'public, pg_temp', true), set_config('statement_timeout', '60s', true), "
    "set_config('standard_conforming_strings', 'on', true)"
)

_SHAPE = (
    "{tables:{t:{columns:{c:{type,primaryKey,nullable,default,unique,references}},indexes,primaryKey,checks,"
    "_dropColumns,_alterType}},views,functions,_drop}"
)


class GetSchema(AppParams):
    """In which form the tables are wanted."""

    # The default is not worth advertising.
    format: Literal["json", "typescript"] = Field("json", json_schema_extra={"enum": ["typescript"]})
    advise: bool = False


class Preview(AppParams):
    """A document to compare with the tables."""

    document: dict[str, Any] = Field(alias="schema", description=_SHAPE)


class Apply(Preview):
    """A document to apply; ``name`` labels the migration."""

    name: str | None = Field(None, min_length=1, max_length=200)


class ListMigrations(AppParams):
    """A page of the migrations, newest first."""

    limit: int = Field(20, ge=1, le=1000)
    offset: int = Field(0, ge=0)


async def get_schema(deps: Deps, caller: Caller, params: GetSchema) -> dict[str, Any] | str:
    """The tables as a document that can be applied again, or as a TypeScript module."""
    app = await deps.registry.get(caller, params.app_id)
    snapshot = await deps.catalog.get(app)
    if params.format == "typescript":
        return typescript(snapshot)
    url = f"{deps.settings.base_url}/v1/{app.id}"
    names = list(snapshot.tables)
    result: dict[str, Any] = {"app_id": app.id, "schema": describe(snapshot), "api_base": url, "api_url": url}
    if warnings := open_tables(_open(outcomes(Document(), snapshot)), app.id):
        result["warnings"] = warnings
    if params.advise:
        async with deps.pools.reader(app) as connection:
            unused, large = await unused_indexes(connection), await large_tables(connection)
        result["advice"] = advise(snapshot, app.id, unused, large)
    result["_meta"] = {
        "resource_info": {"table_count": len(names), "tables": names},
        "next_actions": _next_actions(bool(names), "warnings" in result),
    }
    return result


def _next_actions(tables: bool, unsafe: bool) -> list[dict[str, Any]]:
    if not tables:
        what = "Create the first tables."
        return [{"action": "apply", "description": what, "tool": "manage_schema", "recommended": True}]
    change = {"action": "dry_run", "description": "Preview a change of the tables.", "tool": "manage_schema"}
    if not unsafe:
        return [change]
    secure = "Secure the tables that the warning names."
    return [{"action": "enable", "description": secure, "tool": "manage_rls", "recommended": True}, change]


async def dry_run(deps: Deps, caller: Caller, params: Preview) -> dict[str, Any]:
    """The steps that ``apply`` would take, with those that are blocked and what would unblock them."""
    app = await deps.registry.get(caller, params.app_id)
    async with _structure(deps, app) as conn:
        draft = await _draft(conn, params.document)
        plan = await _measured(deps, caller, app, draft.plan)
        warnings = draft.warnings(app) + await try_out(conn, plan)
    if not plan.steps:
        return _up_to_date(plan, warnings)
    statements = [_preview(step) for step in plan.steps]
    return {"dry_run": True, "applied": len(statements), "statements": statements} | _notes(plan, warnings)


def _preview(step: Step) -> dict[str, Any]:
    shown: dict[str, Any] = {"sql": step.sql, "description": step.description, "destructive": step.destructive}
    if step.block is not None:
        shown |= {"blocked": step.block.reason, "unblock": step.block.unblock}
    return shown


async def apply_schema(deps: Deps, caller: Caller, params: Apply) -> dict[str, Any]:
    """Bring the tables to what the document says, all or nothing."""
    app = await deps.registry.get(caller, params.app_id)
    async with _structure(deps, app) as conn:
        await conn.execute(_LOCK)
        draft = await _draft(conn, params.document)
        plan = draft.plan
        if not plan.steps:
            return _up_to_date(plan, draft.warnings(app))
        await _keep_to_agreement(conn, caller, app, draft)
        plan = await _taken(deps, caller, app, conn, draft)
        await deps.capabilities["structure_changed"](conn)
        migration_id = await _record(conn, caller, plan, params.name)
    await deps.catalog.changed(app)
    statements = [{"sql": step.sql, "description": step.description} for step in plan.steps]
    result: dict[str, Any] = {"applied": len(statements), "statements": statements, "migration_id": migration_id}
    return result | _notes(plan, draft.warnings(app))


async def _keep_to_agreement(conn: Connection, caller: Caller, app: App, draft: _Draft) -> None:
    """Raise when more would be lost now than the person was asked about: rows arrive while people think."""
    if caller.agreed is None or not draft.losses:
        return
    for name in sorted({loss.table for loss in draft.losses}):
        await conn.execute(f"lock table {quote(name)} in access exclusive mode")
        if name in draft.forced:
            # Otherwise we, the owner, would count no rows.
            await conn.execute(f"alter table {quote(name)} no force row level security")
    question = await _question(conn, app, draft.losses)
    for name in sorted({loss.table for loss in draft.losses} & draft.forced):
        await conn.execute(f"alter table {quote(name)} force row level security")
    if question is not None and question != caller.agreed:
        raise AppError(
            "CONFIRMATION_REQUIRED",
            f"More has come to be lost in the meantime. {question}",
            remediation="Ask the user, then repeat manage_schema apply with confirm: true.",
        )


async def _taken(deps: Deps, caller: Caller, app: App, conn: Connection, draft: _Draft) -> Plan:
    """Take the plan's steps; raises what stands in the way of one."""
    plan = await _measured(deps, caller, app, draft.plan)
    if blocked := [step for step in plan.steps if step.block is not None]:
        raise steps_blocked(blocked)
    await _take(conn, plan, draft.forced)
    return plan


async def _take(conn: Connection, plan: Plan, forced: frozenset[str]) -> None:
    """Run the steps. Foreign keys are checked with the eyes of the owner: on a table whose row-level security
    binds the owner too, it would see no rows, and take a broken reference for a whole one. So would a new sequence.
    """
    unbound: set[str] = set()
    for step in plan.steps:
        for name in sorted(forced.intersection(step.joins) - unbound):
            unbound.add(name)
            await conn.execute(f"alter table {quote(name)} no force row level security")
        await run_step(conn, step)
    for name in sorted(unbound):
        await conn.execute(f"alter table {quote(name)} force row level security")


def _up_to_date(plan: Plan, warnings: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {"applied": 0, "statements": [], "message": "Schema is up to date"}
    return result | _notes(plan, warnings)


def _notes(plan: Plan, warnings: list[str]) -> dict[str, Any]:
    return ({"kept": plan.kept} if plan.kept else {}) | ({"warnings": warnings} if warnings else {})


@asynccontextmanager
async def _structure(deps: Deps, app: App) -> AsyncGenerator[Connection]:
    """The owner's connection in a transaction that reads every name and text in one way."""
    async with deps.pools.owner(app) as conn, conn.transaction():
        await conn.execute(_SETTINGS)
        yield conn


@dataclass(frozen=True, slots=True)
class _Draft:
    """A document that holds together, and the plan for it."""

    document: Document
    after: Mapping[str, Outcome]
    plan: Plan
    losses: Sequence[Loss]
    forced: frozenset[str]
    """The tables whose row-level security binds their owner too."""
    widened: list[str]
    """Warnings of what the document takes away by leaving it out."""

    def warnings(self, app: App) -> list[str]:
        """What the caller should know beside the steps."""
        seeded = [name for name, spec in self.document.tables.items() if spec.seed]
        ignored = [f"_seed has no effect here: {', '.join(seeded)}."] if seeded else []
        return self.widened + open_tables(_open(self.after), app.id) + ignored


def _open(after: Mapping[str, Outcome]) -> dict[str, dict[str, str]]:
    return {
        name: {
            column: kind.base
            for column, kind in outcome.columns.items()
            if kind.base in ("uuid", "text") and not kind.array
        }
        for name, outcome in after.items()
        if outcome.now is None or not outcome.now.rls_enabled
    }


async def _draft(conn: Connection, raw: Any) -> _Draft:
    """Raises one error with every problem of the document."""
    snapshot = await read_snapshot(conn)
    document = parse_document(raw, known(snapshot))
    after = outcomes(document, snapshot)
    problems = review(document, snapshot, after)
    if problems:
        raise refuse(problems)
    answers = await ask(conn, questions(document, snapshot, after))
    if answers.problems:
        raise refuse(answers.problems)
    forced = frozenset(table.name for table in snapshot.tables.values() if table.rls_forced)
    plan = make_plan(document, snapshot, answers.texts | await printed_queries(conn, document, snapshot))
    return _Draft(document, after, plan, _losses(document, snapshot), forced, widened(document, snapshot))


async def _measured(deps: Deps, caller: Caller, app: App, plan: Plan) -> Plan:
    """The plan with those steps blocked that existing rows stand in the way of."""
    if not any(step.rows for step in plan.steps):
        return plan
    # As the caller: on a table under row-level security the owner might not see all rows.
    async with as_caller(deps.pools.door(app), caller, read_only=True) as conn:
        steps = [await _measure(conn, step, step.rows) if step.rows else step for step in plan.steps]
    return replace(plan, steps=steps)


async def _measure(conn: Connection, step: Step, rows: Rows) -> Step:
    count = await conn.fetchval(f"select count(*) from {quote(rows.table)} where {rows.condition}")
    if not count:
        return step
    details = {"pg_code": "23502", "severity": "ERROR", "table": rows.table, "column": rows.column}
    reason = f"{rows.reason}: {count} row{'' if count == 1 else 's'} of {rows.table}, column {rows.column}"
    block = Block(reason, rows.unblock, "SCHEMA_MIGRATION_FAILED", details | {"existing_row_count": count})
    return replace(step, block=block)


async def _record(conn: Connection, caller: Caller, plan: Plan, name: str | None) -> int:
    now = iso(datetime.now(UTC))
    label = name or "schema_" + now.replace(":", "-").replace(".", "-")
    checksum = hashlib.sha256(plan.sql_up.encode()).hexdigest()
    return await conn.fetchval(
        "insert into brolly.migrations (name, applied_by, sql_up, sql_down, checksum) "
        "values ($1, $2, $3, $4, $5) returning id",
        label,
        caller.key_id or caller.kind,
        plan.sql_up,
        plan.sql_down,
        checksum,
    )


async def what_apply_loses(deps: Deps, caller: Caller, params: Apply) -> str | None:
    """What the document's drops and conversions would destroy, in numbers; None when there is nothing in it."""
    app = await deps.registry.get(caller, params.app_id)
    snapshot = await deps.catalog.get(app)
    document = parse_document(params.document, known(snapshot))
    losses = _losses(document, snapshot)
    if not losses:
        return None
    async with as_caller(deps.pools.door(app), caller, read_only=True) as conn:
        question = await _question(conn, app, losses)
    if question is not None:
        await _rehearse(deps, caller, app, params)
    return question


async def _question(conn: Connection, app: App, losses: Sequence[Loss]) -> str | None:
    said: list[str] = []
    for loss in losses:
        counted = "*" if loss.column is None else quote(loss.column)
        count = await conn.fetchval(f"select count({counted}) from {quote(loss.table)}")
        if count:
            what = f"table {loss.table}" if loss.column is None else f"column {loss.table}.{loss.column}"
            unit = "rows" if loss.column is None else "values"
            said.append(f"{what} ({count} {unit}) is {loss.how}")
    return f"In app {app.name}: {'; '.join(said)}. Go on?" if said else None


class _RollBack(Exception):  # noqa: N818 - not a failure
    pass


async def _rehearse(deps: Deps, caller: Caller, app: App, params: Apply) -> None:
    """Take all steps and undo them: nobody should be asked about a change that cannot be made."""
    try:
        async with _structure(deps, app) as conn:
            await conn.execute(_LOCK)
            await _taken(deps, caller, app, conn, await _draft(conn, params.document))
            raise _RollBack
    except _RollBack:
        return


def _losses(document: Document, snapshot: Snapshot) -> list[Loss]:
    if review(document, snapshot, outcomes(document, snapshot)):
        return []  # apply will refuse the document, so there is nothing to ask
    return list(make_plan(document, snapshot, {}).losses)


async def list_migrations(deps: Deps, caller: Caller, params: ListMigrations) -> dict[str, Any]:
    """Changes made to the app's structure, newest first, and the platform's own."""
    app = await deps.registry.get(caller, params.app_id)
    async with deps.pools.owner(app) as conn, conn.transaction(readonly=True):
        rows = await conn.fetch(
            "select id, name, sql_up, applied_at from brolly.migrations order by id desc limit $1 offset $2",
            params.limit + 1,
            params.offset,
        )
        own = await conn.fetch("select version, name, applied_at from brolly.applied_migrations order by version desc")
    result: dict[str, Any] = {
        "app_id": app.id,
        "migrations": [
            {
                "id": row["id"],
                "description": row["name"],
                "applied_sql": row["sql_up"],
                "applied_at": row["applied_at"].isoformat(),
            }
            for row in rows[: params.limit]
        ],
        "template_migrations": [
            {"id": row["version"], "filename": row["name"], "applied_at": row["applied_at"].isoformat()} for row in own
        ],
    }
    if len(rows) > params.limit:
        result["next_offset"] = params.offset + params.limit
    return result
