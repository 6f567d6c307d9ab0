"""The statements that make, change and remove tables. Every name is quoted, every other part is
either from a fixed list or was read and written anew by this slice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Set

from brolly.pg.catalog import Column, ForeignKey, Table
from brolly.pg.identifiers import quote
from brolly.schema.document import Column as ColumnSpec
from brolly.schema.document import Index as IndexSpec
from brolly.schema.document import References

_MAX_NAME = 63


def quote_all(names: Iterable[str]) -> str:
    """The names as identifiers, with commas."""
    return ", ".join(map(quote, names))


def fit(name: str, taken: Set[str] = frozenset()) -> str:
    """A name for an object that the document does not name: short enough and not taken.

    Postgres would cut a long one without a word, and two could then be one.
    """
    found, number = name, 0
    while len(found) > _MAX_NAME or found in taken:
        digest = hashlib.sha256(f"{name}{number or ''}".encode()).hexdigest()[:8]
        found, number = f"{name[: _MAX_NAME - 9]}_{digest}", number + 1
    return found


def column_clause(name: str, spec: ColumnSpec) -> str:
    """A column in CREATE TABLE or ADD COLUMN, without its keys."""
    parts = [quote(name), spec.type.name]
    if spec.default is not None:
        parts.append(f"default {spec.default.sql}")
    if spec.nullable is False and not spec.type.serial:
        parts.append("not null")
    return " ".join(parts)


def references_clause(column: str, target: References) -> str:
    """A foreign key of one column, without its name."""
    return _foreign_key([column], target.table, [target.column], target.on_delete, target.on_update)


def _foreign_key(columns: Iterable[str], table: str, target: Iterable[str], on_delete: str, on_update: str) -> str:
    clause = f"foreign key ({quote_all(columns)}) references {quote(table)} ({quote_all(target)})"
    if on_delete != "NO ACTION":
        clause += f" on delete {on_delete.lower()}"
    if on_update != "NO ACTION":
        clause += f" on update {on_update.lower()}"
    return clause


def create_table(name: str, clauses: Iterable[str]) -> str:
    """A new table."""
    return f"create table {quote(name)} (\n  " + ",\n  ".join(clauses) + "\n)"


def create_index(table: str, name: str, spec: IndexSpec) -> str:
    """A new index."""
    opclass = f" {spec.opclass}" if spec.opclass else ""
    columns = ", ".join(quote(column) + opclass for column in spec.columns)
    unique = "unique " if spec.unique else ""
    return f"create {unique}index {quote(name)} on {quote(table)} using {spec.method} ({columns})"


def alter_table(table: str, *actions: str) -> str:
    """A change of a table."""
    return f"alter table {quote(table)} " + ", ".join(actions)


def alter_column(table: str, column: str, *actions: str) -> str:
    """A change of one column."""
    return alter_table(table, *(f"alter column {quote(column)} {action}" for action in actions))


def add_constraint(table: str, name: str, clause: str) -> str:
    """A new constraint."""
    return alter_table(table, f"add constraint {quote(name)} {clause}")


def drop_constraint(table: str, name: str) -> str:
    """Remove a constraint; refused by Postgres when something depends on it."""
    return alter_table(table, f"drop constraint {quote(name)}")


def foreign_key_again(key: ForeignKey) -> str:
    """The clause of an existing foreign key."""
    return _foreign_key(key.columns, key.table, key.target, key.on_delete, key.on_update)


def column_again(column: Column) -> str:
    """The clause of an existing column, as far as Postgres's texts allow."""
    parts = [quote(column.name), column.type]
    if column.generated is not None:
        parts.append(f"generated always as ({column.generated}) stored")
    elif column.identity:
        parts.append(f"generated {column.identity} as identity")
    elif column.serial:
        parts[1] = {"smallint": "smallserial", "integer": "serial", "bigint": "bigserial"}[column.type]
    elif column.default is not None:
        parts.append(f"default {column.default}")
    if not column.nullable:
        parts.append("not null")
    return " ".join(parts)


def table_again(table: Table) -> list[str]:
    """The statements that make an existing table once more: empty, without foreign keys, policies and triggers."""
    clauses = [column_again(column) for column in table.columns.values()]
    if table.primary:
        clauses.append(f"constraint {quote(table.primary.name)} primary key ({quote_all(table.primary.columns)})")
    clauses += [f"constraint {quote(key.name)} unique ({quote_all(key.columns)})" for key in table.uniques]
    clauses += [f"constraint {quote(check.name)} check ({check.expression})" for check in table.checks]
    indexes = [index.definition for index in table.indexes if index.constraint is None]
    return [create_table(table.name, clauses), *indexes]
