"""Tables as a document: what ``get`` answers, written so that applying it changes nothing."""

from __future__ import annotations

import re
from typing import Any

from brolly.pg.catalog import Column, ForeignKey, Function, Index, Snapshot, Table
from brolly.schema.names import Known
from brolly.schema.outcome import column_type, document_index
from brolly.schema.routines import ROLES, bare_text, returns_of
from brolly.schema.statements import fit


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """The document of all tables, views and functions; what it has no words for is left out."""
    found: dict[str, Any] = {"tables": {name: _table(table) for name, table in snapshot.tables.items()}}
    if views := {n: {"query": t.view.query} for n, t in snapshot.views.items() if t.view and t.view.plain}:
        found["views"] = views
    alone = {name: found[0] for name, found in snapshot.functions.items() if len(found) == 1}
    if functions := {n: describe_function(f) for n, f in alone.items() if f.plain and not (f.definer or f.settings)}:
        found["functions"] = functions
    return found


def describe_function(now: Function) -> dict[str, Any]:
    """One function as the document has it."""
    arguments: dict[str, Any] = {}
    for argument in now.arguments:
        kind = bare_text(argument.value.type)
        arguments[argument.name] = kind if argument.default is None else {"type": kind, "default": argument.default}
    found: dict[str, Any] = {"arguments": arguments} if arguments else {}
    found |= {"returns": returns_of(now).sql, "language": now.language, "body": now.body}
    found["volatility"] = now.volatility
    if exposed := [name for name, role in ROLES.items() if role in now.roles and name != "service"]:
        found["expose"] = exposed
    return found


def known(snapshot: Snapshot) -> Known:
    """What the tables have that the document's own grammar has no words for."""
    columns = [column for table in snapshot.tables.values() for column in table.columns.values()]
    arguments = [a for found in snapshot.functions.values() for f in found for a in f.arguments]
    defaults = [*(c.default for c in columns), *(a.default for a in arguments)]
    columns += [a.value for a in arguments]
    for found in snapshot.functions.values():
        columns += [c for f in found for c in (*f.columns.values(), *([f.value] if f.value else []))]
    return Known(frozenset(c.type for c in columns), frozenset(d for d in defaults if d is not None))


def _table(table: Table) -> dict[str, Any]:
    found: dict[str, Any] = {
        "columns": {name: describe_column(table, column) for name, column in table.columns.items()}
    }
    if len(table.primary_key) > 1:
        found["primaryKey"] = list(table.primary_key)
    if indexes := {index.name: _index(index) for index in table.indexes if document_index(index)}:
        found["indexes"] = indexes
    if table.checks:
        found["checks"] = {check.name: _bare(check.expression) for check in table.checks}
    return found


def _bare(expression: str) -> str:
    """Without the pair of brackets around all of it."""
    if not (expression.startswith("(") and expression.endswith(")")):
        return expression
    depth, quoted = 0, False
    for at, char in enumerate(expression):
        if char == "'":
            quoted = not quoted
        elif not quoted and char in "()":
            depth += 1 if char == "(" else -1
            if depth == 0 and at < len(expression) - 1:
                return expression
    # A lone bracket in a quoted name would mislead the count; such a text stays as it is.
    return expression[1:-1] if depth == 0 and '"' not in expression else expression


def describe_column(table: Table, column: Column) -> dict[str, Any]:
    """One column as the document has it."""
    kind = column_type(table, column.name)
    found: dict[str, Any] = {"type": kind.name}
    if table.primary_key == (column.name,):
        found["primaryKey"] = True
    elif column.name not in table.primary_key and not column.nullable:
        found["nullable"] = False
    if column.default is not None and not kind.serial:
        found["default"] = column.default
    if found.get("primaryKey") is None and any(key.columns == (column.name,) for key in table.uniques):
        found["unique"] = True
    for key in table.foreign_keys:
        if key.columns == (column.name,):
            found["references"] = _references(key)
            break
    return found


def _references(key: ForeignKey) -> Any:
    if (key.on_delete, key.on_update) == ("NO ACTION", "NO ACTION"):
        return f"{key.table}.{key.target[0]}"
    found = {"table": key.table, "column": key.target[0]}
    if key.on_delete != "NO ACTION":
        found["onDelete"] = key.on_delete
    if key.on_update != "NO ACTION":
        found["onUpdate"] = key.on_update
    return found


def _index(index: Index) -> dict[str, Any]:
    found: dict[str, Any] = {"columns": list(index.columns)}
    if index.unique:
        found["unique"] = True
    if index.method != "btree":
        found["method"] = index.method
    if not index.default_opclass:
        found["opclass"] = index.opclasses[0]
    return found


# Tables that decide what users reach elsewhere: whoever may write a row of one lets themselves in.
_DECIDES = re.compile(
    r"(?:^|_)(?:members?|memberships?|roles?|participants?|collaborators?|permissions?|grants?|access|admins?|shares?"
    r"|staff|moderators?|invites?|invitations?)$|_users$"
)
_USER_COLUMNS = ("user_id", "owner_id", "author_id", "created_by")


def open_tables(tables: dict[str, dict[str, str]], app_id: str) -> list[str]:
    """A warning that names tables without row-level security and the call that secures each.

    ``tables`` maps each name to its columns that may hold a user's id, with their type: uuid or text.
    """
    if not tables:
        return []
    calls = [f"manage_rls {_securing(name, columns)}" for name, columns in tables.items()]
    said = (
        f"No row-level security on {', '.join(tables)}: every signed-in user can read and change all rows. "
        f"Fix with app_id={app_id}: {'; '.join(calls)}."
    )
    if any("create_user_isolation" in call for call in calls):
        said += (
            " Isolation lets users write rows of their own: for a table that decides what they reach elsewhere, such "
            "as members of a team, let them only read theirs (create_policy, command=SELECT), or anybody can join."
        )
    return [said]


def _securing(name: str, columns: dict[str, str]) -> str:
    user = next((column for column in _USER_COLUMNS if column in columns), None)
    if user is None:
        return f"enable table_name={name}"
    if not _DECIDES.search(name):
        return f"create_user_isolation table_name={name} user_column={user}"
    cast = "::uuid" if columns[user] == "uuid" else ""
    return (
        f"create_policy table_name={name} policy_name={fit(name + '_read')} command=SELECT role=user "
        f'using_expression="{user} = current_user_id(){cast}"'
    )
