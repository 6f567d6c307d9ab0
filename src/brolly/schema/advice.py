"""What is risky or slow about an app's structure, each with the call that mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from brolly.pg.catalog import Policy, Snapshot, Table
from brolly.pg.pool import Connection
from brolly.schema.description import describe_function
from brolly.schema.statements import fit

_OWNER = re.compile(r"\b([a-z_][a-z0-9_]*)\)?(?:::\w+)? = \(*(?:select )?current_user_id\(\)", re.IGNORECASE)
Advice = dict[str, Any]


# Large ones alone, of tables that have been read often since Postgres began to count; not what keeps rows unique.
_UNUSED = """
select s.relname as table_name, s.indexrelname as name, coalesce(t.seq_scan, 0) + coalesce(t.idx_scan, 0) as reads
from pg_stat_user_indexes s
join pg_index i on i.indexrelid = s.indexrelid
join pg_stat_user_tables t on t.relid = s.relid
where s.schemaname = 'public' and s.idx_scan = 0 and not i.indisunique and not i.indisexclusion
  and coalesce(t.seq_scan, 0) + coalesce(t.idx_scan, 0) >= 100 and pg_relation_size(s.indexrelid) >= 1048576
order by 1, 2
"""
_LARGE = """
select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
  and c.reltuples >= 10000
"""
_PER_ROW = re.compile(r"(?<!select )\b(?:public\.)?current_user_id\(\)", re.IGNORECASE)
Unused = Mapping[str, Mapping[str, int]]
"""By table, the indexes that no query has used, with how often the table was read meanwhile."""


async def unused_indexes(connection: Connection) -> Unused:
    """The indexes that only cost."""
    found: dict[str, dict[str, int]] = {}
    for row in await connection.fetch(_UNUSED):
        found.setdefault(row["table_name"], {})[row["name"]] = row["reads"]
    return found


async def large_tables(connection: Connection) -> frozenset[str]:
    """The tables in which work per row is felt, as far as Postgres has counted."""
    return frozenset(row["relname"] for row in await connection.fetch(_LARGE))


def advise(snapshot: Snapshot, app_id: str, unused: Unused, large: frozenset[str]) -> list[Advice]:
    """The entries, risks first."""
    found = [entry for table in snapshot.tables.values() for entry in _table(table, app_id)]
    found += [
        entry for name in sorted(large & snapshot.tables.keys()) for entry in _repeated(snapshot.tables[name], app_id)
    ]
    found += [entry for table in snapshot.tables.values() for entry in _useless(table, unused, app_id)]
    found += _routines(snapshot, app_id)
    return sorted(found, key=lambda entry: entry["level"] != "risk")


def _entry(level: str, kind: str, name: str, message: str, tool: str, **arguments: Any) -> Advice:
    fix = {"tool": tool, "arguments": arguments}
    return {"level": level, "kind": kind, "table": name, "message": message, "fix": fix}


def _apply(app_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
    return {"action": "apply", "app_id": app_id, "schema": document}


def _table(table: Table, app_id: str) -> Iterator[Advice]:
    name = table.name
    if not table.rls_enabled:
        said = "No row-level security: every signed-in user reads and changes all rows."
        yield _entry("risk", "rls_off", name, said, "manage_rls", action="enable", app_id=app_id, table_name=name)
    for policy in table.policies:
        if _open_to_anybody(policy):
            said = f"Policy {policy.name} lets anonymous callers write any row."
            where = {"app_id": app_id, "table_name": name, "policy_name": policy.name}
            yield _entry("risk", "open_writes", name, said, "manage_rls", action="delete", **where)
    if not table.primary_key:
        spec: dict[str, Any] = {"columns": {"id": {"type": "bigserial", "primaryKey": True}}}
        if "id" in table.columns:
            spec = {"primaryKey": ["id"]}
        said = "No primary key: rows cannot be reached one by one, and pages have no cursor."
        yield _entry("slow", "no_primary_key", name, said, "manage_schema", **_apply(app_id, {"tables": {name: spec}}))
    for columns, why in _unindexed(table):
        index = fit(f"{name}_{'_'.join(columns)}_idx", {i.name for i in table.indexes})
        spec = {"indexes": {index: {"columns": list(columns)}}}
        said = f"No index begins with {', '.join(columns)}, {why}."
        yield _entry("slow", "no_index", name, said, "manage_schema", **_apply(app_id, {"tables": {name: spec}}))
    for twin, kept in _doubled(table):
        spec = {"_dropIndexes": [twin]}
        said = f"Index {twin} does what {kept} does."
        yield _entry("slow", "double_index", name, said, "manage_schema", **_apply(app_id, {"tables": {name: spec}}))


def _repeated(table: Table, app_id: str) -> Iterator[Advice]:
    """Policies of a large table that ask for the caller's id at every row."""
    for policy in table.policies:
        if policy.command == "INSERT" or not _PER_ROW.search(f"{policy.using or ''}"):
            continue
        once = {
            name: _PER_ROW.sub("(select current_user_id())", text)
            for name, text in (("using_expression", policy.using), ("with_check_expression", policy.check))
            if text
        }
        said = f"Policy {policy.name} calls current_user_id() for each row; in a sub-select it is called once a query."
        where = {"app_id": app_id, "table_name": table.name, "policy_name": policy.name}
        yield _entry("slow", "per_row_call", table.name, said, "manage_rls", action="update_policy", **where, **once)


def _useless(table: Table, unused: Unused, app_id: str) -> Iterator[Advice]:
    doubled = {twin for twin, _ in _doubled(table)}
    for index in table.indexes:
        reads = unused.get(table.name, {}).get(index.name)
        # What foreign keys and policies want is used when rows are deleted, or when there are more of them.
        wanted = any(index.columns[: len(columns)] == columns for columns in _wanted(table))
        if reads is None or wanted or index.constraint is not None or index.name in doubled:
            continue
        said = f"No query has used index {index.name} in {reads} reads of the table, and every write keeps it up."
        spec = {"tables": {table.name: {"_dropIndexes": [index.name]}}}
        yield _entry("slow", "unused_index", table.name, said, "manage_schema", **_apply(app_id, spec))


def _open_to_anybody(policy: Policy) -> bool:
    judged = policy.check or policy.using
    anybody = not policy.roles or "butterbase_anon" in policy.roles
    return policy.permissive and policy.command != "SELECT" and anybody and judged == "true"


def _unindexed(table: Table) -> Iterator[tuple[tuple[str, ...], str]]:
    covered = [i.columns for i in table.indexes if i.valid and i.method == "btree" and " WHERE " not in i.definition]
    for columns, why in _wanted(table).items():
        if not any(index[: len(columns)] == columns for index in covered):
            yield columns, why


def _wanted(table: Table) -> dict[tuple[str, ...], str]:
    """The columns that an index should begin with, and why."""
    wanted = {key.columns: f"by which {key.table} is referred to" for key in table.foreign_keys}
    for policy in table.policies:
        for column in _OWNER.findall(f"{policy.using or ''} {policy.check or ''}"):
            if column in table.columns and policy.command != "INSERT":
                wanted.setdefault((column,), f"which policy {policy.name} compares in every query")
    return wanted


def _doubled(table: Table) -> Iterator[tuple[str, str]]:
    seen: dict[Any, str] = {}
    # Those that belong to a constraint come first: they are the ones that stay.
    for index in sorted(table.indexes, key=lambda i: (i.constraint is None, not i.unique, i.name)):
        if not index.plain:
            continue
        form = (index.columns, index.opclasses, index.method)
        if form not in seen:
            seen[form] = index.name
        elif index.constraint is None:
            yield index.name, seen[form]


def _routines(snapshot: Snapshot, app_id: str) -> Iterator[Advice]:
    for name, table in snapshot.views.items():
        if table.view is not None and not table.view.invoker:
            said = "The view reads with its owner's rights, past every policy; it is served to the service role alone."
            views = {"views": {name: {"query": table.view.query}}}
            yield _entry("risk", "owner_view", name, said, "manage_schema", **_apply(app_id, views))
    for name, functions in snapshot.functions.items():
        for function in functions:
            if function.definer and function.plain and len(functions) == 1:
                said = "The function runs with its owner's rights (security definer), past every policy."
                made = {"functions": {name: describe_function(function)}}
                yield _entry("risk", "definer_function", name, said, "manage_schema", **_apply(app_id, made))
