"""Who may write the tables that policies look up: they decide for themselves whether a policy lets them in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from brolly.pg.catalog import Snapshot, Table
from brolly.pg.identifiers import derived_name
from brolly.pg.pool import Connection
from brolly.rls.protection import ANON, USER

_WHO = {USER: "signed-in users", ANON: "anonymous callers"}
_UUID, _TEXTS = 2950, (25, 1043)
_USER_COLUMNS = ("user_id", "member_id", "account_id", "owner_id", "author_id", "created_by")

# What a policy depends on names every table and column that it reads, its own table's among them.
_POLICIES = """
select p.polrelid::int8 as table, p.polname as name, p.polpermissive as permissive,
    p.polcmd in ('a', 'w', '*') as writes,
    array(select r.rolname::text from pg_roles r where r.oid = any (p.polroles)) as roles,
    concat(p.polqual::text, p.polwithcheck::text) ~ '\\{SUBLINK' as sublinks,
    pg_get_expr(p.polqual, p.polrelid) as using, pg_get_expr(p.polwithcheck, p.polrelid) as check,
    array(select distinct d.refobjid::int8 from pg_depend d
          where d.classid = 'pg_policy'::regclass and d.objid = p.oid and d.refclassid = 'pg_class'::regclass
            and d.refobjid <> p.polrelid) as reads,
    array(select d.refobjid || '.' || a.attname from pg_depend d
          join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
          where d.classid = 'pg_policy'::regclass and d.objid = p.oid and d.refclassid = 'pg_class'::regclass
            and d.refobjsubid > 0) as columns
from pg_policy p
order by p.polrelid, p.polname
"""
_WRITABLE = """
select role.name from unnest($2::text[]) role (name)
where has_table_privilege(role.name, $1::int8::oid, 'insert, update')
"""
# As Postgres prints it back: the caller's id in one column, and nothing else.
_OWN = re.compile(r'\(?"?([\w$]+)"? = \(?(?:public\.)?current_user_id\(\)\)?(?:::uuid)?\)?')


@dataclass(frozen=True, slots=True)
class _Policy:
    """A policy as Postgres keeps it. ``columns`` are those that it reads, each behind its table's oid and a dot."""

    table: int
    name: str
    writes: bool
    permissive: bool
    roles: frozenset[str]
    sublinks: bool
    using: str | None
    check: str | None
    reads: frozenset[int]
    columns: frozenset[str]

    def binds(self, role: str) -> bool:
        return not self.roles or role in self.roles

    @property
    def lets_write(self) -> bool:
        """Whether it allows some new or changed row."""
        return self.writes and self.permissive and (self.check or self.using) != "false"

    @property
    def own_column(self) -> str | None:
        """The column that must hold the caller's id, where that is all that the policy asks."""
        found = [_OWN.fullmatch(text) for text in (self.using, self.check) if text]
        names = {match[1] if match else None for match in found}
        return names.pop() if len(names) == 1 else None


async def judge_writers(conn: Connection, snapshot: Snapshot, table: Table, name: str | None = None) -> list[str]:
    """Warnings where a looked-up table can be written by those about whom it decides.

    Looks at what the table's policy of that name reads, and at the policies of other
    tables that read this one.
    """
    stored = await _stored(conn)
    tables = {t.oid: t for t in snapshot.tables.values()}
    enabled = {row["oid"] for row in await conn.fetch("select oid::int8 from pg_class where relrowsecurity")}
    said: list[str] = []
    for reader, other in _pairs(stored, tables, table, name):
        allowed = [row["name"] for row in await conn.fetch(_WRITABLE, other.oid, [USER, ANON])]
        roles = [role for role in allowed if reader.binds(role)]
        writers = [p for p in stored if p.table == other.oid and p.lets_write]
        if other.oid in enabled:
            roles = [role for role in roles if any(p.binds(role) for p in writers)]
            writers = [p for p in writers if any(p.binds(role) for role in roles)]
        else:
            writers = []
        if roles:
            mine = (reader.table, reader.name) == (table.oid, name)
            what = "this policy" if mine else f"policy {reader.name} of {tables[reader.table].name}"
            said.append(_warning(other, what, roles, writers, reader))
    return said


async def _stored(conn: Connection) -> list[_Policy]:
    return [
        _Policy(
            table=row["table"],
            name=row["name"],
            writes=row["writes"],
            permissive=row["permissive"],
            roles=frozenset(row["roles"]),
            sublinks=row["sublinks"],
            using=row["using"],
            check=row["check"],
            reads=frozenset(row["reads"]),
            columns=frozenset(row["columns"]),
        )
        for row in await conn.fetch(_POLICIES)
    ]


def _pairs(
    stored: Sequence[_Policy], tables: Mapping[int, Table], table: Table, name: str | None
) -> Iterator[tuple[_Policy, Table]]:
    """Each policy in question with each table that it looks up."""
    changed = next((p for p in stored if (p.table, p.name) == (table.oid, name)), None)
    if changed is not None:
        for oid in sorted(changed.reads & tables.keys(), key=lambda oid: tables[oid].name):
            yield changed, tables[oid]
    if changed is None or changed.lets_write:
        for reader in stored:
            if table.oid in reader.reads and reader.table in tables:
                yield reader, table


def _warning(other: Table, what: str, roles: Sequence[str], writers: Sequence[_Policy], reader: _Policy) -> str:
    who = " and ".join(_WHO[role] for role in roles)
    names = ", ".join(p.name for p in writers)
    begin = f"{other.name} decides who passes {what}, and {who} may write rows of it themselves"
    if writers and all(p.sublinks or _keeps_to_own(p, other, reader) for p in writers):
        return f"{begin} (by {names}): see that nobody lets themselves in with a row of their own."
    closing = "".join(
        f'; then manage_rls delete table_name="{other.name}" policy_name="{writer.name}"' for writer in writers
    )
    column, cast = _user_column(other)
    return (
        f"{begin}: anybody can let themselves in. Allow only SELECT on it: manage_rls create_policy "
        f'table_name="{other.name}" policy_name="{derived_name(other.name, "_read")}" command="SELECT" role="user" '
        f'using_expression="{column} = current_user_id(){cast}"{closing}. Write its rows with a service key.'
    )


def _keeps_to_own(writer: _Policy, other: Table, reader: _Policy) -> bool:
    """Whether callers write rows with their own id alone, and what the reader looks up is another, unique column:
    nobody can have a second row for the same thing.
    """
    own = writer.own_column
    keys = [key.columns for key in (other.primary, *other.uniques) if key]
    return own is not None and any(
        len(key) == 1 and key[0] != own and f"{other.oid}.{key[0]}" in reader.columns for key in keys
    )


def _user_column(table: Table) -> tuple[str, str]:
    """The column that most likely holds users' ids, and the cast that the caller's id needs beside it."""
    fit = {c.name: c for c in table.columns.values() if c.base_oid == _UUID or c.base_oid in _TEXTS}
    keys = table.primary_key if len(table.primary_key) == 1 else ()
    uuids = [c.name for c in fit.values() if c.base_oid == _UUID and c.name not in keys]
    name = next((n for n in (*_USER_COLUMNS, *uuids) if n in fit), "user_id")
    return name, "" if name in fit and fit[name].base_oid in _TEXTS else "::uuid"
