"""From a document and the tables as they are to a plan. Pure: what only Postgres knows comes in as ``texts``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brolly.pg.catalog import ForeignKey, Key, Snapshot, Table
from brolly.pg.identifiers import quote
from brolly.schema.document import Document, References
from brolly.schema.document import Table as TableSpec
from brolly.schema.outcome import outcomes
from brolly.schema.plan import Block, Loss, Phase, Plan, Step
from brolly.schema.probe import Place
from brolly.schema.routine_diff import RoutineDiff
from brolly.schema.statements import (
    add_constraint,
    column_clause,
    create_index,
    create_table,
    drop_constraint,
    fit,
    foreign_key_again,
    quote_all,
    references_clause,
    table_again,
)
from brolly.schema.table_diff import TableDiff


def make_plan(document: Document, snapshot: Snapshot, texts: Mapping[Place, str]) -> Plan:
    """The steps that turn the snapshot's tables into the document's.

    ``texts`` holds expressions of the document as Postgres prints them, where they could
    not be compared at sight (see ``questions``).
    """
    return _Diff(document, snapshot, texts).plan()


class _Diff:
    def __init__(self, document: Document, snapshot: Snapshot, texts: Mapping[Place, str]) -> None:
        self.document = document
        self.now = snapshot.tables
        self.snapshot = snapshot
        self.after = outcomes(document, snapshot)
        self.dropped = [self.now[name] for name in document.drop if name in self.now]
        self.steps: list[Step] = []
        names = {index.name for table in self.now.values() for index in table.indexes} | self.now.keys()
        names |= {index for spec in document.tables.values() for index in spec.indexes} | document.tables.keys()
        self.tables = {
            name: TableDiff(spec, self.now[name], texts, names)
            for name, spec in document.tables.items()
            if name in self.now
        }
        self.names = names
        self.foreign_keys_gone: set[tuple[str, str]] = set()
        self.routines = RoutineDiff(document, snapshot, texts)

    def plan(self) -> Plan:
        losses = [Loss(table.name) for table in self.dropped]
        for diff in self.tables.values():
            diff.run()
            losses += diff.losses
        self._change_foreign_keys()
        self._guard_keys()
        for diff in self.tables.values():
            self.steps += diff.steps
        self._drop_tables()
        self._create_tables()
        self.steps = [*map(self.routines.guarded, self.steps), *self.routines.steps()]
        # Sorting is stable: within a phase the document's order holds.
        return Plan(sorted(self.steps, key=lambda step: step.phase), self._kept(), losses)

    def _drop_tables(self) -> None:
        if not self.dropped:
            return
        undo = [statement for table in self.dropped for statement in table_again(table)]
        for table in self.dropped:
            gone = {key for owner, key in self.foreign_keys_gone if owner == table.name}
            undo += [_add(table.name, key) for key in table.foreign_keys if key.name not in gone]
        names = [table.name for table in self.dropped]
        what = "table" if len(names) == 1 else "tables"
        self.steps.append(
            Step(
                Phase.DROP_TABLES,
                # In one statement, since they may refer to each other. Without CASCADE: what else
                # depends on them, a policy of another table say, must not vanish unsaid.
                f"drop table {quote_all(names)}",
                f"Drop {what} {', '.join(names)} with all rows",
                ";\n".join(undo),
                destructive=True,
            )
        )

    # Foreign keys

    def _change_foreign_keys(self) -> None:
        for table in self.dropped:
            for key in table.foreign_keys:
                if self._key_goes(key):
                    where = f"{table.name} ({', '.join(key.columns)})"
                    self._remove(table, key, f"Drop the reference from {where}, since both its ends go away")
        for table in self.now.values():
            if table.name not in self.after:
                continue
            described = self.document.tables.get(table.name)
            for key in table.foreign_keys:
                self._review_foreign_key(table, key, described)
        for name, spec in self.document.tables.items():
            if name in self.now:
                self._add_foreign_keys(name, spec)

    def _review_foreign_key(self, table: Table, key: ForeignKey, described: TableSpec | None) -> None:
        """Keep, drop or rebuild one existing foreign key."""
        here, there = self.after[table.name], self.after.get(key.table)
        where = f"{table.name} ({', '.join(key.columns)})"
        to = f"{key.table} ({', '.join(key.target)})"
        if not set(key.columns) <= here.columns.keys():
            self._remove(table, key, f"Drop the reference from {where} to {to}, whose column goes away")
        elif there is None or not set(key.target) <= there.columns.keys():
            self._remove(table, key, f"Drop the reference from {where} to {to}, which goes away")
        elif described and len(key.columns) == 1 and key.columns[0] in described.columns:
            wanted = described.columns[key.columns[0]].references
            if wanted is None:
                self._remove(table, key, f"Drop the reference from {where} to {to}: references is left out")
            elif not _same(key, wanted) and not self._has(table, key.columns[0], wanted):
                self._remove(table, key, f"Drop the reference from {where} to {to}, which is replaced")
            elif _same(key, wanted) and self._rebuilt(table, key):
                self._rebuild(table, key, where, to)
        elif self._rebuilt(table, key):
            self._rebuild(table, key, where, to)

    def _has(self, table: Table, column: str, wanted: References) -> bool:
        return any(key.columns == (column,) and _same(key, wanted) for key in table.foreign_keys)

    def _rebuilt(self, table: Table, key: ForeignKey) -> bool:
        """Whether a key must go and come back because its ends change type or its target changes key."""
        here, there = self.tables.get(table.name), self.tables.get(key.table)
        converted = bool(here and here.converted & set(key.columns)) or bool(
            there and there.converted & set(key.target)
        )
        return converted or (self._key_goes(key) and key.target in self.after[key.table].unique)

    def _key_goes(self, key: ForeignKey) -> bool:
        """Whether the key that it refers to is taken away, if only to be replaced."""
        there = self.tables.get(key.table)
        return there is not None and any(set(gone.columns) == set(key.target) for gone in there.keys_gone)

    def _remove(self, table: Table, key: ForeignKey, description: str) -> None:
        self.foreign_keys_gone.add((table.name, key.name))
        sql, undo = drop_constraint(table.name, key.name), _add(table.name, key)
        self.steps.append(Step(Phase.DROP_FOREIGN_KEYS, sql, description, undo))

    def _rebuild(self, table: Table, key: ForeignKey, where: str, to: str) -> None:
        self._remove(table, key, f"Take the reference from {where} to {to} away for the change")
        self.steps.append(
            Step(
                Phase.ADD_FOREIGN_KEYS,
                _add(table.name, key),
                f"Put the reference from {where} to {to} back",
                drop_constraint(table.name, key.name),
                joins=(table.name, key.table),
            )
        )

    def _add_foreign_keys(self, name: str, spec: TableSpec) -> None:
        table = self.now[name]
        stays = {key.name for key in table.foreign_keys} - {key for t, key in self.foreign_keys_gone if t == name}
        for column, entry in spec.columns.items():
            if entry.references is None or self._has(table, column, entry.references):
                continue
            self._add_foreign_key(name, column, entry.references, fit(f"fk_{name}_{column}", stays))

    def _add_foreign_key(self, table: str, column: str, target: References, name: str) -> None:
        self.steps.append(
            Step(
                Phase.ADD_FOREIGN_KEYS,
                add_constraint(table, name, references_clause(column, target)),
                f"Let {table}.{column} refer to {target.table}.{target.column}",
                drop_constraint(table, name),
                joins=(table, target.table),
            )
        )

    def _guard_keys(self) -> None:
        """A key that others still refer to is not taken away behind their backs."""
        for diff in self.tables.values():
            for step, key in diff.key_drops:
                users = [
                    f"{table.name} ({', '.join(fk.columns)})"
                    for table, fk in self.snapshot.referencing(diff.name)
                    if set(fk.target) == set(key.columns)
                    and (table.name, fk.name) not in self.foreign_keys_gone
                    and table.name in self.after
                ]
                diff.steps.append(_guarded(step, diff.name, key, users))

    # New tables

    def _create_tables(self) -> None:
        made: set[str] = set()
        for name in self._order():
            self._create_table(name, made)
            made.add(name)

    def _order(self) -> list[str]:
        """New tables, those that others refer to first. In a cycle the first met goes first; the
        references that cannot be made yet are added when all tables are there."""
        new = [name for name in self.document.tables if name not in self.now]
        order: list[str] = []
        met: set[str] = set()

        def visit(name: str) -> None:
            if name in met or name not in new:
                return
            met.add(name)
            for column in self.document.tables[name].columns.values():
                if column.references is not None:
                    visit(column.references.table)
            order.append(name)

        for name in new:
            visit(name)
        return order

    def _create_table(self, name: str, made: set[str]) -> None:
        spec = self.document.tables[name]
        clauses = [column_clause(column, entry) for column, entry in spec.columns.items()]
        if spec.key:
            clauses.append(f"primary key ({quote_all(spec.key)})")
        for column, entry in spec.columns.items():
            if entry.unique and spec.key != (column,):
                clauses.append(f"constraint {quote(self._unique_name(name, column))} unique ({quote(column)})")
        clauses += [f"constraint {quote(c)} check ({sql})" for c, sql in spec.checks.items() if sql is not None]
        for column, entry in spec.columns.items():
            if entry.references is None:
                continue
            key = fit(f"fk_{name}_{column}")
            if self._there(name, entry.references, made):
                clauses.append(f"constraint {quote(key)} {references_clause(column, entry.references)}")
            else:
                self._add_foreign_key(name, column, entry.references, key)
        sql, undo = create_table(name, clauses), f"drop table {quote(name)}"
        self.steps.append(Step(Phase.CREATE_TABLES, sql, f"Create table {name}", undo))
        for index, entry in spec.indexes.items():
            sql, undo = create_index(name, index, entry), f"drop index {quote(index)}"
            self.steps.append(Step(Phase.ADD_INDEXES, sql, f"Create index {index} on {name}", undo))

    def _unique_name(self, table: str, column: str) -> str:
        name = fit(f"{table}_{column}_key", self.names)
        self.names.add(name)
        return name

    def _there(self, table: str, target: References, made: set[str]) -> bool:
        """Whether the target is a key already when the table is created."""
        column = (target.column,)
        if target.table == table or target.table in made:
            spec = self.document.tables[target.table]
            return spec.key == column or spec.columns[target.column].unique
        now, diff = self.now.get(target.table), self.tables.get(target.table)
        if now is None or target.column not in now.columns:
            return False
        keys = {key.columns for key in (now.primary, *now.uniques) if key}
        gone = {key.columns for key in diff.keys_gone} if diff else set[tuple[str, ...]]()
        return column in keys - gone and not (diff and diff.converted)

    # What stays

    def _kept(self) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        if tables := sorted(self.now.keys() - self.document.tables.keys() - set(self.document.drop)):
            kept["tables"] = tables
        groups: dict[str, dict[str, list[str]]] = {"columns": {}, "indexes": {}, "checks": {}, "primaryKey": {}}
        for name, diff in self.tables.items():
            table, spec, after = self.now[name], diff.spec, self.after[name]
            groups["columns"][name] = [c for c in after.columns if c not in spec.columns]
            gone = {*spec.indexes, *spec.drop_indexes}
            groups["indexes"][name] = [
                i.name
                for i in table.indexes
                if i.name not in gone and not i.constraint and not set(diff.dropped) & set(i.columns)
            ]
            groups["checks"][name] = [
                c.name for c in table.checks if c.name not in spec.checks and not set(diff.dropped) & set(c.columns)
            ]
            groups["primaryKey"][name] = list(after.key) if spec.key is None else []
        for what, group in groups.items():
            if filled := {name: names for name, names in group.items() if names}:
                kept[what] = filled
        return kept | self.routines.kept()


def _guarded(step: Step, table: str, key: Key, users: list[str]) -> Step:
    if not users:
        return step
    columns = ", ".join(key.columns)
    block = Block(
        f"{' and '.join(users)} refer to {table} ({columns})",
        f"Keep {table} ({columns}) unique, or leave out references of {' and '.join(users)} in the same document.",
    )
    return Step(step.phase, step.sql, step.description, step.undo, step.destructive, block)


def _same(key: ForeignKey, wanted: References) -> bool:
    return (key.table, key.target, key.on_delete, key.on_update) == (
        wanted.table,
        (wanted.column,),
        wanted.on_delete,
        wanted.on_update,
    )


def _add(table: str, key: ForeignKey) -> str:
    return add_constraint(table, key.name, foreign_key_again(key))
