"""Which tables of an app are recorded: their triggers, and how they are put back when something took them away.

What is wanted stands in ``realtime.tables``, what is there in Postgres's catalog. Everything here runs in a transaction
of the owner's, so that a change of structure and what follows from it are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from brolly.pg.identifiers import derived_name, quote
from brolly.pg.pool import Connection

EVENTS = ("INSERT", "UPDATE", "DELETE")
_TRANSITIONS = {"insert": "new table as new_rows", "delete": "old table as old_rows"}
_TRANSITIONS["update"] = f"{_TRANSITIONS['delete']} {_TRANSITIONS['insert']}"

# Triggers are known by what they call: their names outlive the table's.
_STATE = """
select w.table_name, w.created_at, w.updated_at, w.relation::int8 as relation, moved.relname::text as moved_to,
    c.oid::int8 as found, exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'p') as keyed,
    array(
        select p.proname::text from pg_trigger g join pg_proc p on p.oid = g.tgfoid
        where g.tgrelid = c.oid and p.pronamespace = 'realtime'::regnamespace and g.tgenabled in ('O', 'A')
        order by 1) as calls
from realtime.tables w
left join pg_class c on c.relname = w.table_name and c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
left join pg_class moved on moved.oid = w.relation and moved.relnamespace = 'public'::regnamespace
    and moved.relname <> w.table_name
order by w.table_name collate "C"
"""
_CALLS = ["record_delete", "record_insert", "record_update"]
_OF_TABLE = """
select g.tgname::text from pg_trigger g join pg_proc p on p.oid = g.tgfoid
where g.tgrelid = $1::int8::oid and p.pronamespace = 'realtime'::regnamespace
"""
_STRAY = """
select distinct c.relname::text, c.oid::int8 as oid from pg_trigger g
join pg_proc p on p.oid = g.tgfoid and p.pronamespace = 'realtime'::regnamespace
join pg_class c on c.oid = g.tgrelid
where c.relnamespace = 'public'::regnamespace and not exists (select from realtime.tables w where w.relation = c.oid)
"""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A table that is to be recorded. ``oid`` is of the table with that name; None when there is none.

    ``moved_to`` is what the table that was recorded so far is called now.
    """

    name: str
    created_at: datetime
    updated_at: datetime
    relation: int
    moved_to: str | None
    oid: int | None
    keyed: bool
    calls: Sequence[str]

    @property
    def installed(self) -> bool:
        """Whether every change of it is recorded."""
        return self.oid is not None and list(self.calls) == _CALLS

    @property
    def drift(self) -> str | None:
        """What is not as it should be, in words."""
        if self.oid is None:
            return f"The table is called {self.moved_to} now." if self.moved_to else "The table is gone."
        if not self.installed:
            return "Its triggers are missing or switched off."
        return None if self.keyed else "It has no primary key any more; its changes are recorded all the same."


async def read_state(conn: Connection) -> list[Recorded]:
    """What is to be recorded, and what is."""
    return [
        Recorded(
            row["table_name"],
            row["created_at"],
            row["updated_at"],
            row["relation"],
            row["moved_to"],
            row["found"],
            row["keyed"],
            row["calls"],
        )
        for row in await conn.fetch(_STATE)
    ]


async def record(conn: Connection, name: str, oid: int) -> None:
    """Record the table from now on; does nothing to one that is."""
    state = {table.name: table for table in await read_state(conn)}.get(name)
    if state is None or not state.installed:
        await _install(conn, name, oid)
    await conn.execute(
        "insert into realtime.tables as w (table_name, relation) values ($1, $2::int8::oid) "
        "on conflict (table_name) do update set relation = excluded.relation, updated_at = now()",
        name,
        oid,
    )


async def stop(conn: Connection, name: str) -> bool:
    """Record the table no longer; whether it was."""
    state = {table.name: table for table in await read_state(conn)}.get(name)
    if state is None:
        return False
    if state.oid is not None:
        await _uninstall(conn, name, state.oid)
    await conn.execute("delete from realtime.tables where table_name = $1", name)
    return True


async def reconcile(conn: Connection) -> list[str]:
    """Make what is there what it should be; the tables for which something was done.

    A table that was renamed is recorded under its new name, one that was made anew gets triggers, and one that is
    gone is remembered: it may come back.
    """
    done: list[str] = []
    states = await read_state(conn)
    names = {table.name for table in states}
    for table in states:
        if table.oid is None and table.moved_to is not None and table.moved_to not in names:
            await conn.execute(
                "update realtime.tables set table_name = $2, updated_at = now() where table_name = $1",
                table.name,
                table.moved_to,
            )
            done.append(table.moved_to)
    for table in await read_state(conn) if done else states:
        if table.oid is not None and not (table.installed and table.relation == table.oid):
            await record(conn, table.name, table.oid)
            done.append(table.name)
    for row in await conn.fetch(_STRAY):
        await _uninstall(conn, row["relname"], row["oid"])
    return done


async def _install(conn: Connection, name: str, oid: int) -> None:
    await _uninstall(conn, name, oid)
    for event, transitions in _TRANSITIONS.items():
        trigger = quote(derived_name(f"trg_realtime_{name}", f"_{event}"))
        await conn.execute(
            f"create trigger {trigger} after {event} on public.{quote(name)} referencing {transitions} "
            f"for each statement execute function realtime.record_{event}()"
        )


async def _uninstall(conn: Connection, name: str, oid: int) -> None:
    for row in await conn.fetch(_OF_TABLE, oid):
        await conn.execute(f"drop trigger {quote(row['tgname'])} on public.{quote(name)}")
