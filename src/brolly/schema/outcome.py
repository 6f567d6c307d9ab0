"""What the tables will be once a document is applied, and what in the document cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from brolly.pg.catalog import Check, Index, Snapshot, Table
from brolly.schema.document import MAX_COLUMNS, MAX_TABLES, Column, Document, References
from brolly.schema.document import Table as TableSpec
from brolly.schema.problems import Problem, nearest
from brolly.schema.types import ColumnType, comparable, read_type


@dataclass(frozen=True, slots=True)
class Outcome:
    """One table as it will be. ``now`` is None for a new one, ``spec`` for one that the document leaves out.

    ``unique`` holds each list of columns that a constraint or index keeps unique, the key among them.
    """

    name: str
    spec: TableSpec | None
    now: Table | None
    columns: Mapping[str, ColumnType]
    key: tuple[str, ...]
    unique: frozenset[tuple[str, ...]]


def column_type(table: Table, name: str) -> ColumnType:
    """The type of an existing column, in the document's terms."""
    column = table.columns[name]
    # A serial that may be null cannot be written as one.
    return read_type(column.type, serial=column.serial and not column.nullable)


def document_index(index: Index) -> bool:
    """Whether a document can describe the index."""
    uniform = index.default_opclass or len(set(index.opclasses)) == 1
    return index.constraint is None and index.plain and uniform


def same_check(wanted: str, current: Check, stored: str | None) -> bool:
    """Whether a check of the document is the existing one: as it reads back, or as Postgres would store it."""
    return current.expression in (wanted, f"({wanted})", stored)


def outcomes(document: Document, snapshot: Snapshot) -> dict[str, Outcome]:
    """Every table as it will be, by name."""
    names = [name for name in snapshot.tables if name not in document.drop]
    names += [name for name in document.tables if name not in snapshot.tables]
    return {name: _outcome(name, document.tables.get(name), snapshot.tables.get(name)) for name in names}


def _outcome(name: str, spec: TableSpec | None, now: Table | None) -> Outcome:
    columns: dict[str, ColumnType] = {}
    key: tuple[str, ...] = ()
    if now is not None:
        dropped = set(spec.drop_columns) if spec else set[str]()
        columns = {c: column_type(now, c) for c in now.columns if c not in dropped}
        key = now.primary_key if set(now.primary_key) <= columns.keys() else ()
    if spec is not None:
        columns |= {c: column.type for c, column in spec.columns.items()}
        key = key if spec.key is None else spec.key
    unique = {key, *_kept_unique(spec, now, columns), *_wanted_unique(spec)} - {()}
    return Outcome(name, spec, now, columns, key, frozenset(unique))


def _kept_unique(
    spec: TableSpec | None, now: Table | None, columns: Mapping[str, ColumnType]
) -> Iterator[tuple[str, ...]]:
    if now is None:
        return
    described = spec.columns if spec else {}
    for constraint in now.uniques:
        alone = len(constraint.columns) == 1 and constraint.columns[0] in described
        if not alone and set(constraint.columns) <= columns.keys():
            yield constraint.columns
    gone = {*spec.drop_indexes, *spec.indexes} if spec else set[str]()
    for index in now.indexes:
        names = tuple(c for c in index.columns if c is not None)
        if index.unique and document_index(index) and index.name not in gone and set(names) <= columns.keys():
            yield names


def _wanted_unique(spec: TableSpec | None) -> Iterator[tuple[str, ...]]:
    if spec is not None:
        yield from ((name,) for name, column in spec.columns.items() if column.unique)
        yield from (tuple(index.columns) for index in spec.indexes.values() if index.unique)


def review(document: Document, snapshot: Snapshot, after: Mapping[str, Outcome]) -> list[Problem]:
    """What in the document contradicts the tables that there will be."""
    problems: list[Problem] = []
    if len(after) > MAX_TABLES:
        what = f"the app would have {len(after)} tables, {MAX_TABLES} are allowed"
        problems.append(Problem("tables", what, "QUOTA_TABLE_LIMIT"))
    for name, spec in document.tables.items():
        problems += _review_table(spec, after[name])
        for column, column_spec in spec.columns.items():
            if column_spec.references is not None:
                path = f"tables.{name}.columns.{column}.references"
                if why := _reference(column_spec, column_spec.references, after):
                    problems.append(Problem(path, why))
        problems += _index_names(name, document, snapshot)
    return problems


def _review_table(spec: TableSpec, after: Outcome) -> Iterator[Problem]:
    path = f"tables.{after.name}"
    if not after.columns:
        yield Problem(path, 'the table has no columns; add "columns"')
    if len(after.columns) > MAX_COLUMNS:
        yield Problem(path, f"the table would have {len(after.columns)} columns, {MAX_COLUMNS} are allowed")
    if len(set(after.key)) < len(after.key):
        yield Problem(f"{path}.primaryKey", "a column is named twice")
    lists = {f"indexes.{index}.columns": tuple(entry.columns) for index, entry in spec.indexes.items()}
    for where, columns in {"primaryKey": after.key, **lists}.items():
        for column in columns:
            if column not in after.columns:
                near = nearest(column, list(after.columns))
                yield Problem(f"{path}.{where}", f"{after.name} has no column {column}{near}")


def _reference(column: Column, target: References, after: Mapping[str, Outcome]) -> str:
    table = after.get(target.table)
    if table is None:
        return f"there is no table {target.table}{nearest(target.table, list(after))}"
    there = table.columns.get(target.column)
    where = f"{target.table}.{target.column}"
    if there is None:
        return f"{target.table} has no column {target.column}{nearest(target.column, list(table.columns))}"
    if (target.column,) not in table.unique:
        return f'{where} is neither primary key nor unique; add "unique": true to it'
    known = not (column.type.opaque or there.opaque)
    if known and not comparable(column.type, there):
        return f"{where} has type {there.stored.name}, this column {column.type.stored.name}; make both the same"
    return ""


def _index_names(table: str, document: Document, snapshot: Snapshot) -> Iterator[Problem]:
    owners = {i.name: (t.name, i) for t in snapshot.tables.values() for i in t.indexes}
    spec = document.tables[table]
    for name in spec.indexes:
        owner, index = owners.get(name, (table, None))
        path = f"tables.{table}.indexes.{name}"
        there = document.tables.get(owner)
        goes = owner in document.drop or (there is not None and name in there.drop_indexes)
        if owner != table and not goes:
            yield Problem(path, f"{owner} has an index of this name already; index names are per app")
        elif index is not None and index.constraint is not None and not goes:
            yield Problem(path, "this index belongs to a key or unique constraint; choose another name")
        elif name in snapshot.tables:
            yield Problem(path, "a table has this name already")
    for name in spec.drop_indexes:
        _, index = owners.get(name, (table, None))
        if index is not None and index.constraint is not None:
            path = f"tables.{table}._dropIndexes"
            yield Problem(path, f"{name} belongs to a constraint; change primaryKey or unique of the column instead")
