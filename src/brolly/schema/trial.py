"""What Postgres says about the owner's own SQL: whether two queries are one, what is wrong with one, what it reads."""

from __future__ import annotations

import secrets

from brolly.core.errors import AppError
from brolly.pg.catalog import Snapshot
from brolly.pg.expression import Refusal, refusal_of, unsafe_functions
from brolly.pg.identifiers import quote
from brolly.pg.pool import Connection
from brolly.pg.statement import place
from brolly.schema.document import Document
from brolly.schema.failures import migration_failed
from brolly.schema.plan import Phase, Plan, Step, Written
from brolly.schema.probe import Place
from brolly.schema.problems import Problem, refuse
from brolly.schema.routine_diff import create_view, same_query, view_place

_TREE = (
    "select r.ev_action::text from pg_rewrite r join pg_class c on c.oid = r.ev_class "
    "where c.relname = $1 and c.relnamespace = 'public'::regnamespace"
)
# By the ids in the stored tree: the system's own relations leave no dependency.
_STRANGERS = f"""
select distinct k.relname
from ({_TREE}) t (text), regexp_matches(t.text, ':relid ([0-9]+)', 'g') m
join pg_class k on k.oid = m[1]::oid
where k.relnamespace <> 'public'::regnamespace or k.relname like '\\_%'
order by 1
"""


async def printed_queries(conn: Connection, document: Document, snapshot: Snapshot) -> dict[Place, str]:
    """The queries of existing views that differ at sight, as Postgres would print them. One that it does not
    take, since it needs what the document only makes, is left out, and so counts as changed."""
    found: dict[Place, str] = {}
    for name, wanted in document.views.items():
        current = snapshot.views.get(name)
        if current is None or same_query(wanted, current, None):
            continue
        savepoint = conn.transaction()
        await savepoint.start()
        probe = f"_probe_{secrets.token_hex(8)}"
        if await refusal_of(conn, create_view(probe, wanted.query), single=True) is None:
            text = await conn.fetchval("select pg_get_viewdef($1::text::regclass, true)", quote(probe))
            found[view_place(name)] = text.strip().removesuffix(";")
        await savepoint.rollback()
    return found


async def run_step(conn: Connection, step: Step) -> None:
    """Take one step; raises what Postgres has against it, in the document's own places."""
    written = step.written
    refused = await refusal_of(conn, step.sql, single=written is not None)
    if refused is not None and written is not None:
        raise refuse([Problem(written.path, _reason(refused, written))])
    if refused is not None:
        raise migration_failed(step, refused)
    if written is not None and written.view is not None:
        await _look_at(conn, written, written.view)


def _reason(refused: Refusal, written: Written) -> str:
    at = (refused.position or 0) - 1 - written.at
    where = f" ({place(written.text, at)})" if 0 <= at <= len(written.text) else ""
    return f"{refused.message}{where}"


async def _look_at(conn: Connection, written: Written, view: str) -> None:
    strangers = [row["relname"] for row in await conn.fetch(_STRANGERS, view)]
    if strangers:
        why = f"it may read only tables and views of the app, not {', '.join(strangers)}"
        raise refuse([Problem(written.path, why)])
    unsafe = await unsafe_functions(conn, _TREE, view)
    if unsafe:
        raise refuse([Problem(written.path, f"{', '.join(unsafe)} may not be called in a view")])


# Steps that a preview takes and undoes, to try views and functions on: none reads the rows of a table.
_QUICK = (
    Phase.DROP_ROUTINES,
    Phase.DROP_FOREIGN_KEYS,
    Phase.DROP_CONSTRAINTS,
    Phase.DROP_INDEXES,
    Phase.DROP_TABLES,
    Phase.DROP_COLUMNS,
    Phase.CREATE_TABLES,
    Phase.ADD_COLUMNS,
    Phase.CREATE_ROUTINES,
)


async def try_out(conn: Connection, plan: Plan) -> list[str]:
    """Try the plan's views and functions on the structure to come, and undo it; raises what is wrong with them.
    The answer says so when they could not be tried."""
    routines = [step for step in plan.steps if step.written is not None]
    if not routines or any(step.block is not None for step in plan.steps):
        return []
    if any(step.phase is Phase.ALTER_COLUMNS for step in plan.steps):
        return ["Views and functions were not tried, since columns change their types first; apply tries them."]
    savepoint = conn.transaction()
    await savepoint.start()
    try:
        await conn.execute("set local lock_timeout = '2s'")
        for step in plan.steps:
            if step.phase in _QUICK:
                await run_step(conn, step)
    except AppError as error:
        if error.code != "SCHEMA_MIGRATION_FAILED":
            raise
    finally:
        await savepoint.rollback()
    return []
