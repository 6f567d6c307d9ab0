"""Which tables policies read in sub-selects, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from brolly.core.errors import AppError
from brolly.pg.catalog import Policy, Snapshot, Table
from brolly.pg.expression import unsafe_functions
from brolly.pg.pool import Connection
from brolly.rls.expressions import INVALID, UNSAFE
from brolly.rls.protection import ANON, SERVICE, USER

_TREES = """
    select t::text from pg_policy p, unnest(array[p.polqual::text, p.polwithcheck::text]) t
    where p.polrelid = $1 and p.polname = $2
"""

# The stored tree names each table of a sub-select by its oid; a row of the policy's own table has none.
_POLICIES = """
select p.polrelid::int8 as table, p.polname as name, p.polcmd in ('r', '*') as selects, p.polpermissive as permissive,
    array(select r.rolname::text from pg_roles r where r.oid = any (p.polroles)) as roles,
    tree.text ~ '\\{SUBLINK' as sublinks,
    tree.text ~ ':hasForUpdate true' as locks,
    array(select distinct m[1]::int8 from regexp_matches(tree.text, ':relid ([1-9][0-9]*)', 'g') m) as reads
from pg_policy p, concat(p.polqual::text, p.polwithcheck::text) tree (text)
"""

_READABLE = """
select t.oid::int8 as oid, role.name as role
from unnest($1::int8[]) t (oid), unnest($2::text[]) role (name)
where has_table_privilege(role.name, t.oid::oid, 'select')
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A policy as Postgres keeps it: whether it has sub-selects, and of which tables."""

    table: int
    name: str
    selects: bool
    permissive: bool
    roles: frozenset[str]
    sublinks: bool
    locks: bool
    reads: frozenset[int]

    def binds(self, role: str) -> bool:
        """Whether the policy is for this role."""
        return not self.roles or role in self.roles


async def refuse_unsafe(conn: Connection, table: Table, name: str) -> None:
    """Raise unless every function in the stored policy is one that may stand there."""
    found = await unsafe_functions(conn, _TREES, table.oid, name)
    if found:
        raise AppError(
            UNSAFE, f"The expression calls what no policy may: {', '.join(found)}.", details={"functions": found}
        )


async def judge_reads(conn: Connection, snapshot: Snapshot, table: Table, policy: Policy) -> list[str]:
    """Warnings about the tables that the policy, just stored, reads; raises when no query could work with it."""
    stored = [
        Stored(
            table=row["table"],
            name=row["name"],
            selects=row["selects"],
            permissive=row["permissive"],
            roles=frozenset(row["roles"]),
            sublinks=row["sublinks"],
            locks=row["locks"],
            reads=frozenset(row["reads"]),
        )
        for row in await conn.fetch(_POLICIES)
    ]
    mine = next(p for p in stored if (p.table, p.name) == (table.oid, policy.name))
    if not mine.sublinks:
        return []
    if mine.locks:
        raise AppError(
            INVALID,
            "A policy may not lock rows.",
            remediation="Leave FOR UPDATE and FOR SHARE out, then repeat the manage_rls call.",
        )
    tables = {t.oid: t for t in snapshot.tables.values()}
    if not mine.reads <= tables.keys():
        raise AppError(
            INVALID,
            "The expression reads a table that is not one of the app's own.",
            remediation="A policy may read the tables that manage_schema get lists, and no others.",
        )
    roles = [role for role in (USER, ANON, SERVICE) if mine.binds(role)]
    for role in roles:
        _refuse_recursion(stored, tables, table, policy, role)
    return await _warnings(conn, stored, tables, table, mine, [role for role in roles if role != SERVICE])


def _refuse_recursion(
    stored: Sequence[Stored], tables: Mapping[int, Table], table: Table, policy: Policy, role: str
) -> None:
    ring = _ring(stored, table.oid, role)
    if ring is None:
        return
    names = [tables[oid].name if oid in tables else str(oid) for oid in ring]
    raise AppError(
        INVALID,
        f"Every query would end in a circle: the policies of {' read '.join(names)}.",
        remediation=f"Let the policies of {names[-1]} look at that table's own columns alone, for example with "
        f"manage_rls create_policy on {names[-1]}, command SELECT, role user, using_expression user_id = "
        "current_user_id()::uuid (SELECT, so that nobody lets themselves in), or keep what the sub-select looks up "
        "in a further table; then repeat the call.",
        details={"circle": names, "policy": policy.name},
    )


def _ring(stored: Sequence[Stored], start: int, role: str) -> list[int] | None:
    """The tables of a circle that begins at ``start``, as Postgres would meet them; None when there is none.

    It refuses a table met again while it is still being worked on, if the policies of
    that second visit have sub-selects. Visits from sub-selects are reads.
    """
    mine = [p for p in stored if p.binds(role)]

    def reads(oid: int) -> frozenset[int]:
        return frozenset[int]().union(*(p.reads for p in mine if p.table == oid and p.selects))

    done: set[int] = set()

    def visit(path: list[int], targets: frozenset[int]) -> list[int] | None:
        for target in sorted(targets - done):
            if not any(p.sublinks for p in mine if p.table == target and p.selects):
                continue
            if target in path:
                return [*path[path.index(target) :], target]
            found = visit([*path, target], reads(target))
            if found is not None:
                return found
            done.add(target)
        return None

    return visit([start], frozenset[int]().union(*(p.reads for p in mine if p.table == start)))


async def _warnings(
    conn: Connection,
    stored: Sequence[Stored],
    tables: Mapping[int, Table],
    table: Table,
    mine: Stored,
    roles: Sequence[str],
) -> list[str]:
    others = sorted(mine.reads - {table.oid}, key=lambda oid: tables[oid].name)
    rows = await conn.fetch(_READABLE, others, list(roles))
    readable = {(row["oid"], row["role"]) for row in rows}
    said: list[str] = []
    for oid in others:
        other = tables[oid]
        for role in roles:
            who = "signed-in callers" if role == USER else "anonymous callers"
            if (oid, role) not in readable:
                said.append(
                    f"{who} may not read {other.name}, which the sub-select reads: their queries on {table.name} "
                    f"fail with 403. Give this policy role user, or call manage_rls enable for {other.name} "
                    "and add a SELECT policy there."
                )
            elif other.rls_enabled and not any(
                p.table == oid and p.selects and p.permissive and p.binds(role) for p in stored
            ):
                said.append(
                    f"The sub-select finds nothing for {who}: {other.name} has no permissive SELECT policy for them. "
                    f"Add one with manage_rls create_policy on {other.name}, command SELECT."
                )
    return said
